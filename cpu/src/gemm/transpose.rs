//! Transposing in registers.

use super::microkernel::MAX_NR;
use core::arch::x86_64::*;

/// Rows and columns that are transposed in one go.
pub(super) const TRANSPOSE: usize = 16;

/// Transposes 16 × 16 units of four bytes.
///
/// # Safety
/// 16 rows of 64 bytes, `stride` bytes apart, may be read, and 16 of 64 bytes, `to_stride` units apart, written; the
/// machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose_16x16(from: *const u8, stride: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: the caller's.
    unsafe {
        let rows: [__m512; TRANSPOSE] =
            core::array::from_fn(|i| _mm512_loadu_ps(from.add(i * stride).cast()));
        // Interleaves pairs of rows, then fours, then the quarters of registers twice. What was in lane 4 a + b of
        // row i goes to lane i of row 4 a + b.
        let pairs: [__m512; TRANSPOSE] = core::array::from_fn(|i| {
            let (x, y) = (rows[i & !1], rows[i | 1]);
            if i & 1 == 0 { _mm512_unpacklo_ps(x, y) } else { _mm512_unpackhi_ps(x, y) }
        });
        let fours: [__m512; TRANSPOSE] = core::array::from_fn(|i| {
            // Column i % 4 of each quarter of the rows 4 (i / 4) to 4 (i / 4) + 3.
            let half = i >> 1 & 1;
            let (x, y) = (_mm512_castps_pd(pairs[i & !3 | half]), _mm512_castps_pd(pairs[i & !3 | 2 | half]));
            _mm512_castpd_ps(if i & 1 == 0 { _mm512_unpacklo_pd(x, y) } else { _mm512_unpackhi_pd(x, y) })
        });
        let eights: [__m512; TRANSPOSE] = core::array::from_fn(|i| {
            // Rows 0 to 7 or 8 to 15; quarters 0 and 2, or 1 and 3.
            let (x, y) = (fours[i & 8 | i & 3], fours[i & 8 | 4 | i & 3]);
            if i & 4 == 0 { _mm512_shuffle_f32x4::<0x88>(x, y) } else { _mm512_shuffle_f32x4::<0xdd>(x, y) }
        });
        for i in 0..TRANSPOSE {
            let (quarter, column) = (i / 4, i % 4);
            let (x, y) = (eights[(quarter & 1) * 4 + column], eights[8 + (quarter & 1) * 4 + column]);
            let row = if quarter < 2 {
                _mm512_shuffle_f32x4::<0x88>(x, y)
            } else {
                _mm512_shuffle_f32x4::<0xdd>(x, y)
            };
            _mm512_storeu_ps(to.add(i * to_stride), row);
        }
    }
}

/// Transposes a square of `side` numbers.
///
/// # Safety
/// The square is there, no larger than `to`, and the machine has AVX-512.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose_square<T: Copy>(square: *const T, side: usize, to: &mut [T; MAX_NR * MAX_NR]) {
    if size_of::<T>() == 4 && side.is_multiple_of(TRANSPOSE) {
        for (i, j) in
            (0..side).step_by(TRANSPOSE).flat_map(|i| (0..side).step_by(TRANSPOSE).map(move |j| (i, j)))
        {
            // SAFETY: within both squares.
            unsafe {
                let to = to.as_mut_ptr().add(j * side + i);
                transpose_16x16(square.add(i * side + j).cast(), side * 4, to.cast(), side);
            }
        }
        return;
    }
    for (place, to) in to[..side * side].iter_mut().enumerate() {
        // SAFETY: within the square.
        *to = unsafe { *square.add(place % side * side + place / side) };
    }
}
