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
use core::sync::atomic::{AtomicUsize, Ordering};
use fallline_core::backend::Gemm;
use fallline_core::{Device, Element, Error, Format, Result, Storage};
use half::{bf16, f16};
use microkernel::Microkernel;
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
    F::with_kernel(context.isa, Blocks { context, args: &args })
}

/// Multiplies in registers alone, `rounds` times in each of them on every thread.
pub(crate) fn in_registers(context: ExecContext<'_>, format: Format, rounds: usize) -> Result<InRegisters> {
    let registers = Registers { context, rounds };
    match format {
        Format::F64 => Ok(f64::with_kernel(context.isa, registers)),
        Format::F32 => Ok(f32::with_kernel(context.isa, registers)),
        Format::Bf16 => Ok(bf16::with_kernel(context.isa, registers)),
        Format::F16 => Ok(f16::with_kernel(context.isa, registers)),
        got => Err(Error::Format {
            operation: "multiply_in_registers",
            what: "the factors".into(),
            expected: "f64, f32, bf16 or f16".into(),
            got,
        }),
    }
}

/// What multiplied in registers alone, and how much.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct InRegisters {
    /// The unit of the processor.
    pub unit: &'static str,
    /// Multiplications, each with its addition.
    pub operations: usize,
}

/// What is done with the kernel of an element and an instruction set.
trait KernelVisitor<F> {
    type Output;
    fn visit<K: Microkernel<Element = F>>(self) -> Self::Output;
}

/// A product, block by block.
struct Blocks<'a, F: Widen> {
    context: ExecContext<'a>,
    args: &'a GemmArgs<F>,
}

impl<F: Widen> KernelVisitor<F> for Blocks<'_, F> {
    type Output = Result<()>;
    fn visit<K: Microkernel<Element = F>>(self) -> Result<()> {
        macrokernel::product::<K>(self.context, self.args)
    }
}

/// The peak of a kernel's unit.
struct Registers<'a> {
    context: ExecContext<'a>,
    rounds: usize,
}

impl<F> KernelVisitor<F> for Registers<'_> {
    type Output = InRegisters;
    fn visit<K: Microkernel<Element = F>>(self) -> InRegisters {
        let operations = AtomicUsize::new(0);
        // In parts, so that threads end together.
        let parts = PARTS_PER_THREAD * self.context.pool.threads();
        self.context.pool.for_each(0..parts, |_| {
            // SAFETY: the machine has what the kernel needs (checked when the instruction set was chosen).
            let done = unsafe { K::in_registers(self.rounds.div_ceil(PARTS_PER_THREAD)) };
            operations.fetch_add(done, Ordering::Relaxed);
        });
        InRegisters { unit: K::NAME, operations: operations.into_inner() }
    }
}

const PARTS_PER_THREAD: usize = 8;

/// An element of a factor, with the kernels that multiply it.
trait GemmElement: Element + Widen<Sum: fused::Emulated> {
    /// Calls the visitor with the kernel of an instruction set, which the machine has.
    fn with_kernel<V: KernelVisitor<Self>>(isa: Isa, visitor: V) -> V::Output;
}

macro_rules! gemm_elements {
    ($($t:ty as $kernel:ident $(<$of:ty>)? $(or $dot:ident if $has:expr)?;)*) => { $(
        impl GemmElement for $t {
            fn with_kernel<V: KernelVisitor<Self>>(isa: Isa, visitor: V) -> V::Output {
                match isa {
                    $(
                        #[cfg(target_arch = "x86_64")]
                        Isa::Avx512 if $has => visitor.visit::<avx512::$dot>(),
                    )?
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => visitor.visit::<avx512::$kernel $(<$of>)?>(),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => visitor.visit::<avx2::$kernel $(<$of>)?>(),
                    #[cfg(target_arch = "aarch64")]
                    Isa::Baseline => visitor.visit::<neon::$kernel $(<$of>)?>(),
                    _ => visitor.visit::<PortableKernel<$t>>(),
                }
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
