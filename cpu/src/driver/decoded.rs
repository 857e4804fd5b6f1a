//! A rule whose operands are not all stored as they are computed: decode, rule, largest magnitude, encode, through
//! scratch that stays in the first-level cache.
//!
//! What encodes a block is known when the rule has gone through all of it, and codes are long chains of arithmetic,
//! while a rule mostly waits for roots and quotients. So one step goes through the rule while the blocks of the step
//! before are encoded, in turns of 64 elements: the CPU has all of them to choose from. Nothing of it is compiled for
//! a rule or its formats: a turn calls the entry of the one and the conversions of the others. Operands are asked for
//! ahead, because beside all this the CPU does not see in time what comes next.

use super::{Accumulators, Stored, Work};
use crate::codec::{Blocks, Codec, Coded, Decode, Encode, Encoding, Most, Round};
use crate::entries::Compiled;
use crate::plan::Chunk;
use core::mem::MaybeUninit;
use fallline_core::Format;
use fallline_core::backend::MAX_OPERANDS;
use fallline_core::sums::{SEGMENT, STEP};

/// Elements of a turn.
const TURN: usize = 64;
/// The most blocks that a step has.
const BLOCKS: usize = 2;
/// Elements that are asked for ahead.
const AHEAD: usize = 512;

/// An operand's numbers: of this step, and of the one before.
#[repr(C, align(64))]
struct Scratch<T>([MaybeUninit<[T; STEP]>; 2]);

/// How a rule gets at an operand.
#[derive(Clone, Copy)]
enum Way<T> {
    /// Where it is stored.
    There,
    /// Element by element.
    Each { decode: Decode<T>, encode: Encode<T> },
    /// Element by element, and back by chance.
    Chance { decode: Decode<T>, round: Round<T>, key: u64 },
    /// In blocks.
    Blocks(Blocks),
}

/// An operand on its way through a rule. Everything that a turn needs of it is worked out before.
struct Port<T> {
    way: Way<T>,
    written: bool,
    /// The turn's elements.
    address: *mut u8,
    /// The step's scales.
    scales: *mut f32,
    /// Bytes of a turn, of a step, and of what is asked for ahead.
    turn: usize,
    step: usize,
    ahead: usize,
    copy: Option<(*mut u8, Format)>,
    /// The largest numbers of this step's blocks.
    most: [Most; BLOCKS],
    /// What encodes the blocks of the step before.
    encodings: [Encoding; BLOCKS],
}

impl<T: Coded> Port<T> {
    /// # Safety
    /// The tensor has an element `start`, the first of a block.
    unsafe fn new(stored: &Stored, written: bool, work: &Work<'_, T>, start: usize, turn: usize) -> Self {
        let way = match (T::codec(stored.format, work.isa), stored.noise) {
            (None, _) => Way::There,
            (Some(Codec::Each { decode, .. }), Some(key)) => {
                Way::Chance { decode, round: T::round(work.isa), key }
            }
            (Some(Codec::Each { decode, encode }), None) => Way::Each { decode, encode },
            (Some(Codec::Blocks(blocks)), _) => Way::Blocks(blocks),
        };
        // SAFETY: the caller's contract.
        let (address, scales) = unsafe { stored.at(start) };
        let format = stored.format;
        Port {
            way,
            written,
            address,
            scales,
            turn: format.size(turn),
            step: format.size(STEP),
            ahead: format.size(AHEAD),
            copy: stored.copy,
            most: [Most::NONE; BLOCKS],
            encodings: [Encoding::NONE; BLOCKS],
        }
    }

    /// Where the rule finds `count` elements, from element `within` of the step on: in `numbers`, if they are not there.
    ///
    /// # Safety
    /// They are elements of the tensor, and `numbers` has room for them.
    #[inline(always)]
    unsafe fn decode(&self, within: usize, numbers: *mut T, count: usize) -> *mut T {
        expect(self.address.wrapping_add(self.ahead), self.turn);
        // SAFETY: the caller's contract.
        unsafe {
            match self.way {
                Way::There => return self.address.cast(),
                Way::Each { decode, .. } | Way::Chance { decode, .. } => decode(self.address, numbers, count),
                Way::Blocks(blocks) => {
                    let scales = self.scales.add(blocks.of_step(within));
                    T::from_singles(numbers, count, |to| (blocks.decode)(self.address, scales, to, count));
                }
            }
        }
        numbers
    }

