//! The tables behind the fast dynamic codes.
//!
//! A decade of the codebook has evenly spaced numbers, twice as many as the one before. With `w = y · factor +
//! 8/9`, which is in [1, 2) inside the decade, the cell is what the leading bits of `w` say: for decade `d` as
//! many as to count its cells. Which decade a number is in, its exponent tells, up to one exact border.
//!
//! That puts numbers that are all but on a border between two cells in either, by a few units of the last
//! place of `w`: those with less than [`NEAR`] between them and a border are looked up in the table of borders.

use fallline_core::codec::codebook::{
    DYNAMIC_SIGNED, DYNAMIC_SIGNED_BORDERS, DYNAMIC_UNSIGNED, DYNAMIC_UNSIGNED_BORDERS,
};

/// How near to a border of a cell, in units of 2^-32 of a cell, numbers are looked up. The finest cells have 2^16 units
/// of the last place of `w`, of which this is 8: `y · factor` and the sum are rounded by at most 1.1 and 1, the factor
/// and 8/9 by 1.6 together, and the codebook's own numbers are 2 off their even places.
pub(super) const NEAR: u32 = 8 << 16;

/// 8/9, and a unit of the last place less: so the numbers of bitsandbytes' grid, two of which are all but on a border,
/// all get the codes that they should have.
pub(super) const EIGHT_NINTHS: f32 = (8.0f32 / 9.0).next_down();

/// Pieces of a codebook: zero, seven decades, one.
const PIECES: usize = 9;

/// What the instruction sets' own tables are made of.
#[derive(Clone, Copy)]
pub(super) struct Pieces {
    /// The first number of the piece above each of the first eight.
    pub(super) upper: [f32; PIECES - 1],
    /// What `y` is multiplied by.
    pub(super) factor: [f32; PIECES],
    /// By how many bits the cell is shifted in the first piece; by one less in each later one.
    pub(super) shift: u32,
}

pub(super) const fn pieces(signed: bool) -> Pieces {
    let borders = if signed { &DYNAMIC_SIGNED_BORDERS } else { &DYNAMIC_UNSIGNED_BORDERS };
    let mut pieces =
        Pieces { upper: [0.0; PIECES - 1], factor: [0.0; PIECES], shift: if signed { 24 } else { 23 } };
    let (mut decade, mut scale) = (0, 1e6f64);
    while decade < 7 {
        pieces.upper[decade] = borders[if signed { 127 + (1 << decade) } else { (2 << decade) - 1 }];
        pieces.factor[decade + 1] = (scale / 0.9) as f32;
        scale /= 10.0;
        decade += 1;
    }
    pieces.upper[7] = borders[255];
    // So that one is in the middle of its only cell.
    pieces.factor[8] = 0.1125;
    pieces
}

/// The bytes of the numbers of all codes: the lowest of each, then the next.
pub(super) const fn planes(signed: bool) -> [[u8; 256]; 4] {
    let book = if signed { &DYNAMIC_SIGNED } else { &DYNAMIC_UNSIGNED };
    let mut planes = [[0; 256]; 4];
    let mut code = 0;
    while code < 256 {
        let bytes = book[code].to_bits().to_le_bytes();
        let mut plane = 0;
        while plane < 4 {
            planes[plane][code] = bytes[plane];
            plane += 1;
        }
        code += 1;
    }
    planes
}
