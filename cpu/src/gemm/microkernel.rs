//! GEMM microkernels: a tile of sums stays in registers while both factors' panels are streamed.
//!
//! One macro has the loop; each instruction set has its registers, and how many of them a tile takes.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod portable;

use super::args::{Sum, Widen};
use crate::isa::Isa;

/// The kernel of a tile, and what it wants its factors packed as.
///
/// # Safety
/// `microkernel` and `transpose` do what their documentation says and nothing else.
pub(super) unsafe trait Microkernel: 'static {
    /// A factor's element as it is stored.
    type Element: Widen;
    /// One number of a panel, or two that follow each other along the product.
    type Unit: Copy + Default + Send + Sync;
    /// The instruction set that what is around the kernel is compiled for. The kernel itself may need more.
    const ISA: Isa;
    /// Elements in a unit: 1 or 2.
    const ELEMENTS: usize;
    /// Rows of a tile.
    const MR: usize;
    /// Lanes of a panel of the right factor: a multiple of [`MR`](Self::MR), at most [`MAX_NR`].
    const NR: usize;
    /// Lanes of a panel of the left factor: NR, where a product with its own transpose packs one factor, or MR, where a
    /// step reads fewer cache lines.
    const LEFT: usize;
    /// Rows and columns that [`transpose`](Self::transpose) takes: a divisor of LEFT and NR. 0 where a unit does not have the
    /// bits of its elements as they are stored, so that it must be made by [`join`](Self::join).
    const SQUARE: usize;

    /// What multiplies, for people.
    const NAME: &'static str;

    /// Returns the unit of two elements along the product; with one element in a unit both are the same.
    fn join(low: Self::Element, high: Self::Element) -> Self::Unit;

    /// Adds the product of two panels to a tile of sums, `MR × NR` and row-major: [`MR`](Self::MR) lanes of the left
    /// panel, at least the first `columns` of the right one. `fresh` ones are not read.
    ///
    /// Each sum is added to in the order of the units. For numbers of one element it is `fma(left, right, sum)`, from
    /// +0 on.
    ///
    /// # Safety
    /// The panels hold `units` units of each lane from here on, the tile is there, and the machine has what the
    /// kernel needs.
    unsafe fn microkernel(
        units: usize,
        columns: usize,
        left: *const Self::Unit,
        right: *const Self::Unit,
        sums: *mut Sum<Self::Element>,
        fresh: bool,
    );

    /// Multiplies in registers alone, so many times in each, and returns the number of multiplications.
    ///
    /// # Safety
    /// The machine has what the kernel needs.
    unsafe fn in_registers(rounds: usize) -> usize;

    /// Transposes `SQUARE × SQUARE` units, from rows that are `stride` bytes apart to rows that are `to_stride` units
    /// apart. Never called where [`SQUARE`](Self::SQUARE) is 0.
    ///
    /// # Safety
    /// The rows may be read and written, and the machine has what the kernel needs.
    #[inline(always)]
    unsafe fn transpose(from: *const u8, stride: usize, to: *mut Self::Unit, to_stride: usize) {
        for (i, j) in (0..Self::SQUARE).flat_map(|i| (0..Self::SQUARE).map(move |j| (i, j))) {
            // SAFETY: the caller's.
            unsafe {
                *to.add(j * to_stride + i) = from.add(i * stride).cast::<Self::Unit>().add(j).read_unaligned()
            };
        }
    }
}

/// The most lanes that a panel has.
pub(super) const MAX_NR: usize = 48;

