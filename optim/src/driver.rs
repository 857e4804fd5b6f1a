//! The generic driver: groups, states, missing gradients, saving and loading, for every algorithm.

mod around;
pub(crate) mod averages;
mod away;
pub(crate) mod finite;
mod groups;
mod hessian;
pub(crate) mod masks;
mod memory;
pub(crate) mod mirror;
mod norms;
mod parted;
mod persist;
pub(crate) mod rows;
pub(crate) mod run;
mod stream;
pub(crate) mod wrap;

use crate::algorithm;
use crate::checkpoint::{Checkpoint, LoadOptions};
use crate::hyper::Value;
use crate::lbfgs::{self, History};
use crate::mask::Masking;
use crate::params::MASTER;
use crate::ranks::world::World;
use crate::slots::{Slot, Slots};
use crate::stages::{Groups, Stages};
use crate::{
    AnyAlgorithm, Binding, Error, LoadReport, ModuleKind, Objective, ParamFormat, ParamRef, Result, Skipped,
    Sparse, StateFormats, StepReport,
};
use around::{Around, Forming};
use averages::Averages;
use away::Away;
pub use away::can_offload;
use fallline_core::ranks::Communicator;
use fallline_core::{Backend, Compute, Format, Role, Shape, Storage, rule};
use finite::{Look, NonFinite};
use groups::Expected;
pub use groups::Member;
use masks::GroupMask;
use run::{Run, Work};
use std::fmt::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
pub use stream::Stream;
use wrap::Wrapped;

/// As [`algorithm::CLASSES`], to count with.
const CLASSES: usize = algorithm::CLASSES as usize;

/// Anything that steps parameters.
pub trait Optimizer: Send {
    /// Updates every bound parameter that has a gradient, in place.
    ///
    /// A step is atomic as far as can be known: everything that can be found wrong is found before the
    /// first write.
    ///
    /// # Errors
    /// Wrong shapes, names given twice, tensors of another device, no memory for new states: everything is
    /// as it was. [`Error::Poisoned`] after a device failed half-way.
    fn step(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport>;

    /// Takes gradients drawn for an estimate of the Hessian's diagonal into the states of an algorithm that keeps one
    /// ([`Algorithm::hessian_kernel`](crate::Algorithm::hessian_kernel): SophiaG). The bindings are those of a step,
    /// with these gradients; parameters and step counts stay, and parameters without a gradient are left alone. Call
    /// it before or after a step, every ten steps or so.
    ///
    /// # Errors
    /// [`Error::NoHessian`] for any other algorithm; else as [`step`](Optimizer::step).
    fn update_hessian(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        let _ = bindings;
        Err(Error::NoHessian { algorithm: self.name() })
    }

    /// The algorithm's name.
    fn name(&self) -> &'static str;

    /// How many parameter groups there are.
    fn groups(&self) -> usize;

    /// A hyperparameter of a group.
    fn get(&self, group: usize, name: &str) -> Option<Value>;

    /// Sets hyperparameters of a group, all or none.
    ///
    /// # Errors
    /// When one does not exist, has another type or is out of range.
    fn set(&mut self, group: usize, values: &[(&str, Value)]) -> Result<()>;

    /// What is known of each parameter seen so far, sorted by name.
    fn params(&self) -> Vec<ParamState>;

    /// A parameter's state, as numbers in row-major order; `None` where there is none (yet).
    ///
    /// # Errors
    /// When the device cannot be read.
    fn state(&self, param: &str, state: &str) -> Result<Option<Vec<f64>>>;

    /// Everything that is needed to go on as if never stopped, parameters apart.
    ///
    /// # Errors
    /// When the device cannot be read.
    fn save(&self) -> Result<Checkpoint>;

    /// Restores what [`save`](Optimizer::save) gave: states, step counts and hyperparameters.
    ///
    /// # Errors
    /// When anything does not fit: another algorithm, other groups, other shapes, missing or unexpected
    /// parameters. The error names it, and the optimizer is as it was.
    fn load(&mut self, checkpoint: &Checkpoint) -> Result<LoadReport> {
        self.load_with(checkpoint, &LoadOptions::default())
    }

    /// As [`load`](Optimizer::load), but for what the options let pass.
    ///
    /// # Errors
    /// When anything does not fit that the options do not let pass; the optimizer is as it was.
    fn load_with(&mut self, checkpoint: &Checkpoint, options: &LoadOptions) -> Result<LoadReport>;
}

/// What is known of a parameter.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ParamState {
    /// Its name.
    pub name: String,
    /// Its extents when it was first bound.
    pub shape: Shape,
    /// Its group.
    pub group: usize,
    /// How many gradients it has been given.
    pub steps: u64,
    /// The names of its states.
    pub states: Vec<&'static str>,
    /// How each of them is stored.
    pub formats: Vec<Format>,
    /// Bytes of its states.
    pub state_bytes: usize,
}

