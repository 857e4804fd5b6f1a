//! One rule over a chunk, in the way that its operands are stored in.

use super::accumulate::Accumulators;
use super::dispatch::Dispatch;
use super::operands::OperandPtr;
use super::state::PassState;
use super::tiling::Chunk;
use super::{broadcast, convert};
use crate::codec::Coded;
#[cfg(target_arch = "x86_64")]
use crate::isa::Isa;
use crate::kernels::ComputeType;
#[cfg(target_arch = "x86_64")]
use crate::kernels::{BLOCK, HalfOperand, QuantOperand};
#[cfg(target_arch = "x86_64")]
use crate::quant::{Codebook, block_codec};
#[cfg(target_arch = "x86_64")]
use crate::vector::PhiloxKeys;
use fallline_core::backend::MAX_OPERANDS;
#[cfg(target_arch = "x86_64")]
use fallline_core::codec::stochastic::Counted;
use fallline_core::reduction::SEGMENT;
#[cfg(target_arch = "x86_64")]
use fallline_core::{Format, Role};

/// Runs one rule over a chunk, or a part of it.
pub(super) fn run_rule<T: ComputeType + Coded>(
    pass: &PassState<'_, T>,
    rule: &Dispatch<T>,
    chunk: &Chunk,
    stored: &[OperandPtr],
    row: &[T],
) {
    let kernel = rule.kernel;
    let first_segment = pass.first_segment(chunk);
    let Some(direct) = rule.direct(stored) else {
        #[cfg(target_arch = "x86_64")]
        let chunk = &run_quantized(rule, pass.isa, chunk, stored, row);
        #[cfg(target_arch = "x86_64")]
        if run_half(rule, chunk, stored, row) {
            return;
        }
        let native = |stored: &OperandPtr| {
            stored.format == T::COMPUTE.format() && stored.rounding.is_none() && stored.copy.is_none()
        };
        return match stored.iter().all(native) {
            true => broadcast::run(pass, rule, chunk, stored, row),
            false => convert::run(pass, rule, chunk, stored, row),
        };
    };

    let mut addresses = [core::ptr::null_mut::<T>(); MAX_OPERANDS];
    for (address, operand) in addresses.iter_mut().zip(stored) {
        // SAFETY: the chunk lies within the tensor, whose memory was checked.
        *address = unsafe { operand.address.add(chunk.start * operand.format.bytes()) }.cast();
    }
    if kernel.sums.is_empty() {
        // SAFETY: the addresses are those of `chunk.elements` elements each, borrowed for the pass, the written ones
        // mutably. The machine has the instruction set (checked when it was chosen).
        return unsafe {
            direct.run(row.as_ptr(), addresses.as_ptr(), chunk.elements, core::ptr::null_mut())
        };
    }
    let mut accumulators = Accumulators::<T>::new(kernel.sums.len());
    for (k, start) in (0..chunk.elements).step_by(SEGMENT).enumerate() {
        let elements = SEGMENT.min(chunk.elements - start);
        // SAFETY: as above; the accumulators hold a row for each sum, and this is at most a segment.
        unsafe { direct.run(row.as_ptr(), addresses.as_ptr(), elements, accumulators.start()) };
        for (address, operand) in addresses.iter_mut().zip(stored) {
            // SAFETY: at most one past the last element.
            *address = unsafe { address.byte_add(elements * operand.format.bytes()) };
        }
        accumulators.finish(pass, first_segment + k);
    }
}

/// Runs a rule over the whole blocks of a chunk whose states have dynamic codes; returns what is left of it.
#[cfg(target_arch = "x86_64")]
fn run_quantized<T: ComputeType>(
    rule: &Dispatch<T>,
    isa: Isa,
    chunk: &Chunk,
    stored: &[OperandPtr],
    row: &[T],
) -> Chunk {
    let Some(kernel) = rule.quantized else { return *chunk };
    if stored.iter().any(OperandPtr::is_special) {
        return *chunk;
    }
    let (address, scales) = (core::ptr::null_mut(), core::ptr::null_mut());
    let mut operands = [QuantOperand { address, scales, codebook: None, blocks: None }; MAX_OPERANDS];
    for ((operand, declared), stored) in operands.iter_mut().zip(rule.kernel.operands).zip(stored) {
        let codebook = Codebook::of(stored.format);
        let fits = match declared.role {
            Role::State => codebook.is_some(),
            _ => stored.format == Format::F32,
        };
        if !fits {
            return *chunk;
        }
        let blocks = codebook.map(|_| block_codec(stored.format, isa));
        // SAFETY: the chunk lies within the tensor, whose memory was checked; chunks begin with a block.
        let (address, scales) = unsafe { stored.at(chunk.start) };
        *operand = QuantOperand { address, scales, codebook, blocks };
    }
    let blocks = chunk.elements / BLOCK;
    // SAFETY: the row is of `f32` (there is no kernel for another type). Operands are those of the chunk's elements,
    // borrowed for the pass, the written ones mutably. The machine has the instruction set.
    unsafe { kernel(row.as_ptr().cast(), operands.as_ptr(), blocks) };
    let done = blocks * BLOCK;
    Chunk { tensor: chunk.tensor, start: chunk.start + done, elements: chunk.elements - done }
}

/// Runs a rule over a chunk whose operands are stored as `f32` or bfloat16; returns whether they are.
#[cfg(target_arch = "x86_64")]
fn run_half<T: ComputeType>(rule: &Dispatch<T>, chunk: &Chunk, stored: &[OperandPtr], row: &[T]) -> bool {
    let Some(kernel) = rule.half else { return false };
    let mut operands = [HalfOperand::NULL; MAX_OPERANDS];
    let mut before = None;
    for (half, stored) in operands.iter_mut().zip(stored) {
        let OperandPtr { address, format, rounding, copy, repeat, .. } = *stored;
        let copy = copy.unwrap_or((core::ptr::null_mut(), Format::Bf16));
        if !matches!(format, Format::F32 | Format::Bf16) || copy.1 != Format::Bf16 || repeat.is_some() {
            return false;
        }
        half.bytes = format.bytes();
        half.address = address.wrapping_add(chunk.start * half.bytes);
        if let Some(Counted { key, first }) = rounding {
            // All operands of the loop count their elements alike.
            if *before.get_or_insert(first) != first {
                return false;
            }
            (half.stochastic, half.keys) = (true, PhiloxKeys::new(key));
        }
        half.copy = copy.0.cast();
        if !half.copy.is_null() {
            half.copy = half.copy.wrapping_add(chunk.start);
        }
    }
    let first = before.unwrap_or(0) as usize + chunk.start;
    // SAFETY: the row is of `f32` (there is no kernel for another type). The chunk lies within the tensor, whose
    // memory and that of copies is borrowed for the pass, mutably where it is written. The machine has the
    // instruction set.
    unsafe { kernel(row.as_ptr().cast(), operands.as_ptr(), first, chunk.elements) };
    true
}
