//! The generic driver: groups, states, missing gradients, saving and loading, for every algorithm.

pub(crate) mod finite;
mod persist;

use crate::checkpoint::Checkpoint;
use crate::hyper::Value;
use crate::slots::{Slot, Slots};
use crate::{AnyAlgorithm, Binding, Error, LoadReport, ParamRef, Result, Skipped, StepReport};
use fallline_core::backend::{Pass, Plan, TensorPass, View};
use fallline_core::{Backend, Compute, Format, Kernel, Role, Shape, Storage};
use finite::{Look, NonFinite};
use std::sync::Arc;

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
    matches: Box<dyn Fn(&str) -> bool + Send>,
}

/// What is known of a step once its bindings are checked.
struct Prepared {
    without_grad: usize,
    lacks_states: bool,
}

/// One rule over all parameters that it applies to, with buffers that are kept between steps.
struct RulePass {
    kernel: &'static Kernel,
    compute: Compute,
    /// For each row of scalars, its group and step count.
    keys: Vec<(usize, u64)>,
    rows: Vec<f64>,
    plan: Plan,
    sums: Vec<f64>,
}

impl RulePass {
    /// Forgets the rows of the last step.
    fn clear(&mut self) {
        self.keys.clear();
        self.rows.clear();
    }

    /// The row of scalars for a group at a step count, computed if it is not there yet.
    fn row(&mut self, group: usize, t: u64, algorithm: &dyn AnyAlgorithm) -> usize {
        if let Some(row) = self.keys.iter().rposition(|&key| key == (group, t)) {
            return row;
        }
        self.keys.push((group, t));
        self.rows.push(if algorithm.maximize() { -1.0 } else { 1.0 });
        let start = self.rows.len();
        self.rows.resize(start + self.kernel.scalars.len(), 0.0);
        self.kernel.compute_scalars(algorithm.hyper(), t, &mut self.rows[start..]);
        self.keys.len() - 1
    }
}

/// The optimizer for every algorithm that is a rule.
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
    passes: Vec<RulePass>,
    /// Each group's rule, as of the step being taken.
    kernels: Vec<&'static Kernel>,
    look: Look,
    poisoned: Option<String>,
}

