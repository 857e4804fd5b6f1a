//! The configuration of the gradient pipeline (MMEngine's optimizer wrapper): accumulation, clipping, loss scaling.
//!
//! The semantics are those of MMEngine 0.10.7's `OptimWrapper` and `AmpOptimWrapper` with torch 2.15's
//! `clip_grad_norm_`, `clip_grad_value_` and `GradScaler`. A [`Driver`](crate::Driver) is given a [`GradientConfig`]
//! ([`Driver::with_gradients`](crate::Driver::with_gradients)) and does it in each [`step`](crate::Optimizer::step):
//!
//! 1. Each call is an iteration. Its gradients, divided by the iterations of the window, are added to the window's.
//!    In all but the window's last iteration the step ends here ([`StepReport::accumulated`](crate::StepReport)).
//! 2. With a loss scale, the training loop's gradients are those of the loss times
//!    [`Driver::loss_scale`](crate::Driver::loss_scale); they are unscaled by it. If one of them is NaN or infinite,
//!    the step is skipped, and a dynamic scale shrinks; after enough steps without one it grows.
//! 3. By norm, gradients are multiplied by min(1, max_norm / (norm + 1e-6)), with the norm over all parameters
//!    together; by value, each element is clamped.
//!
//! Unscaling and clipping by norm are one factor of the gradient in the update's own pass. The norm and the check for
//! NaN and infinity are one read of all gradients. Of a window it is the one in which its last gradient is added.
//! Where nothing inspects gradients, the last one is added in the update's own pass too, and clipping by value is
//! done there. Accumulation over several iterations and clipping by value need separate gradients: a buffer of each
//! parameter's size in the compute type. A step that fails when it closes a window leaves parameters and states as
//! they were, and drops the window's gradients.

mod build;
pub(crate) mod loss_scaler;

pub use loss_scaler::LossScaler;

/// The gradient pipeline: accumulation, clipping, loss scaling. By default nothing.
///
/// ```
/// use fallline_optim::gradient_config::{GradientConfig, LossScaler};
/// let config = GradientConfig::default().accumulate(4)?.clip_norm(1.0)?.loss_scale(LossScaler::default());
/// assert_eq!(config.accumulate.accumulation_steps, 4);
/// assert!(GradientConfig::default().clip_norm(-1.0).is_err());
/// # Ok::<(), fallline_optim::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct GradientConfig {
    /// Over how many iterations gradients are accumulated.
    pub accumulate: Accumulate,
    /// How gradients are clipped.
    pub clip: Option<Clip>,
    /// The factor of the loss that gradients come with.
    pub scaler: Option<LossScaler>,
}

/// Over how many iterations gradients are accumulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accumulate {
    /// The iterations of a window, at least 1.
    pub accumulation_steps: u64,
    /// The iterations of training altogether, if known. The last window is then closed at the last iteration, and
    /// divides by as many as it has.
    pub total: Option<u64>,
}

impl Default for Accumulate {
    fn default() -> Self {
        Accumulate { accumulation_steps: 1, total: None }
    }
}

impl Accumulate {
    /// Returns how many iterations the window has that iteration `done` (counted from 0) belongs to.
    pub(crate) fn window(&self, done: u64) -> u64 {
        let steps = self.accumulation_steps.max(1);
        match self.total {
            Some(total) if done < total && done >= total - total % steps => total % steps,
            _ => steps,
        }
    }

    /// Returns whether a window closes when `done` iterations are over.
    pub(crate) fn is_last_micro_step(&self, done: u64) -> bool {
        done.is_multiple_of(self.accumulation_steps.max(1)) || self.total == Some(done)
    }
}

/// How gradients are clipped before a step.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Clip {
    /// By the norm of all gradients together, as `torch.nn.utils.clip_grad_norm_`.
    Norm {
        /// The largest norm.
        max_norm: f64,
        /// The p of the norm: 2 for the Euclidean one, `f64::INFINITY` for the largest magnitude; any number.
        /// Multiples of 1/4 from 0 to below 32, and both infinities, are computed where the gradients are. Others
        /// need powers that no device has bit for bit, and are computed on the host, one parameter after another.
        norm_type: f64,
        /// Whether a norm that is NaN or infinite is an error instead of a factor.
        error_if_nonfinite: bool,
    },
    /// Element by element to [−clip_value, clip_value], as `torch.nn.utils.clip_grad_value_`.
    Value {
        /// The largest magnitude.
        clip_value: f64,
    },
}

impl GradientConfig {
    /// Returns whether a step is what the optimizer does alone.
    pub(crate) fn is_plain(&self) -> bool {
        self.accumulate.accumulation_steps <= 1 && self.clip.is_none() && self.scaler.is_none()
    }

    /// Returns what unscales gradients: 1 over the loss scale.
    pub(crate) fn inverse_scale(&self) -> f64 {
        self.scaler.as_ref().map_or(1.0, |scaler| scaler.inverse())
    }

    /// Returns whether gradients have separate buffers.
    pub(crate) fn buffers(&self) -> bool {
        self.accumulate.accumulation_steps > 1 || matches!(self.clip, Some(Clip::Value { .. }))
    }
}

/// Returns the p-norm of numbers, as `torch.linalg.vector_norm` defines it.
pub(crate) fn norm(values: impl Iterator<Item = f64>, p: f64) -> f64 {
    // NaN wins over everything, as in torch.
    let pick = |a: f64, b: f64, first: bool| {
        if a.is_nan() || b.is_nan() {
            f64::NAN
        } else if first {
            a
        } else {
            b
        }
    };
    let mut values = values.map(f64::abs);
    if p == f64::INFINITY {
        return values.fold(0.0, |a, b| pick(a, b, a > b));
    }
    if p == f64::NEG_INFINITY {
        return values.next().map_or(0.0, |start| values.fold(start, |a, b| pick(a, b, a < b)));
    }
    if p == 0.0 {
        return values.filter(|x| *x != 0.0).count() as f64;
    }
    let sum = |each: &dyn Fn(f64) -> f64, values: &mut dyn Iterator<Item = f64>| {
        values.fold(0.0, |sum, x| sum + each(x))
    };
    if p == 1.0 {
        sum(&|x| x, &mut values)
    } else if p == 2.0 {
        sum(&|x| x * x, &mut values).sqrt()
    } else {
        fallline_core::math::powf(sum(&|x| fallline_core::math::powf(x, p), &mut values), 1.0 / p)
    }
}
