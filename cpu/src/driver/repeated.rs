//! Operands whose elements are repeated, laid out as a rule takes them.

use super::{Accumulators, Chosen, Stored, Work};
use crate::codec::{Codec, Coded, Decode};
use crate::entries::Compiled;
use crate::isa::Isa;
use crate::plan::Chunk;
use core::mem::MaybeUninit;
use fallline_core::backend::{MAX_OPERANDS, Repeat};
use fallline_core::sums::{SEGMENT, STEP};

/// Elements that are laid out at once where operands are only repeated: some of them need no scratch, and the others the
/// same again and again. Steps of a sum, so that sums line up.
const STRETCH: usize = 4 * STEP;

/// A repeated operand on its way through a rule.
#[derive(Clone, Copy)]
pub(super) struct Repeated<T> {
    repeat: Repeat,
    stored: *mut u8,
    bytes: usize,
    /// None where it is stored as it is computed.
    decode: Option<Decode<T>>,
    /// The one stored element that the scratch is full of.
    one: Option<usize>,
    /// Where the elements are that were last laid out.
    pub(super) address: *mut T,
}

impl<T: Coded> Repeated<T> {
    /// That of an operand, if it is repeated.
    pub(super) fn of(stored: &Stored, isa: Isa) -> Option<Self> {
        let repeat = stored.repeat?;
        let decode = match T::codec(stored.format, isa) {
            None => None,
            Some(Codec::Each { decode, .. }) => Some(decode),
            Some(Codec::Blocks(_)) => unreachable!("blocks are not repeated"),
        };
        let (stored, bytes) = (stored.address, stored.format.bytes());
        Some(Repeated { repeat, stored, bytes, decode, one: None, address: core::ptr::null_mut() })
    }

    /// Lays out `elements` elements from `first` on, in `scratch` where they do not lie side by side already.
    ///
    /// # Safety
    /// The elements stand for such that are in the operand's memory; `scratch` has room for `room` of them, no fewer than
    /// these, and is the same each time.
    #[inline(always)]
    pub(super) unsafe fn lay(&mut self, first: usize, elements: usize, room: usize, scratch: *mut T) {
        let Repeat { run, times } = self.repeat;
        // One element all along.
        let one = (run == 1 && elements == room)
            .then(|| first / times)
            .filter(|&one| one == (first + elements - 1) / times);
        if one.is_none() || self.one != one {
            // SAFETY: the caller's contract.
            self.address = unsafe { self.lay_anew(first, elements, scratch) };
            self.one = one;
        }
    }

    /// The same whatever the scratch is full of.
    ///
    /// # Safety
    /// As for `lay`.
    unsafe fn lay_anew(&self, first: usize, elements: usize, scratch: *mut T) -> *mut T {
        let Repeat { run, times } = self.repeat;
        let (mut row, mut at) = (first / (run * times), first % run);
        // SAFETY: the caller's contract: every index below is that of a stored element.
        let stored = |index: usize| unsafe { self.stored.add(index * self.bytes) };
        if self.decode.is_none() && at + elements <= run {
            return stored(row * run + at).cast();
        }
        // How often the run stands there from this one on, this one among them.
        let mut left = times - first % (run * times) / run;
        let mut done = 0;
        while done < elements {
            // SAFETY: the caller's contract.
            unsafe {
                let part = match run {
                    // One element over and over.
                    1 => left.min(elements - done),
                    _ => (run - at).min(elements - done),
                };
                let moved = if run == 1 { 1 } else { part };
                let (from, to) = (stored(row * run + at), scratch.add(done));
                match self.decode {
                    None => from.cast::<T>().copy_to_nonoverlapping(to, moved),
                    Some(decode) => decode(from, to, moved),
                }
                if run == 1 {
                    let value = *to;
                    (1..part).for_each(|i| to.add(i).write(value));
                    left -= part - 1;
                }
                done += part;
            }
            (at, left) = (0, left - 1);
            if left == 0 {
                (row, left) = (row + 1, times);
            }
        }
        scratch
    }
}

/// A stretch of every operand.
#[repr(C, align(64))]
struct Scratch<T>([MaybeUninit<[T; STRETCH]>; MAX_OPERANDS]);

/// Runs a chunk whose operands are all stored as they are computed, some of them repeated.
pub(super) fn run<T: Compiled + Coded>(
    work: &Work<'_, T>,
    rule: &Chosen<T>,
    chunk: &Chunk,
    stored: &[Stored],
    row: &[T],
) {
    let first_segment = work.plan.chunks.segments[chunk.tensor] + chunk.start / SEGMENT;
    let mut scratch = Scratch::<T>([const { MaybeUninit::uninit() }; MAX_OPERANDS]);
    let mut ways = [None; MAX_OPERANDS];
    let mut addresses = [core::ptr::null_mut::<T>(); MAX_OPERANDS];
    for (way, stored) in ways.iter_mut().zip(stored) {
        *way = Repeated::<T>::of(stored, work.isa);
    }
    let mut accumulators = Accumulators::<T>::new(rule.kernel.sums.len());
    for start in (0..chunk.elements).step_by(STRETCH) {
        let elements = STRETCH.min(chunk.elements - start);
        let first = chunk.start + start;
        for (k, (way, stored)) in ways.iter_mut().zip(stored).enumerate() {
            // SAFETY: the stretch lies within the chunk, and that within the tensor, whose memory was checked; it fits
            // into the operand's scratch.
            addresses[k] = unsafe {
                match way {
                    Some(repeated) => {
                        repeated.lay(first, elements, STRETCH, scratch.0[k].as_mut_ptr().cast());
                        repeated.address
                    }
                    None => stored.at(first).0.cast(),
                }
            };
        }
        // SAFETY: as in `run_rule`; a stretch is steps of a sum.
        unsafe { (rule.entry)(row.as_ptr(), addresses.as_ptr(), elements, accumulators.start()) };
        let end = start + elements;
        if accumulators.count > 0 && (end.is_multiple_of(SEGMENT) || end == chunk.elements) {
            accumulators.finish(work, first_segment + start / SEGMENT);
        }
    }
}
