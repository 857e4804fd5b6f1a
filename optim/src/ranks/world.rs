//! What a driver knows of the other ranks.

use super::{Buffer, Communicator, RankError, agree, hash, partition};
use crate::slots::{Slot, Slots};
use crate::{Binding, Checkpoint, Error, GradRef, ParamRef, Result};
use fallline_core::Format;
use fallline_core::host::SliceMut;
use std::fmt::Write;
use std::sync::Arc;

/// The most that is packed for one broadcast: packing and unpacking then stay in cache.
const PACK_BYTES: usize = 1 << 20;

/// The ranks that step together.
#[derive(Debug)]
pub(crate) struct World {
    ranks: Arc<dyn Communicator>,
    /// Whether each parameter is updated by one rank only.
    sharded: bool,
    text: String,
    packed: Buffer,
}

impl World {
    pub(crate) fn new(ranks: Arc<dyn Communicator>, sharded: bool) -> World {
        World { ranks, sharded, text: String::new(), packed: Buffer::default() }
    }

    pub(crate) fn sharded(&self) -> bool {
        self.sharded
    }

    pub(crate) fn ranks(&self) -> &Arc<dyn Communicator> {
        &self.ranks
    }

    /// Sees to it that all ranks are about to take the same step: the same parameters in the same order, as far as each
    /// other, gradients for the same ones, the same settings. Numbers are exchanged, and texts only where those differ.
    /// `settings` writes them, one a line.
    pub(crate) fn agree(
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
            let (shape, format) =
                (fallline_core::Shape::from(binding.param.extents()), binding.param.format());
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
        let own = hash(text.as_bytes()).to_le_bytes();
        let mut all = vec![0; 8 * self.ranks.world()];
        self.ranks.all_gather(&own, &mut all).map_err(core_error)?;
        if all.chunks_exact(8).all(|of| of == own) {
            return Ok(());
        }
        let lines: Vec<String> = self.text.lines().map(str::to_owned).collect();
        Ok(agree(&*self.ranks, "the step", &lines).map_err(core_error)?)
    }

    /// Whether a parameter is updated by another rank.
    pub(crate) fn is_elsewhere(&self, slot: &Slot) -> bool {
        slot.owner.is_some_and(|owner| owner != self.ranks.rank())
    }

    /// Whether this rank's part of a checkpoint has a parameter. Those that have no owner yet are the first rank's.
    pub(crate) fn keeps(&self, slot: &Slot) -> bool {
        !self.sharded || slot.owner.unwrap_or(0) == self.ranks.rank()
    }

    /// What each rank has found, in their order: the places of two numbers.
    pub(crate) fn findings(&self, own: [u64; 2]) -> Result<Vec<[u64; 2]>> {
        let mut all = vec![0; 16 * self.ranks.world()];
        let bytes = own.map(u64::to_le_bytes).concat();
        self.ranks.all_gather(&bytes, &mut all).map_err(core_error)?;
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        Ok(all.chunks_exact(16).map(|pair| [number(&pair[..8]), number(&pair[8..])]).collect())
    }

