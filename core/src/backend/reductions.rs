//! Reductions: sums along one axis, and over the rows and columns of matrices at once.

use crate::error::check_len;
use crate::private::Sealed;
use crate::view::View;
use crate::{Error, Format, Result, Storage};

/// Reductions of a device. They are independent of threads, and have the same bits on every device.
pub trait Reductions: Sealed {
    /// Adds up along the middle one of three axes, or adds up squares: see [`AxisReduction`].
    ///
    /// # Errors
    /// Everything that can be found wrong is found before the first write: see [`AxisReduction::check`].
    fn reduce_axis(&self, sums: AxisReduction<'_>) -> Result<()>;

    /// Adds up the rows of matrices and their columns: the same bits as two calls of
    /// [`sum_axis`](Reductions::reduce_axis).
    ///
    /// # Errors
    /// Everything that can be found wrong is found before the first write: see [`MatrixReduction::check`].
    fn reduce_rows_and_columns(&self, sums: MatrixReduction<'_>) -> Result<()>;
}

/// A reduction along the middle one of three axes, `to[o, i] = Σₖ from[o, k, i]`, or of squares. With `inner` 1 and
/// `count` columns it reduces the rows of matrices, with `inner` columns and `count` rows their columns.
///
/// The order is fixed. With `inner` 1, 128 accumulators start from +0. Number `j` takes every 128th element along the
/// axis, from element `j` on. Then `acc[j] += acc[j + h]` for `h` = 64, 32, … 1, and `acc[0]` is the sum. With more,
/// strips of [`STRIP`](AxisReduction::STRIP) elements along the axis are added up from +0, one after another. Strips of
/// their sums follow in the same way, until there is one. A square is rounded before it is added.
#[derive(Debug)]
pub struct AxisReduction<'a> {
    /// What is added up, row-major: `f32` or `f64`.
    pub from: View<'a>,
    /// Whether squares are added up.
    pub squares: bool,
    /// Extent of the axes before.
    pub outer: usize,
    /// Extent of the axis.
    pub count: usize,
    /// Extent of the axes behind.
    pub inner: usize,
    /// What takes the sums, `outer · inner` of them, stored as `from` is.
    pub to: &'a mut Storage,
}

impl AxisReduction<'_> {
    /// Elements along the axis that are added up one after another.
    pub const STRIP: usize = 256;
    /// Accumulators of a sum of elements that lie side by side.
    pub const ACCUMULATORS: usize = 128;

    /// Checks that it is as it says. For backends.
    ///
    /// # Errors
    /// [`Error::Length`] where the extents are not those of the memory,
    /// [`Error::Format`] where it is neither `f32` nor `f64` or the sums are not stored alike.
    pub fn check(&self) -> Result<()> {
        let operation = "reduce_axis";
        let sums = self.outer.saturating_mul(self.inner);
        check_len(operation, "what is added up", sums.saturating_mul(self.count), self.from.len())?;
        check_len(operation, "the sums", sums, self.to.len())?;
        alike(operation, &self.from, "the sums", self.to)
    }
}

/// Sums over the rows of matrices and over their columns, or of squares: those of two [`AxisReduction`], in the same order.
/// A backend may form both in one pass over memory.
#[derive(Debug)]
pub struct MatrixReduction<'a> {
    /// What is added up, matrix after matrix, row-major: `f32` or `f64`.
    pub from: View<'a>,
    /// Whether squares are added up.
    pub squares: bool,
    /// How many matrices there are.
    pub matrices: usize,
    /// Rows of each.
    pub rows: usize,
    /// Columns of each.
    pub columns: usize,
    /// What takes the sum of each row, stored as `from` is.
    pub by_row: &'a mut Storage,
    /// What takes the sum of each column, stored as `from` is.
    pub by_column: &'a mut Storage,
}

impl MatrixReduction<'_> {
    /// Checks that it is as it says. For backends.
    ///
    /// # Errors
    /// As [`AxisReduction::check`].
    pub fn check(&self) -> Result<()> {
        let operation = "reduce_rows_and_columns";
        let (rows, columns) =
            (self.matrices.saturating_mul(self.rows), self.matrices.saturating_mul(self.columns));
        check_len(operation, "what is added up", rows.saturating_mul(self.columns), self.from.len())?;
        check_len(operation, "the sums of rows", rows, self.by_row.len())?;
        check_len(operation, "the sums of columns", columns, self.by_column.len())?;
        alike(operation, &self.from, "the sums of rows", self.by_row)?;
        alike(operation, &self.from, "the sums of columns", self.by_column)
    }

    /// Returns the sums of rows and those of columns, one after the other.
    pub fn parts(&mut self) -> [AxisReduction<'_>; 2] {
        let MatrixReduction { squares, matrices, rows, columns, .. } = *self;
        let of = |outer, count, inner, to| AxisReduction {
            from: self.from.reborrow(),
            squares,
            outer,
            count,
            inner,
            to,
        };
        [of(matrices * rows, columns, 1, self.by_row), of(matrices, rows, columns, self.by_column)]
    }
}

/// Checks that sums are stored as what is added up, which is not repeated.
fn alike(operation: &'static str, from: &View<'_>, what: &str, to: &Storage) -> Result<()> {
    if from.broadcast_of().is_some() {
        return Err(Error::Unavailable(format!("{operation}: what is added up is repeated")));
    }
    let wrong = |what: &str, expected: &str, got| {
        Err(Error::Format { operation, what: what.into(), expected: expected.into(), got })
    };
    match (from.format(), to.format()) {
        (Format::F32, Format::F32) | (Format::F64, Format::F64) => Ok(()),
        (from @ (Format::F32 | Format::F64), to) => wrong(what, from.name(), to),
        (from, _) => wrong("what is added up", "f32 or f64", from),
    }
}
