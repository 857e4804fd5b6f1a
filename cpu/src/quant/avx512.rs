//! The block formats with AVX-512: 64 numbers at a time.

use super::blocks::{self, AbsMax, BlockCodec, BlockFormat, QuantParams, compiled};
use super::q8_dynamic::{CODEBOOKS, Codebook, EIGHT_NINTHS, FIRST_BINADE, NEAR, look_up};
use super::q8_grid as grid;
use super::vector::{QuantVector, REGISTERS};
use crate::vector::Zmm32;
use core::arch::x86_64::*;
use fallline_core::{Codes, Format};

/// Numbers that are converted at once.
const GROUP: usize = 16 * REGISTERS;

/// Returns whether the machine permutes bytes across registers, and shifts two words as one, beyond what AVX-512 has
/// anywhere.
pub(crate) fn permutes_bytes() -> bool {
    is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512vbmi2")
}

/// Transposes 4 × 4 double words, since packing and unpacking work within 128 bits.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn transpose(x: __m512i) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe {
        _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), x)
    }
}

/// Encodes a group, of which no number is negative where codes are unsigned.
///
/// # Safety
/// `numbers` and `codes` hold a group each; the CPU has AVX-512 with VBMI2.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "each stage reads and writes the same register of several arrays"
)]
unsafe fn encode_group(codebook: &Codebook, factor: f32, numbers: *const f32, codes: *mut u8) {
    // SAFETY: the caller's contract.
    unsafe {
        let (zero, zeros, one) =
            (_mm512_setzero_si512(), _mm512_setzero_ps(), _mm512_set1_epi32(codebook.one));
        let (mut x, mut y, mut w) = ([zeros; REGISTERS], [zeros; REGISTERS], [zeros; REGISTERS]);
        let (mut n, mut s) = ([zero; REGISTERS], [zero; REGISTERS]);
        // Stage by stage over four registers: one after another each would be a chain of 40 cycles.
        for k in 0..REGISTERS {
            x[k] = _mm512_mul_ps(_mm512_loadu_ps(numbers.add(16 * k)), _mm512_set1_ps(factor));
        }
        for k in 0..REGISTERS {
            // The larger magnitude, without its sign.
            y[k] = _mm512_range_ps::<0b1011>(x[k], _mm512_set1_ps(f32::from_bits((FIRST_BINADE + 1) << 23)));
        }
        if !codebook.signed {
            for k in 0..REGISTERS {
                let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x[k], zeros);
                y[k] = _mm512_mask_max_ps(y[k], positive, y[k], _mm512_set1_ps(codebook.least));
            }
        }
        let tables = &codebook.avx512;
        let (border, shift) = (tables.border.as_ptr().cast::<i32>(), tables.shift.as_ptr().cast::<i32>());
        let borders = [0, 16].map(|at| _mm512_loadu_si512(border.add(at).cast()));
        let shifts = [0, 16].map(|at| _mm512_loadu_si512(shift.add(at).cast()));
        for k in 0..REGISTERS {
            let binade = _mm512_srli_epi32::<23>(_mm512_castps_si512(y[k]));
            let border = _mm512_permutex2var_epi32(borders[0], binade, borders[1]);
            s[k] = _mm512_permutex2var_epi32(shifts[0], binade, shifts[1]);
            let above = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(y[k], _mm512_castsi512_ps(border));
            s[k] = _mm512_mask_sub_epi32(s[k], above, s[k], one);
        }
        let factors = _mm512_loadu_ps(tables.factor.as_ptr());
        for k in 0..REGISTERS {
            w[k] = _mm512_permutexvar_ps(s[k], factors);
        }
        for k in 0..REGISTERS {
            w[k] = _mm512_fmadd_ps(y[k], w[k], _mm512_set1_ps(EIGHT_NINTHS));
        }
        // Beyond 2 is still the last cell of the decade.
        let last = _mm512_set1_epi32(0x3fff_ffff);
        let mut near = _mm512_set1_epi32(-1);
        for k in 0..REGISTERS {
            let (bits, bottom) = (_mm512_castps_si512(w[k]), _mm512_set1_epi32(0x3f00_0000));
            n[k] = _mm512_sub_epi32(_mm512_min_epi32(bits, last), bottom);
            n[k] = _mm512_shrdv_epi32(n[k], zero, s[k]);
            let rest = _mm512_rorv_epi32(_mm512_sub_epi32(bits, bottom), s[k]);
            near = _mm512_min_epu32(near, _mm512_add_epi32(rest, _mm512_set1_epi32(NEAR as i32)));
        }
        let (mut a, mut b) = (_mm512_packs_epi32(n[0], n[1]), _mm512_packs_epi32(n[2], n[3]));
        if !codebook.signed {
            // The places of unsigned codes begin with 1 behind 0, and end with 256.
            [a, b] = [a, b].map(|x| _mm512_sub_epi16(x, _mm512_set1_epi16(1)));
        }
        let mut places = _mm512_packus_epi16(a, b);
        if codebook.signed {
            // A float's bits are far from 0 as an integer, so that what saturates keeps its sign.
            let bits = x.map(|x| _mm512_castps_si512(x));
            let (a, b) = (_mm512_packs_epi32(bits[0], bits[1]), _mm512_packs_epi32(bits[2], bits[3]));
            let negative = _mm512_movepi8_mask(_mm512_packs_epi16(a, b));
            let middle = _mm512_set1_epi8(127);
            let above = _mm512_add_epi8(places, middle);
            places = _mm512_mask_subs_epu8(above, negative, middle, places);
        }
        _mm512_storeu_si512(codes.cast(), transpose(places));
        let near = _mm512_cmplt_epu32_mask(near, _mm512_set1_epi32(2 * NEAR as i32));
        if near != 0 {
            look_up(codebook, factor, numbers, codes, GROUP);
        }
    }
}

