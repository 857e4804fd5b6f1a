//! The generic driver: groups, states, missing gradients, saving and loading, for every algorithm.

pub(crate) mod finite;
mod hessian;
pub(crate) mod mirror;
mod persist;
pub(crate) mod rows;
pub(crate) mod run;

use crate::algorithm;
use crate::checkpoint::{Checkpoint, LoadOptions};
use crate::hyper::Value;
use crate::lbfgs::{self, History};
use crate::ranks::world::World;
use crate::slots::{Slot, Slots};
use crate::stages::Stages;
use crate::{
    AnyAlgorithm, Binding, Error, LoadReport, Objective, ParamFormat, ParamRef, Result, Skipped, StateFormats,
    StepReport,
};
use fallline_core::backend::{Pass, TensorPass, View};
use fallline_core::ranks::Communicator;
use fallline_core::{Backend, Compute, Format, Role, Shape, Storage, rule};
use crate::params::MASTER;
use finite::{Look, NonFinite};
use run::{Run, Work};
use std::path::PathBuf;
use std::sync::Arc;

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
    matches: Box<dyn Fn(&str) -> bool + Send>,
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
    /// As [`Algorithm::SHARED`](crate::Algorithm::SHARED).
    shared: Vec<f64>,
    look: Look,
    /// What an algorithm that evaluates the loss itself remembers.
    history: Option<History>,
    /// The ranks that step together, if there are several.
    world: Option<World>,
    poisoned: Option<String>,
    page_folder: Option<PathBuf>,
}

