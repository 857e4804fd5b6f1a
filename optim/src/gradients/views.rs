//! The gradients of a step as they are given.

use crate::Binding;
use crate::order::sort_places;
use crate::params::slots::Slot;
use crate::params::{row_sparse, staging};
use fallline_core::Compute;
use fallline_core::backend::View;

/// The bindings of a step with their slots, which are in the same order.
#[derive(Clone, Copy)]
pub(super) struct Grads<'g, 'd> {
    pub(super) slots: &'g [Slot],
    pub(super) bindings: &'g [Binding<'d>],
}

impl<'g> Grads<'g, '_> {
    /// Returns a gradient as it is given; rows that are not given are zero.
    pub(super) fn view(&self, i: usize) -> Option<View<'g>> {
        let (slot, binding) = (&self.slots[i], &self.bindings[i]);
        let given = staging::given(binding, &slot.staging);
        match row_sparse::of(&slot.rows, slot.sparse) {
            Some(rows) => rows.coalesced(given),
            None => given,
        }
    }

    /// Returns the type that it is computed in.
    pub(super) fn compute(&self, i: usize) -> Compute {
        self.slots[i].compute
    }

    /// Collects the places of those that are there, in the order of their names.
    pub(super) fn in_order(&self, order: &mut Vec<usize>) {
        order.clear();
        order.extend((0..self.bindings.len()).filter(|&i| !self.bindings[i].grad.is_none()));
        sort_places(order, &mut |one, other| self.bindings[one].name.cmp(self.bindings[other].name));
    }
}
