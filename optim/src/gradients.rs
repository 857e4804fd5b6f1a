//! The gradient pipeline: unscaling, the check for NaN and infinity, clipping.

pub(crate) mod accumulate;
mod clip_on_device;
mod incremental;
mod non_finite;
mod norm;
mod stats;
mod views;

pub use non_finite::NonFinitePolicy;

use crate::engine::Engine;
use crate::gradient_config::{Clip, GradientConfig};
use crate::ranks::process_group::ProcessGroup;
use crate::report::Reported;
use crate::{Binding, Error, Result, Skipped, StepReport};
use clip_on_device::{Clipping, FACTOR, NORM};
use fallline_core::backend::Plan;
use fallline_core::builtins::clipping;
use fallline_core::{Compute, Storage};
use norm::norm_of;
use stats::GradStats;
use std::fmt::{self, Write};
use std::sync::Arc;
use views::Grads;

/// The gradient pipeline: how gradients are unscaled and clipped, and what is done where they are not finite.
#[derive(Default)]
pub(crate) struct Gradients {
    pub(crate) config: GradientConfig,
    pub(crate) non_finite: NonFinitePolicy,
    stats: GradStats,
    clipping: Clipping,
    /// The factor of the gradients of the step being taken, where the device has computed it.
    factor: Option<Arc<Storage>>,
}

/// What was found in all gradients, and how they are clipped.
struct Inspected {
    /// Their Euclidean norm.
    euclidean: f64,
    /// The first by name that is not finite, and how many of its elements are not.
    bad: Option<(String, u64)>,
    clip: Option<Clip>,
}

/// How far the gradients of a step have come.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum GradState {
    /// The training loop's, as they come.
    Raw,
    /// Unscaled and clipped but for a factor.
    Unscaled(f64),
    /// Those for an estimate of the Hessian, which are not clipped.
    Hessian,
}

impl Gradients {
    /// Returns whether the gradients of a step are read before it.
    fn needs_stats(&self) -> bool {
        let GradientConfig { clip, scaler, .. } = &self.config;
        let by_norm = matches!(clip, Some(Clip::Norm { .. }));
        scaler.is_some() || by_norm || self.non_finite != NonFinitePolicy::Propagate
    }

