//! What the CPU keeps between passes, and the constants of one.

use super::operands::OperandPtr;
use super::tiling::Tiling;
use crate::kernels::ComputeType;
use fallline_core::backend::{TensorPass, View};
use fallline_core::{Error, Kernel, Result};

/// What the CPU keeps between passes.
#[derive(Debug, Default)]
pub(crate) struct CpuPlan {
    pub(super) tiling: Tiling,
    /// For each tensor, or run of tensors that lie end to end, its length and row; its operands in `stored`.
    pub(super) tensors: Vec<(usize, usize)>,
    pub(super) stored: Vec<OperandPtr>,
    /// For each tensor the operands that only fused rules have; `fused_count` of them.
    pub(super) fused_operands: Vec<Option<OperandPtr>>,
    pub(super) fused_count: usize,
    pub(super) constants_f32: Vec<f32>,
    pub(super) constants_f64: Vec<f64>,
    pub(super) partials: Vec<f64>,
}

impl CpuPlan {
    /// Adds a tensor with the views of its operands, which are all there, and of what only fused rules have. Where each of
    /// them begins at the address at which the tensor before has ended, and the scalars are the same, the two become one:
    /// of a thousand small tensors in flat buffers remains one large one.
    #[inline]
    pub(super) fn add(
        &mut self,
        own: &[Option<View<'_>>],
        others: &[Option<View<'_>>],
        tensor: TensorPass,
        merges: bool,
    ) {
        if merges
            && let Some((elements, row)) = self.tensors.last_mut()
            && *row == tensor.row
            && self.stored[self.stored.len() - own.len()..]
                .iter()
                .zip(own)
                .all(|(last, next)| next.as_ref().is_some_and(|next| last.goes_on(*elements, next)))
            && self.fused_operands[self.fused_operands.len() - others.len()..].iter().zip(others).all(
                |pair| match pair {
                    (Some(last), Some(next)) => last.goes_on(*elements, next),
                    (last, next) => last.is_none() && next.is_none(),
                },
            )
        {
            *elements += tensor.elements;
            return;
        }
        self.stored.extend(own.iter().flatten().map(OperandPtr::of));
        self.fused_operands.extend(others.iter().map(|view| view.as_ref().map(OperandPtr::of)));
        self.tensors.push((tensor.elements, tensor.row));
    }
}

// SAFETY: the addresses in `stored` are overwritten at the start of each pass and used only during it,
// while the pass holds the borrows that they come from.
unsafe impl Send for CpuPlan {}

/// The constants of a pass: sets that tensors share, and a set for each tensor of its own.
pub(super) struct Constants<'a> {
    pub(super) shared: &'a [f64],
    pub(super) own: &'a [f64],
}

/// Packs the constants in the compute type: the pass's own sets, or, where tensors have constants of
/// their own, one set for each tensor.
pub(super) fn pack_constants<T: ComputeType>(
    kernel: &Kernel,
    scalars: &Constants<'_>,
    plan: &mut CpuPlan,
    rows: &mut Vec<T>,
) -> Result<()> {
    let shared = 1 + kernel.scalars.len();
    let own = kernel.tensor_scalars.len();
    let wrong = |what: &str, expected, got| Error::Length {
        operation: kernel.name,
        what: what.into(),
        expected,
        got,
    };
    let count = scalars.shared.len() / shared;
    if count * shared != scalars.shared.len() {
        return Err(wrong("the table of scalars", (count + 1) * shared, scalars.shared.len()));
    }
    if let Some(&(_, row)) = plan.tensors.iter().find(|(_, row)| *row >= count) {
        return Err(wrong("the table of scalars", (row + 1) * shared, scalars.shared.len()));
    }
    if scalars.own.len() != plan.tensors.len() * own {
        return Err(wrong("the tensors' own scalars", plan.tensors.len() * own, scalars.own.len()));
    }
    rows.clear();
    if own == 0 {
        rows.extend(scalars.shared.iter().map(|&x| T::from_f64(x)));
        return Ok(());
    }
    for (index, tensor) in plan.tensors.iter_mut().enumerate() {
        rows.extend(scalars.shared[tensor.1 * shared..][..shared].iter().map(|&x| T::from_f64(x)));
        rows.extend(scalars.own[index * own..][..own].iter().map(|&x| T::from_f64(x)));
        tensor.1 = index;
    }
    Ok(())
}