/// A group of parameters with hyperparameters of its own.
struct Group {
    algorithm: Box<dyn AnyAlgorithm>,
    formats: StateFormats,
    params: ParamFormat,
    mask: Option<Arc<GroupMask>>,
    matches: Box<dyn Fn(&Member<'_>) -> bool + Send>,
    /// The optimizer that it is a part of.
    family: usize,
}

/// Which gradients a step is taken on.
#[derive(Clone, Copy, PartialEq)]
enum Given {
    /// The trainer's, as they come.
    Raw,
    /// Such as were looked at already, to be multiplied by a factor.
    Judged(f64),
    /// Those for an estimate of the curvature, which are not clipped.
    Hessian,
}

/// What is known of a step once its bindings are checked.
struct Prepared {
    without_grad: usize,
    lacks_states: bool,
}

rule! {
    /// The first values of a state that starts as a copy of the parameter.
    pub ParamCopy(h: (), t) {}
    element(p: Param) -> (copy: State) {
        copy = p;
    }
}

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
/// use fallline_optim::{Driver, Linked, Optimizer, algorithms::AdamW, param};
/// let algorithm = Linked::<AdamW, Native>::new(AdamW { lr: 1e-2, ..AdamW::default() })?;
/// let mut optimizer = Driver::new(cpu, Box::new(algorithm));
/// let (mut weight, gradient) = (vec![1.0f32; 3], vec![0.5f32; 3]);
/// optimizer.step(&mut [param("weight", &mut weight, &gradient)])?;
/// # Ok(())
/// # }
/// ```
pub struct Driver {
    backend: Arc<dyn Backend>,
    compute: Option<Compute>,
    non_finite: NonFinite,
    groups: Vec<Group>,
    slots: Slots,
    runs: Vec<Run>,
    /// For each group the places of its runs, by class and compute type, as far as the step being taken asked.
    places: Vec<[Option<usize>; 2 * CLASSES]>,
    /// As [`Algorithm::SHARED`](crate::Algorithm::SHARED), for each family of groups.
    shared: Vec<Vec<f64>>,
    /// Rules that must match a parameter of the first step.
    expected: Vec<Expected>,
    look: Look,
    wrapped: Wrapped,
    /// What is to be done to the gradients of the step being taken in its own passes.
    forming: Option<Forming>,
    averages: Option<Averages>,
    /// Another device than the own one that parameters are on.
    away: Option<Away>,
    /// What an algorithm that evaluates the loss itself remembers.
    history: Option<History>,
    /// The ranks that step together, if there are several.
    world: Option<World>,
    /// Whether parameters have not got what belongs to the states that were loaded.
    unrestored: bool,
    /// Whether a group ever had a mask.
    masked: bool,
    poisoned: Option<String>,
    page_folder: Option<PathBuf>,
}

impl Driver {
    /// An optimizer with one group of all parameters.
    pub fn new(backend: Arc<dyn Backend>, algorithm: Box<dyn AnyAlgorithm>) -> Driver {
        let shared = algorithm.shared().iter().map(|(_, initial)| *initial).collect();
        Driver {
            backend,
            compute: None,
            non_finite: NonFinite::default(),
            groups: vec![Group {
                algorithm,
                formats: StateFormats::default(),
                params: ParamFormat::default(),
                mask: None,
                matches: Box::new(|_| true),
                family: 0,
            }],
            slots: Slots::default(),
            runs: Vec::new(),
            places: Vec::new(),
            shared: vec![shared],
            expected: Vec::new(),
            look: Look::default(),
            wrapped: Wrapped::default(),
            forming: None,
            averages: None,
            away: None,
            history: None,
            world: None,
            unrestored: false,
            masked: false,
            poisoned: None,
            page_folder: None,
        }
    }

