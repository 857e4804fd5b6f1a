//! What modifiers are set to: data alone.

use super::Lookahead;
use crate::algorithm::{Extent, Sparse, Start, StateSpec};

/// What is done around an algorithm's own steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Modifiers {
    /// Whether each parameter's states and update belong to one rank alone, where there are several.
    pub sharded: bool,
    /// Whether only those elements move whose update has the sign of their gradient, as far as all would (Liang et al.
    /// 2024, arXiv:2411.16085).
    pub cautious: bool,
    /// Whether every so often the parameters are synchronized with slow weights (Zhang et al. 2019,
    /// arXiv:1907.08610).
    pub lookahead: Option<Lookahead>,
}

/// The state of [`Lookahead`]: the slow weights.
pub const SLOW: &str = "slow";
/// What is counted for [`Lookahead`] under this name in checkpoints: the steps since the last sync.
pub const LOOKAHEAD_STEPS: &str = "lookahead_steps";

impl Modifiers {
    /// None.
    pub const NONE: Modifiers = Modifiers { sharded: false, cautious: false, lookahead: None };

    /// Returns what is unusual about a state that a modifier adds.
    pub(crate) fn state(&self, name: &str) -> Option<StateSpec> {
        let slow = self.lookahead.is_some() && name == SLOW;
        let (start, extent) = (Start::Param, Extent::Param);
        slow.then_some(StateSpec {
            start,
            extent,
            non_negative: false,
            full_precision: true,
            slow: false,
            rank_local: false,
        })
    }

    /// Returns what becomes of row-sparse gradients.
    pub(crate) fn sparse(&self, own: Sparse) -> Sparse {
        match own {
            Sparse::Rows if self.cautious => Sparse::RefusedFor(
                "takes no row-sparse gradients with cautious: the share of elements that agree is that of all rows",
            ),
            Sparse::Rows if self.lookahead.is_some() => Sparse::RefusedFor(
                "takes no row-sparse gradients in Lookahead: all rows are synchronized with the slow weights",
            ),
            own => own,
        }
    }
}
