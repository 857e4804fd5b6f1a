//! Where rules meet lanes, and the table of the engine's own rules.

use crate::builtins::{
    AccumulateWithStats, AddResidualRule, AddToSum, CautiousRule, ClampSum, ClipLargestRule,
    ClipMagnitudesRule, ClipRule, ExtremeMagnitude, GradCheck, LargestRule, Lerp, LookaheadRule,
    MagnitudeSum, MaskRule, ParamCopy, PowerSum, RescaleRule, SignQuantizeRule, StartSum, TotalRule,
};
use crate::{Kernel, Rule};
use core::fmt;

/// Where rules meet lanes: compiles a rule for a backend's instruction sets.
///
/// Algorithms are generic over it, so that the crate which names a `Link` is the one in which their
/// rules are compiled, once.
pub trait Link: 'static {
    /// Returns the erased rule with its compiled entries.
    fn kernel<R: Rule>() -> &'static Kernel;

    /// Returns the engine's own rules. A link that compiles them in its own crate returns that table: then no crate that
    /// names the link compiles them again.
    fn builtins() -> &'static Builtins
    where
        Self: Sized,
    {
        Builtins::of::<Self>()
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
    /// Multiplies a parameter by a number.
    scale: RescaleRule,
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
