//! Gradients of an incremental step, which are inspected one after another.

use super::norm::norm_of_one;
use super::stats::GradStat;
use super::views::Grads;
use super::{GradState, Gradients, Inspected};
use crate::engine::Engine;
use crate::gradient_config::{Clip, norm};
use crate::params::slots::Slot;
use crate::ranks::process_group::ProcessGroup;
use crate::{Binding, Error, NonFinitePolicy, Result, Skipped, StepReport};
use fallline_core::reduction::tree_reduce;

/// The orders of norms that follow exactly from the norms of each gradient.
const ORDERS: [f64; 5] = [0.0, 1.0, 2.0, f64::INFINITY, f64::NEG_INFINITY];

impl Gradients {
    /// Returns whether all gradients of a step must be inspected before the first parameter changes.
    pub(crate) fn needs_inspection(&self) -> bool {
        !self.config.is_plain() || self.non_finite != NonFinitePolicy::Propagate
    }

    /// Returns why all gradients of a step must be inspected first.
    pub(crate) fn why_inspected(&self) -> &'static str {
        match (&self.config.scaler, &self.config.clip) {
            (Some(_), _) => "a loss scale skips a step by all gradients",
            (_, Some(_)) => "clipping needs all gradients, or separate buffers",
            _ if !self.config.is_plain() => "accumulation has separate buffers",
            _ => "the policy for NaN and infinity needs all gradients",
        }
    }

    /// Returns why gradients cannot be inspected one after another, if they cannot.
    pub(crate) fn refuse_incremental(&self) -> Option<String> {
        match self.config.clip {
            Some(Clip::Norm { norm_type, .. }) if !ORDERS.contains(&norm_type) => {
                Some(format!("a norm of order {norm_type} needs the largest of all gradients first"))
            }
            _ => None,
        }
    }

    /// Forgets what was inspected.
    pub(crate) fn begin_incremental(&mut self) {
        self.stats.each.clear();
        self.stats.corrupt_state = None;
    }

    /// Inspects the only gradient that is bound, whose slot is the first.
    ///
    /// # Errors
    /// When a device fails.
    pub(crate) fn inspect_one(
        &mut self,
        engine: &mut Engine,
        group: &ProcessGroup,
        bindings: &[Binding<'_>],
    ) -> Result<()> {
        if let Some(found) = self.corrupt_state(engine, group, bindings)?
            && self.stats.corrupt_state.as_ref().is_none_or(|(known, _)| found.0 < *known)
        {
            self.stats.corrupt_state = Some(found);
        }
        if self.needs_stats() && bindings.iter().any(|binding| !binding.grad.is_none()) {
            let grads = Grads { slots: engine.slots.range_of(0..bindings.len()), bindings };
            let inverse = self.config.inverse_scale();
            self.stats.done = false;
            let (euclidean, _) = self.stats.inspect(engine, grads, inverse)?;
            let sums = self.stats.found.first().copied().unwrap_or_default();
            let norm = match self.config.clip {
                Some(Clip::Norm { norm_type, .. }) if norm_type != 2.0 && !euclidean.is_nan() => {
                    norm_of_one(engine, grads, norm_type, inverse)?
                }
                _ => euclidean,
            };
            let place = self.stats.each.len() as u32;
            self.stats.each.push(GradStat { sums, norm });
            engine.slots.range(0..1).iter_mut().for_each(|slot| slot.progress.found = Some(place));
        }
        Ok(())
    }

    /// Decides upon a step of the gradients that were inspected. Returns their factor, or none where the step is to be
    /// skipped.
    ///
    /// # Errors
    /// Gradients, states or a norm that are not finite where that is an error.
    pub(crate) fn conclude(&mut self, engine: &Engine, report: &mut StepReport) -> Result<Option<f64>> {
        report.loss_scale = self.config.scaler.as_ref().map(|scaler| scaler.scale());
        let mut factor = self.config.inverse_scale();
        if self.needs_stats() {
            let mut found: Vec<(&Slot, GradStat)> = engine
                .slots
                .iter()
                .filter_map(|slot| Some((slot, *self.stats.each.get(slot.progress.found? as usize)?)))
                .collect();
            found.sort_unstable_by(|one, other| one.0.name.cmp(&other.0.name));
            let euclidean = tree_reduce(found.iter().map(|(_, one)| one.sums[1])).sqrt();
            let bad = found.iter().find(|(_, one)| one.sums[0] > 0.0);
            let bad = bad.map(|(slot, one)| (slot.name.clone(), one.sums[0] as u64));
            let norms: Vec<f64> = found.iter().map(|(_, one)| one.norm).collect();
            let inspected = Inspected { euclidean, bad, clip: self.config.clip };
            let norm_of_all = |p: f64| Ok(norm(norms.into_iter(), p));
            match self.decide(GradState::Raw, inspected, norm_of_all, report)? {
                Some(decided) => factor = decided,
                None => return Ok(None),
            }
        }
        let Some((param, state)) = self.stats.corrupt_state.take() else { return Ok(Some(factor)) };
        if self.non_finite == NonFinitePolicy::Error {
            return Err(Error::PoisonedState { param, state });
        }
        report.skipped = Some(Skipped::PoisonedState { param, state });
        Ok(None)
    }
}
