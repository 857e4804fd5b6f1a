//! Rules that are fused with the pass's own: they go over the same elements.

use super::dispatch::Dispatch;
use super::operands::OperandPtr;
use super::rule::run_rule;
use super::state::{FusedKernel, PassState};
use super::tiling::Chunk;
use crate::codec::Coded;
use crate::kernels::{ComputeType, RuleKernel};
use fallline_core::backend::{MAX_BESIDE, MAX_OPERANDS};

/// Elements that go through all rules of a pass before the next ones do, where there are several and nothing is decoded:
/// so few that the CPU prefetches the streams of all of them. (With 4,096 the streams of one rule wait for those of
/// the other, and nothing is won over two passes.)
const INTERLEAVE: usize = 256;

/// Runs all rules over a chunk.
pub(super) fn run_chunk<T: ComputeType + Coded>(pass: &PassState<'_, T>, chunk: &Chunk) {
    let kernel = pass.rule.kernel;
    let count = kernel.operands.len();
    let stored = &pass.table.stored[chunk.tensor * count..][..count];
    let width = 1 + kernel.scalars.len() + kernel.tensor_scalars.len();
    let row = &pass.rows[pass.table.tensors[chunk.tensor].1 * width..][..width];
    if pass.fused[0].is_none() {
        return run_rule(pass, &pass.rule, chunk, stored, row);
    }
    if kernel.sums.is_empty() && run_interleaved(pass, chunk, stored, row) {
        return;
    }
    run_fused_rules(pass, chunk, stored, true);
    run_rule(pass, &pass.rule, chunk, stored, row);
    run_fused_rules(pass, chunk, stored, false);
}

/// A rule whose operands are stored as a kernel takes them, on its way through a chunk.
struct DirectKernel<T: 'static> {
    kernel: RuleKernel<T>,
    row: *const T,
    addresses: [*mut T; MAX_OPERANDS],
    bytes: [usize; MAX_OPERANDS],
}

impl<T: ComputeType> DirectKernel<T> {
    fn new(rule: &Dispatch<T>, stored: &[OperandPtr], row: &[T], start: usize) -> Option<DirectKernel<T>> {
        let kernel = rule.direct(stored)?;
        let (mut addresses, mut bytes) = ([core::ptr::null_mut(); MAX_OPERANDS], [0; MAX_OPERANDS]);
        for (k, operand) in stored.iter().enumerate() {
            bytes[k] = operand.format.bytes();
            // SAFETY: the chunk that begins there lies within the tensor, whose memory was checked.
            addresses[k] = unsafe { operand.address.add(start * bytes[k]) }.cast();
        }
        Some(DirectKernel { kernel, row: row.as_ptr(), addresses, bytes })
    }
}

/// Runs all rules over a chunk, interleaved, if their operands are stored as kernels take them; returns whether they are.
fn run_interleaved<T: ComputeType>(
    pass: &PassState<'_, T>,
    chunk: &Chunk,
    stored: &[OperandPtr],
    row: &[T],
) -> bool {
    let mut all: [Option<DirectKernel<T>>; MAX_BESIDE + 1] = [const { None }; MAX_BESIDE + 1];
    let mut places = all.iter_mut();
    for first in [true, false] {
        for beside in pass.fused.iter().flatten().filter(|beside| beside.first == first) {
            let mut own = [OperandPtr::NULL; MAX_OPERANDS];
            if let Some(own) = operands_of(pass, beside, chunk, stored, &mut own) {
                let direct = DirectKernel::new(&beside.rule, own, beside.row, chunk.start);
                let (Some(direct), Some(place)) = (direct, places.next()) else { return false };
                *place = Some(direct);
            }
        }
        if first {
            let direct = DirectKernel::new(&pass.rule, stored, row, chunk.start);
            let (Some(direct), Some(place)) = (direct, places.next()) else { return false };
            *place = Some(direct);
        }
    }
    for start in (0..chunk.elements).step_by(INTERLEAVE) {
        let elements = INTERLEAVE.min(chunk.elements - start);
        for DirectKernel { kernel, row, addresses, bytes } in all.iter_mut().flatten() {
            // SAFETY: the addresses are those of the elements from `start` on, borrowed for the pass, the written ones
            // mutably; the machine has the instruction set (checked when it was chosen).
            unsafe { kernel.run(*row, addresses.as_ptr(), elements, core::ptr::null_mut()) };
            for (address, bytes) in addresses.iter_mut().zip(bytes) {
                *address = address.wrapping_byte_add(elements * *bytes);
            }
        }
    }
    true
}

/// Returns the operands of a fused rule, if the tensor has them all.
fn operands_of<'o, T>(
    pass: &PassState<'_, T>,
    beside: &FusedKernel<'_, T>,
    chunk: &Chunk,
    stored: &[OperandPtr],
    own: &'o mut [OperandPtr; MAX_OPERANDS],
) -> Option<&'o [OperandPtr]> {
    let others = &pass.table.fused_operands[chunk.tensor * pass.fused_count..][..pass.fused_count];
    let operands = beside.rule.kernel.operands;
    for ((own, operand), &place) in own.iter_mut().zip(operands).zip(beside.operands) {
        let found = match stored.get(place) {
            Some(stored) => *stored,
            None => others[place - stored.len()]?,
        };
        *own = if operand.written { found } else { found.read() };
    }
    Some(&own[..operands.len()])
}

/// Runs the fused rules over a chunk that come before the pass's own, or after it.
fn run_fused_rules<T: ComputeType + Coded>(
    pass: &PassState<'_, T>,
    piece: &Chunk,
    stored: &[OperandPtr],
    first: bool,
) {
    for beside in pass.fused.iter().flatten().filter(|beside| beside.first == first) {
        let mut own = [OperandPtr::NULL; MAX_OPERANDS];
        if let Some(own) = operands_of(pass, beside, piece, stored, &mut own) {
            run_rule(pass, &beside.rule, piece, own, beside.row);
        }
    }
}
