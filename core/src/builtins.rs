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

use crate::{Kernel, Link, rule};
use core::fmt;

rule! {
    /// The first values of a state that starts as a copy of the parameter.
    pub ParamCopy(h: (), t) {}
    element(p: Param) -> (copy: State) {
        copy = p;
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

/// Declares the table: for each rule the name under which it is asked for.
macro_rules! builtins {
    ($($(#[$meta:meta])* $name:ident: $rule:ty,)*) => {
        /// These rules as a [`Link`] has compiled them: one table for each.
        pub struct Builtins {
            // Functions, because a table in a constant cannot hold what they give.
            $($name: fn() -> &'static Kernel,)*
        }

        impl Builtins {
            /// Returns those compiled by `K`.
            pub const fn of<K: Link>() -> &'static Builtins {
                const { &Builtins { $($name: K::kernel::<$rule>,)* } }
            }

            /// Returns each of them.
            pub fn all(&self) -> impl Iterator<Item = &'static Kernel> {
                [$(self.$name()),*].into_iter()
            }

            $($(#[$meta])*
            pub fn $name(&self) -> &'static Kernel {
                (self.$name)()
            })*
        }
    };
}

builtins! {
    /// Inspects gradients before a step.
    grad_check: GradCheck,
    /// Copies a parameter to a state.
    param_copy: ParamCopy,
    /// Takes a parameter into its average.
    lerp: Lerp,
    /// Sums up a vector.
    total: TotalRule,
    /// Compares seven vectors.
    largest: LargestRule,
    /// Begins a window's gradient.
    start_sum: StartSum,
    /// Adds to a window's gradient.
    add_to_sum: AddToSum,
    /// Adds to a window's gradient and inspects it.
    accumulate_with_stats: AccumulateWithStats,
    /// Clamps a window's gradient.
    clamp_sum: ClampSum,
    /// Sums up magnitudes.
    magnitude_sum: MagnitudeSum,
    /// Sums up powers of magnitudes.
    power_sum: PowerSum,
    /// Compares magnitudes.
    extreme_magnitude: ExtremeMagnitude,
    /// Clips gradients by their norm.
    clip: ClipRule,
    /// Clips them by the sum of their magnitudes.
    clip_magnitudes: ClipMagnitudesRule,
    /// Clips them by the largest magnitude.
    clip_largest: ClipLargestRule,
    /// Adds the error-feedback residual.
    compensate: AddResidualRule,
    /// Quantizes to signs and a scale.
    sign: SignQuantizeRule,
    /// Multiplies by a momentum's mask.
    mask: MaskRule,
    /// Takes a cautious step.
    cautious: CautiousRule,
    /// Synchronizes parameters and slow weights.
    lookahead: LookaheadRule,
}

impl Builtins {
    /// Returns those that compress what ranks exchange.
    pub fn of_compression(&self) -> [&'static Kernel; 3] {
        [self.compensate(), self.sign(), self.mask()]
    }

    /// Returns those that work on gradients around a step, and on weights after it.
    pub fn of_gradients(&self) -> [&'static Kernel; 8] {
        [
            self.start_sum(),
            self.add_to_sum(),
            self.accumulate_with_stats(),
            self.clamp_sum(),
            self.magnitude_sum(),
            self.power_sum(),
            self.extreme_magnitude(),
            self.lerp(),
        ]
    }
}

impl fmt::Debug for Builtins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builtins").finish_non_exhaustive()
    }
}
