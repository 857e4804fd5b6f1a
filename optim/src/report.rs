//! What a step or a load did.

use core::fmt;

/// What a step did.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// Why nothing was updated, if nothing was.
    pub skipped: Option<Skipped>,
    /// How many parameters were updated.
    pub updated: usize,
    /// How many were given without a gradient, and left as they were.
    pub without_grad: usize,
    /// The 2-norm of all gradients together, where the policy for NaN and infinity had it computed.
    pub grad_norm: Option<f64>,
    /// The first quantised state, by its parameter's name, that a NaN or an infinity came into in this step (the moments
    /// of large gradients overflow), where the policy for them has it looked for.
    pub poisoned: Option<(String, &'static str)>,
}

impl StepReport {
    /// Whether nothing was updated.
    pub fn skipped(&self) -> bool {
        self.skipped.is_some()
    }
}

impl fmt::Display for StepReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.skipped {
            Some(reason) => write!(f, "step skipped: {reason}")?,
            None => {
                let plural = if self.updated == 1 { "" } else { "s" };
                write!(f, "{} parameter{plural} updated", self.updated)?;
            }
        }
        if self.without_grad > 0 {
            write!(f, ", {} without a gradient", self.without_grad)?;
        }
        if let Some(norm) = self.grad_norm {
            write!(f, ", gradient norm {norm:.6}")?;
        }
        match &self.poisoned {
            Some((param, state)) => write!(f, "; state {state:?} of {param:?} now holds a NaN or an infinity"),
            None => Ok(()),
        }
    }
}

/// Why a step was skipped. Parameters, states and step counts are untouched then.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Skipped {
    /// A gradient holds a NaN or an infinity.
    NonFinite {
        /// The first such parameter, by name.
        param: String,
        /// How many of its elements.
        count: u64,
    },
    /// A quantised state holds a NaN or an infinity since an earlier step.
    PoisonedState {
        /// The first such parameter, by name.
        param: String,
        /// The state.
        state: &'static str,
    },
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Skipped::NonFinite { param, count } => {
                write!(f, "{count} elements of the gradient of {param:?} are NaN or infinite")
            }
            Skipped::PoisonedState { param, state } => {
                write!(f, "state {state:?} of {param:?} holds a NaN or an infinity")
            }
        }
    }
}

/// What a load did.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct LoadReport {
    /// How many parameters' states were restored.
    pub matched: usize,
}
