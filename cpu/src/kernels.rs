//! What runs a rule over elements: kernels that are compiled for each rule, and an interpreter for rules that never were.
//!
//! `direct` is the one loop over operands in the compute type. `bf16` and `quantized` are loops with the conversions of
//! 16-bit and 8-bit storage in them. `interpret` goes through the tape of a derived rule. `instances` are the functions that
//! are compiled for each rule, `table` what it is linked as.

#[cfg(target_arch = "x86_64")]
mod bf16;
mod direct;
mod instances;
mod interpret;
#[cfg(target_arch = "x86_64")]
mod quantized;
mod table;
mod tape;
#[cfg(target_arch = "x86_64")]
mod unroll;

#[cfg(target_arch = "x86_64")]
pub(crate) use bf16::{HalfOperand, HalfPrecisionKernel};
#[cfg(target_arch = "x86_64")]
pub(crate) use quantized::{BLOCK, QuantOperand, QuantizedKernel};
pub use table::Native;
pub(crate) use table::{ComputeType, KernelTable, RuleKernel};
pub(crate) use tape::Tape;
