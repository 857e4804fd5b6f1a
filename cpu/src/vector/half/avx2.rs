//! Pairs of vectors with AVX2.

use super::pair::{QUIET, VectorPair};
use super::philox::PhiloxWords;
use crate::vector::x86::Ymm32;
use core::arch::x86_64::*;

/// Returns where the halves of two registers go when their pairs are unpacked, and back.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn cross([x, y]: [__m256; 2]) -> [__m256; 2] {
    // SAFETY: the caller's contract.
    unsafe { [_mm256_permute2f128_ps::<0x20>(x, y), _mm256_permute2f128_ps::<0x31>(x, y)] }
}

/// Stores the upper halves of a pair with something added. Where a number is NaN, it stores that number made quiet.
///
/// # Safety
/// As [`VectorPair`].
#[inline(always)]
unsafe fn narrow256(pair: [Ymm32; 2], added: [__m256i; 2], to: *mut u16) {
    // SAFETY: the caller's contract.
    unsafe {
        let [Ymm32(x), Ymm32(y)] = pair;
        let (a, b) = (_mm256_castps_si256(x), _mm256_castps_si256(y));
        let (mut up, mut up2) = (_mm256_add_epi32(a, added[0]), _mm256_add_epi32(b, added[1]));
        if _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, y)) != 0 {
            (up, up2) = (quiet256(x, up), quiet256(y, up2));
        }
        let (up, up2) = (_mm256_srli_epi32::<16>(up), _mm256_srli_epi32::<16>(up2));
        _mm256_storeu_si256(to.cast(), _mm256_packus_epi32(up, up2));
    }
}

/// Returns what is NaN among numbers, made quiet, and the others' `up`.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn quiet256(x: __m256, up: __m256i) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe {
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        let quiet = _mm256_or_si256(_mm256_castps_si256(x), _mm256_set1_epi32(QUIET));
        _mm256_blendv_epi8(up, quiet, nan)
    }
}

/// Returns what is added to numbers so that truncating them rounds to nearest-even.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn to_even256(x: __m256) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe {
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(_mm256_castps_si256(x)), _mm256_set1_epi32(1));
        _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))
    }
}

impl VectorPair for Ymm32 {
    type Words = __m256i;

    #[inline(always)]
    unsafe fn load_pair(from: *const f32) -> [Self; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let [x, y] = cross([_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]);
            [Ymm32(x), Ymm32(y)]
        }
    }

    #[inline(always)]
    unsafe fn store_pair(pair: [Self; 2], to: *mut f32) {
        // SAFETY: the caller's contract.
        unsafe {
            let [x, y] = cross([pair[0].0, pair[1].0]);
            _mm256_storeu_ps(to, x);
            _mm256_storeu_ps(to.add(8), y);
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pair(from: *const u16) -> [Self; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let (zero, x) = (_mm256_setzero_si256(), _mm256_loadu_si256(from.cast()));
            let (a, b) = (_mm256_unpacklo_epi16(zero, x), _mm256_unpackhi_epi16(zero, x));
            [Ymm32(_mm256_castsi256_ps(a)), Ymm32(_mm256_castsi256_ps(b))]
        }
    }

    #[inline(always)]
    unsafe fn store_bf16_pair(pair: [Self; 2], to: *mut u16) {
        // SAFETY: the caller's contract.
        unsafe {
            narrow256(pair, [to_even256(pair[0].0), to_even256(pair[1].0)], to);
        }
    }

    type Nan = __m256;

    #[inline(always)]
    unsafe fn no_nan() -> Self::Nan {
        // SAFETY: the caller's contract.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn nan_in(nan: Self::Nan, pair: [Self; 2]) -> Self::Nan {
        // SAFETY: the caller's contract.
        unsafe { _mm256_or_ps(nan, _mm256_cmp_ps::<_CMP_UNORD_Q>(pair[0].0, pair[1].0)) }
    }

    #[inline(always)]
    unsafe fn is_nan(nan: Self::Nan) -> bool {
        // SAFETY: the caller's contract.
        unsafe { _mm256_movemask_ps(nan) != 0 }
    }

    #[inline(always)]
    unsafe fn truncate_bf16_sr(pair: [Self; 2], random: __m256i, to: *mut u16) {
        // SAFETY: the caller's contract.
        unsafe {
            let zero = _mm256_setzero_si256();
            let up = _mm256_add_epi32(_mm256_castps_si256(pair[0].0), _mm256_unpacklo_epi16(random, zero));
            let up2 = _mm256_add_epi32(_mm256_castps_si256(pair[1].0), _mm256_unpackhi_epi16(random, zero));
            let (up, up2) = (_mm256_srli_epi32::<16>(up), _mm256_srli_epi32::<16>(up2));
            _mm256_storeu_si256(to.cast(), _mm256_packus_epi32(up, up2));
        }
    }

    #[inline(always)]
    unsafe fn store_bf16_sr(pair: [Self; 2], random: __m256i, to: *mut u16) {
        // SAFETY: the caller's contract.
        unsafe {
            let zero = _mm256_setzero_si256();
            let added = [_mm256_unpacklo_epi16(random, zero), _mm256_unpackhi_epi16(random, zero)];
            narrow256(pair, added, to);
        }
    }
}

impl PhiloxWords for __m256i {
    const COUNTERS: usize = 4;

    #[inline(always)]
    unsafe fn from(first: u64) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm256_add_epi64(_mm256_set1_epi64x(first as i64), _mm256_setr_epi64x(0, 1, 2, 3)) }
    }

    #[inline(always)]
    unsafe fn add(self, other: u64) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm256_add_epi64(self, _mm256_set1_epi64x(other as i64)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: u32) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm256_mul_epu32(self, _mm256_set1_epi64x(i64::from(other))) }
    }

    #[inline(always)]
    unsafe fn high(self) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm256_srli_epi64::<32>(self) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm256_xor_si256(self, other) }
    }

    #[inline(always)]
    unsafe fn xor_word(self, word: i32) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm256_xor_si256(self, _mm256_set1_epi32(word)) }
    }

    #[inline(always)]
    unsafe fn xor3(self, other: Self, word: i32) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm256_xor_si256(self, _mm256_xor_si256(other, _mm256_set1_epi32(word))) }
    }

    #[inline(always)]
    unsafe fn interleave(self, upper: Self) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm256_blend_epi32::<0b1010_1010>(self, _mm256_slli_epi64::<32>(upper)) }
    }
}
