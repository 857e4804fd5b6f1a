//! An algorithm with its types erased.

use super::{Algorithm, Info, Sparse, Spec, StateSpec, StorageDefaults};
use crate::builtins::Builtins;
use crate::hyper::{Hyper, HyperError, Value};
use crate::stages::{Exchanging, MatrixStep, Stages};
use core::any::Any;
use core::fmt::Debug;
use core::marker::PhantomData;
use fallline_core::{Format, Groups, Kernel, Link, Role, Shape};

/// An [`Algorithm`] with its hyperparameters, its type erased: what a group of parameters has.
pub trait AnyAlgorithm: Debug + Send + Sync {
    /// The algorithm's name.
    fn name(&self) -> &'static str;
    /// What people should know about it.
    fn info(&self) -> &'static Info;
    /// Its hyperparameters.
    fn table(&self) -> &'static [Hyper];
    /// A hyperparameter by name.
    fn get(&self, name: &str) -> Option<Value>;
    /// Sets hyperparameters by name, all or none.
    ///
    /// # Errors
    /// [`HyperError`]; nothing is set then.
    fn set(&mut self, values: &[(&str, Value)]) -> Result<(), HyperError>;
    /// As [`Algorithm::kernel`].
    fn kernel(&self) -> &'static Kernel;
    /// As [`Algorithm::stages`].
    fn stages(&self, class: u8) -> Stages;
    /// As [`Algorithm::stages_together`]; `groups` are of the same algorithm.
    fn stages_together<'a>(&'a self, _groups: &Groups<'_, 'a, dyn AnyAlgorithm>, class: u8) -> Stages {
        self.stages(class)
    }
    /// As [`Algorithm::stages_of_ranks`].
    fn stages_of_ranks(&self, class: u8) -> Stages {
        self.stages(class)
    }
    /// As [`Algorithm::across_ranks`].
    ///
    /// # Errors
    /// Why several ranks cannot step together.
    fn across_ranks(&self) -> Result<(), &'static str> {
        Ok(())
    }
    /// As [`Algorithm::parted_kernel`].
    fn parted_kernel(&self) -> Option<&'static Kernel> {
        None
    }
    /// As [`Algorithm::class`].
    ///
    /// # Errors
    /// Why the algorithm does not take parameters of this shape.
    fn class(&self, shape: &Shape) -> Result<u8, String>;
    /// As [`Algorithm::class_of`].
    ///
    /// # Errors
    /// Why the algorithm does not take this parameter.
    fn class_of(&self, name: &str, shape: &Shape) -> Result<u8, String>;
    /// As [`Algorithm::scalars`].
    fn scalars(&self, class: u8, kernel: &Kernel, t: u64, out: &mut [f64]);
    /// What is the same for all hyperparameters.
    fn spec(&self) -> &'static Spec;
    /// What is unusual about a state or scratch.
    fn state(&self, name: &str) -> StateSpec;
    /// As [`Algorithm::storage`].
    fn storage(&self) -> StorageDefaults;
    /// As [`Algorithm::sparse`].
    fn sparse(&self) -> Sparse;
    /// As [`Algorithm::check_groups`]; `groups` are of the same algorithm.
    ///
    /// # Errors
    /// What does not go together.
    fn check_groups<'a>(&'a self, groups: &Groups<'_, 'a, dyn AnyAlgorithm>) -> Result<(), String>;
    /// As [`Algorithm::formed`].
    fn formed(&self, stage: usize) -> &'static [&'static str];
    /// As [`Algorithm::matrix`].
    ///
    /// # Errors
    /// When the backend fails.
    fn matrix(&self, stage: usize, step: &mut MatrixStep<'_>) -> fallline_core::Result<()>;
    /// As [`Algorithm::exchange`].
    ///
    /// # Errors
    /// When the backend or an exchange fails.
    fn exchange(&self, _stage: usize, _step: &mut Exchanging<'_>) -> fallline_core::Result<()> {
        Ok(())
    }
    /// As [`Algorithm::hessian_kernel`].
    fn hessian_kernel(&self) -> Option<&'static Kernel>;
    /// The hyperparameters as the rule's scalars want them.
    fn hyper(&self) -> &dyn Any;
    /// The algorithm with its type.
    fn typed(&self) -> &dyn Any;
    /// As [`Algorithm::matrix_rules`].
    fn matrix_rules(&self) -> Vec<&'static Kernel>;
    /// Whether each parameter's states and update belong to one rank alone, where there are several.
    fn sharded(&self) -> bool {
        false
    }
    /// The rules that are run whatever the algorithm is, compiled by the same [`Link`].
    fn builtins(&self) -> &'static Builtins;
    /// A copy.
    fn boxed(&self) -> Box<dyn AnyAlgorithm>;
}

