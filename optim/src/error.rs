//! What can go wrong when optimizing.

use crate::hyper::HyperError;
use fallline_core::{Device, Format, Shape};
use std::path::PathBuf;

/// A failure of an optimizer, with the parameter, what was expected and what was got.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A backend failed.
    #[error(transparent)]
    Backend(#[from] fallline_core::Error),
    /// A hyperparameter is wrong.
    #[error(transparent)]
    Hyper(#[from] HyperError),
    /// A setting of the optimizer is out of range: of the gradient pipeline, or of an average.
    #[error("{0}")]
    Setting(String),
    /// A gradient has another number of elements than its parameter.
    #[error("parameter {param:?}: its gradient has shape {got}, expected {expected}")]
    GradShape {
        /// The parameter.
        param: String,
        /// The parameter's shape.
        expected: Shape,
        /// The gradient's shape.
        got: Shape,
    },
    /// A slice was given a shape of another number of elements ([`Binding::shaped`](crate::Binding::shaped)).
    #[error("parameter {param:?}: its {what} has {elements} elements, but was given the shape {shape}")]
    Shaped {
        /// The parameter.
        param: String,
        /// Which slice: its value or its gradient.
        what: &'static str,
        /// The elements that the slice has.
        elements: usize,
        /// The shape that it was given.
        shape: Shape,
    },
    /// A row-sparse gradient does not fit its parameter.
    #[error("parameter {param:?}: its row-sparse gradient {problem}")]
    Rows {
        /// The parameter.
        param: String,
        /// What does not fit.
        problem: String,
    },
    /// The algorithm does not take a gradient of this kind: row-sparse, or dense.
    #[error("parameter {param:?}: {reason}")]
    GradKind {
        /// The parameter.
        param: String,
        /// Why.
        reason: String,
    },
    /// The algorithm has no estimate of the curvature to update.
    #[error("{algorithm} takes no gradients for a Hessian")]
    NoHessian {
        /// The algorithm.
        algorithm: &'static str,
    },
    /// A parameter changed its shape.
    #[error("parameter {param:?} has shape {got}, but its state was made for {expected}")]
    ParamShape {
        /// The parameter.
        param: String,
        /// The shape that it had.
        expected: Shape,
        /// The shape that it has now.
        got: Shape,
    },
    /// A parameter changed its element type in a way that its states do not fit.
    #[error("parameter {param:?} is stored as {got}, which is computed in another type than its state")]
    ParamFormat {
        /// The parameter.
        param: String,
        /// The format that it has now.
        got: Format,
    },
    /// The parameters hold the weights that are evaluated, not those that are trained.
    #[error("{algorithm} was left in evaluation mode: call set_mode(Mode::Training, …) before the next step")]
    Evaluating {
        /// The algorithm.
        algorithm: &'static str,
    },
    /// The parameters hold the averages of their weights.
    #[error(
        "the parameters hold their averages: call swap_average again, with the same parameters, before {operation}"
    )]
    Averaged {
        /// What was attempted.
        operation: &'static str,
    },
    /// The algorithm does not take such a parameter.
    #[error("parameter {param:?} of shape {shape}: {algorithm} {reason}")]
    Unfit {
        /// The parameter.
        param: String,
        /// Its shape.
        shape: Shape,
        /// The algorithm.
        algorithm: &'static str,
        /// Why.
        reason: String,
    },
    /// The algorithm evaluates the loss itself.
    #[error(
        "{algorithm} evaluates the loss itself: give it an Objective (Optimizer::step_with) instead of gradients"
    )]
    NeedsObjective {
        /// The algorithm.
        algorithm: &'static str,
    },
    /// An objective could not be evaluated.
    #[error("the objective: {0}")]
    Objective(String),
    /// Parameters that are computed in `f32` and others in `f64`, where the algorithm needs all together.
    #[error("{algorithm} looks at all parameters together: they must all be computed in the same type")]
    MixedCompute {
        /// The algorithm.
        algorithm: &'static str,
    },
    /// Groups whose hyperparameters do not go together, in an algorithm that needs all of them.
    #[error("{algorithm}: {problem}")]
    Groups {
        /// The algorithm.
        algorithm: &'static str,
        /// What does not go together.
        problem: String,
    },
    /// A parameter with gradients in an accumulation window is not bound when the window closes.
    #[error("parameter {param:?} has accumulated gradients, but is not bound in the step that applies them")]
    Unbound {
        /// The parameter.
        param: String,
    },
    /// The norm of the gradients is not a number to clip by, and clipping is to fail then.
    #[error("the norm of the gradients is {norm}, and error_if_nonfinite is set")]
    Norm {
        /// The norm.
        norm: f64,
    },
    /// An incremental step, where all gradients are needed first.
    #[error("the step cannot be incremental: {what}")]
    NotIncremental {
        /// What needs them.
        what: String,
    },
    /// A rule that puts parameters into a group matches none.
    #[error("{rule} matches no parameter")]
    Unmatched {
        /// The rule, as it was named.
        rule: String,
    },
    /// The same name was given twice in a step.
    #[error("parameter {param:?} was given twice in one step")]
    Duplicate {
        /// The parameter.
        param: String,
    },
    /// A tensor lives on another device than the optimizer.
    #[error("parameter {param:?}: a tensor on {got} was given to an optimizer on {expected}")]
    OtherDevice {
        /// The parameter.
        param: String,
        /// The optimizer's device.
        expected: Device,
        /// The tensor's device.
        got: Device,
    },
    /// A gradient holds a NaN or an infinity, and the policy is to fail.
    #[error("parameter {param:?}: {count} elements of its gradient are NaN or infinite")]
    NonFinite {
        /// The first such parameter, by name.
        param: String,
        /// How many of its elements.
        count: u64,
    },
    /// The loss that a closure returned is NaN or infinite, and the policy is to fail.
    #[error("the loss is {loss}")]
    NonFiniteLoss {
        /// The loss.
        loss: f64,
    },
    /// A quantised state holds a NaN, and the policy is to fail.
    #[error("parameter {param:?}: its state {state:?} holds a NaN or an infinity")]
    PoisonedState {
        /// The first such parameter, by name.
        param: String,
        /// The state.
        state: &'static str,
    },
    /// An algorithm cannot have its states in the formats asked for.
    #[error("{algorithm}: state_format: {problem}")]
    StateFormat {
        /// The algorithm.
        algorithm: &'static str,
        /// Why.
        problem: String,
    },
    /// A parameter is not stored as its group's format for parameters needs it.
    #[error("parameter {param:?} is stored as {got}, but param_format needs {expected}")]
    ParamPrecision {
        /// The parameter.
        param: String,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        got: Format,
    },
    /// A mask of momenta that does not fit a parameter.
    #[error("parameter {param:?} {problem}")]
    Masked {
        /// The parameter.
        param: String,
        /// What does not fit.
        problem: String,
    },
    /// A group of this number does not exist.
    #[error("there is no parameter group {group}; there are {count}")]
    NoGroup {
        /// The number given.
        group: usize,
        /// How many there are.
        count: usize,
    },
    /// An incremental step was begun and never finished: it is done for some parameters, and not for the others.
    #[error("an incremental step was not finished: {}; load a checkpoint to resume", half_done(params, *stepped))]
    HalfStep {
        /// The parameters, sorted.
        params: Vec<String>,
        /// Whether they have stepped; else their gradients are in an accumulation window already.
        stepped: bool,
    },
    /// A device failed after the first write of a step.
    #[error(
        "a step failed half-way ({cause}): parameters and states may not fit together; reload a checkpoint"
    )]
    Poisoned {
        /// The failure.
        cause: String,
    },
    /// A checkpoint does not fit the optimizer; nothing was changed.
    #[error("checkpoint: {0}")]
    Mismatch(String),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not a checkpoint.
    #[error("{path}: not a checkpoint: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A schedule cannot be built.
    #[error("{at}: {problem}")]
    Schedule {
        /// Which entry of the list.
        at: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The result of an operation of an optimizer.
pub type Result<T, E = Error> = core::result::Result<T, E>;

/// Returns what is done for which parameters.
fn half_done(params: &[String], stepped: bool) -> String {
    let done = if stepped { "stepped" } else { "accumulated a gradient" };
    let have = if params.len() == 1 { "has" } else { "have" };
    format!("{} {have} {done}, and the others have not", list_names(params))
}

/// Returns the first names of a list, and how many there are more.
pub(crate) fn list_names(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect();
    let more = match names.len() {
        count if count > SHOWN => format!(" and {} more", count - SHOWN),
        _ => String::new(),
    };
    format!("parameter{} {}{more}", if names.len() == 1 { "" } else { "s" }, shown.join(", "))
}
