//! Schedules: hyperparameters that change from step to step, as MMEngine 0.10.7 computes them.
//!
//! A schedule is a chain of schedulers. Each multiplies what the ones before it left, within its own range
//! of steps, so that a linear warm-up and a cosine after it are two entries. Values are computed in the
//! recursive form that MMEngine uses, in the same order of operations.

use crate::hyper::Value;
use crate::{Error, Optimizer, Result};
use core::f64::consts::PI;
use fallline_core::math::cos;
use serde::{Deserialize, Serialize};

/// How a scheduler changes its hyperparameter.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Curve {
    /// From `start_factor` to `end_factor` times the value, in equal steps.
    Linear {
        /// The factor at the first step, in [0, 1].
        start_factor: f64,
        /// The factor at the last step, in [0, 1].
        end_factor: f64,
    },
    /// Half a cosine from the value down to a minimum.
    CosineAnnealing {
        /// Steps of half a period; the length of the range if not given.
        t_max: Option<u64>,
        /// The value at the end.
        minimum: Minimum,
    },
}

/// The value that an annealing ends at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Minimum {
    /// An absolute value.
    Value(f64),
    /// A fraction of the value that the optimizer was built with.
    Ratio(f64),
}

/// One entry of a chain.
#[derive(Clone, Debug, PartialEq)]
pub struct SchedulerSpec {
    /// How the value changes.
    pub curve: Curve,
    /// The hyperparameter, `lr` mostly.
    pub param: String,
    /// The first step of the range.
    pub begin: u64,
    /// The step after the last one; `None` for no end.
    pub end: Option<u64>,
    /// Whether a step is an epoch.
    pub by_epoch: bool,
}

impl SchedulerSpec {
    /// The same with steps that are iterations: the range and the period in epochs times `epoch_length`.
    pub fn in_iterations(mut self, epoch_length: u64) -> SchedulerSpec {
        if self.by_epoch {
            self.by_epoch = false;
            self.begin *= epoch_length;
            self.end = self.end.map(|end| end * epoch_length);
            if let Curve::CosineAnnealing { t_max: Some(t_max), .. } = &mut self.curve {
                *t_max *= epoch_length;
            }
        }
        self
    }

    fn check(&self, at: usize) -> Result<()> {
        let wrong = |problem: String| Err(Error::Schedule { at: format!("param_scheduler[{at}]"), problem });
        if self.end.is_some_and(|end| end <= self.begin) {
            return wrong(format!(
                "end must be above begin, got begin {} and end {:?}",
                self.begin, self.end
            ));
        }
        match &self.curve {
            Curve::Linear { start_factor, end_factor } => {
                for (name, x) in [("start_factor", start_factor), ("end_factor", end_factor)] {
                    if !(0.0..=1.0).contains(x) {
                        return wrong(format!("{name} must be in [0, 1], got {x}"));
                    }
                }
            }
            Curve::CosineAnnealing { t_max, .. } => {
                if t_max.is_none() && self.end.is_none() {
                    return wrong("a cosine needs T_max or an end".into());
                }
                if *t_max == Some(0) {
                    return wrong("T_max must be at least 1, got 0".into());
                }
            }
        }
        Ok(())
    }
}

/// A scheduler at work.
#[derive(Clone, Debug)]
struct Scheduler {
    spec: SchedulerSpec,
    /// The values that the groups were built with.
    base: Vec<f64>,
    progress: Progress,
}

/// How far a scheduler is: what a checkpoint keeps of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Progress {
    /// Steps taken, from 0 at the first value.
    global_step: u64,
    /// Steps taken within the range.
    last_step: Option<u64>,
}

impl Scheduler {
    /// The next value of a group that now has `value`.
    fn next(&self, step: u64, value: f64, base: f64) -> f64 {
        let step_f = step as f64;
        match &self.spec.curve {
            Curve::Linear { start_factor, .. } if step == 0 => value * start_factor,
            Curve::Linear { start_factor, end_factor } => {
                // Without an end the total is as good as infinite: the factor stays what it is.
                let total = self.spec.end.map_or(f64::INFINITY, |end| (end - self.spec.begin) as f64 - 1.0);
                let slope = end_factor - start_factor;
                value * (1.0 + slope / (total * start_factor + (step_f - 1.0) * slope))
            }
            Curve::CosineAnnealing { .. } if step == 0 => value,
            Curve::CosineAnnealing { t_max, minimum } => {
                let low = match *minimum {
                    Minimum::Value(low) => low,
                    Minimum::Ratio(ratio) => base * ratio,
                };
                let period = t_max.or(self.spec.end.map(|end| end - self.spec.begin)).unwrap_or(u64::MAX);
                let t = period as f64;
                let risen = i128::from(step) - 1 - i128::from(period);
                if risen.rem_euclid(2 * i128::from(period)) == 0 {
                    return value + (base - low) * (1.0 - cos(PI / t)) / 2.0;
                }
                (1.0 + cos(PI * step_f / t)) / (1.0 + cos(PI * (step_f - 1.0) / t)) * (value - low) + low
            }
        }
    }

