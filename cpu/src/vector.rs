//! Vectors: what each instruction set can do, above which everything is generic.

#[cfg(target_arch = "x86_64")]
mod half;
mod portable;
mod register;
#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "x86_64")]
pub(crate) use half::{PhiloxCounter, PhiloxKeys, PhiloxState, VectorPair};
pub(crate) use portable::{Wide32, Wide64};
pub(crate) use register::{Number, Register, WIDEST};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Ymm32, Ymm64, Zmm32, Zmm64};
