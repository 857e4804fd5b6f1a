//! Schedulers at work, one after another.

#[cfg(feature = "checkpoints")]
mod persist;

use super::plateau::Observed;
use super::{At, Curve, Marks, Scheduled, Scheduler};
use crate::{Error, Result};

/// A scheduler at work.
#[derive(Clone, Debug)]
struct Running {
    spec: Scheduler,
    /// The values that the groups were built with.
    base: Vec<f64>,
    /// What is recorded for its hyperparameter.
    marks: usize,
    progress: Progress,
    /// Values and progress before the step being taken, to go back to.
    before: (Vec<f64>, Progress),
}

/// How far a scheduler is: what a checkpoint keeps of it.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoints", derive(serde::Serialize, serde::Deserialize))]
struct Progress {
    /// Steps taken, from 0 at the first value.
    global_step: u64,
    /// Steps taken within the range; null before the first, but never absent.
    #[cfg_attr(feature = "checkpoints", serde(deserialize_with = "serde::Deserialize::deserialize"))]
    last_step: Option<u64>,
    #[cfg_attr(feature = "checkpoints", serde(default, skip_serializing_if = "Option::is_none"))]
    observed: Option<Observed>,
}

impl Running {
    /// Returns whether the current step is in the range.
    fn acts(&self) -> bool {
        let (now, span) = (self.progress.global_step as f64, self.spec.span());
        span.begin <= now && now < span.end
    }

    /// Sets the next values.
    fn apply<S: Scheduled + ?Sized>(&mut self, marks: &[Marks], numbers: &mut S) -> Result<(), Problem> {
        let step = self.progress.last_step.map_or(0, |last| last.saturating_add(1));
        let formula = self.spec.curve.formula();
        let most = formula.most_steps(self.spec.span());
        if step as f64 > most {
            return Err(Problem::Text(format!("it has {most} steps, and the range more")));
        }
        for (group, &base) in self.base.iter().enumerate() {
            let value = numbers.scheduled(group, &self.spec.target)?;
            let marks = &marks[self.marks];
            let at = At { step: step as f64, value, base, group, span: self.spec.span(), marks };
            let next = formula.next(&at);
            if !next.is_finite() {
                let problem = format!("its value at step {step} of the range is {next}");
                return Err(Problem::Text(problem));
            }
            numbers.set_scheduled(group, &self.spec.target, next)?;
        }
        self.progress.last_step = Some(step);
        Ok(())
    }
}

/// What goes wrong in a step: of the entry, or of the optimizer.
enum Problem {
    Text(String),
    Other(Error),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem::Other(error)
    }
}

impl Problem {
    fn at(self, place: usize, curve: &Curve) -> Error {
        match self {
            Problem::Other(error) => error,
            Problem::Text(problem) => {
                let problem = format!("{}: {problem}", curve.name());
                Error::Schedule { at: format!("param_scheduler[{place}]"), problem }
            }
        }
    }
}

/// A chain of schedulers that drives an optimizer's hyperparameters.
///
/// Building it sets the values of the first step. After each iteration call
/// [`after_iteration`](Schedule::after_iteration). After the last one of an epoch then call
/// [`after_epoch`](Schedule::after_epoch), and after an evaluation [`observe`](Schedule::observe). That is the order
/// in which MMEngine's `ParamSchedulerHook` steps them.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    schedulers: Vec<Running>,
    /// For each hyperparameter what is recorded.
    marks: Vec<Marks>,
}

impl Schedule {
    /// Builds the chain and sets the first values.
    ///
    /// # Errors
    /// [`Error::Schedule`] names the entry at fault; everything is then as it was.
    pub fn new<S: Scheduled + ?Sized>(schedulers: Vec<Scheduler>, numbers: &mut S) -> Result<Schedule> {
        let groups = numbers.scheduled_groups();
        let mut chain = Schedule::default();
        let mut names: Vec<String> = Vec::new();
        let mut add = |chain: &mut Schedule, place: usize, spec: Scheduler, numbers: &mut S| {
            spec.check(groups).map_err(|problem| Problem::Text(problem).at(place, &spec.curve))?;
            let values = (0..groups).map(|group| numbers.scheduled(group, &spec.target));
            let values = values.collect::<Result<Vec<f64>>>()?;
            let known = names.iter().position(|name| name == spec.target.name());
            let marks = known.unwrap_or_else(|| {
                names.push(spec.target.name().to_owned());
                chain.marks.push(Marks { initial: values.clone(), ..Marks::default() });
                names.len() - 1
            });
            let own = &mut chain.marks[marks];
            if spec.last_step.is_none() || own.max.is_empty() {
                spec.curve.formula().mark(own);
            }
            let progress = Progress {
                global_step: 0,
                last_step: spec.last_step,
                observed: matches!(spec.curve, Curve::ReduceOnPlateau(_)).then(Observed::new),
            };
            let (base, before) = (own.initial.clone(), (values, progress.clone()));
            let mut running = Running { spec, base, marks, progress, before };
            let first = running.progress.observed.is_none() && running.acts();
            let applied = if first { running.apply(&chain.marks, numbers) } else { Ok(()) };
            let applied = applied.map_err(|problem| problem.at(place, &running.spec.curve));
            chain.schedulers.push(running);
            applied
        };
        for (place, spec) in schedulers.into_iter().enumerate() {
            if let Err(error) = add(&mut chain, place, spec, numbers) {
                let all = chain.schedulers.len();
                chain.go_back(0..all, |_| true, numbers);
                return Err(error);
            }
        }
        Ok(chain)
    }

