//! Slots that a load has made, and those that a step has bound.

use super::{Slot, Slots};

impl Slots {
    /// Takes a slot out of `others`, if there is one of this name.
    pub(crate) fn move_from(&mut self, others: &mut Slots, name: &str) {
        others.remove(name).into_iter().for_each(|slot| self.push(slot));
    }

    /// Returns whether a step has bound a parameter, which the last one had at place `i` in the usual case.
    pub(crate) fn has_bound(&self, i: usize, name: &str) -> bool {
        self.near(i, name).is_some_and(|slot| !slot.unbound)
    }

    /// Returns the slot of a parameter that a step has bound.
    pub(crate) fn bound(&self, name: &str) -> Option<&Slot> {
        self.get(name).filter(|slot| !slot.unbound)
    }

    /// Returns whether steps have bound parameters.
    pub(crate) fn any_bound(&self) -> bool {
        self.list.iter().any(|slot| !slot.unbound)
    }

    /// Returns the place of a parameter in the order of the last step.
    pub(crate) fn place_of(&self, name: &str) -> Option<usize> {
        self.places.get(name).copied()
    }
}
