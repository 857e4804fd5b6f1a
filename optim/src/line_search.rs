//! Steps that evaluate the loss themselves: [`LineSearch`], the optimizer for LBFGS.
//!
//! A quasi-Newton method is no rule of an element: it needs vectors over all parameters, and asks for the loss where
//! it likes. So it is a separate [`Optimizer`] next to the [`Driver`](crate::Driver), with the same checkpoints and
//! averages.

mod lbfgs;
mod loaded;
mod persist;
mod rules;
mod vectors;
mod wolfe;

pub use rules::{
    AddRule, DotRule, Lbfgs, PutParamRule, ScaleRule, SizeRule, TakeGradRule, TakeParamRule, VectorRules,
};

use crate::average::Average;
use crate::checkpoint::{Checkpoint, LoadOptions, OptimizerManifest};
use crate::hyper::{Hyper, HyperError, Hyperparameters, Value};
use crate::params::slots::{Slot, Slots};
use crate::weight_averaging::WeightAveraging;
use crate::{
    Binding, Error, Info, LoadReport, NonFinitePolicy, Objective, Optimizer, ParamState, Result, StepReport,
};
use core::fmt;
use fallline_core::Builtins;
use fallline_core::{Backend, Compute, Kernel, Link, fallible};
use lbfgs::{History, Stepped};
use loaded::compute_of;
use std::sync::Arc;

/// Returns the bindings in the order of their names.
fn sorted_bindings<'o>(objective: &'o mut dyn Objective) -> Vec<Binding<'o>> {
    let mut bindings = objective.bindings();
    bindings.sort_unstable_by(|a, b| a.name.cmp(b.name));
    bindings
}

/// LBFGS with its hyperparameters, and its rules as a [`Link`] has compiled them: what a [`LineSearch`] is made of.
#[derive(Clone)]
pub struct Search {
    hyper: Lbfgs,
    rules: VectorRules,
    builtins: &'static Builtins,
}

impl Search {
    /// Makes a search with these hyperparameters and rules compiled by `K`.
    ///
    /// # Errors
    /// [`HyperError`] when they are out of range or exclude each other.
    pub fn new<K: Link>(hyper: Lbfgs) -> Result<Search, HyperError> {
        for known in Lbfgs::TABLE {
            if let Some(value) = Hyperparameters::get(&hyper, known.name) {
                Hyperparameters::set(&mut hyper.clone(), known.name, &value)?;
            }
        }
        hyper.check()?;
        Ok(Search { hyper, rules: VectorRules::of::<K>(), builtins: K::builtins() })
    }

    /// Returns the name in configurations.
    pub fn name(&self) -> &'static str {
        Lbfgs::NAME
    }

    /// Returns what people should know about it.
    pub fn info(&self) -> &'static Info {
        &Lbfgs::INFO
    }

    /// Returns what an iteration does, human-readable: a formula or sentence a line.
    pub fn formulas(&self) -> &'static [&'static str] {
        Lbfgs::FORMULAS
    }

    /// Returns its hyperparameters.
    pub fn table(&self) -> &'static [Hyper] {
        Lbfgs::TABLE
    }

    /// Returns a hyperparameter by name.
    pub fn get(&self, name: &str) -> Option<Value> {
        Hyperparameters::get(&self.hyper, name)
    }

    /// Sets hyperparameters by name, all or none.
    ///
    /// # Errors
    /// [`HyperError`]; nothing is set then.
    pub fn set(&mut self, values: &[(&str, Value)]) -> Result<(), HyperError> {
        let mut changed = self.hyper.clone();
        values.iter().try_for_each(|(name, value)| Hyperparameters::set(&mut changed, name, value))?;
        changed.check()?;
        self.hyper = changed;
        Ok(())
    }

    /// Returns the vectors over all parameters that it keeps: how many of each kind at most, and what they are.
    pub fn vectors(&self) -> [(u64, &'static str); 4] {
        let pairs = self.hyper.history_size;
        [
            (1, "direction"),
            (1, "gradient"),
            (pairs, "changes of position"),
            (pairs, "changes of the gradient"),
        ]
    }

    /// Returns every rule that it runs, each once.
    pub fn kernels(&self) -> Vec<&'static Kernel> {
        let averages = [self.builtins.param_copy(), self.builtins.lerp()];
        self.rules.all().into_iter().chain(averages).collect()
    }
}

impl fmt::Debug for Search {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hyper.fmt(f)
    }
}

