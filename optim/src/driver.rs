//! The optimizer of any algorithm that is made of rules: an engine, and policies around it.

mod between_steps;
mod expected;
mod groups;
mod incremental;
#[cfg_attr(not(feature = "checkpoints"), path = "driver/nothing_loaded.rs")]
mod loaded;
mod modes;
#[cfg(feature = "checkpoints")]
mod persist;
mod poison;
mod qk_clip;
mod step;

pub use incremental::IncrementalStep;
pub use qk_clip::QkClip;

use crate::average::Average;
use crate::engine::setup::Ranks;
use crate::engine::{Engine, StateView};
use crate::gradient_config::{GradientConfig, LossScaler};
use crate::gradients::accumulate::Window;
use crate::gradients::{GradState, Gradients};
use crate::hyper::Value;
use crate::order::sort_names;
use crate::params::slots::Slot;
use crate::ranks::process_group::ProcessGroup;
use crate::weight_averaging::WeightAveraging;
use crate::{
    AnyAlgorithm, Binding, Error, NonFinitePolicy, Objective, Optimizer, ParamState, Result, StepReport,
};
#[cfg(feature = "checkpoints")]
use crate::{Checkpoint, LoadOptions, LoadReport};
use expected::Expectations;
use fallline_core::ranks::Communicator;
use fallline_core::{Backend, Compute};
use loaded::Loaded;
use poison::Poison;
use std::sync::Arc;
use step::Step;

/// The optimizer for every algorithm that is made of rules.
///
/// ```
/// use fallline_core::{Kernel, Link, Rule};
/// # struct Uncompiled;
/// # impl Link for Uncompiled {
/// #     fn kernel<R: Rule>() -> &'static Kernel { panic!("no backend in this example") }
/// # }
/// # type Native = Uncompiled; // fallline_cpu::Native in real code
/// # fn build(cpu: std::sync::Arc<dyn fallline_core::Backend>) -> fallline_optim::Result<()> {
/// use fallline_optim::{Driver, Linked, algorithms::AdamW, param};
/// let algorithm = Linked::<AdamW, Native>::new(AdamW { lr: 1e-2, ..AdamW::default() })?;
/// let mut optimizer = Driver::new(cpu, Box::new(algorithm));
/// let (mut weight, gradient) = (vec![1.0f32; 3], vec![0.5f32; 3]);
/// optimizer.step(&mut [param("weight", &mut weight, &gradient)])?;
/// # Ok(())
/// # }
/// ```
pub struct Driver {
    /// Groups, parameters, programs and passes.
    engine: Engine,
    /// The gradients of a window of accumulation.
    window: Window,
    /// Loss scale, policy for what is not finite, clipping.
    gradients: Gradients,
    /// Averages of the weights, where they are kept.
    averaging: Option<WeightAveraging>,
    /// The ranks that step together.
    group: ProcessGroup,
    /// Why it cannot continue, if it cannot, and whether a step is unfinished.
    poison: Poison,
    /// Rules that must match a parameter of the first step.
    expected: Expectations,
    /// What the last load has brought.
    loaded: Loaded,
}

impl Driver {
    /// Creates an optimizer with one group of all parameters.
    pub fn new(backend: Arc<dyn Backend>, algorithm: Box<dyn AnyAlgorithm>) -> Driver {
        Driver {
            engine: Engine::new(backend, algorithm),
            window: Window::default(),
            gradients: Gradients::default(),
            averaging: None,
            group: ProcessGroup::default(),
            poison: Poison::default(),
            expected: Expectations::default(),
            loaded: Loaded::default(),
        }
    }

    /// Calculates in this type instead of the default: `f64` for parameters stored as `f64`, else `f32`.
    pub fn with_compute(mut self, compute: Compute) -> Driver {
        self.engine.setup.compute = Some(compute);
        self
    }

    /// Sets what to do about gradients that are not finite.
    pub fn with_non_finite(mut self, policy: NonFinitePolicy) -> Driver {
        self.gradients.non_finite = policy;
        self
    }

    /// Puts a wrapper around steps: accumulation of gradients, clipping, loss scaling.
    pub fn with_gradients(mut self, wrapper: GradientConfig) -> Driver {
        self.gradients.config = wrapper;
        self
    }

    /// Returns the wrapper around steps.
    pub fn gradient_config(&self) -> &GradientConfig {
        &self.gradients.config
    }

    /// Says how many iterations training has, so that the last window of accumulation is closed in time.
    pub fn set_iterations(&mut self, total: Option<u64>) {
        self.gradients.config.accumulate.total = total;
    }

    /// Returns the loss scale, by which the training loop multiplies the loss before it computes gradients; 1 without
    /// one.
    pub fn loss_scale(&self) -> f64 {
        self.gradients.config.scaler.as_ref().map_or(1.0, |scaler| scaler.scale())
    }

