//! The block formats with AVX2: 32 numbers at a time, with tables of eight.

use super::blocks::{self, AbsMax, BlockCodec, BlockFormat, QuantParams, compiled};
use super::q8_dynamic::{CODEBOOKS, Codebook, EIGHT_NINTHS, GRID_BINADE, NEAR, look_up};
use super::q8_grid::HALF_GRID;
use super::vector::{QuantVector, REGISTERS};
use crate::vector::Ymm32;
use core::arch::x86_64::*;
use fallline_core::{Codes, Format};

/// Numbers that are encoded at once.
const GROUP: usize = 8 * REGISTERS;
/// Numbers below it are zero, where there is no grid; its exponent is the least that `slope` and `rise` are right for.
const TINY: f32 = 1.0 / 16_777_216.0;

/// Encodes a group, of which no number is negative where codes are unsigned.
///
/// # Safety
/// `numbers` and `codes` hold a group each; the CPU has AVX2 and FMA.
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "each stage reads and writes the same register of several arrays"
)]
unsafe fn encode_group<const GRID: bool>(
    codebook: &Codebook,
    factor: f32,
    numbers: *const f32,
    codes: *mut u8,
) {
    // SAFETY: the caller's contract.
    unsafe {
        let tables = &codebook.avx2;
        let upper = _mm256_loadu_ps(tables.upper.as_ptr());
        let factors = _mm256_loadu_ps(tables.factor.as_ptr());
        let lower = _mm256_loadu_si256(tables.lower.as_ptr().cast());
        let magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX));
        let (zero, zeros) = (_mm256_setzero_si256(), _mm256_setzero_ps());
        let (mut x, mut y) = ([zeros; REGISTERS], [zeros; REGISTERS]);
        let (mut piece, mut n) = ([zero; REGISTERS], [zero; REGISTERS]);
        for k in 0..REGISTERS {
            x[k] = _mm256_mul_ps(_mm256_loadu_ps(numbers.add(8 * k)), _mm256_set1_ps(factor));
            if GRID {
                let half = _mm256_set1_ps(HALF_GRID);
                let up = _mm256_add_ps(x[k], _mm256_set1_ps(1.0));
                // Rounded with the half on it, which comes to the same: see `grid`.
                let place = _mm256_fmadd_ps(up, half, _mm256_set1_ps(0.5));
                x[k] = _mm256_sub_ps(_mm256_floor_ps(place), half);
            }
            y[k] = _mm256_and_ps(magnitude, x[k]);
            if !GRID {
                y[k] = _mm256_max_ps(y[k], _mm256_set1_ps(TINY));
                let positive = _mm256_cmp_ps::<_CMP_GT_OQ>(x[k], zeros);
                y[k] = _mm256_max_ps(y[k], _mm256_and_ps(positive, _mm256_set1_ps(codebook.least)));
            }
        }
        for k in 0..REGISTERS {
            let exponent = _mm256_srli_epi32::<23>(_mm256_castps_si256(y[k]));
            piece[k] = if GRID {
                // The upper three bytes take nothing.
                let bytes = _mm256_set1_epi32(0x8080_8000u32.wrapping_sub(GRID_BINADE) as i32);
                _mm256_shuffle_epi8(lower, _mm256_add_epi32(exponent, bytes))
            } else {
                let line = _mm256_mullo_epi16(exponent, _mm256_set1_epi32(tables.slope));
                _mm256_srli_epi32::<8>(_mm256_add_epi32(line, _mm256_set1_epi32(tables.rise)))
            };
            let above = _mm256_cmp_ps::<_CMP_GE_OQ>(y[k], _mm256_permutevar8x32_ps(upper, piece[k]));
            piece[k] = _mm256_sub_epi32(piece[k], _mm256_castps_si256(above));
        }
        // Beyond 2 is still the last cell of the decade.
        let last = _mm256_set1_epi32(0x3fff_ffff);
        let mut near = _mm256_set1_epi32(-1);
        for k in 0..REGISTERS {
            let factor = _mm256_permutevar8x32_ps(factors, piece[k]);
            let w = _mm256_castps_si256(_mm256_fmadd_ps(y[k], factor, _mm256_set1_ps(EIGHT_NINTHS)));
            let bottom = _mm256_set1_epi32(0x3f00_0000);
            let shift = _mm256_sub_epi32(_mm256_set1_epi32(tables.shift), piece[k]);
            n[k] = _mm256_srlv_epi32(_mm256_sub_epi32(_mm256_min_epi32(w, last), bottom), shift);
            if !GRID {
                let left = _mm256_sub_epi32(_mm256_set1_epi32(32), shift);
                let rest = _mm256_sllv_epi32(_mm256_sub_epi32(w, bottom), left);
                near = _mm256_min_epu32(near, _mm256_add_epi32(rest, _mm256_set1_epi32(NEAR as i32)));
            }
        }
        let (mut a, mut b) = (_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
        if !codebook.signed {
            // The places of unsigned codes begin with 1 behind 0, and end with 256.
            [a, b] = [a, b].map(|x| _mm256_sub_epi16(x, _mm256_set1_epi16(1)));
        }
        let mut places = _mm256_packus_epi16(a, b);
        if codebook.signed {
            // What saturates keeps its sign.
            let bits = x.map(|x| _mm256_castps_si256(x));
            let (a, b) = (_mm256_packs_epi32(bits[0], bits[1]), _mm256_packs_epi32(bits[2], bits[3]));
            let middle = _mm256_set1_epi8(127);
            let (above, below) = (_mm256_add_epi8(middle, places), _mm256_subs_epu8(middle, places));
            places = _mm256_blendv_epi8(above, below, _mm256_packs_epi16(a, b));
        }
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_storeu_si256(codes.cast(), _mm256_permutevar8x32_epi32(places, order));
        if !GRID {
            let border = _mm256_set1_epi32(2 * NEAR as i32 - 1);
            let below = _mm256_cmpeq_epi32(_mm256_min_epu32(near, border), near);
            if _mm256_movemask_epi8(below) != 0 {
                look_up(codebook, factor, numbers, codes, GROUP);
            }
        }
    }
}

