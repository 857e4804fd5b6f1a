//! Sums over the rows and over the columns of matrices, in one pass over memory.

use super::axis::{ACCUMULATORS, STRIP, Target, Term, along, fold};
use crate::context::ExecContext;
#[cfg(target_arch = "x86_64")]
use crate::isa::{Isa, multiversion};
use crate::workspace::address;
use fallline_core::backend::MatrixReduction;
use fallline_core::{Error, Format, Result};

/// Rows of fewer elements fill too few accumulators. Their sums and those of columns are computed one after the
/// other, the second time from the cache.
const SHORT: usize = 4 * ACCUMULATORS;
/// Bytes of rows that are processed in pairs. Sums of so many columns do not stay in L1 next to the rows, so they are
/// loaded and stored once for both. Shorter rows are read faster one after the other.
const LONG: usize = 16 << 10;

/// Reduces rows and columns: see
/// [`Reductions::reduce_rows_and_columns`](fallline_core::backend::Reductions::reduce_rows_and_columns).
pub(crate) fn sum(context: ExecContext<'_>, mut sums: MatrixReduction<'_>) -> Result<()> {
    sums.check()?;
    let unreachable = |what: &str| Error::Unreachable {
        operation: "reduce_rows_and_columns",
        what: what.into(),
        device: context.device,
    };
    if !sums.from.on_host() {
        return Err(unreachable("what is added up"));
    }
    if sums.by_row.memory().host().is_none() || sums.by_column.memory().host().is_none() {
        return Err(unreachable("the sums"));
    }
    // A strip of rows is one thread's.
    let strips = sums.matrices.saturating_mul(sums.rows.div_ceil(STRIP));
    let threads = context.pool.threads();
    if sums.columns < SHORT || strips.div_ceil(threads) * threads >= 2 * strips {
        return sums.parts().into_iter().try_for_each(|sums| super::axis::sum(context, sums));
    }
    match sums.from.format() {
        Format::F64 => run::<f64>(context, sums),
        _ => run::<f32>(context, sums),
    }
}

fn run<T: Term>(context: ExecContext<'_>, sums: MatrixReduction<'_>) -> Result<()> {
    let MatrixReduction { from, squares, matrices, rows, columns, by_row, by_column } = sums;
    // SAFETY: views and storages that were checked hold as many elements of this type, on the host. Their addresses
    // have exposed provenance, and the view's memory is borrowed for reading only. None is empty, or there would be
    // no strips.
    let (from, by_row, by_column) = unsafe {
        let from: *const T = core::ptr::with_exposed_provenance(from.address());
        let to = |address| core::ptr::with_exposed_provenance_mut::<T>(address);
        (
            core::slice::from_raw_parts(from, matrices * rows * columns),
            to(by_row.address()),
            core::slice::from_raw_parts_mut(to(by_column.address()), matrices * columns),
        )
    };
    let strips = rows.div_ceil(STRIP);
    let both = |by_strip: *mut T| {
        let both =
            BothSums { from, rows, columns, strips, by_row: Target(by_row), by_strip: Target(by_strip) };
        context.pool.for_each(0..matrices * strips, |strip| match context.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the machine has the instruction set (checked when it was chosen).
            Isa::Avx512 => unsafe { avx512(&both, squares, strip) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx2 => unsafe { avx2(&both, squares, strip) },
            _ => both.strip(squares, strip),
        });
    };
    if strips == 1 {
        both(by_column.as_mut_ptr());
        return Ok(());
    }
    let mut buffer = context.workspace.acquire(size_of::<T>() * matrices * strips * columns)?;
    both(address(&mut buffer));
    // SAFETY: so many sums were written there.
    let of_strips = unsafe { core::slice::from_raw_parts(address(&mut buffer), matrices * strips * columns) };
    let done = along(context, of_strips, false, (matrices, strips, columns), by_column);
    context.workspace.release(buffer);
    done
}

/// Sums of rows, and of columns over strips of rows.
struct BothSums<'s, T> {
    from: &'s [T],
    rows: usize,
    columns: usize,
    /// Strips of a matrix.
    strips: usize,
    by_row: Target<T>,
    by_strip: Target<T>,
}

