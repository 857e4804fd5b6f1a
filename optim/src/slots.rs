//! What the driver keeps for each parameter, found again by name without hashing in the usual case.

use crate::{Binding, Error, Result};
use core::ops::Range;
use fallline_core::{Compute, Kernel, Shape, Storage};
use std::collections::HashMap;

/// One parameter's state.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    pub(crate) group: usize,
    pub(crate) compute: Compute,
    /// How many gradients it has been given.
    pub(crate) steps: u64,
    /// The rule that `states` are for, and they in the order of its operands; none before the first
    /// gradient.
    pub(crate) kernel: Option<&'static Kernel>,
    pub(crate) states: Vec<(&'static str, Storage)>,
    /// In the step being taken: which pass, and which row of scalars.
    pub(crate) pass: Option<usize>,
    pub(crate) row: usize,
}

impl Slot {
    /// Bytes of its states.
    pub(crate) fn state_bytes(&self) -> usize {
        self.states.iter().map(|(_, storage)| storage.len() * storage.format().bytes()).sum()
    }
}

/// All parameters seen so far, in the order of the last step.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    list: Vec<Slot>,
    places: HashMap<String, usize>,
}

impl Slots {
    /// Brings the slots into the order of `bindings`: slot `i` is then that of binding `i`. Parameters not
    /// seen before get a slot from `create`. Trainers mostly bind the same parameters in the same order,
    /// and then nothing moves.
    ///
    /// # Errors
    /// When a name stands twice, or `create` fails; no new slot is kept then.
    pub(crate) fn align(
        &mut self,
        bindings: &[Binding<'_>],
        create: impl Fn(&Binding<'_>) -> Result<Slot>,
    ) -> Result<()> {
        let known = self.list.len();
        let aligned = bindings.iter().enumerate().try_for_each(|(i, binding)| {
            if self.list.get(i).is_some_and(|slot| slot.name == binding.name) {
                return Ok(());
            }
            let place = match self.places.get(binding.name) {
                Some(&place) if place < i => {
                    return Err(Error::Duplicate { param: binding.name.to_owned() });
                }
                Some(&place) => place,
                None => {
                    self.push(create(binding)?);
                    self.list.len() - 1
                }
            };
            self.swap(i, place);
            Ok(())
        });
        if aligned.is_err() {
            self.forget_since(known);
        }
        aligned
    }

    /// Adds a slot at the end.
    pub(crate) fn push(&mut self, slot: Slot) {
        self.places.insert(slot.name.clone(), self.list.len());
        self.list.push(slot);
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.list.swap(a, b);
        for place in [a, b] {
            if let Some(known) = self.places.get_mut(&self.list[place].name) {
                *known = place;
            }
        }
    }

    /// Removes slots that never got a gradient, down to `count`: those that a failed step added.
    pub(crate) fn forget_since(&mut self, count: usize) {
        let mut surplus = self.list.len().saturating_sub(count);
        while surplus > 0 {
            let Some(place) = self.list.iter().rposition(|slot| slot.kernel.is_none() && slot.steps == 0)
            else {
                return;
            };
            self.swap(place, self.list.len() - 1);
            if let Some(slot) = self.list.pop() {
                self.places.remove(&slot.name);
            }
            surplus -= 1;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Slot> {
        self.places.get(name).map(|&place| &self.list[place])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.list.iter()
    }

    /// The slots at these places.
    pub(crate) fn range(&mut self, range: Range<usize>) -> &mut [Slot] {
        &mut self.list[range]
    }
}
