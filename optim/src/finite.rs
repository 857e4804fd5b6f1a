//! NaN and infinity in gradients: what to do about them, and the rule that finds them.

use fallline_core::rule;

/// What a step does when a gradient holds a NaN or an infinity.
///
/// Everything but [`Propagate`](NonFinite::Propagate) reads all gradients once before the step; the report
/// then also tells their norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NonFinite {
    /// Step as if nothing were wrong, as torch does: the NaN reaches the parameter.
    #[default]
    Propagate,
    /// Skip the step: parameters, states and step counts stay as they are, and the report says so.
    Skip,
    /// Fail with [`Error::NonFinite`](crate::Error::NonFinite); everything stays as it is.
    Error,
}

rule! {
    /// Counts what is not finite (`0 · x` is 0 for finite numbers only) and sums the squares of a gradient.
    pub GradCheck(h: (), t) {}
    element(g: Grad) -> () sum(bad, squares) {
        let zero = L::lit(0.0);
        bad = L::select((g * zero).eq(zero), zero, L::lit(1.0));
        squares = g * g;
    }
}
