//! The algorithms of fallline, one file each, and the driver that steps them.
//!
//! An algorithm is a table of hyperparameters ([`hyperparameters!`]), a rule
//! ([`rule!`](fallline_core::rule)) and a page of description ([`Info`]). Everything else is the
//! [`Driver`]'s: groups, states, missing gradients, saving and loading. Nothing here knows a device.

#![forbid(unsafe_code)]

mod algorithm;
pub mod algorithms;
pub mod average;
mod binding;
pub mod checkpoint;
mod driver;
mod error;
pub mod hyper;
mod kind;
pub mod lbfgs;
pub mod renamed;
mod report;
pub mod schedule;
mod slots;
pub mod stages;
#[cfg(feature = "ndarray")]
mod strided;
pub mod wrapper;

pub use algorithm::{Algorithm, AnyAlgorithm, Info, Linked, Reference};
pub use binding::{Binding, GradRef, ParamRef, frozen, param};
pub use checkpoint::Checkpoint;
pub use driver::finite::NonFinite;
pub use driver::{Driver, Member, Optimizer, ParamState, Stream};
pub use error::{Error, Result};

#[doc(hidden)] // for `renamed!`
pub use fallline_core::{Kernel, Link, Shape};
pub use kind::ModuleKind;
pub use lbfgs::Objective;
pub use report::{LoadReport, Skipped, StepReport};
