//! From one factor to another.

use super::{At, Formula, Span};

/// The value times a factor that goes from `start_factor` to `end_factor` in equal steps over the range.
///
/// With a = start_factor, b = end_factor and n steps in the range: `x ← a · x` at step 0, then
/// `x ← x · (1 + (b − a) / ((n − 1) a + (t − 1)(b − a)))`.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub struct Linear {
    /// The factor at the first step, in [0, 1]; above 0 where the range has more than one step.
    pub start_factor: f64,
    /// The factor at the last step, in [0, 1].
    pub end_factor: f64,
}

impl Default for Linear {
    fn default() -> Self {
        Linear { start_factor: 1.0 / 3.0, end_factor: 1.0 }
    }
}

impl Formula for Linear {
    fn next(&self, at: &At<'_>) -> f64 {
        if at.step == 0.0 {
            return at.value * self.start_factor;
        }
        let slope = self.end_factor - self.start_factor;
        at.value * (1.0 + slope / (at.span.last() * self.start_factor + (at.step - 1.0) * slope))
    }

    fn check(&self, span: Span, _groups: usize) -> Result<(), String> {
        for (name, x) in [("start_factor", self.start_factor), ("end_factor", self.end_factor)] {
            if !(0.0..=1.0).contains(&x) {
                return Err(format!("{name} must be in [0, 1], got {x}"));
            }
        }
        if self.start_factor == 0.0 && span.length() > 1.0 {
            return Err("start_factor must be above 0: each value is computed from the one before".into());
        }
        Ok(())
    }
}
