//! Two vectors of `f32` at a time, which are one vector where elements are stored in 16 bits.

use super::philox::PhiloxWords;
use crate::vector::register::Register;
use fallline_core::Literal;

/// A vector that comes in pairs. The order of a pair's elements is the same wherever they come from, and is not that
/// in memory. That suits element-wise work, not sums.
pub(crate) trait VectorPair: Register<Number = f32>
where
    f64: Literal<Self>,
{
    /// The words of a vector.
    type Words: PhiloxWords;

    /// Elements of a pair.
    const PAIR: usize = 2 * Self::LANES;

    /// Reads a pair.
    ///
    /// # Safety
    /// Of this and all others: the memory holds a pair, and the CPU has the instruction set.
    unsafe fn load_pair(from: *const f32) -> [Self; 2];

    /// Writes a pair.
    ///
    /// # Safety
    /// As above.
    unsafe fn store_pair(pair: [Self; 2], to: *mut f32);

    /// Reads a pair that is stored as bfloat16.
    ///
    /// # Safety
    /// As above.
    unsafe fn load_bf16_pair(from: *const u16) -> [Self; 2];

    /// Rounds a pair to bfloat16 (round-to-nearest-even).
    ///
    /// # Safety
    /// As above.
    unsafe fn store_bf16_pair(pair: [Self; 2], to: *mut u16);

    /// Rounds a pair stochastically to bfloat16, by the random bits of its elements.
    ///
    /// # Safety
    /// As above.
    unsafe fn store_bf16_sr(pair: [Self; 2], random: Self::Words, to: *mut u16);

    /// Does the same with a pair without NaN.
    ///
    /// # Safety
    /// As above.
    unsafe fn truncate_bf16_sr(pair: [Self; 2], random: Self::Words, to: *mut u16);

    /// Where there is NaN.
    type Nan: Copy;

    /// Returns that there is NaN nowhere.
    ///
    /// # Safety
    /// As above.
    unsafe fn no_nan() -> Self::Nan;

    /// Returns where there was NaN or is some in the pair.
    ///
    /// # Safety
    /// As above.
    unsafe fn nan_in(nan: Self::Nan, pair: [Self; 2]) -> Self::Nan;

    /// Returns whether there is NaN anywhere.
    ///
    /// # Safety
    /// As above.
    unsafe fn is_nan(nan: Self::Nan) -> bool;
}

/// The quiet bit of a NaN.
pub(super) const QUIET: i32 = 0x0040_0000;
