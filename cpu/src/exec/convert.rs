//! A rule whose operands are not all stored as they are computed: decode, rule, encode, step by step, through scratch
//! that stays in the first-level cache.
//!
//! Nothing of it is compiled for a rule or its formats: a step calls the entry of the one and the conversions of the
//! others. Operands are asked for ahead, because beside all this the CPU does not see in time what comes next.

use super::broadcast::Repeated;
use super::{Accumulators, Chosen, Stored, Work};
use crate::codec::{Codec, Coded, Decode, Encode, Round};
use crate::exec::tiling::Chunk;
use crate::kernels::direct::Compiled;
use crate::quant::BlockCodec;
use core::mem::MaybeUninit;
use fallline_core::Format;
use fallline_core::backend::MAX_OPERANDS;
use fallline_core::sums::{SEGMENT, STEP};

/// Elements that are asked for ahead.
const AHEAD: usize = 2 * STEP;

/// A step of every operand.
#[repr(C, align(64))]
struct Scratch<T>([MaybeUninit<[T; STEP]>; MAX_OPERANDS]);

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
    Blocks(BlockCodec),
    /// Each of them several times, and never written.
    Repeated(Repeated<T>),
}

/// An operand on its way through a rule. Everything that a step needs of it is worked out before.
struct Port<T> {
    way: Way<T>,
    /// The step's elements and scales.
    address: *mut u8,
    scales: *mut f32,
    /// How far the next step's are, and what is asked for ahead.
    bytes: usize,
    blocks: usize,
    ahead: usize,
    copy: Option<(*mut u8, Format)>,
}

impl<T: Coded> Port<T> {
    /// # Safety
    /// The tensor has an element `start`, the first of a block.
    unsafe fn new(stored: &Stored, work: &Work<'_, T>, start: usize) -> Self {
        let format = stored.format;
        let way = match (T::codec(format, work.isa), stored.noise) {
            (None, _) => Way::There,
            (Some(Codec::Each { decode, .. }), Some(key)) => {
                Way::Chance { decode, round: T::round(work.isa), key }
            }
            (Some(Codec::Each { decode, encode }), None) => Way::Each { decode, encode },
            (Some(Codec::Blocks(blocks)), _) => Way::Blocks(blocks),
        };
        let mut port = Port {
            way,
            address: stored.address,
            scales: stored.scales,
            bytes: format.size(STEP),
            blocks: format.scales(STEP),
            ahead: format.size(AHEAD),
            copy: stored.copy,
        };
        if let Some(repeated) = Repeated::of(stored, work.isa) {
            // It stays where it is.
            (port.way, port.bytes) = (Way::Repeated(repeated), 0);
        } else {
            // SAFETY: the caller's contract.
            (port.address, port.scales) = unsafe { stored.at(start) };
        }
        port
    }

    /// Where the rule finds the `count` elements of a step, the first of which is `first`: in `scratch`, if they are not
    /// there.
    ///
    /// # Safety
    /// They are elements of the tensor; `scratch` has room for a step, and is the same each time.
    #[inline(always)]
    unsafe fn decode(&mut self, first: usize, count: usize, scratch: *mut T) -> *mut T {
        expect(self.address.wrapping_add(self.ahead), self.bytes);
        // SAFETY: the caller's contract.
        unsafe {
            match &mut self.way {
                Way::There => return self.address.cast(),
                Way::Each { decode, .. } | Way::Chance { decode, .. } => decode(self.address, scratch, count),
                Way::Blocks(blocks) => {
                    T::from_singles(scratch, count, |to| {
                        (blocks.decode)(self.address, self.scales, to, count)
                    });
                }
                Way::Repeated(repeated) => {
                    repeated.lay(first, count, scratch);
                    return repeated.address;
                }
            }
        }
        scratch
    }

    /// Stores the numbers of a step, which the rule has written.
    ///
    /// # Safety
    /// As for `decode`; the operand is borrowed mutably.
    #[inline(always)]
    unsafe fn encode(&self, work: &Work<'_, T>, first: usize, numbers: *mut T, count: usize) {
        // SAFETY: the caller's contract; a copy has as many elements as its operand.
        unsafe {
            match &self.way {
                Way::There | Way::Repeated(_) => {}
                Way::Each { encode, .. } => encode(numbers, self.address, count),
                Way::Chance { round, key, .. } => {
                    round(numbers, self.address.cast(), count, *key, first as u64)
                }
                Way::Blocks(blocks) => {
                    T::with_singles(numbers, count, |from| {
                        (blocks.encode)(from, self.scales, self.address, count);
                    });
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

    /// Goes on to the next step.
    #[inline(always)]
    fn advance(&mut self) {
        self.address = self.address.wrapping_add(self.bytes);
        self.scales = self.scales.wrapping_add(self.blocks);
    }
}

/// Runs a chunk.
pub(super) fn run<T: Compiled + Coded>(
    work: &Work<'_, T>,
    rule: &Chosen<T>,
    chunk: &Chunk,
    stored: &[Stored],
    row: &[T],
) {
    let kernel = rule.kernel;
    let first_segment = work.plan.chunks.segments[chunk.tensor] + chunk.start / SEGMENT;
    let mut accumulators = Accumulators::<T>::new(kernel.sums.len());
    let mut scratch = Scratch::<T>([const { MaybeUninit::uninit() }; MAX_OPERANDS]);
    let mut ports: [MaybeUninit<Port<T>>; MAX_OPERANDS] = [const { MaybeUninit::uninit() }; MAX_OPERANDS];
    let ports = &mut ports[..stored.len()];
    for (port, stored) in ports.iter_mut().zip(stored) {
        // SAFETY: the chunk lies within the tensor, whose memory was checked; chunks begin with a block.
        port.write(unsafe { Port::new(stored, work, chunk.start) });
    }
    // SAFETY: all of these were written.
    let ports = unsafe { ports.assume_init_mut() };
    let mut addresses = [core::ptr::null_mut::<T>(); MAX_OPERANDS];
    for start in (0..chunk.elements).step_by(STEP) {
        let elements = STEP.min(chunk.elements - start);
        let first = chunk.start + start;
        // SAFETY: the step lies within the chunk, and that within the tensor, whose memory is borrowed for the pass,
        // mutably where it is written; the machine has the instruction set.
        unsafe {
            for ((port, address), scratch) in ports.iter_mut().zip(&mut addresses).zip(&mut scratch.0) {
                *address = port.decode(first, elements, scratch.as_mut_ptr().cast());
            }
            rule.entry.run(row.as_ptr(), addresses.as_ptr(), elements, accumulators.start());
            for ((port, operand), &address) in ports.iter_mut().zip(kernel.operands).zip(&addresses) {
                if operand.written {
                    port.encode(work, first, address, elements);
                }
                port.advance();
            }
        }
        let end = start + elements;
        if accumulators.count > 0 && (end.is_multiple_of(SEGMENT) || end == chunk.elements) {
            accumulators.finish(work, first_segment + start / SEGMENT);
        }
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
