//! The algorithms of fallline, one file each, and the driver that steps them.
//!
//! An algorithm is a table of hyperparameters ([`hyperparameters!`]), a rule
//! ([`rule!`](fallline_core::rule)) and a page of description ([`Info`]). Everything else is the
//! [`Driver`]'s: groups, states, missing gradients, saving and loading. Nothing here knows a device.

#![forbid(unsafe_code)]

mod algorithm;
pub mod algorithms;
pub mod average;
mod averaging;
mod binding;
pub mod builtins;
pub mod checkpoint;
pub mod compression;
mod driver;
mod engine;
mod error;
mod formats;
mod gradients;
pub mod hyper;
mod kind;
pub mod line_search;
pub mod mask;
mod method;
pub mod modifiers;
mod objective;
pub mod op;
mod optimizer;
mod params;
pub mod program;
pub mod ranks;
mod report;
pub mod schedule;
#[cfg(feature = "ndarray")]
mod strided;
pub mod wrapper;

#[doc(hidden)] // for `alias!`
pub use algorithm::alias_table;
pub use algorithm::{
    Algorithm, Alias, Aliased, AnyAlgorithm, BlockDefault, ErrorFeedback, Extent, Info, Init, Linked,
    MaskPolicy, Named, Reference, Replicas, Sparse, Spec, Start, State, StateSpec, Stepped, StorageDefaults,
};
pub use binding::{Binding, GradRef, ParamRef, RowsGrad, frozen, param, rows};
pub use checkpoint::{Checkpoint, LoadOptions};
pub use driver::{Driver, Stream};
pub use engine::group::Member;
pub use engine::offload::can_offload;
pub use error::{Error, Result};
pub use formats::StateFormats;
pub use gradients::NonFinite;
pub use params::ParamFormat;
pub use program::{Advances, Mode, Program, Site, Steps, Variant};

#[doc(hidden)] // for `alias!`
pub use fallline_core::{Kernel, Link, Shape};
pub use kind::ModuleKind;
pub use line_search::LineSearch;
pub use method::Method;
pub use modifiers::{Lookahead, Modified, Modifiers};
pub use objective::Objective;
pub use optimizer::{Optimizer, ParamState};
pub use report::{LoadReport, ShapeMismatch, Skipped, StepReport};
