//! fallline's optimizers for [tch]: libtorch's tensors on the CPU are stepped where they are, without a copy.
//!
//! ```
//! use fallline_cpu::{Cpu, Native};
//! use fallline_optim::{Driver, Linked, algorithms::AdamW};
//! use fallline_tch::TchOptimizer;
//! use tch::nn::{self, Module};
//! use tch::{Device, Kind, Tensor};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = nn::VarStore::new(Device::Cpu);
//! let model = nn::linear(store.root() / "head", 4, 1, Default::default());
//!
//! let adamw = Linked::<AdamW, Native>::new(AdamW { lr: 1e-2, ..AdamW::default() })?;
//! let driver = Driver::new(Cpu::new()?.shared(), Box::new(adamw)); // or `fallline::build("AdamW")`
//! let mut optimizer = TchOptimizer::new(&store, driver)?;
//!
//! let input = Tensor::ones([8, 4], (Kind::Float, Device::Cpu));
//! for _ in 0..3 {
//!     let loss = (model.forward(&input) - 1.0).square().mean(Kind::Float);
//!     let report = optimizer.backward_step(&loss)?;
//!     assert_eq!(report.updated, 2); // "head.weight" and "head.bias"
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Parameters have the names of the [`VarStore`](tch::nn::VarStore), so configurations by name and checkpoints work. libtorch does
//! not notice that memory was written: a graph that is kept over a step computes gradients at the new values, without an error.

mod error;
mod memory;
mod optimizer;
mod store;

pub use error::{Error, Result};
pub use optimizer::TchOptimizer;

/// README's examples, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