/// The most classes of parameters that an algorithm may tell apart.
pub const CLASSES: u8 = 4;

impl dyn AnyAlgorithm + '_ {
    /// Every rule that runs with these hyperparameters, for parameters of any class, each once.
    pub fn kernels(&self) -> Vec<&'static Kernel> {
        let of = |class| self.stages(class).kernels().chain(self.stages_of_ranks(class).kernels());
        let builtins = self.builtins();
        let compression = self.spec().replicas.error_feedback.map(|_| builtins.of_compression());
        let stages = (0..CLASSES).flat_map(of).chain(compression.into_iter().flatten());
        let (check, copy) = (builtins.grad_check(), builtins.param_copy());
        let others = [Some(check), Some(copy), self.hessian_kernel(), self.parted_kernel()];
        let mut all: Vec<&'static Kernel> = Vec::new();
        let around = self.matrix_rules().into_iter().chain(builtins.of_wrappers());
        for kernel in stages.chain(others.into_iter().flatten()).chain(around) {
            if !all.iter().any(|known| known.name == kernel.name) {
                all.push(kernel);
            }
        }
        all
    }

    /// The states that a rank may have of its own for a while, of parameters of class 0.
    pub(crate) fn rank_local_states(&self) -> Vec<&'static str> {
        let mut states = self.stages_of_ranks(0).operands(Role::State);
        states.retain(|state| self.state(state).rank_local);
        states
    }

    /// Whether it climbs: whether its hyperparameter `maximize` is true.
    pub fn maximize(&self) -> bool {
        self.get("maximize") == Some(Value::Bool(true))
    }

    /// How a state of a parameter with so many elements is stored by default, if not as it is computed.
    pub fn state_format(&self, state: &str, elements: usize) -> Option<Format> {
        let block = self.storage().block.filter(|block| elements >= block.from)?;
        Some(block.format(self.state(state).non_negative))
    }

    /// What it makes of row-sparse gradients, where it takes them.
    ///
    /// # Errors
    /// Why it does not, with its name.
    pub fn takes_rows(&self) -> Result<Sparse, String> {
        match self.sparse() {
            Sparse::Refused => Err(format!("{} does not take row-sparse gradients", self.name())),
            Sparse::RefusedFor(reason) => Err(format!("{} {reason}", self.name())),
            taken => Ok(taken),
        }
    }

    /// Whether it takes gradients that are not row-sparse.
    ///
    /// # Errors
    /// Why it does not, with its name.
    pub fn takes_dense(&self) -> Result<(), String> {
        match self.sparse() {
            Sparse::RowsOnly => {
                Err(format!("{} does not support dense gradients, please consider Adam instead", self.name()))
            }
            _ => Ok(()),
        }
    }

    /// The names of the states that parameters of class 0 have.
    pub fn states(&self) -> Vec<&'static str> {
        self.stages(0).operands(Role::State)
    }
}

/// An algorithm together with the [`Link`] that compiles its rules.
pub struct Linked<A, K> {
    algorithm: A,
    link: PhantomData<fn() -> K>,
}

impl<A: Algorithm, K: Link> Linked<A, K> {
    /// The algorithm with these hyperparameters.
    ///
    /// # Errors
    /// [`HyperError`] when they are out of range or exclude each other.
    pub fn new(mut algorithm: A) -> Result<Self, HyperError> {
        for hyper in A::TABLE {
            if let Some(value) = algorithm.get(hyper.name) {
                algorithm.clone().set(hyper.name, &value)?;
            }
        }
        algorithm.check(true)?;
        Ok(Linked { algorithm, link: PhantomData })
    }
}

