//! Microkernels on AVX-512: tiles of 8 rows and three registers of columns, 24 of the 32.

use super::super::args::{Sum, Widen};
use super::{Microkernel, kernel, register_loop, tile_loop};
use crate::isa::Isa;
use core::arch::x86_64::*;
use core::marker::PhantomData;
use half::bf16;

/// Factors in `f32`, by fused multiply-add; stored as `f32`, or in 16 bits and widened as they are packed.
pub(in super::super) struct F32Kernel<F>(PhantomData<F>);

/// Factors in `f64`, by fused multiply-add.
pub(in super::super) struct F64Kernel;

/// Factors in `bf16`, two along the product in a k-group, by the dot product of AVX-512 BF16. It adds up in `f32` and
/// takes subnormal numbers as zero.
pub(in super::super) struct Bf16DotKernel;

const ROWS: usize = 8;
const REGISTERS: usize = 3;

tile_loop!(
    singles, "avx512f", REGISTERS * 16, ROWS, REGISTERS, f32 => f32, 16,
    [_mm512_setzero_ps(), _mm512_loadu_ps, _mm512_storeu_ps],
    |at| _mm512_loadu_ps(at),
    |x| _mm512_set1_ps(x),
    |t, x, y| _mm512_fmadd_ps(x, y, *t)
);
tile_loop!(
    doubles, "avx512f", REGISTERS * 8, ROWS, REGISTERS, f64 => f64, 8,
    [_mm512_setzero_pd(), _mm512_loadu_pd, _mm512_storeu_pd],
    |at| _mm512_loadu_pd(at),
    |x| _mm512_set1_pd(x),
    |t, x, y| _mm512_fmadd_pd(x, y, *t)
);
tile_loop!(
    pairs, "avx512f,avx512bf16", REGISTERS * 16, ROWS, REGISTERS, u32 => f32, 16,
    [_mm512_setzero_ps(), _mm512_loadu_ps, _mm512_storeu_ps],
    |at: *const u32| _mm512_loadu_si512(at.cast()),
    |x: u32| _mm512_set1_epi32(x as i32),
    |t, x, y| _mm512_dpbf16_ps(
        *t,
        core::mem::transmute::<__m512i, __m512bh>(x),
        core::mem::transmute::<__m512i, __m512bh>(y),
    )
);

register_loop!(
    single_registers,
    "avx512f",
    ROWS * REGISTERS,
    16,
    _mm512_setzero_ps(),
    _mm512_set1_ps(1.0),
    |t, x, y| _mm512_fmadd_ps(x, y, *t)
);
register_loop!(
    double_registers,
    "avx512f",
    ROWS * REGISTERS,
    8,
    _mm512_setzero_pd(),
    _mm512_set1_pd(1.0),
    |t, x, y| _mm512_fmadd_pd(x, y, *t)
);
register_loop!(
    pair_registers,
    "avx512f,avx512bf16",
    ROWS * REGISTERS,
    32,
    _mm512_setzero_ps(),
    _mm512_set1_epi32(0x3f80_3f80),
    |t, x, y| _mm512_dpbf16_ps(
        *t,
        core::mem::transmute::<__m512i, __m512bh>(x),
        core::mem::transmute::<__m512i, __m512bh>(y),
    )
);

kernel!(
    [F: Widen<Sum = f32>] F32Kernel<F>, Isa::Avx512, "AVX-512 FMA", single_registers, F, f32, 1, REGISTERS * 16, ROWS, REGISTERS, 16, [singles::<1>, singles::<2>, singles::<3>],
    |low, _high| low.widen(),
    if size_of::<F>() == 4 { 16 } else { 0 }, transpose_16x16
);
kernel!(
    [] F64Kernel, Isa::Avx512, "AVX-512 FMA", double_registers, f64, f64, 1, REGISTERS * 8, ROWS, REGISTERS, 8, [doubles::<1>, doubles::<2>, doubles::<3>],
    |low, _high| low,
    8, transpose_8x8
);
kernel!(
    [] Bf16DotKernel, Isa::Avx512, "AVX-512 BF16", pair_registers, bf16, u32, 2, REGISTERS * 16, ROWS, REGISTERS, 16, [pairs::<1>, pairs::<2>, pairs::<3>],
    |low, high| u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16,
    16, transpose_16x16
);

