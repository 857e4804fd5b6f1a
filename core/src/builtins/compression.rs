//! The rules that compress what ranks exchange to signs, and mask it.

use crate::rule;

rule! {
    /// What was left out before is added, and the square of the whole summed up.
    pub AddResidualRule(h: (), t) {}
    element(error: State) -> (x: State) sum(x2) {
        x = x + error;
        x2 = x * x;
    }
}

rule! {
    /// A sign and a scale instead of a number, and what that leaves out.
    pub SignQuantizeRule(h: (), t) {}
    per_tensor(scale)
    element() -> (x: State, error: State) {
        let sign = L::select(x.lt(L::splat(0.0)), -scale, scale);
        error = x - sign;
        x = sign;
    }
}

rule! {
    /// A momentum without what it shall not have.
    pub MaskRule(h: (), t) {}
    element(mask: State) -> (x: State) {
        x = x * mask;
    }
}
