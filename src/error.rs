//! One error for everything that the facade has.

use fallline_optim::hyper::HyperError;
#[cfg(feature = "config")]
use fallline_registry::config::ConfigError;

/// Why something failed. `?` makes it of the error of every crate of fallline.
///
/// ```
/// use fallline::algorithms::AdamW;
/// use fallline::prelude::*;
///
/// fn optimizers() -> fallline::Result<[Driver; 2]> {
///     let cpu = Cpu::new()?.shared(); // an error of the backend,
///     let recipe = Recipe::from_text("dict(type='Lion', lr=1e-4)")?; // of a configuration,
///     let average = Average::ema(0.999)?; // or of an optimizer
///     Ok([recipe.optimizer(cpu.clone()), AdamW::default().on(&cpu)?.averaged(average)])
/// }
///
/// let error = AdamW { lr: -1.0, ..Default::default() }.on(Cpu::new()?).err();
/// assert_eq!(error.map(|error| error.to_string()).as_deref(), Some("AdamW: lr must be ≥ 0, got -1.0"));
/// # optimizers()?;
/// # Ok::<(), fallline::Error>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Of an optimizer, a schedule, an average or a checkpoint.
    #[error(transparent)]
    Optim(fallline_optim::Error),
    /// Of a backend, a tensor or an exchange between ranks.
    #[error(transparent)]
    Backend(fallline_core::Error),
    /// Of a hyperparameter.
    #[error(transparent)]
    Hyper(HyperError),
    /// Of a configuration, with the place in it.
    #[cfg(feature = "config")]
    #[error(transparent)]
    Recipe(fallline_registry::Error),
    /// Of a file that is not a model, or not one that can be stepped in place.
    #[cfg(feature = "checkpoints")]
    #[error("{}: {problem}", .path.display())]
    ModelFile {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Of what tells it in words: bytes that are no checkpoint.
    #[error("{0}")]
    Text(String),
    /// Of a checkpoint of another framework.
    #[cfg(feature = "convert")]
    #[error(transparent)]
    Convert(#[from] fallline_convert::Error),
}

/// The result of anything that the facade has.
pub type Result<T, E = Error> = core::result::Result<T, E>;

impl From<fallline_core::Error> for Error {
    fn from(error: fallline_core::Error) -> Error {
        Error::Backend(error)
    }
}

impl From<String> for Error {
    fn from(problem: String) -> Error {
        Error::Text(problem)
    }
}

impl From<HyperError> for Error {
    fn from(error: HyperError) -> Error {
        Error::Hyper(error)
    }
}

/// What an optimizer passes on is the error of what failed.
impl From<fallline_optim::Error> for Error {
    fn from(error: fallline_optim::Error) -> Error {
        match error {
            fallline_optim::Error::Backend(error) => Error::Backend(error),
            fallline_optim::Error::Hyper(error) => Error::Hyper(error),
            error => Error::Optim(error),
        }
    }
}

#[cfg(feature = "config")]
impl From<fallline_registry::Error> for Error {
    fn from(error: fallline_registry::Error) -> Error {
        match error {
            fallline_registry::Error::Backend(error) => Error::Backend(error),
            fallline_registry::Error::Optim(error) => error.into(),
            error => Error::Recipe(error),
        }
    }
}

#[cfg(feature = "config")]
impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Error {
        Error::Recipe(error.into())
    }
}
