//! The GEMM microkernel on AVX-512. A tile of 8 rows and up to three registers of columns stays in registers, 24 of
//! the 32, while both factors' panels are streamed.

use super::args::{Sum, Widen};
use core::arch::x86_64::*;
use core::marker::PhantomData;
use half::bf16;

/// The kernel of a tile, and what it wants its factors packed as.
///
/// # Safety
/// `microkernel` does what its documentation says and nothing else.
pub(super) unsafe trait Microkernel: 'static {
    /// A factor's element as it is stored.
    type Element: Widen;
    /// One number of a panel, or two that follow each other along the product.
    type Unit: Copy + Default + Send + Sync;
    /// Elements in a unit: 1 or 2.
    const ELEMENTS: usize;
    /// Lanes of a panel, of either factor: a multiple of [`MR`].
    const NR: usize;
    /// Whether a unit is four bytes and has the bits of its elements as they are stored.
    const IS_COPY: bool;

    /// Returns the unit of two elements along the product; with one element in a unit both are the same.
    fn join(low: Self::Element, high: Self::Element) -> Self::Unit;

    /// Adds the product of two panels to a tile of sums, `MR × NR` and row-major: [`MR`] lanes of the left panel, at
    /// least the first `columns` of the right one. `fresh` ones are not read.
    ///
    /// # Safety
    /// The panels hold `units` units of each lane from here on, the tile is there, and the machine has what the
    /// kernel needs.
    unsafe fn microkernel(
        units: usize,
        columns: usize,
        left: *const Self::Unit,
        right: *const Self::Unit,
        sums: *mut Sum<Self::Element>,
        fresh: bool,
    );
}

/// Rows of a tile.
pub(super) const MR: usize = 8;

/// The most lanes that a panel has.
pub(super) const MAX_NR: usize = 48;

/// The most registers in a row of a tile.
const NR_REGS: usize = 3;

/// Factors in `f32`, by fused multiply-add; stored as `f32`, or in 16 bits and widened as they are packed.
pub(super) struct F32Kernel<F>(PhantomData<F>);

/// Factors in `f64`, by fused multiply-add.
pub(super) struct F64Kernel;

/// Factors in `bf16`, two along the product in a k-group, by the dot product of AVX-512 BF16. It adds up in `f32` and
/// takes subnormal numbers as zero.
pub(super) struct Bf16DotKernel;

macro_rules! microkernel {
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
            const NR: usize = NR_REGS * 64 / size_of::<$unit>();
            const STEP: usize = NR / NR_REGS;
            // SAFETY: the contract of `Microkernel::tile`.
            unsafe {
                let mut tile = [[$zero(); N]; MR];
                if !fresh {
                    for (r, row) in tile.iter_mut().enumerate() {
                        for (s, register) in row.iter_mut().enumerate() {
                            *register = $load(sums.add(r * NR + s * STEP));
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
                    left = left.add(NR);
                    right = right.add(NR);
                }
                for (r, row) in tile.iter().enumerate() {
                    for (s, register) in row.iter().enumerate() {
                        $store(sums.add(r * NR + s * STEP), *register);
                    }
                }
            }
        }
    };
}
microkernel!(
    singles,
    "avx512f",
    f32,
    f32,
    [_mm512_setzero_ps, _mm512_loadu_ps, _mm512_storeu_ps],
    |at| _mm512_loadu_ps(at),
    |x| _mm512_set1_ps(x),
    |t, x, y| _mm512_fmadd_ps(x, y, *t)
);
microkernel!(
    doubles,
    "avx512f",
    f64,
    f64,
    [_mm512_setzero_pd, _mm512_loadu_pd, _mm512_storeu_pd],
    |at| _mm512_loadu_pd(at),
    |x| _mm512_set1_pd(x),
    |t, x, y| _mm512_fmadd_pd(x, y, *t)
);
microkernel!(
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
        // SAFETY: `microkernel` reads MR numbers of each unit on the left and NR on the right, and writes the tile.
        unsafe impl<$($generics)*> Microkernel for $kernel {
            type Element = $factor;
            type Unit = $unit;
            const ELEMENTS: usize = $elements;
            const NR: usize = NR_REGS * 64 / size_of::<$unit>();
            const IS_COPY: bool = $plain;
            #[inline(always)]
            fn join($low: $factor, $high: $factor) -> $unit {
                $join
            }
            #[inline(always)]
            unsafe fn microkernel(
                units: usize,
                columns: usize,
                left: *const $unit,
                right: *const $unit,
                sums: *mut <$factor as Widen>::Sum,
                fresh: bool,
            ) {
                // SAFETY: the caller's.
                unsafe {
                    match columns.div_ceil(Self::NR / NR_REGS) {
                        1 => $tile::<1>(units, left, right, sums, fresh),
                        2 => $tile::<2>(units, left, right, sums, fresh),
                        _ => $tile::<NR_REGS>(units, left, right, sums, fresh),
                    }
                }
            }
        }
    };
}
kernel!([F: Widen<Sum = f32>] F32Kernel<F>, F, f32, 1, size_of::<F>() == 4, singles, |low, _high| low.widen());
kernel!([] F64Kernel, f64, f64, 1, false, doubles, |low, _high| low);
kernel!([] Bf16DotKernel, bf16, u32, 2, true, pairs, |low, high| {
    u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16
});
