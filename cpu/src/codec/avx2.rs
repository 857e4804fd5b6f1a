//! The dynamic codes with AVX2: 32 numbers at a time, with tables of eight.

use super::dynamic::{EIGHT_NINTHS, NEAR, Pieces, pieces};
use super::{Codec, Encode};
use core::arch::x86_64::*;
use fallline_core::codec::block::{self, Units, scale_of, search, zero_code};
use fallline_core::codec::codebook::{DYNAMIC_SIGNED, DYNAMIC_SIGNED_BORDERS};
use fallline_core::codec::codebook::{DYNAMIC_UNSIGNED, DYNAMIC_UNSIGNED_BORDERS, FOUR_BORDERS};
use fallline_core::{Codes, Format};

/// Numbers of a block.
const BLOCK: usize = 256;
/// Numbers that are encoded at once.
const GROUP: usize = 32;
/// Registers of a group.
const REGISTERS: usize = GROUP / 8;
/// Numbers below it are zero; its exponent is the least that `slope` and `rise` are right for.
const TINY: f32 = 1.0 / 16_777_216.0;

/// Everything that is needed of one kind of codes.
#[repr(C, align(32))]
struct Tables {
    /// The first number of the piece above each of the first eight.
    upper: [f32; 8],
    /// What `y` is multiplied by, of the pieces from 0 to 8, of which the last shares a place with the first.
    factor: [f32; 8],
    /// `(exponent · slope + rise) >> 8` is the lower piece in a binade.
    slope: i32,
    rise: i32,
    shift: i32,
    offset: i16,
    numbers: &'static [f32; 256],
    borders: &'static [f32; 256],
}

const fn tables(signed: bool) -> Tables {
    let Pieces { upper, factor, shift } = pieces(signed);
    let (slope, rise) = if signed { (81, -514) } else { (79, -442) };
    let mut shared = [0.0; 8];
    let mut piece = 1;
    while piece < factor.len() {
        shared[piece % 8] = factor[piece];
        piece += 1;
    }
    Tables {
        upper,
        factor: shared,
        slope,
        rise: rise - 96 * slope,
        shift: shift as i32,
        offset: if signed { 127 } else { -1 },
        numbers: if signed { &DYNAMIC_SIGNED } else { &DYNAMIC_UNSIGNED },
        borders: if signed { &DYNAMIC_SIGNED_BORDERS } else { &DYNAMIC_UNSIGNED_BORDERS },
    }
}

static SIGNED: Tables = tables(true);
static UNSIGNED: Tables = tables(false);