    /// Calculates in this type instead of the default: `f64` for parameters stored as `f64`, else `f32`.
    pub fn with_compute(mut self, compute: Compute) -> Driver {
        self.compute = Some(compute);
        self
    }

    /// What to do about gradients that are not finite.
    pub fn with_non_finite(mut self, policy: NonFinite) -> Driver {
        self.non_finite = policy;
        self
    }

    /// Steps together with other ranks, each of which binds the same parameters and the same gradients, averaged
    /// ([`Averager`](crate::ranks::Averager)). From then on [`step`](Optimizer::step) is collective: all ranks call it,
    /// and it fails on all before anything is written when they are about to take different steps.
    ///
    /// With an algorithm that is [sharded](crate::AnyAlgorithm::sharded) each parameter is updated by the rank that
    /// [`partition`](crate::ranks::partition) gives it to, which alone has its states, and then brought to the others;
    /// [`save`](Optimizer::save) is collective too, and gives the whole to every rank.
    ///
    /// Everything around the step is collective with it: of a window of accumulation every iteration, and what is found
    /// in gradients that are not averaged skips the step on all ranks (clipping by norm takes each rank's own norm
    /// then, as in DeepSpeed). An algorithm that evaluates the loss itself ([`step_with`](Driver::step_with)) exchanges
    /// nothing: its objective must give all ranks the same.
    pub fn with_ranks(mut self, ranks: Arc<dyn Communicator>) -> Driver {
        let sharded = self.groups[0].algorithm.sharded();
        self.world = (ranks.world() > 1).then(|| World::new(ranks, sharded));
        self
    }

    /// What [`save`](Optimizer::save) gives, but of a sharded optimizer only the part that this rank has: for
    /// checkpoints of a file a rank, which [`Checkpoint::join`] makes one of. Nothing is exchanged.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn save_own(&self) -> Result<Checkpoint> {
        self.to_checkpoint()
    }

    /// Whether the next step takes gradients that are averaged over the ranks. Where not, each rank binds its own, and
    /// the algorithm exchanges what it needs.
    pub fn averages(&self) -> bool {
        self.world.is_none() || (0..self.shared.len()).all(|family| self.family_averages(family))
    }

    fn family_averages(&self, family: usize) -> bool {
        first_of(&self.groups, family).averages(&self.shared[family])
    }

