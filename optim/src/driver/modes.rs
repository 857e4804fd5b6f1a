//! Rules over parameters and their states beside the steps: from the weights that are trained to those that are evaluated, and
//! back.

use super::Driver;
use crate::program::MAX_STAGES;
use crate::slots::{Slot, Slots};
use crate::{Binding, Error, Mode, Result};
use fallline_core::backend::{Pass, TensorPass, View};
use fallline_core::codec::stochastic;
use fallline_core::{Kernel, Role, Storage};
use std::collections::HashSet;

impl Driver {
    /// Which weights the parameters hold.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Gives the bound parameters the weights of another mode, where the algorithm evaluates others than it trains
    /// (`AdamWScheduleFree`); elsewhere, and where they hold them already, nothing is changed. All parameters that have been
    /// stepped must be bound, with or without gradients. A step in evaluation mode is an error; a checkpoint says in which
    /// mode it was saved, and the optimizer that loads it goes on in that one. There and back is not exact to the last bit:
    /// [`weights_of`](Driver::weights_of) leaves the weights that are trained alone.
    ///
    /// # Errors
    /// [`Error::Groups`] where a parameter is not bound, and for an offloaded optimizer; a binding of another shape or type;
    /// when the device or another rank fails.
    pub fn set_mode(&mut self, mode: Mode, params: &mut [Binding<'_>]) -> Result<()> {
        self.switch(mode, params, true)?;
        if self.has_modes() {
            self.mode = mode;
        }
        Ok(())
    }

    /// Gives copies of the parameters, bound under their names, the weights of another mode: as
    /// [`set_mode`](Driver::set_mode), but the optimizer stays as it is, and the parameters in the mode that they are in.
    ///
    /// # Errors
    /// As [`set_mode`](Driver::set_mode).
    pub fn weights_of(&mut self, mode: Mode, copies: &mut [Binding<'_>]) -> Result<()> {
        self.switch(mode, copies, false)
    }

    fn switch(&mut self, mode: Mode, params: &mut [Binding<'_>], lasting: bool) -> Result<()> {
        if let Some(cause) = &self.poisoned {
            return Err(Error::Poisoned { cause: cause.clone() });
        }
        if self.mode == mode || !self.has_modes() {
            return Ok(());
        }
        let refused = |problem: String| Err(Error::Groups { algorithm: self.name_of_modes(), problem });
        if self.is_away() {
            return refused("the weights of an offloaded optimizer cannot be switched".into());
        }
        let bound: HashSet<&str> = params.iter().map(|binding| binding.name).collect();
        let moves = |slot: &&Slot| slot.steps > 0 && self.mode_rule(mode, slot).is_some();
        if let Some(slot) = self.slots.iter().filter(moves).find(|slot| !bound.contains(&*slot.name)) {
            return refused(format!("{:?} is to be switched, but is not bound", slot.name));
        }
        let mut slots = core::mem::take(&mut self.slots);
        let mut begun = false;
        let mut switched = self.switch_all(mode, params, (&mut slots, lasting), &mut begun);
        if let (Ok(()), Some(world)) = (&switched, self.world.as_mut().filter(|world| world.sharded())) {
            let owned = params.iter_mut();
            let owned =
                owned.filter_map(|binding| Some((slots.get(binding.name)?.owner?, &mut binding.param)));
            switched = world.send(owned);
        }
        params.iter_mut().for_each(|binding| binding.param.scatter());
        self.slots = slots;
        if let (Err(cause), true) = (&switched, begun && lasting) {
            // Some parameters hold other weights than the others now.
            self.poisoned = Some(cause.to_string());
        }
        switched
    }

    fn switch_all(
        &self,
        mode: Mode,
        params: &mut [Binding<'_>],
        (slots, lasting): (&mut Slots, bool),
        begun: &mut bool,
    ) -> Result<()> {
        for binding in &mut *params {
            if let Some(slot) = slots.get_mut(binding.name) {
                self.check_binding(binding, slot)?;
            }
            binding.param.gather();
        }
        for binding in params {
            let Some(slot) = slots.get_mut(binding.name) else { continue };
            let Some(kernel) = self.mode_rule(mode, slot) else { continue };
            let states = kernel.operands.iter().filter(|operand| operand.role == Role::State);
            let has = |name: &str| slot.states.iter().any(|(known, _)| *known == name);
            if !states.map(|operand| operand.name).all(has) {
                // It has had no gradient yet, or another rank has its states.
                continue;
            }
            let mut row = vec![1.0; 1 + kernel.scalars.len()];
            let algorithm = &self.groups[slot.group].algorithm;
            let program = algorithm.program(slot.variant);
            program.with_hyper(algorithm.core().hyper(), &mut |hyper| {
                kernel.compute_scalars(hyper, slot.steps.max(1), &mut row[1..]);
            });
            *begun = true;
            self.run_on(kernel, binding, slot, (&row, &[]), lasting)?;
        }
        Ok(())
    }

    /// The rule that takes a parameter to the weights of a mode, if it has other ones there.
    fn mode_rule(&self, mode: Mode, slot: &Slot) -> Option<&'static Kernel> {
        self.groups[slot.group].algorithm.program(slot.variant).mode(mode)
    }

    /// Whether some parameters have other weights in one mode than in the other.
    pub fn has_modes(&self) -> bool {
        self.groups
            .iter()
            .any(|group| group.algorithm.programs().any(|program| program.mode(self.mode).is_some()))
    }

    fn name_of_modes(&self) -> &'static str {
        let mut groups = self.groups.iter().map(|group| &group.algorithm);
        let found =
            groups.find(|algorithm| algorithm.programs().any(|program| program.mode(self.mode).is_some()));
        found.unwrap_or(&self.groups[0].algorithm).name()
    }

    /// Refuses a step on weights that are evaluated.
    pub(super) fn refuse_evaluation(&self) -> Result<()> {
        match self.mode {
            Mode::Training => Ok(()),
            Mode::Evaluation => Err(Error::Evaluating { algorithm: self.name_of_modes() }),
        }
    }

    /// Runs a rule over a parameter and its states, beside the steps, with the scalars of a row and the tensor's own. What
    /// is not contiguous is in its buffer. Where it is not `lasting`, the parameter in full precision stays as it is.
    pub(super) fn run_on(
        &self,
        kernel: &'static Kernel,
        binding: &mut Binding<'_>,
        slot: &mut Slot,
        (row, own_scalars): (&[f64], &[f64]),
        lasting: bool,
    ) -> Result<()> {
        let (backend, elements) = (&*self.backend, slot.shape.elements());
        let mut copied = match &slot.master {
            Some(master) if !lasting => {
                let mut copy = backend.allocate(&[(master.format(), master.len())])?.remove(0);
                backend.copy(master, &mut copy)?;
                Some(copy)
            }
            _ => None,
        };
        let mut staged = self.staging(binding)?;
        let param = match &mut staged {
            Some(storage) => View::write(storage),
            None => binding.param.view(),
        };
        let param = match copied.as_mut().or(slot.master.as_mut()) {
            Some(master) => View::write(master).with_copy(param),
            None => param,
        };
        let place = |name: &str| kernel.operands.iter().position(|operand| operand.name == name);
        let own = kernel.operands.iter().position(|operand| operand.role == Role::Param);
        let param = match slot.seed {
            Some(seed) => {
                let stream = (MAX_STAGES << 8 | own.unwrap_or(0)) as u64;
                param.with_noise(stochastic::key(seed, &slot.name, slot.steps, stream))
            }
            None => param,
        };
        let mut views = slot.states.iter_mut();
        let views = views.by_ref().filter_map(|(name, state)| Some((place(name)?, View::write(state))));
        let mut views = Some(views.chain(own.map(|own| (own, param))));
        backend.run(Pass {
            kernel,
            compute: slot.compute,
            tensors: &mut |operands| {
                views.take()?.for_each(|(place, view)| operands[place] = Some(view));
                Some(TensorPass { elements, row: 0 })
            },
            rows: row,
            tensor_scalars: own_scalars,
            beside: &[],
            plan: &mut backend.plan(),
            sums: &mut [],
        })?;
        if let (Some(storage), Some(slice)) = (&staged, binding.param.host()) {
            backend.read(storage, slice)?;
        }
        Ok(())
    }

    /// A copy of a parameter on a device that does not reach it.
    fn staging(&self, binding: &mut Binding<'_>) -> Result<Option<Storage>> {
        let backend = &*self.backend;
        let Some(slice) = binding.param.host().filter(|_| !backend.reaches_host()) else { return Ok(None) };
        let mut storage = backend.allocate(&[(slice.format(), slice.len())])?.remove(0);
        backend.write(&mut storage, slice.as_ref())?;
        Ok(Some(storage))
    }
}
