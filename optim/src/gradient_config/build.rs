//! The gradient pipeline in Rust, one setting after another.

use super::{Clip, GradientConfig, LossScaler};
use crate::{Error, Result};

impl GradientConfig {
    /// Clips by the Euclidean norm of all gradients together, as `torch.nn.utils.clip_grad_norm_`. For other norms set
    /// [`clip`](GradientConfig::clip).
    ///
    /// # Errors
    /// [`Error::Setting`] where the norm is negative or NaN.
    pub fn clip_norm(mut self, max_norm: f64) -> Result<GradientConfig> {
        check_bound("max_norm", max_norm)?;
        self.clip = Some(Clip::Norm { max_norm, norm_type: 2.0, error_if_nonfinite: false });
        Ok(self)
    }

    /// Clips each element to `[−clip_value, clip_value]`, as `torch.nn.utils.clip_grad_value_`.
    ///
    /// # Errors
    /// [`Error::Setting`] where the value is negative or NaN.
    pub fn clip_value(mut self, clip_value: f64) -> Result<GradientConfig> {
        check_bound("clip_value", clip_value)?;
        self.clip = Some(Clip::Value { clip_value });
        Ok(self)
    }

    /// Accumulates the gradients of so many calls of a step: their mean steps.
    ///
    /// # Errors
    /// [`Error::Setting`] for 0.
    pub fn accumulate(mut self, steps: u64) -> Result<GradientConfig> {
        if steps == 0 {
            return Err(Error::Setting("accumulation steps must be at least 1, got 0".into()));
        }
        self.accumulate.accumulation_steps = steps;
        Ok(self)
    }

    /// Unscales gradients of a loss that was multiplied by this scale, and skips steps that overflow.
    pub fn loss_scale(mut self, scaler: LossScaler) -> GradientConfig {
        self.scaler = Some(scaler);
        self
    }
}

fn check_bound(what: &str, bound: f64) -> Result<()> {
    match bound >= 0.0 {
        true => Ok(()),
        false => Err(Error::Setting(format!("{what} must be 0 or more, got {bound}"))),
    }
}
