//! Microkernels on AVX2 and FMA: tiles of 4 rows and three registers of columns, 12 of the 16.

use super::super::args::{Sum, Widen};
use super::{Microkernel, kernel, register_loop, tile_loop};
use crate::isa::Isa;
use core::arch::x86_64::*;
use core::marker::PhantomData;

/// Factors in `f32`, by fused multiply-add; stored as `f32`, or in 16 bits and widened as they are packed.
pub(in super::super) struct F32Kernel<F>(PhantomData<F>);

/// Factors in `f64`, by fused multiply-add.
pub(in super::super) struct F64Kernel;

const ROWS: usize = 4;
const REGISTERS: usize = 3;

tile_loop!(
    singles, "avx2,fma", ROWS, ROWS, REGISTERS, f32 => f32, 8,
    [_mm256_setzero_ps(), _mm256_loadu_ps, _mm256_storeu_ps],
    |at| _mm256_loadu_ps(at),
    |x| _mm256_set1_ps(x),
    |t, x, y| _mm256_fmadd_ps(x, y, *t)
);
tile_loop!(
    doubles, "avx2,fma", ROWS, ROWS, REGISTERS, f64 => f64, 4,
    [_mm256_setzero_pd(), _mm256_loadu_pd, _mm256_storeu_pd],
    |at| _mm256_loadu_pd(at),
    |x| _mm256_set1_pd(x),
    |t, x, y| _mm256_fmadd_pd(x, y, *t)
);

/// Makes the loop of [`tile_loop`] for whole rows. Sums, a row of the right panel and a unit of the left one take all
/// 16 registers, so that compilers, which move loads ahead, put a sum in memory. So a step is written out. Panels are
/// longer than the first-level cache is large; what is needed eight steps later is prefetched.
macro_rules! whole_tile_loop {
    ($name:ident, $unit:ty, [$zero:expr, $load:expr, $store:expr], $spread:literal, $fma:literal) => {
        #[target_feature(enable = "avx2,fma")]
        unsafe fn $name(
            units: usize,
            mut left: *const $unit,
            mut right: *const $unit,
            sums: *mut $unit,
            fresh: bool,
        ) {
            const LANES: usize = 32 / size_of::<$unit>();
            const NR: usize = REGISTERS * LANES;
            // SAFETY: the contract of `Microkernel::microkernel`; the assembly reads ROWS units on the left and NR on
            // the right.
            unsafe {
                let at = |i: usize| sums.add(i * LANES);
                let [mut t0, mut t1, mut t2, mut t3, mut t4, mut t5, mut t6, mut t7, mut t8, mut t9, mut t10, mut t11] =
                    core::array::from_fn(|i| if fresh { $zero } else { $load(at(i)) });
                for _ in 0..units {
                    core::arch::asm!(
                        "vmovups {y0}, [{right}]",
                        "vmovups {y1}, [{right} + 32]",
                        "vmovups {y2}, [{right} + 64]",
                        "prefetcht0 [{right} + 768]",
                        "prefetcht0 [{left} + 128]",
                        concat!($spread, " {x}, [{left}]"),
                        concat!($fma, " {t0}, {x}, {y0}"),
                        concat!($fma, " {t1}, {x}, {y1}"),
                        concat!($fma, " {t2}, {x}, {y2}"),
                        concat!($spread, " {x}, [{left} + {size}]"),
                        concat!($fma, " {t3}, {x}, {y0}"),
                        concat!($fma, " {t4}, {x}, {y1}"),
                        concat!($fma, " {t5}, {x}, {y2}"),
                        concat!($spread, " {x}, [{left} + 2 * {size}]"),
                        concat!($fma, " {t6}, {x}, {y0}"),
                        concat!($fma, " {t7}, {x}, {y1}"),
                        concat!($fma, " {t8}, {x}, {y2}"),
                        concat!($spread, " {x}, [{left} + 3 * {size}]"),
                        concat!($fma, " {t9}, {x}, {y0}"),
                        concat!($fma, " {t10}, {x}, {y1}"),
                        concat!($fma, " {t11}, {x}, {y2}"),
                        left = in(reg) left,
                        right = in(reg) right,
                        size = const size_of::<$unit>(),
                        x = out(ymm_reg) _,
                        y0 = out(ymm_reg) _,
                        y1 = out(ymm_reg) _,
                        y2 = out(ymm_reg) _,
                        t0 = inout(ymm_reg) t0,
                        t1 = inout(ymm_reg) t1,
                        t2 = inout(ymm_reg) t2,
                        t3 = inout(ymm_reg) t3,
                        t4 = inout(ymm_reg) t4,
                        t5 = inout(ymm_reg) t5,
                        t6 = inout(ymm_reg) t6,
                        t7 = inout(ymm_reg) t7,
                        t8 = inout(ymm_reg) t8,
                        t9 = inout(ymm_reg) t9,
                        t10 = inout(ymm_reg) t10,
                        t11 = inout(ymm_reg) t11,
                        options(readonly, nostack, preserves_flags),
                    );
                    left = left.add(ROWS);
                    right = right.add(NR);
                }
                let tile = [t0, t1, t2, t3, t4, t5, t6, t7, t8, t9, t10, t11];
                tile.into_iter().enumerate().for_each(|(i, register)| $store(at(i), register));
            }
        }
    };
}
whole_tile_loop!(
    whole_singles,
    f32,
    [_mm256_setzero_ps(), _mm256_loadu_ps, _mm256_storeu_ps],
    "vbroadcastss",
    "vfmadd231ps"
);
whole_tile_loop!(
    whole_doubles,
    f64,
    [_mm256_setzero_pd(), _mm256_loadu_pd, _mm256_storeu_pd],
    "vbroadcastsd",
    "vfmadd231pd"
);

