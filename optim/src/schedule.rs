//! Schedules: hyperparameters that change from step to step, as MMEngine 0.10.7 computes them.
//!
//! A schedule is a chain of [`Scheduler`]s. Each computes the next value from the one that those before it left,
//! within its own range of steps. So a linear warm-up and a cosine after it are two entries. Values are computed in
//! the recursive form that MMEngine uses, in the same order of operations.
//!
//! A schedule counts calls of [`Schedule::after_iteration`]: iterations of the loop, as in MMEngine. Under accumulation these
//! are micro-steps, of which several make one update.
//!
//! ```
//! use fallline_optim::schedule::{CosineAnnealing, Linear, Numbers, Schedule, Scheduler};
//! let mut numbers = Numbers::new([("lr", 0.4)]);
//! let mut schedule = Schedule::new(
//!     vec![
//!         Scheduler::of("lr", Linear { start_factor: 0.5, end_factor: 1.0 }).between(0, 3),
//!         Scheduler::of("lr", CosineAnnealing::default()).between(3, 5),
//!     ],
//!     &mut numbers,
//! )?;
//! let mut rates = Vec::new();
//! for _ in 0..5 {
//!     rates.push(numbers["lr"]);
//!     schedule.after_iteration(&mut numbers)?;
//! }
//! assert_eq!(rates, [0.2, 0.30000000000000004, 0.4, 0.4, 0.2]);
//! # Ok::<(), fallline_optim::Error>(())
//! ```

mod chain;
mod constant;
mod cosine;
mod exponential;
mod linear;
mod one_cycle;
mod plateau;
mod poly;
mod steps;
mod values;

pub use chain::Schedule;
pub use constant::Constant;
pub use cosine::{CosineAnnealing, CosineRestart, Minimum};
pub use exponential::Exponential;
pub use linear::Linear;
pub use one_cycle::{Anneal, OneCycle, PerGroup};
pub use plateau::{Direction, ReduceOnPlateau, Threshold};
pub use poly::Poly;
pub use steps::{MultiStep, Step};
pub use values::{Numbers, Scheduled, Target};

/// MMEngine's value for 'no end', which enters formulas as a number.
const NO_END: f64 = 1e9;

/// How a scheduler changes its hyperparameter: one of MMEngine's classes.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Curve {
    /// A constant factor until the end of the range.
    Constant(Constant),
    /// From one factor to another in equal steps.
    Linear(Linear),
    /// A constant factor each step.
    Exponential(Exponential),
    /// A factor every so many steps.
    Step(Step),
    /// A factor at given steps.
    MultiStep(MultiStep),
    /// A power of the steps that are left.
    Poly(Poly),
    /// Half a cosine, and back.
    CosineAnnealing(CosineAnnealing),
    /// Half cosines that start again.
    CosineRestart(CosineRestart),
    /// Up and down again.
    OneCycle(OneCycle),
    /// A factor when a metric stops improving.
    ReduceOnPlateau(ReduceOnPlateau),
}

macro_rules! curves {
    ($($name:ident),*) => {
        $(impl From<$name> for Curve {
            fn from(curve: $name) -> Curve {
                Curve::$name(curve)
            }
        })*
        impl Curve {
            fn formula(&self) -> &dyn Formula {
                match self { $(Curve::$name(curve) => curve),* }
            }
            fn formula_mut(&mut self) -> &mut dyn Formula {
                match self { $(Curve::$name(curve) => curve),* }
            }
            /// Returns MMEngine's name, without the suffix `LR`, `Momentum` or `ParamScheduler`.
            pub fn name(&self) -> &'static str {
                match self { $(Curve::$name(_) => stringify!($name)),* }
            }
        }
    };
}
curves!(
    Constant,
    Linear,
    Exponential,
    Step,
    MultiStep,
    Poly,
    CosineAnnealing,
    CosineRestart,
    OneCycle,
    ReduceOnPlateau
);

/// What a curve computes the next value of a group from.
#[derive(Clone, Copy, Debug)]
struct At<'a> {
    /// Steps taken within the range: 0 for the first value.
    step: f64,
    /// The value now.
    value: f64,
    /// The value that the optimizer was built with.
    base: f64,
    /// Which group it is.
    group: usize,
    /// The range of steps.
    span: Span,
    /// What is recorded for the hyperparameter.
    marks: &'a Marks,
}

/// The formula of a curve.
trait Formula {
    /// Returns the next value of a group.
    fn next(&self, at: &At<'_>) -> f64;

    /// Counts in iterations what it counted in epochs.
    fn stretch(&mut self, _epoch_length: f64) {}

    /// Takes `factor` times as many steps for the same way.
    fn scale(&mut self, factor: f64) {
        self.stretch(factor);
    }

    /// Checks arguments against each other, the range and the number of groups.
    fn check(&self, _span: Span, _groups: usize) -> Result<(), String> {
        Ok(())
    }

    /// Records its marks of the hyperparameter, for itself and for those after it.
    fn mark(&self, _marks: &mut Marks) {}

    /// Returns the steps after which there is no value.
    fn most_steps(&self, _span: Span) -> f64 {
        f64::INFINITY
    }
}

/// What is recorded for a hyperparameter when its first scheduler is built, for each group.
#[derive(Clone, Debug, Default)]
struct Marks {
    /// The value that the optimizer was built with, or that a cycle starts from.
    initial: Vec<f64>,
    /// The ends of a cycle.
    max: Vec<f64>,
    min: Vec<f64>,
}

/// The steps at which a scheduler acts: from `begin` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Span {
    begin: f64,
    end: f64,
}

