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
            clamp: K::kernel::<ClampSum>(),
            magnitudes: K::kernel::<MagnitudeSum>(),
            lerp: K::kernel::<crate::average::Lerp>(),
        }
    }

    /// All of them.
    pub fn all(self) -> [&'static Kernel; 5] {
        let Kernels { start, add, clamp, magnitudes, lerp } = self;
        [start, add, clamp, magnitudes, lerp]
    }
}