register_loop!(
    single_registers,
    "avx2,fma",
    ROWS * REGISTERS,
    8,
    _mm256_setzero_ps(),
    _mm256_set1_ps(1.0),
    |t, x, y| _mm256_fmadd_ps(x, y, *t)
);
register_loop!(
    double_registers,
    "avx2,fma",
    ROWS * REGISTERS,
    4,
    _mm256_setzero_pd(),
    _mm256_set1_pd(1.0),
    |t, x, y| _mm256_fmadd_pd(x, y, *t)
);

kernel!(
    [F: Widen<Sum = f32>] F32Kernel<F>, Isa::Avx2, "AVX2 FMA", single_registers, F, f32, 1, ROWS, ROWS, REGISTERS, 8, [singles::<1>, singles::<2>, whole_singles],
    |low, _high| low.widen(),
    if size_of::<F>() == 4 { 4 } else { 0 }, transpose_4x4_singles
);
kernel!(
    [] F64Kernel, Isa::Avx2, "AVX2 FMA", double_registers, f64, f64, 1, ROWS, ROWS, REGISTERS, 4, [doubles::<1>, doubles::<2>, whole_doubles],
    |low, _high| low,
    4, transpose_4x4
);

/// Transposes 4 × 4 units of four bytes.
///
/// # Safety
/// 4 rows of 16 bytes, `stride` bytes apart, may be read, and 4 of 16 bytes, `to_stride` units apart, written; the
/// machine has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn transpose_4x4_singles(from: *const u8, stride: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: the caller's.
    unsafe {
        let [mut a, mut b, mut c, mut d]: [__m128; 4] =
            core::array::from_fn(|i| _mm_loadu_ps(from.add(i * stride).cast()));
        _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
        [a, b, c, d].into_iter().enumerate().for_each(|(i, row)| _mm_storeu_ps(to.add(i * to_stride), row));
    }
}

/// Transposes 4 × 4 units of eight bytes.
///
/// # Safety
/// 4 rows of 32 bytes, `stride` bytes apart, may be read, and 4 of 32 bytes, `to_stride` units apart, written; the
/// machine has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn transpose_4x4(from: *const u8, stride: usize, to: *mut f64, to_stride: usize) {
    // SAFETY: the caller's.
    unsafe {
        let rows: [__m256d; 4] = core::array::from_fn(|i| _mm256_loadu_pd(from.add(i * stride).cast()));
        let pairs: [__m256d; 4] = core::array::from_fn(|i| {
            let (x, y) = (rows[i & !1], rows[i | 1]);
            if i & 1 == 0 { _mm256_unpacklo_pd(x, y) } else { _mm256_unpackhi_pd(x, y) }
        });
        for i in 0..4 {
            let (x, y) = (pairs[i % 2], pairs[2 + i % 2]);
            let row = if i < 2 {
                _mm256_permute2f128_pd::<0x20>(x, y)
            } else {
                _mm256_permute2f128_pd::<0x31>(x, y)
            };
            _mm256_storeu_pd(to.add(i * to_stride), row);
        }
    }
}
