//! Row-sparse gradients: checked, added up, and taken row by row or as a whole.

use crate::binding::RowsGrad;
use crate::{Result, Sparse};
use core::ops::Range;
use core::slice;
use fallline_core::backend::{GatherSum, Scatter, TensorPass, View, Views};
use fallline_core::{Backend, Compute, Format, Shape, Storage};

/// A parameter's row-sparse gradient in the step being taken, with buffers that are kept between steps.
#[derive(Debug, Default)]
pub(crate) struct RowSparseGrad {
    /// How the algorithm takes it.
    row_wise: bool,
    /// Elements of a row.
    width: usize,
    /// The rows that are named, in rising order, each once.
    index: Vec<u64>,
    /// The same, neighbours together.
    runs: Vec<Range<usize>>,
    /// Whether the rows are named like that, so that their values can be used where they are.
    in_order: bool,
    /// Otherwise: rows and places of the values by row, and by place where the row is the same. Then the places
    /// alone, and where those of each row end.
    pairs: Vec<(u64, u64)>,
    order: Vec<u64>,
    ends: Vec<u64>,
    /// A row of values for each of `index`.
    sums: Option<Storage>,
    /// The gradient with zeros in the other rows, the rows in which it has values, and zeros for as many.
    whole: Option<Storage>,
    laid: Vec<u64>,
    zeros: Option<Storage>,
}

/// Returns the rows of a slot, if its gradient in this step is row-sparse.
pub(crate) fn of(slot: &Option<Box<RowSparseGrad>>, sparse: bool) -> Option<&RowSparseGrad> {
    slot.as_deref().filter(|_| sparse)
}

impl RowSparseGrad {
    /// Takes the gradient's indices, if everything about it fits a parameter of this shape.
    pub(crate) fn check(&mut self, grad: &RowsGrad<'_>, param: &Shape, sparse: Sparse) -> Result<(), String> {
        let Some((&rows, row)) = param.dims().split_first() else {
            return Err("belongs to a parameter of no dimensions, which has no rows".into());
        };
        let count = grad.indices.len();
        let expected = Shape::from(&[&[count], row].concat()[..]);
        let found = grad.values.dims().filter(|_| grad.values.as_rows().is_none());
        let found = found.ok_or("has values that are row-sparse themselves")?;
        if !found.fit(&expected) {
            return Err(format!("has values of shape {}, expected {expected}", Shape::from(found)));
        }
        let outside = |index: &&i64| usize::try_from(**index).map_or(true, |index| index >= rows);
        if let Some(index) = grad.indices.iter().find(outside) {
            return Err(format!("names row {index}, but there are rows 0 to {}", rows as i64 - 1));
        }
        self.row_wise = sparse.is_row_wise();
        self.width = Shape::from(row).elements();
        self.sort_indices(grad.indices);
        Ok(())
    }

    fn sort_indices(&mut self, indices: &[i64]) {
        self.index.clear();
        self.runs.clear();
        self.in_order = indices.windows(2).all(|pair| pair[0] < pair[1]);
        if self.in_order {
            self.index.extend(indices.iter().map(|&index| index as u64));
        } else {
            self.pairs.clear();
            self.pairs.extend(indices.iter().zip(0..).map(|(&index, place)| (index as u64, place)));
            self.pairs.sort_unstable();
            self.order.clear();
            self.ends.clear();
            for &(index, place) in &self.pairs {
                if self.index.last() != Some(&index) {
                    self.index.push(index);
                    self.ends.push(0);
                }
                self.order.push(place);
                *self.ends.last_mut().expect("the row just named") = self.order.len() as u64;
            }
        }
        for &index in &self.index {
            let row = index as usize;
            match self.runs.last_mut() {
                Some(run) if run.end == row => run.end += 1,
                _ => self.runs.push(row..row + 1),
            }
        }
    }

    /// Returns the elements that are given, each row once.
    pub(crate) fn elements(&self) -> usize {
        self.index.len() * self.width
    }

    /// Returns in how many parts a pass takes them; `None` where it takes the whole gradient.
    pub(crate) fn parts(&self) -> Option<usize> {
        self.row_wise.then_some(self.runs.len())
    }

    /// Returns each row once, the values as they were `given` at hand.
    pub(crate) fn coalesced<'v>(&'v self, given: Option<View<'v>>) -> Option<View<'v>> {
        match &self.sums {
            Some(sums) if !self.in_order => Some(View::read(sums).slice(0, self.elements())),
            _ => given,
        }
    }

    /// Returns what a pass reads: each row once, or the whole gradient.
    pub(crate) fn grad<'v>(&'v self, given: Option<View<'v>>) -> Option<View<'v>> {
        if self.row_wise { self.coalesced(given) } else { self.whole.as_ref().map(View::read) }
    }

