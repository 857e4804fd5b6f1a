//! Half cosines.

use super::{At, Formula, Span, stretched};
use core::f64::consts::PI;
use fallline_core::math::cos;

/// The value that an annealing ends at.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub enum Minimum {
    /// An absolute value, `eta_min`.
    Value(f64),
    /// A fraction of the value that the optimizer was built with, `eta_min_ratio`.
    Ratio(f64),
}

impl Minimum {
    fn of(self, base: f64) -> f64 {
        match self {
            Minimum::Value(low) => low,
            Minimum::Ratio(ratio) => base * ratio,
        }
    }
}

/// Half a cosine from the value down to a minimum, and up again where the range is longer than the period.
/// (Loshchilov & Hutter 2017, SGDR, without its restarts.)
///
/// With T = t_max and the minimum η:
/// `x ← (1 + cos(π t / T)) / (1 + cos(π (t − 1) / T)) · (x − η) + η`.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub struct CosineAnnealing {
    /// Steps of half a period, above 0; the length of the range if not given.
    pub t_max: Option<f64>,
    /// The value at the end of half a period.
    pub minimum: Minimum,
}

impl Default for CosineAnnealing {
    fn default() -> Self {
        CosineAnnealing { t_max: None, minimum: Minimum::Value(0.0) }
    }
}

/// Returns the step of the recursive form from `step - 1` to `step` of half a period of `period` steps.
fn down(step: f64, period: f64, value: f64, low: f64) -> f64 {
    (1.0 + cos(PI * step / period)) / (1.0 + cos(PI * (step - 1.0) / period)) * (value - low) + low
}

impl Formula for CosineAnnealing {
    fn next(&self, at: &At<'_>) -> f64 {
        if at.step == 0.0 {
            return at.value;
        }
        let low = self.minimum.of(at.base);
        let period = self.t_max.unwrap_or(at.span.length());
        if (at.step - 1.0 - period).rem_euclid(2.0 * period) == 0.0 {
            // From the lowest point, where the recursive form divides by 0.
            return at.value + (at.base - low) * (1.0 - cos(PI / period)) / 2.0;
        }
        down(at.step, period, at.value, low)
    }

    fn stretch(&mut self, epoch_length: f64) {
        self.t_max = self.t_max.map(|t_max| t_max * epoch_length);
    }

    fn check(&self, _span: Span, _groups: usize) -> Result<(), String> {
        match self.t_max {
            Some(t_max) if !(t_max > 0.0 && t_max.is_finite()) => {
                Err(format!("T_max must be above 0, got {t_max}"))
            }
            _ => Ok(()),
        }
    }
}

/// Half cosines from the first value times a weight down to a minimum, one after another (Loshchilov &
/// Hutter 2017, SGDR). After the last the value stays.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub struct CosineRestart {
    /// Steps of each half cosine, above 0.
    pub periods: Vec<f64>,
    /// For each the factor of the first value.
    pub restart_weights: Vec<f64>,
    /// The value that each falls to.
    pub minimum: Minimum,
}

impl Formula for CosineRestart {
    fn next(&self, at: &At<'_>) -> f64 {
        let mut start = 0.0;
        for (&period, &weight) in self.periods.iter().zip(&self.restart_weights) {
            let step = at.step - start;
            if step == 0.0 {
                return at.base * weight;
            }
            if step < period {
                return down(step, period, at.value, self.minimum.of(at.base));
            }
            start += period;
        }
        at.value
    }

    fn stretch(&mut self, epoch_length: f64) {
        self.periods.iter_mut().for_each(|period| *period *= epoch_length);
    }

    fn scale(&mut self, factor: f64) {
        self.periods.iter_mut().for_each(|period| *period = stretched(*period, factor));
    }

    fn check(&self, _span: Span, _groups: usize) -> Result<(), String> {
        if self.periods.len() != self.restart_weights.len() {
            let (periods, weights) = (self.periods.len(), self.restart_weights.len());
            return Err(format!(
                "periods and restart_weights must have the same length, got {periods} and {weights}"
            ));
        }
        match self.periods.iter().find(|&&period| period.is_nan() || period <= 0.0) {
            Some(period) => Err(format!("periods must be above 0, got {period}")),
            None => Ok(()),
        }
    }
}