    /// Moves on by one iteration: the entries that count iterations, in order.
    ///
    /// # Errors
    /// When a value cannot be computed or the optimizer refuses it; everything is then as it was.
    pub fn after_iteration<S: Scheduled + ?Sized>(&mut self, numbers: &mut S) -> Result<()> {
        self.advance(false, numbers)
    }

    /// Moves on by one epoch: the entries that count epochs, in order. After
    /// [`after_iteration`](Schedule::after_iteration) of the epoch's last one.
    ///
    /// # Errors
    /// As [`after_iteration`](Schedule::after_iteration).
    pub fn after_epoch<S: Scheduled + ?Sized>(&mut self, numbers: &mut S) -> Result<()> {
        self.advance(true, numbers)
    }

    fn advance<S: Scheduled + ?Sized>(&mut self, by_epoch: bool, numbers: &mut S) -> Result<()> {
        self.each(
            |spec| spec.by_epoch == by_epoch,
            numbers,
            |running, marks, numbers| {
                running.progress.global_step += 1;
                match running.progress.observed.is_none() && running.acts() {
                    true => running.apply(marks, numbers),
                    false => Ok(()),
                }
            },
        )
    }

    /// Tells metrics to the entries that monitor one: those that count epochs, or those that count iterations. After
    /// [`after_epoch`](Schedule::after_epoch) or [`after_iteration`](Schedule::after_iteration).
    ///
    /// # Errors
    /// As [`after_iteration`](Schedule::after_iteration), and when a monitored metric is not among them.
    pub fn observe<S: Scheduled + ?Sized>(
        &mut self,
        by_epoch: bool,
        metrics: &[(&str, f64)],
        numbers: &mut S,
    ) -> Result<()> {
        self.each(
            |spec| spec.by_epoch == by_epoch,
            numbers,
            |running, marks, numbers| {
                let acts = running.acts();
                let (Curve::ReduceOnPlateau(plateau), Some(observed)) =
                    (&running.spec.curve, &mut running.progress.observed)
                else {
                    return Ok(());
                };
                if !acts {
                    return Ok(());
                }
                let found = metrics.iter().find(|(name, _)| *name == plateau.monitor);
                let (_, metric) = *found.ok_or_else(|| {
                    let known: Vec<&str> = metrics.iter().map(|(name, _)| *name).collect();
                    let monitor = &plateau.monitor;
                    Problem::Text(format!("it monitors {monitor:?}, but there is only {}", known.join(", ")))
                })?;
                match plateau.observe(metric, observed) {
                    true => running.apply(marks, numbers),
                    false => {
                        running.progress.last_step =
                            Some(running.progress.last_step.map_or(0, |last| last.saturating_add(1)));
                        Ok(())
                    }
                }
            },
        )
    }

    /// Returns the metrics that entries monitor which count epochs, or those which count iterations.
    pub fn monitors(&self, by_epoch: bool) -> impl Iterator<Item = &str> {
        let specs = self.schedulers.iter().map(|running| &running.spec);
        specs.filter(move |spec| spec.by_epoch == by_epoch).filter_map(|spec| match &spec.curve {
            Curve::ReduceOnPlateau(plateau) => Some(plateau.monitor.as_str()),
            _ => None,
        })
    }

    /// Returns the names of the hyperparameters that are scheduled, as the entries come.
    pub fn targets(&self) -> impl Iterator<Item = &str> {
        self.schedulers.iter().map(|running| running.spec.target.name())
    }

    /// Takes a step of each entry that `takes_part`; all or none.
    fn each<S: Scheduled + ?Sized>(
        &mut self,
        takes_part: impl Fn(&Scheduler) -> bool,
        numbers: &mut S,
        mut step: impl FnMut(&mut Running, &[Marks], &mut S) -> Result<(), Problem>,
    ) -> Result<()> {
        let Schedule { schedulers, marks } = self;
        for (place, running) in schedulers.iter_mut().enumerate().filter(|(_, r)| takes_part(&r.spec)) {
            running.before.1.clone_from(&running.progress);
            running.before.0.clear();
            for group in 0..running.base.len() {
                running.before.0.push(numbers.scheduled(group, &running.spec.target)?);
            }
            if let Err(problem) = step(running, marks, numbers) {
                let error = problem.at(place, &running.spec.curve);
                self.go_back(0..place + 1, takes_part, numbers);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Undoes the last step of entries, the last one first.
    fn go_back<S: Scheduled + ?Sized>(
        &mut self,
        places: core::ops::Range<usize>,
        took_part: impl Fn(&Scheduler) -> bool,
        numbers: &mut S,
    ) {
        for running in self.schedulers[places].iter_mut().rev().filter(|r| took_part(&r.spec)) {
            running.progress.clone_from(&running.before.1);
            for (group, &value) in running.before.0.iter().enumerate() {
                // It was there a moment ago, so that it is in range.
                numbers.set_scheduled(group, &running.spec.target, value).ok();
            }
        }
    }
}
