//! Fast conversions between storage and arithmetic, equal to `fallline_core::codec` bit for bit.
//!
//! Most are the specification itself, compiled for each instruction set so that the compiler makes
//! registers of it; half precision uses the conversion instructions of F16C.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
mod blocks;
#[cfg(target_arch = "x86_64")]
mod dynamic;
mod stochastic;

use crate::isa::Isa;
use fallline_core::{Format, codec};

/// Reads `count` stored elements into numbers. In a block format the first of them begins a block, whose scale
/// `scales` points at.
pub(crate) type Decode<T> = unsafe fn(stored: *const u8, scales: *const f32, numbers: *mut T, count: usize);
/// Rounds `count` numbers into stored elements; in a block format these are whole blocks, but for a tensor's last.
pub(crate) type Encode<T> = unsafe fn(numbers: *const T, stored: *mut u8, scales: *mut f32, count: usize);

/// The two directions between a format and a compute type.
pub(crate) struct Codec<T> {
    pub(crate) decode: Decode<T>,
    pub(crate) encode: Encode<T>,
}

/// Rounds `count` numbers to bfloat16 by chance, of which the first is element `first` (a multiple of four) of its
/// tensor.
pub(crate) type Round<T> = unsafe fn(numbers: *const T, stored: *mut u16, count: usize, key: u64, first: u64);

/// A number that has codecs.
pub(crate) trait Coded: Sized {
    /// Stochastic rounding for an instruction set.
    fn round(isa: Isa) -> Round<Self>;
    /// The conversions of `format`, or `None` where it is stored as it is computed.
    fn codec(format: Format, isa: Isa) -> Option<Codec<Self>>;
}

/// One direction: a loop over unaligned elements.
macro_rules! convert {
    ($name:ident, $from:ty => $to:ty, $value:ident => $formula:expr) => {
        #[inline(always)]
        unsafe fn $name(from: *const $from, to: *mut $to, count: usize) {
            for i in 0..count {
                // SAFETY: the caller vouches for `count` elements on either side, which do not overlap.
                unsafe {
                    let $value = from.add(i).read_unaligned();
                    to.add(i).write_unaligned($formula);
                }
            }
        }
    };
}
convert!(bf16_to_f32, u16 => f32, x => codec::f32_from_bf16(x));
convert!(f32_to_bf16, f32 => u16, x => codec::bf16_from_f32(x));
convert!(f16_to_f32, u16 => f32, x => codec::f32_from_f16(x));
convert!(f32_to_f16, f32 => u16, x => codec::f16_from_f32(x));
convert!(bf16_to_f64, u16 => f64, x => f64::from(codec::f32_from_bf16(x)));
convert!(f64_to_bf16, f64 => u16, x => codec::bf16_from_f64(x));
convert!(f16_to_f64, u16 => f64, x => f64::from(codec::f32_from_f16(x)));
convert!(f64_to_f16, f64 => u16, x => codec::f16_from_f64(x));
convert!(f32_to_f64, f32 => f64, x => f64::from(x));
convert!(f64_to_f32, f64 => f32, x => x as f32);

