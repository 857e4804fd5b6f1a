//! Operands that are broadcast: their elements are repeated as a rule takes them.

use super::accumulate::Accumulators;
use super::dispatch::Dispatch;
use super::operands::OperandPtr;
use super::state::PassState;
use super::tiling::Chunk;
use crate::codec::{Codec, Coded, Decode};
use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::multiversion;
use crate::kernels::ComputeType;
use core::mem::MaybeUninit;
use fallline_core::backend::{Broadcast, MAX_OPERANDS};
use fallline_core::reduction::{SEGMENT, STEP};

/// Elements that are repeated at once where operands are only broadcast: some of them need no scratch, and the others the
/// same again and again. Steps of a sum, so that sums line up.
const TILE: usize = 4 * STEP;

/// A broadcast operand on its way through a rule.
#[derive(Clone, Copy)]
pub(super) struct BroadcastOperand<T> {
    repeat: Broadcast,
    stored: *mut u8,
    bytes: usize,
    /// None where it is stored in the compute type.
    decode: Option<Decode<T>>,
    /// Which stored element the scratch is full of, and up to where.
    filled: Option<(usize, usize)>,
    fill: Fill<T>,
    /// Where the elements are that were last materialized.
    pub(super) address: *mut T,
}

impl<T: Coded> BroadcastOperand<T> {
    /// Returns that of an operand, if it is broadcast.
    pub(super) fn of(stored: &OperandPtr, isa: Isa) -> Option<Self> {
        let repeat = stored.repeat?;
        let decode = match T::codec(stored.format, isa) {
            None => None,
            Some(Codec::Each { decode, .. }) => Some(decode),
            Some(Codec::Blocks(_)) => unreachable!("blocks are not repeated"),
        };
        let (stored, bytes) = (stored.address, stored.format.bytes());
        let fill = fill_with(isa);
        Some(BroadcastOperand {
            repeat,
            stored,
            bytes,
            decode,
            filled: None,
            fill,
            address: core::ptr::null_mut(),
        })
    }

    /// Returns how many elements there are from `first` on to the end of its row, where rows are long.
    fn left(&self, first: usize) -> Option<usize> {
        let Broadcast { inner: run, repeats: times } = self.repeat;
        let row = if run == 1 { times } else { run };
        (row >= STEP).then(|| row - first % row)
    }

    /// Materializes `elements` elements from `first` on side by side, in `scratch` where they are not so already.
    ///
    /// # Safety
    /// The elements repeat some that are in the operand's memory. `scratch` has room for them, and is the same each
    /// time.
    #[inline(always)]
    pub(super) unsafe fn materialize(&mut self, first: usize, elements: usize, scratch: *mut T) {
        let Broadcast { inner: run, repeats: times } = self.repeat;
        // One element all along.
        let one = (run == 1).then(|| first / times).filter(|&one| one == (first + elements - 1) / times);
        let there = one.is_some_and(|one| self.filled.is_some_and(|(of, end)| of == one && elements <= end));
        if !there {
            // SAFETY: the caller's contract.
            self.address = unsafe { self.materialize_anew(first, elements, scratch) };
            self.filled = one.map(|one| (one, elements));
        }
    }

    /// Does the same whatever the scratch is full of.
    ///
    /// # Safety
    /// As for `materialize`.
    unsafe fn materialize_anew(&self, first: usize, elements: usize, scratch: *mut T) -> *mut T {
        let Broadcast { inner: run, repeats: times } = self.repeat;
        let (mut row, mut at) = (first / (run * times), first % run);
        // SAFETY: the caller's contract: every index below is that of a stored element.
        let stored = |index: usize| unsafe { self.stored.add(index * self.bytes) };
        if self.decode.is_none() && at + elements <= run {
            return stored(row * run + at).cast();
        }
        // How often the run is repeated from this one on, including this one.
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
                    (self.fill)(to, part);
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

/// A tile of every operand.
#[repr(C, align(64))]
struct Scratch<T>([MaybeUninit<[T; TILE]>; MAX_OPERANDS]);

/// Runs a chunk whose operands are all stored in the compute type, some of them broadcast.
pub(super) fn run<T: ComputeType + Coded>(
    pass: &PassState<'_, T>,
    rule: &Dispatch<T>,
    chunk: &Chunk,
    stored: &[OperandPtr],
    row: &[T],
) {
    let first_segment = pass.first_segment(chunk);
    let mut scratch = Scratch::<T>([const { MaybeUninit::uninit() }; MAX_OPERANDS]);
    let mut ways = [None; MAX_OPERANDS];
    let mut addresses = [core::ptr::null_mut::<T>(); MAX_OPERANDS];
    for (way, stored) in ways.iter_mut().zip(stored) {
        *way = BroadcastOperand::<T>::of(stored, pass.isa);
    }
    let mut accumulators = Accumulators::<T>::new(rule.kernel.sums.len());
    let sums = accumulators.count > 0;
    let mut start = 0;
    while start < chunk.elements {
        let first = chunk.start + start;
        let mut elements = TILE.min(chunk.elements - start);
        if sums {
            elements = elements.min(SEGMENT - start % SEGMENT);
        }
        // To the end of a row, where steps of a sum end there too: within a row nothing is materialized twice.
        for left in ways.iter().flatten().filter_map(|way| way.left(first)) {
            if !sums || left.is_multiple_of(STEP) {
                elements = elements.min(left);
            }
        }
        for (k, (way, stored)) in ways.iter_mut().zip(stored).enumerate() {
            // SAFETY: the tile lies within the chunk, and that within the tensor, whose memory was checked; it fits
            // into the operand's scratch.
            addresses[k] = unsafe {
                match way {
                    Some(repeated) => {
                        repeated.materialize(first, elements, scratch.0[k].as_mut_ptr().cast());
                        repeated.address
                    }
                    None => stored.at(first).0.cast(),
                }
            };
        }
        // SAFETY: as in `run_rule`; a tile begins with a step of a sum, and is at most a segment's rest.
        unsafe { rule.element_kernel.run(row.as_ptr(), addresses.as_ptr(), elements, accumulators.start()) };
        start += elements;
        if sums && (start.is_multiple_of(SEGMENT) || start == chunk.elements) {
            accumulators.finish(pass, first_segment + (start - 1) / SEGMENT);
        }
    }
}

/// Writes the number at `to` to the `count - 1` places behind it too.
type Fill<T> = unsafe fn(to: *mut T, count: usize);

#[inline(always)]
unsafe fn fill<T: Copy>(to: *mut T, count: usize) {
    // SAFETY: the caller has `count` places, the first of them with a number.
    unsafe {
        let value = *to;
        (1..count).for_each(|i| to.add(i).write(value));
    }
}

fn fill_with<T: Copy>(isa: Isa) -> Fill<T> {
    #[cfg(target_arch = "x86_64")]
    {
        multiversion! { fill::<T>[T: Copy](to: *mut T, count: usize) }
        match isa {
            Isa::Avx512 => return avx512::<T>,
            Isa::Avx2 => return avx2::<T>,
            _ => {}
        }
    }
    let _ = isa;
    fill::<T>
}
