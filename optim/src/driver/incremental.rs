//! Incremental steps: each parameter steps as soon as its gradient is ready, during the backward pass.

use super::Driver;
use super::step::Verdict;
use crate::order::sort_names;
use crate::params::slots::Progress;
use crate::weight_averaging::WeightAveraging;
use crate::{Binding, Error, Result, StepReport};

/// A step that has begun ([`Driver::begin`]).
///
/// A parameter that is applied has taken its step, whether [`finish`](IncrementalStep::finish) is called or not. Otherwise the
/// optimizer does not continue: its next step is [`Error::HalfStep`], which names the parameters that have stepped,
/// until a checkpoint is loaded.
#[must_use = "a step that is not finished is half a step"]
pub struct IncrementalStep<'d> {
    driver: &'d mut Driver,
    report: StepReport,
    /// How many were inspected that have no gradient.
    without_grad: usize,
    /// What was decided once all gradients were inspected, if they had to be.
    verdict: Option<Verdict>,
    /// How many were inspected, and applied: the next one is the one of the last step at this place, in the usual case.
    places: [usize; 2],
}

impl Driver {
    /// Begins an incremental step (an optimizer step during backward). [`apply`](IncrementalStep::apply) steps a parameter as
    /// soon as its gradient is ready, while it is still in cache. Then the gradient's memory is free for the next
    /// one. [`finish`](IncrementalStep::finish) ends the step. The results are bitwise identical to those of
    /// [`step`](crate::Optimizer::step).
    ///
    /// ```
    /// # use fallline_optim::{Driver, Optimizer, param};
    /// # fn backward(optimizer: &mut Driver, weight: &mut Vec<f32>, bias: &mut Vec<f32>) -> fallline_optim::Result<()> {
    /// let mut gradient = vec![0.0f32; 64]; // one buffer for all
    /// let mut step = optimizer.begin()?;
    /// gradient[..32].fill(0.5);
    /// step.apply(param("fc.weight", weight, &gradient[..32]))?;
    /// gradient[..4].fill(0.25);
    /// step.apply(param("fc.bias", bias, &gradient[..4]))?;
    /// assert_eq!(step.finish()?.updated, 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Where all gradients are needed before the first parameter changes ([`IncrementalStep::needs_inspection`]), the step has
    /// two rounds: [`inspect`](IncrementalStep::inspect) takes each gradient, and then `apply` each parameter. That is so with
    /// accumulation, clipping, a loss scale, and any policy for NaN and infinity but
    /// [`Propagate`](crate::NonFinitePolicy::Propagate). With accumulation or clipping by value gradients are kept from the
    /// first round, and the second needs none.
    ///
    /// ```
    /// # use fallline_optim::{Driver, Optimizer, param};
    /// # fn backward(optimizer: &mut Driver, mut weight: Vec<f32>, mut bias: Vec<f32>) -> fallline_optim::Result<()> {
    /// # let (grad_of_weight, grad_of_bias) = (vec![0.5f32; 32], vec![0.25f32; 4]);
    /// let mut step = optimizer.begin()?;
    /// if step.needs_inspection() {
    ///     step.inspect(param("fc.weight", &mut weight, &grad_of_weight))?;
    ///     step.inspect(param("fc.bias", &mut bias, &grad_of_bias))?;
    /// }
    /// step.apply(param("fc.weight", &mut weight, &grad_of_weight))?;
    /// step.apply(param("fc.bias", &mut bias, &grad_of_bias))?;
    /// step.finish()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotIncremental`] for algorithms that look at all parameters together, and for several ranks. So it
    /// is for clipping by a norm of an order other than 0, 1, 2 and infinity.
    pub fn begin(&mut self) -> Result<IncrementalStep<'_>> {
        self.check_ready()?;
        self.engine.check_training()?;
        let refused = |what: String| Err(Error::NotIncremental { what });
        if self.engine.setup.ranks.is_some() {
            return refused("ranks step together".into());
        }
        for group in &self.engine.setup.groups {
            let algorithm = &group.algorithm;
            let gathers = algorithm.programs().any(|program| program.is_global());
            if gathers || !algorithm.spec().shared.is_empty() {
                return refused(format!("{} looks at all parameters together", algorithm.name()));
            }
        }
        if let Some(what) = self.gradients.refuse_incremental() {
            return refused(what);
        }
        self.poison.unfinished = true;
        self.gradients.begin_incremental();
        Ok(IncrementalStep {
            driver: self,
            report: StepReport::default(),
            without_grad: 0,
            verdict: None,
            places: [0; 2],
        })
    }

    /// Checks that it can continue: no step before failed half-way, or was left half taken.
    pub(super) fn check_ready(&mut self) -> Result<()> {
        self.poison.check()?;
        self.check_not_averaged("a step")?;
        if !self.poison.unfinished {
            return Ok(());
        }
        let slots = || self.engine.slots.iter();
        let stepped = slots().any(|slot| slot.progress.applied == Some(true));
        let accumulates = self.gradients.config.buffers();
        let done = |progress: Progress| match stepped {
            true => progress.applied == Some(true),
            false => accumulates && progress.inspected,
        };
        let mut params: Vec<&str> =
            slots().filter(|slot| done(slot.progress)).map(|slot| slot.name.as_str()).collect();
        sort_names(&mut params);
        if !params.is_empty() {
            let params = params.into_iter().map(str::to_owned).collect();
            return Err(Error::HalfStep { params, stepped });
        }
        self.end_incremental();
        Ok(())
    }

    /// Forgets what was done with which parameters.
    fn end_incremental(&mut self) {
        self.poison.unfinished = false;
        self.engine.slots.iter_mut().for_each(|slot| slot.progress = Default::default());
    }
}

