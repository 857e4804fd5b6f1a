//! Local steps: replicas of the parameters that diverge for a while, between two exchanges.

use crate::checkpoint::{Checkpoint, Entry};
use crate::engine::Engine;
use crate::engine::group::Group;
use crate::engine::setup::Setup;
use crate::params::slots::Slot;
use crate::{Binding, ParamPrecision, Result};
use fallline_core::ranks::Buffer;
use fallline_core::{Format, Role};

impl Setup {
    /// Gives a parameter what belongs to its states.
    pub(super) fn restore_param(&self, binding: &mut Binding<'_>, slot: &mut Slot) -> Result<()> {
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
    pub(super) fn average_replicas(&self, checkpoint: &mut Checkpoint, world: usize) {
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

/// Checks what several ranks cannot have where their replicas diverge.
pub(super) fn check_local_steps(group: &Group, averages: bool) -> Result<(), &'static str> {
    let Group { algorithm, formats, params, .. } = group;
    if algorithm.spec().replicas.diverged.is_none() {
        return Ok(());
    }
    let in_blocks =
        |state: &&str| formats.resolve(&**algorithm, state, usize::MAX, Format::F32).block().is_some();
    match params {
        _ if averages => Err("between two exchanges each rank would average a diverged replica"),
        ParamPrecision::StochasticRounding { .. } => {
            Err("local replicas do not go with stochastic rounding: they would not be restored")
        }
        _ if algorithm.rank_local_states().iter().any(in_blocks) => {
            Err("states of a rank's own cannot be stored in blocks")
        }
        _ => Ok(()),
    }
}
