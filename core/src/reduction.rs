//! The one order of sums, which every device follows, so that a sum has the same bits everywhere.
//!
//! 1. A tensor is cut into segments of [`SEGMENT`] consecutive elements, and those into steps of [`STEP`];
//!    the last of either may be shorter. Terms that are missing there count as +0.
//! 2. A step's 256 terms fold to 64: `t[j] = (e[j] + e[j+128]) + (e[j+64] + e[j+192])`.
//! 3. A segment has [`ACCUMULATORS`] accumulators in the compute type, starting from +0; each step adds
//!    `t[j]` to accumulator `j`, in the order of the steps.
//! 4. `acc[j] += acc[j + h]` for all `j < h`, for `h` = 32, 16, … 1; `acc[0]` widened to `f64` is the
//!    segment's partial sum.
//! 5. Partial sums fold in `f64` ([`tree_reduce`]).
//!
//! Nothing in it depends on chunking, alignment, threads, block sizes or the width of a register. A warp follows it
//! with two 128-bit loads a lane and one shuffle for four terms. `e[j]` and `e[j+128]` are one lane's, `e[j+64]` is
//! that of the lane 16 further on. A vector register of any width adds four registers before it touches an
//! accumulator. That keeps stores to accumulators few among those of the pass.

/// Elements of a segment.
pub const SEGMENT: usize = 4096;
/// Elements that fold to one term for each accumulator.
pub const STEP: usize = 256;
/// Accumulators of a segment.
pub const ACCUMULATORS: usize = 64;
/// The places, in a step, of the terms that fold to that of accumulator 0: in this order and in pairs.
pub const QUARTERS: [usize; 4] = [0, 128, 64, 192];
/// `f64` accumulators of the fold.
const LANES: usize = 32;

/// Reduces a tensor's partial sums. The `f64` lane `l` of 32 adds the partials `l`, `l + 32`, … to +0, then `lane[j]
/// += lane[j + h]` for `h` = 16, 8, … 1.
///
/// ```
/// assert_eq!(fallline_core::reduction::tree_reduce([1.0, 2.0, 3.0].into_iter()), 6.0);
/// ```
pub fn tree_reduce(partials: impl Iterator<Item = f64>) -> f64 {
    let mut lanes = [0.0; LANES];
    for (i, partial) in partials.enumerate() {
        lanes[i % LANES] += partial;
    }
    let mut half = LANES / 2;
    while half > 0 {
        for j in 0..half {
            lanes[j] += lanes[j + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Returns how many segments a tensor of `elements` has.
pub const fn segments(elements: usize) -> usize {
    elements.div_ceil(SEGMENT)
}
