//! Products with a vector, and of two vectors (level 2): nothing is used twice, so nothing is packed.
//!
//! Multiplications and additions round apart, on every instruction set in one order. Where the matrix is contiguous along
//! the product, that is [`WIDTH`] sums, the i-th of the elements i, i + `WIDTH`, …, added up in order. Elsewhere
//! it is a sum for each [`STRIP`] of elements, and these are added up in order. All start from +0.

use super::args::{GemmArgs, GemmOperand, Sum, Widen};
use crate::context::ExecContext;
#[cfg(target_arch = "x86_64")]
use crate::isa::{Isa, multiversion};
use crate::workspace::address;
use fallline_core::Result;

/// Columns whose sums are kept while the rows of a strip are processed. They are longer stretches of a row than a
/// page, which the CPU does not prefetch across.
const COLUMNS: usize = 2048;
/// Rows of a strip, whose sums are added up apart.
const STRIP: usize = 256;
/// Accumulators of a dot product.
const WIDTH: usize = 64;
/// Elements of a part of an outer product, about.
const PART: usize = 1 << 14;

/// Returns whether it is such a product.
pub(super) fn fits<F: Widen>(args: &GemmArgs<F>) -> bool {
    args.k == 1 || (args.k > 0 && (args.m == 1 || args.n == 1))
}

/// Computes the product.
pub(super) fn product<F: Widen>(context: ExecContext<'_>, args: &GemmArgs<F>) -> Result<()> {
    let &GemmArgs { m, k, n, left, right, .. } = args;
    let (matrix, vector) = if n == 1 { (left, right.base) } else { (right, left.base) };
    let level2 = |op, partial| Level2 { args, matrix, vector, op, partial };
    let nothing = core::ptr::null_mut();
    if k == 1 {
        let rows = (PART / n.max(1)).max(1);
        level2(Op::Ger { rows }, nothing).run(context, m.div_ceil(rows));
    } else if matrix.step_stride == 1 {
        let lanes = (PART / k).max(1);
        level2(Op::GemvT { lanes }, nothing).run(context, matrix.lanes.div_ceil(lanes));
    } else {
        let strips = k.div_ceil(STRIP);
        let mut buffer = context.workspace.acquire(size_of::<Sum<F>>() * matrix.lanes * strips)?;
        let partial = address(&mut buffer);
        level2(Op::GemvN, partial).run(context, strips * matrix.lanes.div_ceil(COLUMNS));
        level2(Op::Reduce { strips }, partial).run(context, matrix.lanes.div_ceil(COLUMNS));
        context.workspace.release(buffer);
    }
    Ok(())
}

/// How the parts of a product are computed.
#[derive(Clone, Copy)]
enum Op {
    /// So many rows of the product of two vectors.
    Ger { rows: usize },
    /// Dot products of so many lanes, which are contiguous along the product, with the vector.
    GemvT { lanes: usize },
    /// The sums of a block of lanes, which lie side by side, over a strip of steps.
    GemvN,
    /// A block of lanes added up over so many strips, in their order.
    Reduce { strips: usize },
}

/// A product and how it is cut.
struct Level2<'p, F: Widen> {
    args: &'p GemmArgs<F>,
    /// The matrix that a vector is multiplied with, and the vector.
    matrix: GemmOperand<F>,
    vector: *const F,
    op: Op,
    /// For each strip the sums of all lanes.
    partial: *mut Sum<F>,
}

// SAFETY: factors are only read, and parts write elements of their own.
unsafe impl<F: Widen> Sync for Level2<'_, F> {}

impl<F: Widen> Level2<'_, F> {
    /// Computes all parts.
    fn run(&self, context: ExecContext<'_>, parts: usize) {
        context.for_each(parts, self.args.operations(), |part| match context.isa {
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
            match self.op {
                Op::Ger { rows } => self.ger(part * rows, self.args.m.min((part + 1) * rows)),
                Op::GemvT { lanes } => self.gemv_t(part * lanes, self.matrix.lanes.min((part + 1) * lanes)),
                Op::GemvN => self.gemv_n(part / blocks, part % blocks * COLUMNS),
                Op::Reduce { strips } => self.reduce(strips, part * COLUMNS),
            }
        }
    }

    /// Computes rows of an outer product.
    ///
    /// # Safety
    /// The rows are there and nobody else's.
    #[inline(always)]
    unsafe fn ger(&self, first: usize, last: usize) {
        let &GemmArgs { n, left, right, alpha, beta, c, .. } = self.args;
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
    unsafe fn gemv_t(&self, first: usize, last: usize) {
        let &Level2 { args, ref matrix, vector, .. } = self;
        // SAFETY: within the factors.
        let vector = unsafe { core::slice::from_raw_parts(vector, args.k) };
        for lane in first..last {
            // SAFETY: as above.
            let row =
                unsafe { core::slice::from_raw_parts(matrix.base.add(lane * matrix.lane_stride), args.k) };
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

    /// Computes the sums of up to [`COLUMNS`] lanes from `first` on, which lie side by side, over a strip of the
    /// product.
    ///
    /// # Safety
    /// The strip and the lanes are there, and their sums nobody else's.
    #[inline(always)]
    unsafe fn gemv_n(&self, strip: usize, first: usize) {
        let &Level2 { args, ref matrix, vector, partial, .. } = self;
        let width = COLUMNS.min(matrix.lanes - first);
        let mut sums = [Sum::<F>::default(); COLUMNS];
        for step in strip * STRIP..args.k.min((strip + 1) * STRIP) {
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

    /// Computes the products of up to [`COLUMNS`] lanes from `first` on, from their sums over the strips.
    ///
    /// # Safety
    /// The sums are there, and the elements of the result nobody else's.
    #[inline(always)]
    unsafe fn reduce(&self, strips: usize, first: usize) {
        let lanes = self.matrix.lanes;
        for lane in first..lanes.min(first + COLUMNS) {
            // SAFETY: the lane's sums, and its element.
            unsafe {
                let sums = (0..strips).map(|strip| *self.partial.add(strip * lanes + lane));
                self.write(lane, sums.fold(Sum::<F>::default(), |total, sum| total + sum));
            }
        }
    }

    /// Writes element `at` of the result, from the sum of its products.
    ///
    /// # Safety
    /// The element is there and nobody else's.
    #[inline(always)]
    unsafe fn write(&self, at: usize, sum: Sum<F>) {
        let args = self.args;
        let scaled = args.alpha * sum;
        // SAFETY: the caller's.
        unsafe {
            let adds = args.beta != Sum::<F>::default();
            let value = if adds { scaled + args.beta * (*args.added.add(at)).widen() } else { scaled };
            *args.c.add(at) = F::narrow(value);
        }
    }
}

#[cfg(target_arch = "x86_64")]
multiversion! { Level2::work[F: Widen](level2: &Level2<'_, F>, part: usize) }
