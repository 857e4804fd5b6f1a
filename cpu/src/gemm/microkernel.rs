//! The innermost loop on AVX-512: a tile of 8 rows and up to three registers of columns stays in registers, 24 of the
//! 32, while both factors' panels go by.

use super::args::Stored;
use super::pack::{Kernel, ROWS};
use core::arch::x86_64::*;
use core::marker::PhantomData;
use half::bf16;

/// The most registers in a row of a tile.
const ACROSS: usize = 3;

/// Factors in `f32`, by fused multiply-add; stored as `f32`, or in 16 bits and widened as they are packed.
pub(super) struct Singles<F>(PhantomData<F>);

/// Factors in `f64`, by fused multiply-add.
pub(super) struct Doubles;

/// Factors in `bf16`, two along the product in a unit, by the dot product of AVX-512 BF16: it adds up in `f32` and
/// takes subnormal numbers as zero.
pub(super) struct Pairs;

macro_rules! tile {
    ($name:ident, $features:literal, $unit:ty, $sum:ty, [$zero:ident, $load:ident, $store:ident],
     $right:expr, $spread:expr, |$t:ident, $x:ident, $y:ident| $fma:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const N: usize>(
            units: usize,
            mut left: *const $unit,
            mut right: *const $unit,
            sums: *mut $sum,
            fresh: bool,
        ) {
            const LANES: usize = ACROSS * 64 / size_of::<$unit>();
            const STEP: usize = LANES / ACROSS;
            // SAFETY: the contract of `Kernel::tile`.
            unsafe {
                let mut tile = [[$zero(); N]; ROWS];
                if !fresh {
                    for (r, row) in tile.iter_mut().enumerate() {
                        for (s, register) in row.iter_mut().enumerate() {
                            *register = $load(sums.add(r * LANES + s * STEP));
                        }
                    }
                }
                for _ in 0..units {
                    let columns: [_; N] = core::array::from_fn(|s| $right(right.add(s * STEP)));
                    for (r, row) in tile.iter_mut().enumerate() {
                        let $x = $spread(*left.add(r));
                        for ($t, $y) in row.iter_mut().zip(columns) {
                            *$t = $fma;
                        }
                    }
                    left = left.add(LANES);
                    right = right.add(LANES);
                }
                for (r, row) in tile.iter().enumerate() {
                    for (s, register) in row.iter().enumerate() {
                        $store(sums.add(r * LANES + s * STEP), *register);
                    }
                }
            }
        }
    };
}
tile!(
    singles,
    "avx512f",
    f32,
    f32,
    [_mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps],
    |at| _mm512_loadu_ps(at),
    |x| _mm512_set1_ps(x),
    |t, x, y| _mm512_fmadd_ps(x, y, *t)
);
tile!(
    doubles,
    "avx512f",
    f64,
    f64,
    [_mm512_setzero_pd, _mm512_loadu_pd, _mm512_storeu_pd],
    |at| _mm512_loadu_pd(at),
    |x| _mm512_set1_pd(x),
    |t, x, y| _mm512_fmadd_pd(x, y, *t)
);
tile!(
    pairs,
    "avx512f,avx512bf16",
    u32,
    f32,
    [_mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps],
    |at: *const u32| _mm512_loadu_si512(at.cast()),
    |x: u32| _mm512_set1_epi32(x as i32),
    |t, x, y| _mm512_dpbf16_ps(
        *t,
        core::mem::transmute::<__m512i, __m512bh>(x),
        core::mem::transmute::<__m512i, __m512bh>(y),
    )
);

macro_rules! kernel {
    ([$($generics:tt)*] $kernel:ty, $factor:ty, $unit:ty, $elements:literal, $plain:expr, $tile:ident,
     |$low:ident, $high:ident| $join:expr) => {
        // SAFETY: `tile` reads ROWS numbers of each unit on the left and LANES on the right, and writes the tile.
        unsafe impl<$($generics)*> Kernel for $kernel {
            type Factor = $factor;
            type Unit = $unit;
            const ELEMENTS: usize = $elements;
            const LANES: usize = ACROSS * 64 / size_of::<$unit>();
            const PLAIN: bool = $plain;
            #[inline(always)]
            fn join($low: $factor, $high: $factor) -> $unit {
                $join
            }
            #[inline(always)]
            unsafe fn tile(
                units: usize,
                columns: usize,
                left: *const $unit,
                right: *const $unit,
                sums: *mut <$factor as Stored>::Sum,
                fresh: bool,
            ) {
                // SAFETY: the caller's.
                unsafe {
                    match columns.div_ceil(Self::LANES / ACROSS) {
                        1 => $tile::<1>(units, left, right, sums, fresh),
                        2 => $tile::<2>(units, left, right, sums, fresh),
                        _ => $tile::<ACROSS>(units, left, right, sums, fresh),
                    }
                }
            }
        }
    };
}
kernel!([F: Stored<Sum = f32>] Singles<F>, F, f32, 1, size_of::<F>() == 4, singles, |low, _high| low.widen());
kernel!([] Doubles, f64, f64, 1, false, doubles, |low, _high| low);
kernel!([] Pairs, bf16, u32, 2, true, pairs, |low, high| {
    u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16
});
