//! What a driver exchanges with the other ranks.

use super::{Communicator, RankError, check_equal, fingerprint, partition};
use crate::params::slots::{Slot, Slots};
use crate::{Binding, GradRef, ParamRef, Result};
use core::ops::Range;
use fallline_core::host::SliceMut;
use std::fmt::Write;
use std::sync::Arc;

/// The most that each rank shares at a time: it then is in cache on its way.
const SHARED_BYTES: usize = 1 << 20;

/// The ranks that step together.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(super) ranks: Arc<dyn Communicator>,
    /// Whether each parameter is updated by one rank only.
    sharded: bool,
    text: String,
}

impl Exchange {
    pub(crate) fn new(ranks: Arc<dyn Communicator>, sharded: bool) -> Exchange {
        Exchange { ranks, sharded, text: String::new() }
    }

    pub(crate) fn sharded(&self) -> bool {
        self.sharded
    }

    /// Checks that all ranks are about to take the same step. They need the same parameters in the same order, with
    /// as many steps, gradients for the same ones, and the same settings. Numbers are exchanged, and texts only where
    /// those differ. `settings` writes them, one a line.
    pub(crate) fn check_consistent(
        &mut self,
        bindings: &[Binding<'_>],
        slots: &Slots,
        settings: impl FnOnce(&mut String) -> std::fmt::Result,
    ) -> Result<()> {
        let text = &mut self.text;
        text.clear();
        // Writing to a string does not fail.
        let _ = settings(text);
        let mut known = slots.iter();
        for binding in bindings {
            let (shape, format) = (fallline_core::Shape::from(binding.param.dims()), binding.param.format());
            let _ = write!(text, "{:?} of shape {shape} in {format}", binding.name);
            // Mostly the slots are in the order of the bindings.
            let next = known.next().filter(|slot| slot.name == binding.name);
            if let Some(slot) = next.or_else(|| slots.get(binding.name)).filter(|slot| slot.steps > 0) {
                let _ = write!(text, " after {} steps", slot.steps);
            }
            text.push_str(match &binding.grad {
                GradRef::None => " without a gradient\n",
                GradRef::Rows(_) => " with a row-sparse gradient\n",
                _ => "\n",
            });
        }
        let own = fingerprint(text.as_bytes()).to_le_bytes();
        let mut all = vec![0; 8 * self.ranks.world_size()];
        self.ranks.all_gather(&own, &mut all).map_err(core_error)?;
        if all.chunks_exact(8).all(|of| of == own) {
            return Ok(());
        }
        let lines: Vec<String> = self.text.lines().map(str::to_owned).collect();
        Ok(check_equal(&*self.ranks, "the step", &lines).map_err(core_error)?)
    }

    /// Returns what each rank has found, in their order: the places of two numbers.
    pub(crate) fn findings(&self, own: [u64; 2]) -> Result<Vec<[u64; 2]>> {
        let mut all = vec![0; 16 * self.ranks.world_size()];
        let bytes = own.map(u64::to_le_bytes).concat();
        self.ranks.all_gather(&bytes, &mut all).map_err(core_error)?;
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        Ok(all.chunks_exact(16).map(|pair| [number(&pair[..8]), number(&pair[8..])]).collect())
    }

    /// Assigns an owner to parameters that are new, group by group. Returns whether there were any.
    pub(crate) fn assign_owners(&self, slots: &mut [Slot]) -> bool {
        if !self.sharded || slots.iter().all(|slot| slot.owner.is_some()) {
            return false;
        }
        let mut has = vec![0; self.ranks.world_size()];
        for slot in slots.iter() {
            if let Some(owner) = slot.owner {
                has[owner] += slot.shape.elements() as u64;
            }
        }
        let groups = slots.iter().map(|slot| slot.group).max().map_or(0, |last| last + 1);
        for group in 0..groups {
            let new = slots.iter_mut().filter(|slot| slot.group == group && slot.owner.is_none());
            let new: Vec<&mut Slot> = new.collect();
            let sizes: Vec<usize> = new.iter().map(|slot| slot.shape.elements()).collect();
            let owners = partition(&sizes, &mut has);
            for (slot, owner) in new.into_iter().zip(owners) {
                slot.owner = Some(owner);
                if owner != self.ranks.rank() {
                    // What a checkpoint has for its owner.
                    slot.states.clear();
                    slot.master = None;
                    slot.layout_for = None;
                }
            }
        }
        true
    }

    /// Broadcasts parameters from the ranks that own them to the others.
    pub(crate) fn send<'p, 'd: 'p>(
        &mut self,
        params: impl Iterator<Item = (usize, &'p mut ParamRef<'d>)>,
    ) -> Result<()> {
        let (rank, world) = (self.ranks.rank(), self.ranks.world_size());
        let mut owners: Vec<Owner<'_>> = (0..world).map(|_| Owner::default()).collect();
        for (owner, param) in params {
            match param {
                ParamRef::Tensor(tensor) if !tensor.storage().on_host() => {
                    let backend = Arc::clone(tensor.backend());
                    self.ranks.broadcast_storage(&*backend, owner, tensor.storage_mut())?;
                }
                param => owners[owner].params.extend(host(param)),
            }
        }
        let mut lengths = vec![0; world];
        loop {
            for (owner, length) in owners.iter_mut().zip(&mut lengths) {
                *length = owner.cut();
            }
            if lengths.iter().all(|length| *length == 0) {
                return Ok(());
            }
            let mut others: Vec<Option<&mut Owner<'_>>> = owners.iter_mut().map(Some).collect();
            let own = others[rank].take();
            let own: Vec<&[u8]> = own.iter().flat_map(|own| own.pieces()).collect();
            let mut take = |from: usize, bytes: &[u8]| {
                if let Some(owner) = &mut others[from] {
                    owner.put(bytes);
                }
            };
            self.ranks.all_gather_v(&own, &lengths, &mut take).map_err(core_error)?;
        }
    }
}

