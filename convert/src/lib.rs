//! Optimizer states of torch, bitsandbytes and MMEngine: read without executing anything, and written for them.
//!
//! [`archive::read`] turns a file of `torch.save` into a [`Value`], a tree of plain data. [`archive::write`] turns
//! one into a file that `torch.load(..., weights_only=True)` takes. [`safetensors`] does the same with safetensors.
//! [`from_torch`] imports a [`Checkpoint`](fallline_optim::Checkpoint) from such a tree, and [`to_torch`] exports
//! one. Both go by the table of [`layout`], which has a row for every name of the registry.
//!
//! What a file has that nobody needs is never built, whatever class it is of, and listed in the [`Report`]. [`deepspeed`] joins
//! the shards of ZeRO.
//!
//! Nothing in a file is believed: sizes and numbers of things are [limited](Limits), and no code in it is run.
//!
//! An internal crate: depend on `fallline`, which re-exports it as `fallline::convert` (feature `convert`).

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

pub mod archive;
pub mod deepspeed;
mod error;
mod export;
mod import;
pub mod layout;
mod lbfgs;
mod limits;
mod locate;
mod names;
pub mod pickle;
mod report;
pub mod safetensors;
mod tensor;
mod value;

pub use error::{Error, Result};
pub use export::{Container, ExportOptions, to_torch};
pub use import::{ImportOptions, from_torch};
pub use limits::Limits;
pub use names::{Named, names};
pub use report::Report;
pub use tensor::{Dtype, Tensor};
pub use value::{Dict, Key, Opaque, Value};
