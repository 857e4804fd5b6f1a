//! What is compiled for each rule: a kernel for each instruction set and compute type.

use super::direct::ElementKernel;
use super::instances::Instances;
use super::interpret::{self, TapeKernel};
use super::tape::Tape;
#[cfg(target_arch = "x86_64")]
use super::{bf16, quantized};
use crate::isa::Isa;
use crate::vector::Number;
use fallline_core::Builtins;
#[cfg(target_arch = "x86_64")]
use fallline_core::Role;
use fallline_core::{Compute, Kernel, Link, Rule};

/// A rule's compiled kernels, one for each [`Isa`], in order.
pub(crate) struct KernelTable {
    f32: [ElementKernel<f32>; 4],
    f64: [ElementKernel<f64>; 4],
    /// Parameter and gradient stored as bfloat16, the states in the compute type: the usual mixture needs no scratch.
    bf16: [Option<ElementKernel<f32>>; 4],
    /// States with dynamic codes, dequantized and quantized in the same loop.
    #[cfg(target_arch = "x86_64")]
    pub(crate) quantized: [Option<quantized::QuantizedKernel>; 4],
    /// Operands stored as `f32` or bfloat16 in any mixture, rounded stochastically or not.
    #[cfg(target_arch = "x86_64")]
    pub(crate) half: [Option<bf16::HalfPrecisionKernel>; 4],
}

/// A number that kernels calculate in.
pub(crate) trait ComputeType: Number {
    /// The compute type that this number is.
    const COMPUTE: Compute;
    /// Returns the kernel for an instruction set.
    fn kernel(table: &KernelTable, isa: Isa) -> ElementKernel<Self>;
    /// Returns the interpreter of tapes for an instruction set.
    fn tape_kernel(isa: Isa) -> TapeKernel<Self>;
    /// Returns the kernel for parameters and gradients stored as bfloat16, if any.
    fn bf16_kernel(table: &KernelTable, isa: Isa) -> Option<ElementKernel<Self>>;
}

impl ComputeType for f32 {
    const COMPUTE: Compute = Compute::F32;
    fn kernel(table: &KernelTable, isa: Isa) -> ElementKernel<f32> {
        table.f32[isa as usize]
    }
    fn tape_kernel(isa: Isa) -> TapeKernel<f32> {
        interpret::kernel_f32(isa)
    }
    fn bf16_kernel(table: &KernelTable, isa: Isa) -> Option<ElementKernel<f32>> {
        table.bf16[isa as usize]
    }
}

impl ComputeType for f64 {
    const COMPUTE: Compute = Compute::F64;
    fn kernel(table: &KernelTable, isa: Isa) -> ElementKernel<f64> {
        table.f64[isa as usize]
    }
    fn tape_kernel(isa: Isa) -> TapeKernel<f64> {
        interpret::kernel_f64(isa)
    }
    fn bf16_kernel(_: &KernelTable, _: Isa) -> Option<ElementKernel<f64>> {
        None
    }
}

/// Compiles rules for the CPU: name it where algorithms are linked.
#[derive(Clone, Copy, Debug)]
pub struct Native;

impl Link for Native {
    fn kernel<R: Rule>() -> &'static Kernel {
        &Linked::<R>::KERNEL
    }

    fn builtins() -> &'static Builtins {
        static COMPILED: &Builtins = Builtins::of::<Native>();
        COMPILED
    }
}

/// A rule with its kernels.
struct Linked<R>(R);

impl<R: Rule> Linked<R> {
    const KERNEL: Kernel = Kernel::new::<R>(&Self::TABLE);

    #[cfg(target_arch = "x86_64")]
    const TABLE: KernelTable = KernelTable {
        f32: [R::scalar_f32, R::wide_f32, R::avx2_f32, R::avx512_f32],
        f64: [R::scalar_f64, R::wide_f64, R::avx2_f64, R::avx512_f64],
        bf16: match cfg!(feature = "fused-16bit") {
            true => [None, None, Some(R::avx2_mixed), Some(R::avx512_mixed)],
            false => [None; 4],
        },
        quantized: match cfg!(feature = "fused-8bit") && R::SUMS.is_empty() && has_state::<R>() {
            true => [None, None, Some(R::avx2_quantized), Some(R::avx512_quantized)],
            false => [None; 4],
        },
        half: match cfg!(feature = "fused-16bit") && R::SUMS.is_empty() {
            true => [None, None, Some(R::avx2_half), Some(R::avx512_half)],
            false => [None; 4],
        },
    };

    /// Elsewhere the baseline replaces the instruction sets that are never available.
    #[cfg(not(target_arch = "x86_64"))]
    const TABLE: KernelTable = KernelTable {
        f32: [R::scalar_f32, R::wide_f32, R::wide_f32, R::wide_f32],
        f64: [R::scalar_f64, R::wide_f64, R::wide_f64, R::wide_f64],
        bf16: [None; 4],
    };
}

/// Returns whether a rule has a state.
#[cfg(target_arch = "x86_64")]
const fn has_state<R: Rule>() -> bool {
    let mut k = 0;
    while k < R::OPERANDS.len() {
        if matches!(R::OPERANDS[k].role, Role::State) {
            return true;
        }
        k += 1;
    }
    false
}

/// What runs a rule over elements: compiled for it, or a tape with what interprets one.
pub(crate) enum RuleKernel<T: 'static> {
    Compiled(ElementKernel<T>),
    Interpreted(TapeKernel<T>, &'static Tape),
}

impl<T> Clone for RuleKernel<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for RuleKernel<T> {}

impl<T: ComputeType> RuleKernel<T> {
    /// Returns what interprets a tape, for an instruction set.
    pub(crate) fn of_tape(tape: &'static Tape, isa: Isa) -> RuleKernel<T> {
        RuleKernel::Interpreted(T::tape_kernel(isa), tape)
    }

    /// Runs the rule.
    ///
    /// # Safety
    /// As for [`ElementKernel`].
    #[inline(always)]
    pub(crate) unsafe fn run(
        self,
        scalars: *const T,
        operands: *const *mut T,
        elements: usize,
        accumulators: *mut T,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            match self {
                RuleKernel::Compiled(kernel) => kernel(scalars, operands, elements, accumulators),
                RuleKernel::Interpreted(kernel, tape) => {
                    kernel(tape, scalars, operands, elements, accumulators)
                }
            }
        }
    }
}
