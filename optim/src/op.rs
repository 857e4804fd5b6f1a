//! Operations between passes: what is not element by element.

mod at;
mod largest;
mod memory;
mod reading;
mod runner;
mod slices;

pub use at::{CollectiveAt, Member, OpAt, Peers};
pub use memory::{Memory, Named, Workspace};
pub(crate) use reading::Found;
pub use reading::{GradScale, Reading, Sums};
pub(crate) use runner::Plans;
pub use runner::Runner;
pub(crate) use slices::Slices;

use core::any::{Any, TypeId};
use core::fmt;
use fallline_core::backend::PassQueue;
use fallline_core::{Backend, Error, Kernel, Link, Result, Shape};

/// An operation on one tensor: Newton–Schulz, factored moments, a compressed all-reduce.
pub trait TensorOp: 'static {
    /// The hyperparameters that it takes.
    type Hyper: 'static;
    /// Its name.
    const NAME: &'static str;
    /// What it does, human-readable: a formula or sentence a line.
    const FORMULAS: &'static [&'static str] = &[];
    /// The states that it works on and no rule has as an operand.
    const STATES: &'static [&'static str] = &[];
    /// All states that it works on, where it says so. They are stored in the compute type, the others in any format. If
    /// it does not, it may work on each.
    const WHOLE_STATES: Option<&'static [&'static str]> = None;

    /// Returns the rules that it runs itself.
    fn rules<K: Link>() -> Vec<&'static Kernel> {
        Vec::new()
    }

    /// Works on one tensor.
    ///
    /// # Errors
    /// When the backend fails.
    fn run<K: Link>(hyper: &Self::Hyper, at: &mut OpAt<'_>) -> Result<()>;
}

/// An operation on all tensors of an optimizer together.
pub trait CollectiveOp: 'static {
    /// The hyperparameters that it takes: those of the first group.
    type Hyper: 'static;
    /// Its name.
    const NAME: &'static str;
    /// What it does, human-readable: a formula or sentence a line.
    const FORMULAS: &'static [&'static str] = &[];

    /// Returns the rules that it runs itself.
    fn rules<K: Link>() -> Vec<&'static Kernel> {
        Vec::new()
    }

    /// Works on all tensors.
    ///
    /// # Errors
    /// When the backend or an exchange with other ranks fails.
    fn run<K: Link>(hyper: &Self::Hyper, at: &mut CollectiveAt<'_>) -> Result<()>;
}

/// An operation as plain data, made once for each [`Link`].
pub struct Op {
    /// Its name.
    pub name: &'static str,
    /// What it does, human-readable.
    pub formulas: &'static [&'static str],
    /// The states that it works on and no rule has as an operand.
    pub states: &'static [&'static str],
    /// All states that it works on, each as a whole, where that is known.
    pub whole_states: Option<&'static [&'static str]>,
    id: fn() -> TypeId,
    rules: fn() -> Vec<&'static Kernel>,
    run: Run,
}

#[derive(Clone, Copy)]
enum Run {
    Tensor(fn(&dyn Any, &mut OpAt<'_>) -> Option<Result<()>>),
    Collective(fn(&dyn Any, &mut CollectiveAt<'_>) -> Option<Result<()>>),
}

impl Op {
    /// Erases an operation on one tensor.
    pub(crate) fn tensor<T: TensorOp, K: Link>() -> &'static Op {
        const {
            &Op {
                name: T::NAME,
                formulas: T::FORMULAS,
                states: T::STATES,
                whole_states: T::WHOLE_STATES,
                id: TypeId::of::<T>,
                rules: T::rules::<K>,
                run: Run::Tensor(|hyper, at| Some(T::run::<K>(hyper.downcast_ref()?, at))),
            }
        }
    }

    /// Erases an operation on all tensors.
    pub(crate) fn collective<T: CollectiveOp, K: Link>() -> &'static Op {
        const {
            &Op {
                name: T::NAME,
                formulas: T::FORMULAS,
                states: &[],
                whole_states: Some(&[]),
                id: TypeId::of::<T>,
                rules: T::rules::<K>,
                run: Run::Collective(|hyper, at| Some(T::run::<K>(hyper.downcast_ref()?, at))),
            }
        }
    }

    /// Returns the rules that it runs itself.
    pub fn rules(&self) -> Vec<&'static Kernel> {
        (self.rules)()
    }

    /// Returns whether all tensors take part in it together.
    pub fn is_collective(&self) -> bool {
        matches!(self.run, Run::Collective(_))
    }

    /// Works on one tensor; nothing, if it is an operation on all of them.
    pub(crate) fn run(&self, hyper: &dyn Any, at: &mut OpAt<'_>) -> Result<()> {
        match self.run {
            Run::Tensor(run) => run(hyper, at).unwrap_or_else(|| Err(self.stranger())),
            Run::Collective(_) => Ok(()),
        }
    }

    /// Works on all tensors; nothing, if it is an operation on one.
    pub(crate) fn run_on_all(&self, hyper: &dyn Any, at: &mut CollectiveAt<'_>) -> Result<()> {
        match self.run {
            Run::Tensor(_) => Ok(()),
            Run::Collective(run) => run(hyper, at).unwrap_or_else(|| Err(self.stranger())),
        }
    }

    fn stranger(&self) -> Error {
        Error::Unavailable(format!("{} was given the hyperparameters of another algorithm", self.name))
    }
}

impl PartialEq for Op {
    fn eq(&self, other: &Op) -> bool {
        (self.id)() == (other.id)()
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Op").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Returns the queue of a backend whose passes are queued.
///
/// # Errors
/// When it has none.
pub(crate) fn queue_of(backend: &dyn Backend) -> Result<&dyn PassQueue> {
    backend.require("a queued pass", backend.queue())
}

/// Returns the matrices over whose last two dimensions an operation works: how many, with how many rows and columns. An
/// empty shape has none, of whatever else it says.
pub fn matrices(shape: &Shape) -> (usize, usize, usize) {
    match shape.dims() {
        dims if dims.contains(&0) => (0, 0, 0),
        [] => (1, 1, 1),
        [columns] => (1, 1, *columns),
        [batch @ .., rows, columns] => (batch.iter().product(), *rows, *columns),
    }
}
