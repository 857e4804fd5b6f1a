//! Which kernel runs a rule.

use super::operands::OperandPtr;
use crate::isa::Isa;
use crate::kernels::{ComputeType, KernelTable, RuleKernel, Tape};
#[cfg(target_arch = "x86_64")]
use crate::kernels::{HalfPrecisionKernel, QuantizedKernel};
#[cfg(target_arch = "x86_64")]
use crate::quant::permutes_bytes;
#[cfg(target_arch = "x86_64")]
use fallline_core::Compute;
use fallline_core::{Format, Kernel, Operand, Recorded, Role};

/// What a rule is linked as.
#[derive(Clone, Copy)]
pub(super) enum LinkedRule {
    Compiled(&'static KernelTable),
    Tape(&'static Tape),
}

impl LinkedRule {
    /// Returns that of a kernel; a derived one's tape is made when it is first run.
    pub(super) fn of(kernel: &'static Kernel) -> Option<LinkedRule> {
        if let Some(table) = kernel.host.downcast_ref() {
            return Some(LinkedRule::Compiled(table));
        }
        kernel.host.downcast_ref::<Recorded>()?.prepared(Tape::new).map(LinkedRule::Tape)
    }
}

/// The kernels that run a rule with the instruction set and compute type of a pass.
#[derive(Clone, Copy)]
pub(super) struct Dispatch<T: 'static> {
    pub(super) kernel: &'static Kernel,
    pub(super) element_kernel: RuleKernel<T>,
    pub(super) bf16_kernel: Option<RuleKernel<T>>,
    #[cfg(target_arch = "x86_64")]
    pub(super) quantized: Option<QuantizedKernel>,
    #[cfg(target_arch = "x86_64")]
    pub(super) half: Option<HalfPrecisionKernel>,
}

impl<T: ComputeType> Dispatch<T> {
    pub(super) fn of(kernel: &'static Kernel, linked: LinkedRule, isa: Isa) -> Dispatch<T> {
        let table = match linked {
            LinkedRule::Compiled(table) => table,
            LinkedRule::Tape(tape) => {
                return Dispatch {
                    kernel,
                    element_kernel: RuleKernel::of_tape(tape, isa),
                    bf16_kernel: None,
                    #[cfg(target_arch = "x86_64")]
                    quantized: None,
                    #[cfg(target_arch = "x86_64")]
                    half: None,
                };
            }
        };
        Dispatch {
            kernel,
            element_kernel: RuleKernel::Compiled(T::kernel(table, isa)),
            bf16_kernel: T::bf16_kernel(table, isa).map(RuleKernel::Compiled),
            #[cfg(target_arch = "x86_64")]
            quantized: table.quantized[isa as usize]
                .filter(|_| T::COMPUTE == Compute::F32 && (isa != Isa::Avx512 || permutes_bytes())),
            #[cfg(target_arch = "x86_64")]
            half: table.half[isa as usize].filter(|_| T::COMPUTE == Compute::F32),
        }
    }

    /// Returns the kernel that takes operands as they are stored, if any.
    pub(super) fn direct(&self, stored: &[OperandPtr]) -> Option<RuleKernel<T>> {
        let native = T::COMPUTE.format();
        let halved = |operand: &Operand| matches!(operand.role, Role::Param | Role::Grad);
        if stored.iter().any(OperandPtr::is_special) {
            return None;
        }
        if stored.iter().all(|stored| stored.format == native) {
            return Some(self.element_kernel);
        }
        let mut pairs = self.kernel.operands.iter().zip(stored);
        let fits = pairs.all(|(o, s)| s.format == if halved(o) { Format::Bf16 } else { native });
        self.bf16_kernel.filter(|_| fits)
    }
}
