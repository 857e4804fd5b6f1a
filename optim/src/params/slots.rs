//! What the driver keeps for each parameter, found again by name without hashing in the usual case.

#[cfg(feature = "checkpoints")]
mod loaded;

use super::averaged::AveragedParam;
use super::mask::DeviceMask;
use super::residuals::Residuals;
use super::row_sparse::{self, RowSparseGrad};
use super::staging::StagingBuffers;
use crate::engine::scalar_state::ScalarState;
use crate::program::Variant;
use crate::{Error, ModuleKind, Result};
use core::ops::Range;
use fallline_core::codec::stochastic;
use fallline_core::{Compute, Shape, Storage};
use smallvec::SmallVec;
use std::collections::HashMap;

/// States of a parameter that its slot has room for.
const INLINE_STATES: usize = 2;

/// How far an incremental step has come with a parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Progress {
    pub(crate) inspected: bool,
    /// The index of what was found in its gradient, if there was one.
    pub(crate) found: Option<u32>,
    /// Whether it has stepped, once it was applied.
    pub(crate) applied: Option<bool>,
}

/// Whose random bits a parameter and its states take, where they are rounded stochastically.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct RandomBits {
    pub(crate) seed: u64,
    /// Whether the parameter itself is rounded so. Of a state, its memory says.
    pub(crate) of_param: bool,
}

impl RandomBits {
    /// Returns the key of an operand of a stage, in the step that is the `step`th of the parameter `name`.
    pub(crate) fn key(self, name: &str, step: u64, stage: usize, operand: usize) -> u64 {
        stochastic::key(self.seed, name, step, (stage << 8 | operand) as u64)
    }
}

