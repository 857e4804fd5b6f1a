//! Dynamic codes on bitsandbytes' grid with AVX-512: 64 numbers at a time, by tables.
//!
//! The grid has 65,536 places, `h = -32767.5 + place`. The code of a place is looked up by its distance from the
//! middle, the 15 bits of `|h| - 1/2`. The first 64 places are looked up one by one, those below 4,096 in cells of
//! 16, those above in cells of 256. A cell has the code in which it begins and the places behind which the next
//! begins. Unsigned codes have two of these at most and signed ones one. So all that is left to do on singles is to
//! find the place; what follows is done on bytes, 64 at once.

use core::arch::x86_64::*;

/// Half of the grid's steps from -1 to 1.
pub(super) const HALF_GRID: f32 = 32767.5;

/// Places that are looked up one by one, and where cells of 256 begin.
const NEAR: usize = 64;
const FAR: usize = 4096;
/// A border that no place of a cell is behind, since 255 is its last.
const NONE: u8 = 255;

/// The codes of half the grid, counted from the middle.
#[repr(C, align(64))]
pub(super) struct Grid {
    near: [u8; NEAR],
    /// Cells of 16: their first code, and, as the place's lower byte, the last place before the next code. Of the second
    /// border only the first cells have any.
    middle: [u8; FAR / 16],
    middle_border: [u8; FAR / 16],
    middle_second: [u8; 64],
    /// Cells of 256.
    far: [u8; 128],
    far_border: [u8; 128],
    far_second: [u8; 128],
}

impl Grid {
    /// Makes a grid with codes that have `borders`, of which 0 is in the middle or at the beginning.
    pub(super) const fn new(borders: &[f32; 256], signed: bool) -> Grid {
        let middle = if signed { 127 } else { 0 };
        let mut grid = Grid {
            near: [0; NEAR],
            middle: [0; FAR / 16],
            middle_border: [NONE; FAR / 16],
            middle_second: [NONE; 64],
            far: [0; 128],
            far_border: [NONE; 128],
            far_second: [NONE; 128],
        };
        let mut cell = 0;
        while cell < FAR / 16 {
            grid.middle_border[cell] = (cell % 16 * 16 + 15) as u8;
            if cell < 64 {
                grid.middle_second[cell] = grid.middle_border[cell];
            }
            cell += 1;
        }
        let mut code = 1;
        while middle + code < 256 {
            let first = first_place(borders[middle + code]);
            let mut place = first;
            while place < NEAR {
                grid.near[place] = code as u8;
                place += 1;
            }
            cell = first / 16;
            if NEAR <= first && first < FAR && !first.is_multiple_of(16) {
                let before = (first % 256 - 1) as u8;
                if grid.middle_border[cell] % 16 == 15 {
                    grid.middle_border[cell] = before;
                } else {
                    assert!(!signed && grid.middle_second[cell] % 16 == 15, "there are too many borders");
                    grid.middle_second[cell] = before;
                }
            }
            cell = first.div_ceil(16);
            while cell < FAR / 16 {
                grid.middle[cell] = code as u8;
                cell += 1;
            }
            cell = first / 256;
            if FAR <= first && first < 32768 && !first.is_multiple_of(256) {
                let before = (first % 256 - 1) as u8;
                if grid.far_border[cell] == NONE {
                    grid.far_border[cell] = before;
                } else {
                    assert!(!signed && grid.far_second[cell] == NONE, "there are too many borders");
                    grid.far_second[cell] = before;
                }
            }
            cell = first.div_ceil(256);
            while cell < 128 {
                grid.far[cell] = code as u8;
                cell += 1;
            }
            code += 1;
        }
        grid
    }
}

/// Returns the place, counted from the middle, of the first of the grid's numbers that reaches a border above zero.
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

/// Returns the places of 16 numbers: the nearest ones, with bitsandbytes' roundings.
///
/// # Safety
/// `numbers` holds 16; the CPU has AVX-512.
#[inline(always)]
unsafe fn places_of(factor: __m512, numbers: *const f32) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe {
        let y = _mm512_mul_ps(_mm512_loadu_ps(numbers), factor);
        // The product is rounded with the half on it instead of before. That is the same for every sum of a number up
        // to 1 and 1 (a test checks all of them).
        let up = _mm512_add_ps(y, _mm512_set1_ps(1.0));
        let half = _mm512_set1_ps(0.5);
        _mm512_cvttps_epi32(_mm512_fmadd_ps(up, _mm512_set1_ps(HALF_GRID), half))
    }
}

/// Returns every second byte of two registers whose double words were packed to words, in their order.
const fn bytes_of(high: bool) -> [u8; 64] {
    let mut order = [0; 64];
    let mut i = 0;
    while i < 64 {
        // Number `i` is in a quarter of one of four registers, and packing two of them takes quarters alternately.
        let (register, within) = (i / 16, i % 16);
        let word = (register / 2) * 32 + within / 4 * 8 + register % 2 * 4 + within % 4;
        order[i] = (2 * word + high as usize) as u8;
        i += 1;
    }
    order
}

