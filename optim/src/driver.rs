//! The generic driver: groups, states, missing gradients, saving and loading, for every algorithm.

mod averages;
pub(crate) mod finite;
mod groups;
pub(crate) mod mirror;
mod persist;
pub(crate) mod run;
mod stream;
pub(crate) mod wrap;

use crate::algorithm;
use crate::checkpoint::Checkpoint;
use crate::hyper::Value;
use crate::lbfgs::{self, History};
use crate::slots::{Slot, Slots};
use crate::{AnyAlgorithm, Binding, Error, LoadReport, ModuleKind, Objective, ParamRef, Result, StepReport};
use averages::Averages;
use fallline_core::backend::{Pass, TensorPass, View};
use fallline_core::{Backend, Compute, Format, Role, Shape, Storage, rule};
use finite::{Look, NonFinite};
use groups::Expected;
pub use groups::Member;
use run::{Run, Work};
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
    fn load(&mut self, checkpoint: &Checkpoint) -> Result<LoadReport>;
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
    /// Bytes of its states.
    pub state_bytes: usize,
}

/// A group of parameters with hyperparameters of its own.
struct Group {
    algorithm: Box<dyn AnyAlgorithm>,
    matches: Box<dyn Fn(&Member<'_>) -> bool + Send>,
    /// The optimizer that it is a part of.
    family: usize,
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
    averages: Option<Averages>,
    /// What an algorithm that evaluates the loss itself remembers.
    history: Option<History>,
    poisoned: Option<String>,
}

impl Driver {
    /// An optimizer with one group of all parameters.
    pub fn new(backend: Arc<dyn Backend>, algorithm: Box<dyn AnyAlgorithm>) -> Driver {
        let shared = algorithm.shared().iter().map(|(_, initial)| *initial).collect();
        Driver {
            backend,
            compute: None,
            non_finite: NonFinite::default(),
            groups: vec![Group { algorithm, matches: Box::new(|_| true), family: 0 }],
            slots: Slots::default(),
            runs: Vec::new(),
            places: Vec::new(),
            shared: vec![shared],
            expected: Vec::new(),
            look: Look::default(),
            wrapped: Wrapped::default(),
            averages: None,
            history: None,
            poisoned: None,
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
        let Some(hyper) = self.groups[0].algorithm.hyper().downcast_ref() else {
            unreachable!("only LBFGS has these rules");
        };
        lbfgs::step(hyper, kernels, &self.backend, self.compute, &mut self.history, objective)
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
            let Group { algorithm, family, .. } = &self.groups[slot.group];
            let (stages, family, compute) = (algorithm.stages(slot.class), *family, slot.compute);
            let same = |run: &Run| run.stages == stages && run.compute == compute && run.family == family;
            runs.iter().position(same).unwrap_or_else(|| {
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
        let algorithm = &self.groups[group].algorithm;
        let class = class_of(&**algorithm, binding.name, &shape)?;
        Ok(Slot {
            name: binding.name.to_owned(),
            shape,
            group,
            compute: self.compute_of(binding.param.format()),
            steps: 0,
            class,
            fits: None,
            states: Vec::new(),
            scratch: Vec::new(),
            memory: algorithm.memory().iter().map(|(_, initial)| *initial).collect(),
            mirror: None,
            run: None,
            row: 0,
        })
    }

    fn check_binding(&self, binding: &Binding<'_>, slot: &Slot) -> Result<()> {
        let name = || binding.name.to_owned();
        let extents = binding.param.extents();
        if !extents.fit(&slot.shape) {
            return Err(Error::ParamShape {
                param: name(),
                expected: slot.shape.clone(),
                got: extents.into(),
            });
        }
        if let Some(grad) = binding.grad.extents()
            && !grad.fit_param(extents)
        {
            return Err(Error::GradShape { param: name(), expected: extents.into(), got: grad.into() });
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
        let lacking = |i: &usize| slots[*i].run.is_none() && !bindings[*i].grad.is_none();
        let lacks: Vec<usize> = (0..slots.len()).filter(lacking).collect();
        let mut wanted: Vec<(Role, usize, usize, &'static str)> = Vec::new();
        for &i in &lacks {
            let stages = self.groups[slots[i].group].algorithm.stages(slots[i].class);
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
            let shape = match role {
                Role::State => self.groups[slot.group].algorithm.state_shape(name, &slot.shape),
                _ => slot.shape.clone(),
            };
            (slot.compute.format(), shape.elements())
        };
        let requests: Vec<(Format, usize)> = wanted.iter().map(request).collect();
        let mut storages = if requests.is_empty() { Vec::new() } else { self.backend.allocate(&requests)? };
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

    /// A state's first values: the parameter's.
    fn copy_param(&self, binding: &mut Binding<'_>, storage: &mut Storage, slot: &mut Slot) -> Result<()> {
        let elements = slot.shape.elements();
        let param = mirror::views(binding, &mut slot.mirror).0;
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
            let shared = &mut self.shared[run.family][..];
            let (backend, groups, family) = (&*self.backend, &self.groups[..], run.family);
            let work = Work { index, family, tensors, backend, groups, shared, bindings, slots };
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

/// The algorithm of a family's first group.
fn first_of(groups: &[Group], family: usize) -> &(dyn AnyAlgorithm + 'static) {
    let first = groups.iter().find(|group| group.family == family);
    &*first.unwrap_or(&groups[0]).algorithm
}

/// The class of a parameter, or why the algorithm does not take it.
fn class_of(algorithm: &dyn AnyAlgorithm, param: &str, shape: &Shape) -> Result<u8> {
    let class = algorithm.class(shape).map_err(|reason| Error::Unfit {
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
    slot.row = run.row(slot.group, slot.steps + 1, &*groups[slot.group].algorithm);
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
                state_bytes: slot.state_bytes(),
            })
            .collect();
        params.sort_by(|a, b| a.name.cmp(&b.name));
        params
    }

    fn state(&self, param: &str, state: &str) -> Result<Option<Vec<f64>>> {
        let Some(slot) = self.slots.get(param) else { return Ok(None) };
        let Some((_, storage)) = slot.states.iter().find(|(name, _)| *name == state) else { return Ok(None) };
        let mut values = vec![0.0f64; storage.len()];
        self.backend.read(storage, values.as_mut_slice().into())?;
        Ok(Some(values))
    }

    fn save(&self) -> Result<Checkpoint> {
        self.to_checkpoint()
    }

    fn load(&mut self, checkpoint: &Checkpoint) -> Result<LoadReport> {
        self.restore(checkpoint)
    }
}

impl Driver {
    /// Takes a step over all parameters (`whole`) or some of them, and keeps what it learns of new ones if it goes
    /// through.
    fn step_kept(&mut self, bindings: &mut [Binding<'_>], whole: bool) -> Result<StepReport> {
        let stepped = match whole && !self.wrapped.is_plain() {
            true => self.step_wrapped(bindings),
            false => self.step_checked(bindings, None, whole),
        };
        match &stepped {
            Ok(report) if !report.skipped() => {
                self.slots.keep_fresh();
                if whole {
                    self.expected.clear();
                }
            }
            _ => self.slots.forget_fresh(),
        }
        let stepped = stepped?;
        if let Err(cause) = self.average_in(bindings) {
            // The parameters have stepped, and the average does not fit them.
            self.poisoned = Some(cause.to_string());
            return Err(cause);
        }
        Ok(stepped)
    }

    /// A step with the gradients multiplied by `factor`, or, without one, by what comes of looking at them.
    fn step_checked(
        &mut self,
        bindings: &mut [Binding<'_>],
        factor: Option<f64>,
        whole: bool,
    ) -> Result<StepReport> {
        let prepared = self.prepare(bindings)?;
        if whole {
            self.check_expected()?;
        }
        let mut report = StepReport { without_grad: prepared.without_grad, ..StepReport::default() };
        move_strided(bindings, false);
        let mirrors = !self.backend.reaches_host();
        if mirrors {
            mirror::copy_in(&*self.backend, bindings, self.slots.range(0..bindings.len()))?;
        }
        let factor = match factor {
            Some(factor) => Some(factor),
            None => self.judge(bindings, &mut report)?,
        };
        let Some(factor) = factor else { return Ok(report) };
        move_strided(bindings, false);
        if prepared.lacks_states {
            self.allocate_states(bindings)?;
        }
        if factor != 1.0 {
            self.runs.iter_mut().for_each(|run| run.scale(factor));
        }
        self.step_runs(bindings)?;
        self.wrapped.stepped();
        if mirrors {
            let copied = mirror::copy_out(&*self.backend, bindings, self.slots.range(0..bindings.len()));
            if let Err(cause) = copied {
                self.poisoned = Some(cause.to_string());
                return Err(cause);
            }
        }
        move_strided(bindings, true);
        report.updated = bindings.len() - prepared.without_grad;
        Ok(report)
    }
}
