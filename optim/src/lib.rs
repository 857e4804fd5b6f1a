//! The algorithms of fallline, one file each, and the driver that steps them.
//!
//! An algorithm is a table of hyperparameters ([`hyperparameters!`]), a rule
//! ([`rule!`](fallline_core::rule)) and a page of description ([`Info`]). Everything else is the
//! [`Driver`]'s: groups, states, missing gradients, saving and loading. Nothing here knows a device.
//!
//! An internal crate: depend on `fallline`, which re-exports it as `fallline::optim`.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod algorithm;
pub mod algorithms;
pub mod average;
mod binding;
#[cfg(feature = "checkpoints")]
pub mod checkpoint;
pub mod compression;
mod driver;
mod engine;
mod error;
pub mod gradient_config;
mod gradients;
pub mod hyper;
#[cfg(feature = "line-search")]
pub mod line_search;
mod map;
pub mod mask;
#[cfg(feature = "line-search")]
mod method;
pub mod modifiers;
mod module_kind;
mod objective;
pub mod op;
mod optimizer;
mod order;
mod params;
pub mod program;
pub mod ranks;
mod report;
pub mod schedule;
mod state_storage;
#[cfg(feature = "ndarray")]
mod strided;
mod weight_averaging;

#[doc(hidden)] // for `alias!`
pub use algorithm::alias_table;
pub use algorithm::{
    Algorithm, Alias, Aliased, AnyAlgorithm, BlockDefault, ErrorFeedback, Extent, Info, Init, Linked,
    MaskPolicy, Named, Reference, Replicas, Sparse, Spec, Start, State, StateSpec, Stepped, StorageDefaults,
};
pub use binding::{Binding, GradRef, ParamRef, RowsGrad, frozen, param, rows};
#[cfg(feature = "checkpoints")]
pub use checkpoint::{Checkpoint, LoadOptions};
pub use driver::{Driver, IncrementalStep, QkClip};
pub use engine::StateView;
pub use engine::group::ParamInfo;
pub use engine::offload::can_offload;
pub use error::{Error, Result};
pub use gradients::NonFinitePolicy;
pub use params::ParamPrecision;
pub use program::{Advances, Mode, Program, Site, Steps, Variant};
pub use state_storage::{Rounding, StateFormat, StateStorage};

#[doc(hidden)] // for `alias!`
pub use fallline_core::{Kernel, Link, Shape};
#[cfg(feature = "line-search")]
pub use line_search::LineSearch;
#[cfg(feature = "line-search")]
pub use method::Method;
pub use modifiers::{Lookahead, Modified, Modifiers};
pub use module_kind::ModuleKind;
pub use objective::Objective;
pub use optimizer::{Optimizer, ParamState};
#[cfg(feature = "checkpoints")]
pub use report::{ComputeMismatch, LoadReport, ShapeMismatch};
pub use report::{Skipped, StepReport};
