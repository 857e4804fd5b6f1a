//! A step from beginning to end: checks first, then writes.

use super::expected::Expectations;
use super::loaded::Loaded;
use super::poison::Poison;
use crate::engine::Engine;
use crate::engine::fusion::{Fusion, GradPrologue};
use crate::engine::prepare::Prepared;
use crate::gradients::accumulate::{Closing, Iteration, Window, check_dense};
use crate::gradients::{GradState, Gradients};
use crate::params::slots::Slots;
use crate::ranks::process_group::ProcessGroup;
use crate::weight_averaging::WeightAveraging;
use crate::{Binding, Error, NonFinitePolicy, Result, Skipped, StepReport};

/// Everything of a driver that a step needs but the window of gradients, which its bindings may be of.
pub(super) struct Step<'d> {
    pub(super) engine: &'d mut Engine,
    pub(super) gradients: &'d mut Gradients,
    pub(super) averaging: &'d mut Option<WeightAveraging>,
    pub(super) group: &'d mut ProcessGroup,
    pub(super) poison: &'d mut Poison,
    pub(super) expected: &'d Expectations,
    pub(super) loaded: &'d mut Loaded,
    /// Whether all parameters are bound.
    pub(super) whole: bool,
}

impl Step<'_> {
    /// Checks before anything else that all ranks are about to take the same step, and that it fits what was loaded. Finds
    /// where parameters are.
    pub(super) fn begin(&mut self, window: &mut Window, bindings: &[Binding<'_>]) -> Result<()> {
        let Step { engine, gradients, averaging, group, loaded, .. } = self;
        let policies = |slots: &Slots, text: &mut String| {
            gradients.fingerprint(text)?;
            window.fingerprint(&gradients.config, text)?;
            loaded.fingerprint(slots, text)?;
            averaging.as_ref().map_or(Ok(()), |averages| averages.fingerprint(text))
        };
        group.check_consistent(engine, bindings, policies, averaging.is_some())?;
        loaded.check(engine, window, bindings)?;
        if let Some(device) = engine.resolve_placement(bindings) {
            window.move_to(&device)?;
            WeightAveraging::move_to(&engine.setup.backend, &mut engine.slots, &device)?;
        }
        Ok(())
    }

    /// An iteration of accumulation, which may end a window: then its gradients step.
    pub(super) fn accumulate(
        &mut self,
        window: &mut Window,
        bindings: &mut [Binding<'_>],
    ) -> Result<StepReport> {
        check_dense(bindings)?;
        self.begin(window, bindings)?;
        self.engine.prepare(bindings)?;
        self.expected.check(self.engine)?;
        self.allocate_averages(bindings.len())?;
        let Step { engine, gradients, poison, .. } = self;
        match poison.guard(|begun| window.accumulate(engine, gradients, bindings, begun))? {
            Iteration::Open(report) => Ok(report),
            Iteration::Full(closing) => {
                let stepped = self.close(window, bindings, closing);
                window.end();
                stepped
            }
        }
    }

    /// Returns the step of a full window.
    fn close(
        &mut self,
        window: &mut Window,
        bindings: &mut [Binding<'_>],
        closing: Closing,
    ) -> Result<StepReport> {
        let mut report = StepReport::default();
        let factor = {
            let raw = window.rebound(bindings);
            self.gradients.unscale_and_clip(self.engine, self.group, (&raw, GradState::Raw), &mut report)?
        };
        let Some(factor) = factor else {
            report.without_grad = bindings.iter().filter(|binding| !window.has(binding.name)).count();
            return Ok(report);
        };
        let (prologue, factor) = window.prologue(self.engine, self.gradients, closing, factor)?;
        let mut bindings = window.closing(bindings, closing);
        let stepped = self.take(&mut bindings, GradState::Unscaled(factor), prologue.as_ref())?;
        let StepReport { norm, clipped, loss_scale, .. } = report;
        Ok(StepReport { norm, clipped, loss_scale, ..stepped })
    }

    /// Returns the step itself.
    pub(super) fn take(
        &mut self,
        bindings: &mut [Binding<'_>],
        state: GradState,
        prologue: Option<&GradPrologue>,
    ) -> Result<StepReport> {
        let (mut report, prepared) = self.prepare(bindings, state)?;
        if report.skipped() {
            return Ok(report);
        }
        let Step { engine, gradients, averaging, group, poison, whole, .. } = self;
        let factor = gradients.take_factor();
        let factor = factor.as_ref().map(|(found, place)| (&**found, *place));
        let epilogue = averaging.as_ref().and_then(|averages| averages.rule(engine.setup.builtins));
        let fusion = Fusion { prologue, epilogue, factor };
        poison.guard(|begun| engine.execute(bindings, &fusion, begun))?;
        if *whole {
            gradients.advance();
            engine.advance()?;
            engine.count_to_sync();
        }
        report.corrupt_state = poison.guard_written(|| gradients.corrupt_state(engine, group, bindings))?;
        poison.guard_written(|| engine.download(bindings))?;
        poison.guard_written(|| group.broadcast_owned(engine, bindings))?;
        if prepared.has_strided {
            move_strided(bindings, true);
        }
        Ok(report)
    }

    /// Takes a gradient in the first round of an incremental step: inspects it, or accumulates it. Returns whether there
    /// is one.
    pub(super) fn inspect(&mut self, window: &mut Window, bindings: &mut [Binding<'_>]) -> Result<bool> {
        let config = &self.gradients.config;
        let (buffers, closes) = (config.buffers(), window.is_last_micro_step(config));
        if buffers {
            check_dense(bindings)?;
        }
        self.begin(window, bindings)?;
        let prepared = self.engine.prepare(bindings)?;
        self.allocate_averages(bindings.len())?;
        let Step { engine, gradients, group, poison, .. } = self;
        match buffers {
            true => {
                poison.guard(|begun| window.add_one(engine, &gradients.config, bindings, begun))?;
                if closes {
                    gradients.inspect_one(engine, group, &window.rebound(bindings))?;
                }
            }
            false => {
                if prepared.has_strided {
                    move_strided(bindings, false);
                }
                engine.upload(bindings, prepared.has_rows)?;
                gradients.inspect_one(engine, group, bindings)?;
            }
        }
        engine.slots.range(0..bindings.len()).iter_mut().for_each(|slot| slot.progress.inspected = true);
        // An iteration counts for the averages of the weights, whatever becomes of it.
        if buffers && !closes {
            self.average(bindings, true)?;
        }
        let has = |binding: &Binding<'_>| {
            !binding.grad.is_none() || (buffers && closes && window.has(binding.name))
        };
        Ok(bindings.iter().any(has))
    }

    /// Decides upon an incremental step, once all its gradients are inspected.
    pub(super) fn conclude(&mut self, window: &mut Window) -> Result<Verdict> {
        let Step { engine, gradients, .. } = self;
        let buffers = gradients.config.buffers();
        if buffers && let Some(report) = window.end_iteration(engine, &gradients.config)? {
            return Ok(Verdict::Accumulated(report));
        }
        let mut report = StepReport::default();
        let concluded = gradients.conclude(engine, &mut report).and_then(|factor| match factor {
            Some(factor) if buffers => {
                window.prologue(engine, gradients, Closing::default(), factor).map(|(_, factor)| Some(factor))
            }
            factor => Ok(factor),
        });
        if buffers && !matches!(concluded, Ok(Some(_))) {
            window.end();
        }
        Ok(match concluded? {
            Some(factor) => Verdict::Step { factor, report },
            None => Verdict::Skipped(report),
        })
    }

    /// Aligns the slots of the parameters that are bound.
    pub(super) fn align(&mut self, bindings: &[Binding<'_>]) -> Result<()> {
        let Engine { setup, slots, .. } = &mut *self.engine;
        let mut places = bindings.iter().enumerate();
        places.try_for_each(|(i, binding)| slots.align(i, binding.name, || setup.new_slot(binding)).map(drop))
    }

    /// Steps a parameter in the second round of an incremental step, on its accumulated gradient if there is one.
    pub(super) fn take_inspected(
        &mut self,
        window: &mut Window,
        bindings: &mut [Binding<'_>],
        factor: f64,
    ) -> Result<StepReport> {
        let state = GradState::Unscaled(factor);
        match self.gradients.config.buffers() {
            true => self.take(&mut window.closing(bindings, Closing::default()), state, None),
            false => self.take(bindings, state, None),
        }
    }

    /// Everything that comes before the first write of a step: checks, copies, states, and the gradients' factor. A
    /// report that is skipped ends the step.
    pub(super) fn prepare(
        &mut self,
        bindings: &mut [Binding<'_>],
        state: GradState,
    ) -> Result<(StepReport, Prepared)> {
        let mut prepared = self.engine.prepare(bindings)?;
        if self.group.assign_owners(self.engine.slots.range(0..bindings.len())) {
            prepared = self.engine.prepare(bindings)?;
        }
        if self.whole {
            self.expected.check(self.engine)?;
        }
        self.engine.allocate_masks(bindings)?;
        if state != GradState::Hessian {
            self.allocate_averages(bindings.len())?;
        }
        let mut report = StepReport { without_grad: prepared.without_grad, ..StepReport::default() };
        if prepared.has_strided {
            move_strided(bindings, false);
        }
        self.engine.upload(bindings, prepared.has_rows)?;
        let Step { engine, gradients, group, .. } = self;
        let factor = match state {
            GradState::Unscaled(factor) => Some(factor),
            GradState::Raw | GradState::Hessian => {
                gradients.unscale_and_clip(engine, group, (bindings, state), &mut report)?
            }
        };
        let Some(factor) = factor else { return Ok((report, prepared)) };
        if let Some((param, state)) = gradients.corrupt_state(engine, group, bindings)? {
            if gradients.non_finite == NonFinitePolicy::Error {
                return Err(Error::PoisonedState { param, state });
            }
            report.skipped = Some(Skipped::PoisonedState { param, state });
            return Ok((report, prepared));
        }
        if prepared.lacks_states {
            engine.allocate_states(bindings)?;
        }
        engine.scale_gradients(factor);
        report.updated = bindings.len() - prepared.without_grad;
        Ok((report, prepared))
    }

    /// Keeps what a step over so many parameters has learnt of new ones, if it has gone through.
    pub(super) fn settle<R>(
        &mut self,
        window: &mut Window,
        stepped: &Result<R>,
        bindings: usize,
        skipped: impl Fn(&R) -> bool,
    ) {
        let through = stepped.as_ref().is_ok_and(|report| !skipped(report));
        self.engine.slots.commit_or_rollback(through);
        self.loaded.settle(self.engine, window, through, bindings);
    }

    fn allocate_averages(&mut self, bindings: usize) -> Result<()> {
        let Some(averages) = &mut *self.averaging else { return Ok(()) };
        let Engine { setup, slots, .. } = &mut *self.engine;
        averages.allocate(setup.builtins, setup.param_backend(), slots.range(0..bindings))
    }

    /// Updates the averages that no pass of the step has updated. Where that fails the optimizer cannot continue if a
    /// parameter has moved (`stepped`), or if an average may have.
    pub(super) fn average(&mut self, bindings: &mut [Binding<'_>], stepped: bool) -> Result<()> {
        let Some(averages) = &mut *self.averaging else { return Ok(()) };
        let Engine { setup, slots, .. } = &mut *self.engine;
        let near = (setup.param_backend(), setup.is_offloaded());
        let slots = slots.range(0..bindings.len());
        self.poison.guard(|begun| {
            *begun = stepped;
            averages.update(setup.builtins, near, (slots, bindings), begun)
        })
    }
}

/// What becomes of an incremental step.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// Gradients were accumulated, and no parameter steps.
    Accumulated(StepReport),
    /// No parameter steps.
    Skipped(StepReport),
    /// Parameters step on gradients times a factor.
    Step { factor: f64, report: StepReport },
}

/// Copies parameters that are not contiguous into buffers, or back.
fn move_strided(bindings: &mut [Binding<'_>], back: bool) {
    for binding in bindings.iter_mut().filter(|binding| !binding.grad.is_none()) {
        if back { binding.param.scatter() } else { binding.param.gather() }
    }
}
