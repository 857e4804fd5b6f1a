//! Tensors of a pass, with the addresses of their operands.

use super::operands::OperandPtr;
use fallline_core::backend::{TensorPass, View};

/// Tensors of a pass, with their operands.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// For each tensor, or run of tensors that lie end to end, its length and row; its operands in `stored`.
    pub(super) tensors: Vec<(usize, usize)>,
    pub(super) stored: Vec<OperandPtr>,
    /// For each tensor the operands that only fused rules have.
    pub(super) fused_operands: Vec<Option<OperandPtr>>,
}

impl Table {
    /// Forgets the tensors of the last pass.
    pub(super) fn clear(&mut self) {
        self.tensors.clear();
        self.stored.clear();
        self.fused_operands.clear();
    }

    /// Adds a tensor with the views of its operands, which are all given, and of what only fused rules have. It is
    /// merged with the tensor before if each of its views begins where that one's ended, and the scalars are the
    /// same. So a thousand small tensors in flat buffers become one large one.
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
            && *row == tensor.constant_set
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
        self.tensors.push((tensor.elements, tensor.constant_set));
    }
}

// SAFETY: the addresses in `stored` are overwritten at the start of each pass and used only during it,
// while the pass holds the borrows that they come from.
unsafe impl Send for Table {}

// SAFETY: through a shared table nothing but addresses can be read; who follows them has it alone.
unsafe impl Sync for Table {}
