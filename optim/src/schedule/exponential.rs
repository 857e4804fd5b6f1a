//! A factor each step.

use super::{At, Formula};
use fallline_core::math::powf;

/// The value times `gamma` at every step of the range but the first: `x ← γ x`.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub struct Exponential {
    /// The factor.
    pub gamma: f64,
}

impl Formula for Exponential {
    fn next(&self, at: &At<'_>) -> f64 {
        if at.step == 0.0 { at.value } else { at.value * self.gamma }
    }

    fn scale(&mut self, factor: f64) {
        // A root of what is negative is no number: it stays what it is.
        if self.gamma > 0.0 {
            self.gamma = powf(self.gamma, 1.0 / factor);
        }
    }
}
