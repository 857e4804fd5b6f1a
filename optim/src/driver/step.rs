//! A step from beginning to end: checks first, then writes.

use super::around::Around;
use super::clip::FACTOR;
use super::finite::NonFinite;
use super::run::Work;
use super::{Driver, mirror, rows};
use crate::{Binding, Error, Result, Skipped, StepReport};

/// Which gradients a step is taken on.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Given {
    /// The trainer's, as they come.
    Raw,
    /// Such as were looked at already, to be multiplied by a factor.
    Judged(f64),
    /// Those for an estimate of the curvature, which are not clipped.
    Hessian,
}

impl Driver {
    /// Takes a step over all parameters (`whole`) or some of them, and keeps what it learns of new ones if it goes
    /// through.
    pub(super) fn step_kept(&mut self, bindings: &mut [Binding<'_>], whole: bool) -> Result<StepReport> {
        let stepped = match whole && !self.wrapped.is_plain() {
            true => self.step_wrapped(bindings),
            false => self.step_checked(bindings, Given::Raw, whole),
        };
        let averaged = match &stepped {
            Ok(_) => self.average_in(bindings),
            Err(_) => Ok(()),
        };
        self.slots.settle(&stepped, StepReport::skipped);
        let stepped = stepped?;
        if whole && !stepped.skipped() {
            self.expected.clear();
        }
        if let Err(cause) = averaged {
            // The parameters have stepped, and the average does not fit them.
            self.poisoned = Some(cause.to_string());
            return Err(cause);
        }
        Ok(stepped)
    }

    /// Everything that comes before the first write of a step: checks, copies, states, and the gradients' factor. A
    /// report that is skipped ends the step.
    pub(super) fn open(
        &mut self,
        bindings: &mut [Binding<'_>],
        given: Given,
        whole: bool,
    ) -> Result<StepReport> {
        // Where a window closes, its iteration began with it.
        if !matches!(given, Given::Judged(_)) {
            self.agree(bindings)?;
        }
        let mut prepared = self.prepare(bindings)?;
        if let Some(world) = &self.world
            && world.share_out(self.slots.range(0..bindings.len()))
        {
            prepared = self.prepare(bindings)?;
        }
        if whole {
            self.check_expected()?;
        }
        self.make_masks(bindings)?;
        if given != Given::Hessian {
            self.make_means(bindings)?;
        }
        let mut report = StepReport { without_grad: prepared.without_grad, ..StepReport::default() };
        move_strided(bindings, false);
        if !self.backend.reaches_host() {
            mirror::copy_in(&*self.backend, bindings, self.slots.range(0..bindings.len()))?;
        }
        rows::sum_up(&*self.backend, bindings, self.slots.range(0..bindings.len()))?;
        let factor = match given {
            Given::Judged(factor) => Some(factor),
            Given::Raw | Given::Hessian => self.judge(bindings, given, &mut report)?,
        };
        let Some(factor) = factor else { return Ok(report) };
        if self.non_finite != NonFinite::Propagate
            && let Some((param, state)) = self.poisoned_state(bindings)?
        {
            if self.non_finite == NonFinite::Error {
                return Err(Error::PoisonedState { param, state });
            }
            report.skipped = Some(Skipped::PoisonedState { param, state });
            return Ok(report);
        }
        move_strided(bindings, false);
        if prepared.lacks_states {
            self.allocate_states(bindings)?;
        }
        if factor != 1.0 {
            self.runs.iter_mut().for_each(|run| run.scale(factor));
        }
        report.updated = bindings.len() - prepared.without_grad;
        Ok(report)
    }

    pub(super) fn step_checked(
        &mut self,
        bindings: &mut [Binding<'_>],
        given: Given,
        whole: bool,
    ) -> Result<StepReport> {
        let mut report = self.open(bindings, given, whole)?;
        if report.skipped() {
            return Ok(report);
        }
        self.step_runs(bindings)?;
        self.wrapped.stepped();
        if whole {
            self.advance()?;
            self.count_to_sync();
        }
        if self.non_finite != NonFinite::Propagate {
            report.poisoned = self.poisoned_state(bindings)?;
        }
        if !self.backend.reaches_host() {
            let copied = mirror::copy_out(&*self.backend, bindings, self.slots.range(0..bindings.len()));
            if let Err(cause) = copied {
                self.poisoned = Some(cause.to_string());
                return Err(cause);
            }
        }
        if let Some(world) = self.world.as_mut().filter(|world| world.sharded()) {
            let spread = world.spread(bindings, self.slots.range(0..bindings.len()));
            if let Err(cause) = spread {
                self.poisoned = Some(cause.to_string());
                return Err(cause);
            }
        }
        move_strided(bindings, true);
        Ok(report)
    }

    fn step_runs(&mut self, bindings: &mut [Binding<'_>]) -> Result<()> {
        let mut begun = false;
        let syncs = self.syncs();
        let clipping = self.clipping.take();
        let factor = clipping.as_deref().map(|found| (found, FACTOR));
        for (index, run) in self.runs.iter_mut().enumerate().filter(|(_, run)| !run.is_empty()) {
            let slots = self.slots.range(0..bindings.len());
            let tensors = slots.iter().filter(|slot| slot.run == Some(index)).count();
            let (backend, groups, family) = (&*self.backend, &self.groups[..], run.family);
            let shared = &mut self.shared[family];
            let ranks = self.world.as_ref().map(|world| &**world.ranks());
            let averaging = self.averages.as_ref().and_then(|averages| averages.rule(self.builtins));
            let around = Around { forming: self.forming.as_ref(), averaging };
            let work = Work {
                index,
                family,
                tensors,
                backend,
                groups,
                shared,
                ranks,
                bindings,
                slots,
                around,
                syncs,
                factor,
            };
            let stepped = match self.away.as_mut().filter(|away| away.known) {
                Some(away) => run.step_away(work, away, &mut begun),
                None => run.step(work, &mut begun),
            };
            if let Err(cause) = stepped {
                if begun {
                    self.poisoned = Some(cause.to_string());
                }
                return Err(cause);
            }
        }
        Ok(())
    }
}

/// Copies parameters that are not contiguous into buffers, or back.
fn move_strided(bindings: &mut [Binding<'_>], back: bool) {
    for binding in bindings.iter_mut().filter(|binding| !binding.grad.is_none()) {
        if back { binding.param.scatter() } else { binding.param.gather() }
    }
}
