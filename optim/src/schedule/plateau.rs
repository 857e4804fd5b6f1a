//! A factor when a metric stops improving.

use super::one_cycle::PerGroup;
use super::{At, Formula, NO_END, Span};

/// Which metrics are better, MMEngine's `rule`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub enum Direction {
    /// Smaller ones.
    #[default]
    Less,
    /// Larger ones.
    Greater,
}

/// By how much a metric must be better to count, MMEngine's `threshold` and `threshold_rule`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub enum Threshold {
    /// By this share of the best one.
    Relative(f64),
    /// By this much.
    Absolute(f64),
}

/// The value times `factor`, but at least `min_value`, when the metric has not been better for more than
/// `patience` observations ([`Schedule::observe`](super::Schedule::observe)).
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub struct ReduceOnPlateau {
    /// The metric's name.
    pub monitor: String,
    /// Which metrics are better.
    pub direction: Direction,
    /// The factor, below 1.
    pub factor: f64,
    /// Observations without a better one that are put up with.
    pub patience: u64,
    /// By how much one must be better.
    pub threshold: Threshold,
    /// Observations after a reduction during which none counts as bad.
    pub cooldown: u64,
    /// The least value.
    pub min_value: PerGroup,
    /// A reduction by no more than this is not made.
    pub eps: f64,
}

impl Default for ReduceOnPlateau {
    fn default() -> Self {
        ReduceOnPlateau {
            monitor: "loss".into(),
            direction: Direction::Less,
            factor: 0.1,
            patience: 10,
            threshold: Threshold::Relative(1e-4),
            cooldown: 0,
            min_value: PerGroup::All(0.0),
            eps: 1e-8,
        }
    }
}

/// What has been observed: what a checkpoint keeps.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Observed {
    /// The best metric; none before the first.
    best: Option<f64>,
    bad: u64,
    cooling: u64,
}

impl Observed {
    pub(super) fn new() -> Observed {
        Observed { best: None, bad: 0, cooling: 0 }
    }
}

impl ReduceOnPlateau {
    fn is_better(&self, metric: f64, best: f64) -> bool {
        match (self.direction, self.threshold) {
            (Direction::Less, Threshold::Relative(by)) => metric < best * (1.0 - by),
            (Direction::Less, Threshold::Absolute(by)) => metric < best - by,
            (Direction::Greater, Threshold::Relative(by)) => metric > best * (by + 1.0),
            (Direction::Greater, Threshold::Absolute(by)) => metric > best + by,
        }
    }

    /// Observes a metric. Returns whether the value is to be reduced now.
    pub(super) fn observe(&self, metric: f64, seen: &mut Observed) -> bool {
        // MMEngine begins with its number for infinity.
        let worst = if self.direction == Direction::Less { NO_END } else { -NO_END };
        if self.is_better(metric, seen.best.unwrap_or(worst)) {
            seen.best = Some(metric);
            seen.bad = 0;
        } else {
            seen.bad += 1;
        }
        if seen.cooling > 0 {
            seen.cooling -= 1;
            seen.bad = 0;
        }
        let reduce = seen.bad > self.patience;
        if reduce {
            seen.cooling = self.cooldown;
            seen.bad = 0;
        }
        reduce
    }
}

impl Formula for ReduceOnPlateau {
    /// Returns the value after a reduction.
    fn next(&self, at: &At<'_>) -> f64 {
        let (reduced, least) = (at.value * self.factor, self.min_value.of(at.group));
        let reduced = if least > reduced { least } else { reduced };
        if at.value - reduced > self.eps { reduced } else { at.value }
    }

    fn check(&self, _span: Span, groups: usize) -> Result<(), String> {
        if self.factor.is_nan() || self.factor >= 1.0 {
            return Err(format!("factor must be below 1, got {}", self.factor));
        }
        let (Threshold::Relative(by) | Threshold::Absolute(by)) = self.threshold;
        if by.is_nan() || by < 0.0 {
            return Err(format!("threshold must be 0 or more, got {by}"));
        }
        self.min_value.check("min_value", groups)
    }
}
