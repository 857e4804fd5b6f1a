//! The microkernel for processors without fused multiply-add, which it emulates. It is also the reference for the others.

use super::super::args::{Sum, Widen};
use super::super::fused::{DEPTH, Emulated};
use super::Microkernel;
use crate::isa::Isa;
use core::array::from_fn;
use core::hint::black_box;
use core::marker::PhantomData;
use core::ops::Range;
use wide::{f64x2, u64x2};

/// Factors of any type, widened to `f64` as they are packed.
pub(in super::super) struct PortableKernel<F>(PhantomData<F>);

/// Rows and columns of a tile, which are the lanes of a panel.
const SIDE: usize = 24;
/// Numbers in a register, and registers in a row of a tile.
const LANES: usize = 2;
const REGISTERS: usize = SIDE / LANES;
/// Rows, and registers in each of them, of the part of a tile whose sums are kept at a time. The compiler finds room for
/// no more.
const ROWS: usize = 3;
const WIDTH: usize = 2;

/// The sums of a part.
type Part = [[f64x2; WIDTH]; ROWS];
/// What the short way takes of the factors of a step.
type Factor<F> = <Sum<F> as Emulated>::Factor;

// SAFETY: `microkernel` reads SIDE numbers of each unit on both sides, and writes the tile.
unsafe impl<F: Widen<Sum: Emulated>> Microkernel for PortableKernel<F> {
    type Element = F;
    type Unit = f64;
    const ISA: Isa = Isa::Baseline;
    const ELEMENTS: usize = 1;
    const MR: usize = SIDE;
    const NR: usize = SIDE;
    const LEFT: usize = SIDE;
    const SQUARE: usize = 0;
    const NAME: &'static str = "emulated FMA";

    #[inline(always)]
    fn join(low: F, _: F) -> f64 {
        low.widen().to_f64()
    }

    unsafe fn microkernel(
        units: usize,
        columns: usize,
        left: *const f64,
        right: *const f64,
        sums: *mut Sum<F>,
        fresh: bool,
    ) {
        // SAFETY: the contract of `Microkernel::microkernel`; both panels are SIDE lanes wide.
        let (left, right, sums) = unsafe {
            if fresh {
                (0..SIDE * SIDE).for_each(|at| sums.add(at).write(Sum::<F>::default()));
            }
            let panel = |at: *const f64| core::slice::from_raw_parts(at.cast::<[f64; SIDE]>(), units);
            (panel(left), panel(right), &mut *sums.cast::<[[Sum<F>; SIDE]; SIDE]>())
        };
        for (left, right) in left.chunks(DEPTH).zip(right.chunks(DEPTH)) {
            block::<F>(left, right, columns.min(SIDE), sums);
        }
    }

    unsafe fn in_registers(rounds: usize) -> usize {
        let one = [Sum::<F>::factor(f64x2::splat(1.0)); ROWS];
        let (left, right) = black_box(([one; DEPTH], [[one[0]; REGISTERS]; DEPTH]));
        let mut part = [[f64x2::splat(0.0); WIDTH]; ROWS];
        let bounds = part;
        for _ in 0..rounds.div_ceil(DEPTH) {
            black_box(short::<F>(&left, &right, 0, &bounds, &mut part));
        }
        black_box(part);
        rounds.div_ceil(DEPTH) * DEPTH * ROWS * WIDTH * LANES
    }
}

/// Adds up to [`DEPTH`] steps of the products of two panels to a tile.
fn block<F: Widen<Sum: Emulated>>(
    left: &[[f64; SIDE]],
    right: &[[f64; SIDE]],
    columns: usize,
    sums: &mut [[Sum<F>; SIDE]; SIDE],
) {
    let zero = Sum::<F>::factor(f64x2::splat(0.0));
    let mut of_right = [[zero; REGISTERS]; DEPTH];
    for (to, of) in of_right.iter_mut().zip(right) {
        *to = from_fn(|s| Sum::<F>::factor(f64x2::new([of[LANES * s], of[LANES * s + 1]])));
    }
    let (rows, lanes) = (Seen::of::<Sum<F>>(left), Seen::of::<Sum<F>>(right));
    for first in (0..SIDE).step_by(ROWS) {
        let mut of_left = [[zero; ROWS]; DEPTH];
        for (to, of) in of_left.iter_mut().zip(left) {
            *to = from_fn(|r| Sum::<F>::factor(f64x2::splat(of[first + r])));
        }
        let largest: [f64; ROWS] =
            from_fn(|r| rows.largest[(first + r) / LANES].to_array()[(first + r) % LANES]);
        for column in (0..columns).step_by(WIDTH * LANES) {
            let register = column / LANES;
            let mut part: Part = from_fn(|r| {
                from_fn(|s| {
                    let at = column + s * LANES;
                    f64x2::new([sums[first + r][at].to_f64(), sums[first + r][at + 1].to_f64()])
                })
            });
            let before = part;
            let tame = !rows.is_wild(first..first + ROWS)
                && !lanes.is_wild(column..column + WIDTH * LANES)
                && are_tame::<Sum<F>>(&part);
            let bounds: Part = from_fn(|r| {
                from_fn(|s| Sum::<F>::bound(largest[r], lanes.largest[register + s], before[r][s].abs()))
            });
            if !tame || !short::<F>(&of_left[..left.len()], &of_right, register, &bounds, &mut part) {
                part = before;
                long::<F>((left, first), (right, column), &mut part);
            }
            for (row, part) in sums[first..].iter_mut().zip(part) {
                for (s, register) in part.iter().enumerate() {
                    row[column + LANES * s..][..LANES]
                        .copy_from_slice(&register.to_array().map(Emulated::of_f64));
                }
            }
        }
    }
}

