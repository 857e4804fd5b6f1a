//! Kernels as PTX text.
//!
//! | kernel | what it does |
//! |---|---|
//! | [`element_kernel`] | one pass of a recorded rule over all tensors, with the partials of its sums |
//! | [`skippable_kernel`] | the same, which a number on the device leaves out |
//! | [`numbers_kernel`] | what tensors' own scalars follow from, computed from sums that stay on the device |
//! | [`scale_kernel`] | the gradient's factor in rows of scalars, times one on the device |
//! | [`fold_kernel`] | the partials of each tensor folded to its sums |
//! | [`mirror_kernel`] | a square matrix made symmetric |
//! | [`sum_rows_kernel`], [`sum_short_rows_kernel`], [`sum_columns_kernel`] | sums over rows and columns of matrices |
//! | [`gather_rows_kernel`], [`scatter_rows_kernel`] | rows copied by index |
//! | [`add_rows_kernel`] | rows gathered by index, those of one index added up |
//!
//! Every kernel gives the bits that the reference gives ([`Graph::evaluate`](fallline_core::Graph::evaluate),
//! [`codec`](fallline_core::codec), [`sums`](fallline_core::sums)), whatever the size of its blocks and the
//! alignment of its operands. What is printed depends on the arguments alone, so that its text can be the
//! key of a cache.

#![forbid(unsafe_code)]

mod builder;
mod element;
mod final_reduce;
mod formula;
mod instructions;
mod numbers;
mod reduce;
mod rows;
mod scale;
mod symmetrize;
mod types;

pub use builder::Builder;
pub use element::{Stored, element_kernel, skippable_kernel};
pub use final_reduce::fold_kernel;
pub use numbers::{bases, numbers_kernel};
pub use reduce::{sum_columns_kernel, sum_rows_kernel, sum_short_rows_kernel};
pub use rows::{add_rows_kernel, gather_rows_kernel, scatter_rows_kernel};
pub use scale::scale_kernel;
pub use symmetrize::mirror_kernel;
pub use types::{Class, Reg, Space, Type, Value};

/// The PTX version and architecture that a text is printed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// PTX 7.0 for compute capability 7.0 and later.
    Sm70,
    /// PTX 7.1 for compute capability 8.0 and later, which rounds two numbers to 16 bits in one instruction.
    Sm80,
}

impl Target {
    /// Every target.
    pub const ALL: [Target; 2] = [Target::Sm70, Target::Sm80];

    /// The best target for a device of this compute capability; `None` if it is too old for any.
    ///
    /// ```
    /// use fallline_cuda::ptx::Target;
    /// assert_eq!(Target::of_device(9, 0), Some(Target::Sm80));
    /// assert_eq!(Target::of_device(7, 5), Some(Target::Sm70));
    /// assert_eq!(Target::of_device(6, 1), None);
    /// ```
    pub const fn of_device(major: u32, _minor: u32) -> Option<Target> {
        match major {
            0..=6 => None,
            7 => Some(Target::Sm70),
            _ => Some(Target::Sm80),
        }
    }

    /// The PTX version, as the text states it.
    pub const fn version(self) -> &'static str {
        match self {
            Target::Sm70 => "7.0",
            Target::Sm80 => "7.1",
        }
    }

    /// The architecture, as the text states it.
    pub const fn architecture(self) -> &'static str {
        match self {
            Target::Sm70 => "sm_70",
            Target::Sm80 => "sm_80",
        }
    }
}

/// A printed kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Ptx {
    /// The name of its entry.
    pub entry: String,
    /// A whole module with this one entry.
    pub text: String,
    /// What it was printed for.
    pub target: Target,
}