/// Transposes 16 × 16 units of four bytes.
///
/// # Safety
/// 16 rows of 64 bytes, `stride` bytes apart, may be read, and 16 of 64 bytes, `to_stride` units apart, written; the
/// machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_16x16(from: *const u8, stride: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: the caller's.
    unsafe {
        let rows: [__m512; 16] = core::array::from_fn(|i| _mm512_loadu_ps(from.add(i * stride).cast()));
        // Interleaves pairs of rows, then fours, then the quarters of registers twice. What was in lane 4 a + b of
        // row i goes to lane i of row 4 a + b.
        let pairs: [__m512; 16] = core::array::from_fn(|i| {
            let (x, y) = (rows[i & !1], rows[i | 1]);
            if i & 1 == 0 { _mm512_unpacklo_ps(x, y) } else { _mm512_unpackhi_ps(x, y) }
        });
        let fours: [__m512; 16] = core::array::from_fn(|i| {
            // Column i % 4 of each quarter of the rows 4 (i / 4) to 4 (i / 4) + 3.
            let half = i >> 1 & 1;
            let (x, y) = (_mm512_castps_pd(pairs[i & !3 | half]), _mm512_castps_pd(pairs[i & !3 | 2 | half]));
            _mm512_castpd_ps(if i & 1 == 0 { _mm512_unpacklo_pd(x, y) } else { _mm512_unpackhi_pd(x, y) })
        });
        let eights: [__m512; 16] = core::array::from_fn(|i| {
            // Rows 0 to 7 or 8 to 15; quarters 0 and 2, or 1 and 3.
            let (x, y) = (fours[i & 8 | i & 3], fours[i & 8 | 4 | i & 3]);
            if i & 4 == 0 { _mm512_shuffle_f32x4::<0x88>(x, y) } else { _mm512_shuffle_f32x4::<0xdd>(x, y) }
        });
        for i in 0..16 {
            let (quarter, column) = (i / 4, i % 4);
            let (x, y) = (eights[(quarter & 1) * 4 + column], eights[8 + (quarter & 1) * 4 + column]);
            let row = if quarter < 2 {
                _mm512_shuffle_f32x4::<0x88>(x, y)
            } else {
                _mm512_shuffle_f32x4::<0xdd>(x, y)
            };
            _mm512_storeu_ps(to.add(i * to_stride), row);
        }
    }
}

/// Transposes 8 × 8 units of eight bytes.
///
/// # Safety
/// 8 rows of 64 bytes, `stride` bytes apart, may be read, and 8 of 64 bytes, `to_stride` units apart, written; the
/// machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_8x8(from: *const u8, stride: usize, to: *mut f64, to_stride: usize) {
    // SAFETY: the caller's.
    unsafe {
        let rows: [__m512d; 8] = core::array::from_fn(|i| _mm512_loadu_pd(from.add(i * stride).cast()));
        // Pairs of rows: what is even of their columns, or odd; then the quarters of registers twice.
        let pairs: [__m512d; 8] = core::array::from_fn(|i| {
            let (x, y) = (rows[i & !1], rows[i | 1]);
            if i & 1 == 0 { _mm512_unpacklo_pd(x, y) } else { _mm512_unpackhi_pd(x, y) }
        });
        let fours: [__m512d; 8] = core::array::from_fn(|i| {
            // Rows 0 to 3 or 4 to 7, column 0 or 1; quarters 0 and 2, or 1 and 3.
            let (x, y) = (pairs[i & 4 | i & 1], pairs[i & 4 | 2 | i & 1]);
            if i & 2 == 0 { _mm512_shuffle_f64x2::<0x88>(x, y) } else { _mm512_shuffle_f64x2::<0xdd>(x, y) }
        });
        for i in 0..8 {
            let (quarter, column) = (i / 2, i % 2);
            let at = (quarter & 1) * 2 + column;
            let (x, y) = (fours[at], fours[4 + at]);
            let row = if quarter < 2 {
                _mm512_shuffle_f64x2::<0x88>(x, y)
            } else {
                _mm512_shuffle_f64x2::<0xdd>(x, y)
            };
            _mm512_storeu_pd(to.add(i * to_stride), row);
        }
    }
}
