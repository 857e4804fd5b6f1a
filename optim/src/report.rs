//! What a step or a load did.

pub(crate) mod mismatches;

use core::fmt;
use fallline_core::{Backend, Compute, Shape, Storage};
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
        match &self.loaded {
            Some(report) => write!(f, "; of the load: {report}"),
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

/// What a load did, or would have done. It lists the mismatches that [`LoadOptions`](crate::LoadOptions) ignored. Those
/// that only a step can tell are in [`StepReport::loaded`] and [`Optimizer::load_report`](crate::Optimizer::load_report).
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct LoadReport {
    /// How many parameters' states were restored.
    pub matched: usize,
    /// Parameters of the optimizer that the checkpoint does not have; they are as they were.
    pub missing: Vec<String>,
    /// Parameters of the checkpoint that the optimizer does not have; they were left out.
    pub unexpected: Vec<String>,
    /// Parameters that have another shape in the checkpoint; they are as they were.
    pub shape: Vec<ShapeMismatch>,
    /// Parameters that a step binds in another type of the arithmetic than that of the checkpoint; they started anew.
    pub computed: Vec<ComputeMismatch>,
    /// Parameters of the checkpoint that no step has bound; they are kept. Known once a step has gone through.
    pub unbound: Vec<String>,
    /// How many states were converted from another format.
    pub converted: usize,
}

/// A parameter that has another shape in a checkpoint than in the optimizer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ShapeMismatch {
    /// Its name.
    pub param: String,
    /// Its shape in the optimizer.
    pub expected: Shape,
    /// Its shape in the checkpoint.
    pub got: Shape,
}

/// A parameter that was computed in another type when it was saved.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ComputeMismatch {
    /// Its name.
    pub param: String,
    /// The type in which the optimizer computes it.
    pub expected: Compute,
    /// The type in the checkpoint.
    pub got: Compute,
}

impl LoadReport {
    /// Returns whether every parameter was in both, with the same shape and type of the arithmetic.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
            && self.unexpected.is_empty()
            && self.shape.is_empty()
            && self.computed.is_empty()
            && self.unbound.is_empty()
    }

    /// Returns what a strict load says about the parameters that do not fit: the first by name, and how many more.
    pub(crate) fn complaint(&self) -> Option<String> {
        let more = |count: usize| if count > 1 { format!(", and {} more", count - 1) } else { String::new() };
        if let Some(ShapeMismatch { param, expected, got }) = self.shape.first() {
            let more = more(self.shape.len());
            return Some(format!("parameter {param:?} has shape {got} in it, but {expected} here{more}"));
        }
        if let Some(param) = self.missing.first() {
            return Some(format!("parameter {param:?} is missing{}", more(self.missing.len())));
        }
        let param = self.unexpected.first()?;
        let more = more(self.unexpected.len());
        Some(format!("parameter {param:?} is not one of this optimizer's{more}"))
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.matched == 1 { "" } else { "s" };
        write!(f, "{} parameter{plural} restored", self.matched)?;
        let lists = [("missing", self.missing.len()), ("unexpected", self.unexpected.len())];
        let others = [
            ("of another shape", self.shape.len()),
            ("computed in another type", self.computed.len()),
            ("not bound", self.unbound.len()),
        ];
        for (what, count) in lists.into_iter().chain(others) {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        match self.converted {
            0 => Ok(()),
            1 => write!(f, ", 1 state converted"),
            count => write!(f, ", {count} states converted"),
        }
    }
}
