//! Lookahead: slow weights that follow the parameters.

use crate::math::flag;
use crate::rule;

/// The hyperparameters of Lookahead (Zhang et al. 2019, as pytorch_optimizer 4.1.0 has it). After every `k` steps the
/// slow weights move towards the parameters, and the parameters are reset to them.
///
/// Steps are counted as calls, with or without gradients. A parameter without a gradient in the step of a sync waits for
/// the next one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lookahead {
    /// Steps from one sync to the next.
    pub k: u64,
    /// How far the slow weights go towards the parameters.
    pub alpha: f64,
}

impl Default for Lookahead {
    fn default() -> Self {
        Lookahead { k: 5, alpha: 0.5 }
    }
}

rule! {
    /// A sync: the slow weights go towards the parameter, which is then what they are. The way is counted from the nearer
    /// end, as in `torch.lerp`.
    pub LookaheadRule(h: Lookahead, t) {
        let back = 1.0 - h.alpha;
        let alpha = 1.0 - (1.0 - h.alpha);
        let near = flag(1.0 - h.alpha < 0.5);
    }
    element() -> (p: Param, slow: State) {
        let way = slow - p;
        p = L::select_if(near, p + back * way, slow - way * alpha);
        slow = p;
    }
}
