//! How the source of each algorithm keeps its state: one row for every name of the registry.

mod table;

pub use table::{ROWS, find};

use crate::{Error, Result};

/// Returns the layout of an algorithm's source.
///
/// # Errors
/// Why there is none, with the algorithm's name.
pub(crate) fn of(name: &str) -> Result<&'static Layout> {
    let problem = |problem: &str| Error::Layout { algorithm: name.to_owned(), problem: problem.to_owned() };
    find(name).ok_or_else(|| problem("no source's layout is known for it"))?.map_err(problem)
}

/// How one class of a source keeps an algorithm's states and scalars.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Where it keeps how many gradients a parameter has been given.
    pub steps: Steps,
    /// The dict within a parameter's state that its tensors are in; a file may have them next to `step` as well.
    pub nested: Option<&'static str>,
    /// Its states.
    pub states: &'static [State],
    /// The keys of its groups.
    pub groups: &'static [Group],
    /// Whether it makes states when it is built, before the first gradient, and needs them there.
    pub eager: bool,
}

/// Where a count of steps is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Steps {
    /// `step` in each parameter's state, a tensor of one `f32`.
    Tensor,
    /// `step` in each parameter's state, an integer.
    Whole,
    /// Nowhere: no number depends on it but whether there was a step, which shows in there being a state.
    Nowhere,
    /// `k` in each group.
    Group,
}

/// A state of a source's.
#[derive(Clone, Copy, Debug)]
pub enum State {
    /// The same as ours, under another name.
    Same(&'static str, &'static str),
    /// Several of ours, one behind the other in a first dimension.
    Stacked(&'static str, &'static [&'static str]),
    /// Means of rows: the last dimension is 1 there, and gone here.
    Rows(&'static str, &'static str),
    /// Means of columns: the last dimension but one is 1 there, and gone here.
    Columns(&'static str, &'static str),
    /// Follows from other things: written, and ignored when read.
    Follows(&'static str, Follows),
}

/// What a state that we do not keep follows from.
#[derive(Clone, Copy, Debug)]
pub enum Follows {
    /// NAdam's product of momenta, of hyperparameters and the step count.
    MuProduct,
    /// ASGD's step size, of hyperparameters and the step count.
    Eta,
    /// ASGD's weight of the newest in the average, of hyperparameters and the step count.
    Mu,
    /// The difference of two states.
    Difference(&'static str, &'static str),
    /// A number that is computed anew in every step.
    Number,
    /// A tensor of one number that is computed anew in every step.
    Scratch,
}

/// A key of a source's groups.
#[derive(Clone, Copy, Debug)]
pub enum Group {
    /// A hyperparameter of the same name.
    Same(&'static str),
    /// A pair of a hyperparameter and 0, as bitsandbytes keeps all of its rates.
    First(&'static str, &'static str),
    /// A shared scalar, under the same name; whether it is an integer.
    Shared(&'static str, bool),
    /// Whether the parameters hold the weights that are trained.
    Training(&'static str),
    /// The learning rate of the last step, warmed up: written, and ignored when read.
    WarmedUp(&'static str),
    /// Something that the class always has; files with another value are of another class.
    Fixed(&'static str, Fixed),
}

/// A value that never differs.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "they are what they say")]
pub enum Fixed {
    None,
    True,
    Float(f64),
    Pair(f64, f64),
}

impl State {
    /// Returns the source's name.
    pub fn theirs(&self) -> &'static str {
        match *self {
            State::Same(theirs, _)
            | State::Stacked(theirs, _)
            | State::Rows(theirs, _)
            | State::Columns(theirs, _)
            | State::Follows(theirs, _) => theirs,
        }
    }

    /// Returns our names.
    pub fn ours(&self) -> &[&'static str] {
        match self {
            State::Same(_, ours) | State::Rows(_, ours) | State::Columns(_, ours) => {
                core::slice::from_ref(ours)
            }
            State::Stacked(_, ours) => ours,
            State::Follows(..) => &[],
        }
    }
}

impl Group {
    /// Returns the source's name.
    pub fn theirs(&self) -> &'static str {
        match *self {
            Group::Same(key)
            | Group::First(key, _)
            | Group::Shared(key, _)
            | Group::Training(key)
            | Group::WarmedUp(key)
            | Group::Fixed(key, _) => key,
        }
    }
}
