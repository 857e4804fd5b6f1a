//! What an algorithm brings; [`erased`] has the same without its types.

mod erased;
mod info;
mod replicas;
mod sparse;
mod state;
mod storage;

pub use erased::{AnyAlgorithm, CLASSES, Linked};
pub use info::{Info, Reference};
pub use replicas::{ErrorFeedback, MaskPolicy, Replicas, Spec};
pub use sparse::Sparse;
pub use state::{Extent, Init, Start, State, StateSpec};
pub use storage::{BlockDefault, StorageDefaults};

use crate::hyper::{HyperError, Hyperparameters};
use crate::stages::{Exchanging, MatrixStep, Stages};
use core::any::Any;
use core::fmt::Debug;
use fallline_core::{Groups, Kernel, Link, Shape};

/// An algorithm: hyperparameters that know which rule they mean.
///
/// The type itself is the table declared with [`hyperparameters!`](crate::hyperparameters). One of its names means the same
/// for every algorithm: where a `maximize` is true, the gradient's sign is flipped before anything else.
pub trait Algorithm: Hyperparameters + Clone + Debug + Default + Send + Sync + 'static {
    /// What people should know about it.
    const INFO: Info;

    /// What the algorithm remembers for each parameter beside its states: scalars, with what they start from.
    const MEMORY: &'static [(&'static str, f64)] = &[];

    /// What the algorithm remembers for all parameters together: scalars, with what they start from.
    const SHARED: &'static [(&'static str, f64)] = &[];

    /// What is unusual about its states and its scratch.
    const STATES: &'static [State<Self>] = &[];

    /// How the replicas of several ranks relate.
    const REPLICAS: Replicas = Replicas::IDENTICAL;

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

    /// The rule that gives a parameter of a rank's own ([`Replicas::diverged`]) from its states, compiled by `K`: its one
    /// scalar says whether they were saved by several ranks, so that all states of
    /// [`stages_of_ranks`](Algorithm::stages_of_ranks) are there.
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

    /// The rules that [`matrix`](Algorithm::matrix) runs itself.
    fn matrix_rules<K: Link>(&self) -> Vec<&'static Kernel> {
        Vec::new()
    }

    /// What [`STATES`](Algorithm::STATES) says about a state or scratch. An algorithm that is another one under a name of its
    /// own ([`renamed!`](macro@crate::renamed)) passes it on; no other writes it.
    fn state(&self, name: &str) -> StateSpec {
        StateSpec::of(Self::STATES, name, self)
    }

    /// How states are stored unless a configuration says otherwise.
    fn storage(&self) -> StorageDefaults {
        StorageDefaults::AS_COMPUTED
    }

    /// Checks what the ranges alone cannot, whenever hyperparameters have changed. The first time all have their first
    /// values: some are refused then only, since a schedule may change them later, and then is the time to remember one.
    ///
    /// # Errors
    /// [`HyperError::Combination`].
    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        Ok(())
    }

    /// For an algorithm that is told the Hessian now and then: the rule that takes in a gradient drawn for
    /// it, compiled by `K`. Its operands are that gradient and states of [`kernel`](Algorithm::kernel), by
    /// name.
    fn hessian_kernel<K: Link>(&self) -> Option<&'static Kernel> {
        None
    }

    /// What it makes of row-sparse gradients.
    fn sparse(&self) -> Sparse {
        Sparse::Refused
    }
}
