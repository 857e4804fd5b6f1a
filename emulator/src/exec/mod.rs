//! The interpreter: warps in lock-step, blocks one after another.

mod convert;
mod float;
pub mod gemm;
mod integer;
mod launch;
mod memory;
mod regs;
mod sync;
mod transfer;
mod warp;

pub use launch::{Launch, run, shuffle};
