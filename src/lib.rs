//! Optimizers for training neural networks without a framework. Every algorithm is written once as a rule, reads
//! like its paper, and runs at memory speed on the CPU's SIMD instruction sets.
//!
//! ```
//! use fallline::prelude::*;
//!
//! // A trainer with plain buffers:
//! let (mut weight, mut bias) = (vec![1.0f32; 12], vec![0.0f32; 4]);
//! let (weight_grad, bias_grad) = (vec![0.1f32; 12], vec![0.2f32; 4]);
//!
//! let mut optimizer = fallline::build(r#"dict(type="AdamW", lr=1e-3, weight_decay=0.05)"#)?;
//! let report = optimizer.step(&mut [
//!     param("fc.weight", &mut weight, &weight_grad).shaped(&[4, 3]),
//!     param("fc.bias", &mut bias, &bias_grad),
//! ])?;
//! assert_eq!(report.updated, 2);
//! # Ok::<(), fallline::Error>(())
//! ```
//!
//! The same without a configuration, from a struct of hyperparameters ([`OnBackend`], [`ParamGroups`]):
//!
//! ```
//! use fallline::algorithms::AdamW;
//! use fallline::prelude::*;
//!
//! let cpu = Cpu::new()?.shared();
//! let optimizer = AdamW { lr: 1e-3, weight_decay: 0.05, ..Default::default() }.on(&cpu)?.clip_norm(1.0)?;
//! # Ok::<(), fallline::Error>(())
//! ```
//!
//! Parameters are `&mut [f32]` (or `f64`, `bf16`, `f16`), `ndarray` arrays and views (feature `ndarray`, on by
//! default), or [`Tensor`]s of the engine. All are updated in place. Configurations are those of MMEngine and
//! visdet, or the same in JSON, TOML and YAML ([`Recipe`]). Your own algorithm is a [`rule!`] and a table of
//! hyperparameters, in your crate. A [`Registry`] has it by name next to the shipped ones: see
//! `examples/own_rule.rs`.
//!
//! This crate is the public API of the project; `fallline-core` and the others that it re-exports are internal. Between
//! patch releases nothing documented is taken away. [`Checkpoint`]s of every earlier version load.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod error;
#[cfg(feature = "checkpoints")]
mod model_file;
mod typed;

#[cfg(feature = "convert")]
pub use fallline_convert as convert;
pub use fallline_core as core;
pub use fallline_cpu as cpu;
#[cfg(feature = "cuda")]
pub use fallline_cuda as cuda;
#[cfg(feature = "mpi")]
pub use fallline_mpi::Mpi;
pub use fallline_optim as optim;
#[cfg(feature = "config")]
pub use fallline_registry as registry;

pub use error::{Error, Result};
#[cfg(feature = "checkpoints")]
pub use model_file::ModelFile;
pub use typed::{OnBackend, ParamGroups};

pub use fallline_core::{
    Backend, Compute, Device, Format, IntoBackend, Kernel, Link, Literal, Number, Shape, Tensor, Vector,
    bf16, f16, math, rule,
};
pub use fallline_cpu::{Cpu, Isa, Native};
#[cfg(feature = "cuda")]
pub use fallline_cuda::Cuda;
pub use fallline_optim::algorithms;
pub use fallline_optim::average::Average;
pub use fallline_optim::gradient_config::{Clip, GradientConfig, LossScaler};
pub use fallline_optim::hyper::{Range, Value};
pub use fallline_optim::ranks;
pub use fallline_optim::schedule::{Schedule, warmup_cosine};
pub use fallline_optim::{
    Algorithm, Binding, Driver, Info, Linked, Mode, ModuleKind, NonFinitePolicy, Objective, Optimizer,
    ParamInfo, QkClip, Reference, Site, Sparse, State, StepReport, Steps, Variant, alias, hyperparameters,
};
#[cfg(feature = "checkpoints")]
pub use fallline_optim::{Checkpoint, LoadOptions};
#[cfg(feature = "line-search")]
pub use fallline_optim::{LineSearch, Method};
#[cfg(feature = "config")]
pub use fallline_registry::{AnyRecipe, Recipe, Registry, SearchRecipe};

/// What a training loop needs in scope.
pub mod prelude {
    pub use crate::typed::{OnBackend, ParamGroups};
    pub use fallline_core::{Backend, Tensor, Vector, bf16, f16};
    pub use fallline_cpu::Cpu;
    #[cfg(feature = "cuda")]
    pub use fallline_cuda::Cuda;
    pub use fallline_optim::average::Average;
    pub use fallline_optim::gradient_config::{Clip, GradientConfig, LossScaler};
    pub use fallline_optim::hyper::Value;
    pub use fallline_optim::schedule::{Schedule, warmup_cosine};
    pub use fallline_optim::{
        Binding, Driver, Mode, ModuleKind, NonFinitePolicy, Optimizer, ParamInfo, StepReport, frozen, param,
        rows,
    };
    #[cfg(feature = "checkpoints")]
    pub use fallline_optim::{Checkpoint, LoadOptions};
    #[cfg(feature = "config")]
    pub use fallline_registry::Recipe;
}

/// Builds an optimizer on all of the CPU's threads from a name or a configuration.
///
/// ```
/// let sgd = fallline::build("SGD")?;
/// let lion = fallline::build("dict(type='Lion', lr=1e-4, betas=(0.95, 0.98))")?;
/// # Ok::<(), fallline::Error>(())
/// ```
///
/// # Errors
/// [`Error`] names the place, what was expected, and the nearest name that exists.
#[cfg(feature = "config")]
pub fn build(text: &str) -> Result<Driver> {
    Ok(Recipe::from_text(text)?.optimizer(Cpu::new()?.shared()))
}

/// The examples of README and of the pages in docs, run as tests.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/cookbook.md")]
    struct Cookbook;
    #[doc = include_str!("../docs/training.md")]
    struct Training;
    #[doc = include_str!("../docs/memory.md")]
    struct Memory;
    #[doc = include_str!("../docs/configuration.md")]
    struct Configuration;
    #[cfg(feature = "cuda")]
    #[doc = include_str!("../docs/cuda.md")]
    struct CudaPage;
}
