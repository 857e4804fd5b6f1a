//! Checkpoints of several ranks: they are made whole, and replicas that had diverged get theirs back.

use super::exchange::{Exchange, core_error};
use super::process_group::ProcessGroup;
use crate::checkpoint::{Checkpoint, Entry};
use crate::engine::Engine;
use crate::engine::group::Group;
use crate::engine::setup::Setup;
use crate::params::slots::Slot;
use crate::{Binding, Error, Result};
use fallline_core::Role;
use fallline_core::ranks::Buffer;

impl ProcessGroup {
    /// Returns the whole of a checkpoint of which this rank has a part. A rank that has none tells the others, which would
    /// wait for it.
    ///
    /// # Errors
    /// When a rank fails or has no part, or parts do not go together.
    pub(crate) fn consolidate_state_dict(
        &self,
        engine: &Engine,
        own: Result<Checkpoint>,
    ) -> Result<Checkpoint> {
        let has_feedback = |group: &Group| group.algorithm.spec().replicas.error_feedback.is_some();
        let exchanges =
            |exchange: &&Exchange| exchange.sharded() || engine.setup.groups.iter().any(has_feedback);
        let Some(exchange) = self.exchange.as_ref().filter(exchanges) else { return own };
        let without = exchange.findings([u64::from(own.is_err()), 0]);
        let own = own?;
        if let Some(rank) = without?.iter().position(|[without, _]| *without > 0) {
            let problem = format!("rank {rank} has no state that could be saved");
            return Err(Error::Groups { algorithm: engine.setup.name(), problem });
        }
        match exchange.sharded() {
            true => exchange.consolidate_state_dict(&own),
            false => {
                let mut whole = exchange.gather_error_feedback(own)?;
                engine.average_replicas(&mut whole, exchange.ranks.world_size());
                Ok(whole)
            }
        }
    }

    /// As [`Driver::restore_params`](crate::Driver::restore_params).
    pub(crate) fn restore_params(&mut self, engine: &mut Engine, params: &mut [Binding<'_>]) -> Result<()> {
        if !self.pending_restore {
            return Ok(());
        }
        let Engine { setup, slots, .. } = engine;
        for slot in slots.iter_mut().filter(|slot| setup.has_diverged(slot)) {
            match params.iter_mut().find(|binding| binding.name == slot.name) {
                Some(binding) => setup.restore_param(binding, slot)?,
                None => {
                    let (algorithm, name) = (setup.algorithm(slot).name(), &slot.name);
                    let problem = format!("{name:?} is to be restored, but is not bound");
                    return Err(Error::Groups { algorithm, problem });
                }
            }
        }
        self.pending_restore = false;
        Ok(())
    }

    /// Notes whether some parameters have to be restored after a load.
    pub(crate) fn loaded(&mut self, engine: &Engine) {
        let any = || engine.slots.iter().any(|slot| engine.setup.has_diverged(slot));
        self.pending_restore = engine.setup.ranks.is_some() && any();
    }
}

impl Exchange {
    /// Returns the whole of a checkpoint of which every rank has a part. Everybody gets it.
    pub(crate) fn consolidate_state_dict(&self, own: &Checkpoint) -> Result<Checkpoint> {
        Checkpoint::join(self.gather(own)?)
    }

    /// A checkpoint that is the same on all ranks but for what compression has left out, with that of all of them.
    pub(crate) fn gather_error_feedback(&self, mut own: Checkpoint) -> Result<Checkpoint> {
        self.gather(&own.only_of_ranks())?.into_iter().for_each(|other| own.add_of_ranks(other));
        Ok(own)
    }

    /// Returns what each rank has.
    fn gather(&self, own: &Checkpoint) -> Result<Vec<Checkpoint>> {
        let mut parts = Vec::new();
        let bytes = own.to_bytes()?;
        let mut lengths = vec![0; 8 * self.ranks.world_size()];
        self.ranks.all_gather(&(bytes.len() as u64).to_le_bytes(), &mut lengths).map_err(core_error)?;
        for (owner, length) in lengths.chunks_exact(8).enumerate() {
            let length = u64::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
            let mut part = if owner == self.ranks.rank() { bytes.clone() } else { vec![0; length] };
            self.ranks.broadcast(owner, &mut part).map_err(core_error)?;
            let part = Checkpoint::from_bytes(&part);
            parts.push(part.map_err(|problem| Error::Mismatch(format!("rank {owner}'s part: {problem}")))?);
        }
        Ok(parts)
    }
}

impl Setup {
    /// Gives a parameter what belongs to its states.
    fn restore_param(&self, binding: &mut Binding<'_>, slot: &mut Slot) -> Result<()> {
        self.check_binding(binding, slot)?;
        let Some(kernel) = self.algorithm(slot).program(slot.variant).restore() else { return Ok(()) };
        let (backend, elements) = (&*self.backend, slot.shape.elements());
        let states = kernel.operands.iter().filter(|operand| operand.role == Role::State);
        let missing = states.map(|operand| operand.name);
        let missing: Vec<_> =
            missing.filter(|name| slot.states.iter().all(|(known, _)| known != name)).collect();
        let known = missing.is_empty();
        let requests = vec![(slot.compute.format(), elements); missing.len()];
        slot.states.extend(missing.into_iter().zip(backend.allocate(&requests)?));
        binding.param.gather();
        self.run_auxiliary(kernel, binding, slot, (&[1.0], &[f64::from(u8::from(known))]), true)?;
        binding.param.scatter();
        Ok(())
    }
}

impl Engine {
    /// Puts the mean of the diverged replicas into a checkpoint, for other numbers of ranks.
    fn average_replicas(&self, checkpoint: &mut Checkpoint, world: usize) {
        let Engine { setup, slots, .. } = self;
        for slot in slots.iter().filter(|slot| setup.has_diverged(slot)) {
            let algorithm = setup.algorithm(slot);
            let states = slot.states.iter().map(|(state, _)| *state);
            for state in states.filter(|state| algorithm.state(state).rank_local) {
                let own = (0..world).filter_map(|rank| checkpoint.of_rank(rank, &slot.name, state));
                let Some(format) = own.clone().next().map(|entry| entry.format) else { continue };
                let mut sum = vec![0.0; slot.shape.elements()];
                for entry in own {
                    sum.iter_mut().zip(entry.values::<f64>()).for_each(|(sum, value)| *sum += value);
                }
                let mut mean = Buffer::default();
                mean.resize(format, sum.len());
                let mut values = mean.slice_mut();
                sum.iter().enumerate().for_each(|(i, sum)| values.set(i, sum / world as f64));
                checkpoint.insert_state_entry(
                    &slot.name,
                    state,
                    Entry::new(slot.shape.clone(), mean.slice()),
                );
            }
        }
    }
}