impl<T: Term> BothSums<'_, T> {
    #[inline(always)]
    fn strip(&self, squares: bool, strip: usize) {
        match squares {
            false => self.rows_of(strip, |x| x),
            true => self.rows_of(strip, |x| x * x),
        }
    }

    #[inline(always)]
    fn rows_of(&self, strip: usize, term: impl Fn(T) -> T + Copy) {
        let &BothSums { from, rows, columns, strips, .. } = self;
        let (matrix, first) = (strip / strips, strip % strips * STRIP);
        let first_row = matrix * rows + first;
        let count = STRIP.min(rows - first);
        // SAFETY: the sums of each strip's rows and columns are one part's alone.
        let (sums, by_row) = unsafe {
            (
                core::slice::from_raw_parts_mut(self.by_strip.0.add(strip * columns), columns),
                core::slice::from_raw_parts_mut(self.by_row.0.add(first_row), count),
            )
        };
        sums.fill(T::default());
        let of = &from[first_row * columns..][..count * columns];
        let in_pairs = if columns * size_of::<T>() >= LONG { count / 2 * 2 } else { 0 };
        let (pairs, rest) = by_row.split_at_mut(in_pairs);
        let (of_pairs, of_rest) = of.split_at(in_pairs * columns);
        for (to, of) in pairs.chunks_exact_mut(2).zip(of_pairs.chunks_exact(2 * columns)) {
            let (one, other) = of.split_at(columns);
            to.copy_from_slice(&pair(one, other, sums, term));
        }
        for (to, of) in rest.iter_mut().zip(of_rest.chunks_exact(columns)) {
            *to = single(of, sums, term);
        }
    }
}

/// Adds two rows to the sums of columns, and returns their own.
#[inline(always)]
fn pair<T: Term>(one: &[T], other: &[T], sums: &mut [T], term: impl Fn(T) -> T + Copy) -> [T; 2] {
    let mut of_rows = [[T::default(); ACCUMULATORS]; 2];
    let [first, second] = &mut of_rows;
    let (ones, one_rest) = one.as_chunks::<ACCUMULATORS>();
    let (others, other_rest) = other.as_chunks::<ACCUMULATORS>();
    let (turns, rest) = sums.as_chunks_mut::<ACCUMULATORS>();
    for ((one, other), sums) in ones.iter().zip(others).zip(turns) {
        for j in 0..ACCUMULATORS {
            let (x, y) = (term(one[j]), term(other[j]));
            first[j] = first[j] + x;
            second[j] = second[j] + y;
            sums[j] = sums[j] + x + y;
        }
    }
    for (j, ((&x, &y), sum)) in one_rest.iter().zip(other_rest).zip(rest).enumerate() {
        let (x, y) = (term(x), term(y));
        first[j] = first[j] + x;
        second[j] = second[j] + y;
        *sum = *sum + x + y;
    }
    of_rows.map(fold)
}

/// Adds a row to the sums of columns, and returns its own.
#[inline(always)]
fn single<T: Term>(row: &[T], sums: &mut [T], term: impl Fn(T) -> T + Copy) -> T {
    let mut of_row = [T::default(); ACCUMULATORS];
    let (turns, rest) = row.as_chunks::<ACCUMULATORS>();
    let (sums, sums_rest) = sums.as_chunks_mut::<ACCUMULATORS>();
    for (row, sums) in turns.iter().zip(sums) {
        for j in 0..ACCUMULATORS {
            let x = term(row[j]);
            of_row[j] = of_row[j] + x;
            sums[j] = sums[j] + x;
        }
    }
    for ((own, &x), sum) in of_row.iter_mut().zip(rest).zip(sums_rest) {
        let x = term(x);
        *own = *own + x;
        *sum = *sum + x;
    }
    fold(of_row)
}

#[cfg(target_arch = "x86_64")]
multiversion! { BothSums::strip[T: Term](both: &BothSums<'_, T>, squares: bool, strip: usize) }
