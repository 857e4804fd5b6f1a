//! Kernels as PTX text.
//!
//! | kernel | what it does |
//! |---|---|
//! | [`element_kernel`] | one pass of a recorded rule over all tensors, with the partials of its sums |
//! | [`skippable_kernel`] | the same, which a number on the device leaves out |
//! | [`numbers_kernel`] | what tensors' own scalars follow from, computed from sums that stay on the device |
//! | [`scale_kernel`] | the gradient's factor in rows of scalars, times one on the device |
//! | [`final_reduce_kernel`] | the partials of each tensor folded to its sums |
//! | [`symmetrize_kernel`] | a square matrix made symmetric |
//! | [`sum_rows_kernel`], [`sum_short_rows_kernel`], [`sum_columns_kernel`] | sums over rows and columns of matrices |
//! | [`gather_rows_kernel`], [`scatter_rows_kernel`] | rows copied by index |
//! | [`add_rows_kernel`] | rows gathered by index, those of one index added up |
//!
//! Every kernel gives the bits that the reference gives ([`Graph::evaluate`](fallline_core::Graph::evaluate),
//! [`codec`](fallline_core::codec), [`sums`](fallline_core::reduction)), whatever the size of its blocks and the
//! alignment of its operands. What is printed depends on the arguments alone, so that its text can be the
//! key of a cache.

#![forbid(unsafe_code)]

mod builder;
mod element;
mod final_reduce;
mod formula;
mod grid;
mod instructions;
mod nodes;
mod numbers;
mod reduce;
mod rows;
mod scale;
mod symmetrize;
mod target;
mod types;

pub use builder::Builder;
pub use element::{Stored, element_kernel, skippable_kernel};
pub use final_reduce::final_reduce_kernel;
pub use numbers::{NumberPlaces, bases, numbers_kernel};
pub use reduce::{sum_columns_kernel, sum_rows_kernel, sum_short_rows_kernel};
pub use rows::{add_rows_kernel, gather_rows_kernel, scatter_rows_kernel};
pub use scale::scale_kernel;
pub use symmetrize::symmetrize_kernel;
pub use target::{Ptx, Target};
pub use types::{Class, Reg, Space, Type, Value};
