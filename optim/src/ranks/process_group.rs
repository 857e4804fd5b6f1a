//! Ranks that step together: what they must be equal in, and what they send each other around a step.

use super::exchange::Exchange;
use super::local_steps::check_local_steps;
use crate::engine::Engine;
use crate::engine::group::Group;
use crate::engine::setup::Setup;
use crate::params::slots::{Slot, Slots};
use crate::program::Variant;
use crate::{Binding, Error, Result};
use std::fmt::{self, Write};

/// The ranks that an optimizer steps with; on one rank there is nothing to do.
#[derive(Default)]
pub(crate) struct ProcessGroup {
    pub(super) exchange: Option<Exchange>,
    /// Whether parameters have not got what belongs to the states that were loaded.
    pub(super) pending_restore: bool,
}

impl ProcessGroup {
    /// Returns the ranks of an engine that knows of them.
    pub(crate) fn of(setup: &Setup) -> ProcessGroup {
        let exchange = setup.ranks.as_ref().map(|ranks| Exchange::new(ranks.comm.clone(), ranks.sharded));
        ProcessGroup { exchange, pending_restore: false }
    }

    /// Checks that all ranks take the same step, in which all optimizers exchange the same. `policies` writes what else a
    /// step depends on, one setting a line; `averages` says whether averages of the weights are kept.
    ///
    /// # Errors
    /// What differs, on all ranks; a step in evaluation mode.
    pub(crate) fn check_consistent(
        &mut self,
        engine: &mut Engine,
        bindings: &[Binding<'_>],
        policies: impl Fn(&Slots, &mut String) -> fmt::Result,
        averages: bool,
    ) -> Result<()> {
        let Some(exchange) = &mut self.exchange else { return engine.check_training() };
        let setup = &engine.setup;
        let refused = |optimizer, problem: &str| {
            let algorithm = setup.optimizer(optimizer).name();
            Err(Error::Groups { algorithm, problem: problem.into() })
        };
        if self.pending_restore {
            return refused(
                0,
                "the checkpoint was saved between two exchanges, when replicas had diverged: \
                 restore_params gives them back",
            );
        }
        for optimizer in 0..engine.shared.len() {
            let algorithm = setup.optimizer(optimizer);
            if let Err(reason) = algorithm.program_on(Variant::ONLY, true) {
                return refused(optimizer, &reason);
            }
            if algorithm.sharded() != exchange.sharded() {
                return refused(
                    optimizer,
                    "either all optimizers of a configuration shard their states, or none",
                );
            }
            if engine.optimizer_averages(optimizer) != engine.optimizer_averages(0) {
                return refused(
                    optimizer,
                    "it and the others do not take averaged gradients in the same steps",
                );
            }
        }
        for group in &setup.groups {
            if let Err(reason) = check_local_steps(group, averages) {
                return refused(group.optimizer, reason);
            }
        }
        for shared in &mut engine.shared {
            shared.fetch(&*engine.setup.backend)?;
        }
        exchange.check_consistent(bindings, &engine.slots, |text| {
            policies(&engine.slots, text)?;
            fingerprint(engine, text)
        })?;
        engine.check_training()
    }

    /// Assigns an owner to parameters that are new, if they are sharded. Returns whether there were any.
    pub(crate) fn assign_owners(&self, slots: &mut [Slot]) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.assign_owners(slots))
    }

    /// Broadcasts every updated parameter from the rank that owns it, if parameters are sharded.
    ///
    /// # Errors
    /// When a rank fails.
    pub(crate) fn broadcast_owned(
        &mut self,
        engine: &mut Engine,
        bindings: &mut [Binding<'_>],
    ) -> Result<()> {
        let Some(exchange) = self.exchange.as_mut().filter(|exchange| exchange.sharded()) else {
            return Ok(());
        };
        let Engine { setup, slots, .. } = engine;
        let slots = slots.range(0..bindings.len());
        for (slot, binding) in slots.iter_mut().zip(&*bindings) {
            slot.steps += u64::from(!binding.grad.is_none() && setup.is_owned_by_other_rank(slot));
        }
        let stepped = slots.iter().zip(bindings).filter(|(_, binding)| !binding.grad.is_none());
        exchange.send(stepped.filter_map(|(slot, binding)| Some((slot.owner?, &mut binding.param))))
    }

    /// Broadcasts parameters from the ranks that own them, if they are sharded.
    ///
    /// # Errors
    /// When a rank fails.
    pub(crate) fn broadcast_params(&mut self, engine: &Engine, params: &mut [Binding<'_>]) -> Result<()> {
        let Some(exchange) = self.exchange.as_mut().filter(|exchange| exchange.sharded()) else {
            return Ok(());
        };
        let owner = |name: &str| engine.slots.get(name)?.owner;
        let owned = params.iter_mut();
        exchange.send(owned.filter_map(|binding| Some((owner(binding.name)?, &mut binding.param))))
    }

    /// Returns what each rank has found, in their order, where ranks may find different things: the places of two
    /// numbers. None where there is one rank, or all find the same: in gradients that are averaged, `states` aside
    /// that are `sharded`.
    ///
    /// # Errors
    /// When a rank fails.
    pub(crate) fn findings(
        &self,
        engine: &Engine,
        of_states: bool,
        own: impl FnOnce() -> Option<[u64; 2]>,
    ) -> Result<Option<Vec<[u64; 2]>>> {
        let differ = |exchange: &&Exchange| engine.gradients_are_local() || (of_states && exchange.sharded());
        let Some(exchange) = self.exchange.as_ref().filter(differ) else { return Ok(None) };
        exchange.findings(own().unwrap_or([0, 0])).map(Some)
    }
}

/// Writes everything that a step of the engine depends on apart from its tensors, one setting a line.
fn fingerprint(engine: &Engine, text: &mut String) -> fmt::Result {
    let Engine { setup, shared, mode, lookahead_steps, .. } = engine;
    writeln!(text, "compute={:?}", setup.compute)?;
    writeln!(text, "{mode} mode")?;
    writeln!(text, "{} groups", setup.groups.len())?;
    for (number, Group { algorithm, formats, params, mask, optimizer, .. }) in setup.groups.iter().enumerate()
    {
        let name = algorithm.name();
        writeln!(text, "group {number}: {name} of optimizer {optimizer} with {formats:?}, {params:?}")?;
        if let Some(mask) = mask {
            writeln!(text, "group {number}: {name} with exp_avg_mask of {}", mask.text)?;
        }
        for hyper in algorithm.table() {
            if let Some(value) = algorithm.get(hyper.name) {
                writeln!(text, "group {number}: {name} with {}={value}", hyper.name)?;
            }
        }
    }
    for (optimizer, shared) in shared.iter().enumerate() {
        for ((name, _), value) in setup.optimizer(optimizer).spec().shared.iter().zip(shared.on_host()) {
            writeln!(text, "optimizer {optimizer} keeps {name}={value}")?;
        }
    }
    if engine.lookahead().is_some() {
        writeln!(text, "{lookahead_steps} steps since a sync of Lookahead")?;
    }
    Ok(())
}
