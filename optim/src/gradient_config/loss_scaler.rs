//! The factor of the loss that keeps small gradients in the range of a 16-bit type.

#[cfg(feature = "checkpoints")]
pub(crate) mod persist;

use crate::{Error, Result};
use fallline_core::math::single;

/// A loss scale, as torch 2.15's `GradScaler` keeps it: in `f32`.
#[derive(Clone, Debug, PartialEq)]
pub struct LossScaler {
    scale: f64,
    /// Steps without a gradient that is not finite since the scale last changed.
    steps: u64,
    /// None for one that stays.
    dynamic: Option<Dynamic>,
}

/// How a dynamic scale changes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Dynamic {
    growth_factor: f64,
    backoff_factor: f64,
    growth_interval: u64,
}

impl LossScaler {
    /// Returns a scale that stays as it is. Steps with gradients that are not finite are skipped, unless they are to
    /// [fail](crate::NonFinitePolicy::Error).
    ///
    /// # Errors
    /// When it is not a number above 0.
    pub fn fixed(scale: f64) -> Result<LossScaler> {
        match scale > 0.0 && single(scale).is_finite() && single(scale) > 0.0 {
            true => Ok(LossScaler { scale: single(scale), steps: 0, dynamic: None }),
            false => refused(format!("a loss scale must be above 0 and finite in f32, got {scale}")),
        }
    }

    /// Returns a scale that is multiplied by `growth_factor` after `growth_interval` steps without a gradient that is
    /// not finite, and by `backoff_factor` when there is one.
    ///
    /// # Errors
    /// When the scale is not above 0, `growth_factor` not above 1, `backoff_factor` not in (0, 1) or `growth_interval`
    /// is 0.
    pub fn dynamic(
        scale: f64,
        growth_factor: f64,
        backoff_factor: f64,
        growth_interval: u64,
    ) -> Result<LossScaler> {
        if !(growth_factor > 1.0 && growth_factor.is_finite()) {
            return refused(format!("growth_factor must be above 1, got {growth_factor}"));
        }
        if !(backoff_factor > 0.0 && backoff_factor < 1.0) {
            return refused(format!("backoff_factor must be between 0 and 1, got {backoff_factor}"));
        }
        if growth_interval == 0 {
            return refused("growth_interval must be at least 1, got 0".into());
        }
        let dynamic = Some(Dynamic { growth_factor, backoff_factor, growth_interval });
        Ok(LossScaler { dynamic, ..LossScaler::fixed(scale)? })
    }

    /// Returns the factor of the loss.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Returns whether it adapts to the gradients.
    pub fn is_dynamic(&self) -> bool {
        self.dynamic.is_some()
    }

    /// Returns what gradients are multiplied by.
    pub(crate) fn inverse(&self) -> f64 {
        single(1.0 / self.scale)
    }

    /// Updates the scale by whether a step found what is not finite.
    pub(crate) fn update(&mut self, found: bool) {
        let Some(Dynamic { growth_factor, backoff_factor, growth_interval }) = self.dynamic else { return };
        if found {
            self.scale = single(self.scale * backoff_factor);
            self.steps = 0;
            return;
        }
        self.steps += 1;
        if self.steps == growth_interval {
            let grown = single(self.scale * growth_factor);
            if grown.is_finite() {
                self.scale = grown;
            }
            self.steps = 0;
        }
    }
}

impl Default for LossScaler {
    /// Returns torch's: from 65,536, doubled after 2,000 good steps, halved at a bad one.
    fn default() -> Self {
        let dynamic = Dynamic { growth_factor: 2.0, backoff_factor: 0.5, growth_interval: 2000 };
        LossScaler { scale: 65536.0, steps: 0, dynamic: Some(dynamic) }
    }
}

fn refused(problem: String) -> Result<LossScaler> {
    Err(Error::Setting(problem))
}
