//! What a step does about NaN and infinity.

/// What a step does when a gradient holds a NaN or an infinity.
///
/// Everything but [`Propagate`](NonFinitePolicy::Propagate) reads all gradients once before the step; the report
/// then also tells their norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NonFinitePolicy {
    /// Step as if nothing were wrong, as torch does: the NaN reaches the parameter. With a loss scale the step is skipped.
    #[default]
    Propagate,
    /// Skip the step: parameters, states and step counts stay as they are, and the report says so.
    Skip,
    /// Fail with [`Error::NonFinite`](crate::Error::NonFinite); everything stays as it is. With a dynamic loss scale, which
    /// finds its size by overflows, the step is skipped and the scale backs off.
    Error,
}
