//! Matrix products by microkernels of our own on AVX-512, AVX2 and NEON, and by an emulated one elsewhere, spread over
//! the backend's own threads.
//!
//! # The order
//!
//! An element of a product is the same bits on every instruction set and number of threads, but for the payload of a
//! NaN: from +0 on, `s = fma(a, b, s)` in the order of the units, in `f64` for `f64` and in `f32` for all others. Then
//! it is `alpha s`, and `alpha s + beta d` where beta is not 0, each operation rounded, and rounded to the result's
//! format at last. Of a symmetric result that is computed on and below the diagonal, and mirrored.
//!
//! Products with a vector, and those of two, multiply and add apart, in the order that [`gemv`] has.
//!
//! One unit has bits of its own: the dot product of AVX-512 BF16, which multiplies `bf16` where the instruction set is
//! AVX-512 and the processor has it.

mod args;
mod fused;
mod gemv;
mod macrokernel;
mod microkernel;
mod pack;

use crate::context::ExecContext;
use crate::isa::Isa;
use args::{GemmArgs, Widen};
use fallline_core::backend::Gemm;
use fallline_core::{Device, Element, Error, Format, Result, Storage};
use half::{bf16, f16};
#[cfg(target_arch = "aarch64")]
use microkernel::neon;
use microkernel::portable::PortableKernel;
#[cfg(target_arch = "x86_64")]
use microkernel::{avx2, avx512};

/// Computes `c = alpha op(a) op(b) + beta d`.
pub(crate) fn gemm(context: ExecContext<'_>, mut product: Gemm<'_>) -> Result<()> {
    let (m, _, n) = product.dims()?;
    reachable(context.device, "the left factor", product.a.storage)?;
    reachable(context.device, "the right factor", product.b.storage)?;
    if let Some(added) = product.added_matrix() {
        reachable(context.device, "what is added", added.storage)?;
    }
    reachable(context.device, "the result", product.c)?;
    product.formats()?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    match product.c.format() {
        Format::F64 => run::<f64>(context, &mut product),
        Format::F32 => run::<f32>(context, &mut product),
        Format::Bf16 => run::<bf16>(context, &mut product),
        Format::F16 => run::<f16>(context, &mut product),
        #[allow(unreachable_patterns)]
        got => Err(Error::Format {
            operation: "gemm",
            what: "the result".into(),
            expected: "f64, f32, bf16 or f16".into(),
            got,
        }),
    }
}

fn reachable(device: Device, what: &str, storage: &Storage) -> Result<()> {
    match storage.memory().host() {
        Some(_) => Ok(()),
        None => Err(Error::Unreachable { operation: "gemm", what: what.into(), device }),
    }
}

/// Multiplies in the way that suits the dimensions.
fn run<F: GemmElement>(context: ExecContext<'_>, product: &mut Gemm<'_>) -> Result<()> {
    let args = GemmArgs::<F>::of(product)?;
    if gemv::fits(&args) {
        return gemv::product(context, &args);
    }
    match context.isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => F::avx512(context, &args),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => F::avx2(context, &args),
        #[cfg(target_arch = "aarch64")]
        Isa::Baseline => F::neon(context, &args),
        _ => macrokernel::product::<PortableKernel<F>>(context, &args),
    }
}

/// An element of a factor, with the kernels that multiply it.
trait GemmElement: Element + Widen<Sum: fused::Emulated> {
    /// Multiplies with AVX-512, which the machine has.
    #[cfg(target_arch = "x86_64")]
    fn avx512(context: ExecContext<'_>, args: &GemmArgs<Self>) -> Result<()>;
    /// Multiplies with AVX2 and FMA, which the machine has.
    #[cfg(target_arch = "x86_64")]
    fn avx2(context: ExecContext<'_>, args: &GemmArgs<Self>) -> Result<()>;
    /// Multiplies with NEON.
    #[cfg(target_arch = "aarch64")]
    fn neon(context: ExecContext<'_>, args: &GemmArgs<Self>) -> Result<()>;
}

macro_rules! gemm_elements {
    ($($t:ty as $kernel:ident $(<$of:ty>)? $(or $dot:ident if $has:expr)?;)*) => { $(
        impl GemmElement for $t {
            #[cfg(target_arch = "x86_64")]
            fn avx512(context: ExecContext<'_>, args: &GemmArgs<Self>) -> Result<()> {
                $(
                    if $has {
                        return macrokernel::product::<avx512::$dot>(context, args);
                    }
                )?
                macrokernel::product::<avx512::$kernel $(<$of>)?>(context, args)
            }
            #[cfg(target_arch = "x86_64")]
            fn avx2(context: ExecContext<'_>, args: &GemmArgs<Self>) -> Result<()> {
                macrokernel::product::<avx2::$kernel $(<$of>)?>(context, args)
            }
            #[cfg(target_arch = "aarch64")]
            fn neon(context: ExecContext<'_>, args: &GemmArgs<Self>) -> Result<()> {
                macrokernel::product::<neon::$kernel $(<$of>)?>(context, args)
            }
        }
    )* };
}
gemm_elements! {
    f32 as F32Kernel<f32>;
    f64 as F64Kernel;
    f16 as F32Kernel<f16>;
    bf16 as F32Kernel<bf16> or Bf16DotKernel if is_x86_feature_detected!("avx512bf16");
}
