//! Weight averaging during training: EMA (exponential moving average) and SWA (equal average).
//!
//! The semantics are those of MMEngine 0.10.7's `ExponentialMovingAverage`, `MomentumAnnealingEMA` and
//! `StochasticWeightAverage`, updated after every iteration as its `EMAHook` does.

use crate::builtins::Share;

/// How weights are averaged.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Averaging {
    /// `a ← a + momentum (p − a)`.
    Exponential {
        /// The weight of the new parameters, in (0, 1): 1 minus the EMA decay.
        momentum: f64,
    },
    /// The same with the larger of `momentum` and `gamma / (gamma + t)`, t the updates so far.
    Annealed {
        /// The least weight of the new parameters, in (0, 1).
        momentum: f64,
        /// How slowly the weight falls, above 0.
        gamma: f64,
    },
    /// The equal average, SWA (Izmailov et al. 2018): the weight of the new parameters is 1 over how many there are.
    Equal,
}

/// An average of the weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Average {
    /// How they are averaged.
    pub kind: Averaging,
    /// Iterations from one update to the next, at least 1. The first iteration copies the weights.
    pub interval: u64,
}

impl Average {
    /// Returns an exponential moving average (EMA), updated at every iteration.
    ///
    /// # Errors
    /// When the momentum is not between 0 and 1.
    pub fn exponential(momentum: f64) -> Result<Average, String> {
        Average { kind: Averaging::Exponential { momentum }, interval: 1 }.checked()
    }

    /// Returns the equal average (SWA) of the parameters at every `interval`-th iteration.
    ///
    /// # Errors
    /// When the interval is 0.
    pub fn equal(interval: u64) -> Result<Average, String> {
        Average { kind: Averaging::Equal, interval }.checked()
    }

    /// The same, if its numbers are in range.
    ///
    /// # Errors
    /// Which is not.
    pub fn checked(self) -> Result<Average, String> {
        if self.interval == 0 {
            return Err("interval must be at least 1, got 0".into());
        }
        match self.kind {
            Averaging::Exponential { momentum } | Averaging::Annealed { momentum, .. }
                if !(momentum > 0.0 && momentum < 1.0) =>
            {
                Err(format!("momentum must be between 0 and 1, got {momentum}"))
            }
            Averaging::Annealed { gamma, .. } if !(gamma > 0.0 && gamma.is_finite()) => {
                Err(format!("gamma must be above 0, got {gamma}"))
            }
            _ => Ok(self),
        }
    }

    /// Returns the weight of the new parameters at an update, after `steps` iterations: 1 for a copy, none where
    /// nothing changes.
    pub(crate) fn share(&self, steps: u64) -> Option<f64> {
        if steps == 0 {
            return Some(1.0);
        }
        let share = match self.kind {
            Averaging::Exponential { momentum } => momentum,
            Averaging::Annealed { momentum, gamma } => momentum.max(gamma / (gamma + steps as f64)),
            Averaging::Equal => 1.0 / ((steps / self.interval) as f64 + 1.0),
        };
        steps.is_multiple_of(self.interval).then_some(share)
    }
}

impl Share {
    /// `torch.lerp` counts a weight from the nearer end, the equal average always from the old parameters.
    pub(crate) fn of(average: &Average, share: f64) -> Share {
        Share { share, near: share < 0.5 || average.kind == Averaging::Equal }
    }
}
