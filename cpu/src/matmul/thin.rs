//! Products with a vector, and of two vectors: nothing is used twice, so nothing is packed.

use super::Place;
use super::problem::{Problem, Side, Stored, Sum};
use crate::Isa;

/// Columns whose sums are kept while the rows go by.
const COLUMNS: usize = 1024;
/// Accumulators of a dot product.
const WIDTH: usize = 64;
/// Elements of a part of an outer product, about.
const PART: usize = 1 << 14;

/// Whether it is such a product.
pub(super) fn fits<F: Stored>(problem: &Problem<F>) -> bool {
    problem.k == 1 || (problem.k > 0 && (problem.m == 1 || problem.n == 1))
}

/// The product.
pub(super) fn product<F: Stored>(place: Place<'_>, problem: &Problem<F>) {
    let &Problem { m, k, n, left, right, .. } = problem;
    let rows = (PART / n.max(1)).max(1);
    let (matrix, vector) = if n == 1 { (left, right.base) } else { (right, left.base) };
    let lanes = (PART / k.max(1)).max(1);
    let parts = match (k, matrix.step_stride) {
        (1, _) => m.div_ceil(rows),
        (_, 1) => matrix.lanes.div_ceil(lanes),
        _ => matrix.lanes.div_ceil(COLUMNS),
    };
    let thin = Thin { problem, matrix, vector, rows, lanes };
    place.for_each(parts, problem.operations(), |part| match place.isa {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: parts are apart and lie within the operands, and the machine has the instruction set.
        Isa::Avx512 => unsafe { avx512(&thin, part) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { avx2(&thin, part) },
        // SAFETY: as above.
        _ => unsafe { thin.work(part) },
    });
}

/// A product and how it is cut.
struct Thin<'p, F: Stored> {
    problem: &'p Problem<F>,
    /// The matrix that a vector is multiplied with, and the vector.
    matrix: Side<F>,
    vector: *const F,
    /// Rows of the result in a part of an outer product.
    rows: usize,
    /// Lanes in a part of dot products.
    lanes: usize,
}

// SAFETY: factors are only read, and parts write elements of their own.
unsafe impl<F: Stored> Sync for Thin<'_, F> {}

impl<F: Stored> Thin<'_, F> {
    /// # Safety
    /// The part is there and nobody else's.
    #[inline(always)]
    unsafe fn work(&self, part: usize) {
        let &Thin { problem, ref matrix, vector, rows, lanes } = self;
        // SAFETY: the caller's.
        unsafe {
            match (problem.k, matrix.step_stride) {
                (1, _) => outer(problem, part * rows, problem.m.min((part + 1) * rows)),
                (_, 1) => {
                    dots(problem, matrix, vector, part * lanes, matrix.lanes.min((part + 1) * lanes));
                }
                _ => columns(problem, matrix, vector, part * COLUMNS),
            }
        }
    }
}

/// # Safety
/// As for [`Thin::work`], on a machine with these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn avx512<F: Stored>(thin: &Thin<'_, F>, part: usize) {
    // SAFETY: the caller's.
    unsafe { thin.work(part) }
}

/// # Safety
/// As for [`Thin::work`], on a machine with these features.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<F: Stored>(thin: &Thin<'_, F>, part: usize) {
    // SAFETY: the caller's.
    unsafe { thin.work(part) }
}

/// Element `at` of the result, from the sum of its products.
///
/// # Safety
/// The element is there and nobody else's.
#[inline(always)]
unsafe fn write<F: Stored>(problem: &Problem<F>, at: usize, sum: Sum<F>) {
    let scaled = problem.alpha * sum;
    // SAFETY: the caller's.
    unsafe {
        let adds = problem.beta != Sum::<F>::default();
        let value = if adds { scaled + problem.beta * (*problem.added.add(at)).widen() } else { scaled };
        *problem.c.add(at) = F::narrow(value);
    }
}

/// Rows of an outer product.
///
/// # Safety
/// The rows are there and nobody else's.
#[inline(always)]
unsafe fn outer<F: Stored>(problem: &Problem<F>, first: usize, last: usize) {
    let &Problem { n, left, right, .. } = problem;
    for i in first..last {
        // SAFETY: within the factors and the result.
        unsafe {
            let x = (*left.base.add(i * left.lane_stride)).widen();
            if right.lane_stride == 1 {
                (0..n).for_each(|j| write(problem, i * n + j, x * (*right.base.add(j)).widen()));
            } else {
                let y = |j: usize| (*right.base.add(j * right.lane_stride)).widen();
                (0..n).for_each(|j| write(problem, i * n + j, x * y(j)));
            }
        }
    }
}

/// Products of lanes, contiguous along the product, with a vector.
///
/// # Safety
/// The lanes are there, and the elements of the result nobody else's.
#[inline(always)]
unsafe fn dots<F: Stored>(
    problem: &Problem<F>,
    matrix: &Side<F>,
    vector: *const F,
    first: usize,
    last: usize,
) {
    // SAFETY: within the factors.
    let vector = unsafe { core::slice::from_raw_parts(vector, problem.k) };
    for lane in first..last {
        // SAFETY: as above.
        let row =
            unsafe { core::slice::from_raw_parts(matrix.base.add(lane * matrix.lane_stride), problem.k) };
        let mut sums = [Sum::<F>::default(); WIDTH];
        let (rows, vectors) = (row.chunks_exact(WIDTH), vector.chunks_exact(WIDTH));
        let rest = rows.remainder().iter().zip(vectors.remainder());
        for (xs, ys) in rows.zip(vectors) {
            for ((sum, x), y) in sums.iter_mut().zip(xs).zip(ys) {
                *sum = *sum + x.widen() * y.widen();
            }
        }
        for (sum, (x, y)) in sums.iter_mut().zip(rest) {
            *sum = *sum + x.widen() * y.widen();
        }
        let total = sums.into_iter().fold(Sum::<F>::default(), |total, sum| total + sum);
        // SAFETY: the lane's element.
        unsafe { write(problem, lane, total) };
    }
}

/// Products of up to [`COLUMNS`] lanes from `first` on, which lie side by side, with a vector.
///
/// # Safety
/// As for [`dots`].
#[inline(always)]
unsafe fn columns<F: Stored>(problem: &Problem<F>, matrix: &Side<F>, vector: *const F, first: usize) {
    let width = COLUMNS.min(matrix.lanes - first);
    let mut sums = [Sum::<F>::default(); COLUMNS];
    for step in 0..problem.k {
        // SAFETY: within the factors.
        let (x, row) = unsafe {
            let row = matrix.base.add(step * matrix.step_stride + first);
            ((*vector.add(step)).widen(), core::slice::from_raw_parts(row, width))
        };
        for (sum, y) in sums.iter_mut().zip(row) {
            *sum = *sum + x * y.widen();
        }
    }
    for (column, sum) in sums.into_iter().enumerate().take(width) {
        // SAFETY: the column's element.
        unsafe { write(problem, first + column, sum) };
    }
}
