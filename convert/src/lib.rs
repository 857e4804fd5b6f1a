//! Optimizer states of torch, bitsandbytes and MMEngine: read without executing anything, and written for them.
//!
//! [`archive::read`] turns a file of `torch.save` into a [`Value`], a tree of plain data, and [`archive::write`] turns
//! one into a file.

#![forbid(unsafe_code)]

pub mod archive;
mod error;
mod limits;
pub mod pickle;
mod tensor;
mod value;

pub use error::{Error, Result};
pub use limits::Limits;
pub use tensor::{Dtype, Tensor};
pub use value::{Dict, Key, Value};