impl Driver {
    /// An optimizer with one group of all parameters.
    pub fn new(backend: Arc<dyn Backend>, algorithm: Box<dyn AnyAlgorithm>) -> Driver {
        Driver {
            backend,
            compute: None,
            non_finite: NonFinite::default(),
            groups: vec![Group { algorithm, matches: Box::new(|_| true) }],
            slots: Slots::default(),
            passes: Vec::new(),
            kernels: Vec::new(),
            look: Look::default(),
            poisoned: None,
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
        self.groups.push(Group { algorithm, matches: Box::new(matches) });
        Ok(self.groups.len() - 1)
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

    /// Brings the slots into the bindings' order, checks everything that can be wrong, and sorts what can be
    /// stepped at once into passes. One walk over the bindings: with many of them, walks are what a step costs.
    fn prepare(&mut self, bindings: &[Binding<'_>]) -> Result<Prepared> {
        let mut prepared = Prepared { without_grad: 0, lacks_states: false };
        let mut slots = core::mem::take(&mut self.slots);
        let mut passes = core::mem::take(&mut self.passes);
        let mut kernels = core::mem::take(&mut self.kernels);
        kernels.clear();
        kernels.extend(self.groups.iter().map(|group| group.algorithm.kernel()));
        passes.iter_mut().for_each(RulePass::clear);
        let checked = bindings.iter().enumerate().try_for_each(|(i, binding)| {
            let slot = slots.place(i, binding.name, || self.new_slot(binding))?;
            self.check_binding(binding, slot)?;
            slot.pass = None;
            if binding.grad.is_none() {
                prepared.without_grad += 1;
            } else if slot.kernel.is_some_and(|known| core::ptr::eq(known, kernels[slot.group])) {
                plan(&self.groups, &*self.backend, &mut passes, slot);
            } else {
                prepared.lacks_states = true;
            }
            Ok(())
        });
        (self.slots, self.passes, self.kernels) = (slots, passes, kernels);
        checked.map(|()| prepared)
    }

    /// The slot of a parameter not seen before.
    fn new_slot(&self, binding: &Binding<'_>) -> Slot {
        Slot {
            name: binding.name.to_owned(),
            shape: binding.param.extents().into(),
            group: self.group_of(binding.name),
            compute: self.compute_of(binding.param.format()),
            steps: 0,
            kernel: None,
            states: Vec::new(),
            pass: None,
            row: 0,
        }
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

    /// Allocates the states that the groups' rules need and the bound parameters have not, in one arena: all
    /// first states side by side, then all second ones, so that a pass over many parameters walks each kind
    /// in one stream. Then these parameters have their passes too.
    fn allocate_states(&mut self, bindings: &[Binding<'_>]) -> Result<()> {
        let slots = self.slots.range(0..bindings.len());
        let lacking = |i: &usize| slots[*i].pass.is_none() && !bindings[*i].grad.is_none();
        let lacks: Vec<usize> = (0..slots.len()).filter(lacking).collect();
        let mut wanted: Vec<(usize, usize, &'static str)> = Vec::new();
        for &i in &lacks {
            let states = self.groups[slots[i].group].algorithm.states().enumerate();
            let missing = states.filter(|(_, state)| !slots[i].states.iter().any(|(name, _)| name == state));
            wanted.extend(missing.map(|(place, state)| (place, i, state)));
        }
        wanted.sort_by_key(|&(place, i, _)| (place, i));
        let requests: Vec<(Format, usize)> =
            wanted.iter().map(|&(_, i, _)| (slots[i].compute.format(), slots[i].shape.elements())).collect();
        let mut storages = if requests.is_empty() { Vec::new() } else { self.backend.allocate(&requests)? };
        for (&(_, i, state), storage) in wanted.iter().zip(&mut storages) {
            let initial = self.groups[slots[i].group].algorithm.initial(state);
            if initial != 0.0 {
                fill(&*self.backend, storage, initial)?;
            }
        }
        for ((_, i, state), storage) in wanted.into_iter().zip(storages) {
            slots[i].states.push((state, storage));
        }
        for i in lacks {
            let slot = &mut slots[i];
            let order: Vec<&str> = self.groups[slot.group].algorithm.states().collect();
            slot.states.retain(|(name, _)| order.contains(name));
            slot.states.sort_by_key(|(name, _)| order.iter().position(|state| state == name));
            slot.kernel = Some(self.kernels[slot.group]);
            plan(&self.groups, &*self.backend, &mut self.passes, slot);
        }
        Ok(())
    }

    fn run_passes(&mut self, bindings: &mut [Binding<'_>]) -> Result<()> {
        let mut begun = false;
        for (index, pass) in self.passes.iter_mut().enumerate() {
            if pass.keys.is_empty() {
                continue;
            }
            let slots = self.slots.range(0..bindings.len());
            let mut pairs = bindings.iter_mut().zip(slots).filter(|(_, slot)| slot.pass == Some(index));
            let kernel = pass.kernel;
            let mut counted = 0;
            let ran = self.backend.run(Pass {
                kernel,
                compute: pass.compute,
                tensors: &mut |views| {
                    let (binding, slot) = pairs.next()?;
                    let (mut param, mut grad) = binding.views();
                    let elements = param.as_ref().map_or(0, View::len);
                    let mut states = slot.states.iter_mut();
                    for (view, operand) in views.iter_mut().zip(kernel.operands) {
                        *view = match operand.role {
                            Role::Param => param.take(),
                            Role::Grad => grad.take(),
                            Role::State => states.next().map(|(_, storage)| View::write(storage)),
                            _ => None,
                        };
                    }
                    // Here, and not after the step: with many tensors each walk over them counts.
                    slot.steps += 1;
                    counted += 1;
                    Some(TensorPass { elements, row: slot.row })
                },
                rows: &pass.rows,
                tensor_scalars: &[],
                plan: &mut pass.plan,
                sums: &mut [],
            });
            if let Err(cause) = ran {
                let slots = self.slots.range(0..bindings.len()).iter_mut();
                slots.filter(|slot| slot.pass == Some(index)).take(counted).for_each(|slot| slot.steps -= 1);
                if begun {
                    self.poisoned = Some(cause.to_string());
                }
                return Err(cause.into());
            }
            begun = true;
        }
        Ok(())
    }
}

fn fill(backend: &dyn Backend, storage: &mut Storage, value: f64) -> Result<()> {
    let values = vec![value; storage.len()];
    Ok(backend.write(storage, values.as_slice().into())?)
}

/// Gives a parameter with states its pass and its row of scalars.
fn plan(groups: &[Group], backend: &dyn Backend, passes: &mut Vec<RulePass>, slot: &mut Slot) {
    let Some(kernel) = slot.kernel else { return };
    let pass = pass_for(passes, backend, kernel, slot.compute);
    slot.pass = Some(pass);
    slot.row = passes[pass].row(slot.group, slot.steps + 1, &*groups[slot.group].algorithm);
}

/// The place of the pass for a rule and a compute type, made if there is none.
fn pass_for(
    passes: &mut Vec<RulePass>,
    backend: &dyn Backend,
    kernel: &'static Kernel,
    compute: Compute,
) -> usize {
    let found = passes.iter().position(|pass| core::ptr::eq(pass.kernel, kernel) && pass.compute == compute);
    found.unwrap_or_else(|| {
        let (keys, rows, sums) = Default::default();
        passes.push(RulePass { kernel, compute, keys, rows, plan: backend.plan(), sums });
        passes.len() - 1
    })
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
        let stepped = self.step_checked(bindings);
        match &stepped {
            Ok(report) if !report.skipped() => self.slots.keep_fresh(),
            _ => self.slots.forget_fresh(),
        }
        stepped
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
    fn step_checked(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        let prepared = self.prepare(bindings)?;
        let mut report = StepReport { without_grad: prepared.without_grad, ..StepReport::default() };
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
        if prepared.lacks_states {
            self.allocate_states(bindings)?;
        }
        move_strided(bindings, false);
        self.run_passes(bindings)?;
        move_strided(bindings, true);
        report.updated = bindings.len() - prepared.without_grad;
        Ok(report)
    }
}
