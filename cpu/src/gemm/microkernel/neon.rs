//! Microkernels on NEON, which every aarch64 processor has: tiles of 3 rows and six registers of columns, 18 of the 32.

use super::super::args::{Sum, Widen};
use super::{Microkernel, kernel, register_loop, tile_loop};
use crate::isa::Isa;
use core::arch::aarch64::*;
use core::marker::PhantomData;

/// Factors in `f32`, by fused multiply-add; stored as `f32`, or in 16 bits and widened as they are packed.
pub(in super::super) struct F32Kernel<F>(PhantomData<F>);

/// Factors in `f64`, by fused multiply-add.
pub(in super::super) struct F64Kernel;

const ROWS: usize = 3;
const REGISTERS: usize = 6;

tile_loop!(
    singles, "neon", REGISTERS * 4, ROWS, REGISTERS, f32 => f32, 4,
    [vdupq_n_f32(0.0), vld1q_f32, vst1q_f32],
    |at| vld1q_f32(at),
    |x| vdupq_n_f32(x),
    |t, x, y| vfmaq_f32(*t, x, y)
);
tile_loop!(
    doubles, "neon", REGISTERS * 2, ROWS, REGISTERS, f64 => f64, 2,
    [vdupq_n_f64(0.0), vld1q_f64, vst1q_f64],
    |at| vld1q_f64(at),
    |x| vdupq_n_f64(x),
    |t, x, y| vfmaq_f64(*t, x, y)
);

register_loop!(
    single_registers,
    "neon",
    ROWS * REGISTERS,
    4,
    vdupq_n_f32(0.0),
    vdupq_n_f32(1.0),
    |t, x, y| vfmaq_f32(*t, x, y)
);
register_loop!(
    double_registers,
    "neon",
    ROWS * REGISTERS,
    2,
    vdupq_n_f64(0.0),
    vdupq_n_f64(1.0),
    |t, x, y| vfmaq_f64(*t, x, y)
);

kernel!(
    [F: Widen<Sum = f32>] F32Kernel<F>, Isa::Baseline, "NEON FMA", single_registers, F, f32, 1, REGISTERS * 4, ROWS, REGISTERS, 4, [singles::<2>, singles::<4>, singles::<6>],
    |low, _high| low.widen(),
    if size_of::<F>() == 4 { 4 } else { 0 }
);
kernel!(
    [] F64Kernel, Isa::Baseline, "NEON FMA", double_registers, f64, f64, 1, REGISTERS * 2, ROWS, REGISTERS, 2, [doubles::<2>, doubles::<4>, doubles::<6>],
    |low, _high| low,
    4
);
