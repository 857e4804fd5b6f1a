//! Block formats: what a block of numbers becomes, bit for bit.
//!
//! The scale of a block is its absmax, its largest magnitude. A code means a number of its [`codebook`] times the
//! scale. So zero (where a codebook has it) and the absmax (where it has 1, or -1) are exact after a round trip. A
//! number is taken in units of the scale, `y = x · (1 / scale)`, with two roundings, and then:
//!
//! | format | code |
//! |---|---|
//! | `Q8`, `Q4` | the nearest number's, in exact arithmetic; half-way the one nearer to zero; unsigned `Q8` at least 1 where `y` is positive |
//! | `Q8Grid` | the same for the nearest of 65,536 evenly spaced numbers: what bitsandbytes' library for CPUs does |
//! | `Q8Linear` | `y · 127` (unsigned `y · 255`, but at least 1 where `y` is positive), rounded to the nearest integer, ties to even |
//! | `Fp8` | `y · 448`, rounded to the nearest E4M3 number, ties to even, but not to 0 where it is another |
//!
//! (That a second moment of 0 is never made of one that is none: it would make a step of any size.)
//!
//! A block of zeros has the scale 0 and the code of 0 everywhere (0 of `Q8Grid`, as there). A block with a NaN or an
//! infinity has a NaN as its scale. Every number in it decodes to NaN, so that it cannot be overlooked; other blocks
//! are not affected. Where the scale is subnormal, scale and numbers are multiplied by 2^64 first, which is exact.
//! Doubles are rounded to singles before.

use super::codebook::{self, FOUR_BORDERS};
use super::codebook::{DYNAMIC_SIGNED_BORDERS, DYNAMIC_UNSIGNED_BORDERS};
use crate::{Codes, Format};

/// The most elements that a block of any format has.
pub const LONGEST: usize = 256;

/// Lifts subnormal numbers into the normal ones, exactly.
const LIFT: f32 = 18_446_744_073_709_551_616.0;

/// How the numbers of a block are taken in units of its scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Units {
    /// All have the code of zero: the scale is 0 or NaN.
    None,
    /// `x · factor`.
    Times(f32),
    /// `(x · 2^64) · factor`.
    Lifted(f32),
}

impl Units {
    /// Returns a number in these units.
    #[inline(always)]
    pub fn of(self, x: f32) -> f32 {
        match self {
            Units::None => 0.0,
            Units::Times(factor) => x * factor,
            Units::Lifted(factor) => x * LIFT * factor,
        }
    }
}

/// Returns the scale of a block and what its numbers are multiplied by, from the largest of their bits without the
/// sign.
#[inline(always)]
pub fn scale_of(magnitude_bits: u32) -> (f32, Units) {
    let scale = f32::from_bits(magnitude_bits);
    match magnitude_bits {
        0 => (0.0, Units::None),
        1..0x0080_0000 => (scale, Units::Lifted(1.0 / (scale * LIFT))),
        0x0080_0000..0x7f80_0000 => (scale, Units::Times(1.0 / scale)),
        _ => (f32::NAN, Units::None),
    }
}

/// Returns the code of zero, which every element of a block of zeros or of a non-finite block has.
pub const fn zero_code(format: Format) -> u8 {
    match format {
        Format::Q8(Codes::Signed) => 127,
        Format::Q8Linear(Codes::Signed) => 128,
        Format::Q4(Codes::Signed) => 7,
        // 0 of a grid as bitsandbytes has it, which keeps no zeros anyway.
        _ => 0,
    }
}

/// Returns the code of a number in units of its block's scale.
#[inline(always)]
pub fn code_of(format: Format, y: f32) -> u8 {
    match format {
        Format::Q8(Codes::Signed) => search(&DYNAMIC_SIGNED_BORDERS, y),
        Format::Q8(Codes::Unsigned) => search(&DYNAMIC_UNSIGNED_BORDERS, y),
        Format::Q8Grid(Codes::Signed) => search(&DYNAMIC_SIGNED_BORDERS, to_grid(y)),
        Format::Q8Grid(Codes::Unsigned) => search(&DYNAMIC_UNSIGNED_BORDERS, to_grid(y)),
        Format::Q8Linear(Codes::Signed) => (nearest_integer(y * 127.0) + 128) as u8,
        Format::Q8Linear(Codes::Unsigned) => nearest_integer(y * 255.0).max((y > 0.0) as i32) as u8,
        Format::Q4(Codes::Signed) => q4(&FOUR_BORDERS[0], y),
        Format::Q4(Codes::Unsigned) => q4(&FOUR_BORDERS[1], y),
        Format::Fp8 => fp8_of(y * 448.0),
        Format::F64 | Format::F32 | Format::Bf16 | Format::F16 => {
            unreachable!("{format} stores elements one by one")
        }
    }
}

