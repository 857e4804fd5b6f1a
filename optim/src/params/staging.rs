//! Buffers of the host for a device that cannot reach them: copied there for the step, parameters back after it.

use super::row_sparse::RowSparseGrad;
use crate::Binding;
use fallline_core::Storage;
use fallline_core::backend::View;

/// A parameter's buffers on the device, kept between steps.
#[derive(Debug, Default)]
pub(crate) struct StagingBuffers {
    pub(crate) param: Option<Storage>,
    pub(crate) grad: Option<Storage>,
}

/// Returns the views of a parameter and its gradient where the device reaches them.
pub(crate) fn views<'v>(
    binding: &'v mut Binding<'_>,
    staging: &'v mut Option<Box<StagingBuffers>>,
    rows: Option<&'v RowSparseGrad>,
) -> (Option<View<'v>>, Option<View<'v>>) {
    let (param, grad) = binding.views();
    let (param, grad) = match staging {
        None => (param, grad),
        Some(staging) => {
            let StagingBuffers { param: own_param, grad: own_grad } = &mut **staging;
            (own_param.as_mut().map(View::write).or(param), own_grad.as_ref().map(View::read).or(grad))
        }
    };
    (
        param,
        match rows {
            Some(rows) => rows.grad(grad),
            None => grad,
        },
    )
}

/// Returns the view of a gradient as it was given, where the device reaches it.
pub(crate) fn given<'v>(
    binding: &'v Binding<'_>,
    staging: &'v Option<Box<StagingBuffers>>,
) -> Option<View<'v>> {
    let own = staging.as_ref().and_then(|staging| staging.grad.as_ref());
    own.map(View::read).or_else(|| binding.grad.view())
}
