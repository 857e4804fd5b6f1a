//! The sums of a segment, from its accumulators to a partial sum.

use super::state::PassState;
use crate::codec::Coded;
use crate::isa::Isa;
use crate::kernels::ComputeType;
use core::mem::MaybeUninit;
use fallline_core::reduction::ACCUMULATORS;

/// The most sums that a rule may have.
pub(super) const MAX_SUMS: usize = 8;

/// A row of accumulators for each sum, on the stack.
#[repr(C, align(64))]
pub(super) struct Accumulators<T> {
    pub(super) rows: [MaybeUninit<[T; ACCUMULATORS]>; MAX_SUMS],
    pub(super) count: usize,
}

impl<T: ComputeType + Coded> Accumulators<T> {
    pub(super) fn new(count: usize) -> Self {
        let mut rows = [const { MaybeUninit::uninit() }; MAX_SUMS];
        rows[..count].fill(MaybeUninit::new([T::default(); ACCUMULATORS]));
        Accumulators { rows, count }
    }

    pub(super) fn start(&mut self) -> *mut T {
        self.rows.as_mut_ptr().cast()
    }

    /// Folds the accumulators of a segment into its partial sums, and clears them.
    pub(super) fn finish(&mut self, pass: &PassState<'_, T>, segment: usize) {
        for (s, row) in self.rows[..self.count].iter_mut().enumerate() {
            // SAFETY: the first `count` rows were initialised.
            let row = unsafe { row.assume_init_mut() };
            let total = tree_reduce(pass.isa, row).to_f64();
            *row = [T::default(); ACCUMULATORS];
            // SAFETY: this thread alone works on the chunk that the segment is in.
            unsafe { pass.write_partial(segment, s, total) };
        }
    }
}

/// Adds `row[j + half]` to `row[j]` for halves of 32, 16, … 1.
#[inline(always)]
pub(super) fn halve<T: ComputeType>(row: &mut [T; ACCUMULATORS]) -> T {
    let mut half = ACCUMULATORS / 2;
    while half > 0 {
        let (low, high) = row.split_at_mut(half);
        for (a, b) in low.iter_mut().zip(&high[..half]) {
            *a = a.plus(*b);
        }
        half /= 2;
    }
    row[0]
}

pub(super) fn tree_reduce<T: ComputeType>(isa: Isa, row: &mut [T; ACCUMULATORS]) -> T {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    pub(super) fn avx2<T: ComputeType>(row: &mut [T; ACCUMULATORS]) -> T {
        halve(row)
    }
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx2 {
        // SAFETY: the machine has the instruction set (checked when it was chosen).
        return unsafe { avx2(row) };
    }
    let _ = isa;
    halve(row)
}
