//! A rule whose operands are not all stored in the compute type: decode, rule, encode, step by step, through scratch
//! that stays in L1.
//!
//! Nothing of it is compiled for a rule or its formats: a step calls the kernel of the one and the conversions of the
//! others. Operands are prefetched, because with all this the CPU does not see in time what comes next.

use super::accumulate::Accumulators;
use super::broadcast::BroadcastOperand;
use super::dispatch::Dispatch;
use super::operands::OperandPtr;
use super::state::PassState;
use super::tiling::Chunk;
use crate::codec::{Codec, Coded, Decode, Encode, Round};
use crate::kernels::ComputeType;
use crate::prefetch::prefetch;
use crate::quant::BlockCodec;
use core::mem::MaybeUninit;
use fallline_core::Format;
use fallline_core::backend::MAX_OPERANDS;
use fallline_core::codec::stochastic::Counted;
use fallline_core::reduction::{SEGMENT, STEP};

/// Elements that are prefetched.
const PREFETCH_ELEMENTS: usize = 2 * STEP;

/// A step of every operand.
#[repr(C, align(64))]
struct Scratch<T>([MaybeUninit<[T; STEP]>; MAX_OPERANDS]);

/// How a rule gets at an operand.
#[derive(Clone, Copy)]
enum Access<T> {
    /// Where it is stored.
    Direct,
    /// Element by element.
    Cast { decode: Decode<T>, encode: Encode<T> },
    /// Element by element, and back with stochastic rounding.
    StochasticCast { decode: Decode<T>, round: Round<T>, bits: Counted },
    /// In blocks.
    Dequantize(BlockCodec),
    /// Each element several times, and never written.
    Broadcast(BroadcastOperand<T>),
}

/// An operand on its way through a rule. Everything that a step needs of it is computed before.
struct ConvertedOperand<T> {
    access: Access<T>,
    /// The step's elements and scales.
    address: *mut u8,
    scales: *mut f32,
    /// How far the next step's are, and what is prefetched.
    bytes: usize,
    blocks: usize,
    ahead: usize,
    copy: Option<(*mut u8, Format)>,
}

impl<T: Coded> ConvertedOperand<T> {
    /// # Safety
    /// The tensor has an element `start`, the first of a block.
    unsafe fn new(stored: &OperandPtr, pass: &PassState<'_, T>, start: usize) -> Self {
        let format = stored.format;
        let access = match (T::codec(format, pass.isa), stored.rounding) {
            (None, _) => Access::Direct,
            (Some(Codec::Each { decode, .. }), Some(bits)) => {
                Access::StochasticCast { decode, round: T::round(pass.isa), bits }
            }
            (Some(Codec::Each { decode, encode }), None) => Access::Cast { decode, encode },
            (Some(Codec::Blocks(blocks)), _) => Access::Dequantize(blocks),
        };
        let mut operand = ConvertedOperand {
            access,
            address: stored.address,
            scales: stored.scales,
            bytes: format.size(STEP),
            blocks: format.scales(STEP),
            ahead: format.size(PREFETCH_ELEMENTS),
            copy: stored.copy,
        };
        if let Some(repeated) = BroadcastOperand::of(stored, pass.isa) {
            // It stays where it is.
            (operand.access, operand.bytes) = (Access::Broadcast(repeated), 0);
        } else {
            // SAFETY: the caller's contract.
            (operand.address, operand.scales) = unsafe { stored.at(start) };
        }
        operand
    }

