//! What a load did.

use core::fmt;
use fallline_core::{Compute, Shape};

/// What a load did, or would have done. It lists the mismatches that [`LoadOptions`](crate::LoadOptions) ignored. Those
/// that only a step can tell are in [`StepReport::loaded`](crate::StepReport::loaded) and [`Optimizer::load_report`](crate::Optimizer::load_report).
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
