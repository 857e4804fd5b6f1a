//! What is put behind an update that only moves where it agrees with the gradient.

use crate::rule;

rule! {
    /// Masks an algorithm's update: it keeps what agrees with the gradient, and counts such elements. Signs are
    /// compared, since a product might be 0 where neither factor is. The gradient comes scaled.
    pub AgreementRule(h: (), t) {}
    element(g: Scratch, u: Scratch) -> (masked: Scratch) sum(agree) {
        let (zero, one) = (L::splat(0.0), L::splat(1.0));
        let along = L::select(zero.lt(u), g, L::select(u.lt(zero), -g, zero));
        agree = L::select(zero.lt(along), one, zero);
        // What is no number is none afterwards.
        masked = u * agree;
    }
}

rule! {
    /// The step along what agrees, longer by as much as there is less of it: a thousand times at most.
    pub CautiousRule(h: (), t) {}
    per_tensor(scale) reads AgreementRule(agree) {
        each(at) {
            let elements = at.shape.elements() as f64;
        }
        tensor {
            let scale = 1.0 / (agree / elements).max(N::splat(1e-3));
        }
    }
    element(masked: Scratch) -> (p: Param) {
        p = p - scale * masked;
    }
}
