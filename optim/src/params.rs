//! How parameters are stored that have 16 bits.

/// How a step stores parameters of 16 bits, where the rounding to the nearest loses what is smaller than half a unit of
/// their last place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParamFormat {
    /// To the nearest.
    #[default]
    Nearest,
    /// bfloat16, up or down by chance, the nearer the likelier: parameters, and states in bfloat16 too.
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
