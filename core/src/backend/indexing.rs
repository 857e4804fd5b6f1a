//! Indexing: rows of a table by their numbers.

use crate::error::check_len;
use crate::private::Sealed;
use crate::view::View;
use crate::{Error, Format, Result, Storage};

/// Gathers and scatters of rows by index.
pub trait Indexing: Sealed {
    /// Gathers rows by index and accumulates those that share one (a segment sum). Row i of `to` is the sum of the
    /// rows `order[j]` of `from`, with j from `ends[i - 1]` (0 for the first) to `ends[i]`. Each is rounded to the
    /// format of `to`, and they are added in this order. A row on its own is copied, not added to 0.
    ///
    /// # Errors
    /// Everything that can be found wrong is found before the first write: see [`GatherSum::check`].
    fn gather_sum(&self, rows: GatherSum<'_>) -> Result<()>;

    /// Scatters rows by index: row `index[i]` of `to` becomes row i of `from`, bit for bit.
    ///
    /// # Errors
    /// Everything that can be found wrong is found before the first write: see [`Scatter::check`].
    fn scatter(&self, rows: Scatter<'_>) -> Result<()>;
}
/// Rows to gather and add up: see [`Indexing::gather_sum`].
#[derive(Debug)]
pub struct GatherSum<'a> {
    /// The rows to choose from.
    pub from: View<'a>,
    /// Elements of a row.
    pub width: usize,
    /// Which rows, those of one sum next to each other.
    pub order: &'a [u64],
    /// Where each sum ends in `order`; the last at its end.
    pub ends: &'a [u64],
    /// What takes the sums, from its start: `f32` or `f64`.
    pub to: &'a mut Storage,
}

impl GatherSum<'_> {
    /// Checks that all of it lies in memory. For backends.
    ///
    /// # Errors
    /// [`Error::Length`] where it does not, [`Error::Format`] where sums
    /// are not `f32` or `f64`.
    pub fn check(&self) -> Result<()> {
        let operation = "gather_sum";
        check_index(operation, "the memory of the rows", self.from.len(), self.width, self.order)?;
        let needed = self.ends.len().saturating_mul(self.width);
        check_len(operation, "the sums", needed, needed.min(self.to.len()))?;
        let last = self.ends.last().map_or(0, |&end| end as usize);
        check_len(operation, "the order of the rows", last, self.order.len())?;
        if let Some(pair) = self.ends.windows(2).find(|pair| pair[0] > pair[1]) {
            check_len(operation, "a sum", pair[0] as usize, pair[1] as usize)?;
        }
        match self.to.format() {
            Format::F32 | Format::F64 => Ok(()),
            got => {
                let (what, expected) = ("the sums".to_owned(), "f32 or f64".to_owned());
                Err(Error::Format { operation, what, expected, got })
            }
        }
    }
}

/// Rows to write by index: see [`Indexing::scatter`].
#[derive(Debug)]
pub struct Scatter<'a> {
    /// The rows.
    pub from: View<'a>,
    /// Elements of a row.
    pub width: usize,
    /// Where each of them goes, in ascending order, so that none is there twice.
    pub index: &'a [u64],
    /// What they are written to, of the same format.
    pub to: &'a mut Storage,
}

impl Scatter<'_> {
    /// Checks that all of it lies in memory. For backends.
    ///
    /// # Errors
    /// [`Error::Length`] or [`Error::Format`] where it does not.
    pub fn check(&self) -> Result<()> {
        let operation = "scatter";
        check_len(operation, "the rows", self.index.len().saturating_mul(self.width), self.from.len())?;
        check_index(operation, "the target", self.to.len(), self.width, self.index)?;
        if let Some(pair) = self.index.windows(2).find(|pair| pair[0] >= pair[1]) {
            let problem = format!("{operation}: row {} stands before row {}", pair[0], pair[1]);
            return Err(Error::Unavailable(problem));
        }
        if self.from.format() != self.to.format() {
            let (expected, got) = (self.to.format().to_string(), self.from.format());
            return Err(Error::Format { operation, what: "the rows".into(), expected, got });
        }
        Ok(())
    }
}

/// Checks that `len` elements hold every row of an index.
fn check_index(operation: &'static str, what: &str, len: usize, width: usize, index: &[u64]) -> Result<()> {
    let rows = len.checked_div(width).unwrap_or(usize::MAX);
    match index.iter().max() {
        Some(&last) if last as usize >= rows => {
            check_len(operation, what, (last as usize).saturating_add(1).saturating_mul(width), len)
        }
        _ => Ok(()),
    }
}
