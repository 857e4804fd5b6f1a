//! AVX2 and AVX-512 registers. `min` and `max` are exactly `a < b ? a : b` and `a > b ? a : b` there.

use super::register::register;
use core::arch::x86_64::*;

register! {
    /// Eight `f32` of AVX2.
    Ymm32(__m256) of 8 f32, mask __m256;
    splat(x) _mm256_set1_ps(x);
    (a, b) add _mm256_add_ps(a, b); sub _mm256_sub_ps(a, b); mul _mm256_mul_ps(a, b); div _mm256_div_ps(a, b);
    min _mm256_min_ps(a, b); max _mm256_max_ps(a, b);
    lt _mm256_cmp_ps::<_CMP_LT_OQ>(a, b); le _mm256_cmp_ps::<_CMP_LE_OQ>(a, b); eq _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b);
    neg _mm256_xor_ps(_mm256_set1_ps(-0.0), a); sqrt _mm256_sqrt_ps(a); abs _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
    select(m) _mm256_blendv_ps(b, a, m);
    memory(p) load _mm256_loadu_ps(p); store _mm256_storeu_ps(p, a);
    bf16(q) load widen256(q); store narrow256(a, q);
}

register! {
    /// Four `f64` of AVX2.
    Ymm64(__m256d) of 4 f64, mask __m256d;
    splat(x) _mm256_set1_pd(x);
    (a, b) add _mm256_add_pd(a, b); sub _mm256_sub_pd(a, b); mul _mm256_mul_pd(a, b); div _mm256_div_pd(a, b);
    min _mm256_min_pd(a, b); max _mm256_max_pd(a, b);
    lt _mm256_cmp_pd::<_CMP_LT_OQ>(a, b); le _mm256_cmp_pd::<_CMP_LE_OQ>(a, b); eq _mm256_cmp_pd::<_CMP_EQ_OQ>(a, b);
    neg _mm256_xor_pd(_mm256_set1_pd(-0.0), a); sqrt _mm256_sqrt_pd(a); abs _mm256_andnot_pd(_mm256_set1_pd(-0.0), a);
    select(m) _mm256_blendv_pd(b, a, m);
    memory(p) load _mm256_loadu_pd(p); store _mm256_storeu_pd(p, a);
}

register! {
    /// Sixteen `f32` of AVX-512.
    Zmm32(__m512) of 16 f32, mask __mmask16;
    splat(x) _mm512_set1_ps(x);
    (a, b) add _mm512_add_ps(a, b); sub _mm512_sub_ps(a, b); mul _mm512_mul_ps(a, b); div _mm512_div_ps(a, b);
    min _mm512_min_ps(a, b); max _mm512_max_ps(a, b);
    lt _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b); le _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b); eq _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b);
    neg _mm512_xor_ps(_mm512_set1_ps(-0.0), a); sqrt _mm512_sqrt_ps(a); abs _mm512_abs_ps(a);
    select(m) _mm512_mask_blend_ps(m, b, a);
    memory(p) load _mm512_loadu_ps(p); store _mm512_storeu_ps(p, a);
    first(count) load _mm512_maskz_loadu_ps((1 << count) - 1, p); store _mm512_mask_storeu_ps(p, (1 << count) - 1, a);
    bf16(q) load widen512(q); store narrow512(a, q);
}

register! {
    /// Eight `f64` of AVX-512.
    Zmm64(__m512d) of 8 f64, mask __mmask8;
    splat(x) _mm512_set1_pd(x);
    (a, b) add _mm512_add_pd(a, b); sub _mm512_sub_pd(a, b); mul _mm512_mul_pd(a, b); div _mm512_div_pd(a, b);
    min _mm512_min_pd(a, b); max _mm512_max_pd(a, b);
    lt _mm512_cmp_pd_mask::<_CMP_LT_OQ>(a, b); le _mm512_cmp_pd_mask::<_CMP_LE_OQ>(a, b); eq _mm512_cmp_pd_mask::<_CMP_EQ_OQ>(a, b);
    neg _mm512_xor_pd(_mm512_set1_pd(-0.0), a); sqrt _mm512_sqrt_pd(a); abs _mm512_abs_pd(a);
    select(m) _mm512_mask_blend_pd(m, b, a);
    memory(p) load _mm512_loadu_pd(p); store _mm512_storeu_pd(p, a);
    first(count) load _mm512_maskz_loadu_pd((1 << count) - 1, p); store _mm512_mask_storeu_pd(p, (1 << count) - 1, a);
}

/// Widens eight bfloat16 to `f32`: their bits are the upper halves.
///
/// # Safety
/// `from` holds eight; the CPU has AVX2.
#[inline(always)]
unsafe fn widen256(from: *const u16) -> __m256 {
    // SAFETY: the caller's contract.
    unsafe {
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()))))
    }
}

/// Rounds eight `f32` to bfloat16 (round-to-nearest-even), as `codec::bf16_from_f32` does.
///
/// # Safety
/// `to` has room for eight; the CPU has AVX2.
#[inline(always)]
unsafe fn narrow256(x: __m256, to: *mut u16) {
    // SAFETY: the caller's contract.
    unsafe {
        let bits = _mm256_castps_si256(x);
        let upper = _mm256_srli_epi32::<16>(bits);
        let odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
        let bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
        let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, bias));
        let quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        let result = _mm256_blendv_epi8(rounded, quiet, nan);
        // Packing works within halves: join their results.
        let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(result, result));
        _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
    }
}

/// Widens sixteen bfloat16 to `f32`.
///
/// # Safety
/// `from` holds sixteen; the CPU has AVX-512.
#[inline(always)]
unsafe fn widen512(from: *const u16) -> __m512 {
    // SAFETY: the caller's contract.
    unsafe {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))))
    }
}

/// Rounds sixteen `f32` to bfloat16 (round-to-nearest-even), as `codec::bf16_from_f32` does.
///
/// # Safety
/// `to` has room for sixteen; the CPU has AVX-512.
#[inline(always)]
unsafe fn narrow512(x: __m512, to: *mut u16) {
    // SAFETY: the caller's contract.
    unsafe {
        let bits = _mm512_castps_si512(x);
        let upper = _mm512_srli_epi32::<16>(bits);
        let odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
        let bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
        let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, bias));
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        let result = _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40));
        _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(result));
    }
}
