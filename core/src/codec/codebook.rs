//! The numbers that the codes of block formats mean, and the borders between them.
//!
//! A codebook is sorted. A number between two neighbours takes the nearer one, in exact arithmetic; half-way the one
//! that is nearer to zero. So a code is the count of borders that a number has reached. A border is the first `f32`
//! that belongs to its upper code.

use crate::{Codes, Format};

/// Returns bitsandbytes' dynamic numbers: seven decades of 1 to 64 evenly spaced ones (2 to 128 unsigned), mirrored
/// for the signed codes, 0 and 1. Bit for bit `create_dynamic_map` of bitsandbytes 0.50.2: steps of a
/// decade's borders rounded once, as torch's `linspace` does.
const fn dynamic(signed: bool) -> [f32; 256] {
    // Exactly the singles nearest to these powers.
    const SCALES: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
    let mut book = [0.0; 256];
    let zero = if signed { 127 } else { 0 };
    let (mut at, mut decade) = (zero + 1, 0);
    while decade < 7 {
        let cells = if signed { 1usize << decade } else { 2 << decade };
        let step = (1.0f32 - 0.1f32) / cells as f32;
        let mut cell = 0;
        while cell < cells {
            let mean = (border(step, cell, cells) + border(step, cell + 1, cells)) / 2.0;
            let number = SCALES[decade] * mean;
            book[at] = number;
            if signed {
                book[2 * zero - at] = -number;
            }
            at += 1;
            cell += 1;
        }
        decade += 1;
    }
    book[at] = 1.0;
    book
}

/// Returns border `i` of `cells` between 0.1 and 1: counted from the nearer end.
const fn border(step: f32, i: usize, cells: usize) -> f32 {
    // The product of two singles is exact in a double: what is rounded is the sum, as an fma does it.
    if i < cells.div_ceil(2) {
        (0.1f32 as f64 + step as f64 * i as f64) as f32
    } else {
        (1.0 - step as f64 * (cells - i) as f64) as f32
    }
}

/// torchao's signed numbers in 4 bits: a dynamic map of three decades.
const SIGNED_4: [f32; 16] = [
    -0.8875, -0.6625, -0.4375, -0.2125, -0.0775, -0.0325, -0.0055, 0.0, 0.0055, 0.0325, 0.0775, 0.2125,
    0.4375, 0.6625, 0.8875, 1.0,
];

/// Returns torchao's unsigned numbers in 4 bits. They are evenly spaced, and none is 0, since a second moment of 0
/// would make a step of any size.
const fn unsigned_4() -> [f32; 16] {
    let mut book = [0.0; 16];
    let mut i = 0;
    while i < 16 {
        book[i] = (i + 1) as f32 / 16.0;
        i += 1;
    }
    book
}

/// Returns evenly spaced numbers: -1 to 1 in steps of 1/127 around code 128, or 0 to 1 in steps of 1/255. Code 0
/// means -1 like code 1, and is never chosen.
const fn linear(signed: bool) -> [f32; 256] {
    let mut book = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        book[code] = match signed {
            true if code == 0 => -1.0,
            true => (code as f32 - 128.0) / 127.0,
            false => code as f32 / 255.0,
        };
        code += 1;
    }
    book
}

/// Returns the numbers of E4M3 over the largest, 448. The code with all bits set but the sign is NaN there, and is
/// never chosen.
const fn fp8() -> [f32; 256] {
    let mut book = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (exponent, fraction) = ((code >> 3) & 15, (code & 7) as f32);
        let magnitude = match exponent {
            0 => fraction / 512.0,
            _ => (8.0 + fraction) * (1u32 << exponent) as f32 / 1024.0,
        };
        let number = if code & 127 == 127 { f32::NAN } else { magnitude / 448.0 };
        book[code] = if code < 128 { number } else { -number };
        code += 1;
    }
    book
}

/// Returns the borders of the unsigned dynamic codes: the nearest number's, but 0 is for 0 alone.
///
/// A second moment that becomes 0 while its first moment lives on makes a step of any size.
const fn unsigned_borders() -> [f32; 256] {
    let mut borders = borders(&dynamic(false));
    borders[1] = 0.0f32.next_up();
    borders
}