/// The optimizer for what evaluates the loss itself: give it an [`Objective`] ([`Optimizer::step_with`]). It takes all
/// parameters in one group. It exchanges nothing with other ranks: an objective must give all of them the same.
///
/// ```
/// # use fallline_optim::{Binding, Objective, Optimizer, Result};
/// # use fallline_core::{Backend, Link};
/// # fn minimize<Native: Link>(cpu: std::sync::Arc<dyn Backend>, objective: &mut dyn Objective) -> Result<()> {
/// use fallline_optim::line_search::{Lbfgs, LineSearch, Search};
/// let search = Search::new::<Native>(Lbfgs { history_size: 10, ..Lbfgs::default() })?;
/// let mut optimizer = LineSearch::new(cpu, search);
/// let loss_before = optimizer.step_with(objective)?;
/// # Ok(())
/// # }
/// ```
pub struct LineSearch {
    backend: Arc<dyn Backend>,
    compute: Option<Compute>,
    search: Search,
    /// What is kept between steps, once there was one.
    history: Option<History>,
    averages: Option<WeightAveraging>,
    /// The averages; empty without.
    slots: Slots,
    poisoned: Option<String>,
    non_finite: NonFinitePolicy,
    /// The last load.
    report: Option<LoadReport>,
    /// Whether that is lenient, while no step has shown that it fits.
    unproven: Option<bool>,
}

/// What was loaded, to be brought back where the step does not go through.
struct Before {
    history: Option<History>,
    averages: Vec<Slot>,
}

impl LineSearch {
    /// Creates an optimizer of all parameters.
    pub fn new(backend: Arc<dyn Backend>, search: Search) -> LineSearch {
        LineSearch {
            backend,
            compute: None,
            search,
            history: None,
            averages: None,
            slots: Slots::default(),
            poisoned: None,
            non_finite: NonFinitePolicy::Propagate,
            report: None,
            unproven: None,
        }
    }

    /// As [`Driver::with_compute`](crate::Driver::with_compute).
    pub fn with_compute(mut self, compute: Compute) -> LineSearch {
        self.compute = Some(compute);
        self
    }

    /// Sets what a step does about a loss or a gradient that is NaN or infinite, at any evaluation of the step.
    ///
    /// [`NonFinitePolicy::Skip`] ends the step where it began and returns the loss there; [`NonFinitePolicy::Error`] fails with
    /// [`Error::NonFinite`] or [`Error::NonFiniteLoss`]. Parameters and history are then as before the step.
    pub fn with_non_finite(mut self, policy: NonFinitePolicy) -> LineSearch {
        self.non_finite = policy;
        self
    }

    /// As [`Driver::averaged`](crate::Driver::averaged): where each step ends is averaged.
    pub fn averaged(mut self, average: Average) -> LineSearch {
        self.averages = Some(WeightAveraging::new(average));
        self
    }

    /// As [`Driver::average`](crate::Driver::average).
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn average(&self, param: &str) -> Result<Option<Vec<f64>>> {
        match self.slots.get(param) {
            Some(slot) => slot.averaged.as_ref().map_or(Ok(None), |averaged| averaged.read(&*self.backend)),
            None => Ok(None),
        }
    }

    /// Allocates memory for the averages that are missing, before the search, so that nothing of them can go wrong after
    /// it. Returns those that a lenient load has and that do not fit their parameters.
    fn make_averages(&mut self, objective: &mut dyn Objective) -> Result<Vec<Slot>> {
        let Some(averages) = &mut self.averages else { return Ok(Vec::new()) };
        let bindings = sorted_bindings(objective);
        bindings.iter().try_for_each(Binding::check_shaped)?;
        let mut aside = Vec::new();
        for (i, binding) in bindings.iter().enumerate() {
            let (shape, compute) = (binding.param.dims().into(), compute_of(binding, self.compute));
            let loaded = self.slots.get(binding.name).filter(|_| self.unproven == Some(true));
            if loaded.is_some_and(|slot| slot.shape != shape || slot.compute != compute) {
                aside.extend(self.slots.remove(binding.name));
            }
            self.slots.align(i, binding.name, || Ok(Slot::new(binding.name, shape, compute)))?;
        }
        averages.allocate(self.search.builtins, &self.backend, self.slots.range(0..bindings.len()))?;
        Ok(aside)
    }
}

impl Optimizer for LineSearch {
    /// Refuses: gradients alone are not enough.
    fn step(&mut self, _bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        if let Some(cause) = &self.poisoned {
            return Err(Error::Poisoned { cause: cause.clone() });
        }
        Err(Error::NeedsObjective { algorithm: self.name() })
    }