impl<A: Algorithm, K: Link> Linked<A, K> {
    /// Groups of this algorithm with their type.
    fn typed_groups<'f, 'a>(
        &'a self,
        groups: &'f Groups<'_, 'a, dyn AnyAlgorithm>,
    ) -> impl Fn(usize) -> &'a A + use<'f, 'a, A, K> {
        |group| groups.get(group).typed().downcast_ref().unwrap_or(&self.algorithm)
    }
}

impl<A: Algorithm, K: Link> Debug for Linked<A, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.algorithm.fmt(f)
    }
}

impl<A: Algorithm, K: Link> AnyAlgorithm for Linked<A, K> {
    fn name(&self) -> &'static str {
        A::NAME
    }
    fn info(&self) -> &'static Info {
        &A::INFO
    }
    fn table(&self) -> &'static [Hyper] {
        A::TABLE
    }
    fn get(&self, name: &str) -> Option<Value> {
        self.algorithm.get(name)
    }
    fn set(&mut self, values: &[(&str, Value)]) -> Result<(), HyperError> {
        let mut changed = self.algorithm.clone();
        values.iter().try_for_each(|(name, value)| changed.set(name, value))?;
        changed.check(false)?;
        self.algorithm = changed;
        Ok(())
    }
    fn kernel(&self) -> &'static Kernel {
        self.algorithm.kernel::<K>()
    }
    fn stages(&self, class: u8) -> Stages {
        self.algorithm.stages::<K>(class)
    }
    fn stages_together<'a>(&'a self, groups: &Groups<'_, 'a, dyn AnyAlgorithm>, class: u8) -> Stages {
        let typed = self.typed_groups(groups);
        self.algorithm.stages_together::<K>(&Groups::new(groups.count(), &typed), class)
    }
    fn stages_of_ranks(&self, class: u8) -> Stages {
        self.algorithm.stages_of_ranks::<K>(class)
    }
    fn across_ranks(&self) -> Result<(), &'static str> {
        self.algorithm.across_ranks()
    }
    fn exchange(&self, stage: usize, step: &mut Exchanging<'_>) -> fallline_core::Result<()> {
        self.algorithm.exchange::<K>(stage, step)
    }
    fn parted_kernel(&self) -> Option<&'static Kernel> {
        self.algorithm.parted_kernel::<K>()
    }
    fn class(&self, shape: &Shape) -> Result<u8, String> {
        self.algorithm.class(shape)
    }
    fn class_of(&self, name: &str, shape: &Shape) -> Result<u8, String> {
        self.algorithm.class_of(name, shape)
    }
    fn scalars(&self, class: u8, kernel: &Kernel, t: u64, out: &mut [f64]) {
        self.algorithm.scalars(class, kernel, t, out);
    }
    fn spec(&self) -> &'static Spec {
        const { &Spec { memory: A::MEMORY, shared: A::SHARED, replicas: A::REPLICAS } }
    }
    fn state(&self, name: &str) -> StateSpec {
        self.algorithm.state(name)
    }
    fn storage(&self) -> StorageDefaults {
        self.algorithm.storage()
    }
    fn sparse(&self) -> Sparse {
        self.algorithm.sparse()
    }
    fn check_groups<'a>(&'a self, groups: &Groups<'_, 'a, dyn AnyAlgorithm>) -> Result<(), String> {
        let typed = self.typed_groups(groups);
        A::check_groups(&Groups::new(groups.count(), &typed))
    }
    fn formed(&self, stage: usize) -> &'static [&'static str] {
        self.algorithm.formed(stage)
    }
    fn matrix(&self, stage: usize, step: &mut MatrixStep<'_>) -> fallline_core::Result<()> {
        self.algorithm.matrix::<K>(stage, step)
    }
    fn hessian_kernel(&self) -> Option<&'static Kernel> {
        self.algorithm.hessian_kernel::<K>()
    }
    fn hyper(&self) -> &dyn Any {
        self.algorithm.hyper()
    }
    fn typed(&self) -> &dyn Any {
        &self.algorithm
    }
    fn matrix_rules(&self) -> Vec<&'static Kernel> {
        self.algorithm.matrix_rules::<K>()
    }
    fn builtins(&self) -> &'static Builtins {
        Builtins::of::<K>()
    }
    fn boxed(&self) -> Box<dyn AnyAlgorithm> {
        Box::new(Linked { algorithm: self.algorithm.clone(), link: PhantomData::<fn() -> K> })
    }
}