/// Elements from which states are paged, as bitsandbytes has it: smaller ones are not worth a page.
const PAGED_FROM: usize = 100_000;

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
                matches: Box::new(|_| true),
            }],
            slots: Slots::default(),
            runs: Vec::new(),
            places: Vec::new(),
            shared,
            look: Look::default(),
            history: None,
            world: None,
            poisoned: None,
            page_folder: None,
        }
    }

    /// Adds a group for the parameters whose names `matches` accepts, with the hyperparameters of the first
    /// group but for `overrides`. Where several groups match, the first added has it; parameters that match
    /// none stay in group 0. Parameters that were stepped already stay where they are.
    ///
    /// # Errors
    /// When a hyperparameter does not exist, has another type or is out of range.
    pub fn add_group(
        &mut self,
        matches: impl Fn(&str) -> bool + Send + 'static,
        overrides: &[(&str, Value)],
    ) -> Result<usize> {
        let mut algorithm = self.groups[0].algorithm.boxed();
        algorithm.set(overrides)?;
        let (formats, params) = (self.groups[0].formats.clone(), self.groups[0].params);
        self.groups.push(Group { algorithm, formats, params, matches: Box::new(matches) });
        Ok(self.groups.len() - 1)
    }

    /// Stores a group's states in these formats, from its parameters' first step on. Groups added later have those of
    /// the first.
    ///
    /// # Errors
    /// [`Error::StateFormat`] when the algorithm has no such state, or needs its states as they are computed;
    /// [`Error::NoGroup`].
    pub fn set_state_formats(&mut self, group: usize, formats: StateFormats) -> Result<()> {
        let count = self.groups.len();
        let found = self.groups.get_mut(group).ok_or(Error::NoGroup { group, count })?;
        formats.check(&*found.algorithm)?;
        found.formats = formats;
        Ok(())
    }

    /// Stores a group's parameters of 16 bits so, from their first step on. Groups added later have the format of the
    /// first.
    ///
    /// # Errors
    /// [`Error::StateFormat`] for algorithms that work on whole matrices or evaluate the loss; [`Error::NoGroup`].
    pub fn set_param_format(&mut self, group: usize, format: ParamFormat) -> Result<()> {
        let count = self.groups.len();
        let found = self.groups.get_mut(group).ok_or(Error::NoGroup { group, count })?;
        if format != ParamFormat::Nearest {
            StateFormats::all(Format::F32).check(&*found.algorithm)?;
        }
        found.params = format;
        Ok(())
    }

    /// Keeps the states of parameters with at least a hundred thousand elements in files of this folder that are mapped
    /// into memory: of all groups, or of those whose algorithm is a paged one when there is none (then in the system's
    /// folder for temporary files).
    pub fn set_page_folder(&mut self, folder: Option<PathBuf>) {
        self.page_folder = folder;
    }

    /// Where the states of a parameter are paged to, if they are.
    fn pages(&self, algorithm: &dyn AnyAlgorithm, elements: usize) -> Option<PathBuf> {
        let large = elements >= PAGED_FROM;
        let folder = self.page_folder.clone().or_else(|| algorithm.paged().then(std::env::temp_dir));
        folder.filter(|_| large)
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
        self.world.is_none() || self.groups[0].algorithm.averages(&self.shared)
    }

    /// What a step over a parameter consists of.
    fn stages_of(&self, slot: &Slot) -> Stages {
        let algorithm = &self.groups[slot.group].algorithm;
        match &self.world {
            Some(_) => algorithm.stages_of_ranks(slot.class),
            None => algorithm.stages(slot.class),
        }
    }

    fn is_elsewhere(&self, slot: &Slot) -> bool {
        self.world.as_ref().is_some_and(|world| world.is_elsewhere(slot))
    }

    /// Evaluates the objective and takes a step; algorithms that evaluate the loss themselves do so as often as they
    /// need. Returns the loss before the step.
    ///
    /// # Errors
    /// As [`step`](Optimizer::step), and what the objective fails with: parameters are where it was last evaluated then.
    pub fn step_with(&mut self, objective: &mut dyn Objective) -> Result<f64> {
        let Some(kernels) = self.groups[0].algorithm.search() else {
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
        let Some(hyper) = self.groups[0].algorithm.hyper().downcast_ref() else {
            unreachable!("only LBFGS has these rules");
        };
        lbfgs::step(hyper, kernels, &self.backend, self.compute, &mut self.history, objective)
    }

    /// What the algorithm remembers for all parameters together ([`Algorithm::SHARED`](crate::Algorithm::SHARED)),
    /// by name: the `d` of D-Adaptation, say.
    pub fn shared(&self, name: &str) -> Option<f64> {
        let names = self.groups[0].algorithm.shared().iter();
        names.zip(&self.shared).find(|((known, _), _)| *known == name).map(|(_, value)| *value)
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

    fn group_of(&self, name: &str) -> usize {
        self.groups.iter().skip(1).position(|group| (group.matches)(name)).map_or(0, |place| place + 1)
    }

    /// Brings the slots into the bindings' order, checks everything that can be wrong, and gives what can be
    /// stepped at once its run. One walk over the bindings: with many of them, walks are what a step costs.
    fn prepare(&mut self, bindings: &[Binding<'_>]) -> Result<Prepared> {
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
        let mut apart = false;
        while let Some(run) = runs.next() {
            let gathers = |other: &Run| run.stages == other.stages && run.stages.gathers();
            apart |= runs.clone().any(|other| !self.shared.is_empty() || gathers(other));
        }
        if apart {
            return Err(Error::MixedCompute { algorithm: self.groups[0].algorithm.name() });
        }
        Ok(prepared)
    }

    /// The place of the run that a parameter belongs to, made if there is none.
    fn run_of(&self, runs: &mut Vec<Run>, places: &mut [[Option<usize>; 2 * CLASSES]], slot: &Slot) -> usize {
        let key = usize::from(slot.class) * 2 + usize::from(slot.compute == Compute::F64);
        *places[slot.group][key].get_or_insert_with(|| {
            let stages = self.stages_of(slot);
            let found = runs.iter().position(|run| run.stages == stages && run.compute == slot.compute);
            found.unwrap_or_else(|| {
                runs.push(Run::new(stages, slot.compute));
                runs.len() - 1
            })
        })
    }

    /// The slot of a parameter not seen before.
    fn new_slot(&self, binding: &Binding<'_>) -> Result<Slot> {
        let shape: Shape = binding.param.extents().into();
        let group = self.group_of(binding.name);
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
            scratch: Vec::new(),
            memory: algorithm.memory().iter().map(|(_, initial)| *initial).collect(),
            mirror: None,
            rows: None,
            sparse: false,
            owner: None,
            errors: None,
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
            slot.sparse = true;
        } else if let Some(grad) = binding.grad.extents() {
            if !grad.fit_param(extents) {
                return Err(Error::GradShape { param: name(), expected: extents.into(), got: grad.into() });
            }
            let dense = self.groups[slot.group].algorithm.dense();
            dense.map_err(|reason| Error::GradKind { param: name(), reason })?;
        }
        let expected = self.backend.device();
        for got in [binding.param.device(), binding.grad.device()].into_iter().flatten() {
            if got != expected {
                return Err(Error::OtherDevice { param: name(), expected, got });
            }
        }
        let format = binding.param.format();
        if self.compute_of(format) != slot.compute {
            return Err(Error::ParamFormat { param: name(), got: format });
        }
        Ok(())
    }

    /// Allocates the states and scratch that the groups' stages need and the bound parameters have not, in one
    /// arena: all first states side by side, then all second ones, so that a pass over many parameters walks
    /// each kind in one stream. Then these parameters have their runs too.
    fn allocate_states(&mut self, bindings: &mut [Binding<'_>]) -> Result<()> {
        let mut runs = core::mem::take(&mut self.runs);
        let mut places = core::mem::take(&mut self.places);
        let mut slots = core::mem::take(&mut self.slots);
        let done = self.allocate_for(slots.range(0..bindings.len()), bindings, &mut runs, &mut places);
        (self.slots, self.runs, self.places) = (slots, runs, places);
        done
    }

    fn allocate_for(
        &self,
        slots: &mut [Slot],
        bindings: &mut [Binding<'_>],
        runs: &mut Vec<Run>,
        places: &mut [[Option<usize>; 2 * CLASSES]],
    ) -> Result<()> {
        let lacking = |i: &usize| {
            let slot = &slots[*i];
            slot.run.is_none() && !bindings[*i].grad.is_none() && !self.is_elsewhere(slot)
        };
        let lacks: Vec<usize> = (0..slots.len()).filter(lacking).collect();
        let mut wanted: Vec<(Role, usize, usize, &'static str)> = Vec::new();
        for &i in &lacks {
            let stages = self.stages_of(&slots[i]);
            for role in [Role::State, Role::Scratch] {
                let has = |name: &&str| memory_of(&slots[i], role).iter().any(|(known, _)| known == name);
                let all = stages.operands(role).into_iter().enumerate();
                let missing = all.filter(|(_, name)| !has(name));
                wanted.extend(missing.map(|(place, name)| (role, place, i, name)));
            }
        }
        wanted.sort_by_key(|&(role, place, i, _)| (role == Role::Scratch, place, i));
        let request = |&(role, _, i, name): &(Role, usize, usize, &'static str)| {
            let slot = &slots[i];
            let computed = slot.compute.format();
            match role {
                Role::State => {
                    let Group { algorithm, formats, .. } = &self.groups[slot.group];
                    let shape = algorithm.state_shape(name, &slot.shape);
                    (formats.choose(&**algorithm, name, slot.shape.elements(), computed), shape.elements())
                }
                _ => (computed, slot.shape.elements()),
            }
        };
        let requests: Vec<(Format, usize)> = wanted.iter().map(request).collect();
        let folders = wanted.iter().map(|&(role, _, i, _)| {
            let slot = &slots[i];
            let pages = || self.pages(&*self.groups[slot.group].algorithm, slot.shape.elements());
            if role == Role::State { pages() } else { None }
        });
        let mut storages = self.allocate_in(&requests, folders)?;
        let masters: Vec<usize> = lacks.iter().copied().filter(|&i| self.lacks_master(&slots[i])).collect();
        let requests: Vec<(Format, usize)> =
            masters.iter().map(|&i| (Format::F32, slots[i].shape.elements())).collect();
        let folders =
            requests.iter().zip(&masters).map(|(&(_, len), &i)| self.pages(&*self.groups[slots[i].group].algorithm, len));
        let new = self.allocate_in(&requests, folders)?;
        for (i, mut master) in masters.into_iter().zip(new) {
            self.copy_param(&mut bindings[i], &mut master, &mut slots[i])?;
            slots[i].master = Some(master);
        }
        for (&(role, _, i, name), storage) in wanted.iter().zip(&mut storages) {
            let algorithm = &self.groups[slots[i].group].algorithm;
            let initial = algorithm.initial(name);
            if role == Role::State && algorithm.starts_as_param(name) {
                self.copy_param(&mut bindings[i], storage, &mut slots[i])?;
            } else if initial != 0.0 {
                fill(&*self.backend, storage, initial)?;
            }
        }
        for ((role, _, i, name), storage) in wanted.into_iter().zip(storages) {
            match role {
                Role::State => slots[i].states.push((name, storage)),
                _ => slots[i].scratch.push((name, storage)),
            }
        }
        for i in lacks {
            let slot = &mut slots[i];
            let place = self.run_of(runs, places, slot);
            for (role, memory) in [(Role::State, &mut slot.states), (Role::Scratch, &mut slot.scratch)] {
                let order = runs[place].stages.operands(role);
                memory.retain(|(name, _)| order.contains(name));
                memory.sort_by_key(|(name, _)| order.iter().position(|known| known == name));
            }
            slot.fits = Some(place);
            join(&self.groups, &mut runs[place], slot, place);
        }
        Ok(())
    }

    /// Storages for requests, each in its folder or in memory.
    fn allocate_in(
        &self,
        requests: &[(Format, usize)],
        folders: impl Iterator<Item = Option<PathBuf>>,
    ) -> Result<Vec<Storage>> {
        let folders: Vec<Option<PathBuf>> = folders.collect();
        let mut storages: Vec<Option<Storage>> = requests.iter().map(|_| None).collect();
        for kind in [false, true] {
            let mine = || (0..requests.len()).filter(|&i| folders[i].is_some() == kind);
            let wanted: Vec<(Format, usize)> = mine().map(|i| requests[i]).collect();
            let new = match mine().find_map(|i| folders[i].as_ref()) {
                _ if wanted.is_empty() => Vec::new(),
                Some(folder) => self.backend.allocate_paged(&wanted, folder)?,
                None => self.backend.allocate(&wanted)?,
            };
            mine().zip(new).for_each(|(i, storage)| storages[i] = Some(storage));
        }
        Ok(storages.into_iter().flatten().collect())
    }

    fn lacks_master(&self, slot: &Slot) -> bool {
        self.groups[slot.group].params == ParamFormat::Master && slot.master.is_none()
    }

    /// A state's first values: the parameter's.
    fn copy_param(&self, binding: &mut Binding<'_>, storage: &mut Storage, slot: &mut Slot) -> Result<()> {
        let elements = slot.shape.elements();
        let param = mirror::views(binding, &mut slot.mirror, None).0;
        let mut views = Some((View::write(storage), param));
        self.backend.run(Pass {
            kernel: self.groups[slot.group].algorithm.param_copy(),
            compute: slot.compute,
            tensors: &mut |operands| {
                let (copy, param) = views.take()?;
                (operands[0], operands[1]) = (Some(copy), param);
                Some(TensorPass { elements, row: 0 })
            },
            rows: &[1.0],
            tensor_scalars: &[],
            plan: &mut self.backend.plan(),
            sums: &mut [],
        })?;
        Ok(())
    }

    fn step_runs(&mut self, bindings: &mut [Binding<'_>]) -> Result<()> {
        let mut begun = false;
        for (index, run) in self.runs.iter_mut().enumerate().filter(|(_, run)| !run.is_empty()) {
            let slots = self.slots.range(0..bindings.len());
            let tensors = slots.iter().filter(|slot| slot.run == Some(index)).count();
            let (backend, groups, shared) = (&*self.backend, &self.groups[..], &mut self.shared[..]);
            let ranks = self.world.as_ref().map(|world| &**world.ranks());
            let work = Work { index, tensors, backend, groups, shared, ranks, bindings, slots };
            if let Err(cause) = run.step(work, &mut begun) {
                if begun {
                    self.poisoned = Some(cause.to_string());
                }
                return Err(cause);
            }
        }
        Ok(())
    }
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
        let stepped = self.step_checked(bindings);
        self.slots.settle(&stepped);
        stepped
    }

    fn update_hessian(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        if let Some(cause) = &self.poisoned {
            return Err(Error::Poisoned { cause: cause.clone() });
        }
        let updated = self.take_hessian(bindings);
        self.slots.settle(&updated);
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
            Some(world) if !self.groups[0].algorithm.same_on_all_ranks() => world.with_errors(own),
            _ => Ok(own),
        }
    }

    fn load_with(&mut self, checkpoint: &Checkpoint, options: &LoadOptions) -> Result<LoadReport> {
        self.restore(checkpoint, options)
    }
}

impl Driver {
    /// Everything that comes before the first write of a step: checks, copies, states. A report that is skipped ends
    /// the step.
    fn open(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        if let Some(world) = &mut self.world {
            if let Err(reason) = self.groups[0].algorithm.across_ranks() {
                return Err(Error::Groups { algorithm: self.name(), problem: reason.into() });
            }
            world.agree(bindings, self.groups.iter().map(|group| &*group.algorithm))?;
        }
        let mut prepared = self.prepare(bindings)?;
        if let Some(world) = &self.world
            && world.share_out(self.slots.range(0..bindings.len()))
        {
            prepared = self.prepare(bindings)?;
        }
        let mut report = StepReport { without_grad: prepared.without_grad, ..StepReport::default() };
        move_strided(bindings, false);
        if !self.backend.reaches_host() {
            mirror::copy_in(&*self.backend, bindings, self.slots.range(0..bindings.len()))?;
        }
        rows::sum_up(&*self.backend, bindings, self.slots.range(0..bindings.len()))?;
        if self.non_finite != NonFinite::Propagate {
            let (norm, bad) = self.look_at_grads(bindings)?;
            report.grad_norm = Some(norm);
            if let Some((param, count)) = bad {
                if self.non_finite == NonFinite::Error {
                    return Err(Error::NonFinite { param, count });
                }
                report.skipped = Some(Skipped::NonFinite { param, count });
                return Ok(report);
            }
        }
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
        report.updated = bindings.len() - prepared.without_grad;
        Ok(report)
    }

    fn step_checked(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        let mut report = self.open(bindings)?;
        if report.skipped() {
            return Ok(report);
        }
        self.step_runs(bindings)?;
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
