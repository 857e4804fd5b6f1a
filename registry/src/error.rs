//! What can be wrong with a recipe.

use crate::config::{ConfigError, Position};
use fallline_optim::hyper::HyperError;

/// Why an optimizer cannot be built from a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A name that the registry does not have.
    #[error("{at}: there is no {what} {name:?}{}; {known}", did_you_mean(nearest))]
    UnknownName {
        /// Where.
        at: Position,
        /// What it should be the name of.
        what: &'static str,
        /// The name given.
        name: String,
        /// The nearest name that exists.
        nearest: Option<String>,
        /// The names that exist, or some of them, in words.
        known: String,
    },
    /// An algorithm that this build lacks.
    #[error("{at}: this build lacks {name:?}; the feature `{feature}` of fallline has it")]
    NotBuilt {
        /// Where.
        at: Position,
        /// The algorithm's name.
        name: String,
        /// The feature that has it.
        feature: &'static str,
    },
    /// An algorithm that a registry does not take.
    #[error("{name:?} cannot be registered: {problem}")]
    Registration {
        /// The algorithm's name.
        name: &'static str,
        /// Why.
        problem: String,
    },
    /// A key that means nothing where it is.
    #[error("{at}: {what} has no {key:?}{}{}", did_you_mean(nearest), also(hint))]
    UnknownKey {
        /// Where.
        at: Position,
        /// What it was given to.
        what: String,
        /// The key given.
        key: String,
        /// The nearest key that exists.
        nearest: Option<String>,
        /// What else helps.
        hint: Option<String>,
    },
    /// Something that means nothing where it is, and something elsewhere.
    #[error("{at}: {what}: {hint}")]
    Misplaced {
        /// Where.
        at: Position,
        /// What it is.
        what: String,
        /// Where it belongs.
        hint: String,
    },
    /// A value is wrong.
    #[error("{at}: {key} must be {expected}, got {got}")]
    Value {
        /// Where.
        at: Position,
        /// The key.
        key: String,
        /// What it takes.
        expected: String,
        /// What was given.
        got: String,
    },
    /// A hyperparameter is wrong.
    #[error("{at}: {source}")]
    Hyper {
        /// Where.
        at: Position,
        /// What is wrong.
        source: HyperError,
    },
    /// An algorithm refuses what is asked of it.
    #[error("{at}: {source}")]
    Algorithm {
        /// Where.
        at: Position,
        /// Why.
        source: fallline_optim::Error,
    },
    /// A key that must be there is not.
    #[error("{at}: {what} needs {} {key:?}", article(key))]
    Missing {
        /// Where.
        at: Position,
        /// What needs it.
        what: String,
        /// The key.
        key: &'static str,
    },
    /// Something real that this version does not do.
    #[error("{at}: {what} is not supported by this version of fallline")]
    Unsupported {
        /// Where.
        at: Position,
        /// What it is.
        what: String,
    },
    /// The optimizer or its schedule refused.
    #[error(transparent)]
    Optim(#[from] fallline_optim::Error),
    /// The default backend cannot be had.
    #[error(transparent)]
    Backend(#[from] fallline_core::Error),
}

impl Error {
    /// Returns the position that it is about, if there is one.
    pub fn at(&self) -> Option<&Position> {
        match self {
            Error::Config(error) => error.at(),
            Error::UnknownName { at, .. }
            | Error::NotBuilt { at, .. }
            | Error::UnknownKey { at, .. }
            | Error::Misplaced { at, .. } => Some(at),
            Error::Value { at, .. } | Error::Hyper { at, .. } | Error::Algorithm { at, .. } => Some(at),
            Error::Missing { at, .. } | Error::Unsupported { at, .. } => Some(at),
            Error::Registration { .. } | Error::Optim(_) | Error::Backend(_) => None,
        }
    }

    /// Returns the name that exists and is spelled most like the one given, if one was given that does not exist.
    pub fn nearest(&self) -> Option<&str> {
        match self {
            Error::Config(
                ConfigError::Undefined { nearest, .. } | ConfigError::MissingKey { nearest, .. },
            )
            | Error::UnknownName { nearest, .. }
            | Error::UnknownKey { nearest, .. } => nearest.as_deref(),
            _ => None,
        }
    }
}

/// Returns the article of a word.
pub(crate) fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(" (did you mean {name:?}?)")).unwrap_or_default()
}

fn also(hint: &Option<String>) -> String {
    hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default()
}

/// The result of reading a recipe.
pub type Result<T, E = Error> = core::result::Result<T, E>;
