//! The dynamic codes with AVX-512: 64 numbers at a time, which the fused pass shares.

use super::Codec;
use super::dynamic::{EIGHT_NINTHS, NEAR, Pieces, pieces, planes};
use core::arch::x86_64::*;
use fallline_core::codec::block::{self, Units, scale_of, search, zero_code};
use fallline_core::codec::codebook::{DYNAMIC_SIGNED, DYNAMIC_SIGNED_BORDERS};
use fallline_core::codec::codebook::{DYNAMIC_UNSIGNED, DYNAMIC_UNSIGNED_BORDERS};
use fallline_core::{Codes, Format};

/// Numbers of a block.
pub(crate) const BLOCK: usize = 256;
/// Numbers that are converted at once.
pub(crate) const GROUP: usize = 64;
/// Registers of a group.
const REGISTERS: usize = GROUP / 16;

/// The exponent of the first binade in the tables: numbers below 2^-30 are zero.
const FIRST_BINADE: usize = 96;

/// Everything that is needed of one kind of codes.
#[repr(C, align(64))]
pub(crate) struct Tables {
    planes: [[u8; 256]; 4],
    /// For each binade the first number of its upper piece, or NaN where it has only one.
    border: [f32; 32],
    /// For each binade the shift of its lower piece.
    shift: [u32; 32],
    /// By the shift modulo 16, what `y` is multiplied by.
    factor: [f32; 16],
    /// What is added to the cell.
    offset: i16,
    grid: bool,
    numbers: &'static [f32; 256],
    borders: &'static [f32; 256],
    format: Format,
}

const fn tables(codes: Codes, grid: bool) -> Tables {
    let signed = matches!(codes, Codes::Signed);
    let Pieces { upper, factor, shift } = pieces(signed);
    let mut tables = Tables {
        planes: planes(signed),
        border: [f32::NAN; 32],
        shift: [0; 32],
        factor: [0.0; 16],
        offset: if signed { 127 } else { -1 },
        grid,
        numbers: if signed { &DYNAMIC_SIGNED } else { &DYNAMIC_UNSIGNED },
        borders: if signed { &DYNAMIC_SIGNED_BORDERS } else { &DYNAMIC_UNSIGNED_BORDERS },
        format: if grid { Format::Q8Grid(codes) } else { Format::Q8(codes) },
    };
    let mut binade = 0;
    while binade < 32 {
        let low = f32::from_bits(((FIRST_BINADE + binade) as u32) << 23);
        let mut piece = 0;
        while piece < upper.len() && upper[piece] <= low {
            piece += 1;
        }
        tables.shift[binade] = shift - piece as u32;
        if piece < upper.len() && upper[piece] < 2.0 * low {
            tables.border[binade] = upper[piece];
        }
        binade += 1;
    }
    let mut piece = 0;
    while piece < factor.len() {
        tables.factor[(shift as usize - piece) % 16] = factor[piece];
        piece += 1;
    }
    tables
}

static SIGNED: Tables = tables(Codes::Signed, false);
static UNSIGNED: Tables = tables(Codes::Unsigned, false);
static GRID_SIGNED: Tables = tables(Codes::Signed, true);
static GRID_UNSIGNED: Tables = tables(Codes::Unsigned, true);

impl Tables {
    /// Those of a format, if it has dynamic codes.
    pub(crate) fn of(format: Format) -> Option<&'static Tables> {
        Some(match format {
            Format::Q8(Codes::Signed) => &SIGNED,
            Format::Q8(Codes::Unsigned) => &UNSIGNED,
            Format::Q8Grid(Codes::Signed) => &GRID_SIGNED,
            Format::Q8Grid(Codes::Unsigned) => &GRID_UNSIGNED,
            _ => return None,
        })
    }

    /// Where the codes of zero are not worth a calculation.
    pub(crate) fn zero_code(&self) -> u8 {
        zero_code(self.format)
    }
}

/// Whether the machine permutes bytes across registers, beyond what AVX-512 has anywhere.
pub(crate) fn permutes_bytes() -> bool {
    is_x86_feature_detected!("avx512vbmi")
}

/// What encodes a block, once its scale is known.
#[derive(Clone, Copy)]
pub(crate) struct Encoder {
    factor: f32,
    /// Nothing to calculate: every code is that of zero.
    empty: bool,
    /// So small that the specification's own loop is asked.
    lifted: bool,
    units: Units,
}

impl Encoder {
    /// The scale, and what encodes, from the largest of the numbers' bits without the sign.
    #[inline(always)]
    pub(crate) fn new(magnitude: u32) -> (f32, Encoder) {
        let (scale, units) = scale_of(magnitude);
        let (factor, empty, lifted) = match units {
            Units::None => (0.0, true, false),
            Units::Times(factor) => (factor, false, false),
            Units::Lifted(_) => (0.0, false, true),
        };
        (scale, Encoder { factor, empty, lifted, units })
    }
}

/// 4 × 4 double words turned, since packing and unpacking work within 128 bits.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn turn(x: __m512i) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe {
        _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), x)
    }
}

