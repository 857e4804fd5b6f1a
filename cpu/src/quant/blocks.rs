//! Block formats: the specification's loops, compiled for each instruction set.

use core::slice::{from_raw_parts, from_raw_parts_mut};
use fallline_core::codec::block::{self, Units, code_of, number_of, scale_of, zero_code};
use fallline_core::{Codes, Format};

/// The conversions of a block format from and to `f32`.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "what only registers of their own look at")
)]
#[derive(Clone, Copy)]
pub(crate) struct BlockCodec {
    /// `count` numbers from their codes and scales: of whole blocks and the tensor's last one.
    pub(crate) decode: unsafe fn(codes: *const u8, scales: *const f32, numbers: *mut f32, count: usize),
    /// The codes and scales of such blocks.
    pub(crate) encode: unsafe fn(numbers: *const f32, scales: *mut f32, codes: *mut u8, count: usize),
    /// The codes of a part of a block that begins with a whole byte, once it is known what encodes the block.
    pub(crate) part: unsafe fn(numbers: *const f32, params: &QuantParams, codes: *mut u8, count: usize),
}

/// The largest of a block's numbers in each of 16 columns: their bits without the sign, or with it where none should
/// be negative.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct AbsMax(pub(crate) [u32; 16]);

impl AbsMax {
    pub(crate) const NONE: AbsMax = AbsMax([0; 16]);
}

/// What encodes a block.
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "what only registers of their own look at")
)]
#[derive(Clone, Copy)]
pub(crate) struct QuantParams {
    /// Numbers are multiplied by `factor`, and that is all; with unsigned codes none is negative.
    pub(crate) usual: bool,
    pub(crate) factor: f32,
    pub(super) units: Units,
}

impl QuantParams {
    pub(crate) const NONE: QuantParams = QuantParams { usual: false, factor: 0.0, units: Units::None };
}

impl BlockCodec {
    /// Returns the scale of a block of `count` numbers. `params` becomes what encodes it. (Not returned: what is
    /// written in parts cannot be read as a whole soon after.)
    ///
    /// # Safety
    /// `numbers` holds them.
    #[inline(always)]
    pub(crate) unsafe fn finish(
        absmax: &AbsMax,
        numbers: *const f32,
        count: usize,
        params: &mut QuantParams,
    ) -> f32 {
        let mut magnitude = absmax.0.iter().fold(0, |absmax, &x| absmax.max(x));
        let negative = magnitude >> 31 == 1;
        if negative {
            // SAFETY: the caller's contract.
            magnitude = unsafe { magnitude_of(numbers, count) };
        }
        let (scale, units) = scale_of(magnitude);
        params.units = units;
        params.usual = false;
        if let Units::Times(factor) = units {
            params.factor = factor;
            // The specification's loop is for the others.
            params.usual = !negative;
        }
        scale
    }
}

/// Returns the largest magnitude's bits, of a block with negative numbers that should have none.
///
/// # Safety
/// `numbers` holds `count`.
#[cold]
unsafe fn magnitude_of(numbers: *const f32, count: usize) -> u32 {
    let mut absmax = AbsMax::NONE;
    // SAFETY: the caller's contract.
    unsafe { update_absmax::<true>(numbers, count, &mut absmax) };
    absmax.0.iter().fold(0, |absmax, &x| absmax.max(x))
}

/// A block format as a type, so that loops are compiled for it: the conversions of a block or a part of it. What is
/// here is the specification.
pub(super) trait BlockFormat {
    const FORMAT: Format;

    /// # Safety
    /// There are `count` elements on either side, and the CPU has what this needs.
    #[inline(always)]
    unsafe fn decode(codes: *const u8, scale: f32, numbers: *mut f32, count: usize) {
        // SAFETY: the caller's contract.
        unsafe { decode::<Self>(codes, scale, numbers, count) }
    }

    /// # Safety
    /// As for `decode`.
    #[inline(always)]
    unsafe fn update_absmax(numbers: *const f32, count: usize, absmax: &mut AbsMax) {
        // SAFETY: the caller's contract.
        unsafe { update_absmax::<true>(numbers, count, absmax) }
    }

    /// # Safety
    /// As for `decode`.
    #[inline(always)]
    unsafe fn encode(numbers: *const f32, params: &QuantParams, codes: *mut u8, count: usize) {
        // SAFETY: the caller's contract.
        unsafe { encode::<Self>(numbers, params, codes, count) }
    }
}

macro_rules! block_formats {
    ($($name:ident $format:expr;)*) => { $(
        pub(super) struct $name;
        impl BlockFormat for $name {
            const FORMAT: Format = $format;
        }
    )* };
}
block_formats! {
    Q8Signed Format::Q8(Codes::Signed);
    Q8Unsigned Format::Q8(Codes::Unsigned);
    GridSigned Format::Q8Grid(Codes::Signed);
    GridUnsigned Format::Q8Grid(Codes::Unsigned);
    LinearSigned Format::Q8Linear(Codes::Signed);
    LinearUnsigned Format::Q8Linear(Codes::Unsigned);
    Q4Signed Format::Q4(Codes::Signed);
    Q4Unsigned Format::Q4(Codes::Unsigned);
    Fp8 Format::Fp8;
}

/// Returns the number of elements of a block.
pub(super) const fn block_len(format: Format) -> usize {
    match format.block() {
        Some(block) => block,
        None => block::LONGEST,
    }
}

const fn is_q4(format: Format) -> bool {
    matches!(format, Format::Q4(_))
}