/// One parameter's state. With many small tensors a step takes as long as walking its cache lines. Checking a usual
/// binding takes the first line, and a usual pass the first three. What a plain step does not need is behind
/// pointers.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Slot {
    /// Where its name is among those of all slots.
    pub(crate) key: Range<u32>,
    /// The elements of its shape.
    pub(crate) len: usize,
    pub(crate) group: usize,
    /// How many gradients it has been given.
    pub(crate) steps: u64,
    /// In the step being taken: which launch group, and which row of scalars.
    pub(crate) launch: Option<u32>,
    pub(crate) constant_set: u32,
    pub(crate) compute: Compute,
    /// As [`Algorithm::variant`](crate::Algorithm::variant).
    pub(crate) variant: Variant,
    /// Whether its gradient in this step is given as rows.
    pub(crate) sparse: bool,
    /// Whether it has 16 bits.
    pub(crate) is_half: bool,
    /// The place of the launch group that `states` are laid out for, in the order of its stages; none before the first
    /// gradient.
    pub(crate) layout_for: Option<u32>,
    /// The average of its weights, where one is kept.
    pub(crate) averaged: Option<Box<AveragedParam>>,

    pub(crate) shape: Shape,
    /// The parameter in single precision, where its group has it so.
    pub(crate) master: Option<Box<Storage>>,
    /// Buffers on a device that does not reach the host's.
    pub(crate) staging: Option<Box<StagingBuffers>>,
    /// Of a gradient given as rows.
    pub(crate) rows: Option<Box<RowSparseGrad>>,
    /// The random bits that it and its states are rounded by.
    pub(crate) bits: RandomBits,
    /// The error-feedback residuals of compression so far.
    pub(crate) residuals: Option<Box<Residuals>>,

    /// In the slot itself: elsewhere each parameter would cost two more lines, in the heap's order.
    pub(crate) states: SmallVec<[(&'static str, Storage); INLINE_STATES]>,
    /// Memory between the passes of a step.
    pub(crate) scratch: Vec<(&'static str, Storage)>,
    /// The rank that updates it, where parameters are sharded.
    pub(crate) owner: Option<usize>,

    pub(crate) name: String,
    /// As [`Algorithm::MEMORY`](crate::Algorithm::MEMORY), if that is not empty.
    pub(crate) memory: Option<Box<ScalarState>>,
    /// Which of its elements have a momentum, where not all.
    pub(crate) mask: Option<Box<DeviceMask>>,
    /// How far an incremental step has come with it.
    pub(crate) progress: Progress,
    /// The kind of module that it belongs to, as it was told or guessed.
    pub(crate) kind: ModuleKind,
    /// Whether a load has brought it, and no step has bound it since.
    pub(crate) unbound: bool,
}

impl Slot {
    /// Of a parameter of the first group that has nothing yet.
    pub(crate) fn new(name: &str, shape: Shape, compute: Compute) -> Slot {
        Slot {
            key: 0..0,
            kind: ModuleKind::guess(name, &shape),
            name: name.to_owned(),
            len: shape.elements(),
            shape,
            group: 0,
            compute,
            steps: 0,
            variant: Variant::ONLY,
            layout_for: None,
            states: SmallVec::new(),
            master: None,
            is_half: false,
            bits: RandomBits::default(),
            scratch: Vec::new(),
            memory: None,
            staging: None,
            rows: None,
            sparse: false,
            owner: None,
            averaged: None,
            residuals: None,
            mask: None,
            launch: None,
            constant_set: 0,
            progress: Progress::default(),
            unbound: false,
        }
    }

    /// Bytes of its states.
    pub(crate) fn state_bytes(&self) -> usize {
        let states = self.states.iter().map(|(_, storage)| storage.bytes());
        states.chain(self.master.as_deref().map(Storage::bytes)).sum()
    }

    /// Returns what the algorithm remembers for it, as the host knows it.
    pub(crate) fn memory(&self) -> &[f64] {
        self.memory.as_deref().map_or(&[], ScalarState::on_host)
    }

    /// Returns the rows of its gradient, if that is row-sparse in this step.
    pub(crate) fn sparse_rows(&self) -> Option<&RowSparseGrad> {
        row_sparse::of(&self.rows, self.sparse)
    }

    /// In how many parts a pass takes it; `None` where it takes it as a whole.
    pub(crate) fn parts(&self) -> Option<usize> {
        self.sparse_rows()?.parts()
    }

    /// Elements that a pass takes in this step.
    pub(crate) fn elements(&self) -> usize {
        match self.sparse_rows() {
            Some(rows) if rows.parts().is_some() => rows.elements(),
            _ => self.len,
        }
    }
}

/// All parameters seen so far, in the order of the last step.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    list: Vec<Slot>,
    /// The names, one after the other: what a step compares with those of its bindings.
    names: String,
    /// How many slots have moved since the names stood in their order.
    moved: usize,
    places: HashMap<String, usize>,
    /// Those that the step being taken added, until it is known to go through.
    uncommitted: Vec<String>,
    /// The place of the step's first parameter: not 0 for a later one of an incremental step.
    first: usize,
}

impl Slots {
    /// Moves the slot of parameter `name` to place `i` of the step and returns it. Called for 0, 1, … of a step's bindings, it
    /// aligns the slots with them. A parameter not seen before gets a slot from `create`. Training loops mostly bind
    /// the same parameters in the same order, and then nothing moves.
    ///
    /// # Errors
    /// When the name stood at an earlier place already, or the slot cannot be made.
    #[inline]
    pub(crate) fn align(
        &mut self,
        i: usize,
        name: &str,
        create: impl FnOnce() -> Result<Slot>,
    ) -> Result<&mut Slot> {
        let at = self.first + i;
        if self.list.get(at).is_none_or(|slot| !self.is_named(slot, name)) {
            self.bring(at, name, create)?;
        }
        Ok(&mut self.list[self.first + i])
    }

    /// Counts the places of a step from this one on, until it is told another.
    pub(crate) fn begin_at(&mut self, place: usize) {
        self.first = place.min(self.list.len());
    }

    #[inline]
    fn is_named(&self, slot: &Slot, name: &str) -> bool {
        self.names.as_bytes()[slot.key.start as usize..slot.key.end as usize] == *name.as_bytes()
    }

    #[cold]
    fn bring(&mut self, i: usize, name: &str, create: impl FnOnce() -> Result<Slot>) -> Result<()> {
        let place = match self.places.get(name) {
            Some(&place) if (self.first..i).contains(&place) => {
                return Err(Error::Duplicate { param: name.to_owned() });
            }
            Some(&place) => place,
            None => {
                self.push(create()?);
                self.uncommitted.push(name.to_owned());
                self.list.len() - 1
            }
        };
        self.swap(i, place);
        self.moved += 1;
        Ok(())
    }

    /// Keeps what was added since the last call of this, or removes it where the step did not go `through`.
    pub(crate) fn commit_or_rollback(&mut self, through: bool) {
        if through {
            self.uncommitted.clear();
        }
        for name in core::mem::take(&mut self.uncommitted) {
            self.remove(&name);
        }
        // Not for each that moved: steps in pieces move one at a time.
        if 8 * self.moved > self.list.len() {
            self.line_up_names();
        }
    }

    /// Brings the names into the order of the slots.
    fn line_up_names(&mut self) {
        self.moved = 0;
        self.names.clear();
        for slot in &mut self.list {
            let start = self.names.len() as u32;
            self.names.push_str(&slot.name);
            slot.key = start..self.names.len() as u32;
        }
    }

    /// Adds a slot at the end.
    pub(crate) fn push(&mut self, mut slot: Slot) {
        let start = self.names.len() as u32;
        self.names.push_str(&slot.name);
        slot.key = start..self.names.len() as u32;
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

    /// Removes the slot of this name, if there is one.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Slot> {
        let place = self.places.remove(name)?;
        self.swap(place, self.list.len() - 1);
        self.first = self.first.min(self.list.len() - 1);
        self.list.pop()
    }

    /// Returns the slot of this name, which the last step had at place `i` in the usual case.
    pub(crate) fn near(&self, i: usize, name: &str) -> Option<&Slot> {
        let usual = self.list.get(self.first + i).filter(|slot| self.is_named(slot, name));
        usual.or_else(|| self.get(name))
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Slot> {
        self.places.get(name).map(|&place| &self.list[place])
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.list.iter_mut()
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Slot> {
        self.places.get(name).map(|&place| &mut self.list[place])
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.list.iter()
    }

    /// Returns the slots at these places, to read.
    pub(crate) fn range_of(&self, range: Range<usize>) -> &[Slot] {
        &self.list[self.first + range.start..self.first + range.end]
    }

    /// Returns the slots at these places.
    pub(crate) fn range(&mut self, range: Range<usize>) -> &mut [Slot] {
        &mut self.list[self.first + range.start..self.first + range.end]
    }
}
