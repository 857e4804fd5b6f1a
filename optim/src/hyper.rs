//! Hyperparameters as a table: name, type, default, range, meaning.

mod declare;
mod types;
mod value;

#[doc(hidden)] // for `hyperparameters!`
pub use declare::{accepted_row, convert, fixed_row, only};
pub use types::HyperType;
pub use value::{Range, Value};

/// One row of a hyperparameter table.
#[derive(Clone, Copy, Debug)]
pub struct Hyper {
    /// The name in configurations.
    pub name: &'static str,
    /// The type, human-readable.
    pub kind: &'static str,
    /// The default.
    pub default: fn() -> Value,
    /// The valid numbers.
    pub range: Range,
    /// What it does.
    pub meaning: &'static str,
    /// False for arguments of the source that are accepted and checked, but change no number.
    pub counts: bool,
    /// Whether it is a scalar that a group keeps from step to step ([`Advances`](crate::Advances)), not a setting.
    pub kept: bool,
}

/// What is wrong with a hyperparameter.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HyperError {
    /// There is none of this name.
    #[error("{algorithm} has no hyperparameter {name:?}; it has {}", .known.join(", "))]
    Unknown {
        /// The algorithm.
        algorithm: &'static str,
        /// The name given.
        name: String,
        /// The names that exist.
        known: Vec<&'static str>,
    },
    /// The value is of another type.
    #[error("{algorithm}: {name} must be a {expected}, got {got}")]
    Type {
        /// The algorithm.
        algorithm: &'static str,
        /// The hyperparameter.
        name: &'static str,
        /// The type that it has.
        expected: &'static str,
        /// The value given.
        got: String,
    },
    /// The value is out of range.
    #[error("{algorithm}: {name} must be {expected}, got {got}")]
    Range {
        /// The algorithm.
        algorithm: &'static str,
        /// The hyperparameter.
        name: &'static str,
        /// The range.
        expected: Range,
        /// The value given.
        got: String,
    },
    /// Values that are valid alone exclude each other.
    #[error("{algorithm}: {problem}")]
    Combination {
        /// The algorithm.
        algorithm: &'static str,
        /// Which ones, and why.
        problem: String,
    },
}

impl HyperError {
    /// Returns the same of an algorithm of another name, for [`alias!`](macro@crate::alias).
    #[doc(hidden)]
    pub fn named(mut self, name: &'static str) -> HyperError {
        let (HyperError::Unknown { algorithm, .. }
        | HyperError::Type { algorithm, .. }
        | HyperError::Range { algorithm, .. }
        | HyperError::Combination { algorithm, .. }) = &mut self;
        *algorithm = name;
        self
    }
}

/// A set of hyperparameters that can be read and set by name.
pub trait Hyperparameters {
    /// The algorithm's name.
    const NAME: &'static str;
    /// The table, in the order of the source.
    const TABLE: &'static [Hyper];
    /// Sets one by name.
    ///
    /// # Errors
    /// [`HyperError`] for an unknown name, another type, or a number out of range; nothing is set then.
    fn set(&mut self, name: &str, value: &Value) -> Result<(), HyperError>;
    /// Reads one by name; those that change no number are not kept.
    fn get(&self, name: &str) -> Option<Value>;
}
