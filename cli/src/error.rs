//! Failures, and the exit codes they have.

use std::path::{Path, PathBuf};

/// Why a command failed. It is printed as one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or a configuration is wrong.
    #[error("{0}")]
    Usage(String),
    /// A configuration is wrong.
    #[error(transparent)]
    Config(#[from] fallline::Error),
    /// A backend or an optimizer failed.
    #[error(transparent)]
    Optim(#[from] fallline::optim::Error),
    /// A backend failed.
    #[error(transparent)]
    Backend(#[from] fallline::core::Error),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what it should be.
    #[error("{path}: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Something else.
    #[error("{0}")]
    Other(String),
    /// The user pressed Ctrl-C; what was to be kept is kept.
    #[error("{0}")]
    Interrupted(String),
}

impl Error {
    /// Returns the exit code: 2 for what the user wrote, 130 after Ctrl-C, 1 for everything else.
    pub fn code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            Error::Config(fallline::Error::Optim(error)) | Error::Optim(error) => match error {
                fallline::optim::Error::Hyper(_) | fallline::optim::Error::Schedule { .. } => 2,
                _ => 1,
            },
            Error::Config(fallline::Error::Backend(error)) | Error::Backend(error) => match error {
                fallline::core::Error::Unavailable(_) => 2,
                _ => 1,
            },
            Error::Config(_) => 2,
            Error::Interrupted(_) => 130,
            _ => 1,
        }
    }

    /// Returns a failure of the file system, with the file.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    }
}

/// The result of a command.
pub type Result<T, E = Error> = std::result::Result<T, E>;
