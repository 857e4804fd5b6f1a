//! What can be wrong with a file, or with turning it into another.

/// Why a file cannot be read or converted. One sentence; callers say which file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file is none that this crate reads.
    #[error("{0}")]
    NotTorch(String),
    /// The zip archive around a torch file.
    #[error("its archive: {0}")]
    Archive(String),
    /// The pickle in a torch file.
    #[error("its pickle, at byte {offset}: {problem}")]
    Pickle {
        /// The position of the opcode that cannot be taken.
        offset: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// A limit is exceeded.
    #[error("it has more than {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How many would be read.
        limit: usize,
    },
    /// Memory that a value or a file takes cannot be had.
    #[error("{0}")]
    NoMemory(String),
    /// A value that is needed is missing, of another kind, or not one that can be read.
    #[error("{at}: {problem}")]
    Value {
        /// The path to it, as in `optimizer.state.0.exp_avg`.
        at: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The optimizer cannot be converted, or not this way.
    #[error("{algorithm}: {problem}")]
    Layout {
        /// The algorithm's name.
        algorithm: String,
        /// Why.
        problem: String,
    },
    /// The names of the parameters are not known, or do not fit.
    #[error("{0}")]
    Names(String),
}

impl From<fallline_core::Error> for Error {
    fn from(error: fallline_core::Error) -> Error {
        Error::NoMemory(error.to_string())
    }
}

impl Error {
    /// Returns what an entry of a checkpoint could not be made for: memory.
    pub(crate) fn memory(error: fallline_optim::Error) -> Error {
        Error::NoMemory(error.to_string())
    }

    pub(crate) fn value(at: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::Value { at: at.into(), problem: problem.into() }
    }
}

/// The result of reading or converting.
pub type Result<T, E = Error> = core::result::Result<T, E>;
