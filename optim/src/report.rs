//! What a step or a load did.

#[cfg(feature = "checkpoints")]
mod load;
#[cfg(feature = "checkpoints")]
pub(crate) mod mismatches;

#[cfg(feature = "checkpoints")]
pub use load::{ComputeMismatch, LoadReport, ShapeMismatch};

use core::fmt;
use fallline_core::{Backend, Storage};
use std::sync::Arc;

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
    pub(crate) norm: Option<Reported>,
    /// The first quantised state, by its parameter's name, that became non-finite in this step (the moments of large
    /// gradients overflow). It is searched only where the policy for NaN and infinity asks for it.
    pub corrupt_state: Option<(String, &'static str)>,
    pub(crate) clipped: Option<Reported>,
    /// The loss scale that the gradients came with.
    pub loss_scale: Option<f64>,
    /// Iterations of the window so far and altogether, where the gradients were only accumulated.
    pub accumulated: Option<(u64, u64)>,
    /// The report of the last load, where this step found what that does not fit: parameters that started anew, or that
    /// are not bound.
    #[cfg(feature = "checkpoints")]
    pub loaded: Option<Box<LoadReport>>,
}

impl StepReport {
    /// Returns whether nothing was updated.
    pub fn skipped(&self) -> bool {
        self.skipped.is_some()
    }

    /// Returns the norm of all gradients together before clipping, unscaled, where it was computed: in the norm that
    /// clips, else the 2-norm. Where a device has it, it is fetched now, which waits for the device. A device that
    /// has failed since gives none, and says why in its next step.
    pub fn grad_norm(&self) -> Option<f64> {
        self.norm.as_ref()?.get()
    }

    /// Returns the factor of clipping by norm; fetched as [`grad_norm`](StepReport::grad_norm) is.
    pub fn clip_factor(&self) -> Option<f64> {
        self.clipped.as_ref()?.get()
    }
}

/// A number of a step.
#[derive(Clone, Debug)]
pub(crate) enum Reported {
    Known(f64),
    /// At this place of a storage in `f64`.
    OnDevice(Arc<dyn Backend>, Arc<Storage>, usize),
}

impl Reported {
    fn get(&self) -> Option<f64> {
        match self {
            Reported::Known(number) => Some(*number),
            Reported::OnDevice(backend, storage, place) => {
                let mut values = vec![0.0; storage.len()];
                backend.read(storage, values.as_mut_slice().into()).ok()?;
                values.get(*place).copied()
            }
        }
    }
}

impl PartialEq for Reported {
    fn eq(&self, other: &Reported) -> bool {
        self.get() == other.get()
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
        if let Some(norm) = self.grad_norm() {
            write!(f, ", gradient norm {norm:.6}")?;
        }
        if let Some(factor) = self.clip_factor().filter(|factor| *factor != 1.0) {
            write!(f, ", clipped by {factor:.6}")?;
        }
        if let Some(scale) = self.loss_scale {
            write!(f, ", loss scale {scale}")?;
        }
        if let Some((param, state)) = &self.corrupt_state {
            write!(f, "; state {state:?} of {param:?} now holds a NaN or an infinity")?;
        }
        #[cfg(feature = "checkpoints")]
        if let Some(report) = &self.loaded {
            write!(f, "; of the load: {report}")?;
        }
        Ok(())
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
