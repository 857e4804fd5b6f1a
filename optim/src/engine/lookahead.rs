//! When parameters and slow weights are synchronized.

use super::Engine;
use crate::{Error, Lookahead, Result};

impl Engine {
    /// Returns the Lookahead that all groups are in, if they are: its first group's.
    pub(crate) fn lookahead(&self) -> Option<Lookahead> {
        self.setup.groups[0].algorithm.modifiers().lookahead
    }

    /// Returns whether the next step ends with a sync.
    pub(crate) fn syncs(&self) -> bool {
        self.lookahead().is_some_and(|lookahead| self.lookahead_steps + 1 >= lookahead.k)
    }

    /// Counts a step, with or without gradients.
    pub(crate) fn count_to_sync(&mut self) {
        if self.lookahead().is_some() {
            self.lookahead_steps = if self.syncs() { 0 } else { self.lookahead_steps + 1 };
        }
    }

    /// Refuses a group in another Lookahead than the first group's: all are synchronized in the same steps.
    pub(crate) fn same_lookahead(&self, algorithm: &'static str, other: Option<Lookahead>) -> Result<()> {
        let k = |lookahead: Option<Lookahead>| lookahead.map(|lookahead| lookahead.k);
        if k(self.lookahead()) == k(other) {
            return Ok(());
        }
        let problem = "all groups of an optimizer are in one Lookahead, or none is".into();
        Err(Error::Groups { algorithm, problem })
    }
}
