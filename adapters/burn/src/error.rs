//! What can go wrong in a step of a module.

/// A failure, with the name of the parameter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The optimizer refuses the step.
    #[error(transparent)]
    Step(#[from] fallline_optim::Error),
    /// A parameter cannot be stepped.
    #[error("parameter {name:?} {problem}")]
    Parameter {
        /// The parameter.
        name: String,
        /// Why.
        problem: String,
    },
    /// Two parameters of the module are the same one.
    #[error(
        "parameters {first:?} and {second:?} have the same id: a step would update one and not the other"
    )]
    Shared {
        /// One of them.
        first: String,
        /// The other one.
        second: String,
    },
    /// A parameter has no gradient, and must have one.
    #[error("parameter {name:?} has no gradient: does the loss depend on it?")]
    NoGradient {
        /// The parameter.
        name: String,
    },
}

/// The result of a step.
pub type Result<T, E = Error> = core::result::Result<T, E>;