/// Makes the loop over units of one instruction set and number, for tiles of so many rows and of N registers in a row.
/// A row of a panel's width has `registers` of them. A unit of the left panel is spread over a register, one of the right panel is loaded.
#[allow(unused_macros, reason = "not every processor has hardware for it")]
macro_rules! tile_loop {
    ($name:ident, $features:literal, $left:expr, $rows:expr, $registers:expr, $unit:ty => $sum:ty, $lanes:literal,
     [$zero:expr, $load:expr, $store:expr], $right:expr, $spread:expr, |$t:ident, $x:ident, $y:ident| $fma:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name<const N: usize>(
            units: usize,
            mut left: *const $unit,
            mut right: *const $unit,
            sums: *mut $sum,
            fresh: bool,
        ) {
            const NR: usize = $registers * $lanes;
            // SAFETY: the contract of `Microkernel::microkernel`.
            unsafe {
                let mut tile = [[$zero; N]; $rows];
                if !fresh {
                    for (r, row) in tile.iter_mut().enumerate() {
                        for (s, register) in row.iter_mut().enumerate() {
                            *register = $load(sums.add(r * NR + s * $lanes));
                        }
                    }
                }
                for _ in 0..units {
                    let columns: [_; N] = core::array::from_fn(|s| $right(right.add(s * $lanes)));
                    for (r, row) in tile.iter_mut().enumerate() {
                        let $x = $spread(*left.add(r));
                        for ($t, $y) in row.iter_mut().zip(columns) {
                            *$t = $fma;
                        }
                    }
                    left = left.add($left);
                    right = right.add(NR);
                }
                for (r, row) in tile.iter().enumerate() {
                    for (s, register) in row.iter().enumerate() {
                        $store(sums.add(r * NR + s * $lanes), *register);
                    }
                }
            }
        }
    };
}
#[allow(unused_imports, reason = "not every processor has hardware for it")]
use tile_loop;

/// Makes the loop that multiplies in so many registers alone, of so many products in each: the peak of the unit.
#[allow(unused_macros, reason = "not every processor has hardware for it")]
macro_rules! register_loop {
    ($name:ident, $features:literal, $registers:expr, $products:literal, $zero:expr, $factor:expr,
     |$t:ident, $x:ident, $y:ident| $fma:expr) => {
        #[target_feature(enable = $features)]
        unsafe fn $name(rounds: usize) -> usize {
            let ($x, $y) = core::hint::black_box(($factor, $factor));
            let mut sums = [$zero; $registers];
            for _ in 0..rounds {
                for $t in &mut sums {
                    // SAFETY: the caller's.
                    #[allow(unused_unsafe, reason = "some instructions are safe")]
                    unsafe {
                        *$t = $fma
                    };
                }
            }
            core::hint::black_box(sums);
            rounds * $registers * $products
        }
    };
}
#[allow(unused_imports, reason = "not every processor has hardware for it")]
use register_loop;

/// Makes a kernel of loops: over a third of the registers of a row, over two thirds, or over all, as columns are needed.
#[allow(unused_macros, reason = "not every processor has hardware for it")]
macro_rules! kernel {
    ([$($generics:tt)*] $kernel:ty, $isa:expr, $name:literal, $registers_alone:ident, $factor:ty, $unit:ty, $elements:literal,
     $left:expr, $rows:expr, $registers:expr, $lanes:literal, [$third:expr, $two_thirds:expr, $all:expr],
     |$low:ident, $high:ident| $join:expr,
     $square:expr $(, $transpose:expr)?) => {
        // SAFETY: `microkernel` reads MR numbers of each unit on the left and NR on the right, and writes the tile;
        // `transpose` reads and writes a square.
        unsafe impl<$($generics)*> Microkernel for $kernel {
            type Element = $factor;
            type Unit = $unit;
            const ISA: Isa = $isa;
            const ELEMENTS: usize = $elements;
            const MR: usize = $rows;
            const NR: usize = $registers * $lanes;
            const LEFT: usize = $left;
            const SQUARE: usize = $square;
            const NAME: &'static str = $name;
            #[inline(always)]
            unsafe fn in_registers(rounds: usize) -> usize {
                // SAFETY: the caller's.
                unsafe { $registers_alone(rounds) }
            }
            #[inline(always)]
            fn join($low: $factor, $high: $factor) -> $unit {
                $join
            }
            #[inline(always)]
            unsafe fn microkernel(
                units: usize,
                columns: usize,
                left: *const $unit,
                right: *const $unit,
                sums: *mut Sum<$factor>,
                fresh: bool,
            ) {
                const THIRD: usize = $registers / 3;
                // SAFETY: the caller's.
                unsafe {
                    match columns.div_ceil(THIRD * $lanes) {
                        1 => $third(units, left, right, sums, fresh),
                        2 => $two_thirds(units, left, right, sums, fresh),
                        _ => $all(units, left, right, sums, fresh),
                    }
                }
            }
            $(
                #[inline(always)]
                unsafe fn transpose(from: *const u8, stride: usize, to: *mut $unit, to_stride: usize) {
                    // SAFETY: the caller's.
                    unsafe { $transpose(from.cast(), stride, to.cast(), to_stride) }
                }
            )?
        }
    };
}
#[allow(unused_imports, reason = "not every processor has hardware for it")]
use kernel;