/// Decodes a group.
///
/// # Safety
/// `codes` holds a group; the CPU has AVX-512 with VBMI.
#[inline(always)]
unsafe fn decode_group(codebook: &Codebook, codes: *const u8, scale: __m512) -> [__m512; REGISTERS] {
    // SAFETY: the caller's contract.
    unsafe {
        let codes = transpose(_mm512_loadu_si512(codes.cast()));
        let planes = &codebook.avx512.planes;
        let at = |plane: usize, i: usize| _mm512_loadu_si512(planes[plane].as_ptr().add(64 * i).cast());
        let mut bytes = [_mm512_setzero_si512(); 4];
        if codebook.signed {
            let places = _mm512_sub_epi8(codes, _mm512_set1_epi8(127));
            let (index, some) = (_mm512_abs_epi8(places), _mm512_test_epi8_mask(places, places));
            for (plane, bytes) in bytes.iter_mut().enumerate() {
                *bytes = _mm512_maskz_permutex2var_epi8(some, at(plane, 0), index, at(plane, 1));
            }
            // The sign: of `places`, but for the code of 1, where it overflows.
            let below = _mm512_andnot_si512(codes, places);
            bytes[3] = _mm512_ternarylogic_epi32::<0xf8>(bytes[3], below, _mm512_set1_epi8(-128));
        } else {
            let upper = _mm512_movepi8_mask(codes);
            for (plane, bytes) in bytes.iter_mut().enumerate() {
                let low = _mm512_permutex2var_epi8(at(plane, 0), codes, at(plane, 1));
                let high = _mm512_permutex2var_epi8(at(plane, 2), codes, at(plane, 3));
                *bytes = _mm512_mask_blend_epi8(upper, low, high);
            }
        }
        let [a, b, c, d] = bytes;
        let (low, high) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
        let (low2, high2) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
        let numbers = [
            _mm512_unpacklo_epi16(low, low2),
            _mm512_unpackhi_epi16(low, low2),
            _mm512_unpacklo_epi16(high, high2),
            _mm512_unpackhi_epi16(high, high2),
        ];
        numbers.map(|x| _mm512_mul_ps(_mm512_castsi512_ps(x), scale))
    }
}

/// Returns the largest magnitudes' bits in 16 columns.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn update_absmax(codebook: &Codebook, absmax: __m512i, x: __m512) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe {
        let bits = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(codebook.magnitude));
        _mm512_max_epu32(absmax, bits)
    }
}

impl QuantVector for Zmm32 {
    type Bits = __m512i;

    #[inline(always)]
    unsafe fn no_absmax() -> __m512i {
        // SAFETY: the caller has the instruction set.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn decode(codebook: &Codebook, codes: *const u8, scale: f32) -> [Zmm32; REGISTERS] {
        // SAFETY: the caller's contract.
        unsafe { decode_group(codebook, codes, _mm512_set1_ps(scale)).map(Zmm32) }
    }

    #[inline(always)]
    unsafe fn update_absmax(codebook: &Codebook, absmax: __m512i, x: Zmm32) -> __m512i {
        // SAFETY: the caller's contract.
        unsafe { update_absmax(codebook, absmax, x.0) }
    }

