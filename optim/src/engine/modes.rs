//! From the weights that are trained to those that are evaluated, and back.

use super::Engine;
use super::setup::Setup;
use crate::params::slots::Slot;
use crate::{AnyAlgorithm, Binding, Error, Mode, Result};
use fallline_core::{Kernel, Role};
use std::collections::HashSet;

impl Engine {
    /// Gives the bound parameters the weights of another mode; what is not contiguous is in its buffer then. `begun` is set
    /// as soon as something may have been written. Where it is not `lasting`, parameters in full precision stay.
    ///
    /// # Errors
    /// A binding of another shape or type; when the device fails.
    pub(crate) fn switch(
        &mut self,
        mode: Mode,
        params: &mut [Binding<'_>],
        lasting: bool,
        begun: &mut bool,
    ) -> Result<()> {
        let Engine { setup, slots, .. } = self;
        for binding in &mut *params {
            if let Some(slot) = slots.get_mut(binding.name) {
                setup.check_binding(binding, slot)?;
            }
            binding.param.gather();
        }
        for binding in params {
            let Some(slot) = slots.get_mut(binding.name) else { continue };
            let Some(kernel) = mode_rule(setup, mode, slot) else { continue };
            let states = kernel.operands.iter().filter(|operand| operand.role == Role::State);
            let has = |name: &str| slot.states.iter().any(|(known, _)| *known == name);
            if !states.map(|operand| operand.name).all(has) {
                // It has had no gradient yet, or another rank has its states.
                continue;
            }
            let mut row = vec![1.0; 1 + kernel.scalars.len()];
            let algorithm = setup.algorithm(slot);
            let program = algorithm.program(slot.variant);
            program.with_hyper(algorithm.core().hyper(), &mut |hyper| {
                kernel.compute_scalars(hyper, slot.steps.max(1), &mut row[1..]);
            });
            *begun = true;
            setup.run_auxiliary(kernel, binding, slot, (&row, &[]), lasting)?;
        }
        Ok(())
    }

    /// Returns a parameter that has other weights in a mode and is not bound.
    pub(crate) fn unbound_in(&self, mode: Mode, params: &[Binding<'_>]) -> Option<&Slot> {
        let bound: HashSet<&str> = params.iter().map(|binding| binding.name).collect();
        let moves = |slot: &&Slot| slot.steps > 0 && mode_rule(&self.setup, mode, slot).is_some();
        self.slots.iter().filter(moves).find(|slot| !bound.contains(&*slot.name))
    }

    /// Returns an algorithm with other weights in the other mode than in this one.
    pub(crate) fn with_modes(&self) -> Option<&dyn AnyAlgorithm> {
        let has = |algorithm: &dyn AnyAlgorithm| {
            algorithm.programs().any(|program| program.mode(self.mode).is_some())
        };
        self.setup.groups.iter().map(|group| &*group.algorithm).find(|algorithm| has(*algorithm))
    }

    /// Returns the name of the algorithm that errors about modes are of.
    pub(crate) fn name_with_modes(&self) -> &'static str {
        self.with_modes().map_or_else(|| self.setup.name(), |algorithm| algorithm.name())
    }

    /// Refuses a step on weights that are evaluated.
    ///
    /// # Errors
    /// [`Error::Evaluating`].
    pub(crate) fn check_training(&self) -> Result<()> {
        match self.mode {
            Mode::Training => Ok(()),
            Mode::Evaluation => Err(Error::Evaluating { algorithm: self.name_with_modes() }),
        }
    }
}

/// Returns the rule that takes a parameter to the weights of a mode, if it has other ones there.
fn mode_rule(setup: &Setup, mode: Mode, slot: &Slot) -> Option<&'static Kernel> {
    setup.algorithm(slot).program(slot.variant).mode(mode)
}
