//! The average of a parameter's weights.

use crate::Result;
use fallline_core::backend::View;
use fallline_core::{Backend, Storage, fallible};

/// The average of one parameter's weights.
#[derive(Debug)]
pub(crate) struct AveragedParam {
    pub(crate) storage: Storage,
    /// Whether there is anything in it yet.
    pub(crate) begun: bool,
    /// Whether the pass that wrote the parameter in this step has updated it.
    pub(crate) taken: bool,
    /// A copy of the parameter on a device that does not reach it.
    pub(crate) staging: Option<Storage>,
}

impl AveragedParam {
    /// Creates an average with nothing in it, or with what a checkpoint has.
    pub(crate) fn new(storage: Storage, begun: bool) -> AveragedParam {
        AveragedParam { storage, begun, taken: false, staging: None }
    }

    /// Returns the average, for a pass to update with what it writes to the parameter; none where there is nothing to
    /// add to yet.
    pub(crate) fn mark_fused(&mut self) -> Option<View<'_>> {
        self.taken = self.begun;
        self.begun.then(|| View::write(&mut self.storage))
    }

    /// Undoes what [`mark_fused`](AveragedParam::mark_fused) noted: the pass has written nothing.
    pub(crate) fn unmark(&mut self) {
        self.taken = false;
    }

    /// Returns the average, in row-major order; `None` where there is none yet.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub(crate) fn read(&self, backend: &dyn Backend) -> Result<Option<Vec<f64>>> {
        if !self.begun {
            return Ok(None);
        }
        let mut values = fallible::zeroed::<f64>(self.storage.len(), "a copy of an average")?;
        backend.read(&self.storage, values.as_mut_slice().into())?;
        Ok(Some(values))
    }
}
