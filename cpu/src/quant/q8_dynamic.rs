//! The tables behind the fast dynamic codes.
//!
//! A decade of the codebook has evenly spaced numbers, twice as many as the one before. With `w = y · factor +
//! 8/9`, which is in [1, 2) inside the decade, the cell is what the leading bits of `w` say: for decade `d` as
//! many as to count its cells. Which decade a number is in, its exponent tells, up to one exact border.
//!
//! That puts numbers that are all but on a border between two cells in either, by a few units of the last
//! place of `w`: those with less than [`NEAR`] between them and a border are looked up in the table of borders.
//!
//! bitsandbytes' grid has 65,536 numbers, `h / 32767.5` with halves `h` from -32767.5 to 32767.5. Taken as `h`, they
//! are far enough from the borders that nothing is looked up (a test goes through all of them), and the exponents of
//! their magnitudes are 16. That is how AVX2 goes about it; with AVX-512, `grid` looks places up instead.

use super::q8_grid::Grid;
use super::{avx2, avx512};
use fallline_core::codec::block::search;
use fallline_core::codec::codebook::{
    DYNAMIC_SIGNED, DYNAMIC_SIGNED_BORDERS, DYNAMIC_UNSIGNED, DYNAMIC_UNSIGNED_BORDERS,
};
use fallline_core::{Codes, Format};

/// How near to a border of a cell, in units of 2^-32 of a cell, numbers are looked up. The finest cells have 2^16 units
/// of the last place of `w`, of which this is 8: `w` is rounded by at most 1.1 and 1, the factor
/// and 8/9 by 1.6 together, and the codebook's own numbers are 2 off their even places.
pub(super) const NEAR: u32 = 8 << 16;

/// 8/9, and a unit of the last place less: so the numbers of bitsandbytes' grid, two of which are all but on a border,
/// all get the codes that they should have.
pub(super) const EIGHT_NINTHS: f32 = (8.0f32 / 9.0).next_down();

/// Half of the grid's steps from -1 to 1.
pub(super) const HALF_GRID: f32 = 32767.5;

/// The exponent, as it is stored, of the smallest magnitude on the grid, 1/2: there are 16 from here.
pub(super) const GRID_BINADE: u32 = 126;

/// One kind of dynamic codes, with everything that is needed of it.
pub(crate) struct Kind {
    pub(super) format: Format,
    pub(super) signed: bool,
    /// Chosen as bitsandbytes does on a CPU.
    pub(super) grid: bool,
    /// What is left of a number's bits to find the largest: all of them where none should be negative, so that one
    /// which is shows.
    pub(super) magnitude: i32,
    /// 1, which the compiler should not know: it would make two instructions of a subtraction under a mask.
    pub(super) one: i32,
    pub(super) numbers: &'static [f32; 256],
    pub(super) borders: &'static [f32; 256],
    pub(super) avx2: avx2::Tables,
    pub(super) avx512: avx512::Tables,
    /// What AVX-512 has for a grid.
    pub(super) places: &'static Grid,
}

static PLACES: [Grid; 2] =
    [Grid::new(&DYNAMIC_SIGNED_BORDERS, true), Grid::new(&DYNAMIC_UNSIGNED_BORDERS, false)];

const fn kind(codes: Codes, grid: bool) -> Kind {
    let signed = matches!(codes, Codes::Signed);
    let pieces = pieces(signed, grid);
    let numbers = if signed { &DYNAMIC_SIGNED } else { &DYNAMIC_UNSIGNED };
    Kind {
        format: if grid { Format::Q8Grid(codes) } else { Format::Q8(codes) },
        signed,
        grid,
        magnitude: if signed { i32::MAX } else { -1 },
        one: 1,
        numbers,
        borders: if signed { &DYNAMIC_SIGNED_BORDERS } else { &DYNAMIC_UNSIGNED_BORDERS },
        avx2: avx2::Tables::new(&pieces, signed, grid),
        avx512: avx512::Tables::new(&pieces, signed, numbers),
        places: &PLACES[!signed as usize],
    }
}