    /// Inspects the gradients of a step as far as the policy for NaN and infinity, the loss scale and clipping need
    /// it. Returns their factor, or none where the step is to be skipped.
    ///
    /// # Errors
    /// Gradients or a norm that are not finite where that is an error; when a device or a rank fails.
    pub(crate) fn unscale_and_clip(
        &mut self,
        engine: &Engine,
        group: &ProcessGroup,
        (bindings, state): (&[Binding<'_>], GradState),
        report: &mut StepReport,
    ) -> Result<Option<f64>> {
        let GradientConfig { clip, scaler, .. } = &self.config;
        let (clip, scaled) = (clip.filter(|_| state == GradState::Raw), scaler.is_some());
        let inverse = self.config.inverse_scale();
        report.loss_scale = scaler.as_ref().map(|scaler| scaler.scale());
        let by_norm = matches!(clip, Some(Clip::Norm { .. }));
        if !(scaled || by_norm || self.non_finite != NonFinitePolicy::Propagate) {
            return Ok(Some(inverse));
        }
        self.factor = None;
        let grads = Grads { slots: engine.slots.range_of(0..bindings.len()), bindings };
        if by_norm && let Some([norm, factor]) = self.clip_on_device(engine, grads)? {
            (report.norm, report.clipped) = (Some(norm), Some(factor));
            return Ok(Some(1.0));
        }
        let (mut euclidean, bad) = self.stats.inspect(engine, grads, inverse)?;
        let bad = all_reduce_found_inf(engine, group, bindings, bad)?;
        if bad.is_some() && euclidean.is_finite() {
            // Another rank's are not.
            euclidean = f64::NAN;
        }
        let inspected = Inspected { euclidean, bad, clip };
        self.decide(state, inspected, |p| norm_of(engine, grads, p, inverse), report)
    }

    /// Decides what is done about what was found in gradients. Returns their factor, or none where the step is to be skipped.
    fn decide(
        &mut self,
        state: GradState,
        Inspected { euclidean, bad, clip }: Inspected,
        norm: impl FnOnce(f64) -> Result<f64>,
        report: &mut StepReport,
    ) -> Result<Option<f64>> {
        let inverse = self.config.inverse_scale();
        // A scale that adapts finds its size by overflows.
        let skips = match (&self.config.scaler, self.non_finite) {
            (_, NonFinitePolicy::Skip) => true,
            (Some(scaler), NonFinitePolicy::Error) => scaler.is_dynamic(),
            (scaler, _) => scaler.is_some(),
        };
        report.norm = Some(Reported::Known(euclidean));
        let mut factor = 1.0;
        if let Some(Clip::Norm { max_norm, norm_type, error_if_nonfinite }) = clip {
            let found = match norm_type == 2.0 || euclidean.is_nan() {
                true => euclidean,
                false => norm(norm_type)?,
            };
            report.norm = Some(Reported::Known(found));
            if error_if_nonfinite && !found.is_finite() {
                return Err(Error::Norm { norm: found });
            }
            factor = clipping(found, max_norm);
            report.clipped = Some(Reported::Known(factor));
        }
        match bad {
            Some((param, count)) if skips => {
                report.skipped = Some(Skipped::NonFinite { param, count });
                report.clipped = None;
                if let (Some(scaler), GradState::Raw) = (&mut self.config.scaler, state) {
                    scaler.update(true);
                }
                Ok(None)
            }
            Some((param, count)) if self.non_finite == NonFinitePolicy::Error => {
                Err(Error::NonFinite { param, count })
            }
            _ => Ok(Some(inverse * factor)),
        }
    }

    /// Returns the first state that is quantised and holds a NaN or an infinity, where the policy looks for it.
    ///
    /// # Errors
    /// When a device or a rank fails.
    pub(crate) fn corrupt_state(
        &mut self,
        engine: &Engine,
        group: &ProcessGroup,
        bindings: &[Binding<'_>],
    ) -> Result<Option<(String, &'static str)>> {
        match self.non_finite {
            NonFinitePolicy::Propagate => Ok(None),
            _ => self.stats.corrupt_state(engine, group, bindings),
        }
    }

    /// Returns what the gradients of the step being taken are multiplied by on the device, and its place.
    pub(crate) fn take_factor(&mut self) -> Option<(Arc<Storage>, usize)> {
        Some((self.factor.take()?, FACTOR))
    }

    /// Updates the loss scale after a step.
    pub(crate) fn advance(&mut self) {
        if let Some(scaler) = &mut self.config.scaler {
            scaler.update(false);
        }
    }

    /// Writes what a step depends on of it, in a line.
    pub(crate) fn fingerprint(&self, text: &mut String) -> fmt::Result {
        writeln!(text, "non_finite={:?}", self.non_finite)
    }

    /// Returns the compute type, the p of the norm and the largest one, where the gradients of a step can be clipped
    /// on the device. Nobody decides by the norm on the host then.
    fn clips_on_device(&self, engine: &Engine, grads: Grads<'_, '_>) -> Option<(Compute, f64, f64)> {
        let GradientConfig { clip, scaler: None, .. } = &self.config else { return None };
        let Some(Clip::Norm { max_norm, norm_type, error_if_nonfinite: false }) = *clip else { return None };
        let orders = [1.0, 2.0, f64::INFINITY];
        let setup = &engine.setup;
        let able = orders.contains(&norm_type) && !setup.is_offloaded() && self.clipping.is_able(setup);
        if !able || self.non_finite != NonFinitePolicy::Propagate || engine.gradients_are_local() {
            return None;
        }
        let mut given = (0..grads.bindings.len()).filter(|&i| !grads.bindings[i].grad.is_none());
        let compute = grads.compute(given.next()?);
        given.all(|i| grads.compute(i) == compute).then_some((compute, norm_type, max_norm))
    }

    /// Returns the plan with which the last gradients of a window are added and inspected in one pass. Its sums stay
    /// on the device. None unless that is all that clipping needs.
    fn stats_on_device(&mut self, engine: &Engine, grads: Grads<'_, '_>) -> Option<(Compute, Plan)> {
        let (compute, ..) =
            self.clips_on_device(engine, grads).filter(|(_, norm_type, _)| *norm_type == 2.0)?;
        Some((compute, self.clipping.take_plan(&*engine.setup.backend)))
    }

    /// Returns whether a norm that is to clip is computed on the device, by separate passes.
    fn has_passes_of_norm(&self, engine: &Engine, grads: Grads<'_, '_>) -> bool {
        self.clips_on_device(engine, grads).is_some_and(|(_, norm_type, _)| norm_type != 2.0)
    }

    /// Clips the gradients of the step by their norm without waiting for it, if the device can. Returns the norm and the
    /// factor, which the step's passes take.
    fn clip_on_device(&mut self, engine: &Engine, grads: Grads<'_, '_>) -> Result<Option<[Reported; 2]>> {
        let Some((compute, norm_type, max_norm)) = self.clips_on_device(engine, grads) else {
            return Ok(None);
        };
        let found = self.clipping.clip(&engine.setup, grads, compute, (norm_type, max_norm))?;
        let Some(found) = found else { return Ok(None) };
        self.factor = Some(Arc::clone(&found));
        let backend = &engine.setup.backend;
        let reported = |place| Reported::OnDevice(Arc::clone(backend), Arc::clone(&found), place);
        Ok(Some([reported(NORM), reported(FACTOR)]))
    }
}

/// Reduces what the ranks have found in local gradients to the first finding. That is the name of a parameter and
/// how many of its elements are not finite.
fn all_reduce_found_inf(
    engine: &Engine,
    group: &ProcessGroup,
    bindings: &[Binding<'_>],
    own: Option<(String, u64)>,
) -> Result<Option<(String, u64)>> {
    let place = |name: &str| bindings.iter().position(|binding| binding.name == name);
    let found = || own.as_ref().and_then(|(name, count)| Some([place(name)? as u64, *count]));
    let Some(all) = group.findings(engine, false, found)? else { return Ok(own) };
    let first = all.into_iter().find(|[_, count]| *count > 0);
    Ok(first.and_then(|[place, count]| Some((bindings.get(place as usize)?.name.to_owned(), count))))
}