/// # Safety
/// As [`BlockFormat::decode`].
#[inline(always)]
pub(super) unsafe fn decode<F: BlockFormat + ?Sized>(
    codes: *const u8,
    scale: f32,
    numbers: *mut f32,
    count: usize,
) {
    // SAFETY: the caller vouches for `count` elements on either side.
    let (codes, numbers) =
        unsafe { (from_raw_parts(codes, F::FORMAT.size(count)), from_raw_parts_mut(numbers, count)) };
    if const { is_q4(F::FORMAT) } {
        let pairs = numbers.chunks_exact_mut(2);
        for (pair, &byte) in pairs.zip(codes) {
            pair[0] = number_of(F::FORMAT, byte >> 4) * scale;
            pair[1] = number_of(F::FORMAT, byte & 15) * scale;
        }
        if count % 2 == 1 {
            numbers[count - 1] = number_of(F::FORMAT, codes[count / 2] >> 4) * scale;
        }
    } else {
        for (x, &code) in numbers.iter_mut().zip(codes) {
            *x = number_of(F::FORMAT, code) * scale;
        }
    }
}

/// Updates the absmax. With `SIGNED` false the bits are taken as they are, so that a negative number shows.
///
/// # Safety
/// `numbers` holds `count`.
#[inline(always)]
pub(super) unsafe fn update_absmax<const SIGNED: bool>(
    numbers: *const f32,
    count: usize,
    absmax: &mut AbsMax,
) {
    let magnitude = if SIGNED { 0x7fff_ffff } else { u32::MAX };
    // SAFETY: the caller's contract.
    let numbers = unsafe { from_raw_parts(numbers, count) };
    // In one column: the compiler makes registers of a fold, but not of several columns in memory.
    absmax.0[0] = numbers.iter().fold(absmax.0[0], |absmax, x| absmax.max(x.to_bits() & magnitude));
}

/// # Safety
/// As [`BlockFormat::encode`].
#[inline(always)]
pub(super) unsafe fn encode<F: BlockFormat + ?Sized>(
    numbers: *const f32,
    params: &QuantParams,
    codes: *mut u8,
    count: usize,
) {
    // SAFETY: the caller's contract.
    let (numbers, codes) =
        unsafe { (from_raw_parts(numbers, count), from_raw_parts_mut(codes, F::FORMAT.size(count))) };
    let units = params.units;
    if const { is_q4(F::FORMAT) } {
        return block::encode_fours(F::FORMAT, units, numbers, codes);
    }
    let pairs = codes.iter_mut().zip(numbers);
    match units {
        Units::None => codes.fill(zero_code(F::FORMAT)),
        Units::Times(factor) => pairs.for_each(|(code, x)| *code = code_of(F::FORMAT, x * factor)),
        Units::Lifted(_) => pairs.for_each(|(code, &x)| *code = code_of(F::FORMAT, units.of(x))),
    }
}

/// The conversions of a [`BlockFormat`], compiled with the given features.
macro_rules! compiled {
    ($format:ty $(, $features:literal)?) => {{
        use $crate::quant::blocks::{BlockFormat, BlockCodec, QuantParams, AbsMax, block_len};
        const FORMAT: fallline_core::Format = <$format as BlockFormat>::FORMAT;
        const LENGTH: usize = block_len(FORMAT);
        /// # Safety
        /// As [`BlockCodec::decode`].
        $(#[target_feature(enable = $features)])?
        unsafe fn decode(codes: *const u8, scales: *const f32, numbers: *mut f32, count: usize) {
            for (block, start) in (0..count).step_by(LENGTH).enumerate() {
                let length = LENGTH.min(count - start);
                // SAFETY: the caller's contract.
                unsafe {
                    let (codes, scale) = (codes.add(FORMAT.size(start)), *scales.add(block));
                    <$format>::decode(codes, scale, numbers.add(start), length);
                }
            }
        }
        /// # Safety
        /// As [`BlockCodec::encode`].
        $(#[target_feature(enable = $features)])?
        unsafe fn encode(numbers: *const f32, scales: *mut f32, codes: *mut u8, count: usize) {
            for (block, start) in (0..count).step_by(LENGTH).enumerate() {
                let length = LENGTH.min(count - start);
                let (mut absmax, mut params) = (AbsMax::NONE, QuantParams::NONE);
                // SAFETY: the caller's contract.
                unsafe {
                    let (numbers, codes) = (numbers.add(start), codes.add(FORMAT.size(start)));
                    <$format>::update_absmax(numbers, length, &mut absmax);
                    *scales.add(block) = BlockCodec::finish(&absmax, numbers, length, &mut params);
                    <$format>::encode(numbers, &params, codes, length);
                }
            }
        }
        /// # Safety
        /// As [`BlockCodec::part`].
        $(#[target_feature(enable = $features)])?
        unsafe fn part(numbers: *const f32, params: &QuantParams, codes: *mut u8, count: usize) {
            // SAFETY: the caller's contract.
            unsafe { <$format>::encode(numbers, params, codes, count) }
        }
        BlockCodec { decode, encode, part }
    }};
}
pub(super) use compiled;

/// The same for each instruction set.
macro_rules! for_each_isa {
    ($isa:expr, $format:ty) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 if cfg!(feature = "simd-storage") => {
                $crate::quant::blocks::compiled!($format, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 if cfg!(feature = "simd-storage") => {
                $crate::quant::blocks::compiled!($format, "avx2,fma,f16c")
            }
            _ => $crate::quant::blocks::compiled!($format),
        }
    };
}
pub(super) use for_each_isa;
