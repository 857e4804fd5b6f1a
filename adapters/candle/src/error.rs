//! What can go wrong in a step of candle's variables.

/// A failure, with the name of the variable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
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
    /// Two variables share their memory.
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
}

/// The result of a step.
pub type Result<T, E = Error> = core::result::Result<T, E>;

impl From<Error> for candle_core::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Candle(error) => error,
            error => candle_core::Error::wrap(error),
        }
    }
}