    /// Keeps an average of the parameters (EMA or SWA). Every [`step`](crate::Optimizer::step) updates it when it is
    /// done, whether it changed them or not: an iteration counts, as in MMEngine's `EMAHook`. It is kept in the type
    /// of the arithmetic, and of [master weights](crate::ParamPrecision::MasterWeights) where there are some. It is saved and
    /// loaded with the rest.
    pub fn averaged(mut self, average: Average) -> Driver {
        self.averaging = Some(WeightAveraging::new(average));
        self
    }

    /// Returns the average of a parameter's weights, in row-major order; `None` where there is none (yet).
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn average(&self, param: &str) -> Result<Option<Vec<f64>>> {
        let averaged = self.engine.slots.get(param).and_then(|slot| slot.averaged.as_ref());
        averaged.map_or(Ok(None), |averaged| averaged.read(&**self.engine.setup.param_backend()))
    }

    /// Steps together with other ranks, each of which binds the same parameters and the same gradients, averaged
    /// ([`GradientReducer`](crate::ranks::GradientReducer)). From then on [`step`](crate::Optimizer::step) is collective: all ranks
    /// call it. Where they are about to take different steps, it fails on all of them before anything is written.
    ///
    /// With a [sharded](crate::Modifiers::sharded) algorithm each parameter is updated by the rank that
    /// [`partition`](crate::ranks::partition) gives it to. That rank alone has its states, and broadcasts the
    /// parameter. [`save`](crate::Optimizer::save) is collective too, and gives the whole checkpoint to every rank.
    ///
    /// The gradient pipeline is collective too: of an accumulation window every iteration. What is found in gradients
    /// that are not averaged skips the step on all ranks. Clipping by norm takes each rank's own norm then, as in
    /// DeepSpeed.
    pub fn with_ranks(mut self, ranks: Arc<dyn Communicator>) -> Driver {
        let setup = &mut self.engine.setup;
        let sharded = setup.groups[0].algorithm.sharded();
        setup.ranks = (ranks.world_size() > 1).then_some(Ranks { comm: ranks, sharded });
        self.group = ProcessGroup::of(setup);
        self
    }

    /// Returns whether the next step takes gradients that are averaged over the ranks. Where not, each rank binds its
    /// own, and the algorithm exchanges what it needs.
    pub fn averages(&self) -> bool {
        self.engine.averages_gradients()
    }

    /// Returns whether the replicas of this parameter have diverged at this time, as with ZeroOneAdam between two
    /// exchanges.
    ///
    /// A training loop that tests its network then, or keeps it, takes the mean of the ranks' values
    /// ([`Communicator::all_reduce`](crate::ranks::Communicator::all_reduce)); training continues from its own.
    pub fn has_diverged(&self, param: &str) -> bool {
        let Engine { setup, slots, .. } = &self.engine;
        setup.ranks.is_some() && slots.get(param).is_some_and(|slot| setup.has_diverged(slot))
    }

    /// Clips by the norm of all gradients together: [`GradientConfig::clip_norm`].
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) where the norm is negative or NaN.
    pub fn clip_norm(self, max_norm: f64) -> Result<Driver> {
        self.configured(|config| config.clip_norm(max_norm))
    }

    /// Clips each element of the gradients: [`GradientConfig::clip_value`].
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) where the value is negative or NaN.
    pub fn clip_value(self, clip_value: f64) -> Result<Driver> {
        self.configured(|config| config.clip_value(clip_value))
    }

    /// Accumulates the gradients of so many calls of [`step`](Driver::step): [`GradientConfig::accumulate`].
    /// [`set_iterations`](Driver::set_iterations) closes the last window in time.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) for 0.
    pub fn accumulate(self, steps: u64) -> Result<Driver> {
        self.configured(|config| config.accumulate(steps))
    }

    /// Unscales gradients of a loss that the training loop multiplies by [`loss_scale`](Driver::loss_scale).
    pub fn with_loss_scale(mut self, scaler: LossScaler) -> Driver {
        self.gradients.config.scaler = Some(scaler);
        self
    }

    fn configured(mut self, set: impl FnOnce(GradientConfig) -> Result<GradientConfig>) -> Result<Driver> {
        self.gradients.config = set(core::mem::take(&mut self.gradients.config))?;
        Ok(self)
    }

    /// Returns every state, as torch's `state_dict` has them: master weights among them, without copies.
    ///
    /// ```
    /// # fn with(optimizer: &fallline_optim::Driver) {
    /// for state in optimizer.state_dict() {
    ///     let largest = state.as_slice::<f32>().map(|values| values.iter().fold(0.0f32, |a, b| a.max(b.abs())));
    ///     println!("{} {}: {largest:?}", state.key(), state.shape());
    /// }
    /// # }
    /// ```
    pub fn state_dict(&self) -> impl Iterator<Item = StateView<'_>> {
        self.engine.state_dict()
    }

    /// Returns a state of a parameter, where there is one.
    pub fn state_view(&self, param: &str, state: &str) -> Option<StateView<'_>> {
        self.engine.state_view(param, state)
    }

    /// Returns the window of gradients, and what steps.
    fn split(&mut self, whole: bool) -> (&mut Window, Step<'_>) {
        let Driver { engine, window, gradients, averaging, group, poison, expected, loaded, .. } = self;
        (window, Step { engine, gradients, averaging, group, poison, expected, loaded, whole })
    }

    /// Takes a step over all parameters (`whole`) or some of them, and keeps what it learns of new ones if it goes
    /// through. `factor` is that of gradients that were inspected already.
    fn take_step(
        &mut self,
        bindings: &mut [Binding<'_>],
        whole: bool,
        factor: Option<f64>,
    ) -> Result<StepReport> {
        let (window, mut step) = self.split(whole);
        let stepped = match factor {
            Some(factor) => step.take_inspected(window, bindings, factor),
            None if whole && step.gradients.config.buffers() => step.accumulate(window, bindings),
            None => step.begin(window, bindings).and_then(|()| step.take(bindings, GradState::Raw, None)),
        };
        let averaged = match &stepped {
            Ok(report) => step.average(bindings, !report.skipped()),
            Err(_) => Ok(()),
        };
        step.settle(window, &stepped, bindings.len(), StepReport::skipped);
        let mut stepped = stepped?;
        if whole && !stepped.skipped() {
            self.expected.clear();
            self.loaded.end_step(&self.engine.slots, &mut stepped);
        }
        averaged?;
        Ok(stepped)
    }

    /// Returns the backend that it runs on.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.engine.setup.backend
    }
}

