//! The 4-bit codes with AVX2: 32 numbers at a time.

use super::blocks::{self, BlockCodec, BlockFormat, QuantParams, compiled};
use core::arch::x86_64::*;
use fallline_core::codec::codebook::{FOUR_BORDERS, FOUR_SIGNED, FOUR_UNSIGNED};
use fallline_core::{Codes, Format};

/// Numbers that are encoded at once.
const GROUP: usize = 32;

/// The 4-bit codes of one kind.
struct Q4Codes<const SIGNED: bool>;

/// Returns the codes of eight numbers in units of their scale.
///
/// # Safety
/// The CPU has AVX2 and FMA.
#[inline(always)]
unsafe fn codes_of<const SIGNED: bool>(y: __m256) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe {
        if !SIGNED {
            // Code i means (i + 1) / 16: its border is (i + 1/2) / 16, which still belongs to the code below. What is
            // negative becomes 0 where it is packed.
            let place = _mm256_fmsub_ps(y, _mm256_set1_ps(16.0), _mm256_set1_ps(1.5));
            return _mm256_cvttps_epi32(_mm256_ceil_ps(place));
        }
        // By halving: which of the borders is asked for is what has been found out.
        let borders = &FOUR_BORDERS[0];
        let mut code = _mm256_setzero_si256();
        for depth in 0..4 {
            let mut asked = [0.0; 8];
            for (i, border) in asked.iter_mut().enumerate() {
                // The middle one of the codes that `i` leaves, which has the lowest bits of it alone.
                *border = borders[(2 * (i % (1 << depth)) + 1) << (3 - depth)];
            }
            let [a, b, c, d, e, f, g, h] = asked;
            let border = _mm256_permutevar8x32_ps(_mm256_setr_ps(a, b, c, d, e, f, g, h), code);
            let reached = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GE_OQ>(y, border));
            code = _mm256_sub_epi32(_mm256_add_epi32(code, code), reached);
        }
        code
    }
}

impl<const SIGNED: bool> BlockFormat for Q4Codes<SIGNED> {
    const FORMAT: Format = Format::Q4(if SIGNED { Codes::Signed } else { Codes::Unsigned });

    #[inline(always)]
    unsafe fn decode(codes: *const u8, scale: f32, numbers: *mut f32, count: usize) {
        let book = if SIGNED { &FOUR_SIGNED } else { &FOUR_UNSIGNED };
        let whole = count / GROUP * GROUP;
        // SAFETY: the caller vouches for `count` elements on either side.
        unsafe {
            let (low, high) = (_mm256_loadu_ps(book.as_ptr()), _mm256_loadu_ps(book.as_ptr().add(8)));
            for i in (0..whole).step_by(GROUP) {
                let bytes = _mm_loadu_si128(codes.add(i / 2).cast());
                let half = _mm_set1_epi8(15);
                let (first, second) =
                    (_mm_and_si128(_mm_srli_epi16::<4>(bytes), half), _mm_and_si128(bytes, half));
                let (a, b) = (_mm_unpacklo_epi8(first, second), _mm_unpackhi_epi8(first, second));
                let eights = [a, _mm_srli_si128::<8>(a), b, _mm_srli_si128::<8>(b)];
                for (k, eight) in eights.into_iter().enumerate() {
                    let code = _mm256_cvtepu8_epi32(eight);
                    let upper = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(code));
                    let below = _mm256_permutevar8x32_ps(low, code);
                    let x = _mm256_blendv_ps(below, _mm256_permutevar8x32_ps(high, code), upper);
                    _mm256_storeu_ps(numbers.add(i + 8 * k), _mm256_mul_ps(x, _mm256_set1_ps(scale)));
                }
            }
            if whole < count {
                blocks::decode::<Self>(codes.add(whole / 2), scale, numbers.add(whole), count - whole);
            }
        }
    }

    #[inline(always)]
    unsafe fn encode(numbers: *const f32, params: &QuantParams, codes: *mut u8, count: usize) {
        let mut whole = 0;
        // SAFETY: the caller vouches for `count` elements on either side.
        unsafe {
            if params.usual {
                whole = count / GROUP * GROUP;
                for i in (0..whole).step_by(GROUP) {
                    let mut eights = [_mm256_setzero_si256(); 4];
                    for (k, eight) in eights.iter_mut().enumerate() {
                        let x = _mm256_loadu_ps(numbers.add(i + 8 * k));
                        *eight = codes_of::<SIGNED>(_mm256_mul_ps(x, _mm256_set1_ps(params.factor)));
                    }
                    // Neighbours share a byte, the first in its upper half: 16 a + b, then one byte of two.
                    let [a, b, c, d] = eights;
                    let bytes = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
                    let pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi16(0x0110));
                    let bytes = _mm256_packus_epi16(pairs, pairs);
                    let (first, second) =
                        (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
                    _mm_storeu_si128(codes.add(i / 2).cast(), _mm_unpacklo_epi16(first, second));
                }
            }
            if whole < count {
                blocks::encode::<Self>(numbers.add(whole), params, codes.add(whole / 2), count - whole);
            }
        }
    }
}

/// Returns the conversions of a 4-bit format.
pub(super) fn simd_codec(codes: Codes) -> BlockCodec {
    match codes {
        Codes::Signed => compiled!(Q4Codes<true>, "avx2,fma,f16c"),
        Codes::Unsigned => compiled!(Q4Codes<false>, "avx2,fma,f16c"),
    }
}
