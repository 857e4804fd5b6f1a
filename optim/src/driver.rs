//! The generic driver: groups, states, missing gradients, saving and loading, for every algorithm.

mod around;
pub(crate) mod averages;
mod away;
mod clip;
pub(crate) mod finite;
mod groups;
mod hessian;
mod lookahead;
pub(crate) mod masks;
mod memory;
pub(crate) mod mirror;
mod modes;
mod norms;
mod parted;
mod persist;
mod prepare;
pub(crate) mod rows;
pub(crate) mod run;
mod shared;
mod steps;
mod stream;
mod together;
pub(crate) mod wrap;

use crate::builtins::Builtins;
use crate::checkpoint::{Checkpoint, LoadOptions};
use crate::hyper::Value;
use crate::params::MASTER;
use crate::program::{MAX_KEPT, Mode, Variant};
use crate::ranks::world::World;
use crate::slots::{Slot, Slots};
use crate::{
    AnyAlgorithm, Binding, Error, LoadReport, Objective, Optimizer, ParamFormat, ParamState, Result,
    StateFormats, StepReport,
};
use around::Forming;
use averages::Averages;
use away::Away;
pub use away::can_offload;
use clip::Clipping;
use fallline_core::{Backend, Compute, Role, Storage};
use finite::{Look, NonFinite};
use groups::Expected;
pub use groups::Member;
use masks::GroupMask;
use run::Run;
use shared::Shared;
use std::path::PathBuf;
use std::sync::Arc;
pub use stream::Stream;
use wrap::Wrapped;

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
    /// The rules that are run whatever the algorithm is.
    builtins: &'static Builtins,
    compute: Option<Compute>,
    non_finite: NonFinite,
    groups: Vec<Group>,
    slots: Slots,
    runs: Vec<Run>,
    /// For each group the places of its runs, by variant and compute type, as far as the step being taken asked.
    places: Vec<[Option<usize>; 2 * Variant::COUNT]>,
    /// As [`Algorithm::SHARED`](crate::Algorithm::SHARED), for each family of groups.
    shared: Vec<Shared>,
    /// Steps since parameters and slow weights were brought together ([`Lookahead`](crate::Lookahead)).
    lookahead_steps: u64,
    /// Rules that must match a parameter of the first step.
    expected: Vec<Expected>,
    look: Look,
    wrapped: Wrapped,
    /// What is to be done to the gradients of the step being taken in its own passes.
    forming: Option<Forming>,
    averages: Option<Averages>,
    /// What the gradients of the step being taken are multiplied by, where the device has computed it.
    clipping: Option<Arc<Storage>>,
    clipping_kept: Clipping,
    /// Another device than the own one that parameters are on.
    away: Option<Away>,
    /// The ranks that step together, if there are several.
    world: Option<World>,
    /// Which weights the parameters hold.
    mode: Mode,
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
        let shared = algorithm.spec().shared.iter().map(|(_, initial)| *initial).collect();
        Driver {
            backend,
            builtins: algorithm.builtins(),
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
            shared: vec![Shared::new(shared)],
            lookahead_steps: 0,
            expected: Vec::new(),
            look: Look::default(),
            wrapped: Wrapped::default(),
            forming: None,
            averages: None,
            clipping: None,
            clipping_kept: Clipping::default(),
            away: None,
            world: None,
            mode: Mode::Training,
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

    /// What a group remembers from step to step ([`Advances`](crate::Advances)) changes: a step has been taken.
    fn advance(&mut self) -> Result<()> {
        for group in &mut self.groups {
            let (mut values, mut count) = ([const { ("", Value::None) }; MAX_KEPT], 0);
            let program = group.algorithm.program(Variant::ONLY);
            program.advance(group.algorithm.core().hyper(), &mut |name, value| {
                values[count] = (name, value);
                count += 1;
            });
            if count > 0 {
                group.algorithm.set(&values[..count])?;
            }
        }
        Ok(())
    }

    /// The backend that it runs on.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }
}

fn memory_of(slot: &Slot, role: Role) -> &[(&'static str, Storage)] {
    if role == Role::State { &slot.states } else { &slot.scratch }
}

fn fill(backend: &dyn Backend, storage: &mut Storage, value: f64) -> Result<()> {
    let values = vec![value; storage.len()];
    Ok(backend.write(storage, values.as_slice().into())?)
}

impl Optimizer for Driver {
    fn step(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        if let Some(cause) = &self.poisoned {
            return Err(Error::Poisoned { cause: cause.clone() });
        }
        let stepped = self.step_kept(bindings, true)?;
        self.count_average();
        Ok(stepped)
    }

    fn step_with(&mut self, objective: &mut dyn Objective) -> Result<f64> {
        if self.wrapped.config.scaler.is_some() {
            let problem = "an objective does not know the loss scale".into();
            return Err(Error::Groups { algorithm: self.name(), problem });
        }
        let loss = objective.evaluate()?;
        self.step(&mut objective.bindings())?;
        Ok(loss)
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
            Some(world)
                if self
                    .groups
                    .iter()
                    .any(|group| group.algorithm.spec().replicas.error_feedback.is_some()) =>
            {
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
