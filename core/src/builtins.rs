//! The rules that the engine runs whatever the algorithm is. They inspect and form gradients, average weights, copy
//! parameters, and compress what ranks exchange.

mod cautious;
mod compression;
mod gradients;
mod lookahead;

pub use cautious::{AgreementRule, CautiousRule};
pub use compression::{AddResidualRule, MaskRule, SignQuantizeRule};
pub use gradients::{
    AccumulateWithStats, AddToSum, ClampRange, ClampSum, ClipLargestRule, ClipMagnitudesRule, ClipRule,
    ClipTo, Extreme, ExtremeMagnitude, GradCheck, MagnitudeSum, Power, PowerSum, StartSum, Unscale, clipping,
};
pub use lookahead::{Lookahead, LookaheadRule};

use crate::rule;

rule! {
    /// The first values of a state that starts as a copy of the parameter.
    pub ParamCopy(h: (), t) {}
    element(p: Param) -> (copy: State) {
        copy = p;
    }
}

rule! {
    /// A parameter times a number.
    pub RescaleRule(h: (), t) {}
    per_tensor(factor)
    element() -> (p: Param) {
        p = factor * p;
    }
}

/// What a [`Lerp`] is computed from.
pub struct EmaWeight {
    /// The weight of the new parameters.
    pub weight: f64,
    /// Whether it is counted from the old ones.
    pub from_old_side: bool,
}

rule! {
    /// `a + w (p − a)`, or the same counted from the other end.
    pub Lerp(h: EmaWeight, t) {
        let w = h.weight;
        let rest = 1.0 - h.weight;
        let near = crate::math::flag(h.from_old_side);
    }
    element(p: Param) -> (a: State) {
        let way = p - a;
        a = L::select_if(near, a + w * way, p - way * rest);
    }
}

/// How many numbers one element of [`LargestRule`] compares.
pub const FAN_IN: usize = 7;

rule! {
    /// The largest of seven numbers.
    pub LargestRule(h: (), t) {}
    element(a: Scratch, b: Scratch, c: Scratch, d: Scratch, e: Scratch, f: Scratch, g: Scratch) -> (x: Scratch) {
        x = a.max(b).max(c.max(d)).max(e.max(f).max(g));
    }
}

rule! {
    /// The sum of a vector.
    pub TotalRule(h: (), t) {}
    element(v: State) -> () sum(total) {
        total = v;
    }
}