    fn step_with(&mut self, objective: &mut dyn Objective) -> Result<f64> {
        if let Some(cause) = &self.poisoned {
            return Err(Error::Poisoned { cause: cause.clone() });
        }
        let unproven = self.unproven;
        let mut before = Before { history: self.history.clone(), averages: Vec::new() };
        let mut unfit = None;
        let stepped = self.make_averages(objective).and_then(|aside| {
            before.averages = aside;
            let Search { hyper, rules, .. } = &self.search;
            let settings = lbfgs::Settings {
                hyper,
                kernels: *rules,
                backend: &self.backend,
                compute: self.compute,
                non_finite: self.non_finite,
                unproven,
            };
            lbfgs::step(&settings, &mut self.history, objective, &mut unfit)
        });
        let averaged = match (&stepped, &mut self.averages) {
            (Ok(Stepped { skipped: false, .. }), Some(averages)) => {
                let mut bindings = sorted_bindings(objective);
                // Of parameters that were not there before the search nothing is averaged.
                let known = bindings.len().min(self.slots.len());
                let slots = self.slots.range(0..known);
                let near = (&self.backend, false);
                // The parameters have moved, whether it is written or not.
                averages.update(self.search.builtins, near, (slots, &mut bindings), &mut true)
            }
            _ => Ok(()),
        };
        self.slots.commit_or_rollback(stepped.is_ok());
        self.settle_loaded(unfit, before, stepped.as_ref().is_ok_and(|stepped| !stepped.skipped));
        let Stepped { loss, skipped } = stepped?;
        if let Err(cause) = averaged {
            // The parameters have moved, and the average does not fit them.
            self.poisoned = Some(cause.to_string());
            return Err(cause);
        }
        if let Some(averages) = self.averages.as_mut().filter(|_| !skipped) {
            averages.advance();
        }
        Ok(loss)
    }

    fn name(&self) -> &'static str {
        self.search.name()
    }

    fn groups(&self) -> usize {
        1
    }

    fn get(&self, group: usize, name: &str) -> Option<Value> {
        if group == 0 { self.search.get(name) } else { None }
    }

    fn set(&mut self, group: usize, values: &[(&str, Value)]) -> Result<()> {
        match group {
            0 => Ok(self.search.set(values)?),
            _ => Err(Error::NoGroup { group, count: 1 }),
        }
    }

    fn params(&self) -> Vec<ParamState> {
        self.history.as_ref().map_or(Vec::new(), History::params)
    }

    fn state(&self, param: &str, state: &str) -> Result<Option<Vec<f64>>> {
        let Some(storage) = self.history.as_ref().and_then(|history| history.find(param, state)) else {
            return Ok(None);
        };
        let mut values = fallible::zeroed::<f64>(storage.len(), "a copy of a state")?;
        self.backend.read(storage, values.as_mut_slice().into())?;
        Ok(Some(values))
    }

    fn save(&self) -> Result<Checkpoint> {
        if let Some(cause) = &self.poisoned {
            return Err(Error::Poisoned { cause: cause.clone() });
        }
        let mut checkpoint = Checkpoint::default();
        let mut manifest = OptimizerManifest::new(self.name());
        manifest.push_values(self.name(), self.search.table(), |name| self.search.get(name));
        if let Some(history) = &self.history {
            history.save(&*self.backend, &mut checkpoint, &mut manifest)?;
        }
        checkpoint.manifest.optimizer = Some(manifest);
        if let Some(averages) = &self.averages {
            averages.save(&*self.backend, self.slots.iter(), &mut checkpoint)?;
        }
        Ok(checkpoint)
    }

    fn load_with(&mut self, checkpoint: &Checkpoint, options: &LoadOptions) -> Result<LoadReport> {
        let checkpoint = &*checkpoint.renamed(&options.rename, options.lenient)?;
        let manifest = checkpoint.manifest.whole_optimizer()?;
        manifest.refuse_other_than(self.name())?;
        let (mut search, mut report) = (self.search.clone(), LoadReport::default());
        if !options.state_only {
            manifest.check_groups(1)?;
            let known = |name: &str| self.search.get(name).is_some();
            let own = (self.name(), self.search.table());
            let values = manifest.values_of(0, own, known, (options, &mut report))?;
            search.set(&values).map_err(|error| Error::Mismatch(error.to_string()))?;
        }
        let proven = self.history.as_ref().filter(|_| self.unproven.is_none());
        let history = History::load(&*self.backend, checkpoint, manifest, proven)?;
        checkpoint.check_params(manifest, (options, &mut report))?;
        report.matched = history.as_ref().map_or(0, |history| history.params.len());
        if let Some(averages) = &self.averages {
            let mut slots = Slots::default();
            for (name, param) in manifest.params() {
                let known = self.slots.get(name).filter(|_| self.unproven.is_none());
                let known = known.map(|slot| slot.compute).or(self.compute);
                let compute = param.compute_as(name, known, options.converting)?;
                slots.push(Slot::new(name, param.shape(), compute));
            }
            let averages = averages.loaded(&self.backend, checkpoint, &mut slots, (options, &mut report))?;
            (self.averages, self.slots) = (Some(averages), slots);
        }
        self.unproven = (proven.is_none() && history.is_some()).then_some(options.lenient);
        (self.history, self.search, self.poisoned) = (history, search, None);
        self.report = Some(report.clone());
        Ok(report)
    }

    fn load_report(&self) -> Option<&LoadReport> {
        self.report.as_ref()
    }
}
