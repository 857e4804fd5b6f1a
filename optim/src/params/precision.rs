//! The precision of 16-bit parameters: round-to-nearest, stochastic rounding, master weights.

use fallline_core::Format;

/// How a step stores 16-bit parameters. Round-to-nearest loses updates below half an ULP; stochastic rounding and f32
/// master weights do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParamPrecision {
    /// Round-to-nearest-even.
    #[default]
    RoundToNearest,
    /// bfloat16 with stochastic rounding: up or down, the nearer the likelier. Parameters, and states in bfloat16 too,
    /// unless their [`StateFormat`](crate::StateFormat) has another rounding.
    ///
    /// The random bits of an element depend on the seed, its parameter's name, its index and the step count, and on
    /// nothing else ([`fallline_core::codec::stochastic`]).
    StochasticRounding {
        /// The seed of the random bits.
        seed: u64,
    },
    /// Master weights: a copy in single precision (the state `master`), from which they are rounded to nearest in the
    /// same pass. What is written to a parameter between steps is lost.
    MasterWeights,
}

impl ParamPrecision {
    /// Checks that parameters stored as `format` can be kept so.
    ///
    /// # Errors
    /// The formats that can be.
    pub fn check(self, format: Format) -> Result<(), &'static str> {
        match (self, format) {
            (ParamPrecision::RoundToNearest, _)
            | (ParamPrecision::StochasticRounding { .. }, Format::Bf16)
            | (ParamPrecision::MasterWeights, Format::Bf16 | Format::F16) => Ok(()),
            (ParamPrecision::StochasticRounding { .. }, _) => Err("bf16"),
            (ParamPrecision::MasterWeights, _) => Err("bf16 or f16"),
        }
    }

    /// Returns the seed of stochastic rounding, if any.
    pub(crate) fn seed(self) -> Option<u64> {
        match self {
            ParamPrecision::StochasticRounding { seed } => Some(seed),
            _ => None,
        }
    }
}

/// The name of the state that holds parameters in single precision.
pub(crate) const MASTER: &str = "master";