/// Adds the products of tame numbers to a part of the sums, and returns whether there was no doubt of them.
#[inline(never)]
fn short<F: Widen<Sum: Emulated>>(
    left: &[[Factor<F>; ROWS]],
    right: &[[Factor<F>; REGISTERS]; DEPTH],
    register: usize,
    bounds: &Part,
    part: &mut Part,
) -> bool {
    let mut doubt = u64x2::splat(0);
    let mut sums = *part;
    for (left, right) in left.iter().zip(right) {
        let right: [Factor<F>; WIDTH] = from_fn(|s| right[register + s]);
        for ((sums, &a), bounds) in sums.iter_mut().zip(left).zip(bounds) {
            for ((sum, b), bound) in sums.iter_mut().zip(right).zip(bounds) {
                *sum = Sum::<F>::short(a, b, *sum, *bound, &mut doubt);
            }
        }
    }
    *part = sums;
    !Sum::<F>::in_doubt(doubt)
}

/// Adds the products of any numbers to a part of the sums.
#[cold]
fn long<F: Widen<Sum: Emulated>>(
    (left, row): (&[[f64; SIDE]], usize),
    (right, column): (&[[f64; SIDE]], usize),
    part: &mut Part,
) {
    for (r, registers) in part.iter_mut().enumerate() {
        for (s, register) in registers.iter_mut().enumerate() {
            let mut sums = register.to_array();
            for (left, right) in left.iter().zip(right) {
                for (lane, sum) in sums.iter_mut().enumerate() {
                    *sum = Sum::<F>::fused(left[row + r], right[column + s * LANES + lane], *sum);
                }
            }
            *register = f64x2::new(sums);
        }
    }
}

/// Returns whether sums are such as the short way takes: a negative zero is not.
#[inline(always)]
fn are_tame<T: Emulated>(part: &Part) -> bool {
    let wild = part.iter().flatten().fold(u64x2::splat(0), |wild, sum| {
        let bits = |x: f64x2| bytemuck::cast::<_, u64x2>(x);
        wild | !bits(sum.abs().simd_le(f64x2::splat(T::TAME.most_sum)))
            | (bits(sum.simd_eq(f64x2::splat(0.0))) & bits(*sum))
    });
    wild.to_bitmask() == 0
}

/// What is known of the numbers in a stretch of a panel.
struct Seen {
    /// The largest magnitude in each lane.
    largest: [f64x2; REGISTERS],
    /// Below 0 in lanes with what the short way does not take.
    wild: [u64x2; REGISTERS],
}

impl Seen {
    #[inline(always)]
    fn of<T: Emulated>(panel: &[[f64; SIDE]]) -> Seen {
        let (least, most) = (T::TAME.least.to_bits(), T::TAME.most.to_bits());
        let mut seen = Seen { largest: [f64x2::splat(0.0); REGISTERS], wild: [u64x2::splat(0); REGISTERS] };
        for step in panel {
            for s in 0..REGISTERS {
                let magnitude = f64x2::new([step[LANES * s], step[LANES * s + 1]]).abs();
                seen.largest[s] = seen.largest[s].fast_max(magnitude);
                // As integers magnitudes are in the same order; 0 is none of those that are out of range.
                let bits: u64x2 = bytemuck::cast(magnitude);
                let outside = (bits - u64x2::splat(least)) | (u64x2::splat(most) - bits);
                seen.wild[s] |= outside & (u64x2::splat(0) - bits);
            }
        }
        seen
    }

    /// Returns whether there is anything wild in these lanes, or beside them in a register.
    #[inline(always)]
    fn is_wild(&self, lanes: Range<usize>) -> bool {
        self.wild[lanes.start / LANES..lanes.end.div_ceil(LANES)].iter().any(|wild| wild.to_bitmask() != 0)
    }
}
