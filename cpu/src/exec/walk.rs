//! The tensors of a pass, one after another, each checked.

use super::operands::check;
use super::table::Table;
use fallline_core::backend::{FusedRule, MAX_VIEWS, TensorPass, Views};
use fallline_core::{Device, Kernel, Result};

/// Elements below which a tensor is small. From this many on, small tensors are published together: some 30 µs of
/// work, in which the caller walks over several times as many.
pub(super) const SMALL: usize = 32 * 1024;

/// The tensors of a pass that are still to come.
pub(super) struct Walk<'w, 'a> {
    pub(super) device: Device,
    kernel: &'static Kernel,
    fused: &'w [FusedRule<'w>],
    tensors: &'w mut dyn FnMut(&mut Views<'a>) -> Option<TensorPass>,
    /// The operands of the last tensor.
    views: Views<'a>,
    /// How many operands only fused rules have.
    pub(super) fused_count: usize,
    /// Whether tensors that lie end to end become one.
    pub(super) merges: bool,
    /// Tensors so far, and elements of small ones.
    pub(super) count: usize,
    pub(super) small: usize,
}

impl<'w, 'a> Walk<'w, 'a> {
    pub(super) fn new(
        device: Device,
        kernel: &'static Kernel,
        fused: &'w [FusedRule<'w>],
        tensors: &'w mut dyn FnMut(&mut Views<'a>) -> Option<TensorPass>,
    ) -> Walk<'w, 'a> {
        let last = fused.iter().flat_map(|fused| fused.operands).max();
        let fused_count = last.map_or(0, |&last| (last + 1).saturating_sub(kernel.operands.len()));
        let merges = kernel.sums.is_empty() && kernel.tensor_scalars.is_empty();
        let views = [const { None }; MAX_VIEWS];
        Walk { device, kernel, fused, tensors, views, fused_count, merges, count: 0, small: 0 }
    }

    /// Returns the next tensor, whose operands are to be added to a table.
    ///
    /// # Errors
    /// What does not fit of its operands.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<TensorPass>> {
        let Walk { device, kernel, fused, tensors, views, .. } = self;
        let Some(tensor) = tensors(views) else { return Ok(None) };
        for FusedRule { kernel, operands, .. } in fused.iter().filter(|fused| fused.has(views)) {
            for (operand, &place) in kernel.operands.iter().zip(*operands) {
                check(*device, kernel, self.count, operand, views[place].as_ref(), tensor.elements)?;
            }
        }
        for (operand, view) in kernel.operands.iter().zip(&*views) {
            check(*device, kernel, self.count, operand, view.as_ref(), tensor.elements)?;
        }
        self.count += 1;
        if tensor.elements < SMALL {
            self.small += tensor.elements;
        }
        Ok(Some(tensor))
    }

    /// Adds the tensor last returned to a table.
    #[inline]
    pub(super) fn add(&mut self, table: &mut Table, tensor: TensorPass) {
        let (own, others) = self.views.split_at_mut(self.kernel.operands.len());
        let others = &mut others[..self.fused_count];
        table.add(own, others, tensor, self.merges);
        own.iter_mut().chain(others).for_each(|view| *view = None);
    }
}