    /// Returns where the rule reads the `count` elements of a step from `first` on: in `scratch`, unless it takes
    /// them where they are stored.
    ///
    /// # Safety
    /// They are elements of the tensor; `scratch` has room for a step, and is the same each time.
    #[inline(always)]
    unsafe fn decode(&mut self, first: usize, count: usize, scratch: *mut T) -> *mut T {
        prefetch(self.address.wrapping_add(self.ahead), self.bytes);
        // SAFETY: the caller's contract.
        unsafe {
            match &mut self.access {
                Access::Direct => return self.address.cast(),
                Access::Cast { decode, .. } | Access::StochasticCast { decode, .. } => {
                    decode(self.address, scratch, count)
                }
                Access::Dequantize(blocks) => {
                    T::from_singles(scratch, count, |to| {
                        (blocks.decode)(self.address, self.scales, to, count)
                    });
                }
                Access::Broadcast(repeated) => {
                    repeated.materialize(first, count, scratch);
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
    unsafe fn encode(&self, pass: &PassState<'_, T>, first: usize, numbers: *mut T, count: usize) {
        // SAFETY: the caller's contract; a copy has as many elements as its operand.
        unsafe {
            match &self.access {
                Access::Direct | Access::Broadcast(_) => {}
                Access::Cast { encode, .. } => encode(numbers, self.address, count),
                Access::StochasticCast { round, bits, .. } => {
                    round(numbers, self.address.cast(), count, bits.key, bits.first + first as u64)
                }
                Access::Dequantize(blocks) => {
                    T::with_singles(numbers, count, |from| {
                        (blocks.encode)(from, self.scales, self.address, count);
                    });
                }
            }
            if let Some((address, format)) = self.copy {
                let address = address.add(format.size(first));
                match T::codec(format, pass.isa) {
                    Some(Codec::Each { encode, .. }) => encode(numbers, address, count),
                    Some(Codec::Blocks(_)) => unreachable!("a copy in blocks"),
                    None => numbers.copy_to_nonoverlapping(address.cast(), count),
                }
            }
        }
    }

    /// Advances to the next step.
    #[inline(always)]
    fn advance(&mut self) {
        self.address = self.address.wrapping_add(self.bytes);
        self.scales = self.scales.wrapping_add(self.blocks);
    }
}

/// Runs a chunk.
pub(super) fn run<T: ComputeType + Coded>(
    pass: &PassState<'_, T>,
    rule: &Dispatch<T>,
    chunk: &Chunk,
    stored: &[OperandPtr],
    row: &[T],
) {
    let kernel = rule.kernel;
    let first_segment = pass.first_segment(chunk);
    let mut accumulators = Accumulators::<T>::new(kernel.sums.len());
    let mut scratch = Scratch::<T>([const { MaybeUninit::uninit() }; MAX_OPERANDS]);
    let mut operands: [MaybeUninit<ConvertedOperand<T>>; MAX_OPERANDS] =
        [const { MaybeUninit::uninit() }; MAX_OPERANDS];
    let operands = &mut operands[..stored.len()];
    for (operand, stored) in operands.iter_mut().zip(stored) {
        // SAFETY: the chunk lies within the tensor, whose memory was checked; chunks begin with a block.
        operand.write(unsafe { ConvertedOperand::new(stored, pass, chunk.start) });
    }
    // SAFETY: all of these were written.
    let operands = unsafe { operands.assume_init_mut() };
    let mut addresses = [core::ptr::null_mut::<T>(); MAX_OPERANDS];
    for start in (0..chunk.elements).step_by(STEP) {
        let elements = STEP.min(chunk.elements - start);
        let first = chunk.start + start;
        // SAFETY: the step lies within the chunk, and that within the tensor, whose memory is borrowed for the pass,
        // mutably where it is written. The machine has the instruction set.
        unsafe {
            for ((operand, address), scratch) in operands.iter_mut().zip(&mut addresses).zip(&mut scratch.0) {
                *address = operand.decode(first, elements, scratch.as_mut_ptr().cast());
            }
            rule.element_kernel.run(row.as_ptr(), addresses.as_ptr(), elements, accumulators.start());
            for ((operand, declared), &address) in operands.iter_mut().zip(kernel.operands).zip(&addresses) {
                if declared.written {
                    operand.encode(pass, first, address, elements);
                }
                operand.advance();
            }
        }
        let end = start + elements;
        if accumulators.count > 0 && (end.is_multiple_of(SEGMENT) || end == chunk.elements) {
            accumulators.finish(pass, first_segment + start / SEGMENT);
        }
    }
}
