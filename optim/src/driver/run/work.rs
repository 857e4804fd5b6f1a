//! What the stages of a run need between their passes: scalars, and what is not element by element.

use super::Batch;
use crate::driver::around::Around;
use crate::driver::together::first_of;
use crate::driver::{Group, mirror, rows};
use crate::slots::Slot;
use crate::stages::{Exchanged, Exchanging, MatrixStep, Workspace};
use crate::{AnyAlgorithm, Binding, Error, Result};
use fallline_core::ranks::Communicator;
use fallline_core::{Backend, Compute, Groups};

/// What a step over a run works on.
pub(crate) struct Work<'s, 'b, 'd> {
    /// The run's place.
    pub(crate) index: usize,
    pub(crate) family: usize,
    /// How many parameters take part.
    pub(crate) tensors: usize,
    pub(crate) backend: &'s dyn Backend,
    pub(crate) groups: &'s [Group],
    pub(crate) shared: &'s mut [f64],
    pub(crate) ranks: Option<&'s dyn Communicator>,
    pub(crate) bindings: &'s mut [Binding<'d>],
    pub(crate) slots: &'b mut [Slot],
    pub(crate) around: Around<'s>,
}

impl Work<'_, '_, '_> {
    /// The algorithm of the family.
    pub(super) fn first(&self) -> &dyn AnyAlgorithm {
        first_of(self.groups, self.family)
    }

    /// Checks the groups of the family together.
    pub(super) fn check_groups(&self) -> Result<()> {
        let (groups, family) = (self.groups, self.family);
        let first = first_of(groups, family);
        let mine = || groups.iter().filter(|group| group.family == family);
        let get = |group: usize| -> &dyn AnyAlgorithm {
            mine().nth(group).map_or(first, |group| &*group.algorithm)
        };
        let groups = Groups::new(mine().count(), &get);
        let checked = first.check_groups(&groups);
        checked.map_err(|problem| Error::Groups { algorithm: first.name(), problem })
    }

    /// How many ranks step together.
    pub(super) fn world(&self) -> usize {
        self.ranks.map_or(1, |ranks| ranks.world())
    }

    /// Counts the step of a batch's parameters, where the stage that would is passed over.
    pub(super) fn count(&mut self, batch: &Batch) {
        let mine = self.slots[batch.places.clone()].iter_mut().filter(|slot| slot.run == Some(self.index));
        mine.for_each(|slot| slot.steps += 1);
    }

    /// A stage that all tensors take part in together. What it leaves out is kept with the first by name.
    pub(super) fn exchange(
        &mut self,
        stage: usize,
        compute: Compute,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let first = first_of(self.groups, self.family);
        let mut mine: Vec<&mut Slot> =
            self.slots.iter_mut().filter(|slot| slot.run == Some(self.index)).collect();
        mine.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let mut errors = mine.first_mut().and_then(|slot| slot.errors.take());
        let tensors = mine.iter_mut().map(|slot| {
            let Slot { shape, memory, states, mask, .. } = &mut **slot;
            Exchanged { shape, memory, states, mask: mask.as_ref().map(|mask| &mask.storage) }
        });
        let (backend, shared, ranks) = (self.backend, &*self.shared, self.ranks);
        let tensors = tensors.collect();
        let mut step =
            Exchanging { backend, compute, shared, ranks, errors: &mut errors, tensors, workspace };
        let exchanged = first.exchange(stage, &mut step);
        drop(step);
        if let Some(slot) = mine.first_mut() {
            slot.errors = errors;
        }
        Ok(exchanged?)
    }

    /// A stage that is not element by element, tensor after tensor.
    pub(super) fn matrix(
        &mut self,
        stage: usize,
        compute: Compute,
        (sums, factor): (&[f64], f64),
        workspace: &mut Workspace,
    ) -> Result<()> {
        let found = sums.len().checked_div(self.tensors).unwrap_or(0);
        let pairs = self.bindings.iter_mut().zip(&mut *self.slots);
        let mine = pairs.filter(|(_, slot)| slot.run == Some(self.index));
        for (place, (binding, slot)) in mine.enumerate() {
            let algorithm = &self.groups[slot.group].algorithm;
            let rows = rows::of(&slot.rows, slot.sparse);
            let (_, grad) = mirror::views(binding, &mut slot.mirror, rows);
            algorithm.matrix(
                stage,
                &mut MatrixStep {
                    backend: self.backend,
                    compute,
                    t: slot.steps + 1,
                    shape: &slot.shape,
                    grad,
                    grad_scale: if algorithm.maximize() { -factor } else { factor },
                    sums: &sums[place * found..][..found],
                    memory: &mut slot.memory,
                    shared: self.shared,
                    ranks: self.ranks,
                    errors: &mut slot.errors,
                    mask: slot.mask.as_ref().map(|mask| &mask.storage),
                    workspace,
                    states: &mut slot.states,
                    scratch: &mut slot.scratch,
                },
            )?;
        }
        Ok(())
    }
}