/// Encodes a group.
///
/// # Safety
/// `numbers` and `codes` hold a group each; the CPU has AVX-512 (F, BW, DQ, VL).
#[inline(always)]
#[allow(
    clippy::needless_range_loop,
    reason = "each stage reads and writes the same register of several arrays"
)]
pub(crate) unsafe fn encode_group(tables: &Tables, encoder: &Encoder, numbers: *const f32, codes: *mut u8) {
    // SAFETY: the caller's contract.
    unsafe {
        if encoder.empty | encoder.lifted {
            return encode_unusual(tables, encoder, numbers, codes);
        }
        let factor = _mm512_set1_ps(encoder.factor);
        let border = tables.border.as_ptr();
        let (border_low, border_high) = (_mm512_loadu_ps(border), _mm512_loadu_ps(border.add(16)));
        let shift = tables.shift.as_ptr().cast::<i32>();
        let (shift_low, shift_high) =
            (_mm512_loadu_si512(shift.cast()), _mm512_loadu_si512(shift.add(16).cast()));
        let factors = _mm512_loadu_ps(tables.factor.as_ptr());
        let tiny = _mm512_set1_ps(f32::from_bits((FIRST_BINADE as u32 + 1) << 23));
        let (zero, zeros) = (_mm512_setzero_si512(), _mm512_setzero_ps());
        let (mut y, mut w, mut n) = ([zeros; REGISTERS], [zeros; REGISTERS], [zero; REGISTERS]);
        let (mut s, mut negative) = ([zero; REGISTERS], [0u16; REGISTERS]);
        // Stage by stage over four registers: one after another each would be a chain of 40 cycles.
        for k in 0..REGISTERS {
            y[k] = _mm512_mul_ps(_mm512_loadu_ps(numbers.add(16 * k)), factor);
        }
        if tables.grid {
            for y in &mut y {
                *y = to_grid(*y);
            }
        }
        for k in 0..REGISTERS {
            negative[k] = _mm512_movepi32_mask(_mm512_castps_si512(y[k]));
            // The larger magnitude, without its sign.
            y[k] = _mm512_range_ps::<0b1011>(y[k], tiny);
        }
        for k in 0..REGISTERS {
            let binade = _mm512_srli_epi32::<23>(_mm512_castps_si512(y[k]));
            let border = _mm512_permutex2var_ps(border_low, binade, border_high);
            s[k] = _mm512_permutex2var_epi32(shift_low, binade, shift_high);
            let above = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(y[k], border);
            s[k] = _mm512_mask_sub_epi32(s[k], above, s[k], _mm512_set1_epi32(1));
        }
        for k in 0..REGISTERS {
            w[k] = _mm512_mul_ps(y[k], _mm512_permutexvar_ps(s[k], factors));
        }
        for w in &mut w {
            *w = _mm512_add_ps(*w, _mm512_set1_ps(EIGHT_NINTHS));
        }
        let mut near = _mm512_set1_epi32(-1);
        for k in 0..REGISTERS {
            let cell = _mm512_sub_epi32(_mm512_castps_si512(w[k]), _mm512_set1_epi32(0x3f00_0000));
            n[k] = _mm512_srlv_epi32(cell, s[k]);
            // Beyond 2 is still the last cell of the decade.
            n[k] = _mm512_sub_epi32(n[k], _mm512_srli_epi32::<24>(cell));
            let rest = _mm512_add_epi32(_mm512_rorv_epi32(cell, s[k]), _mm512_set1_epi32(NEAR as i32));
            near = _mm512_min_epu32(near, rest);
        }
        for k in 0..REGISTERS {
            n[k] = _mm512_mask_sub_epi32(n[k], negative[k], zero, n[k]);
        }
        let offset = _mm512_set1_epi16(tables.offset);
        let a = _mm512_add_epi16(_mm512_packs_epi32(n[0], n[1]), offset);
        let b = _mm512_add_epi16(_mm512_packs_epi32(n[2], n[3]), offset);
        // Below the unsigned codes is 0, which is where negative numbers belong.
        _mm512_storeu_si512(codes.cast(), turn(_mm512_packus_epi16(a, b)));
        // The numbers of a grid are none of those that are near to a border (a test goes through them).
        let near = _mm512_cmplt_epu32_mask(near, _mm512_set1_epi32(2 * NEAR as i32));
        if near != 0 && !tables.grid {
            look_up(tables, encoder, numbers, codes);
        }
    }
}

/// bitsandbytes' grid of 65,536 numbers.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn to_grid(y: __m512) -> __m512 {
    // SAFETY: the caller's contract.
    unsafe {
        let up = _mm512_mul_ps(_mm512_add_ps(y, _mm512_set1_ps(1.0)), _mm512_set1_ps(32767.5));
        let place = _mm512_cvttps_epi32(_mm512_add_ps(up, _mm512_set1_ps(0.5)));
        // Not the division of the specification, but no code of the 65,536 is another.
        let from = _mm512_mul_ps(_mm512_cvtepi32_ps(place), _mm512_set1_ps(2.0 / 65535.0));
        _mm512_sub_ps(from, _mm512_set1_ps(1.0))
    }
}