/// Returns eight numbers, looked up one by one and put together in a register. A gather is not faster, and what is
/// stored one by one cannot be loaded eight at a time soon after.
///
/// # Safety
/// `codes` holds eight; the CPU has AVX2.
#[inline(always)]
unsafe fn decode_eight(codebook: &Codebook, codes: *const u8, scale: f32) -> __m256 {
    let mut eight = [0.0; 8];
    // SAFETY: the caller's contract.
    unsafe {
        for (k, x) in eight.iter_mut().enumerate() {
            *x = codebook.numbers[usize::from(*codes.add(k))];
        }
        let [a, b, c, d, e, f, g, h] = eight;
        _mm256_mul_ps(_mm256_setr_ps(a, b, c, d, e, f, g, h), _mm256_set1_ps(scale))
    }
}

impl QuantVector for Ymm32 {
    type Bits = __m256i;

    #[inline(always)]
    unsafe fn no_absmax() -> __m256i {
        // SAFETY: the caller has the instruction set.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn decode(codebook: &Codebook, codes: *const u8, scale: f32) -> [Ymm32; REGISTERS] {
        // SAFETY: the caller's contract.
        unsafe {
            let mut group = [Ymm32(_mm256_setzero_ps()); REGISTERS];
            for (k, x) in group.iter_mut().enumerate() {
                x.0 = decode_eight(codebook, codes.add(8 * k), scale);
            }
            group
        }
    }

    #[inline(always)]
    unsafe fn update_absmax(codebook: &Codebook, absmax: __m256i, x: Ymm32) -> __m256i {
        // SAFETY: the caller's contract.
        unsafe {
            let bits = _mm256_and_si256(_mm256_castps_si256(x.0), _mm256_set1_epi32(codebook.magnitude));
            _mm256_max_epu32(absmax, bits)
        }
    }

    #[inline(always)]
    unsafe fn to_absmax(absmax: __m256i) -> AbsMax {
        let mut columns = AbsMax::NONE;
        // SAFETY: the caller's contract.
        unsafe { _mm256_store_si256(columns.0.as_mut_ptr().cast(), absmax) };
        columns
    }

    type Stage1 = ();

    #[inline(always)]
    unsafe fn no_stage1() {}

    #[inline(always)]
    unsafe fn stage1(_: &Codebook, _: f32, _: *const f32) {}

    #[inline(always)]
    unsafe fn stage2(codebook: &Codebook, factor: f32, (): (), numbers: *const f32, codes: *mut u8) {
        // SAFETY: the caller's contract.
        unsafe {
            if codebook.grid {
                encode_group::<true>(codebook, factor, numbers, codes);
            } else {
                encode_group::<false>(codebook, factor, numbers, codes);
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
        let whole = count / 8 * 8;
        // SAFETY: the caller vouches for `count` elements on either side.
        unsafe {
            for i in (0..whole).step_by(8) {
                let x = decode_eight(&CODEBOOKS[BOOK], codes.add(i), scale);
                _mm256_storeu_ps(numbers.add(i), x);
            }
            if whole < count {
                blocks::decode::<Self>(codes.add(whole), scale, numbers.add(whole), count - whole);
            }
        }
    }

    #[inline(always)]
    unsafe fn update_absmax(numbers: *const f32, count: usize, absmax: &mut AbsMax) {
        // SAFETY: the caller's contract.
        unsafe {
            if CODEBOOKS[BOOK].signed {
                blocks::update_absmax::<true>(numbers, count, absmax)
            } else {
                blocks::update_absmax::<false>(numbers, count, absmax)
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
                    Ymm32::stage2(&CODEBOOKS[BOOK], params.factor, (), numbers.add(i), codes.add(i));
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
            compiled!(Dynamic<$codebook>, "avx2,fma,f16c")
        };
    }
    match format {
        Format::Q8(Codes::Signed) => Some(of!(0)),
        Format::Q8(Codes::Unsigned) => Some(of!(1)),
        Format::Q8Grid(Codes::Signed) => Some(of!(2)),
        Format::Q8Grid(Codes::Unsigned) => Some(of!(3)),
        Format::Q4(codes) => Some(super::q4::simd_codec(codes)),
        _ => None,
    }
}
