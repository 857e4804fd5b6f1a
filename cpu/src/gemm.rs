//! Matrix products: our own AVX-512 kernel where the machine has it, `matrixmultiply` elsewhere, spread over the
//! backend's own threads.
//!
//! How a product is cut into parts depends on its dimensions alone, so threads never change a bit of it.

mod args;
mod fallback;
mod gemv;
#[cfg(target_arch = "x86_64")]
mod macrokernel;
#[cfg(target_arch = "x86_64")]
mod microkernel;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
mod transpose;

use crate::context::ExecContext;
#[cfg(target_arch = "x86_64")]
use crate::isa::Isa;
use args::{GemmArgs, Widen};
use fallline_core::backend::Gemm;
use fallline_core::{Device, Element, Error, Format, Result, Storage};
use half::{bf16, f16};

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
    #[cfg(target_arch = "x86_64")]
    if context.isa == Isa::Avx512 {
        return F::macrokernel(context, &args);
    }
    fallback::product(context, &args);
    Ok(())
}

/// An element of a factor, with the micro-kernel that multiplies it.
trait GemmElement: Element + Widen<Sum: fallback::FallbackElement> {
    /// Multiplies with AVX-512, which the machine has.
    #[cfg(target_arch = "x86_64")]
    fn macrokernel(context: ExecContext<'_>, args: &GemmArgs<Self>) -> Result<()>;
}

macro_rules! gemm_elements {
    ($($t:ty => $macrokernel:expr;)*) => { $(
        impl GemmElement for $t {
            #[cfg(target_arch = "x86_64")]
            fn macrokernel(context: ExecContext<'_>, args: &GemmArgs<Self>) -> Result<()> {
                let chosen: fn(ExecContext<'_>, &GemmArgs<Self>) -> Result<()> = $macrokernel;
                chosen(context, args)
            }
        }
    )* };
}
gemm_elements! {
    f32 => macrokernel::product::<microkernel::F32Kernel<f32>>;
    f64 => macrokernel::product::<microkernel::F64Kernel>;
    f16 => macrokernel::product::<microkernel::F32Kernel<f16>>;
    bf16 => match is_x86_feature_detected!("avx512bf16") {
        true => macrokernel::product::<microkernel::Bf16DotKernel>,
        false => macrokernel::product::<microkernel::F32Kernel<bf16>>,
    };
}
