//! Pairs of vectors with AVX-512.

use super::pair::{QUIET, VectorPair};
use super::philox::PhiloxWords;
use crate::vector::x86::Zmm32;
use core::arch::x86_64::*;

/// Where the upper words of an unpacked pair come from, in the order of memory.
#[repr(align(64))]
struct Words([u16; 32]);
static UPPERS: Words = Words({
    let mut words = [0; 32];
    let mut i = 0;
    while i < 32 {
        // Of eight neighbours four are in one register and four in the other.
        let (eight, four, at) = (i / 8, i % 8 / 4, i % 4);
        words[i] = (32 * four + 8 * eight + 2 * at + 1) as u16;
        i += 1;
    }
    words
});

/// The same of integers: to an unpacked pair, and back.
#[repr(align(64))]
struct Places([[i32; 16]; 2]);
static UNPACKED: Places = Places({
    let mut places = [[0; 16]; 2];
    let mut i = 0;
    while i < 16 {
        places[0][i] = (8 * (i / 4) + i % 4) as i32;
        places[1][i] = places[0][i] + 4;
        i += 1;
    }
    places
});
static PACKED: Places = Places({
    let mut places = [[0; 16]; 2];
    let mut i = 0;
    while i < 16 {
        places[0][i] = (16 * (i % 8 / 4) + 4 * (i / 8) + i % 4) as i32;
        places[1][i] = places[0][i] + 8;
        i += 1;
    }
    places
});

/// Returns a pair in a different order.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn cross512(x: __m512, y: __m512, places: &Places) -> [__m512; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        let [a, b] = &places.0;
        let (a, b) = (_mm512_load_si512(a.as_ptr().cast()), _mm512_load_si512(b.as_ptr().cast()));
        [_mm512_permutex2var_ps(x, a, y), _mm512_permutex2var_ps(x, b, y)]
    }
}

/// Stores the upper halves of a pair with something added. Where a number is NaN, it stores that number made quiet.
///
/// # Safety
/// As [`VectorPair`].
#[inline(always)]
unsafe fn narrow512(pair: [Zmm32; 2], added: [__m512i; 2], to: *mut u16) {
    // SAFETY: the caller's contract.
    unsafe {
        let [Zmm32(x), Zmm32(y)] = pair;
        let (a, b) = (_mm512_castps_si512(x), _mm512_castps_si512(y));
        let (mut up, mut up2) = (_mm512_add_epi32(a, added[0]), _mm512_add_epi32(b, added[1]));
        if _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, y) != 0 {
            let quiet = _mm512_set1_epi32(QUIET);
            up = _mm512_mask_or_epi32(up, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), a, quiet);
            up2 = _mm512_mask_or_epi32(up2, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(y, y), b, quiet);
        }
        _mm512_storeu_si512(
            to.cast(),
            _mm512_permutex2var_epi16(up, _mm512_load_si512(UPPERS.0.as_ptr().cast()), up2),
        );
    }
}

/// Returns what is added to numbers so that truncating them rounds to nearest-even.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn to_even512(x: __m512) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe {
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(_mm512_castps_si512(x)), _mm512_set1_epi32(1));
        _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))
    }
}

impl VectorPair for Zmm32 {
    type Words = __m512i;

    #[inline(always)]
    unsafe fn load_pair(from: *const f32) -> [Self; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let [x, y] = cross512(_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)), &UNPACKED);
            [Zmm32(x), Zmm32(y)]
        }
    }

    #[inline(always)]
    unsafe fn store_pair(pair: [Self; 2], to: *mut f32) {
        // SAFETY: the caller's contract.
        unsafe {
            let [x, y] = cross512(pair[0].0, pair[1].0, &PACKED);
            _mm512_storeu_ps(to, x);
            _mm512_storeu_ps(to.add(16), y);
        }
    }

    #[inline(always)]
    unsafe fn load_bf16_pair(from: *const u16) -> [Self; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let (zero, x) = (_mm512_setzero_si512(), _mm512_loadu_si512(from.cast()));
            let (a, b) = (_mm512_unpacklo_epi16(zero, x), _mm512_unpackhi_epi16(zero, x));
            [Zmm32(_mm512_castsi512_ps(a)), Zmm32(_mm512_castsi512_ps(b))]
        }
    }

    #[inline(always)]
    unsafe fn store_bf16_pair(pair: [Self; 2], to: *mut u16) {
        // SAFETY: the caller's contract.
        unsafe {
            narrow512(pair, [to_even512(pair[0].0), to_even512(pair[1].0)], to);
        }
    }

    type Nan = __mmask16;

    #[inline(always)]
    unsafe fn no_nan() -> Self::Nan {
        0
    }

    #[inline(always)]
    unsafe fn nan_in(nan: Self::Nan, pair: [Self; 2]) -> Self::Nan {
        // SAFETY: the caller's contract.
        unsafe { nan | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(pair[0].0, pair[1].0) }
    }

    #[inline(always)]
    unsafe fn is_nan(nan: Self::Nan) -> bool {
        nan != 0
    }

    #[inline(always)]
    unsafe fn truncate_bf16_sr(pair: [Self; 2], random: __m512i, to: *mut u16) {
        // SAFETY: the caller's contract.
        unsafe {
            let zero = _mm512_setzero_si512();
            let up = _mm512_add_epi32(_mm512_castps_si512(pair[0].0), _mm512_unpacklo_epi16(random, zero));
            let up2 = _mm512_add_epi32(_mm512_castps_si512(pair[1].0), _mm512_unpackhi_epi16(random, zero));
            _mm512_storeu_si512(
                to.cast(),
                _mm512_permutex2var_epi16(up, _mm512_load_si512(UPPERS.0.as_ptr().cast()), up2),
            );
        }
    }

    #[inline(always)]
    unsafe fn store_bf16_sr(pair: [Self; 2], random: __m512i, to: *mut u16) {
        // SAFETY: the caller's contract.
        unsafe {
            let zero = _mm512_setzero_si512();
            let added = [_mm512_unpacklo_epi16(random, zero), _mm512_unpackhi_epi16(random, zero)];
            narrow512(pair, added, to);
        }
    }
}

impl PhiloxWords for __m512i {
    const COUNTERS: usize = 8;

    #[inline(always)]
    unsafe fn from(first: u64) -> Self {
        // SAFETY: the caller's contract.
        unsafe {
            _mm512_add_epi64(_mm512_set1_epi64(first as i64), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7))
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: u64) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm512_add_epi64(self, _mm512_set1_epi64(other as i64)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: u32) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm512_mul_epu32(self, _mm512_set1_epi64(i64::from(other))) }
    }

    #[inline(always)]
    unsafe fn high(self) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm512_srli_epi64::<32>(self) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm512_xor_si512(self, other) }
    }

    #[inline(always)]
    unsafe fn xor_word(self, word: i32) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm512_xor_si512(self, _mm512_set1_epi32(word)) }
    }

    #[inline(always)]
    unsafe fn xor3(self, other: Self, word: i32) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm512_ternarylogic_epi32::<0x96>(self, other, _mm512_set1_epi32(word)) }
    }

    #[inline(always)]
    unsafe fn interleave(self, upper: Self) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm512_mask_shuffle_epi32::<0b10_10_00_00>(self, 0xaaaa, upper) }
    }
}
