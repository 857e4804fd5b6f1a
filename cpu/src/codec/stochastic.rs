//! Stochastic rounding to bfloat16: the specification's loops, compiled for each instruction set.

use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::isa::multiversion;
use core::slice::{from_raw_parts, from_raw_parts_mut};
use fallline_core::codec::stochastic::{MULTIPLIER, ROUNDS, WEYL, bf16_from_f32};

/// Rounds `count` numbers stochastically to bfloat16, of which the first is element `first` (a multiple of four) of its
/// tensor.
pub(crate) type Round<T> = unsafe fn(numbers: *const T, stored: *mut u16, count: usize, key: u64, first: u64);

/// Elements whose random bits are drawn together.
const GROUP: usize = 256;

/// A number that is rounded as a single.
pub(super) trait Single: Copy {
    fn single(self) -> f32;
}

impl Single for f32 {
    #[inline(always)]
    fn single(self) -> f32 {
        self
    }
}

impl Single for f64 {
    #[inline(always)]
    fn single(self) -> f32 {
        self as f32
    }
}

/// Draws the random bits of [`GROUP`] elements, of which the first is `4 · quarter`: the rounds of all fours side
/// by side, in registers.
#[inline(always)]
fn draw(key: u64, quarter: u64, bits: &mut [u64; GROUP / 4]) {
    let mut left: [u32; GROUP / 4] = core::array::from_fn(|i| (quarter + i as u64) as u32);
    let high = |i: usize| ((quarter + i as u64) >> 32) as u32;
    let mut right: [u32; GROUP / 4] = core::array::from_fn(|i| (key >> 32) as u32 ^ high(i));
    let mut round_key = key as u32;
    for _ in 0..ROUNDS {
        for (left, right) in left.iter_mut().zip(&mut right) {
            let product = MULTIPLIER * u64::from(*left);
            *left = (product >> 32) as u32 ^ round_key ^ *right;
            *right = product as u32;
        }
        round_key = round_key.wrapping_add(WEYL);
    }
    for ((bits, left), right) in bits.iter_mut().zip(left).zip(right) {
        // The lower 16 bits are the first element's.
        *bits = (u64::from(left) | u64::from(right) << 32).to_le();
    }
}

/// # Safety
/// As [`Round`].
#[inline(always)]
unsafe fn round<T: Single>(numbers: *const T, stored: *mut u16, count: usize, key: u64, first: u64) {
    let mut bits = [0u64; GROUP / 4];
    for start in (0..count).step_by(GROUP) {
        let length = GROUP.min(count - start);
        draw(key, (first + start as u64) / 4, &mut bits);
        let chances: &[u16] = bytemuck::cast_slice(&bits);
        // SAFETY: the caller vouches for `count` elements on either side.
        let (numbers, stored) = unsafe {
            (from_raw_parts(numbers.add(start), length), from_raw_parts_mut(stored.add(start), length))
        };
        for ((stored, x), chance) in stored.iter_mut().zip(numbers).zip(chances) {
            *stored = bf16_from_f32(x.single(), u16::from_le(*chance));
        }
    }
}

#[cfg(target_arch = "x86_64")]
multiversion! {
    round::<T>[T: Single](numbers: *const T, stored: *mut u16, count: usize, key: u64, first: u64)
}

pub(super) fn rounding<T: Single>(isa: Isa) -> Round<T> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if cfg!(feature = "simd-storage") => avx512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if cfg!(feature = "simd-storage") => avx2,
        _ => round,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fallline_core::codec::stochastic::random;

    #[test]
    fn every_instruction_set_gives_the_specified_bits() {
        let numbers: Vec<f32> = (0..1000u32).map(|i| f32::from_bits(i.wrapping_mul(0x0123_4567))).collect();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let (key, first) = (0x0123_4567_89ab_cdef, (1u64 << 34) - 400);
            let mut stored = vec![0; numbers.len()];
            // SAFETY: the buffers have the length given, and the machine has the instruction set.
            unsafe { rounding::<f32>(isa)(numbers.as_ptr(), stored.as_mut_ptr(), numbers.len(), key, first) };
            for (i, (&x, bits)) in numbers.iter().zip(stored).enumerate() {
                assert_eq!(bits, bf16_from_f32(x, random(key, first + i as u64)), "{isa}: {x:e}");
            }
        }
    }
}