    /// Sets the value at the current step, if that is in the range.
    fn apply(&mut self, optimizer: &mut dyn Optimizer) -> Result<()> {
        let now = self.progress.global_step;
        if now < self.spec.begin || self.spec.end.is_some_and(|end| now >= end) {
            return Ok(());
        }
        let step = self.progress.last_step.map_or(0, |last| last + 1);
        for (group, &base) in self.base.iter().enumerate() {
            let value = number(optimizer, group, &self.spec.param)?;
            let next = self.next(step, value, base);
            optimizer.set(group, &[(&self.spec.param, Value::Float(next))])?;
        }
        self.progress.last_step = Some(step);
        Ok(())
    }
}

/// A group's numeric hyperparameter.
fn number(optimizer: &dyn Optimizer, group: usize, name: &str) -> Result<f64> {
    optimizer.get(group, name).and_then(|value| value.as_f64()).ok_or_else(|| Error::Schedule {
        at: "param_scheduler".into(),
        problem: format!("{} has no numeric hyperparameter {name:?} to schedule", optimizer.name()),
    })
}

/// A chain of schedulers that drives an optimizer's hyperparameters.
///
/// Building it sets the values of the first step; after each step of the optimizer call
/// [`after_iteration`](Schedule::after_iteration), after each epoch also
/// [`after_epoch`](Schedule::after_epoch).
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    schedulers: Vec<Scheduler>,
}

impl Schedule {
    /// Builds the chain and sets the first values.
    ///
    /// # Errors
    /// [`Error::Schedule`] names the entry at fault; the optimizer is then as it was.
    pub fn new(specs: Vec<SchedulerSpec>, optimizer: &mut dyn Optimizer) -> Result<Schedule> {
        let mut schedulers = Vec::new();
        for (at, spec) in specs.into_iter().enumerate() {
            spec.check(at)?;
            let base: Result<Vec<f64>> =
                (0..optimizer.groups()).map(|group| number(optimizer, group, &spec.param)).collect();
            let progress = Progress { global_step: 0, last_step: None };
            schedulers.push(Scheduler { spec, base: base?, progress });
        }
        for scheduler in &mut schedulers {
            scheduler.apply(optimizer)?;
        }
        Ok(Schedule { schedulers })
    }

    /// Moves on by one iteration.
    ///
    /// # Errors
    /// When the optimizer refuses a value.
    pub fn after_iteration(&mut self, optimizer: &mut dyn Optimizer) -> Result<()> {
        self.advance(false, optimizer)
    }

    /// Moves on by one epoch.
    ///
    /// # Errors
    /// When the optimizer refuses a value.
    pub fn after_epoch(&mut self, optimizer: &mut dyn Optimizer) -> Result<()> {
        self.advance(true, optimizer)
    }

    fn advance(&mut self, by_epoch: bool, optimizer: &mut dyn Optimizer) -> Result<()> {
        for scheduler in self.schedulers.iter_mut().filter(|scheduler| scheduler.spec.by_epoch == by_epoch) {
            scheduler.progress.global_step += 1;
            scheduler.apply(optimizer)?;
        }
        Ok(())
    }

    /// How far it is, for a checkpoint. (The values themselves are the optimizer's hyperparameters.)
    pub fn save(&self) -> serde_json::Value {
        let each = self.schedulers.iter().map(|scheduler| {
            let Progress { global_step, last_step } = scheduler.progress;
            serde_json::json!({ "global_step": global_step, "last_step": last_step })
        });
        each.collect()
    }

    /// Goes on from where [`save`](Schedule::save) was called. The optimizer's hyperparameters come from
    /// its own checkpoint.
    ///
    /// # Errors
    /// [`Error::Mismatch`] when it was saved from another chain; nothing is changed.
    pub fn load(&mut self, saved: &serde_json::Value) -> Result<()> {
        let progress: Vec<Progress> = Deserialize::deserialize(saved)
            .map_err(|error| Error::Mismatch(format!("its schedule cannot be read: {error}")))?;
        if progress.len() != self.schedulers.len() {
            let (got, expected) = (progress.len(), self.schedulers.len());
            return Err(Error::Mismatch(format!("its schedule has {got} entries, expected {expected}")));
        }
        for (scheduler, progress) in self.schedulers.iter_mut().zip(progress) {
            scheduler.progress = progress;
        }
        Ok(())
    }
}
