//! A constant factor.

use super::{At, Formula, NO_END, Span};

/// The value times `factor` from the first step of the range; at the last one it is what it was.
///
/// `x ← factor · x` at step 0, `x ← x / factor` at the last step.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub struct Constant {
    /// The factor, in [0, 1]; with an end of the range not 0, since it is taken back there.
    pub factor: f64,
}

impl Default for Constant {
    fn default() -> Self {
        Constant { factor: 1.0 / 3.0 }
    }
}

impl Formula for Constant {
    fn next(&self, at: &At<'_>) -> f64 {
        if at.step == 0.0 {
            at.value * self.factor
        } else if at.step == at.span.last() {
            at.value * (1.0 / self.factor)
        } else {
            at.value
        }
    }

    fn check(&self, span: Span, _groups: usize) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.factor) {
            return Err(format!("factor must be in [0, 1], got {}", self.factor));
        }
        if self.factor == 0.0 && span.end < NO_END && span.length() > 1.0 {
            return Err("factor must be above 0 where there is an end: it is taken back there".into());
        }
        Ok(())
    }
}
