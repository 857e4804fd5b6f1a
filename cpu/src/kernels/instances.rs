//! The kernels that are compiled for each rule, one for each instruction set and storage.
//!
//! They are provided methods of a trait. The compiler puts an instance of a generic function into the codegen unit
//! of the module that the function is in. It puts an instance of a method into that of its type. After a change to
//! one rule an incremental build compiles the kernels of that rule again, not those of all.

#[cfg(target_arch = "x86_64")]
use super::bf16::{self, HalfOperand};
use super::direct;
#[cfg(target_arch = "x86_64")]
use super::quantized::{self, QuantOperand};
use crate::vector::{Wide32, Wide64};
#[cfg(target_arch = "x86_64")]
use crate::vector::{Ymm32, Ymm64, Zmm32, Zmm64};
use fallline_core::{Rule, Scalar};

macro_rules! instances {
    ($($(#[$meta:meta])* $name:ident($($argument:ident: $type:ty),*) = $kernel:expr;)*) => {
        /// The kernels of a rule.
        #[allow(clippy::missing_safety_doc, reason = "each asks for what the function asks that it calls")]
        pub(super) trait Instances: Rule + Sized { $(
            $(#[$meta])*
            unsafe fn $name($($argument: $type),*) {
                // SAFETY: the caller's contract.
                unsafe { $kernel($($argument),*) }
            }
        )* }
    };
}

instances! {
    scalar_f32(scalars: *const f32, operands: *const *mut f32, count: usize, sums: *mut f32)
        = direct::elements::<Self, Scalar<f32>, false>;
    scalar_f64(scalars: *const f64, operands: *const *mut f64, count: usize, sums: *mut f64)
        = direct::elements::<Self, Scalar<f64>, false>;
    wide_f32(scalars: *const f32, operands: *const *mut f32, count: usize, sums: *mut f32)
        = direct::elements::<Self, Wide32, false>;
    wide_f64(scalars: *const f64, operands: *const *mut f64, count: usize, sums: *mut f64)
        = direct::elements::<Self, Wide64, false>;
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    avx2_f32(scalars: *const f32, operands: *const *mut f32, count: usize, sums: *mut f32)
        = direct::elements::<Self, Ymm32, false>;
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    avx2_f64(scalars: *const f64, operands: *const *mut f64, count: usize, sums: *mut f64)
        = direct::elements::<Self, Ymm64, false>;
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    avx2_mixed(scalars: *const f32, operands: *const *mut f32, count: usize, sums: *mut f32)
        = direct::elements::<Self, Ymm32, true>;
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    avx2_quantized(scalars: *const f32, operands: *const QuantOperand, blocks: usize)
        = quantized::quantized::<Self, Ymm32>;
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    avx2_half(scalars: *const f32, operands: *const HalfOperand, first: usize, elements: usize)
        = bf16::bf16::<Self, Ymm32>;
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    avx512_f32(scalars: *const f32, operands: *const *mut f32, count: usize, sums: *mut f32)
        = direct::elements::<Self, Zmm32, false>;
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    avx512_f64(scalars: *const f64, operands: *const *mut f64, count: usize, sums: *mut f64)
        = direct::elements::<Self, Zmm64, false>;
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    avx512_mixed(scalars: *const f32, operands: *const *mut f32, count: usize, sums: *mut f32)
        = direct::elements::<Self, Zmm32, true>;
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx2,fma,f16c")]
    avx512_quantized(scalars: *const f32, operands: *const QuantOperand, blocks: usize)
        = quantized::quantized::<Self, Zmm32>;
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    avx512_half(scalars: *const f32, operands: *const HalfOperand, first: usize, elements: usize)
        = bf16::bf16::<Self, Zmm32>;
}

impl<R: Rule> Instances for R {}