    /// Sees to it that all ranks take the same step, in which all optimizers exchange the same.
    fn agree(&mut self, bindings: &[Binding<'_>]) -> Result<()> {
        let Some(world) = &self.world else { return Ok(()) };
        let refused = |family, problem: &str| {
            let algorithm = first_of(&self.groups, family).name();
            Err(Error::Groups { algorithm, problem: problem.into() })
        };
        if self.unrestored {
            return refused(
                0,
                "the checkpoint was saved between two exchanges, when ranks had parameters of their own: \
                 restore_params gives them back",
            );
        }
        for family in 0..self.shared.len() {
            let algorithm = first_of(&self.groups, family);
            if let Err(reason) = algorithm.across_ranks() {
                return refused(family, reason);
            }
            if algorithm.sharded() != world.sharded() {
                return refused(
                    family,
                    "either all optimizers of a configuration share out their states, or none",
                );
            }
            if self.family_averages(family) != self.family_averages(0) {
                return refused(family, "it and the others do not take averaged gradients in the same steps");
            }
        }
        for group in &self.groups {
            if let Err(reason) = self.refuse_parted(group) {
                return refused(group.family, reason);
            }
        }
        let Some(mut world) = self.world.take() else { return Ok(()) };
        let agreed = world.agree(bindings, &self.slots, |text| self.write_settings(text));
        self.world = Some(world);
        agreed
    }

    /// Everything that a step depends on beside its tensors, one setting a line.
    fn write_settings(&self, text: &mut String) -> fmt::Result {
        let Driver { compute, non_finite, .. } = self;
        writeln!(text, "compute={compute:?}, non_finite={non_finite:?}")?;
        self.wrapped.write_settings(text)?;
        if let Some(averages) = &self.averages {
            averages.write_settings(text)?;
        }
        writeln!(text, "{} groups", self.groups.len())?;
        for (number, Group { algorithm, formats, params, mask, family, .. }) in self.groups.iter().enumerate()
        {
            let name = algorithm.name();
            writeln!(text, "group {number}: {name} of optimizer {family} with {formats:?}, {params:?}")?;
            if let Some(mask) = mask {
                writeln!(text, "group {number}: {name} with exp_avg_mask of {}", mask.text)?;
            }
            for hyper in algorithm.table() {
                if let Some(value) = algorithm.get(hyper.name) {
                    writeln!(text, "group {number}: {name} with {}={value}", hyper.name)?;
                }
            }
        }
        for (family, shared) in self.shared.iter().enumerate() {
            for ((name, _), value) in first_of(&self.groups, family).shared().iter().zip(shared) {
                writeln!(text, "optimizer {family} remembers {name}={value}")?;
            }
        }
        Ok(())
    }

    /// What a step over a parameter consists of.
    fn stages_of(&self, slot: &Slot) -> Stages {
        let Group { algorithm, family, .. } = &self.groups[slot.group];
        // A mask comes between the momentum and the parameter, and all parameters take the same stages.
        let masked = || {
            let mut mine = self.groups.iter().filter(|group| group.family == *family);
            algorithm.masking() == Masking::Always && mine.any(|group| group.mask.is_some())
        };
        match self.world.is_some() || (self.masked && masked()) {
            true => algorithm.stages_of_ranks(slot.class),
            false => {
                let mine = || self.groups.iter().filter(|group| group.family == *family);
                let algorithm_of = |group: usize| -> &dyn AnyAlgorithm {
                    mine().nth(group).map_or(&**algorithm, |group| &*group.algorithm)
                };
                algorithm.stages_together(&Groups::new(mine().count(), &algorithm_of), slot.class)
            }
        }
    }

    fn is_elsewhere(&self, slot: &Slot) -> bool {
        self.world.as_ref().is_some_and(|world| world.is_elsewhere(slot))
    }

    /// Whether a checkpoint of this rank has what belongs to a parameter.
    fn keeps(&self, slot: &Slot) -> bool {
        self.world.as_ref().is_none_or(|world| world.keeps(slot))
    }

    /// Whether ranks may find different things in the gradients that they are given.
    fn finds_alone(&self) -> bool {
        self.world.is_some() && !self.averages()
    }

    /// Evaluates the objective and takes a step; algorithms that evaluate the loss themselves do so as often as they
    /// need. Returns the loss before the step.
    ///
    /// # Errors
    /// As [`step`](Optimizer::step), and what the objective fails with: parameters are where it was last evaluated then.
    pub fn step_with(&mut self, objective: &mut dyn Objective) -> Result<f64> {
        let Some(kernels) = self.groups[0].algorithm.search() else {
            if self.wrapped.config.scaler.is_some() {
                let problem = "an objective does not know the loss scale".into();
                return Err(Error::Groups { algorithm: self.name(), problem });
            }
            let loss = objective.evaluate()?;
            self.step(&mut objective.bindings())?;
            return Ok(loss);
        };
        if let Some(cause) = &self.poisoned {
            return Err(Error::Poisoned { cause: cause.clone() });
        }
        if self.groups.len() > 1 {
            return Err(Error::NoGroup { group: 1, count: 1 });
        }
        if !self.wrapped.is_plain() {
            let problem = "accumulation, clipping and loss scales do not go with a search".into();
            return Err(Error::Groups { algorithm: self.name(), problem });
        }
        // Room for averages first, so that nothing of them can go wrong after the search.
        let stepped = self.make_means_of(objective).and_then(|()| {
            let Some(hyper) = self.groups[0].algorithm.hyper().downcast_ref() else {
                unreachable!("only LBFGS has these rules");
            };
            lbfgs::step(hyper, kernels, &self.backend, self.compute, &mut self.history, objective)
        });
        let averaged = match &stepped {
            Ok(_) => self.average_in(&mut lbfgs::sorted(objective)),
            Err(_) => Ok(()),
        };
        self.slots.settle(&stepped, |_| false);
        let loss = stepped?;
        if let Err(cause) = averaged {
            self.poisoned = Some(cause.to_string());
            return Err(cause);
        }
        self.count_average();
        Ok(loss)
    }

    /// What the algorithm remembers for all parameters together ([`Algorithm::SHARED`](crate::Algorithm::SHARED)),
    /// by name: the `d` of D-Adaptation, say.
    pub fn shared(&self, name: &str) -> Option<f64> {
        let names = self.groups[0].algorithm.shared().iter();
        names.zip(&self.shared[0]).find(|((known, _), _)| *known == name).map(|(_, value)| *value)
    }

    /// The backend that it runs on.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    fn compute_of(&self, format: Format) -> Compute {
        self.compute.unwrap_or(match format {
            Format::F64 => Compute::F64,
            _ => Compute::F32,
        })
    }