pub(super) fn core_error(error: RankError) -> fallline_core::Error {
    error.into()
}

/// A parameter's memory on the host, in row-major order.
fn host<'s>(param: &'s mut ParamRef<'_>) -> Option<SliceMut<'s>> {
    match param {
        ParamRef::Host(slice, _) => Some(slice.reborrow()),
        ParamRef::Tensor(tensor) => tensor.storage_mut().memory_mut().host_mut(),
        ParamRef::Lent(_) => None,
        #[cfg(feature = "ndarray")]
        ParamRef::Strided(view) => Some(view.buffer()),
    }
}

/// The parameters of one rank that the others get, as bytes, and which of them are next.
#[derive(Default)]
struct Owner<'a> {
    params: Vec<SliceMut<'a>>,
    /// Where the first that is not whole yet continues.
    at: (usize, usize),
    /// Of each parameter from the first on what is next.
    next: (usize, Vec<Range<usize>>),
}

impl Owner<'_> {
    /// Advances to the next bytes, and returns how many they are.
    fn cut(&mut self) -> usize {
        let (mut place, mut start) = self.at;
        let (first, ranges) = &mut self.next;
        *first = place;
        ranges.clear();
        let mut left = SHARED_BYTES;
        while let Some(param) = self.params.get(place).filter(|_| left > 0) {
            let length = param.as_ref().bytes().len();
            let end = length.min(start + left);
            ranges.push(start..end);
            left -= end - start;
            (place, start) = if end == length { (place + 1, 0) } else { (place, end) };
        }
        self.at = (place, start);
        SHARED_BYTES - left
    }

    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let (first, ranges) = &self.next;
        self.params[*first..].iter().zip(ranges).map(|(param, range)| &param.as_ref().bytes()[range.clone()])
    }

    fn put(&mut self, mut bytes: &[u8]) {
        let (first, ranges) = &self.next;
        for (param, range) in self.params[*first..].iter_mut().zip(ranges) {
            let own;
            (own, bytes) = bytes.split_at(range.len());
            param.bytes_mut()[range.clone()].copy_from_slice(own);
        }
    }
}
