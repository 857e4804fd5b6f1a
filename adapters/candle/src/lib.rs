//! fallline's optimizers for [candle](candle_core): `Var`s are stepped where they are, without a copy.
//!
//! ```
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{Module, VarBuilder, VarMap};
//! use fallline_candle::CandleOptimizer;
//! use fallline_cpu::{Cpu, Native};
//! use fallline_optim::{Driver, Linked, algorithms::AdamW};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let variables = VarMap::new();
//! let builder = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
//! let model = candle_nn::linear(4, 1, builder.pp("head"))?;
//!
//! let adamw = Linked::<AdamW, Native>::new(AdamW { lr: 1e-2, ..AdamW::default() })?;
//! let driver = Driver::new(Cpu::new()?.shared(), Box::new(adamw)); // or `fallline::build("AdamW")`
//! let mut optimizer = CandleOptimizer::new(&variables, driver)?;
//!
//! let input = Tensor::ones((8, 4), DType::F32, &Device::Cpu)?;
//! for _ in 0..3 {
//!     let loss = (model.forward(&input)? - 1.0)?.sqr()?.mean_all()?;
//!     let report = optimizer.backward_step(&loss)?;
//!     assert_eq!(report.updated, 2); // "head.weight" and "head.bias"
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Parameters have the names of the [`VarMap`](candle_nn::VarMap), so configurations by name and checkpoints work.
//! candle lends a variable's memory to one operation at a time. The operations of a step are nested, so that the innermost
//! one has all of them. Clipping, accumulation and algorithms that look at all parameters together work as with slices.

mod error;
mod nest;
mod optimizer;

pub use error::{Error, Result};
pub use optimizer::CandleOptimizer;

/// Returns candle's device as one of fallline, which works in the order of candle's stream.
///
/// # Errors
/// A device that is not CUDA's; [`fallline_core::Error::Unavailable`] for one that is too old.
#[cfg(feature = "cuda")]
pub fn cuda(device: &candle_core::Device) -> Result<std::sync::Arc<fallline_cuda::Cuda>> {
    let stream = device.as_cuda_device()?.cuda_stream();
    Ok(std::sync::Arc::new(fallline_cuda::Cuda::on_stream(stream).map_err(fallline_optim::Error::from)?))
}

/// README's examples, run as tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
