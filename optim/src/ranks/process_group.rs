//! Ranks that step together: what they must agree upon, and which of them has what.

use super::{Driver, Group};
use crate::program::Variant;
use crate::ranks::world::World;
use crate::slots::Slot;
use crate::{AnyAlgorithm, Binding, Checkpoint, Error, Result};
use fallline_core::ranks::Communicator;
use std::fmt::{self, Write};
use std::sync::Arc;

impl Driver {
    /// Steps together with other ranks, each of which binds the same parameters and the same gradients, averaged
    /// ([`Averager`](crate::ranks::Averager)). From then on [`step`](crate::Optimizer::step) is collective: all ranks call it,
    /// and it fails on all before anything is written when they are about to take different steps.
    ///
    /// With an algorithm that is [sharded](crate::Modifiers::sharded) each parameter is updated by the rank that
    /// [`partition`](crate::ranks::partition) gives it to, which alone has its states, and then brought to the others;
    /// [`save`](crate::Optimizer::save) is collective too, and gives the whole to every rank.
    ///
    /// Everything around the step is collective with it: of a window of accumulation every iteration, and what is found
    /// in gradients that are not averaged skips the step on all ranks (clipping by norm takes each rank's own norm
    /// then, as in DeepSpeed).
    pub fn with_ranks(mut self, ranks: Arc<dyn Communicator>) -> Driver {
        let sharded = self.groups[0].algorithm.sharded();
        self.world = (ranks.world() > 1).then(|| World::new(ranks, sharded));
        self
    }

    /// What [`save`](crate::Optimizer::save) gives, but of a sharded optimizer only the part that this rank has: for
    /// checkpoints of a file a rank, which [`Checkpoint::join`] makes one of. Nothing is exchanged.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn save_own(&self) -> Result<Checkpoint> {
        self.to_checkpoint()
    }

    /// Whether the next step takes gradients that are averaged over the ranks. Where not, each rank binds its own, and
    /// the algorithm exchanges what it needs.
    pub fn averages(&self) -> bool {
        self.world.is_none() || (0..self.shared.len()).all(|family| self.family_averages(family))
    }

    pub(super) fn family_averages(&self, family: usize) -> bool {
        let replicas = &first_of(&self.groups, family).spec().replicas;
        (replicas.gradients_averaged)(self.shared[family].on_host())
    }

    /// Sees to it that all ranks take the same step, in which all optimizers exchange the same.
    pub(super) fn agree(&mut self, bindings: &[Binding<'_>]) -> Result<()> {
        let Some(world) = &self.world else { return self.refuse_evaluation() };
        let refused = |family, problem: &str| {
            let algorithm = first_of(&self.groups, family).name();
            Err(Error::Groups { algorithm, problem: problem.into() })
        };
        if self.unrestored {
            return refused(
                0,
                "the checkpoint was saved between two exchanges, when ranks had parameters of their own: \
                 restore_params gives them back",
            );
        }
        for family in 0..self.shared.len() {
            let algorithm = first_of(&self.groups, family);
            if let Err(reason) = algorithm.program_on(Variant::ONLY, true) {
                return refused(family, &reason);
            }
            if algorithm.sharded() != world.sharded() {
                return refused(
                    family,
                    "either all optimizers of a configuration share out their states, or none",
                );
            }
            if self.family_averages(family) != self.family_averages(0) {
                return refused(family, "it and the others do not take averaged gradients in the same steps");
            }
        }
        for group in &self.groups {
            if let Err(reason) = self.refuse_parted(group) {
                return refused(group.family, reason);
            }
        }
        for shared in &mut self.shared {
            shared.fetch(&*self.backend)?;
        }
        let Some(mut world) = self.world.take() else { return Ok(()) };
        let agreed = world.agree(bindings, &self.slots, |text| self.write_settings(text));
        self.world = Some(world);
        agreed.and_then(|()| self.refuse_evaluation())
    }

    /// Everything that a step depends on beside its tensors, one setting a line.
    fn write_settings(&self, text: &mut String) -> fmt::Result {
        let Driver { compute, non_finite, .. } = self;
        writeln!(text, "compute={compute:?}, non_finite={non_finite:?}")?;
        writeln!(text, "{} mode", self.mode)?;
        self.wrapped.write_settings(text)?;
        if let Some(averages) = &self.averages {
            averages.write_settings(text)?;
        }
        writeln!(text, "{} groups", self.groups.len())?;
        for (number, Group { algorithm, formats, params, mask, family, .. }) in self.groups.iter().enumerate()
        {
            let name = algorithm.name();
            writeln!(text, "group {number}: {name} of optimizer {family} with {formats:?}, {params:?}")?;
            if let Some(mask) = mask {
                writeln!(text, "group {number}: {name} with exp_avg_mask of {}", mask.text)?;
            }
            for hyper in algorithm.table() {
                if let Some(value) = algorithm.get(hyper.name) {
                    writeln!(text, "group {number}: {name} with {}={value}", hyper.name)?;
                }
            }
        }
        for (family, shared) in self.shared.iter().enumerate() {
            for ((name, _), value) in
                first_of(&self.groups, family).spec().shared.iter().zip(shared.on_host())
            {
                writeln!(text, "optimizer {family} remembers {name}={value}")?;
            }
        }
        if self.lookahead().is_some() {
            writeln!(text, "{} steps since a sync of Lookahead", self.lookahead_steps)?;
        }
        Ok(())
    }

    pub(super) fn is_elsewhere(&self, slot: &Slot) -> bool {
        self.world.as_ref().is_some_and(|world| world.is_elsewhere(slot))
    }

    /// Whether a checkpoint of this rank has what belongs to a parameter.
    pub(super) fn keeps(&self, slot: &Slot) -> bool {
        self.world.as_ref().is_none_or(|world| world.keeps(slot))
    }

    /// Whether ranks may find different things in the gradients that they are given.
    pub(super) fn finds_alone(&self) -> bool {
        self.world.is_some() && !self.averages()
    }
}

/// The algorithm of a family's first group.
pub(super) fn first_of(groups: &[Group], family: usize) -> &(dyn AnyAlgorithm + 'static) {
    let first = groups.iter().find(|group| group.family == family);
    &*first.unwrap_or(&groups[0]).algorithm
}
