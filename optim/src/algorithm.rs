//! What an algorithm brings, and the same with its types erased.

use crate::builtins::Builtins;
use crate::hyper::{Hyper, HyperError, Hyperparameters, Value};
use crate::lbfgs::Kernels;
use crate::mask::Masking;
use crate::stages::{Exchanging, MatrixStep, Stages};
use core::any::Any;
use core::fmt::Debug;
use core::marker::PhantomData;
use fallline_core::{Format, Groups, Kernel, Link, Role, Shape};

/// What people should know about an algorithm.
#[derive(Clone, Copy, Debug)]
pub struct Info {
    /// One sentence.
    pub summary: &'static str,
    /// Which kind it is: `momentum`, `adaptive`, `sign`, …
    pub family: &'static str,
    /// The package whose semantics it has.
    pub source: &'static str,
    /// Where it differs from the paper or from the source.
    pub differences: &'static str,
    /// Papers and sources.
    pub references: &'static [Reference],
}

/// A paper or a source.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    /// Authors, year, title.
    pub text: &'static str,
    /// Where to find it: an arXiv number, a package and version.
    pub at: &'static str,
}

/// An algorithm: hyperparameters that know which rule they mean.
///
/// The type itself is the table declared with [`hyperparameters!`](crate::hyperparameters).
pub trait Algorithm: Hyperparameters + Clone + Debug + Default + Send + Sync + 'static {
    /// What people should know about it.
    const INFO: Info;

    /// What the algorithm remembers for each parameter beside its states: scalars, with what they start from.
    const MEMORY: &'static [(&'static str, f64)] = &[];

    /// What the algorithm remembers for all parameters together: scalars, with what they start from.
    const SHARED: &'static [(&'static str, f64)] = &[];

    /// The states that are never negative: quantised, they have codes for both signs no use.
    const NON_NEGATIVE: &'static [&'static str] = &[];

    /// The rule that these hyperparameters choose, compiled by `K`; of several the one that updates the
    /// parameter.
    fn kernel<K: Link>(&self) -> &'static Kernel;

    /// What a step consists of, for parameters of a [class](Algorithm::class).
    fn stages<K: Link>(&self, _class: u8) -> Stages {
        Stages::one(self.kernel::<K>())
    }

    /// What a step consists of where it depends on the other groups of the same optimizer, which `groups` are.
    fn stages_together<K: Link>(&self, _groups: &Groups<'_, '_, Self>, class: u8) -> Stages {
        self.stages::<K>(class)
    }

    /// What a step consists of where several ranks step together, if that is something else.
    fn stages_of_ranks<K: Link>(&self, class: u8) -> Stages {
        self.stages::<K>(class)
    }

    /// Whether several ranks can step together.
    ///
    /// # Errors
    /// Why they cannot.
    fn across_ranks(&self) -> Result<(), &'static str> {
        Ok(())
    }

    /// Whether the next step takes gradients that are averaged over the ranks, asked with what is remembered for all
    /// parameters together. Where not, the algorithm exchanges what it needs itself.
    fn averages(_shared: &[f64]) -> bool {
        true
    }

    /// Whether all ranks always remember the same. Where not, each keeps what compression has left out.
    const SAME_ON_ALL_RANKS: bool = true;

    /// When it applies a [mask](crate::mask) of momenta. [`Always`](Masking::Always) means the stages of
    /// [`stages_of_ranks`](Algorithm::stages_of_ranks) on one rank too.
    const MASKING: Masking = Masking::Never;

    /// The states that a rank may have of its own for a while, and the parameter with them.
    const OF_EACH_RANK: &'static [&'static str] = &[];

    /// Whether the ranks have a parameter of their own at this time, asked with what is remembered for it.
    fn parted(_memory: &[f64]) -> bool {
        false
    }

    /// The rule that gives such a parameter from its states, compiled by `K`: its one scalar says whether they were saved
    /// by several ranks, so that all states of [`stages_of_ranks`](Algorithm::stages_of_ranks) are there.
    fn parted_kernel<K: Link>(&self) -> Option<&'static Kernel> {
        None
    }

    /// Parameters of different shapes may need different steps: which kind this one is.
    ///
    /// # Errors
    /// Why the algorithm does not take parameters of this shape.
    fn class(&self, _shape: &Shape) -> Result<u8, String> {
        Ok(0)
    }

    /// As [`class`](Algorithm::class), where a parameter's name counts too.
    ///
    /// # Errors
    /// Why the algorithm does not take this parameter.
    fn class_of(&self, _name: &str, shape: &Shape) -> Result<u8, String> {
        self.class(shape)
    }

    /// Computes a rule's scalars of step `t` into `out`, for parameters of a class.
    fn scalars(&self, _class: u8, kernel: &Kernel, t: u64, out: &mut [f64]) {
        kernel.compute_scalars(self.hyper(), t, out);
    }

    /// Checks the hyperparameters of all groups together, before a step whose passes look at all of them.
    ///
    /// # Errors
    /// What does not go together.
    fn check_groups(_groups: &Groups<'_, '_, Self>) -> Result<(), String> {
        Ok(())
    }

    /// What a stage that is no rule does, for people: a formula or sentence a line.
    fn formed(&self, _stage: usize) -> &'static [&'static str] {
        &[]
    }

    /// What the rules' scalars are computed from: the algorithm itself, or that which it is a variant of.
    fn hyper(&self) -> &dyn Any {
        self
    }

    /// A stage that is not element by element, for one parameter.
    ///
    /// # Errors
    /// When the backend fails.
    fn matrix<K: Link>(&self, _stage: usize, _step: &mut MatrixStep<'_>) -> fallline_core::Result<()> {
        Ok(())
    }

    /// A stage that all parameters take part in together.
    ///
    /// # Errors
    /// When the backend fails or an exchange with other ranks does.
    fn exchange<K: Link>(&self, _stage: usize, _step: &mut Exchanging<'_>) -> fallline_core::Result<()> {
        Ok(())
    }

    /// Whether what compressions leave out is of all parameters in one piece.
    const FUSED: bool = false;

    /// The rules that [`matrix`](Algorithm::matrix) runs itself.
    fn matrix_rules<K: Link>(&self) -> Vec<&'static Kernel> {
        Vec::new()
    }

    /// The extents of a state, where they are not the parameter's.
    fn state_shape(&self, _state: &str, shape: &Shape) -> Shape {
        shape.clone()
    }

    /// How a state or scratch of another shape stands for the elements of a parameter where it is an operand of a
    /// rule: the run and the times of [`View::repeated`](fallline_core::backend::View::repeated). Not asked for an empty
    /// parameter.
    fn repetition(&self, _state: &str, _shape: &Shape) -> Option<(usize, usize)> {
        None
    }

    /// How a state of a parameter with so many elements is stored, if not as it is computed.
    fn state_format(&self, _state: &str, _elements: usize) -> Option<Format> {
        None
    }

    /// Whether the states are kept in a file that is mapped into memory.
    fn paged(&self) -> bool {
        false
    }

    /// Whether the states of parameters on another device are kept on the host unless a configuration says otherwise.
    fn offloaded(&self) -> bool {
        false
    }

    /// Checks what the ranges alone cannot.
    ///
    /// # Errors
    /// [`HyperError::Combination`].
    fn validate(&self) -> Result<(), HyperError> {
        Ok(())
    }

    /// Called once, when all hyperparameters have their first values: a schedule may change them later.
    ///
    /// # Errors
    /// [`HyperError`] for values that are refused at first only.
    fn built(&mut self) -> Result<(), HyperError> {
        Ok(())
    }

    /// The rules of an algorithm that evaluates the loss itself.
    fn search<K: Link>(&self) -> Option<Kernels> {
        None
    }

    /// For an algorithm that is told the Hessian now and then: the rule that takes in a gradient drawn for
    /// it, compiled by `K`. Its operands are that gradient and states of [`kernel`](Algorithm::kernel), by
    /// name.
    fn hessian_kernel<K: Link>(&self) -> Option<&'static Kernel> {
        None
    }

    /// Whether it climbs: the gradient's sign is flipped before anything else.
    fn maximize(&self) -> bool {
        false
    }

    /// What every element of a state starts from.
    fn initial(&self, _state: &str) -> f64 {
        0.0
    }

    /// Whether a state starts as a copy of the parameter, as it is when it gets its first gradient.
    fn starts_as_param(&self, _state: &str) -> bool {
        false
    }

    /// How it takes row-sparse gradients ([`rows`](crate::rows)).
    ///
    /// # Errors
    /// Why the algorithm does not take them.
    fn sparse(&self) -> Result<Sparse, &'static str> {
        Err("this algorithm does not take row-sparse gradients")
    }

    /// Whether it takes gradients that are not row-sparse.
    ///
    /// # Errors
    /// Why it does not.
    fn dense(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

/// What an algorithm makes of a row-sparse gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sparse {
    /// A gradient with zeros in the other rows.
    Whole,
    /// A step of the rows that it names: the others, of the parameter and of every state, are neither read nor
    /// written. For algorithms all of whose stages are rules, and whose states have the parameter's shape.
    Rows,
}

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
    /// As [`Algorithm::averages`].
    fn averages(&self, _shared: &[f64]) -> bool {
        true
    }
    /// As [`Algorithm::SAME_ON_ALL_RANKS`].
    fn same_on_all_ranks(&self) -> bool {
        true
    }
    /// As [`Algorithm::MASKING`].
    fn masking(&self) -> Masking {
        Masking::Never
    }
    /// As [`Algorithm::OF_EACH_RANK`].
    fn of_each_rank(&self) -> &'static [&'static str] {
        &[]
    }
    /// As [`Algorithm::parted`].
    fn parted(&self, _memory: &[f64]) -> bool {
        false
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
    /// As [`Algorithm::MEMORY`].
    fn memory(&self) -> &'static [(&'static str, f64)];
    /// As [`Algorithm::SHARED`].
    fn shared(&self) -> &'static [(&'static str, f64)];
    /// As [`Algorithm::NON_NEGATIVE`].
    fn non_negative(&self) -> &'static [&'static str];
    /// As [`Algorithm::state_format`].
    fn state_format(&self, state: &str, elements: usize) -> Option<Format>;
    /// As [`Algorithm::paged`].
    fn paged(&self) -> bool;
    /// As [`Algorithm::offloaded`].
    fn offloaded(&self) -> bool {
        false
    }
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
    /// As [`Algorithm::FUSED`].
    fn fused(&self) -> bool {
        false
    }
    /// As [`Algorithm::state_shape`].
    fn state_shape(&self, state: &str, shape: &Shape) -> Shape;
    /// As [`Algorithm::repetition`].
    fn repetition(&self, state: &str, shape: &Shape) -> Option<(usize, usize)>;
    /// As [`Algorithm::hessian_kernel`].
    fn hessian_kernel(&self) -> Option<&'static Kernel>;
    /// The hyperparameters as the rule's scalars want them.
    fn hyper(&self) -> &dyn Any;
    /// As [`Algorithm::search`].
    fn search(&self) -> Option<Kernels>;
    /// The algorithm with its type.
    fn typed(&self) -> &dyn Any;
    /// As [`Algorithm::maximize`].
    fn maximize(&self) -> bool;
    /// As [`Algorithm::initial`].
    fn initial(&self, state: &str) -> f64;
    /// As [`Algorithm::starts_as_param`].
    fn starts_as_param(&self, state: &str) -> bool;
    /// As [`Algorithm::sparse`].
    ///
    /// # Errors
    /// Why the algorithm does not take row-sparse gradients.
    fn sparse(&self) -> Result<Sparse, &'static str>;
    /// As [`Algorithm::dense`].
    ///
    /// # Errors
    /// Why the algorithm does not take other gradients.
    fn dense(&self) -> Result<(), &'static str>;
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
        let compression = (!self.same_on_all_ranks()).then(|| builtins.of_compression());
        let stages = (0..CLASSES).flat_map(of).chain(compression.into_iter().flatten());
        let (check, copy) = (builtins.grad_check(), builtins.param_copy());
        let others = [Some(check), Some(copy), self.hessian_kernel(), self.parted_kernel()];
        let search = self.search().into_iter().flat_map(Kernels::all);
        let mut all: Vec<&'static Kernel> = Vec::new();
        let around = self.matrix_rules().into_iter().chain(builtins.of_wrappers());
        for kernel in stages.chain(others.into_iter().flatten()).chain(search).chain(around) {
            if !all.iter().any(|known| known.name == kernel.name) {
                all.push(kernel);
            }
        }
        all
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
        algorithm.built()?;
        algorithm.validate()?;
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
        changed.validate()?;
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
    fn averages(&self, shared: &[f64]) -> bool {
        A::averages(shared)
    }
    fn exchange(&self, stage: usize, step: &mut Exchanging<'_>) -> fallline_core::Result<()> {
        self.algorithm.exchange::<K>(stage, step)
    }
    fn fused(&self) -> bool {
        A::FUSED
    }
    fn same_on_all_ranks(&self) -> bool {
        A::SAME_ON_ALL_RANKS
    }
    fn masking(&self) -> Masking {
        A::MASKING
    }
    fn of_each_rank(&self) -> &'static [&'static str] {
        A::OF_EACH_RANK
    }
    fn parted(&self, memory: &[f64]) -> bool {
        A::parted(memory)
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
    fn memory(&self) -> &'static [(&'static str, f64)] {
        A::MEMORY
    }
    fn shared(&self) -> &'static [(&'static str, f64)] {
        A::SHARED
    }
    fn non_negative(&self) -> &'static [&'static str] {
        A::NON_NEGATIVE
    }
    fn state_format(&self, state: &str, elements: usize) -> Option<Format> {
        self.algorithm.state_format(state, elements)
    }
    fn paged(&self) -> bool {
        self.algorithm.paged()
    }
    fn offloaded(&self) -> bool {
        self.algorithm.offloaded()
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
    fn state_shape(&self, state: &str, shape: &Shape) -> Shape {
        self.algorithm.state_shape(state, shape)
    }
    fn repetition(&self, state: &str, shape: &Shape) -> Option<(usize, usize)> {
        self.algorithm.repetition(state, shape)
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
    fn search(&self) -> Option<Kernels> {
        self.algorithm.search::<K>()
    }
    fn maximize(&self) -> bool {
        self.algorithm.maximize()
    }
    fn initial(&self, state: &str) -> f64 {
        self.algorithm.initial(state)
    }
    fn starts_as_param(&self, state: &str) -> bool {
        self.algorithm.starts_as_param(state)
    }
    fn sparse(&self) -> Result<Sparse, &'static str> {
        self.algorithm.sparse()
    }
    fn dense(&self) -> Result<(), &'static str> {
        self.algorithm.dense()
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