/// A codec of two loops, compiled with the given features.
macro_rules! codec {
    ($t:ty, $stored:ty, $decode:path, $encode:path $(, $features:literal)?) => {{
        $(#[target_feature(enable = $features)])?
        unsafe fn decode(stored: *const u8, _: *const f32, numbers: *mut $t, count: usize) {
            // SAFETY: the caller vouches for `count` elements on either side.
            unsafe { $decode(stored.cast::<$stored>(), numbers, count) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn encode(numbers: *const $t, stored: *mut u8, _: *mut f32, count: usize) {
            // SAFETY: the caller vouches for `count` elements on either side.
            unsafe { $encode(numbers, stored.cast::<$stored>(), count) }
        }
        Some(Codec { decode, encode })
    }};
}

/// The same loops for each instruction set.
macro_rules! for_each_isa {
    ($isa:expr, $t:ty, $stored:ty, $decode:path, $encode:path) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                codec!($t, $stored, $decode, $encode, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => codec!($t, $stored, $decode, $encode, "avx2,fma,f16c"),
            _ => codec!($t, $stored, $decode, $encode),
        }
    };
}

impl Coded for f32 {
    fn round(isa: Isa) -> Round<f32> {
        stochastic::rounding::<f32>(isa)
    }

    fn codec(format: Format, isa: Isa) -> Option<Codec<f32>> {
        match (format, isa) {
            (Format::F32, _) => None,
            (Format::Bf16, _) => for_each_isa!(isa, f32, u16, bf16_to_f32, f32_to_bf16),
            #[cfg(target_arch = "x86_64")]
            (Format::F16, Isa::Avx2 | Isa::Avx512) => {
                codec!(f32, u16, f16c::to_f32, f16c::from_f32, "avx2,fma,f16c")
            }
            (Format::F16, _) => codec!(f32, u16, f16_to_f32, f32_to_f16),
            (Format::F64, _) => for_each_isa!(isa, f32, f64, f64_to_f32, f32_to_f64),
            (blocks, _) => Some(blocks::codec(blocks, isa)),
        }
    }
}

impl Coded for f64 {
    fn round(isa: Isa) -> Round<f64> {
        stochastic::rounding::<f64>(isa)
    }

    fn codec(format: Format, isa: Isa) -> Option<Codec<f64>> {
        match format {
            Format::F64 => None,
            Format::F32 => for_each_isa!(isa, f64, f32, f32_to_f64, f64_to_f32),
            Format::Bf16 => for_each_isa!(isa, f64, u16, bf16_to_f64, f64_to_bf16),
            Format::F16 => for_each_isa!(isa, f64, u16, f16_to_f64, f64_to_f16),
            blocks => Some(blocks::double_codec(blocks, isa)),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod f16c {
    use core::arch::x86_64::*;

    #[inline(always)]
    pub(super) unsafe fn to_f32(from: *const u16, to: *mut f32, count: usize) {
        // SAFETY: the caller vouches for `count` elements on either side, and for F16C.
        unsafe {
            let whole = count / 8 * 8;
            for i in (0..whole).step_by(8) {
                _mm256_storeu_ps(to.add(i), _mm256_cvtph_ps(_mm_loadu_si128(from.add(i).cast())));
            }
            super::f16_to_f32(from.add(whole), to.add(whole), count - whole);
        }
    }

    #[inline(always)]
    pub(super) unsafe fn from_f32(from: *const f32, to: *mut u16, count: usize) {
        // SAFETY: the caller vouches for `count` elements on either side, and for F16C.
        unsafe {
            let whole = count / 8 * 8;
            for i in (0..whole).step_by(8) {
                let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(from.add(i)));
                _mm_storeu_si128(to.add(i).cast(), half);
            }
            super::f32_to_f16(from.add(whole), to.add(whole), count - whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_specified_bits() {
        // All 16-bit patterns, and singles around every rounding border of both formats.
        let patterns: Vec<u16> = (0..=u16::MAX).collect();
        let mut singles: Vec<f32> = Vec::new();
        for &bits in &patterns {
            let (a, b) = (codec::f32_from_bf16(bits), codec::f32_from_f16(bits));
            for x in
                [a, f32::from_bits(a.to_bits().wrapping_add(0x8000)), b, f32::from_bits(b.to_bits() ^ 0x1000)]
            {
                singles.extend([x, x.next_up(), x.next_down()]);
            }
        }
        type Specified = (Format, fn(f32) -> u16, fn(u16) -> f32);
        let formats: [Specified; 2] = [
            (Format::Bf16, codec::bf16_from_f32, codec::f32_from_bf16),
            (Format::F16, codec::f16_from_f32, codec::f32_from_f16),
        ];
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            for (format, encode, decode) in formats {
                let fast = <f32 as Coded>::codec(format, isa).expect("it is not f32");
                let mut numbers = vec![0f32; patterns.len()];
                let mut stored = vec![0u16; singles.len()];
                // SAFETY: the buffers have the lengths given, and the machine has the instruction set.
                unsafe {
                    let none = core::ptr::null_mut();
                    (fast.decode)(patterns.as_ptr().cast(), none, numbers.as_mut_ptr(), patterns.len());
                    (fast.encode)(singles.as_ptr(), stored.as_mut_ptr().cast(), none, singles.len());
                }
                for (&bits, &x) in patterns.iter().zip(&numbers) {
                    let expected = decode(bits);
                    assert!(
                        x.to_bits() == expected.to_bits() || x.is_nan() && expected.is_nan(),
                        "{format} {bits:#06x}"
                    );
                }
                for (&x, &bits) in singles.iter().zip(&stored) {
                    let both_nan = decode(bits).is_nan() && x.is_nan();
                    assert!(bits == encode(x) || both_nan, "{isa} {format} of {x:e}: {bits:#06x}");
                }
            }
        }
    }
}