/// Signed and unsigned codes, and both chosen on the grid.
pub(super) static KINDS: [Kind; 4] = [
    kind(Codes::Signed, false),
    kind(Codes::Unsigned, false),
    kind(Codes::Signed, true),
    kind(Codes::Unsigned, true),
];

impl Kind {
    /// That of a format, if it has dynamic codes.
    pub(crate) fn of(format: Format) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.format == format)
    }
}

/// Looks up those of `count` numbers whose code is on the wrong side of a border.
///
/// # Safety
/// `numbers` and `codes` hold so many.
#[cold]
#[inline(never)]
pub(super) unsafe fn look_up(kind: &Kind, factor: f32, numbers: *const f32, codes: *mut u8, count: usize) {
    for i in 0..count {
        // SAFETY: the caller's contract.
        unsafe {
            let code = codes.add(i);
            let y = *numbers.add(i) * factor;
            let at = usize::from(*code);
            let above = at < 255 && y >= kind.borders[at + 1];
            if above || y < kind.borders[at] {
                *code = search(kind.borders, y);
            }
        }
    }
}

/// Pieces of a codebook: zero, seven decades, one.
const PIECES: usize = 9;

/// What the instruction sets' own tables are made of.
#[derive(Clone, Copy)]
pub(super) struct Pieces {
    /// The first number of the piece above each of the first eight, or, of a grid, a whole `h` right below it.
    pub(super) upper: [f32; PIECES - 1],
    /// What `y`, or `h`, is multiplied by.
    pub(super) factor: [f32; PIECES],
    /// By how many bits the cell is shifted in the first piece; by one less in each later one.
    pub(super) shift: u32,
}

impl Pieces {
    /// In which piece the binade begins that has this exponent as it is stored, and the first number of the next one
    /// if that begins inside.
    pub(super) const fn of_binade(&self, exponent: u32) -> (usize, Option<f32>) {
        let low = f32::from_bits(exponent << 23);
        let mut piece = 0;
        while piece < self.upper.len() && self.upper[piece] <= low {
            piece += 1;
        }
        let inside = piece < self.upper.len() && self.upper[piece] < 2.0 * low;
        (piece, if inside { Some(self.upper[piece]) } else { None })
    }
}

const fn pieces(signed: bool, grid: bool) -> Pieces {
    let borders = if signed { &DYNAMIC_SIGNED_BORDERS } else { &DYNAMIC_UNSIGNED_BORDERS };
    let mut pieces =
        Pieces { upper: [0.0; PIECES - 1], factor: [0.0; PIECES], shift: if signed { 24 } else { 23 } };
    let unit = if grid { HALF_GRID as f64 } else { 1.0 };
    let (mut decade, mut scale) = (0, 1e6f64);
    while decade < 7 {
        pieces.upper[decade] = borders[if signed { 127 + (1 << decade) } else { (2 << decade) - 1 }];
        pieces.factor[decade + 1] = (scale / 0.9 / unit) as f32;
        scale /= 10.0;
        decade += 1;
    }
    pieces.upper[7] = borders[255];
    // So that one is in the middle of its only cell.
    pieces.factor[8] = (0.1125 / unit) as f32;
    if grid {
        let mut piece = 0;
        while piece < pieces.upper.len() {
            pieces.upper[piece] = below(pieces.upper[piece]);
            piece += 1;
        }
        if !signed {
            // A number that is all but on a border: a little less brings it to its side, and no other across.
            pieces.factor[6] = f32::from_bits(pieces.factor[6].to_bits() - 16);
        }
    }
    pieces
}

/// The whole `h` right below the first of the grid's numbers that reaches a border above zero.
const fn below(border: f32) -> f32 {
    first_place(border) as f32
}

/// The place, counted from the middle, of the first of the grid's numbers that reaches a border above zero.
pub(super) const fn first_place(border: f32) -> usize {
    let (mut low, mut high) = (0, 32768);
    while low < high {
        let middle = (low + high) / 2;
        let number = -1.0 + (2 * (32768 + middle)) as f32 / 65535.0;
        if number >= border {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}
