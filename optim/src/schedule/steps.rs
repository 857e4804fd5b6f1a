//! A factor now and then.

use super::{At, Formula, Span, stretched};
use fallline_core::math::powf;

/// The value times `gamma` every `step_size` steps: `x ← γ x` where t > 0 is a multiple of `step_size`.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub struct Step {
    /// Steps from one to the next, above 0.
    pub step_size: f64,
    /// The factor.
    pub gamma: f64,
}

impl Formula for Step {
    fn next(&self, at: &At<'_>) -> f64 {
        let now = at.step != 0.0 && at.step % self.step_size == 0.0;
        if now { at.value * self.gamma } else { at.value }
    }

    fn stretch(&mut self, epoch_length: f64) {
        self.step_size *= epoch_length;
    }

    fn scale(&mut self, factor: f64) {
        self.step_size = stretched(self.step_size, factor);
    }

    fn check(&self, _span: Span, _groups: usize) -> Result<(), String> {
        match self.step_size > 0.0 {
            true => Ok(()),
            false => Err(format!("step_size must be above 0, got {}", self.step_size)),
        }
    }
}

/// The value times `gamma` at each of the milestones, as often as it is among them: `x ← γᵏ x`.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub struct MultiStep {
    /// Steps of the range, from 0, in any order.
    pub milestones: Vec<f64>,
    /// The factor.
    pub gamma: f64,
}

impl Formula for MultiStep {
    fn next(&self, at: &At<'_>) -> f64 {
        match self.milestones.iter().filter(|&&milestone| milestone == at.step).count() {
            0 => at.value,
            times => at.value * powf(self.gamma, times as f64),
        }
    }

    fn stretch(&mut self, epoch_length: f64) {
        self.milestones.iter_mut().for_each(|milestone| *milestone *= epoch_length);
    }

    fn scale(&mut self, factor: f64) {
        self.milestones.iter_mut().for_each(|milestone| *milestone = stretched(*milestone, factor));
    }
}
