//! What the threads of a pass share.

use super::dispatch::{Dispatch, LinkedRule};
use super::table::Table;
use super::tiling::Chunk;
use crate::isa::Isa;
use crate::kernels::ComputeType;
use fallline_core::backend::{FusedRule, MAX_FUSED, Position};
use fallline_core::reduction::SEGMENT;

/// Everything that the work on a chunk needs, shared by the threads.
#[derive(Clone, Copy)]
pub(super) struct PassState<'a, T: 'static> {
    pub(super) rule: Dispatch<T>,
    pub(super) fused: [Option<FusedKernel<'a, T>>; MAX_FUSED],
    /// How many operands of a tensor only fused rules have.
    pub(super) fused_count: usize,
    pub(super) isa: Isa,
    pub(super) table: &'a Table,
    /// For each tensor the place of its first segment's partial sums, where the rule has sums.
    pub(super) segments: &'a [usize],
    pub(super) rows: &'a [T],
    pub(super) partials: Partials,
}

/// Where partial sums are written: each segment's row by one thread.
#[derive(Clone, Copy)]
pub(super) struct Partials(pub(super) *mut f64);

impl<T> PassState<'_, T> {
    /// Returns the first segment of a chunk.
    pub(super) fn first_segment(&self, chunk: &Chunk) -> usize {
        self.segments.get(chunk.tensor).copied().unwrap_or_default() + chunk.start / SEGMENT
    }

    /// # Safety
    /// No other thread works on the segment, and its row lies within the table of partial sums.
    pub(super) unsafe fn write_partial(&self, segment: usize, sum: usize, value: f64) {
        // SAFETY: the caller's contract.
        unsafe { self.partials.0.add(segment * self.rule.kernel.sums.len() + sum).write(value) }
    }
}

// SAFETY: threads work on different chunks: the addresses that they write, and the rows of partial sums,
// do not overlap.
unsafe impl<T: Sync> Sync for PassState<'_, T> {}

/// A fused rule, with what runs it.
#[derive(Clone, Copy)]
pub(super) struct FusedKernel<'a, T: 'static> {
    pub(super) rule: Dispatch<T>,
    pub(super) operands: &'a [usize],
    pub(super) row: &'a [T],
    pub(super) first: bool,
}

impl<'a, T: ComputeType> FusedKernel<'a, T> {
    /// Makes one with its row in the type of the pass; none where it is not linked.
    pub(super) fn new(fused: &FusedRule<'a>, row: &'a [T], isa: Isa) -> Option<FusedKernel<'a, T>> {
        let rule = Dispatch::of(fused.kernel, LinkedRule::of(fused.kernel)?, isa);
        Some(FusedKernel { rule, operands: fused.operands, row, first: fused.position == Position::Prologue })
    }
}
