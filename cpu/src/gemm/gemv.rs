//! Products with a vector, and of two vectors: nothing is used twice, so nothing is packed.

use super::Place;
use super::args::{Problem, Side, Stored, Sum};
use crate::Isa;
use crate::workspace::address;
use fallline_core::Result;

/// Columns whose sums are kept while the rows of a strip go by: longer stretches of a row than a page, which the CPU
/// does not ask for ahead across.
const COLUMNS: usize = 2048;
/// Rows of a strip, whose sums are added up apart.
const STRIP: usize = 256;
/// Accumulators of a dot product.
const WIDTH: usize = 64;
/// Elements of a part of an outer product, about.
const PART: usize = 1 << 14;

/// Whether it is such a product.
pub(super) fn fits<F: Stored>(problem: &Problem<F>) -> bool {
    problem.k == 1 || (problem.k > 0 && (problem.m == 1 || problem.n == 1))
}

/// The product.
pub(super) fn product<F: Stored>(place: Place<'_>, problem: &Problem<F>) -> Result<()> {
    let &Problem { m, k, n, left, right, .. } = problem;
    let (matrix, vector) = if n == 1 { (left, right.base) } else { (right, left.base) };
    let thin = |way, partial| Thin { problem, matrix, vector, way, partial };
    let nothing = core::ptr::null_mut();
    if k == 1 {
        let rows = (PART / n.max(1)).max(1);
        thin(Way::Outer { rows }, nothing).run(place, m.div_ceil(rows));
    } else if matrix.step_stride == 1 {
        let lanes = (PART / k).max(1);
        thin(Way::Dots { lanes }, nothing).run(place, matrix.lanes.div_ceil(lanes));
    } else {
        let strips = k.div_ceil(STRIP);
        let mut buffer = place.buffers.take(size_of::<Sum<F>>() * matrix.lanes * strips)?;
        let partial = address(&mut buffer);
        thin(Way::Strips, partial).run(place, strips * matrix.lanes.div_ceil(COLUMNS));
        thin(Way::Fold { strips }, partial).run(place, matrix.lanes.div_ceil(COLUMNS));
        place.buffers.give(buffer);
    }
    Ok(())
}

/// How the parts of a product are computed.
#[derive(Clone, Copy)]
enum Way {
    /// So many rows of the product of two vectors.
    Outer { rows: usize },
    /// Dot products of so many lanes, which are contiguous along the product, with the vector.
    Dots { lanes: usize },
    /// The sums of a block of lanes, which lie side by side, over a strip of steps.
    Strips,
    /// A block of lanes added up over so many strips, in their order.
    Fold { strips: usize },
}

/// A product and how it is cut.
struct Thin<'p, F: Stored> {
    problem: &'p Problem<F>,
    /// The matrix that a vector is multiplied with, and the vector.
    matrix: Side<F>,
    vector: *const F,
    way: Way,
    /// For each strip the sums of all lanes.
    partial: *mut Sum<F>,
}

// SAFETY: factors are only read, and parts write elements of their own.
unsafe impl<F: Stored> Sync for Thin<'_, F> {}