impl Span {
    fn length(self) -> f64 {
        self.end - self.begin
    }

    /// Returns the last step, counted from 0 at the first.
    fn last(self) -> f64 {
        self.end - self.begin - 1.0
    }
}

/// One entry of a chain.
///
/// Steps are integers, kept as `f64` because MMEngine's formulas take what a configuration computes
/// (`end=epochs / 2`) as it comes.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize))]
pub struct Scheduler {
    /// How the value changes.
    pub curve: Curve,
    /// Which hyperparameter.
    pub target: Target,
    /// The first step of the range.
    pub begin: f64,
    /// The step after the last one; `None` for no end.
    pub end: Option<f64>,
    /// Whether a step is an epoch.
    pub by_epoch: bool,
    /// Steps of the range that an earlier run has taken, of which there is no checkpoint; `None` for the start.
    /// The first value is then that of the step after it, computed from the value that the optimizer has.
    #[cfg_attr(feature = "checkpoints", serde(skip))]
    pub last_step: Option<u64>,
}

impl Scheduler {
    /// Returns a scheduler of a hyperparameter over all iterations.
    pub fn of(target: impl Into<Target>, curve: impl Into<Curve>) -> Scheduler {
        Scheduler {
            curve: curve.into(),
            target: target.into(),
            begin: 0.0,
            end: None,
            by_epoch: false,
            last_step: None,
        }
    }

    /// Returns the same from iteration `begin` up to, not including, `end`.
    pub fn between(self, begin: u64, end: u64) -> Scheduler {
        Scheduler { begin: begin as f64, end: Some(end as f64), ..self }
    }

    /// Returns the same with steps that are epochs.
    pub fn in_epochs(self) -> Scheduler {
        Scheduler { by_epoch: true, ..self }
    }

    /// Returns the same with steps that are iterations: everything that was counted in epochs times `epoch_length`.
    pub fn in_iterations(mut self, epoch_length: u64) -> Scheduler {
        if self.by_epoch {
            let epoch_length = epoch_length as f64;
            self.by_epoch = false;
            self.begin = (self.begin * epoch_length).trunc();
            self.end = self.end.map(|end| if end == NO_END { end } else { (end * epoch_length).trunc() });
            self.curve.formula_mut().stretch(epoch_length);
        }
        self
    }

    /// Returns the same plan over `factor` times as many steps: its range, and what the curve counts in steps or
    /// changes by each. Whole steps stay whole, and no range becomes empty.
    pub fn stretched(mut self, factor: f64) -> Scheduler {
        self.begin = stretched(self.begin, factor);
        let least = self.begin + 1.0;
        self.end = self.end.map(|end| if end == NO_END { end } else { stretched(end, factor).max(least) });
        self.curve.formula_mut().scale(factor);
        self
    }

    fn span(&self) -> Span {
        Span { begin: self.begin, end: self.end.unwrap_or(NO_END) }
    }

    fn check(&self, groups: usize) -> Result<(), String> {
        let span = self.span();
        if !(span.begin >= 0.0 && span.begin.is_finite()) {
            return Err(format!("begin must be 0 or more, got {}", span.begin));
        }
        if !(span.end > span.begin && span.end.is_finite()) {
            return Err(format!("end must be above begin, got begin {} and end {}", span.begin, span.end));
        }
        self.curve.formula().check(span, groups)
    }
}

/// Returns a number of steps times a factor, whole; the first step stays the first, and no other becomes it.
fn stretched(steps: f64, factor: f64) -> f64 {
    if steps > 0.0 { (steps * factor).round().max(1.0) } else { steps }
}

/// Returns a linear warm-up over `warm_up` iterations, then half a cosine from there down to 0 at iteration `total`:
/// what most runs use. The warm-up starts at `1 / warm_up` of the learning rate.
///
/// ```
/// use fallline_optim::schedule::{Numbers, Schedule, warmup_cosine};
/// let mut numbers = Numbers::new([("lr", 0.1)]);
/// let mut schedule = Schedule::new(warmup_cosine(10, 100), &mut numbers)?;
/// assert_eq!(numbers["lr"], 0.1 * 0.1);
/// # Ok::<(), fallline_optim::Error>(())
/// ```
pub fn warmup_cosine(warm_up: u64, total: u64) -> Vec<Scheduler> {
    let linear = Linear { start_factor: 1.0 / warm_up.max(1) as f64, end_factor: 1.0 };
    let rise = Scheduler::of("lr", linear).between(0, warm_up);
    let fall = Scheduler::of("lr", CosineAnnealing::default()).between(warm_up, total);
    if warm_up == 0 { vec![fall] } else { vec![rise, fall] }
}
