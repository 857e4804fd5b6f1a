//! Vectors that dequantize and quantize, in a rule's own loop.

use super::blocks::AbsMax;
use super::q8_dynamic::Codebook;
use crate::vector::Register;

/// Vectors of a group.
pub(crate) const REGISTERS: usize = 4;

/// A vector that converts dynamic codes in groups of four, to be inlined where a rule is. Every function needs its
/// instruction set.
pub(crate) trait QuantVector: Register<Number = f32>
where
    f64: fallline_core::Literal<Self>,
{
    /// The bits of a vector of numbers.
    type Bits: Copy;

    /// Returns the largest magnitudes of no numbers: zero.
    ///
    /// # Safety
    /// As for the others.
    unsafe fn no_absmax() -> Self::Bits;

    /// Dequantizes a group.
    ///
    /// # Safety
    /// `codes` holds them.
    unsafe fn decode(codebook: &Codebook, codes: *const u8, scale: f32) -> [Self; REGISTERS];

    /// Returns the larger of a vector's magnitudes and those before, column by column.
    ///
    /// # Safety
    /// As for the others.
    unsafe fn update_absmax(codebook: &Codebook, absmax: Self::Bits, x: Self) -> Self::Bits;

    /// Returns the largest magnitudes as a block's parameters are made of them.
    ///
    /// # Safety
    /// As for the others.
    unsafe fn to_absmax(absmax: Self::Bits) -> AbsMax;

    /// What the first stage of quantization hands to the second.
    type Stage1: Copy;

    /// Returns what hands over nothing.
    ///
    /// # Safety
    /// As for the others.
    unsafe fn no_stage1() -> Self::Stage1;

    /// Quantizes a group about half the way, in a block that has a [factor](super::QuantParams::factor).
    ///
    /// # Safety
    /// There are so many numbers.
    unsafe fn stage1(codebook: &Codebook, factor: f32, numbers: *const f32) -> Self::Stage1;

    /// Quantizes a group the rest of the way.
    ///
    /// # Safety
    /// There are so many numbers and codes, and `stage1` is theirs.
    unsafe fn stage2(
        codebook: &Codebook,
        factor: f32,
        stage1: Self::Stage1,
        numbers: *const f32,
        codes: *mut u8,
    );
}