/// Encodes a group.
///
/// # Safety
/// `numbers` and `codes` hold a group each; the CPU has AVX2.
#[inline(always)]
unsafe fn encode_group<const GRID: bool>(tables: &Tables, factor: f32, numbers: *const f32, codes: *mut u8) {
    // SAFETY: the caller's contract.
    unsafe {
        let (upper, factors) =
            (_mm256_loadu_ps(tables.upper.as_ptr()), _mm256_loadu_ps(tables.factor.as_ptr()));
        let magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX));
        let zero = _mm256_setzero_si256();
        let zeros = _mm256_setzero_ps();
        let (mut y, mut sign) = ([zeros; REGISTERS], [zero; REGISTERS]);
        let (mut piece, mut n) = ([zero; REGISTERS], [zero; REGISTERS]);
        for k in 0..REGISTERS {
            y[k] = _mm256_mul_ps(_mm256_loadu_ps(numbers.add(8 * k)), _mm256_set1_ps(factor));
            if GRID {
                let up = _mm256_mul_ps(_mm256_add_ps(y[k], _mm256_set1_ps(1.0)), _mm256_set1_ps(32767.5));
                let place = _mm256_cvttps_epi32(_mm256_add_ps(up, _mm256_set1_ps(0.5)));
                let from = _mm256_mul_ps(_mm256_cvtepi32_ps(place), _mm256_set1_ps(2.0 / 65535.0));
                y[k] = _mm256_sub_ps(from, _mm256_set1_ps(1.0));
            }
            // Its sign, and a bit so that what is positive is not zero.
            sign[k] = _mm256_or_si256(_mm256_castps_si256(y[k]), _mm256_set1_epi32(1));
            y[k] = _mm256_max_ps(_mm256_and_ps(magnitude, y[k]), _mm256_set1_ps(TINY));
        }
        for k in 0..REGISTERS {
            let exponent = _mm256_srli_epi32::<23>(_mm256_castps_si256(y[k]));
            let line = _mm256_mullo_epi16(exponent, _mm256_set1_epi32(tables.slope));
            piece[k] = _mm256_srli_epi32::<8>(_mm256_add_epi32(line, _mm256_set1_epi32(tables.rise)));
            let above = _mm256_cmp_ps::<_CMP_GE_OQ>(y[k], _mm256_permutevar8x32_ps(upper, piece[k]));
            piece[k] = _mm256_sub_epi32(piece[k], _mm256_castps_si256(above));
        }
        let mut near = _mm256_set1_epi32(-1);
        for k in 0..REGISTERS {
            let w = _mm256_mul_ps(y[k], _mm256_permutevar8x32_ps(factors, piece[k]));
            let w = _mm256_add_ps(w, _mm256_set1_ps(EIGHT_NINTHS));
            let cell = _mm256_sub_epi32(_mm256_castps_si256(w), _mm256_set1_epi32(0x3f00_0000));
            let shift = _mm256_sub_epi32(_mm256_set1_epi32(tables.shift), piece[k]);
            // Beyond 2 is still the last cell of the decade.
            n[k] = _mm256_sub_epi32(_mm256_srlv_epi32(cell, shift), _mm256_srli_epi32::<24>(cell));
            n[k] = _mm256_sign_epi32(n[k], sign[k]);
            if !GRID {
                let rest = _mm256_sllv_epi32(cell, _mm256_sub_epi32(_mm256_set1_epi32(32), shift));
                near = _mm256_min_epu32(near, _mm256_add_epi32(rest, _mm256_set1_epi32(NEAR as i32)));
            }
        }
        let offset = _mm256_set1_epi16(tables.offset);
        let a = _mm256_add_epi16(_mm256_packs_epi32(n[0], n[1]), offset);
        let b = _mm256_add_epi16(_mm256_packs_epi32(n[2], n[3]), offset);
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let packed = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(a, b), order);
        _mm256_storeu_si256(codes.cast(), packed);
        if !GRID {
            let border = _mm256_set1_epi32(2 * NEAR as i32 - 1);
            let below = _mm256_cmpeq_epi32(_mm256_min_epu32(near, border), near);
            if _mm256_movemask_epi8(below) != 0 {
                look_up(tables, factor, numbers, codes);
            }
        }
    }
}

/// Looks up those numbers of a group that are on the wrong side of a border.
#[cold]
#[inline(never)]
unsafe fn look_up(tables: &Tables, factor: f32, numbers: *const f32, codes: *mut u8) {
    for i in 0..GROUP {
        // SAFETY: the caller's contract is that of `encode_group`.
        unsafe {
            let code = codes.add(i);
            let y = *numbers.add(i) * factor;
            let at = usize::from(*code);
            let above = at < 255 && y >= tables.borders[at + 1];
            if above || y < tables.borders[at] {
                *code = search(tables.borders, y);
            }
        }
    }
}

/// Eight numbers from their codes, one by one: a gather is not faster.
#[inline(always)]
unsafe fn decode_all(tables: &Tables, stored: *const u8, scale: f32, numbers: *mut f32, count: usize) {
    for i in 0..count {
        // SAFETY: the caller vouches for `count` elements on either side.
        unsafe { *numbers.add(i) = tables.numbers[usize::from(*stored.add(i))] * scale };
    }
}

/// Whole groups here, the rest in the specification's loops.
macro_rules! conversions {
    ($name:ident, $tables:expr, $format:expr, $grid:literal) => {
        mod $name {
            use super::*;

            #[target_feature(enable = "avx2,fma,f16c")]
            pub(super) unsafe fn decode(
                stored: *const u8,
                scales: *const f32,
                numbers: *mut f32,
                count: usize,
            ) {
                for start in (0..count).step_by(BLOCK) {
                    // SAFETY: the caller vouches for `count` elements with their scales on either side.
                    unsafe {
                        let (scale, length) = (*scales.add(start / BLOCK), BLOCK.min(count - start));
                        decode_all($tables, stored.add(start), scale, numbers.add(start), length);
                    }
                }
            }

            #[target_feature(enable = "avx2,fma,f16c")]
            pub(super) unsafe fn encode(
                numbers: *const f32,
                stored: *mut u8,
                scales: *mut f32,
                count: usize,
            ) {
                for start in (0..count).step_by(BLOCK) {
                    // SAFETY: the caller vouches for `count` elements with their scales on either side.
                    unsafe {
                        let end = count.min(start + BLOCK);
                        let all = core::slice::from_raw_parts(numbers.add(start), end - start);
                        let (scale, units) = scale_of(super::super::blocks::magnitude(all));
                        *scales.add(start / BLOCK) = scale;
                        let whole = match units {
                            Units::Times(_) => start + (end - start) / GROUP * GROUP,
                            _ => start,
                        };
                        if let Units::Times(factor) = units {
                            for i in (start..whole).step_by(GROUP) {
                                encode_group::<$grid>($tables, factor, numbers.add(i), stored.add(i));
                            }
                        }
                        for i in whole..end {
                            *stored.add(i) = match units {
                                Units::None => zero_code($format),
                                _ => block::code_of($format, units.of(*numbers.add(i))),
                            };
                        }
                    }
                }
            }
        }
    };
}
conversions!(signed, &SIGNED, Format::Q8(Codes::Signed), false);
conversions!(unsigned, &UNSIGNED, Format::Q8(Codes::Unsigned), false);
conversions!(grid_signed, &SIGNED, Format::Q8Grid(Codes::Signed), true);
conversions!(grid_unsigned, &UNSIGNED, Format::Q8Grid(Codes::Unsigned), true);