/// Returns the last code whose border a number has reached, by halving.
#[inline(always)]
pub fn search(borders: &[f32; 256], y: f32) -> u8 {
    let mut code = 0;
    let mut half = 128;
    while half > 0 {
        code += if y >= borders[code + half] { half } else { 0 };
        half /= 2;
    }
    code as u8
}

/// Returns the last code whose border a number has reached, by counting: registers do.
#[inline(always)]
fn q4(borders: &[f32; 16], y: f32) -> u8 {
    let mut code = 0;
    for &border in &borders[1..] {
        code += (y >= border) as u32;
    }
    code as u8
}

/// Returns the nearest of the 65,536 numbers `2 i / 65535 - 1`, with bitsandbytes' roundings.
#[inline(always)]
fn to_grid(y: f32) -> f32 {
    // Half of it, which is exact, times 65,535 and half a step up.
    let place = ((y.clamp(-1.0, 1.0) + 1.0) * 32767.5 + 0.5) as i32;
    -1.0 + (2 * place) as f32 / 65535.0
}

/// Returns the nearest integer, ties to even, of a number below 2^22: the adder rounds.
#[inline(always)]
fn nearest_integer(x: f32) -> i32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT).to_bits().wrapping_sub(SHIFT.to_bits()) as i32
}

/// Returns the E4M3 bits nearest to a number of at most 448, ties to even. What rounds beyond the largest number
/// takes that, and what would round to 0 takes the smallest.
#[inline(always)]
fn fp8_of(x: f32) -> u8 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let rounded = if magnitude < 0x3c80_0000 {
        // Below 2^-6 the adder aligns and rounds: 2^14 has the unit 2^-9 of the subnormals.
        (f32::from_bits(magnitude) + 16384.0).to_bits().wrapping_sub(0x4680_0000)
    } else {
        let odd = (magnitude >> 20) & 1;
        (magnitude - 0x3c00_0000 + 0x7_ffff + odd) >> 20
    };
    let rounded = rounded.max((magnitude != 0) as u32);
    ((bits >> 24) & 0x80) as u8 | if rounded < 0x7e { rounded } else { 0x7e } as u8
}

/// Returns the number that a code means, in units of the scale: an element of its codebook, computed where that is
/// faster than a look-up.
#[inline(always)]
pub fn number_of(format: Format, code: u8) -> f32 {
    match format {
        Format::Q8Linear(Codes::Signed) => (f32::from(code.max(1)) - 128.0) / 127.0,
        Format::Q8Linear(Codes::Unsigned) => f32::from(code) / 255.0,
        Format::Fp8 => {
            let (sign, magnitude) = (u32::from(code & 0x80) << 24, u32::from(code & 0x7f));
            let x = match magnitude {
                0..8 => magnitude as f32 / 512.0,
                127 => f32::NAN,
                _ => f32::from_bits((magnitude << 20) + 0x3c00_0000),
            };
            f32::from_bits((x / 448.0).to_bits() | sign)
        }
        // Of known length, so that no index is checked.
        Format::Q4(Codes::Signed) => codebook::FOUR_SIGNED[usize::from(code & 15)],
        Format::Q4(Codes::Unsigned) => codebook::FOUR_UNSIGNED[usize::from(code & 15)],
        Format::Q8(Codes::Signed) | Format::Q8Grid(Codes::Signed) => {
            codebook::DYNAMIC_SIGNED[usize::from(code)]
        }
        Format::Q8(Codes::Unsigned) | Format::Q8Grid(Codes::Unsigned) => {
            codebook::DYNAMIC_UNSIGNED[usize::from(code)]
        }
        Format::F64 | Format::F32 | Format::Bf16 | Format::F16 => {
            unreachable!("{format} stores elements one by one")
        }
    }
}

/// Encodes a block of at most [`Format::block`] numbers, and returns its scale.
pub fn encode_block(format: Format, numbers: &[f32], codes: &mut [u8]) -> f32 {
    let magnitude = numbers.iter().fold(0, |most, x| most.max(x.to_bits() & 0x7fff_ffff));
    let (scale, units) = scale_of(magnitude);
    let code = |x: f32| match units {
        Units::None => zero_code(format),
        _ => code_of(format, units.of(x)),
    };
    if let Format::Q4(_) = format {
        encode_fours(format, units, numbers, codes);
    } else {
        for (byte, &x) in codes.iter_mut().zip(numbers) {
            *byte = code(x);
        }
    }
    scale
}

