//! What can go wrong in a step of libtorch's variables.

/// A failure, with the name of the variable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// libtorch failed.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// The optimizer refuses the step.
    #[error(transparent)]
    Step(#[from] fallline_optim::Error),
    /// A variable cannot be stepped.
    #[error("variable {name:?} {problem}")]
    Variable {
        /// The variable.
        name: String,
        /// Why.
        problem: String,
    },
    /// Two variables share their memory, at least in part.
    #[error("variables {first:?} and {second:?} share their memory: a step would update it twice")]
    Shared {
        /// One of them.
        first: String,
        /// The other one.
        second: String,
    },
    /// A variable has no gradient, and must have one.
    #[error("variable {name:?} has no gradient: does the loss depend on it?")]
    NoGradient {
        /// The variable.
        name: String,
    },
    /// A gradient cannot be taken.
    #[error("the gradient of {name:?} {problem}")]
    Gradient {
        /// The variable.
        name: String,
        /// Why.
        problem: String,
    },
    /// No variable is in a group of the store.
    #[error("no variable of the store is in group {group}")]
    Group {
        /// The group.
        group: usize,
    },
}

/// The result of a step.
pub type Result<T, E = Error> = core::result::Result<T, E>;