/// Looks up those numbers of a group that are near to a border.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn look_up(tables: &Tables, encoder: &Encoder, numbers: *const f32, codes: *mut u8) {
    for i in 0..GROUP {
        // SAFETY: the caller's contract is that of `encode_group`.
        unsafe {
            let code = codes.add(i);
            let y = *numbers.add(i) * encoder.factor;
            let at = usize::from(*code);
            let above = at < 255 && y >= tables.borders[at + 1];
            if above || y < tables.borders[at] {
                *code = search(tables.borders, y);
            }
        }
    }
}

/// A group of a block of zeros, a poisoned or a subnormal one.
#[cold]
#[inline(never)]
unsafe fn encode_unusual(tables: &Tables, encoder: &Encoder, numbers: *const f32, codes: *mut u8) {
    for i in 0..GROUP {
        // SAFETY: the caller's contract is that of `encode_group`.
        unsafe {
            *codes.add(i) = match encoder.empty {
                true => tables.zero_code(),
                false => block::code_of(tables.format, encoder.units.of(*numbers.add(i))),
            };
        }
    }
}

/// Decodes a group.
///
/// # Safety
/// `codes` holds a group; the CPU has AVX-512 with VBMI.
#[inline(always)]
pub(crate) unsafe fn decode_group(tables: &Tables, codes: *const u8, scale: __m512) -> [__m512; REGISTERS] {
    // SAFETY: the caller's contract.
    unsafe {
        let codes = turn(_mm512_loadu_si512(codes.cast()));
        let upper = _mm512_movepi8_mask(codes);
        let mut bytes = [_mm512_setzero_si512(); 4];
        for (bytes, plane) in bytes.iter_mut().zip(&tables.planes) {
            let at = |i: usize| _mm512_loadu_si512(plane.as_ptr().add(64 * i).cast());
            let low = _mm512_permutex2var_epi8(at(0), codes, at(1));
            let high = _mm512_permutex2var_epi8(at(2), codes, at(3));
            *bytes = _mm512_mask_blend_epi8(upper, low, high);
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

/// The larger of the magnitudes' bits.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
pub(crate) unsafe fn larger(most: __m512i, x: __m512) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe { _mm512_max_epu32(most, _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MAX))) }
}

/// Whole blocks here, a last part of one in the specification's loops.
macro_rules! conversions {
    ($name:ident, $tables:expr) => {
        mod $name {
            use super::*;

            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx2,fma,f16c")]
            pub(super) unsafe fn decode(
                stored: *const u8,
                scales: *const f32,
                numbers: *mut f32,
                count: usize,
            ) {
                let tables: &'static Tables = $tables;
                for start in (0..count).step_by(BLOCK) {
                    // SAFETY: the caller vouches for `count` elements with their scales on either side.
                    unsafe {
                        let scale = *scales.add(start / BLOCK);
                        let end = count.min(start + BLOCK);
                        let whole = start + (end - start) / GROUP * GROUP;
                        let scales = _mm512_set1_ps(scale);
                        for i in (start..whole).step_by(GROUP) {
                            let registers = decode_group(tables, stored.add(i), scales);
                            for (k, x) in registers.into_iter().enumerate() {
                                _mm512_storeu_ps(numbers.add(i + 16 * k), x);
                            }
                        }
                        for i in whole..end {
                            *numbers.add(i) = tables.numbers[usize::from(*stored.add(i))] * scale;
                        }
                    }
                }
            }

            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
            pub(super) unsafe fn encode(
                numbers: *const f32,
                stored: *mut u8,
                scales: *mut f32,
                count: usize,
            ) {
                let tables: &'static Tables = $tables;
                for start in (0..count).step_by(BLOCK) {
                    // SAFETY: the caller vouches for `count` elements with their scales on either side.
                    unsafe {
                        let end = count.min(start + BLOCK);
                        let all = core::slice::from_raw_parts(numbers.add(start), end - start);
                        let (scale, encoder) = Encoder::new(super::super::blocks::magnitude(all));
                        *scales.add(start / BLOCK) = scale;
                        let whole = start + (end - start) / GROUP * GROUP;
                        for i in (start..whole).step_by(GROUP) {
                            encode_group(tables, &encoder, numbers.add(i), stored.add(i));
                        }
                        for i in whole..end {
                            *stored.add(i) = match encoder.empty {
                                true => tables.zero_code(),
                                false => block::code_of(tables.format, encoder.units.of(*numbers.add(i))),
                            };
                        }
                    }
                }
            }
        }
    };
}
conversions!(signed, &SIGNED);
conversions!(unsigned, &UNSIGNED);
conversions!(grid_signed, &GRID_SIGNED);
conversions!(grid_unsigned, &GRID_UNSIGNED);

/// The conversions of a format that are faster than the specification's loops.
pub(super) fn faster(format: Format) -> Option<Codec<f32>> {
    if !permutes_bytes() {
        return super::avx2::faster(format);
    }
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
