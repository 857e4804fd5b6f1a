//! Up and down again.

use super::{At, Formula, Marks, Span, stretched};
use core::f64::consts::PI;
use fallline_core::math::cos;

/// How a cycle goes from one value to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub enum Anneal {
    /// Along half a cosine.
    #[default]
    Cos,
    /// In equal steps.
    Linear,
}

/// One number for all groups, or one for each.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub enum PerGroup {
    /// For all.
    All(f64),
    /// For each, in order.
    Each(Vec<f64>),
}

impl PerGroup {
    pub(super) fn of(&self, group: usize) -> f64 {
        match self {
            PerGroup::All(value) => *value,
            PerGroup::Each(values) => values.get(group).copied().unwrap_or(f64::NAN),
        }
    }

    pub(super) fn check(&self, what: &str, groups: usize) -> Result<(), String> {
        match self {
            PerGroup::Each(values) if values.len() != groups => {
                Err(format!("{what} must have one number for each of {groups} groups, got {}", values.len()))
            }
            _ => Ok(()),
        }
    }
}

/// The 1cycle policy (Smith & Topin 2019): from `eta_max / div_factor` up to `eta_max`, and down to `eta_max /
/// div_factor / final_div_factor`. With three phases it goes down to where it started before that.
///
/// It sets the value whatever it was, so that it does not chain.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub struct OneCycle {
    /// The highest value.
    pub eta_max: PerGroup,
    /// Steps of the cycle, at least 1; the length of the range if not given.
    pub total_steps: Option<f64>,
    /// The share of the steps until the highest value, in [0, 1].
    pub pct_start: f64,
    /// How it goes from one value to the next.
    pub anneal: Anneal,
    /// The highest value over the first.
    pub div_factor: f64,
    /// The first value over the last.
    pub final_div_factor: f64,
    /// Whether it goes down to the first value before it continues to the last.
    pub three_phase: bool,
}

impl Default for OneCycle {
    fn default() -> Self {
        OneCycle {
            eta_max: PerGroup::All(0.0),
            total_steps: None,
            pct_start: 0.3,
            anneal: Anneal::Cos,
            div_factor: 25.0,
            final_div_factor: 1e4,
            three_phase: false,
        }
    }
}

impl Formula for OneCycle {
    fn next(&self, at: &At<'_>) -> f64 {
        let total = self.most_steps(at.span);
        let Marks { initial, max, min } = at.marks;
        let (initial, max, min) = (initial[at.group], max[at.group], min[at.group]);
        let up = (self.pct_start * total - 1.0, initial, max);
        let phases: &[(f64, f64, f64)] = &if self.three_phase {
            vec![up, (2.0 * self.pct_start * total - 2.0, max, initial), (total - 1.0, initial, min)]
        } else {
            vec![up, (total - 1.0, max, min)]
        };
        let mut begin = 0.0;
        let mut value = at.value;
        for &(end, from, to) in phases {
            let done = (at.step - begin) / (end - begin);
            value = match self.anneal {
                Anneal::Cos => to + (from - to) / 2.0 * (cos(PI * done) + 1.0),
                Anneal::Linear => (to - from) * done + from,
            };
            if at.step <= end {
                break;
            }
            begin = end;
        }
        value
    }

    fn stretch(&mut self, epoch_length: f64) {
        self.total_steps = self.total_steps.map(|steps| steps * epoch_length);
    }

    fn scale(&mut self, factor: f64) {
        self.total_steps = self.total_steps.map(|steps| stretched(steps, factor));
    }

    fn check(&self, _span: Span, groups: usize) -> Result<(), String> {
        if self.total_steps.is_some_and(|steps| steps.is_nan() || steps < 1.0) {
            return Err("total_steps must be at least 1".into());
        }
        if !(0.0..=1.0).contains(&self.pct_start) {
            return Err(format!("pct_start must be in [0, 1], got {}", self.pct_start));
        }
        for (name, x) in [("div_factor", self.div_factor), ("final_div_factor", self.final_div_factor)] {
            if x == 0.0 || !x.is_finite() {
                return Err(format!("{name} must be a number other than 0, got {x}"));
            }
        }
        self.eta_max.check("eta_max", groups)
    }

    fn mark(&self, marks: &mut Marks) {
        marks.max = (0..marks.initial.len()).map(|group| self.eta_max.of(group)).collect();
        marks.initial = marks.max.iter().map(|max| max / self.div_factor).collect();
        marks.min = marks.initial.iter().map(|initial| initial / self.final_div_factor).collect();
    }

    fn most_steps(&self, span: Span) -> f64 {
        self.total_steps.unwrap_or(span.length())
    }
}
