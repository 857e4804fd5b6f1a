//! Weight averaging during training: EMA (exponential moving average) and SWA (equal average).
//!
//! The semantics are those of MMEngine 0.10.7's `ExponentialMovingAverage`, `MomentumAnnealingEMA` and
//! `StochasticWeightAverage`, updated after every iteration as its `EMAHook` does.

use crate::{Error, Result};
use fallline_core::builtins::EmaWeight;

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
    /// Returns an exponential moving average with a decay, as torch, timm and optax say: `a ← decay a + (1 − decay) p`.
    ///
    /// It is [`exponential`](Average::exponential) of `1 − decay`, updated at every iteration.
    ///
    /// ```
    /// use fallline_optim::average::Average;
    /// assert_eq!(Average::ema(0.75)?, Average::exponential(0.25)?);
    /// # Ok::<(), fallline_optim::Error>(())
    /// ```
    ///
    /// # Errors
    /// When the decay is not between 0 and 1.
    pub fn ema(decay: f64) -> Result<Average> {
        if !(decay > 0.0 && decay < 1.0) {
            return Err(Error::Setting(format!("decay must be between 0 and 1, got {decay}")));
        }
        Average::exponential(1.0 - decay)
    }

    /// Returns an exponential moving average, updated at every iteration: `a ← (1 − momentum) a + momentum p`.
    ///
    /// As in MMEngine the momentum is the weight of the *new* value, usually below 0.01. Where you have a decay such as
    /// 0.999, use [`ema`](Average::ema).
    ///
    /// # Errors
    /// When the momentum is not between 0 and 1.
    pub fn exponential(momentum: f64) -> Result<Average> {
        Average { kind: Averaging::Exponential { momentum }, interval: 1 }.checked()
    }

    /// Returns the equal average (SWA) of the parameters at every `interval`-th iteration.
    ///
    /// # Errors
    /// When the interval is 0.
    pub fn equal(interval: u64) -> Result<Average> {
        Average { kind: Averaging::Equal, interval }.checked()
    }

    /// Returns what is suspicious about it: a momentum above 0.5, of which MMEngine warns too, is mostly a decay.
    pub fn warning(&self) -> Option<String> {
        match self.kind {
            Averaging::Exponential { momentum } | Averaging::Annealed { momentum, .. } if momentum > 0.5 => {
                let decay = 1.0 - momentum;
                Some(format!(
                    "the momentum of an average is the weight of the new value, usually a small number: {momentum} \
                     keeps {decay:.3} of the average at each update (a decay of {momentum} is a momentum of {decay:.3})"
                ))
            }
            _ => None,
        }
    }

    /// Returns the same, if its numbers are in range.
    ///
    /// # Errors
    /// Which is not.
    pub fn checked(self) -> Result<Average> {
        let refused = |problem: String| Err(Error::Setting(problem));
        if self.interval == 0 {
            return refused("interval must be at least 1, got 0".into());
        }
        match self.kind {
            Averaging::Exponential { momentum } | Averaging::Annealed { momentum, .. }
                if !(momentum > 0.0 && momentum < 1.0) =>
            {
                refused(format!("momentum must be between 0 and 1, got {momentum}"))
            }
            Averaging::Annealed { gamma, .. } if !(gamma > 0.0 && gamma.is_finite()) => {
                refused(format!("gamma must be above 0, got {gamma}"))
            }
            _ => Ok(self),
        }
    }

    /// Returns a weight as it is counted. In `torch.lerp` that is from the nearer end, in the equal average always from
    /// the old parameters.
    pub(crate) fn ema_weight(&self, weight: f64) -> EmaWeight {
        EmaWeight { weight, from_old_side: weight < 0.5 || self.kind == Averaging::Equal }
    }

    /// Returns the weight of the new parameters at an update, after `steps` iterations: 1 for a copy, none where
    /// nothing changes.
    pub(crate) fn weight(&self, steps: u64) -> Option<f64> {
        if steps == 0 {
            return Some(1.0);
        }
        let weight = match self.kind {
            Averaging::Exponential { momentum } => momentum,
            Averaging::Annealed { momentum, gamma } => momentum.max(gamma / (gamma + steps as f64)),
            Averaging::Equal => 1.0 / ((steps / self.interval) as f64 + 1.0),
        };
        steps.is_multiple_of(self.interval).then_some(weight)
    }
}
