//! The rules that read or form gradients before the update does.

use super::TotalRule;
use crate::math::flag;
use crate::{Kernel, Literal, Number, Vector, rule};

rule! {
    /// Counts what is not finite (`0 · x` is 0 for finite numbers only) and sums the squares of a gradient.
    pub GradCheck(h: (), t) {}
    element(g: Grad) -> () sum(bad, squares) {
        let zero = L::splat(0.0);
        bad = L::select((g * zero).eq(zero), zero, L::splat(1.0));
        squares = g * g;
    }
}

/// What [`ClipRule`] and its like are computed from.
pub struct ClipTo {
    /// The largest norm.
    pub max_norm: f64,
}

/// Returns what gradients of a norm are multiplied by, so that it is at most `max_norm`. As torch's clamp: NaN stays.
pub fn clipping<N: Number>(norm: N, max_norm: N) -> N
where
    f64: Literal<N>,
{
    let clipped = max_norm / (norm + 1e-6);
    N::select(N::splat(1.0).lt(clipped), N::splat(1.0), clipped)
}

rule! {
    /// The norm of all gradients together, and what clips them by it. It has no elements: all of it is between passes.
    pub ClipRule(h: ClipTo, t) {}
    per_tensor() reads GradCheck(squares) shared(norm, factor) {
        once(groups, at) {
            let max_norm = groups[0].max_norm;
        }
        totals(All) {
            all_squares = squares;
        }
        update {
            norm = all_squares.sqrt();
            factor = clipping(norm, max_norm);
        }
    }
    element() -> () {}
}

rule! {
    /// The same of the sum of all magnitudes.
    pub ClipMagnitudesRule(h: ClipTo, t) {}
    per_tensor() reads MagnitudeSum(magnitudes) shared(norm, factor) {
        once(groups, at) {
            let max_norm = groups[0].max_norm;
        }
        totals(InTurn) {
            all_magnitudes = magnitudes;
        }
        update {
            norm = all_magnitudes;
            factor = clipping(norm, max_norm);
        }
    }
    element() -> () {}
}

rule! {
    /// The same of the largest magnitude, behind [`ClipRule`], whose norm says whether one is not a number.
    pub ClipLargestRule(h: ClipTo, t) {}
    per_tensor() reads TotalRule(total) shared(norm, factor) {
        once(groups, at) {
            let max_norm = groups[0].max_norm;
        }
        totals(All) {
            largest = total;
        }
        update {
            norm = N::select(norm.eq(norm), largest, norm);
            factor = clipping(norm, max_norm);
        }
    }
    element() -> () {}
}

/// What [`ClampSum`] is computed from.
pub struct ClampRange {
    /// The factor of the gradient.
    pub scale: f64,
    /// The largest magnitude.
    pub max: f64,
}

impl ClampRange {
    /// Returns the row of scalars of `clamp`, the kernel of [`ClampSum`].
    pub fn row(&self, clamp: &Kernel) -> Vec<f64> {
        let mut row = vec![1.0; 1 + clamp.scalars.len()];
        clamp.compute_scalars(self, 1, &mut row[1..]);
        row
    }
}

rule! {
    /// A window begins: its gradient is this one times the step's gradient scale.
    pub StartSum(h: (), t) {}
    element(g: Grad) -> (sum: Scratch) {
        sum = g;
    }
}

rule! {
    /// Accumulates a window: this gradient times the step's gradient scale is added to its.
    pub AddToSum(h: (), t) {}
    element(g: Grad) -> (sum: Scratch) {
        sum = sum + g;
    }
}

/// What [`AccumulateWithStats`] is computed from.
pub struct Unscale {
    /// The factor of the window's gradient.
    pub scale: f64,
}

rule! {
    /// A window ends: [`AddToSum`], and what [`GradCheck`] finds in its gradient.
    pub AccumulateWithStats(h: Unscale, t) {
        let scale = h.scale;
    }
    element(g: Grad) -> (sum: Scratch) sum(bad, squares) {
        let zero = L::splat(0.0);
        sum = sum + g;
        let x = sum * scale;
        bad = L::select((x * zero).eq(zero), zero, L::splat(1.0));
        squares = x * x;
    }
}

rule! {
    /// The window's gradient, unscaled, limited to a magnitude; NaN stays NaN.
    pub ClampSum(h: ClampRange, t) {
        let scale = h.scale;
        let most = h.max;
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

/// What [`PowerSum`] is computed from.
pub struct Power {
    /// The p of the norm, in quarters.
    pub quarters: u32,
    /// What magnitudes are shares of.
    pub largest: f64,
}

impl Power {
    /// Returns how many quarters p is, where the rule has such a power.
    pub fn quarters_of(p: f64) -> Option<u32> {
        let quarters = 4.0 * p;
        ((0.0..128.0).contains(&quarters) && quarters.fract() == 0.0).then_some(quarters as u32)
    }

    /// Returns whether a power of two, counted from 1/4, is a part of p.
    fn has(&self, place: u32) -> f64 {
        flag(self.quarters >> place & 1 == 1)
    }
}

rule! {
    /// The sum of a gradient's magnitudes, as shares of the largest, to the power p. What is 0 does not count.
    pub PowerSum(h: Power, t) {
        let largest = h.largest;
        let fourth = h.has(0);
        let half = h.has(1);
        let one = h.has(2);
        let two = h.has(3);
        let four = h.has(4);
        let eight = h.has(5);
        let sixteen = h.has(6);
    }
    element(g: Grad) -> () sum(powers) {
        let zero = L::splat(0.0);
        let x = g.abs() / largest;
        let root = x.sqrt();
        let y = L::select_if(fourth, root.sqrt(), L::splat(1.0));
        let y = L::select_if(half, y * root, y);
        let y = L::select_if(one, y * x, y);
        let x = x * x;
        let y = L::select_if(two, y * x, y);
        let x = x * x;
        let y = L::select_if(four, y * x, y);
        let x = x * x;
        let y = L::select_if(eight, y * x, y);
        let x = x * x;
        let y = L::select_if(sixteen, y * x, y);
        powers = L::select(g.eq(zero), zero, y);
    }
}

/// What [`ExtremeMagnitude`] is computed from.
pub struct Extreme {
    /// Whether it is the least.
    pub least: bool,
}

/// Returns the one of two magnitudes that is larger, or the other one.
#[inline(always)]
fn pick<L: Vector>(least: L, one: L, other: L) -> L {
    L::select_if(least, one.min(other), one.max(other))
}

rule! {
    /// The largest or the least of seven magnitudes.
    pub ExtremeMagnitude(h: Extreme, t) {
        let least = flag(h.least);
    }
    element(a: Grad, b: Grad, c: Grad, d: Grad, e: Grad, f: Grad, g: Grad) -> (x: Scratch) {
        let ab = pick(least, a.abs(), b.abs());
        let cd = pick(least, c.abs(), d.abs());
        let ef = pick(least, e.abs(), f.abs());
        x = pick(least, pick(least, ab, cd), pick(least, ef, g.abs()));
    }
}