    /// Whether how an element is stored depends on its place in the parameter.
    fn counts_elements(&self, slot: &Slot) -> bool {
        let Group { algorithm, formats, .. } = &self.groups[slot.group];
        let stored =
            |state: &str| formats.choose(&**algorithm, state, slot.shape.elements(), slot.compute.format());
        let states = self.stages_of(slot).operands(Role::State);
        slot.seed.is_some() || states.into_iter().any(|state| stored(state).block().is_some())
    }

    /// Brings the slots into the bindings' order, checks everything that can be wrong, and gives what can be
    /// stepped at once its run. One walk over the bindings: with many of them, walks are what a step costs.
    fn prepare(&mut self, bindings: &[Binding<'_>]) -> Result<Prepared> {
        self.locate(bindings)?;
        let mut prepared = Prepared { without_grad: 0, lacks_states: false };
        let mut slots = core::mem::take(&mut self.slots);
        let mut runs = core::mem::take(&mut self.runs);
        let mut places = core::mem::take(&mut self.places);
        places.clear();
        places.resize(self.groups.len(), [None; 2 * CLASSES]);
        runs.iter_mut().for_each(Run::clear);
        let checked: Result<()> = bindings.iter().enumerate().try_for_each(|(i, binding)| {
            let slot = slots.place(i, binding.name, || self.new_slot(binding))?;
            self.check_binding(binding, slot)?;
            slot.run = None;
            if binding.grad.is_none() {
                prepared.without_grad += 1;
                return Ok(());
            }
            if self.is_elsewhere(slot) {
                return Ok(());
            }
            let place = self.run_of(&mut runs, &mut places, slot);
            if slot.fits == Some(place) {
                join(&self.groups, &mut runs[place], slot, place);
            } else {
                prepared.lacks_states = true;
            }
            Ok(())
        });
        (self.slots, self.runs, self.places) = (slots, runs, places);
        checked?;
        let mut runs = self.runs.iter().filter(|run| !run.is_empty());
        // Groups may have stages of their own, but what is gathered over a group must be in one run.
        let mut apart = None;
        while let Some(run) = runs.next() {
            let gathers = |other: &Run| run.stages == other.stages && run.stages.gathers();
            let shares = !self.shared[run.family].is_empty();
            let others = |other: &Run| other.family == run.family && (shares || gathers(other));
            apart = apart.or(runs.clone().any(others).then_some(run.family));
        }
        match apart {
            None => Ok(prepared),
            Some(family) => Err(Error::MixedCompute { algorithm: first_of(&self.groups, family).name() }),
        }
    }

    /// The place of the run that a parameter belongs to, made if there is none.
    fn run_of(&self, runs: &mut Vec<Run>, places: &mut [[Option<usize>; 2 * CLASSES]], slot: &Slot) -> usize {
        let key = usize::from(slot.class) * 2 + usize::from(slot.compute == Compute::F64);
        *places[slot.group][key].get_or_insert_with(|| {
            let (stages, family, compute) =
                (self.stages_of(slot), self.groups[slot.group].family, slot.compute);
            let same = |run: &Run| run.stages == stages && run.compute == compute && run.family == family;
            let found = runs.iter().position(same);
            found.unwrap_or_else(|| {
                runs.push(Run::new(stages, compute, family));
                runs.len() - 1
            })
        })
    }

    /// The slot of a parameter not seen before.
    fn new_slot(&self, binding: &Binding<'_>) -> Result<Slot> {
        let shape: Shape = binding.param.extents().into();
        let kind = binding.kind.unwrap_or_else(|| ModuleKind::guess(binding.name, &shape));
        let group = self.group_of(&Member { name: binding.name, shape: &shape, kind });
        let Group { algorithm, params, .. } = &self.groups[group];
        let class = class_of(&**algorithm, binding.name, &shape)?;
        let format = binding.param.format();
        let expected = match params {
            ParamFormat::Stochastic { .. } if format != Format::Bf16 => Some("bf16"),
            ParamFormat::Master if !matches!(format, Format::Bf16 | Format::F16) => Some("bf16 or f16"),
            _ => None,
        };
        if let Some(expected) = expected {
            return Err(Error::ParamPrecision { param: binding.name.to_owned(), expected, got: format });
        }
        Ok(Slot {
            name: binding.name.to_owned(),
            shape,
            group,
            compute: self.compute_of(binding.param.format()),
            steps: 0,
            class,
            fits: None,
            states: Vec::new(),
            master: None,
            seed: params.seed(),
            narrow: matches!(format, Format::Bf16 | Format::F16),
            scratch: Vec::new(),
            memory: algorithm.memory().iter().map(|(_, initial)| *initial).collect(),
            mirror: None,
            rows: None,
            sparse: false,
            owner: None,
            mean: None,
            kind,
            errors: None,
            mask: None,
            run: None,
            row: 0,
        })
    }

    fn check_binding(&self, binding: &Binding<'_>, slot: &mut Slot) -> Result<()> {
        let name = || binding.name.to_owned();
        let extents = binding.param.extents();
        if !extents.fit(&slot.shape) {
            return Err(Error::ParamShape {
                param: name(),
                expected: slot.shape.clone(),
                got: extents.into(),
            });
        }
        slot.sparse = false;
        if let Some(grad) = binding.grad.as_rows() {
            let algorithm = &self.groups[slot.group].algorithm;
            let sparse = algorithm.sparse().map_err(|reason| Error::GradKind { param: name(), reason })?;
            let rows = slot.rows.get_or_insert_default();
            rows.check(grad, &slot.shape, sparse)
                .map_err(|problem| Error::Rows { param: name(), problem })?;
            if sparse == Sparse::Rows && self.counts_elements(slot) {
                let reason = "row-sparse gradients do not go with states in blocks or rounding by chance";
                return Err(Error::GradKind { param: name(), reason });
            }
            slot.sparse = true;
        } else if let Some(grad) = binding.grad.extents() {
            if !grad.fit_param(extents) {
                return Err(Error::GradShape { param: name(), expected: extents.into(), got: grad.into() });
            }
            let dense = self.groups[slot.group].algorithm.dense();
            dense.map_err(|reason| Error::GradKind { param: name(), reason })?;
        }
        let expected = self.near().device();
        for got in [binding.param.device(), binding.grad.device()].into_iter().flatten() {
            if got != expected {
                return Err(Error::OtherDevice { param: name(), expected, got });
            }
        }
        if self.is_away() {
            self.check_away(binding, slot)?;
        }
        let format = binding.param.format();
        if self.compute_of(format) != slot.compute {
            return Err(Error::ParamFormat { param: name(), got: format });
        }
        Ok(())
    }

    fn step_runs(&mut self, bindings: &mut [Binding<'_>]) -> Result<()> {
        let mut begun = false;
        for (index, run) in self.runs.iter_mut().enumerate().filter(|(_, run)| !run.is_empty()) {
            let slots = self.slots.range(0..bindings.len());
            let tensors = slots.iter().filter(|slot| slot.run == Some(index)).count();
            let (backend, groups, family) = (&*self.backend, &self.groups[..], run.family);
            let shared = &mut self.shared[family][..];
            let ranks = self.world.as_ref().map(|world| &**world.ranks());
            let averaging = self.averages.as_ref().and_then(|averages| averages.rule(groups));
            let around = Around { forming: self.forming.as_ref(), averaging };
            let work =
                Work { index, family, tensors, backend, groups, shared, ranks, bindings, slots, around };
            let stepped = match self.away.as_mut().filter(|away| away.known) {
                Some(away) => run.step_away(work, away, &mut begun),
                None => run.step(work, &mut begun),
            };
            if let Err(cause) = stepped {
                if begun {
                    self.poisoned = Some(cause.to_string());
                }
                return Err(cause);
            }
        }
        Ok(())
    }
}

/// The algorithm of a family's first group.
fn first_of(groups: &[Group], family: usize) -> &(dyn AnyAlgorithm + 'static) {
    let first = groups.iter().find(|group| group.family == family);
    &*first.unwrap_or(&groups[0]).algorithm
}

/// The class of a parameter, or why the algorithm does not take it.
fn class_of(algorithm: &dyn AnyAlgorithm, param: &str, shape: &Shape) -> Result<u8> {
    let class = algorithm.class_of(param, shape).map_err(|reason| Error::Unfit {
        param: param.to_owned(),
        shape: shape.clone(),
        algorithm: algorithm.name(),
        reason,
    })?;
    assert!(usize::from(class) < CLASSES, "{} has too many classes", algorithm.name());
    Ok(class)
}

fn memory_of(slot: &Slot, role: Role) -> &[(&'static str, Storage)] {
    if role == Role::State { &slot.states } else { &slot.scratch }
}

/// Gives a parameter with states its run and its row of scalars.
fn join(groups: &[Group], run: &mut Run, slot: &mut Slot, place: usize) {
    slot.run = Some(place);
    slot.row = run.row((slot.group, slot.class), slot.steps + 1, &*groups[slot.group].algorithm);
}

fn fill(backend: &dyn Backend, storage: &mut Storage, value: f64) -> Result<()> {
    let values = vec![value; storage.len()];
    Ok(backend.write(storage, values.as_slice().into())?)
}

/// Copies parameters that are not contiguous into buffers, or back.
fn move_strided(bindings: &mut [Binding<'_>], back: bool) {
    #[cfg(feature = "ndarray")]
    for binding in bindings.iter_mut().filter(|binding| !binding.grad.is_none()) {
        if let ParamRef::Strided(view) = &mut binding.param {
            if back { view.scatter() } else { view.gather() }
        }
    }
    #[cfg(not(feature = "ndarray"))]
    let _: (&mut [Binding<'_>], bool, Option<ParamRef<'_>>) = (bindings, back, None);
}

impl Optimizer for Driver {
    fn step(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        if let Some(cause) = &self.poisoned {
            return Err(Error::Poisoned { cause: cause.clone() });
        }
        if self.groups[0].algorithm.search().is_some() {
            return Err(Error::NeedsObjective { algorithm: self.name() });
        }
        let stepped = self.step_kept(bindings, true)?;
        self.count_average();
        Ok(stepped)
    }

    fn update_hessian(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        if let Some(cause) = &self.poisoned {
            return Err(Error::Poisoned { cause: cause.clone() });
        }
        let updated = self.take_hessian(bindings);
        self.slots.settle(&updated, StepReport::skipped);
        updated
    }

    fn name(&self) -> &'static str {
        self.groups[0].algorithm.name()
    }

    fn groups(&self) -> usize {
        self.groups.len()
    }

    fn get(&self, group: usize, name: &str) -> Option<Value> {
        self.groups.get(group)?.algorithm.get(name)
    }

    fn set(&mut self, group: usize, values: &[(&str, Value)]) -> Result<()> {
        let count = self.groups.len();
        let found = self.groups.get_mut(group).ok_or(Error::NoGroup { group, count })?;
        Ok(found.algorithm.set(values)?)
    }

    fn params(&self) -> Vec<ParamState> {
        let mut params: Vec<ParamState> = self
            .slots
            .iter()
            .map(|slot| ParamState {
                name: slot.name.clone(),
                shape: slot.shape.clone(),
                group: slot.group,
                steps: slot.steps,
                states: slot.states.iter().map(|(name, _)| *name).collect(),
                formats: slot.states.iter().map(|(_, storage)| storage.format()).collect(),
                state_bytes: slot.state_bytes(),
            })
            .collect();
        params.sort_by(|a, b| a.name.cmp(&b.name));
        params
    }

    fn state(&self, param: &str, state: &str) -> Result<Option<Vec<f64>>> {
        let Some(slot) = self.slots.get(param) else { return Ok(None) };
        let known = slot.states.iter().find(|(name, _)| *name == state).map(|(_, storage)| storage);
        let master = slot.master.as_ref().filter(|_| state == MASTER);
        let Some(storage) = known.or(master) else { return Ok(None) };
        let mut values = vec![0.0f64; storage.len()];
        self.backend.read(storage, values.as_mut_slice().into())?;
        Ok(Some(values))
    }

    fn save(&self) -> Result<Checkpoint> {
        let own = self.to_checkpoint()?;
        match &self.world {
            Some(world) if world.sharded() => world.consolidate(&own),
            Some(world) if self.groups.iter().any(|group| !group.algorithm.same_on_all_ranks()) => {
                let mut whole = world.with_errors(own)?;
                self.unite(&mut whole, world.ranks().world());
                Ok(whole)
            }
            _ => Ok(own),
        }
    }

    fn load_with(&mut self, checkpoint: &Checkpoint, options: &LoadOptions) -> Result<LoadReport> {
        self.restore(checkpoint, options)
    }
}

impl Driver {
    /// Takes a step over all parameters (`whole`) or some of them, and keeps what it learns of new ones if it goes
    /// through.
    fn step_kept(&mut self, bindings: &mut [Binding<'_>], whole: bool) -> Result<StepReport> {
        let stepped = match whole && !self.wrapped.is_plain() {
            true => self.step_wrapped(bindings),
            false => self.step_checked(bindings, Given::Raw, whole),
        };
        let averaged = match &stepped {
            Ok(_) => self.average_in(bindings),
            Err(_) => Ok(()),
        };
        self.slots.settle(&stepped, StepReport::skipped);
        let stepped = stepped?;
        if whole && !stepped.skipped() {
            self.expected.clear();
        }
        if let Err(cause) = averaged {
            // The parameters have stepped, and the average does not fit them.
            self.poisoned = Some(cause.to_string());
            return Err(cause);
        }
        Ok(stepped)
    }

    /// Everything that comes before the first write of a step: checks, copies, states, and the gradients' factor. A
    /// report that is skipped ends the step.
    fn open(&mut self, bindings: &mut [Binding<'_>], given: Given, whole: bool) -> Result<StepReport> {
        // Where a window closes, its iteration began with it.
        if !matches!(given, Given::Judged(_)) {
            self.agree(bindings)?;
        }
        let mut prepared = self.prepare(bindings)?;
        if let Some(world) = &self.world
            && world.share_out(self.slots.range(0..bindings.len()))
        {
            prepared = self.prepare(bindings)?;
        }
        if whole {
            self.check_expected()?;
        }
        self.make_masks(bindings)?;
        if given != Given::Hessian {
            self.make_means(bindings)?;
        }
        let mut report = StepReport { without_grad: prepared.without_grad, ..StepReport::default() };
        move_strided(bindings, false);
        if !self.backend.reaches_host() {
            mirror::copy_in(&*self.backend, bindings, self.slots.range(0..bindings.len()))?;
        }
        rows::sum_up(&*self.backend, bindings, self.slots.range(0..bindings.len()))?;
        let factor = match given {
            Given::Judged(factor) => Some(factor),
            Given::Raw | Given::Hessian => self.judge(bindings, given, &mut report)?,
        };
        let Some(factor) = factor else { return Ok(report) };
        if self.non_finite != NonFinite::Propagate
            && let Some((param, state)) = self.poisoned_state(bindings)?
        {
            if self.non_finite == NonFinite::Error {
                return Err(Error::PoisonedState { param, state });
            }
            report.skipped = Some(Skipped::PoisonedState { param, state });
            return Ok(report);
        }
        move_strided(bindings, false);
        if prepared.lacks_states {
            self.allocate_states(bindings)?;
        }
        if factor != 1.0 {
            self.runs.iter_mut().for_each(|run| run.scale(factor));
        }
        report.updated = bindings.len() - prepared.without_grad;
        Ok(report)
    }

    fn step_checked(
        &mut self,
        bindings: &mut [Binding<'_>],
        given: Given,
        whole: bool,
    ) -> Result<StepReport> {
        let mut report = self.open(bindings, given, whole)?;
        if report.skipped() {
            return Ok(report);
        }
        self.step_runs(bindings)?;
        self.wrapped.stepped();
        if self.non_finite != NonFinite::Propagate {
            report.poisoned = self.poisoned_state(bindings)?;
        }
        if !self.backend.reaches_host() {
            let copied = mirror::copy_out(&*self.backend, bindings, self.slots.range(0..bindings.len()));
            if let Err(cause) = copied {
                self.poisoned = Some(cause.to_string());
                return Err(cause);
            }
        }
        if let Some(world) = self.world.as_mut().filter(|world| world.sharded()) {
            let spread = world.spread(bindings, self.slots.range(0..bindings.len()));
            if let Err(cause) = spread {
                self.poisoned = Some(cause.to_string());
                return Err(cause);
            }
        }
        move_strided(bindings, true);
        Ok(report)
    }
}