impl Driver {
    /// Updates every bound parameter that has a gradient, in place: [`Optimizer::step`], without the trait in scope.
    ///
    /// # Errors
    /// As [`Optimizer::step`].
    pub fn step(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        self.check_ready()?;
        let stepped = self.take_step(bindings, true, None)?;
        self.averaging.iter_mut().for_each(WeightAveraging::advance);
        Ok(stepped)
    }
}

impl Optimizer for Driver {
    fn step(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        Driver::step(self, bindings)
    }

    fn step_with(&mut self, objective: &mut dyn Objective) -> Result<f64> {
        if self.gradients.config.scaler.is_some() {
            let problem = "an objective does not know the loss scale".into();
            return Err(Error::Groups { algorithm: self.name(), problem });
        }
        let loss = objective.evaluate()?;
        self.step(&mut objective.bindings())?;
        Ok(loss)
    }

    fn update_hessian(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        self.check_ready()?;
        let updated = self.update_hessian_of(bindings);
        let (window, mut step) = self.split(false);
        step.settle(window, &updated, bindings.len(), StepReport::skipped);
        updated
    }

    fn name(&self) -> &'static str {
        self.engine.setup.name()
    }

    fn groups(&self) -> usize {
        self.engine.setup.groups.len()
    }

    fn get(&self, group: usize, name: &str) -> Option<Value> {
        self.engine.setup.groups.get(group)?.algorithm.get(name)
    }

    fn set(&mut self, group: usize, values: &[(&str, Value)]) -> Result<()> {
        let count = self.engine.setup.groups.len();
        let found = self.engine.setup.groups.get_mut(group).ok_or(Error::NoGroup { group, count })?;
        Ok(found.algorithm.set(values)?)
    }

    fn params(&self) -> Vec<ParamState> {
        let slots = &self.engine.slots;
        let mut names: Vec<&str> = slots.iter().map(|slot| slot.name.as_str()).collect();
        sort_names(&mut names);
        let slots = names.into_iter().filter_map(|name| slots.get(name));
        let state = |slot: &Slot| ParamState {
            name: slot.name.clone(),
            shape: slot.shape.clone(),
            group: slot.group,
            steps: slot.steps,
            states: slot.states.iter().map(|(name, _)| *name).collect(),
            formats: slot.states.iter().map(|(_, storage)| storage.format()).collect(),
            state_bytes: slot.state_bytes(),
        };
        slots.map(state).collect()
    }

    fn state(&self, param: &str, state: &str) -> Result<Option<Vec<f64>>> {
        self.engine.state_view(param, state).map(|state| state.to_vec()).transpose()
    }

    #[cfg(feature = "checkpoints")]
    fn save(&self) -> Result<Checkpoint> {
        let own = self.check_savable().and_then(|()| self.to_checkpoint());
        self.group.consolidate_state_dict(&self.engine, own)
    }

    #[cfg(feature = "checkpoints")]
    fn load_with(&mut self, checkpoint: &Checkpoint, options: &LoadOptions) -> Result<LoadReport> {
        self.restore(checkpoint, options)
    }

    #[cfg(feature = "checkpoints")]
    fn load_report(&self) -> Option<&LoadReport> {
        self.loaded.report()
    }
}
