//! fallline's optimizers for [burn]: all parameters of a module in one step.
//!
//! ```
//! use burn::nn::LinearConfig;
//! use burn::optim::GradientsParams;
//! use burn::tensor::{Device, Tensor};
//! use fallline_burn::BurnOptimizer;
//! use fallline_cpu::{Cpu, Native};
//! use fallline_optim::{Driver, Linked, algorithms::AdamW};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::flex().autodiff();
//! let mut model = LinearConfig::new(4, 1).init(&device);
//!
//! let adamw = Linked::<AdamW, Native>::new(AdamW { lr: 1e-2, ..AdamW::default() })?;
//! let driver = Driver::new(Cpu::new()?.shared(), Box::new(adamw)); // or `fallline::build("AdamW")`
//! let mut optimizer = BurnOptimizer::new(driver);
//!
//! let input = Tensor::<2>::ones([8, 4], &device);
//! for _ in 0..3 {
//!     let loss = (model.forward(input.clone()) - 1.0).powi_scalar(2).mean();
//!     let gradients = GradientsParams::from_grads(loss.backward(), &model);
//!     let report;
//!     (model, report) = optimizer.step(model, gradients);
//!     assert_eq!(report?.updated, 2); // "weight" and "bias"
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Parameters have their paths in the module as names, `layers.0.weight` for instance. So groups and configurations by name work,
//! and checkpoints do. burn hands tensors over by value. A step takes those that have gradients out of the module, steps them at
//! once, and puts them back.

mod error;
mod optimizer;
mod take;

pub use error::{Error, Result};
pub use optimizer::BurnOptimizer;

/// README's examples, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
