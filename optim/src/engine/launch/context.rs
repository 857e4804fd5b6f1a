//! What a step over a launch group works on, and operations between its passes.

use super::CacheBatch;
use crate::engine::fusion::Fusion;
use crate::engine::group::{Group, first_group_of};
use crate::engine::scalar_state::ScalarState;
use crate::op::{
    CollectiveAt, Found, GradScale, Member, Memory, Named, Op, OpAt, Peers, Plans, Runner, Sums, Workspace,
};
use crate::params::slots::Slot;
use crate::params::{row_sparse, staging};
use crate::{AnyAlgorithm, Binding, Result};
use core::cell::OnceCell;
use fallline_core::backend::View;
use fallline_core::ranks::Communicator;
use fallline_core::{Backend, Compute, Format};

/// What a step over a launch group works on.
pub(crate) struct StepContext<'s, 'b, 'd> {
    /// The launch group's place.
    pub(crate) index: u32,
    pub(crate) optimizer: usize,
    /// How many parameters take part.
    pub(crate) tensors: usize,
    pub(crate) backend: &'s dyn Backend,
    pub(crate) groups: &'s [Group],
    pub(crate) shared: &'s mut ScalarState,
    pub(crate) ranks: Option<&'s dyn Communicator>,
    pub(crate) bindings: &'s mut [Binding<'d>],
    pub(crate) slots: &'b mut [Slot],
    pub(crate) fusion: Fusion<'s>,
    /// Whether parameters and slow weights are synchronised ([`Lookahead`](crate::Lookahead)).
    pub(crate) syncs: bool,
}

impl StepContext<'_, '_, '_> {
    /// Returns the algorithm of the optimizer instance.
    pub(crate) fn first(&self) -> &dyn AnyAlgorithm {
        first_group_of(self.groups, self.optimizer)
    }

    /// Returns how many ranks step together.
    pub(crate) fn world_size(&self) -> usize {
        self.ranks.map_or(1, |ranks| ranks.world_size())
    }

    /// Returns what is remembered for each parameter.
    pub(crate) fn memories(&mut self) -> impl Iterator<Item = &mut ScalarState> {
        let mine = self.slots.iter_mut().filter(|slot| slot.launch == Some(self.index));
        mine.filter_map(|slot| slot.memory.as_deref_mut())
    }

    /// Has the device know what is remembered for each parameter, and change what is at some places, or the host.
    pub(crate) fn bring_memory(&mut self, changes: Option<&[usize]>) -> fallline_core::Result<()> {
        let backend = self.backend;
        let Some(changes) = changes else {
            return self.memories().try_for_each(|memory| memory.move_to_host(backend));
        };
        let missing = |memory: &ScalarState| memory.lacks().map(|numbers| (Format::F64, numbers));
        let requests: Vec<_> = self.memories().filter_map(|memory| missing(memory)).collect();
        if !requests.is_empty() {
            let lacking = self.memories().filter(|memory| memory.lacks().is_some());
            lacking.zip(backend.allocate(&requests)?).for_each(|(memory, room)| memory.give(room));
        }
        self.memories().try_for_each(|memory| memory.send(backend, changes))
    }

    /// Counts the step of a batch's parameters, where the stage that would is skipped.
    pub(crate) fn count(&mut self, batch: &CacheBatch) {
        let mine = self.slots[batch.places.clone()].iter_mut().filter(|slot| slot.launch == Some(self.index));
        mine.for_each(|slot| slot.steps += 1);
    }

    /// Runs an operation on all tensors together. What it leaves out is kept with the first by name.
    pub(crate) fn run_on_all(&mut self, op: &Op, compute: Compute, workspace: &mut Workspace) -> Result<()> {
        let first = first_group_of(self.groups, self.optimizer);
        let mut mine: Vec<&mut Slot> =
            self.slots.iter_mut().filter(|slot| slot.launch == Some(self.index)).collect();
        mine.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let mut errors = mine.first_mut().and_then(|slot| slot.residuals.take());
        let tensors = mine.iter_mut().map(|slot| {
            let Slot { shape, memory, states, mask, .. } = &mut **slot;
            let memory = Memory { numbers: memory.as_deref_mut(), backend: self.backend };
            Member { shape, memory, states: Named(states), mask: mask.as_ref().map(|mask| &mask.storage) }
        });
        let (backend, shared, ranks) = (self.backend, self.shared.on_host(), self.ranks);
        let tensors = tensors.collect();
        let mut at =
            CollectiveAt { backend, compute, shared, ranks, residuals: &mut errors, tensors, workspace };
        let done = op.run_on_all(first.hyper(), &mut at);
        drop(at);
        if let Some(slot) = mine.first_mut() {
            slot.residuals = errors;
        }
        Ok(done?)
    }

    /// Runs an operation on each tensor, one after another.
    pub(crate) fn run_op(
        &mut self,
        op: &Op,
        compute: Compute,
        (names, found, factor): (&'static [&'static str], Found<'_>, f64),
        (workspace, plans): (&mut Workspace, &Plans),
    ) -> Result<()> {
        let fetched = OnceCell::new();
        let pairs = self.bindings.iter_mut().zip(&mut *self.slots);
        let mine = pairs.filter(|(_, slot)| slot.launch == Some(self.index));
        for (place, (binding, slot)) in mine.enumerate() {
            let algorithm = &self.groups[slot.group].algorithm;
            let rows = row_sparse::of(&slot.rows, slot.sparse);
            let (param, grad) = staging::views(binding, &mut slot.staging, rows);
            let mut at = OpAt {
                on: Runner { backend: self.backend, compute, t: slot.steps + 1, plans },
                shape: &slot.shape,
                param: slot.master.as_deref().map(View::read).or(param),
                grad,
                grad_scale: GradScale {
                    known: if algorithm.maximize() { -factor } else { factor },
                    factor: self.fusion.factor,
                    backend: self.backend,
                },
                sums: Sums {
                    names,
                    tensor: place,
                    of: self.tensors,
                    found,
                    backend: self.backend,
                    fetched: &fetched,
                },
                memory: Memory { numbers: slot.memory.as_deref_mut(), backend: self.backend },
                shared: self.shared.on_host(),
                peers: Peers {
                    ranks: self.ranks,
                    residuals: &mut slot.residuals,
                    mask: slot.mask.as_ref().map(|mask| &mask.storage),
                },
                workspace,
                states: Named(&mut slot.states),
                scratch: Named(&mut slot.scratch),
            };
            op.run(algorithm.hyper(), &mut at)?;
        }
        Ok(())
    }
}