    /// Gives parameters that are new an owner, group by group. Returns whether there were any.
    pub(crate) fn share_out(&self, slots: &mut [Slot]) -> bool {
        if !self.sharded || slots.iter().all(|slot| slot.owner.is_some()) {
            return false;
        }
        let mut has = vec![0; self.ranks.world()];
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
                if self.is_elsewhere(slot) {
                    // What a checkpoint has brought for its owner.
                    slot.states.clear();
                    slot.master = None;
                    slot.fits = None;
                }
            }
        }
        true
    }

    /// Brings every parameter that was stepped from the rank that did it to the others.
    pub(crate) fn spread(&mut self, bindings: &mut [Binding<'_>], slots: &mut [Slot]) -> Result<()> {
        for (slot, binding) in slots.iter_mut().zip(&*bindings) {
            slot.steps += u64::from(!binding.grad.is_none() && self.is_elsewhere(slot));
        }
        for owner in 0..self.ranks.world() {
            let stepped = |&i: &usize| !bindings[i].grad.is_none() && slots[i].owner == Some(owner);
            let mine: Vec<usize> = (0..bindings.len()).filter(stepped).collect();
            self.spread_of(owner, &mine, bindings)?;
        }
        Ok(())
    }

    /// The parameters of one owner: cut into pieces of one format, some of them together in a broadcast.
    fn spread_of(&mut self, owner: usize, mine: &[usize], bindings: &mut [Binding<'_>]) -> Result<()> {
        let mut pieces: Vec<(usize, usize, usize)> = Vec::new();
        let (mut bytes, mut format) = (0, Format::F32);
        for &i in mine {
            let (of, elements) = (bindings[i].param.format(), bindings[i].param.extents().elements());
            if let ParamRef::Tensor(tensor) = &mut bindings[i].param
                && !tensor.storage().on_host()
            {
                let backend = Arc::clone(tensor.backend());
                self.ranks.broadcast_storage(&*backend, owner, tensor.storage_mut())?;
                continue;
            }
            let mut start = 0;
            while start < elements {
                if of != format || bytes >= PACK_BYTES {
                    self.broadcast(owner, format, &pieces, bindings)?;
                    pieces.clear();
                    (bytes, format) = (0, of);
                }
                let most = (PACK_BYTES - bytes).div_ceil(of.bytes());
                let length = most.min(elements - start);
                pieces.push((i, start, length));
                bytes += length * of.bytes();
                start += length;
            }
        }
        self.broadcast(owner, format, &pieces, bindings)
    }

    fn broadcast(
        &mut self,
        owner: usize,
        format: Format,
        pieces: &[(usize, usize, usize)],
        bindings: &mut [Binding<'_>],
    ) -> Result<()> {
        let elements: usize = pieces.iter().map(|piece| piece.2).sum();
        if elements == 0 {
            return Ok(());
        }
        self.packed.resize(format, elements);
        let (own, size) = (self.ranks.rank() == owner, format.bytes());
        if own {
            let mut packed = self.packed.slice_mut();
            let mut rest = packed.bytes_mut();
            for &(i, start, length) in pieces {
                let (to, after) = rest.split_at_mut(length * size);
                if let Some(param) = host(&mut bindings[i].param) {
                    to.copy_from_slice(&param.as_ref().bytes()[start * size..][..length * size]);
                }
                rest = after;
            }
        }
        self.ranks.broadcast(owner, self.packed.slice_mut().bytes_mut()).map_err(core_error)?;
        if !own {
            let mut rest = self.packed.slice().bytes();
            for &(i, start, length) in pieces {
                let (from, after) = rest.split_at(length * size);
                if let Some(mut param) = host(&mut bindings[i].param) {
                    param.bytes_mut()[start * size..][..length * size].copy_from_slice(from);
                }
                rest = after;
            }
        }
        Ok(())
    }

    /// The whole of a checkpoint of which every rank has a part. Everybody gets it.
    pub(crate) fn consolidate(&self, own: &Checkpoint) -> Result<Checkpoint> {
        Checkpoint::join(self.gather(own)?)
    }

    /// A checkpoint that is the same on all ranks but for what compression has left out, with that of all of them.
    pub(crate) fn with_errors(&self, mut own: Checkpoint) -> Result<Checkpoint> {
        self.gather(&own.only_of_ranks())?.into_iter().for_each(|other| own.add_of_ranks(other));
        Ok(own)
    }

    /// What each rank has.
    fn gather(&self, own: &Checkpoint) -> Result<Vec<Checkpoint>> {
        let mut parts = Vec::new();
        let bytes = own.to_bytes()?;
        let mut lengths = vec![0; 8 * self.ranks.world()];
        self.ranks.all_gather(&(bytes.len() as u64).to_le_bytes(), &mut lengths).map_err(core_error)?;
        for (owner, length) in lengths.chunks_exact(8).enumerate() {
            let length = u64::from_le_bytes(length.try_into().unwrap_or_default()) as usize;
            let mut part = if owner == self.ranks.rank() { bytes.clone() } else { vec![0; length] };
            self.ranks.broadcast(owner, &mut part).map_err(core_error)?;
            let part = Checkpoint::from_bytes(&part);
            parts.push(part.map_err(|problem| Error::Mismatch(format!("rank {owner}'s part: {problem}")))?);
        }
        Ok(parts)
    }
}

fn core_error(error: RankError) -> fallline_core::Error {
    error.into()
}

/// A parameter's memory on the host, in row-major order.
fn host<'s>(param: &'s mut ParamRef<'_>) -> Option<SliceMut<'s>> {
    match param {
        ParamRef::Host(slice, _) => Some(slice.reborrow()),
        ParamRef::Tensor(tensor) => tensor.storage_mut().memory_mut().host_mut(),
        #[cfg(feature = "ndarray")]
        ParamRef::Strided(view) => Some(view.buffer()),
    }
}
