//! How parameters are stored that have 16 bits.

use fallline_core::Format;

/// How a step stores parameters of 16 bits, where the rounding to the nearest loses what is smaller than half a unit of
/// their last place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParamFormat {
    /// To the nearest.
    #[default]
    Nearest,
    /// bfloat16 with stochastic rounding: up or down, the nearer the likelier. Parameters, and states in bfloat16 too.
    ///
    /// The chance of an element depends on the seed, its parameter's name, its place and the step count, and on
    /// nothing else ([`fallline_core::codec::stochastic`]).
    Stochastic {
        /// Another seed, other chances.
        seed: u64,
    },
    /// In single precision beside them (the state `master`), from which they are rounded to the nearest in the same
    /// pass. What is written to a parameter between steps is lost.
    Master,
}

impl ParamFormat {
    /// Whether parameters stored as `format` can be kept so.
    ///
    /// # Errors
    /// The formats that can be.
    pub fn check(self, format: Format) -> Result<(), &'static str> {
        match (self, format) {
            (ParamFormat::Nearest, _)
            | (ParamFormat::Stochastic { .. }, Format::Bf16)
            | (ParamFormat::Master, Format::Bf16 | Format::F16) => Ok(()),
            (ParamFormat::Stochastic { .. }, _) => Err("bf16"),
            (ParamFormat::Master, _) => Err("bf16 or f16"),
        }
    }

    /// The seed of the chances, where there are any.
    pub(crate) fn seed(self) -> Option<u64> {
        match self {
            ParamFormat::Stochastic { seed } => Some(seed),
            _ => None,
        }
    }
}

/// The name of the state that holds parameters in single precision.
pub(crate) const MASTER: &str = "master";
