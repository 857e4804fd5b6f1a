//! The rules that work on gradients before the update does.

use fallline_core::{Kernel, Link, rule};

/// What [`ClampSum`] is computed from.
pub struct Limit {
    /// The factor of the gradient.
    pub scale: f64,
    /// The largest magnitude.
    pub most: f64,
}

rule! {
    /// A window begins: its gradient is this one times the step's gradient scale.
    pub StartSum(h: (), t) {}
    element(g: Grad) -> (sum: Scratch) {
        sum = g;
    }
}

rule! {
    /// A window goes on: this gradient times the step's gradient scale is added to its.
    pub AddToSum(h: (), t) {}
    element(g: Grad) -> (sum: Scratch) {
        sum = sum + g;
    }
}

/// What [`AddAndLook`] is computed from.
pub struct Unscale {
    /// The factor of the window's gradient.
    pub scale: f64,
}

rule! {
    /// A window ends: [`AddToSum`], and what `GradCheck` finds in its gradient.
    pub AddAndLook(h: Unscale, t) {
        let scale = h.scale;
    }
    element(g: Grad) -> (sum: Scratch) sum(bad, squares) {
        let zero = L::lit(0.0);
        sum = sum + g;
        let x = sum * scale;
        bad = L::select((x * zero).eq(zero), zero, L::lit(1.0));
        squares = x * x;
    }
}

rule! {
    /// The window's gradient, unscaled, limited to a magnitude; NaN stays NaN.
    pub ClampSum(h: Limit, t) {
        let scale = h.scale;
        let most = h.most;
    }
    element() -> (sum: Scratch) {
        let x = sum * scale;
        let x = L::select(most.lt(x), most, x);
        sum = L::select(x.lt(-most), -most, x);
    }
}

rule! {
    /// The sum of a gradient's magnitudes.
    pub MagnitudeSum(h: (), t) {}
    element(g: Grad) -> () sum(magnitudes) {
        magnitudes = g.abs();
    }
}

/// The compiled rules.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "each is the rule of its name")]
pub struct Kernels {
    pub start: &'static Kernel,
    pub add: &'static Kernel,
    pub add_and_look: &'static Kernel,
    pub clamp: &'static Kernel,
    pub magnitudes: &'static Kernel,
    pub lerp: &'static Kernel,
}

impl Kernels {
    /// Compiled by `K`.
    pub fn of<K: Link>() -> Kernels {
        Kernels {
            start: K::kernel::<StartSum>(),
            add: K::kernel::<AddToSum>(),
            add_and_look: K::kernel::<AddAndLook>(),
            clamp: K::kernel::<ClampSum>(),
            magnitudes: K::kernel::<MagnitudeSum>(),
            lerp: K::kernel::<crate::average::Lerp>(),
        }
    }

    /// The row of scalars of [`clamp`](Kernels::clamp).
    pub(crate) fn limit(&self, limit: &Limit) -> Vec<f64> {
        let mut row = vec![1.0; 1 + self.clamp.scalars.len()];
        self.clamp.compute_scalars(limit, 1, &mut row[1..]);
        row
    }

    /// All of them.
    pub fn all(self) -> [&'static Kernel; 6] {
        let Kernels { start, add, add_and_look, clamp, magnitudes, lerp } = self;
        [start, add, add_and_look, clamp, magnitudes, lerp]
    }
}
