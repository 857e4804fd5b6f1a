//! What a shared backend is made of.

use super::Backend;
use std::sync::Arc;

/// A backend, or one that is shared already.
///
/// ```
/// use fallline_core::{Backend, IntoBackend};
/// use std::sync::Arc;
/// fn of_a_device(device: &Arc<dyn Backend>) -> Arc<dyn Backend> {
///     device.into_backend()
/// }
/// ```
pub trait IntoBackend {
    /// Returns the backend as optimizers and tensors share it.
    fn into_backend(self) -> Arc<dyn Backend>;
}

impl<B: Backend + 'static> IntoBackend for B {
    fn into_backend(self) -> Arc<dyn Backend> {
        Arc::new(self)
    }
}

impl<B: Backend + 'static> IntoBackend for Arc<B> {
    fn into_backend(self) -> Arc<dyn Backend> {
        self
    }
}

impl<B: Backend + 'static> IntoBackend for &Arc<B> {
    fn into_backend(self) -> Arc<dyn Backend> {
        Arc::clone(self) as Arc<dyn Backend>
    }
}

impl IntoBackend for Arc<dyn Backend> {
    fn into_backend(self) -> Arc<dyn Backend> {
        self
    }
}

impl IntoBackend for &Arc<dyn Backend> {
    fn into_backend(self) -> Arc<dyn Backend> {
        Arc::clone(self)
    }
}