#[repr(align(64))]
struct Order([u8; 64]);
static LOW: Order = Order(bytes_of(false));
static HIGH: Order = Order(bytes_of(true));

/// Returns a register with a byte everywhere.
///
/// # Safety
/// The CPU has AVX-512; so for the next ones, with VBMI.
#[inline(always)]
unsafe fn byte(x: u8) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe { _mm512_set1_epi8(x as i8) }
}

/// Returns part `i` of a table.
#[inline(always)]
unsafe fn at<const N: usize>(table: &[u8; N], i: usize) -> __m512i {
    // SAFETY: the caller's contract, and the table has it.
    unsafe { _mm512_loadu_si512(table.as_ptr().add(64 * i).cast()) }
}

/// Looks up in a table of 256; `upper` are the indices with the highest bit.
#[inline(always)]
unsafe fn in_cell(table: &[u8; 256], cell: __m512i, upper: __mmask64) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe {
        let below = _mm512_permutex2var_epi8(at(table, 0), cell, at(table, 1));
        let above = _mm512_permutex2var_epi8(at(table, 2), cell, at(table, 3));
        _mm512_mask_blend_epi8(upper, below, above)
    }
}

/// Looks up in a table of 128.
#[inline(always)]
unsafe fn in_far(table: &[u8; 128], index: __m512i) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe { _mm512_permutex2var_epi8(at(table, 0), index, at(table, 1)) }
}

/// Counts one code more after a border.
#[inline(always)]
unsafe fn count(code: __m512i, behind: __mmask64) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe { _mm512_mask_sub_epi8(code, behind, code, _mm512_set1_epi8(-1)) }
}

/// Returns the places of a group: their lower bytes, and their upper ones.
///
/// # Safety
/// `numbers` holds 64; the CPU has AVX-512 with VBMI.
#[inline(always)]
pub(super) unsafe fn places(factor: f32, numbers: *const f32) -> [__m512i; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        let factor = _mm512_set1_ps(factor);
        let a = _mm512_packus_epi32(places_of(factor, numbers), places_of(factor, numbers.add(16)));
        let b = _mm512_packus_epi32(places_of(factor, numbers.add(32)), places_of(factor, numbers.add(48)));
        [_mm512_permutex2var_epi8(a, at(&LOW.0, 0), b), _mm512_permutex2var_epi8(a, at(&HIGH.0, 0), b)]
    }
}

/// Stores the codes of a group with these places, all of which are of the upper half where codes are unsigned.
///
/// # Safety
/// `codes` holds 64; the CPU has AVX-512 with VBMI.
#[inline(always)]
pub(super) unsafe fn encode<const SIGNED: bool>(grid: &Grid, places: [__m512i; 2], codes: *mut u8) {
    // SAFETY: the caller's contract.
    unsafe {
        let [mut low, mut high] = places;
        let mut negative = 0;
        if SIGNED {
            high = _mm512_xor_si512(high, byte(128));
            negative = _mm512_movepi8_mask(high);
            low = _mm512_mask_sub_epi8(low, negative, byte(255), low);
            high = _mm512_mask_sub_epi8(high, negative, byte(255), high);
        } else {
            high = _mm512_and_si512(high, byte(127));
        }
        // 15 ? lower : upper, bit by bit.
        let cell = {
            let (upper, lower) = (_mm512_slli_epi16::<4>(high), _mm512_srli_epi16::<4>(low));
            _mm512_ternarylogic_epi32::<0xca>(byte(15), lower, upper)
        };
        let not_far = _mm512_cmplt_epu8_mask(high, byte((FAR / 256) as u8));
        let one_by_one = _mm512_mask_cmplt_epu8_mask(not_far, cell, byte((NEAR / 16) as u8));
        let upper = _mm512_movepi8_mask(cell);
        let mut code = in_cell(&grid.middle, cell, upper);
        code = count(code, _mm512_cmpgt_epu8_mask(low, in_cell(&grid.middle_border, cell, upper)));
        let mut far = in_far(&grid.far, high);
        far = count(far, _mm512_cmpgt_epu8_mask(low, in_far(&grid.far_border, high)));
        if !SIGNED {
            let first = _mm512_cmplt_epu8_mask(cell, byte(64));
            let second = _mm512_permutexvar_epi8(cell, at(&grid.middle_second, 0));
            code = count(code, _mm512_mask_cmpgt_epu8_mask(first, low, second));
            far = count(far, _mm512_cmpgt_epu8_mask(low, in_far(&grid.far_second, high)));
        }
        code = _mm512_mask_blend_epi8(not_far, far, code);
        code = _mm512_mask_permutexvar_epi8(code, one_by_one, low, at(&grid.near, 0));
        if SIGNED {
            // There is no code of -1.
            let middle = byte(127);
            let above = _mm512_add_epi8(code, middle);
            code = _mm512_mask_subs_epu8(above, negative, middle, code);
        }
        _mm512_storeu_si512(codes.cast(), code);
    }
}
