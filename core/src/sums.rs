//! The one order of sums, which every device follows, so that a sum has the same bits everywhere.
//!
//! 1. A tensor is cut into segments of [`SEGMENT`] consecutive elements (the last may be shorter).
//! 2. Within a segment there are [`ACCUMULATORS`] accumulators in the compute type, starting from +0;
//!    element `i` of the segment is added to accumulator `i mod ACCUMULATORS`, in the order of `i`.
//! 3. `acc[j] += acc[j + h]` for all `j < h`, for `h` = 128, 64, … 1; `acc[0]` widened to `f64` is the
//!    segment's partial sum.
//! 4. Partial sums fold in `f64` ([`fold`]).
//!
//! Nothing in it depends on chunking, alignment, threads, block sizes or the width of a register: 256
//! is eight elements for each of the 32 threads of a warp, or 16 AVX-512 registers.

/// Elements of a segment.
pub const SEGMENT: usize = 1024;
/// Accumulators of a segment.
pub const ACCUMULATORS: usize = 256;
/// `f64` accumulators of the fold.
const LANES: usize = 32;

/// Folds a tensor's partial sums: `f64` lane `l` of 32 adds the partials `l`, `l + 32`, … to +0, then
/// `lane[j] += lane[j + h]` for `h` = 16, 8, … 1.
///
/// ```
/// assert_eq!(fallline_core::sums::fold([1.0, 2.0, 3.0].into_iter()), 6.0);
/// ```
pub fn fold(partials: impl Iterator<Item = f64>) -> f64 {
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

/// How many segments a tensor of `elements` has.
pub const fn segments(elements: usize) -> usize {
    elements.div_ceil(SEGMENT)
}
