//! Failures, and the exit codes they have.

use fallline::registry::config::Position;
use std::path::{Path, PathBuf};

/// Why a command failed. It is one line, and a position where there is one ([`report`](crate::report)).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or a configuration is wrong.
    #[error("{0}")]
    Usage(String),
    /// The command line is wrong, in the words of its parser.
    #[error("{0}")]
    Arguments(clap::Error),
    /// A configuration is wrong.
    #[error(transparent)]
    Config(#[from] fallline::registry::Error),
    /// A configuration is wrong in what only this command reads.
    #[error("{at}: {problem}")]
    Setting {
        /// Where.
        at: Position,
        /// What is wrong.
        problem: String,
        /// The nearest name that exists.
        nearest: Option<String>,
    },
    /// A failure, and the texts that its positions may be in.
    #[error("{error}")]
    Within {
        /// The failure.
        error: Box<Error>,
        /// The texts.
        texts: Vec<Text>,
        /// The position, where the failure itself has none.
        at: Option<Position>,
    },
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
    /// Two files differ, which has been printed.
    #[error("the files differ")]
    Different,
    /// What was compared cannot be: an error of `diff`, whose code 1 says that files differ.
    #[error("{0}")]
    Incomparable(Box<Error>),
    /// The user pressed Ctrl-C; what was to be kept is kept.
    #[error("{0}")]
    Interrupted(String),
}

/// A text that is no file, or is not read from its file again.
#[derive(Debug, Clone)]
pub struct Text {
    /// What positions have as their file.
    pub name: Option<String>,
    /// What is printed as its place: an argument.
    pub shown: String,
    /// All of it.
    pub text: String,
}

impl Text {
    /// The value of an argument.
    pub fn inline(argument: &str, text: &str) -> Text {
        Text { name: None, shown: argument.to_owned(), text: text.to_owned() }
    }
}

impl Error {
    /// Returns the exit code: 2 for what the user wrote, 130 after Ctrl-C, 1 for everything else.
    pub fn code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::Arguments(_) | Error::Setting { .. } | Error::Incomparable(_) => 2,
            Error::Within { error, .. } => error.code(),
            Error::Config(fallline::registry::Error::Optim(error)) | Error::Optim(error) => match error {
                fallline::optim::Error::Hyper(_) | fallline::optim::Error::Schedule { .. } => 2,
                _ => 1,
            },
            Error::Config(fallline::registry::Error::Backend(error)) | Error::Backend(error) => match error {
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

    /// The same, whose positions may be in these texts.
    pub fn within(self, texts: Vec<Text>) -> Error {
        Error::Within { error: self.into(), texts, at: None }
    }

    /// A file that its parser refuses at a line and a column.
    pub fn malformed_at(path: &Path, problem: String, line: usize, column: usize) -> Error {
        let error = Error::Malformed { path: path.to_owned(), problem };
        let file = Some(path.display().to_string().into());
        let at = Position { file, line: line as u32, column: column as u32 };
        Error::Within { error: error.into(), texts: Vec::new(), at: Some(at) }
    }

    /// Returns the position, if there is one.
    pub fn at(&self) -> Option<&Position> {
        match self {
            Error::Within { error, at, .. } => error.at().or(at.as_ref()),
            Error::Config(error) => error.at(),
            Error::Setting { at, .. } => Some(at),
            Error::Incomparable(error) => error.at(),
            _ => None,
        }
    }

    /// Returns the name that was probably meant.
    pub fn nearest(&self) -> Option<&str> {
        match self {
            Error::Within { error, .. } => error.nearest(),
            Error::Config(error) => error.nearest(),
            Error::Setting { nearest, .. } => nearest.as_deref(),
            _ => None,
        }
    }

    /// Returns the text that a position is in, and what it is printed as; none where it is in a file.
    pub fn text(&self, at: &Position) -> Option<&Text> {
        let Error::Within { error, texts, .. } = self else { return None };
        let own = texts.iter().find(|text| text.name.as_deref() == at.file.as_deref());
        error.text(at).or(own)
    }
}

/// The result of a command.
pub type Result<T, E = Error> = std::result::Result<T, E>;
