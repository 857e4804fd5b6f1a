//! The tables behind the fast dynamic codes.
//!
//! A decade of the codebook has evenly spaced numbers, twice as many as the one before. Take
//! `w = y · factor + 8/9`, which is in [1, 2) inside the decade. The leading bits of `w` are the cell: for decade
//! `d` as many as to count its cells. The exponent of a number says which decade it is in, up to one exact border.
//!
//! That puts numbers that are all but on a border between two cells in either, by a few ULPs of `w`. Those with less
//! than [`NEAR`] between them and a border are looked up in the table of borders.
//!
//! bitsandbytes' grid has 65,536 numbers, `h / 32767.5` with halves `h` from -32767.5 to 32767.5. Taken as `h`, they
//! are far enough from the borders that nothing is looked up (a test checks all of them). The exponents of their
//! magnitudes are 16. That is how AVX2 goes about it; with AVX-512, `grid` looks places up instead.

use super::q8_grid::{Grid, HALF_GRID, first_place};
use fallline_core::codec::block::search;
use fallline_core::codec::codebook::{
    DYNAMIC_SIGNED, DYNAMIC_SIGNED_BORDERS, DYNAMIC_UNSIGNED, DYNAMIC_UNSIGNED_BORDERS,
};
use fallline_core::{Codes, Format};

/// How near to a border of a cell, in units of 2^-32 of a cell, numbers are looked up. The finest cells have 2^16
/// ULPs of `w`, of which this is 8. `w` is rounded by at most 1.1 and 1, the factor and 8/9 by 1.6 together. The
/// codebook's own numbers are 2 off their even places.
pub(super) const NEAR: u32 = 8 << 16;

/// 8/9, and one ULP less. So the numbers of bitsandbytes' grid, two of which are all but on a border, all get the
/// codes that they should have.
pub(super) const EIGHT_NINTHS: f32 = (8.0f32 / 9.0).next_down();

/// The exponent, as it is stored, of the smallest magnitude on the grid, 1/2: there are 16 from here.
pub(super) const GRID_BINADE: u32 = 126;

/// One codebook of dynamic codes, with everything that is needed of it.
pub(crate) struct Codebook {
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
    /// What a positive number is at least, in units of the scale, where there is no grid: the first number above 0 of
    /// unsigned codes.
    pub(super) least: f32,
    pub(super) avx2: Avx2Tables,
    pub(super) avx512: Avx512Tables,
    /// What AVX-512 has for a grid.
    pub(super) places: &'static Grid,
}

static PLACES: [Grid; 2] =
    [Grid::new(&DYNAMIC_SIGNED_BORDERS, true), Grid::new(&DYNAMIC_UNSIGNED_BORDERS, false)];

const fn codebook(codes: Codes, grid: bool) -> Codebook {
    let signed = matches!(codes, Codes::Signed);
    let pieces = pieces(signed, grid);
    let numbers = if signed { &DYNAMIC_SIGNED } else { &DYNAMIC_UNSIGNED };
    Codebook {
        format: if grid { Format::Q8Grid(codes) } else { Format::Q8(codes) },
        signed,
        grid,
        magnitude: if signed { i32::MAX } else { -1 },
        one: 1,
        numbers,
        borders: if signed { &DYNAMIC_SIGNED_BORDERS } else { &DYNAMIC_UNSIGNED_BORDERS },
        least: if signed { 0.0 } else { DYNAMIC_UNSIGNED[1] },
        avx2: Avx2Tables::new(&pieces, signed, grid),
        avx512: Avx512Tables::new(&pieces, signed, numbers),
        places: &PLACES[!signed as usize],
    }
}

/// Signed and unsigned codes, and both chosen on the grid.
pub(super) static CODEBOOKS: [Codebook; 4] = [
    codebook(Codes::Signed, false),
    codebook(Codes::Unsigned, false),
    codebook(Codes::Signed, true),
    codebook(Codes::Unsigned, true),
];

impl Codebook {
    /// Returns the codebook of a format, if it has dynamic codes.
    pub(crate) fn of(format: Format) -> Option<&'static Codebook> {
        CODEBOOKS.iter().find(|codebook| codebook.format == format)
    }
}

/// Looks up those of `count` numbers whose code is on the wrong side of a border.
///
/// # Safety
/// `numbers` and `codes` hold so many.
#[cold]
#[inline(never)]
pub(super) unsafe fn look_up(
    codebook: &Codebook,
    factor: f32,
    numbers: *const f32,
    codes: *mut u8,
    count: usize,
) {
    for i in 0..count {
        // SAFETY: the caller's contract.
        unsafe {
            let code = codes.add(i);
            let y = *numbers.add(i) * factor;
            let at = usize::from(*code);
            let above = at < 255 && y >= codebook.borders[at + 1];
            if above || y < codebook.borders[at] {
                *code = search(codebook.borders, y);
            }
        }
    }
}

/// Pieces of a codebook: zero, seven decades, one.
const PIECES: usize = 9;

