//! Products on `matrixmultiply`, strip by strip.

use super::args::{Accumulator, GemmArgs, GemmOperand, Sum, Widen};
use crate::context::ExecContext;

/// Rows of a strip: a multiple of every micro-kernel's tile, so that strips do not change how a row's sums are cut.
const STRIP: usize = 64;

/// A number that `matrixmultiply` multiplies.
pub(super) trait FallbackElement: Accumulator + Widen<Sum = Self> {
    /// Computes `c = alpha a b + beta c` by dimensions (m, k, n) and strides (row, column).
    ///
    /// # Safety
    /// The strides describe matrices that are there; nobody else works on c.
    unsafe fn gemm(
        dims: (usize, usize, usize),
        alpha: Self,
        a: (*const Self, usize, usize),
        b: (*const Self, usize, usize),
        beta: Self,
        c: (*mut Self, usize),
    );
}

macro_rules! gemm {
    ($t:ty, $gemm:path) => {
        impl FallbackElement for $t {
            unsafe fn gemm(
                (m, k, n): (usize, usize, usize),
                alpha: Self,
                a: (*const Self, usize, usize),
                b: (*const Self, usize, usize),
                beta: Self,
                c: (*mut Self, usize),
            ) {
                let s = |stride: usize| stride as isize;
                // SAFETY: the caller's.
                unsafe {
                    $gemm(m, k, n, alpha, a.0, s(a.1), s(a.2), b.0, s(b.1), s(b.2), beta, c.0, s(c.1), 1)
                }
            }
        }
    };
}
gemm!(f32, matrixmultiply::sgemm);
gemm!(f64, matrixmultiply::dgemm);

/// Computes the product.
pub(super) fn product<F: Widen<Sum: FallbackElement>>(context: ExecContext<'_>, args: &GemmArgs<F>) {
    let &GemmArgs { m, n, .. } = args;
    let (left, right) = (Wide::of(&args.left, args.k), Wide::of(&args.right, args.k));
    context.for_each(m.div_ceil(STRIP), args.operations(), |strip| {
        let first = strip * STRIP;
        let rows = STRIP.min(m - first);
        // What is right of the strip's part of the diagonal is the mirror image of what is below.
        let columns = if args.symmetric { first + rows } else { n };
        // SAFETY: strips of rows are apart.
        unsafe { rows_of(args, &left, &right, first, rows, columns) };
    });
    if args.symmetric {
        context.for_each(m.div_ceil(STRIP), args.operations(), |strip| {
            for i in strip * STRIP..m.min((strip + 1) * STRIP) {
                for j in 0..i {
                    // SAFETY: only what is below the diagonal is read, and each element above it written once.
                    unsafe { *args.c.add(j * n + i) = *args.c.add(i * n + j) };
                }
            }
        });
    }
}

/// Computes some rows of the result, up to a column.
///
/// # Safety
/// Nobody else works on these rows.
unsafe fn rows_of<F: Widen<Sum: FallbackElement>>(
    args: &GemmArgs<F>,
    left: &Wide<F>,
    right: &Wide<F>,
    first: usize,
    rows: usize,
    columns: usize,
) {
    let &GemmArgs { k, n, alpha, beta, added, c, .. } = args;
    let zero = Sum::<F>::default();
    let mut sums = vec![zero; rows * columns];
    let start = if k == 0 { 0 } else { first * left.lane_stride };
    // SAFETY: the strides describe matrices within the factors; rows of the result are those of the caller.
    unsafe {
        let a = (left.base().add(start), left.lane_stride, left.step_stride);
        let b = (right.base(), right.step_stride, right.lane_stride);
        FallbackElement::gemm((rows, k, columns), alpha, a, b, zero, (sums.as_mut_ptr(), columns));
        for (row, sums) in sums.chunks_exact(columns).enumerate() {
            let at = (first + row) * n;
            for (j, &sum) in sums.iter().enumerate() {
                let sum = if beta == zero { sum } else { sum + beta * (*added.add(at + j)).widen() };
                *c.add(at + j) = F::narrow(sum);
            }
        }
    }
}

/// A factor in the numbers of the sums: as it is, or a copy.
struct Wide<F: Widen> {
    given: *const F,
    copy: Vec<Sum<F>>,
    lane_stride: usize,
    step_stride: usize,
}

// SAFETY: only read from here on.
unsafe impl<F: Widen> Sync for Wide<F> {}

impl<F: Widen> Wide<F> {
    fn of(side: &GemmOperand<F>, k: usize) -> Wide<F> {
        let &GemmOperand { base, lanes, lane_stride, step_stride } = side;
        let narrow = size_of::<F>() < size_of::<Sum<F>>();
        // A factor is stored without gaps, whichever way it is meant.
        let elements = if narrow { lanes * k } else { 0 };
        // SAFETY: the factor has that many elements.
        let copy = (0..elements).map(|i| unsafe { (*base.add(i)).widen() }).collect();
        Wide { given: base, copy, lane_stride, step_stride }
    }

    fn base(&self) -> *const Sum<F> {
        if self.copy.is_empty() { self.given.cast() } else { self.copy.as_ptr() }
    }
}