/// Returns the border in front of each code: the first `f32` that is nearer to it than to the one before.
const fn borders<const N: usize>(book: &[f32; N]) -> [f32; N] {
    let mut borders = [f32::NEG_INFINITY; N];
    let mut code = 1;
    while code < N {
        // The sum of two singles less than 2^29 apart is exact in a double.
        let middle = (book[code - 1] as f64 + book[code] as f64) / 2.0;
        let mut border = middle as f32;
        // The tie goes to the number nearer to zero: the lower one above zero, the upper one below.
        while (border as f64) < middle || (border as f64 == middle && middle > 0.0) {
            border = border.next_up();
        }
        loop {
            let before = border.next_down();
            if (before as f64) < middle || (before as f64 == middle && middle > 0.0) {
                break;
            }
            border = before;
        }
        borders[code] = border;
        code += 1;
    }
    borders
}

/// What the signed dynamic codes mean.
pub static DYNAMIC_SIGNED: [f32; 256] = dynamic(true);
/// What the unsigned dynamic codes mean.
pub static DYNAMIC_UNSIGNED: [f32; 256] = dynamic(false);
/// The borders of the signed dynamic codes.
pub static DYNAMIC_SIGNED_BORDERS: [f32; 256] = borders(&dynamic(true));
/// The borders of the unsigned dynamic codes.
pub static DYNAMIC_UNSIGNED_BORDERS: [f32; 256] = unsigned_borders();
static LINEAR_SIGNED: [f32; 256] = linear(true);
static LINEAR_UNSIGNED: [f32; 256] = linear(false);
static FP8: [f32; 256] = fp8();
/// What the signed 4-bit codes mean.
pub static FOUR_SIGNED: [f32; 16] = SIGNED_4;
/// What the unsigned 4-bit codes mean.
pub static FOUR_UNSIGNED: [f32; 16] = unsigned_4();
/// The borders of the 4-bit codes, signed and unsigned.
pub static FOUR_BORDERS: [[f32; 16]; 2] = [borders(&SIGNED_4), borders(&unsigned_4())];

/// Returns what each code of a block format means, in units of the block's scale.
///
/// # Panics
/// When the format is not a block format.
#[inline(always)]
pub fn numbers(format: Format) -> &'static [f32] {
    match format {
        Format::Q8(Codes::Signed) | Format::Q8Grid(Codes::Signed) => &DYNAMIC_SIGNED,
        Format::Q8(Codes::Unsigned) | Format::Q8Grid(Codes::Unsigned) => &DYNAMIC_UNSIGNED,
        Format::Q8Linear(Codes::Signed) => &LINEAR_SIGNED,
        Format::Q8Linear(Codes::Unsigned) => &LINEAR_UNSIGNED,
        Format::Q4(Codes::Signed) => &FOUR_SIGNED,
        Format::Q4(Codes::Unsigned) => &FOUR_UNSIGNED,
        Format::Fp8 => &FP8,
        Format::F64 | Format::F32 | Format::Bf16 | Format::F16 => {
            unreachable!("{format} stores elements one by one")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From bitsandbytes 0.50.2: a sum over the bits of its maps.
    #[test]
    fn the_dynamic_numbers_are_those_of_bitsandbytes() {
        let sum = |book: &[f32; 256]| book.iter().fold(0u32, |sum, x| sum.rotate_left(5) ^ x.to_bits());
        assert_eq!(sum(&DYNAMIC_SIGNED), 0x1154_36df);
        assert_eq!(sum(&DYNAMIC_UNSIGNED), 0x9288_e9b9);
        assert_eq!((DYNAMIC_SIGNED[127], DYNAMIC_SIGNED[255]), (0.0, 1.0));
        assert!(DYNAMIC_SIGNED.is_sorted() && DYNAMIC_UNSIGNED.is_sorted());
    }

    #[test]
    fn a_border_is_where_the_nearer_number_changes() {
        fn check<const N: usize>(first: usize, book: &[f32; N], borders: &[f32; N]) {
            for code in first..N {
                let (low, high) = (f64::from(book[code - 1]), f64::from(book[code]));
                let at = f64::from(borders[code]);
                let below = f64::from(borders[code].next_down());
                assert!(high - at <= at - low && below - low <= high - below, "border {code}");
            }
        }
        check(1, &DYNAMIC_SIGNED, &DYNAMIC_SIGNED_BORDERS);
        check(2, &DYNAMIC_UNSIGNED, &DYNAMIC_UNSIGNED_BORDERS);
        check(1, &FOUR_SIGNED, &FOUR_BORDERS[0]);
        check(1, &FOUR_UNSIGNED, &FOUR_BORDERS[1]);
        // Every positive number has a positive code.
        assert_eq!(DYNAMIC_UNSIGNED_BORDERS[1].to_bits(), 1);
    }
}
