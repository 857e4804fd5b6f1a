//! AVX2 and AVX-512 registers. `min` and `max` are exactly `a < b ? a : b` and `a > b ? a : b` there.

use super::register;
use core::arch::x86_64::*;

register! {
    /// Eight singles of AVX2.
    Ymm32(__m256) of 8 f32, mask __m256;
    lit(x) _mm256_set1_ps(x);
    (a, b) plus _mm256_add_ps(a, b); minus _mm256_sub_ps(a, b); times _mm256_mul_ps(a, b); over _mm256_div_ps(a, b);
    min _mm256_min_ps(a, b); max _mm256_max_ps(a, b);
    lt _mm256_cmp_ps::<_CMP_LT_OQ>(a, b); le _mm256_cmp_ps::<_CMP_LE_OQ>(a, b); eq _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b);
    negate _mm256_xor_ps(_mm256_set1_ps(-0.0), a); sqrt _mm256_sqrt_ps(a); abs _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
    select(m) _mm256_blendv_ps(b, a, m);
    memory(p) load _mm256_loadu_ps(p); store _mm256_storeu_ps(p, a);
}

register! {
    /// Four doubles of AVX2.
    Ymm64(__m256d) of 4 f64, mask __m256d;
    lit(x) _mm256_set1_pd(x);
    (a, b) plus _mm256_add_pd(a, b); minus _mm256_sub_pd(a, b); times _mm256_mul_pd(a, b); over _mm256_div_pd(a, b);
    min _mm256_min_pd(a, b); max _mm256_max_pd(a, b);
    lt _mm256_cmp_pd::<_CMP_LT_OQ>(a, b); le _mm256_cmp_pd::<_CMP_LE_OQ>(a, b); eq _mm256_cmp_pd::<_CMP_EQ_OQ>(a, b);
    negate _mm256_xor_pd(_mm256_set1_pd(-0.0), a); sqrt _mm256_sqrt_pd(a); abs _mm256_andnot_pd(_mm256_set1_pd(-0.0), a);
    select(m) _mm256_blendv_pd(b, a, m);
    memory(p) load _mm256_loadu_pd(p); store _mm256_storeu_pd(p, a);
}

register! {
    /// Sixteen singles of AVX-512.
    Zmm32(__m512) of 16 f32, mask __mmask16;
    lit(x) _mm512_set1_ps(x);
    (a, b) plus _mm512_add_ps(a, b); minus _mm512_sub_ps(a, b); times _mm512_mul_ps(a, b); over _mm512_div_ps(a, b);
    min _mm512_min_ps(a, b); max _mm512_max_ps(a, b);
    lt _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b); le _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b); eq _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b);
    negate _mm512_xor_ps(_mm512_set1_ps(-0.0), a); sqrt _mm512_sqrt_ps(a); abs _mm512_abs_ps(a);
    select(m) _mm512_mask_blend_ps(m, b, a);
    memory(p) load _mm512_loadu_ps(p); store _mm512_storeu_ps(p, a);
    first(count) load _mm512_maskz_loadu_ps((1 << count) - 1, p); store _mm512_mask_storeu_ps(p, (1 << count) - 1, a);
}

register! {
    /// Eight doubles of AVX-512.
    Zmm64(__m512d) of 8 f64, mask __mmask8;
    lit(x) _mm512_set1_pd(x);
    (a, b) plus _mm512_add_pd(a, b); minus _mm512_sub_pd(a, b); times _mm512_mul_pd(a, b); over _mm512_div_pd(a, b);
    min _mm512_min_pd(a, b); max _mm512_max_pd(a, b);
    lt _mm512_cmp_pd_mask::<_CMP_LT_OQ>(a, b); le _mm512_cmp_pd_mask::<_CMP_LE_OQ>(a, b); eq _mm512_cmp_pd_mask::<_CMP_EQ_OQ>(a, b);
    negate _mm512_xor_pd(_mm512_set1_pd(-0.0), a); sqrt _mm512_sqrt_pd(a); abs _mm512_abs_pd(a);
    select(m) _mm512_mask_blend_pd(m, b, a);
    memory(p) load _mm512_loadu_pd(p); store _mm512_storeu_pd(p, a);
    first(count) load _mm512_maskz_loadu_pd((1 << count) - 1, p); store _mm512_mask_storeu_pd(p, (1 << count) - 1, a);
}