    #[inline(always)]
    unsafe fn to_absmax(absmax: __m512i) -> AbsMax {
        let mut columns = AbsMax::NONE;
        // SAFETY: the caller's contract.
        unsafe { _mm512_store_si512(columns.0.as_mut_ptr().cast(), absmax) };
        columns
    }

    type Stage1 = [__m512i; 2];

    #[inline(always)]
    unsafe fn no_stage1() -> [__m512i; 2] {
        // SAFETY: the caller has the instruction set.
        unsafe { [_mm512_setzero_si512(); 2] }
    }

    #[inline(always)]
    unsafe fn stage1(codebook: &Codebook, factor: f32, numbers: *const f32) -> [__m512i; 2] {
        // SAFETY: the caller's contract.
        unsafe { if codebook.grid { grid::places(factor, numbers) } else { Self::no_stage1() } }
    }

    #[inline(always)]
    unsafe fn stage2(
        codebook: &Codebook,
        factor: f32,
        stage1: [__m512i; 2],
        numbers: *const f32,
        codes: *mut u8,
    ) {
        // SAFETY: the caller's contract.
        unsafe {
            match (codebook.grid, codebook.signed) {
                (false, _) => encode_group(codebook, factor, numbers, codes),
                (true, true) => grid::encode::<true>(codebook.places, stage1, codes),
                (true, false) => grid::encode::<false>(codebook.places, stage1, codes),
            }
        }
    }
}

/// One of the codebooks as a type, so that loops are compiled for it.
struct Dynamic<const BOOK: usize>;

impl<const BOOK: usize> BlockFormat for Dynamic<BOOK> {
    const FORMAT: Format = CODEBOOKS[BOOK].format;

    #[inline(always)]
    unsafe fn decode(codes: *const u8, scale: f32, numbers: *mut f32, count: usize) {
        let whole = count / GROUP * GROUP;
        // SAFETY: the caller vouches for `count` elements on either side.
        unsafe {
            for i in (0..whole).step_by(GROUP) {
                let group = decode_group(&CODEBOOKS[BOOK], codes.add(i), _mm512_set1_ps(scale));
                for (k, x) in group.into_iter().enumerate() {
                    _mm512_storeu_ps(numbers.add(i + 16 * k), x);
                }
            }
            if whole < count {
                blocks::decode::<Self>(codes.add(whole), scale, numbers.add(whole), count - whole);
            }
        }
    }

    #[inline(always)]
    unsafe fn update_absmax(numbers: *const f32, count: usize, absmax: &mut AbsMax) {
        let whole = count / 16 * 16;
        // SAFETY: the caller vouches for `count` numbers.
        unsafe {
            let columns = absmax.0.as_mut_ptr().cast();
            let mut found = _mm512_load_si512(columns);
            for i in (0..whole).step_by(16) {
                found = self::update_absmax(&CODEBOOKS[BOOK], found, _mm512_loadu_ps(numbers.add(i)));
            }
            _mm512_store_si512(columns.cast(), found);
            if whole < count {
                blocks::update_absmax::<true>(numbers.add(whole), count - whole, absmax);
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
                    let (codebook, factor, numbers) = (&CODEBOOKS[BOOK], params.factor, numbers.add(i));
                    Zmm32::stage2(
                        codebook,
                        factor,
                        Zmm32::stage1(codebook, factor, numbers),
                        numbers,
                        codes.add(i),
                    );
                }
            }
            if whole < count {
                blocks::encode::<Self>(numbers.add(whole), params, codes.add(whole), count - whole);
            }
        }
    }
}

/// Returns the conversions of a format that are faster than the specification's loops.
pub(super) fn simd_codec(format: Format) -> Option<BlockCodec> {
    macro_rules! of {
        ($codebook:literal) => {
            compiled!(
                Dynamic<$codebook>,
                "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,avx2,fma,f16c"
            )
        };
    }
    match format {
        Format::Q8(_) | Format::Q8Grid(_) if !permutes_bytes() => super::avx2::simd_codec(format),
        Format::Q8(Codes::Signed) => Some(of!(0)),
        Format::Q8(Codes::Unsigned) => Some(of!(1)),
        Format::Q8Grid(Codes::Signed) => Some(of!(2)),
        Format::Q8Grid(Codes::Unsigned) => Some(of!(3)),
        _ => super::avx2::simd_codec(format),
    }
}
