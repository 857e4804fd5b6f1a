//! What the stages of a run need between their passes: scalars, and what is not element by element.

use super::Batch;
use super::part::parts_of;
use crate::driver::around::Around;
use crate::driver::together::first_of;
use crate::driver::{Group, mirror, rows};
use crate::slots::Slot;
use crate::stages::{Combining, Exchanged, Exchanging, Gathering, Groups, MatrixStep, Workspace};
use crate::{AnyAlgorithm, Binding, Error, Result};
use fallline_core::ranks::Communicator;
use fallline_core::{Backend, Compute, Kernel};

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

/// Buffers for [`Gathering`].
pub(super) struct Gather<'a> {
    pub(super) order: &'a [usize],
    /// For each slot the place of its parameter among the run's.
    pub(super) places: &'a mut Vec<usize>,
    pub(super) steps: &'a mut Vec<u64>,
    pub(super) group_of: &'a mut Vec<usize>,
    pub(super) by_row: &'a mut Vec<bool>,
    pub(super) buffer: &'a mut Vec<f64>,
    /// Whether the stage is the last.
    pub(super) last: bool,
}

impl Work<'_, '_, '_> {
    /// The algorithm of the family.
    pub(super) fn first(&self) -> &dyn AnyAlgorithm {
        first_of(self.groups, self.family)
    }

    /// Counts the step of a batch's parameters, where the stage that would is passed over.
    pub(super) fn count(&mut self, batch: &Batch) {
        let mine = self.slots[batch.places.clone()].iter_mut().filter(|slot| slot.run == Some(self.index));
        mine.for_each(|slot| slot.steps += 1);
    }

    /// The own scalars of each parameter of a batch from its sums of the stage before.
    pub(super) fn combine(
        &mut self,
        stage: usize,
        (kernel, compute): (&Kernel, Compute),
        sums: &[f64],
        own: &mut Vec<f64>,
        batch: &Batch,
    ) {
        let width = kernel.tensor_scalars.len();
        own.resize(self.tensors * width, 0.0);
        if width == 0 {
            return;
        }
        let found = sums.len().checked_div(self.tensors).unwrap_or(0);
        let slots = self.slots[batch.places.clone()].iter_mut();
        let mine = slots.filter(|slot| slot.run == Some(self.index));
        for (place, slot) in batch.tensors.clone().zip(mine) {
            self.groups[slot.group].algorithm.combine(
                stage,
                &mut Combining {
                    t: slot.steps + 1,
                    compute,
                    shape: &slot.shape,
                    sums: &sums[place * found..][..found],
                    memory: &mut slot.memory,
                    shared: self.shared,
                    scalars: &mut own[place * width..][..width],
                },
            );
        }
    }

    /// All parameters' scalars of a stage at once, from the sums of the one before.
    pub(super) fn gather(
        &mut self,
        stage: usize,
        kernel: &Kernel,
        sums: &[f64],
        own: &mut Vec<f64>,
        with: Gather<'_>,
    ) -> Result<()> {
        let Gather { order, places, steps, group_of, by_row, buffer, last } = with;
        let (width, found) = (kernel.tensor_scalars.len(), sums.len().checked_div(self.tensors).unwrap_or(0));
        // From the order of the bindings to that of the names, and back.
        places.clear();
        places.resize(self.slots.len(), 0);
        let bound = (0..self.slots.len()).filter(|&i| self.slots[i].run == Some(self.index));
        bound.enumerate().for_each(|(place, i)| places[i] = place);
        steps.clear();
        steps.extend(order.iter().map(|&i| self.slots[i].steps + 1));
        group_of.clear();
        // Groups are counted within the optimizer that they are parts of.
        let (groups, family) = (self.groups, self.family);
        let mine = || groups.iter().filter(|group| group.family == family);
        let number = |group: usize| groups[..group].iter().filter(|group| group.family == family).count();
        group_of.extend(order.iter().map(|&i| number(self.slots[i].group)));
        by_row.clear();
        by_row.extend(order.iter().map(|&i| parts_of(&self.slots[i]).is_some()));
        buffer.clear();
        order.iter().for_each(|&i| buffer.extend_from_slice(&sums[places[i] * found..][..found]));
        let at = buffer.len();
        order.iter().for_each(|&i| buffer.extend_from_slice(&self.slots[i].memory));
        let end = buffer.len();
        buffer.resize(end + order.len() * width, 0.0);
        let (sums, rest) = buffer.split_at_mut(at);
        let (memory, scalars) = rest.split_at_mut(end - at);
        let first = first_of(groups, family);
        let algorithm_of = |group: usize| -> &dyn AnyAlgorithm {
            mine().nth(group).map_or(first, |group| &*group.algorithm)
        };
        let mut at = Gathering {
            tensors: order.len(),
            steps,
            groups: group_of,
            by_row,
            sums,
            memory,
            shared: self.shared,
            world: self.ranks.map_or(1, |ranks| ranks.world()),
            last,
            scalars,
        };
        first
            .gather(&Groups::new(mine().count(), &algorithm_of), stage, &mut at)
            .map_err(|problem| Error::Groups { algorithm: first.name(), problem })?;
        let mut rest = &*memory;
        for &i in order {
            let own;
            (own, rest) = rest.split_at(self.slots[i].memory.len());
            self.slots[i].memory.copy_from_slice(own);
        }
        own.clear();
        own.resize(order.len() * width, 0.0);
        if width > 0 {
            for (&i, row) in order.iter().zip(scalars.chunks_exact(width)) {
                own[places[i] * width..][..width].copy_from_slice(row);
            }
        }
        Ok(())
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