/// Encodes numbers in units of a scale, two codes a byte.
#[inline(always)]
pub fn encode_fours(format: Format, units: Units, numbers: &[f32], codes: &mut [u8]) {
    let code = |x: f32| match units {
        Units::None => zero_code(format),
        _ => code_of(format, units.of(x)),
    };
    for (byte, pair) in codes.iter_mut().zip(numbers.chunks(2)) {
        *byte = code(pair[0]) << 4 | pair.get(1).map_or(0, |&x| code(x));
    }
}

/// Decodes a block of at most [`Format::block`] numbers.
pub fn decode_block(format: Format, codes: &[u8], scale: f32, numbers: &mut [f32]) {
    let book = codebook::numbers(format);
    if let Format::Q4(_) = format {
        for (i, x) in numbers.iter_mut().enumerate() {
            *x = book[usize::from(codes[i / 2] >> (4 - 4 * (i % 2)) & 15)] * scale;
        }
    } else {
        for (x, &code) in numbers.iter_mut().zip(codes) {
            *x = book[usize::from(code)] * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_code_of_every_border_and_its_neighbours() {
        for format in [Format::Q8(Codes::Signed), Format::Q8(Codes::Unsigned)]
            .into_iter()
            .chain([Format::Q4(Codes::Signed), Format::Q4(Codes::Unsigned)])
        {
            let book = codebook::numbers(format);
            for pair in book.windows(2) {
                let middle = ((f64::from(pair[0]) + f64::from(pair[1])) / 2.0) as f32;
                for y in [middle.next_down(), middle, middle.next_up(), pair[0], pair[1]] {
                    let gap = |code: usize| (f64::from(book[code]) - f64::from(y)).abs();
                    let code = usize::from(code_of(format, y));
                    // Of unsigned codes only 0 becomes 0.
                    let first = usize::from(format == Format::Q8(Codes::Unsigned) && y > 0.0);
                    let best = (first..book.len()).map(gap).fold(f64::INFINITY, f64::min);
                    assert_eq!(gap(code), best, "{format}: {y:e}");
                }
            }
        }
    }

    #[test]
    fn evenly_spaced_and_floating_codes_are_the_nearest() {
        for format in [Format::Q8Linear(Codes::Signed), Format::Q8Linear(Codes::Unsigned), Format::Fp8] {
            let book = codebook::numbers(format);
            let chosen: Vec<f64> = book.iter().filter(|x| x.is_finite()).map(|&x| f64::from(x)).collect();
            let first = if format == Format::Q8Linear(Codes::Unsigned) { 0 } else { -10_000 };
            for y in (first..=10_000).map(|i| i as f32 / 10_000.0) {
                let gap = |x: f64| (x - f64::from(y)).abs();
                let found = gap(f64::from(book[usize::from(code_of(format, y))]));
                // Only 0 becomes 0, but for signed codes in even steps.
                let zero = y == 0.0 || format == Format::Q8Linear(Codes::Signed);
                let allowed = chosen.iter().filter(|x| **x != 0.0 || zero);
                let best = allowed.map(|&x| gap(x)).fold(f64::INFINITY, f64::min);
                // Multiplying by 127, 255 or 448 rounds, and so may the number of a code.
                assert!(found <= best + 2.0 * f64::from(f32::EPSILON), "{format}: {y}");
            }
        }
    }

    #[test]
    fn every_number_of_a_codebook_keeps_its_code() {
        for format in Format::BLOCKS {
            let grid = matches!(format, Format::Q8Grid(_));
            for (code, &y) in codebook::numbers(format).iter().enumerate() {
                let again = usize::from(code_of(format, y));
                let twin = format == Format::Q8Linear(Codes::Signed) && code == 0;
                // A grid is coarser than the smallest numbers, and -0 has the code of 0 nowhere else.
                if y.is_nan() || twin || grid && y.abs() < 1e-3 {
                    continue;
                }
                assert_eq!(again, code, "{format}: {y:e}");
            }
        }
    }

    #[test]
    fn numbers_are_those_of_the_codebook() {
        for format in Format::BLOCKS {
            for (code, x) in codebook::numbers(format).iter().enumerate() {
                let found = number_of(format, code as u8);
                assert!(found.to_bits() == x.to_bits() || found.is_nan() && x.is_nan(), "{format}: {code}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_poisons_its_block() {
        for format in Format::BLOCKS {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut numbers = [0.5f32; 100];
                numbers[17] = bad;
                let mut codes = [9u8; 100];
                let scale = encode_block(format, &numbers, &mut codes);
                assert!(scale.is_nan());
                decode_block(format, &codes, scale, &mut numbers);
                assert!(numbers.iter().all(|x| x.is_nan()), "{format}");
            }
        }
    }
}