    /// Stores `count` numbers that the rule has written, if they are not in blocks, or looks for the largest.
    ///
    /// # Safety
    /// As for `decode`; `first` is the turn's first element.
    #[inline(always)]
    unsafe fn store(
        &mut self,
        work: &Work<'_, T>,
        first: usize,
        within: usize,
        numbers: *mut T,
        count: usize,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            match self.way {
                Way::There => {}
                Way::Each { encode, .. } => encode(numbers, self.address, count),
                Way::Chance { round, key, .. } => {
                    round(numbers, self.address.cast(), count, key, first as u64)
                }
                Way::Blocks(blocks) => {
                    let most = self.most[blocks.of_step(within)..].as_mut_ptr();
                    T::with_singles(numbers, count, |from| (blocks.larger)(from, count, most));
                }
            }
            if let Some((address, format)) = self.copy {
                let address = address.add(format.size(first));
                match T::codec(format, work.isa) {
                    Some(Codec::Each { encode, .. }) => encode(numbers, address, count),
                    Some(Codec::Blocks(_)) => unreachable!("a copy in blocks"),
                    None => numbers.copy_to_nonoverlapping(address.cast(), count),
                }
            }
        }
    }

    /// Encodes `count` elements of the step before, whose blocks are finished.
    ///
    /// # Safety
    /// As for `decode`.
    #[inline(always)]
    unsafe fn encode(&self, within: usize, numbers: *mut T, count: usize) {
        if let (Way::Blocks(blocks), true) = (self.way, self.written) {
            let codes = self.address.wrapping_sub(self.step);
            // SAFETY: the caller's contract.
            unsafe {
                let encodings = self.encodings[blocks.of_step(within)..].as_ptr();
                T::with_singles(numbers, count, |from| (blocks.encode)(from, encodings, codes, count));
            }
        }
    }

    /// Goes on to the next step, and writes the scales of the one that has been through the rule.
    ///
    /// # Safety
    /// It has `elements`, whose numbers are these.
    unsafe fn finish(&mut self, numbers: *const T, elements: usize) {
        let Way::Blocks(blocks) = self.way else { return };
        for (block, start) in (0..elements).step_by(blocks.length()).enumerate() {
            // SAFETY: the caller's contract.
            unsafe {
                if self.written {
                    let count = blocks.length().min(elements - start);
                    let (most, encoding) = (&self.most[block], &mut self.encodings[block]);
                    *self.scales = Blocks::finish(most, numbers.add(start), count, encoding);
                    self.most[block] = Most::NONE;
                }
                self.scales = self.scales.add(1);
            }
        }
    }
}

/// Runs a chunk.
pub(super) fn run<T: Compiled + Coded>(
    work: &Work<'_, T>,
    chunk: &Chunk,
    stored: &[Stored],
    row: &[T],
    first_segment: usize,
) {
    let kernel = work.kernel;
    let mut accumulators = Accumulators::<T>::new(kernel.sums.len());
    // A sum takes whole steps.
    let turn = if kernel.sums.is_empty() { TURN } else { STEP };
    let mut scratch = [const { Scratch::<T>([MaybeUninit::uninit(); 2]) }; MAX_OPERANDS];
    let mut ports: [MaybeUninit<Port<T>>; MAX_OPERANDS] = [const { MaybeUninit::uninit() }; MAX_OPERANDS];
    let ports = &mut ports[..stored.len()];
    for ((port, stored), operand) in ports.iter_mut().zip(stored).zip(kernel.operands) {
        // SAFETY: the chunk lies within the tensor, whose memory was checked; chunks begin with a block.
        port.write(unsafe { Port::new(stored, operand.written, work, chunk.start, turn) });
    }
    // SAFETY: all of these were written.
    let ports = unsafe { ports.assume_init_mut() };
    let mut addresses = [core::ptr::null_mut::<T>(); MAX_OPERANDS];
    let mut before = 0;
    // One step more than there are, in which the last one is encoded.
    for start in (0..chunk.elements + STEP).step_by(STEP) {
        let elements = STEP.min(chunk.elements.saturating_sub(start));
        let side = start / STEP % 2;
        let numbers = |scratch: &mut [Scratch<T>; MAX_OPERANDS], k: usize, side: usize| -> *mut T {
            scratch[k].0[side].as_mut_ptr().cast()
        };
        for within in (0..elements.max(before)).step_by(turn) {
            // SAFETY: the turn lies within the step, that within the chunk, and that within the tensor, whose memory is
            // borrowed for the pass, mutably where it is written. A step is encoded after it went through the rule, and
            // each of its blocks after its numbers were seen.
            unsafe {
                if within < elements {
                    let count = turn.min(elements - within);
                    for (k, port) in ports.iter().enumerate() {
                        addresses[k] = port.decode(within, numbers(&mut scratch, k, side).add(within), count);
                    }
                    (work.entry)(row.as_ptr(), addresses.as_ptr(), count, accumulators.start());
                    for (port, &address) in ports.iter_mut().zip(&addresses).filter(|(port, _)| port.written)
                    {
                        port.store(work, chunk.start + start + within, within, address, count);
                    }
                }
                for (k, port) in ports.iter_mut().enumerate() {
                    if within < before {
                        let numbers = numbers(&mut scratch, k, 1 - side).add(within);
                        port.encode(within, numbers, turn.min(before - within));
                    }
                    port.address = port.address.wrapping_add(port.turn);
                }
            }
        }
        for (k, port) in ports.iter_mut().enumerate() {
            // SAFETY: as above.
            unsafe { port.finish(numbers(&mut scratch, k, side), elements) };
        }
        let end = start + elements;
        if accumulators.count > 0 && elements > 0 && (end.is_multiple_of(SEGMENT) || end == chunk.elements) {
            accumulators.finish(work, first_segment + start / SEGMENT);
        }
        before = elements;
    }
}

/// Asks for bytes that come soon.
#[inline(always)]
fn expect(address: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..bytes).step_by(64) {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint; the address is not accessed, and need not be that of anything.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.wrapping_add(line).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (address, bytes);
}
