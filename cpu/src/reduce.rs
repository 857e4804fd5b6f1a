//! Sums along an axis, and over the rows and columns of matrices.

mod axis;
mod rows_and_columns;

pub(crate) use axis::sum as reduce_axis;
pub(crate) use rows_and_columns::sum as sum_both;