    /// Adds up the rows that are named more than once, and lays out the whole gradient where the algorithm takes that.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn coalesce<'v>(
        &mut self,
        backend: &dyn Backend,
        grad: impl Fn() -> Option<View<'v>>,
        shape: &Shape,
        compute: Compute,
    ) -> Result<()> {
        let Some(given) = grad() else { return Ok(()) };
        let format = compute.format();
        // A rule reads values in any format, but the whole gradient is laid out in the one that is computed in.
        let convert = !self.row_wise && given.format() != format;
        if convert && self.in_order {
            self.order.clear();
            self.order.extend(0..self.index.len() as u64);
            self.ends.clear();
            self.ends.extend(1..=self.index.len() as u64);
            self.in_order = false;
        }
        if !self.in_order {
            let needed = self.elements();
            if self.sums.as_ref().is_none_or(|sums| sums.len() < needed || sums.format() != format) {
                self.sums = backend.allocate(&[(format, needed.next_power_of_two())])?.pop();
            }
            let RowSparseGrad { order, ends, sums: Some(to), width, .. } = self else { return Ok(()) };
            backend.indexing().gather_sum(GatherSum { from: given, width: *width, order, ends, to })?;
        }
        if self.row_wise {
            return Ok(());
        }
        let mut whole = self.cleared(backend, (format, shape.elements()))?;
        let Some(from) = self.coalesced(grad()) else { return Ok(()) };
        let (width, index) = (self.width, &self.index);
        let laid = backend.indexing().scatter(Scatter { from, width, index, to: &mut whole });
        if laid.is_ok() {
            self.whole = Some(whole);
            self.laid.clone_from(&self.index);
        }
        Ok(laid?)
    }

    /// Returns memory of zeros: that of the step before without its rows, or new one.
    fn cleared(&mut self, backend: &dyn Backend, (format, elements): (Format, usize)) -> Result<Storage> {
        let kept = self.whole.take().filter(|whole| (whole.format(), whole.len()) == (format, elements));
        let Some(mut whole) = kept else { return Ok(backend.allocate(&[(format, elements)])?.remove(0)) };
        let needed = self.laid.len() * self.width;
        if self.zeros.as_ref().is_none_or(|zeros| zeros.len() < needed || zeros.format() != format) {
            self.zeros = backend.allocate(&[(format, needed.next_power_of_two())])?.pop();
        }
        if let Some(zeros) = &self.zeros {
            let (from, width, index) = (View::read(zeros).slice(0, needed), self.width, &self.laid[..]);
            backend.indexing().scatter(Scatter { from, width, index, to: &mut whole })?;
        }
        Ok(whole)
    }
}

/// The operands of a parameter whose rows a pass takes part by part.
pub(crate) struct RowRuns<'v> {
    views: Views<'v>,
    grad: Option<usize>,
    runs: slice::Iter<'v, Range<usize>>,
    width: usize,
    /// The elements that are behind.
    at: usize,
    row: usize,
}

impl<'v> RowRuns<'v> {
    /// Makes the runs. The `views` are whole but for the gradient, which has the rows alone; `row` is the
    /// parameter's row of scalars.
    pub(crate) fn new(
        rows: &'v RowSparseGrad,
        views: Views<'v>,
        grad: Option<usize>,
        row: usize,
    ) -> RowRuns<'v> {
        RowRuns { views, grad, runs: rows.runs.iter(), width: rows.width, at: 0, row }
    }

    /// Returns the next part.
    pub(crate) fn next(&mut self, views: &mut Views<'v>) -> Option<TensorPass> {
        let run = self.runs.next()?;
        let (skip, elements) = (run.start * self.width - self.at, run.len() * self.width);
        for (i, (view, whole)) in views.iter_mut().zip(&mut self.views).enumerate() {
            let skip = if self.grad == Some(i) { 0 } else { skip };
            *view = whole.as_mut().map(|whole| whole.take(skip, elements));
        }
        self.at = run.end * self.width;
        Some(TensorPass { elements, constant_set: self.row })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn laid_out(indices: &[i64]) -> RowSparseGrad {
        let mut rows = RowSparseGrad { width: 1, ..RowSparseGrad::default() };
        rows.sort_indices(indices);
        rows
    }

    #[test]
    fn rows_in_order_stay_where_they_are() {
        let rows = laid_out(&[0, 1, 5, 7, 8, 9]);
        assert!(rows.in_order);
        assert_eq!(rows.runs, [0..2, 5..6, 7..10]);
        assert!(laid_out(&[]).in_order);
    }

    #[test]
    fn repeated_rows_are_added_up_in_the_order_given() {
        let rows = laid_out(&[4, 2, 4, 3, 2, 2]);
        assert!(!rows.in_order);
        assert_eq!((&rows.index[..], rows.runs.len(), &rows.runs[0]), (&[2, 3, 4][..], 1, &(2..5)));
        assert_eq!((&rows.order[..], &rows.ends[..]), (&[1, 4, 5, 3, 0, 2][..], &[3, 4, 6][..]));
    }
}
