//! A power of what is left.

use super::{At, Formula};
use fallline_core::math::powf;

/// From the value down to `eta_min` along a power of the steps that are left.
///
/// With n steps in the range: `x ← (x − η) (1 − 1 / (n − t))ᵖ + η`, p the power; at the last step it is η.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub struct Poly {
    /// The value at the end, η.
    pub eta_min: f64,
    /// The power, p.
    pub power: f64,
}

impl Default for Poly {
    fn default() -> Self {
        Poly { eta_min: 0.0, power: 1.0 }
    }
}

impl Formula for Poly {
    fn next(&self, at: &At<'_>) -> f64 {
        if at.step == 0.0 {
            return at.value;
        }
        let left = at.span.last() - at.step + 1.0;
        (at.value - self.eta_min) * powf(1.0 - 1.0 / left, self.power) + self.eta_min
    }
}