/// The conversions of a format that are faster than the specification's loops.
pub(super) fn faster(format: Format) -> Option<Codec<f32>> {
    Some(match format {
        Format::Q8(Codes::Signed) => Codec { decode: signed::decode, encode: signed::encode },
        Format::Q8(Codes::Unsigned) => Codec { decode: unsigned::decode, encode: unsigned::encode },
        Format::Q8Grid(Codes::Signed) => Codec { decode: grid_signed::decode, encode: grid_signed::encode },
        Format::Q8Grid(Codes::Unsigned) => {
            Codec { decode: grid_unsigned::decode, encode: grid_unsigned::encode }
        }
        _ => return None,
    })
}

/// Encodes numbers in 4 bits: counts, in registers, the borders that they have reached.
pub(super) fn encode_fours(format: Format) -> Encode<f32> {
    match format {
        Format::Q4(Codes::Signed) => fours::<true>,
        _ => fours::<false>,
    }
}

/// # Safety
/// As [`Encode`], and the CPU has AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn fours<const SIGNED: bool>(numbers: *const f32, stored: *mut u8, scales: *mut f32, count: usize) {
    const BLOCK: usize = 128;
    let format = Format::Q4(if SIGNED { Codes::Signed } else { Codes::Unsigned });
    let borders = &FOUR_BORDERS[usize::from(!SIGNED)];
    for start in (0..count).step_by(BLOCK) {
        // SAFETY: the caller vouches for `count` elements with their scales on either side.
        unsafe {
            let length = BLOCK.min(count - start);
            let all = core::slice::from_raw_parts(numbers.add(start), length);
            let codes = core::slice::from_raw_parts_mut(stored.add(start / 2), format.size(length));
            let (scale, units) = scale_of(super::blocks::magnitude(all));
            *scales.add(start / BLOCK) = scale;
            let whole = match units {
                Units::Times(factor) => {
                    for (numbers, codes) in all.chunks_exact(GROUP).zip(codes.chunks_exact_mut(GROUP / 2)) {
                        let mut counts = [_mm256_setzero_si256(); REGISTERS];
                        for (k, count) in counts.iter_mut().enumerate() {
                            let x = _mm256_loadu_ps(numbers.as_ptr().add(8 * k));
                            let y = _mm256_mul_ps(x, _mm256_set1_ps(factor));
                            for &border in &borders[1..] {
                                let reached = _mm256_cmp_ps::<_CMP_GE_OQ>(y, _mm256_set1_ps(border));
                                *count = _mm256_sub_epi32(*count, _mm256_castps_si256(reached));
                            }
                        }
                        // Neighbours share a byte, the first in its upper half: 16 a + b, then one byte of two.
                        let [a, b, c, d] = counts;
                        let low = _mm256_packus_epi32(a, b);
                        let high = _mm256_packus_epi32(c, d);
                        let pairs = _mm256_set1_epi32(0x0001_0010);
                        let low = _mm256_madd_epi16(low, pairs);
                        let high = _mm256_madd_epi16(high, pairs);
                        let bytes = _mm256_packus_epi32(low, high);
                        let bytes = _mm256_packus_epi16(bytes, bytes);
                        let (first, second) =
                            (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
                        _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm_unpacklo_epi16(first, second));
                    }
                    length / GROUP * GROUP
                }
                _ => 0,
            };
            block::encode_fours(format, units, &all[whole..], &mut codes[whole / 2..]);
        }
    }
}