/// What the instruction sets' own tables are made of.
#[derive(Clone, Copy)]
pub(super) struct CodebookPieces {
    /// The first number of the piece above each of the first eight, or, of a grid, a whole `h` right below it.
    pub(super) upper: [f32; PIECES - 1],
    /// What `y`, or `h`, is multiplied by.
    pub(super) factor: [f32; PIECES],
    /// By how many bits the cell is shifted in the first piece; by one less in each later one.
    pub(super) shift: u32,
}

impl CodebookPieces {
    /// Returns in which piece the binade of this stored exponent begins, and the first number of the next one if
    /// that begins inside.
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

const fn pieces(signed: bool, grid: bool) -> CodebookPieces {
    let borders = if signed { &DYNAMIC_SIGNED_BORDERS } else { &DYNAMIC_UNSIGNED_BORDERS };
    let mut pieces = CodebookPieces {
        upper: [0.0; PIECES - 1],
        factor: [0.0; PIECES],
        shift: if signed { 24 } else { 23 },
    };
    let unit = if grid { HALF_GRID as f64 } else { 1.0 };
    let (mut decade, mut scale) = (0, 1e6f64);
    while decade < 7 {
        pieces.upper[decade] = borders[if signed { 127 + (1 << decade) } else { (2 << decade) - 1 }];
        pieces.factor[decade + 1] = (scale / 0.9 / unit) as f32;
        scale /= 10.0;
        decade += 1;
    }
    pieces.upper[7] = borders[255];
    if !signed && !grid {
        // Every positive number is lifted to it.
        pieces.upper[0] = DYNAMIC_UNSIGNED[1];
    }
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

/// Returns the whole `h` right below the first of the grid's numbers that reaches a border above zero.
const fn below(border: f32) -> f32 {
    first_place(border) as f32
}

/// What AVX2 needs of a codebook.
#[repr(C, align(32))]
pub(super) struct Avx2Tables {
    /// The first number of the piece above each of the first eight.
    pub(super) upper: [f32; 8],
    /// What `y` is multiplied by, of the pieces from 0 to 8, of which the last shares a place with the first.
    pub(super) factor: [f32; 8],
    /// `(exponent · slope + rise) >> 8` is the lower piece in a binade.
    pub(super) slope: i32,
    pub(super) rise: i32,
    /// On a grid, where there are 16 binades, the lower piece of each, twice: bytes are permuted in halves.
    pub(super) lower: [u8; 32],
    pub(super) shift: i32,
}

impl Avx2Tables {
    const fn new(pieces: &CodebookPieces, signed: bool, grid: bool) -> Avx2Tables {
        let (slope, rise) = if signed { (81, -514) } else { (79, -442) };
        let mut tables = Avx2Tables {
            upper: pieces.upper,
            factor: [0.0; 8],
            slope,
            rise: rise - 96 * slope,
            lower: [0; 32],
            shift: pieces.shift as i32,
        };
        let mut piece = 1;
        while piece < pieces.factor.len() {
            tables.factor[piece % 8] = pieces.factor[piece];
            piece += 1;
        }
        let mut binade = 0;
        while grid && binade < 32 {
            tables.lower[binade] = pieces.of_binade(GRID_BINADE + binade as u32 % 16).0 as u8;
            binade += 1;
        }
        tables
    }
}

/// The exponent of the first binade in the tables, where there is no grid: numbers below 2^-30 are zero.
pub(super) const FIRST_BINADE: u32 = 96;

/// What AVX-512 needs of a codebook, where there is no grid.
#[repr(C, align(64))]
pub(super) struct Avx512Tables {
    /// The bytes of the numbers: the lowest of each, then the next. Signed codes have those of their magnitude's place
    /// behind 0, modulo 128, in the first half.
    pub(super) planes: [[u8; 256]; 4],
    /// For each binade the first number of its upper piece, or NaN where it has only one.
    pub(super) border: [u32; 32],
    /// For each binade the shift of its lower piece.
    pub(super) shift: [u32; 32],
    /// By the shift modulo 16, what `y` is multiplied by.
    pub(super) factor: [f32; 16],
}

impl Avx512Tables {
    const fn new(pieces: &CodebookPieces, signed: bool, numbers: &[f32; 256]) -> Avx512Tables {
        let mut tables =
            Avx512Tables { planes: [[0; 256]; 4], border: [0; 32], shift: [0; 32], factor: [0.0; 16] };
        let mut place = 0;
        while place < 256 {
            let code = match signed {
                true if place == 0 => 255,
                true => 127 + place % 128,
                false => place,
            };
            let bytes = numbers[code].to_bits().to_le_bytes();
            let mut plane = 0;
            while plane < 4 {
                tables.planes[plane][place] = bytes[plane];
                plane += 1;
            }
            place += 1;
        }
        let mut binade = 0;
        while binade < 32 {
            let (piece, border) = pieces.of_binade(FIRST_BINADE + binade as u32);
            let border = match border {
                Some(border) => border,
                None => f32::NAN,
            };
            tables.shift[binade] = pieces.shift - piece as u32;
            tables.border[binade] = border.to_bits();
            binade += 1;
        }
        let mut piece = 0;
        while piece < pieces.factor.len() {
            tables.factor[(pieces.shift as usize - piece) % 16] = pieces.factor[piece];
            piece += 1;
        }
        tables
    }
}