impl<F: Stored> Thin<'_, F> {
    /// Computes all parts.
    fn run(&self, place: Place<'_>, parts: usize) {
        place.for_each(parts, self.problem.operations(), |part| match place.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: parts are apart and lie within the operands, and the machine has the instruction set.
            Isa::Avx512 => unsafe { avx512(self, part) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { avx2(self, part) },
            // SAFETY: as above.
            _ => unsafe { self.work(part) },
        });
    }

    /// # Safety
    /// The part is there and nobody else's.
    #[inline(always)]
    unsafe fn work(&self, part: usize) {
        let blocks = self.matrix.lanes.div_ceil(COLUMNS);
        // SAFETY: the caller's.
        unsafe {
            match self.way {
                Way::Outer { rows } => self.outer(part * rows, self.problem.m.min((part + 1) * rows)),
                Way::Dots { lanes } => self.dots(part * lanes, self.matrix.lanes.min((part + 1) * lanes)),
                Way::Strips => self.strip(part / blocks, part % blocks * COLUMNS),
                Way::Fold { strips } => self.fold(strips, part * COLUMNS),
            }
        }
    }

    /// Rows of an outer product.
    ///
    /// # Safety
    /// The rows are there and nobody else's.
    #[inline(always)]
    unsafe fn outer(&self, first: usize, last: usize) {
        let &Problem { n, left, right, alpha, beta, c, .. } = self.problem;
        let plain = right.lane_stride == 1 && beta == Sum::<F>::default();
        for i in first..last {
            // SAFETY: within the factors and the result.
            unsafe {
                let x = (*left.base.add(i * left.lane_stride)).widen();
                let y = |j: usize| (*right.base.add(j * right.lane_stride)).widen();
                if plain {
                    // Nothing but this loop's own operands, so that it is done in registers' widths.
                    let (to, from) = (c.add(i * n), right.base);
                    for j in 0..n {
                        *to.add(j) = F::narrow(alpha * (x * (*from.add(j)).widen()));
                    }
                } else {
                    (0..n).for_each(|j| self.write(i * n + j, x * y(j)));
                }
            }
        }
    }

    /// Products of lanes, contiguous along the product, with the vector.
    ///
    /// # Safety
    /// The lanes are there, and the elements of the result nobody else's.
    #[inline(always)]
    unsafe fn dots(&self, first: usize, last: usize) {
        let &Thin { problem, ref matrix, vector, .. } = self;
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
            unsafe { self.write(lane, total) };
        }
    }

    /// The sums of up to [`COLUMNS`] lanes from `first` on, which lie side by side, over a strip of the product.
    ///
    /// # Safety
    /// The strip and the lanes are there, and their sums nobody else's.
    #[inline(always)]
    unsafe fn strip(&self, strip: usize, first: usize) {
        let &Thin { problem, ref matrix, vector, partial, .. } = self;
        let width = COLUMNS.min(matrix.lanes - first);
        let mut sums = [Sum::<F>::default(); COLUMNS];
        for step in strip * STRIP..problem.k.min((strip + 1) * STRIP) {
            // SAFETY: within the factors.
            let (x, row) = unsafe {
                let row = matrix.base.add(step * matrix.step_stride + first);
                ((*vector.add(step)).widen(), core::slice::from_raw_parts(row, width))
            };
            for (sum, y) in sums.iter_mut().zip(row) {
                *sum = *sum + x * y.widen();
            }
        }
        // SAFETY: there is a place for each lane of each strip.
        unsafe { partial.add(strip * matrix.lanes + first).copy_from_nonoverlapping(sums.as_ptr(), width) };
    }

    /// The products of up to [`COLUMNS`] lanes from `first` on, from their sums over the strips.
    ///
    /// # Safety
    /// The sums are there, and the elements of the result nobody else's.
    #[inline(always)]
    unsafe fn fold(&self, strips: usize, first: usize) {
        let lanes = self.matrix.lanes;
        for lane in first..lanes.min(first + COLUMNS) {
            // SAFETY: the lane's sums, and its element.
            unsafe {
                let sums = (0..strips).map(|strip| *self.partial.add(strip * lanes + lane));
                self.write(lane, sums.fold(Sum::<F>::default(), |total, sum| total + sum));
            }
        }
    }

    /// Element `at` of the result, from the sum of its products.
    ///
    /// # Safety
    /// The element is there and nobody else's.
    #[inline(always)]
    unsafe fn write(&self, at: usize, sum: Sum<F>) {
        let problem = self.problem;
        let scaled = problem.alpha * sum;
        // SAFETY: the caller's.
        unsafe {
            let adds = problem.beta != Sum::<F>::default();
            let value = if adds { scaled + problem.beta * (*problem.added.add(at)).widen() } else { scaled };
            *problem.c.add(at) = F::narrow(value);
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
