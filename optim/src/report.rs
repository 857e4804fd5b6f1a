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
    /// The norm of all gradients together before clipping, with a loss scale taken out, where it was computed: in the
    /// norm that clips, else the 2-norm.
    pub grad_norm: Option<f64>,
    /// What clipping by norm multiplied the gradients by.
    pub clip_factor: Option<f64>,
    /// The loss scale that the gradients came with.
    pub loss_scale: Option<f64>,
    /// Iterations of the window so far and altogether, where the gradients were only accumulated.
    pub accumulated: Option<(u64, u64)>,
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
            None => match self.accumulated {
                Some((done, of)) => write!(f, "gradient {done} of {of} accumulated")?,
                None => {
                    let plural = if self.updated == 1 { "" } else { "s" };
                    write!(f, "{} parameter{plural} updated", self.updated)?;
                }
            },
        }
        if self.without_grad > 0 {
            write!(f, ", {} without a gradient", self.without_grad)?;
        }
        if let Some(norm) = self.grad_norm {
            write!(f, ", gradient norm {norm:.6}")?;
        }
        if let Some(factor) = self.clip_factor.filter(|factor| *factor != 1.0) {
            write!(f, ", clipped by {factor:.6}")?;
        }
        match self.loss_scale {
            Some(scale) => write!(f, ", loss scale {scale}"),
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
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Skipped::NonFinite { param, count } => {
                write!(f, "{count} elements of the gradient of {param:?} are NaN or infinite")
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
