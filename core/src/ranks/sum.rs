//! The order of sums as rules, for transports that sum on a device: computed in `f64`.

#![allow(unused_assignments, reason = "a rule may write an operand without reading it")]

use crate::rule;

/// By how much a mean is divided.
#[derive(Clone, Copy, Debug)]
pub struct WorldSize(pub f64);

rule! {
    /// The first rank's values, or a sum as it is stored.
    pub RankFirst(h: (), t) {}
    element(x: State) -> (sum: Scratch) {
        sum = x;
    }
}

rule! {
    /// Another rank's values, added.
    pub RankAdd(h: (), t) {}
    element(x: State) -> (sum: Scratch) {
        sum = sum + x;
    }
}

rule! {
    /// The mean of a sum.
    pub RankMean(h: WorldSize, t) {
        let world = h.0;
    }
    element(sum: State) -> (x: Scratch) {
        x = sum / world;
    }
}