impl IncrementalStep<'_> {
    /// Returns whether all gradients must be [inspected](IncrementalStep::inspect) before the first parameter is
    /// applied.
    pub fn needs_inspection(&self) -> bool {
        self.driver.gradients.needs_inspection()
    }

    /// Inspects a gradient, or accumulates it, in the first of two rounds. Does nothing where one round is enough.
    ///
    /// # Errors
    /// As [`step`](crate::Optimizer::step), for this parameter; [`Error::NotIncremental`] once a parameter was applied.
    pub fn inspect(&mut self, binding: Binding<'_>) -> Result<()> {
        if !self.needs_inspection() {
            return Ok(());
        }
        if self.verdict.is_some() {
            let what = format!("{:?} is inspected after a parameter was applied", binding.name);
            return Err(Error::NotIncremental { what });
        }
        self.at_place(0, 1, |this| this.inspect_next(binding))
    }

    fn inspect_next(&mut self, binding: Binding<'_>) -> Result<()> {
        self.check_once(0, binding.name, |progress| progress.inspected)?;
        let (window, mut step) = self.driver.split(false);
        let inspected = step.inspect(window, &mut [binding]);
        step.settle(window, &inspected, 1, |_| false);
        self.without_grad += usize::from(!inspected?);
        Ok(())
    }

    /// Steps one parameter. Where gradients were only accumulated, or the step is skipped, it stays as it is.
    ///
    /// # Errors
    /// As [`step`](crate::Optimizer::step), for this parameter: it is as it was then, those before it have taken their step.
    /// [`Error::NotIncremental`] where it was not inspected and had to be.
    pub fn apply(&mut self, binding: Binding<'_>) -> Result<()> {
        self.apply_all(&mut [binding])
    }

    /// Steps several parameters at once, as those of a layer whose gradients become ready together. Many small ones take
    /// less time so, and are shared among threads.
    ///
    /// # Errors
    /// As [`apply`](IncrementalStep::apply): then none of them has taken its step.
    pub fn apply_all(&mut self, bindings: &mut [Binding<'_>]) -> Result<()> {
        self.at_place(1, bindings.len(), |this| this.apply_next(bindings))
    }

    fn apply_next(&mut self, bindings: &mut [Binding<'_>]) -> Result<()> {
        for (i, binding) in bindings.iter().enumerate() {
            self.check_once(i, binding.name, |progress| progress.applied.is_some())?;
        }
        let mut factor = None;
        if self.needs_inspection() {
            self.check_inspected(bindings)?;
            match self.conclude()? {
                Verdict::Accumulated(_) => return Ok(()),
                Verdict::Skipped(_) => {
                    let (_, mut step) = self.driver.split(false);
                    step.align(bindings)?;
                    return step.average(bindings, false);
                }
                Verdict::Step { factor: decided, .. } => factor = Some(*decided),
            }
        }
        let stepped = self.driver.take_step(bindings, false, factor)?;
        self.report.updated += stepped.updated;
        self.report.without_grad += stepped.without_grad;
        if let Some(found) = stepped.corrupt_state
            && self.report.corrupt_state.as_ref().is_none_or(|(known, _)| found.0 < *known)
        {
            self.report.corrupt_state = Some(found);
        }
        for slot in self.driver.engine.slots.range(0..bindings.len()) {
            slot.progress.applied = Some(slot.launch.is_some());
        }
        Ok(())
    }

    fn check_inspected(&self, bindings: &[Binding<'_>]) -> Result<()> {
        let slots = &self.driver.engine.slots;
        let missing = |(i, binding): &(usize, &Binding<'_>)| {
            slots.near(*i, binding.name).is_none_or(|slot| !slot.progress.inspected)
        };
        let Some((_, binding)) = bindings.iter().enumerate().find(missing) else { return Ok(()) };
        let why = self.driver.gradients.why_inspected();
        let what = format!(
            "the gradient of {:?} must be inspected first (IncrementalStep::inspect): {why}",
            binding.name
        );
        Err(Error::NotIncremental { what })
    }

    /// Ends the step.
    ///
    /// # Errors
    /// [`Error::Unmatched`] where a rule of the configuration has matched no parameter so far; the parameters have taken
    /// their step.
    pub fn finish(mut self) -> Result<StepReport> {
        let mut decided = Verdict::Step { factor: 1.0, report: StepReport::default() };
        if self.needs_inspection() {
            decided = self.conclude()?.clone();
        }
        let IncrementalStep { driver, report, without_grad: inspected, .. } = self;
        driver.end_incremental();
        let Driver { engine, window, gradients, averaging, expected, loaded, .. } = driver;
        let StepReport { updated, without_grad, corrupt_state, .. } = report;
        let mut report = match decided {
            Verdict::Accumulated(report) | Verdict::Skipped(report) => {
                StepReport { without_grad: inspected, ..report }
            }
            Verdict::Step { report, .. } => {
                gradients.advance();
                engine.advance()?;
                engine.count_to_sync();
                if gradients.config.buffers() {
                    window.end();
                }
                StepReport { updated, without_grad, corrupt_state, ..report }
            }
        };
        averaging.iter_mut().for_each(WeightAveraging::advance);
        if !report.skipped() {
            loaded.end_step(&engine.slots, &mut report);
        }
        expected.check(engine)?;
        expected.clear();
        Ok(report)
    }

    /// Returns what is decided once all gradients are inspected.
    fn conclude(&mut self) -> Result<&Verdict> {
        let decided = match self.verdict.take() {
            Some(decided) => decided,
            None => {
                let (window, mut step) = self.driver.split(false);
                let decided = step.conclude(window);
                if decided.is_err() {
                    // No parameter steps, and the window is over: nothing is half done.
                    self.driver.end_incremental();
                }
                decided?
            }
        };
        Ok(self.verdict.insert(decided))
    }

    /// Does with the next `count` parameters of a round what `work` does, at the places that they have in the order of the
    /// last step: so no slot moves while the order stays. Scalars are computed for the first one that is applied.
    fn at_place(
        &mut self,
        round: usize,
        count: usize,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.driver.engine.begin_at(self.places[round], round == 1 && self.places[1] > 0);
        let done = work(self);
        self.driver.engine.begin_at(0, false);
        self.places[round] += if done.is_ok() { count } else { 0 };
        done
    }

    /// Refuses a parameter with which this was done already; `i` is its place among those that are given.
    fn check_once(&self, i: usize, name: &str, done: impl Fn(Progress) -> bool) -> Result<()> {
        match self.driver.engine.slots.near(i, name).is_some_and(|slot| done(slot.progress)) {
            true => Err(Error::Duplicate { param: name.to_owned() }),
            false => Ok(()),
        }
    }
}
