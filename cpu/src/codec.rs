//! Fast conversions between storage and arithmetic, equal to `fallline_core::codec` bit for bit.
//!
//! Most are the specification itself, compiled for each instruction set so that the compiler makes registers of it.
//! Half precision uses the conversion instructions of F16C. Block formats are `quant`'s.

mod stochastic;

use crate::isa::Isa;
use crate::quant::{BlockCodec, block_codec};
#[cfg(target_arch = "x86_64")]
use crate::vector::{Register, Ymm32, Zmm32};
use fallline_core::reduction::STEP;
use fallline_core::{Format, codec};
pub(crate) use stochastic::Round;

/// Reads `count` stored elements into numbers.
pub(crate) type Decode<T> = unsafe fn(stored: *const u8, numbers: *mut T, count: usize);
/// Rounds `count` numbers into stored elements.
pub(crate) type Encode<T> = unsafe fn(numbers: *const T, stored: *mut u8, count: usize);

/// The two directions between a format and a compute type.
#[derive(Clone, Copy)]
pub(crate) enum Codec<T> {
    /// Element by element.
    Each { decode: Decode<T>, encode: Encode<T> },
    /// In blocks that share a scale.
    Blocks(BlockCodec),
}

/// A number that has codecs. Blocks are of singles: a double is rounded to one before.
pub(crate) trait Coded: Copy {
    /// Returns stochastic rounding for an instruction set.
    fn round(isa: Isa) -> Round<Self>;

    /// Returns the conversions of `format`, or `None` if it is the compute type's own.
    fn codec(format: Format, isa: Isa) -> Option<Codec<Self>>;

    /// Lets `decode` write `count` singles, a step at most, and puts them into `numbers`.
    ///
    /// # Safety
    /// `numbers` has room for them, and `decode` writes all.
    unsafe fn from_singles(numbers: *mut Self, count: usize, decode: impl FnOnce(*mut f32));

    /// Lets `encode` read the singles of `count` numbers, a step at most.
    ///
    /// # Safety
    /// `numbers` holds them.
    unsafe fn with_singles<R>(numbers: *const Self, count: usize, encode: impl FnOnce(*const f32) -> R) -> R;
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
        unsafe fn decode(stored: *const u8, numbers: *mut $t, count: usize) {
            // SAFETY: the caller vouches for `count` elements on either side.
            unsafe { $decode(stored.cast::<$stored>(), numbers, count) }
        }
        $(#[target_feature(enable = $features)])?
        unsafe fn encode(numbers: *const $t, stored: *mut u8, count: usize) {
            // SAFETY: the caller vouches for `count` elements on either side.
            unsafe { $encode(numbers, stored.cast::<$stored>(), count) }
        }
        Some(Codec::Each { decode, encode })
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
            #[cfg(target_arch = "x86_64")]
            (Format::Bf16, Isa::Avx512) => {
                codec!(
                    f32,
                    u16,
                    widen::<Zmm32>,
                    narrow::<Zmm32>,
                    "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"
                )
            }
            #[cfg(target_arch = "x86_64")]
            (Format::Bf16, Isa::Avx2) => codec!(f32, u16, widen::<Ymm32>, narrow::<Ymm32>, "avx2,fma,f16c"),
            (Format::Bf16, _) => codec!(f32, u16, bf16_to_f32, f32_to_bf16),
            #[cfg(target_arch = "x86_64")]
            (Format::F16, Isa::Avx2 | Isa::Avx512) => {
                codec!(f32, u16, f16c::to_f32, f16c::from_f32, "avx2,fma,f16c")
            }
            (Format::F16, _) => codec!(f32, u16, f16_to_f32, f32_to_f16),
            (Format::F64, _) => for_each_isa!(isa, f32, f64, f64_to_f32, f32_to_f64),
            (blocks, _) => Some(Codec::Blocks(block_codec(blocks, isa))),
        }
    }

    #[inline(always)]
    unsafe fn from_singles(numbers: *mut f32, _: usize, decode: impl FnOnce(*mut f32)) {
        decode(numbers);
    }

    #[inline(always)]
    unsafe fn with_singles<R>(numbers: *const f32, _: usize, encode: impl FnOnce(*const f32) -> R) -> R {
        encode(numbers)
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
            blocks => Some(Codec::Blocks(block_codec(blocks, isa))),
        }
    }

    unsafe fn from_singles(numbers: *mut f64, count: usize, decode: impl FnOnce(*mut f32)) {
        let mut singles = [0.0; STEP];
        decode(singles.as_mut_ptr());
        for (i, &x) in singles[..count].iter().enumerate() {
            // SAFETY: the caller's contract.
            unsafe { numbers.add(i).write(f64::from(x)) };
        }
    }

    unsafe fn with_singles<R>(numbers: *const f64, count: usize, encode: impl FnOnce(*const f32) -> R) -> R {
        let mut singles = [0.0; STEP];
        for (i, x) in singles[..count].iter_mut().enumerate() {
            // SAFETY: the caller's contract.
            *x = unsafe { *numbers.add(i) } as f32;
        }
        encode(singles.as_ptr())
    }
}

/// Converts from bfloat16: by the registers' conversions, and by the specification's for what is left.
///
/// # Safety
/// There are `count` elements on either side; the CPU has the instruction set of `V`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn widen<V: Register<Number = f32>>(from: *const u16, to: *mut f32, count: usize)
where
    f64: fallline_core::Literal<V>,
{
    let whole = count / V::LANES * V::LANES;
    // SAFETY: the caller's contract.
    unsafe {
        for i in (0..whole).step_by(V::LANES) {
            V::load_bf16(from.add(i)).store(to.add(i));
        }
        bf16_to_f32(from.add(whole), to.add(whole), count - whole);
    }
}

/// Does the same to bfloat16.
///
/// # Safety
/// As for `widen`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn narrow<V: Register<Number = f32>>(from: *const f32, to: *mut u16, count: usize)
where
    f64: fallline_core::Literal<V>,
{
    let whole = count / V::LANES * V::LANES;
    // SAFETY: the caller's contract.
    unsafe {
        for i in (0..whole).step_by(V::LANES) {
            V::load(from.add(i)).store_bf16(to.add(i));
        }
        f32_to_bf16(from.add(whole), to.add(whole), count - whole);
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
                let Some(Codec::Each { decode: widen, encode: narrow }) = <f32 as Coded>::codec(format, isa)
                else {
                    panic!("neither f32 nor in blocks")
                };
                let mut numbers = vec![0f32; patterns.len()];
                let mut stored = vec![0u16; singles.len()];
                // SAFETY: the buffers have the lengths given, and the machine has the instruction set.
                unsafe {
                    widen(patterns.as_ptr().cast(), numbers.as_mut_ptr(), patterns.len());
                    narrow(singles.as_ptr(), stored.as_mut_ptr().cast(), singles.len());
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
