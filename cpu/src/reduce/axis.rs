//! Sums along an axis.

use crate::context::ExecContext;
#[cfg(target_arch = "x86_64")]
use crate::isa::{Isa, multiversion};
use crate::workspace::address;
use core::ops::{Add, Mul, Range};
use fallline_core::backend::AxisReduction;
use fallline_core::{Error, Format, Result};

pub(super) const STRIP: usize = AxisReduction::STRIP;
pub(super) const ACCUMULATORS: usize = AxisReduction::ACCUMULATORS;
/// Columns whose sums are kept while the rows of a strip are processed. They stay in L1, and the stretches of a row
/// are longer than a page, which the CPU does not prefetch across.
const COLUMNS: usize = 2048;
/// Rows that are added to a register of sums between its load and its store.
const UNROLL: usize = 4;
/// Fewer elements than this are one thread's work: waking the others costs more.
const SERIAL_BELOW: usize = 64 * 1024;
/// Elements of matrices that are added up in registers, one sum after another.
const TINY: usize = 64;
/// Elements of a part of the work, about.
const PART: usize = 32 * 1024;

/// A number that sums are made of.
pub(super) trait Term: Copy + Default + Add<Output = Self> + Mul<Output = Self> + Send + Sync {}
impl Term for f32 {}
impl Term for f64 {}

/// Reduces an axis: see [`Reductions::reduce_axis`](fallline_core::backend::Reductions::reduce_axis).
pub(crate) fn sum(context: ExecContext<'_>, sums: AxisReduction<'_>) -> Result<()> {
    sums.check()?;
    let unreachable = |what: &str| Error::Unreachable {
        operation: "reduce_axis",
        what: what.into(),
        device: context.device,
    };
    if !sums.from.on_host() {
        return Err(unreachable("what is added up"));
    }
    if sums.to.memory().host().is_none() {
        return Err(unreachable("the sums"));
    }
    match sums.to.format() {
        Format::F64 => run::<f64>(context, sums),
        _ => run::<f32>(context, sums),
    }
}

fn run<T: Term>(context: ExecContext<'_>, sums: AxisReduction<'_>) -> Result<()> {
    let AxisReduction { from, squares, outer, count, inner, to } = sums;
    if outer == 0 || inner == 0 {
        return Ok(());
    }
    // SAFETY: views and storages that were checked hold as many elements of this type, on the host. Their addresses
    // have exposed provenance, and the view's memory is borrowed for reading only.
    let (from, to) = unsafe {
        let from: *const T = core::ptr::with_exposed_provenance(from.address());
        let to: *mut T = core::ptr::with_exposed_provenance_mut(to.address());
        let slice = |address, len| match len {
            0 => &[][..],
            _ => core::slice::from_raw_parts(address, len),
        };
        (slice(from, outer * count * inner), core::slice::from_raw_parts_mut(to, outer * inner))
    };
    along(context, from, squares, (outer, count, inner), to)
}

/// Computes the sums of what is in memory, as [`AxisReduction`] has them.
pub(super) fn along<T: Term>(
    context: ExecContext<'_>,
    from: &[T],
    squares: bool,
    (outer, count, inner): (usize, usize, usize),
    to: &mut [T],
) -> Result<()> {
    if count == 0 {
        to.fill(T::default());
        return Ok(());
    }
    if inner == 1 {
        let strategy = Strategy::Rows;
        Axis { from, squares, count, inner, strategy, to: Target(to.as_mut_ptr()) }.run(context, outer);
        return Ok(());
    }
    let strips = count.div_ceil(STRIP);
    if strips == 1 {
        let strategy = Strategy::Strips { strips };
        Axis { from, squares, count, inner, strategy, to: Target(to.as_mut_ptr()) }.run(context, outer);
        return Ok(());
    }
    // Strips of strips until there is one, in two buffers, alternating.
    let mut buffers = [
        context.workspace.acquire(size_of::<T>() * outer * strips * inner)?,
        context.workspace.acquire(size_of::<T>() * outer * strips.div_ceil(STRIP) * inner)?,
    ];
    let (mut from, mut count, mut squares) = (from, count, squares);
    let mut turn = 0;
    loop {
        let strips = count.div_ceil(STRIP);
        let last = strips == 1;
        let target = if last { to.as_mut_ptr() } else { address(&mut buffers[turn]) };
        Axis { from, squares, count, inner, strategy: Strategy::Strips { strips }, to: Target(target) }
            .run(context, outer);
        if last {
            break;
        }
        // SAFETY: so many sums were written there, and the next are written elsewhere.
        from = unsafe { core::slice::from_raw_parts(target, outer * strips * inner) };
        (count, squares, turn) = (strips, false, 1 - turn);
    }
    buffers.into_iter().for_each(|buffer| context.workspace.release(buffer));
    Ok(())
}

/// How a part of the sums is computed.
#[derive(Clone, Copy)]
enum Strategy {
    /// Along elements that lie side by side.
    Rows,
    /// So many strips for each of the axes before.
    Strips { strips: usize },
}

/// Memory that threads write, each its own elements.
#[derive(Clone, Copy)]
pub(super) struct Target<T>(pub(super) *mut T);

// SAFETY: no two parts have an element in common.
unsafe impl<T: Send> Sync for Target<T> {}

/// Sums and how they are computed.
struct Axis<'s, T> {
    from: &'s [T],
    squares: bool,
    count: usize,
    inner: usize,
    strategy: Strategy,
    to: Target<T>,
}

impl<T: Term> Axis<'_, T> {
    /// Computes all sums, in parts that threads take.
    fn run(&self, context: ExecContext<'_>, outer: usize) {
        // An item is a sum, or the strip of a block of columns; several make a part.
        let (items, elements) = match self.strategy {
            Strategy::Rows => (outer, self.count),
            Strategy::Strips { strips } => (
                outer * strips * self.inner.div_ceil(COLUMNS),
                STRIP.min(self.count) * COLUMNS.min(self.inner),
            ),
        };
        let each = PART.div_ceil(elements.max(1)).max(1);
        let part = |part: usize| {
            let items = part * each..items.min((part + 1) * each);
            match context.isa {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the machine has the instruction set (checked when it was chosen).
                Isa::Avx512 => unsafe { avx512(self, items) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Isa::Avx2 => unsafe { avx2(self, items) },
                _ => self.items(items),
            }
        };
        let parts = items.div_ceil(each);
        if self.from.len() <= SERIAL_BELOW {
            (0..parts).for_each(part);
        } else {
            context.pool.for_each(0..parts, part);
        }
    }

    #[inline(always)]
    fn items(&self, items: Range<usize>) {
        match (self.strategy, self.squares) {
            (Strategy::Rows, false) => self.rows(items, |x| x),
            (Strategy::Rows, true) => self.rows(items, |x| x * x),
            (Strategy::Strips { strips }, false) => self.strips(strips, items, |x| x),
            (Strategy::Strips { strips }, true) => self.strips(strips, items, |x| x * x),
        }
    }

    #[inline(always)]
    fn rows(&self, rows: Range<usize>, term: impl Fn(T) -> T + Copy) {
        match self.count {
            1 => self.few::<1>(rows, term),
            2 => self.few::<2>(rows, term),
            3 => self.few::<3>(rows, term),
            4 => self.few::<4>(rows, term),
            5 => self.few::<5>(rows, term),
            6 => self.few::<6>(rows, term),
            7 => self.few::<7>(rows, term),
            8 => self.few::<8>(rows, term),
            _ => self.many(rows, term),
        }
    }

    /// Returns the sums of rows of N elements, at most eight. The sum is the same as that of all accumulators:
    /// those that no element reaches are +0, which changes nothing.
    #[inline(always)]
    fn few<const N: usize>(&self, rows: Range<usize>, term: impl Fn(T) -> T + Copy) {
        let (all, _) = self.from.as_chunks::<N>();
        // SAFETY: each row's sum is one part's alone.
        let to = unsafe { core::slice::from_raw_parts_mut(self.to.0.add(rows.start), rows.len()) };
        for (to, of) in to.iter_mut().zip(&all[rows]) {
            let mut sums = [T::default(); 8];
            sums.iter_mut().zip(of).for_each(|(sum, &x)| *sum = *sum + term(x));
            let [a, b, c, d, e, f, g, h] = sums;
            let [a, b, c, d] = [a + e, b + f, c + g, d + h];
            *to = (a + c) + (b + d);
        }
    }

    #[inline(always)]
    fn many(&self, rows: Range<usize>, term: impl Fn(T) -> T + Copy) {
        for row in rows {
            let of = &self.from[row * self.count..][..self.count];
            let mut sums = [T::default(); ACCUMULATORS];
            let mut turns = of.chunks_exact(ACCUMULATORS);
            for turn in turns.by_ref() {
                sums.iter_mut().zip(turn).for_each(|(sum, &x)| *sum = *sum + term(x));
            }
            sums.iter_mut().zip(turns.remainder()).for_each(|(sum, &x)| *sum = *sum + term(x));
            let sum = fold(sums);
            // SAFETY: each row's sum is one part's alone.
            unsafe { self.to.0.add(row).write(sum) };
        }
    }

    /// Returns the columns of whole matrices of a few elements.
    #[inline(always)]
    fn tiny(&self, matrices: Range<usize>, term: impl Fn(T) -> T + Copy) {
        let &Axis { from, count, inner, .. } = self;
        // SAFETY: the sums of a matrix are one part's alone.
        let to = unsafe {
            core::slice::from_raw_parts_mut(self.to.0.add(matrices.start * inner), matrices.len() * inner)
        };
        let from =
            from[matrices.start * count * inner..matrices.end * count * inner].chunks_exact(count * inner);
        for (to, of) in to.chunks_exact_mut(inner).zip(from) {
            for (i, to) in to.iter_mut().enumerate() {
                *to = of[i..].iter().step_by(inner).fold(T::default(), |sum, &x| sum + term(x));
            }
        }
    }

    #[inline(always)]
    fn strips(&self, strips: usize, items: Range<usize>, term: impl Fn(T) -> T + Copy) {
        let &Axis { from, count, inner, .. } = self;
        if count * inner <= TINY {
            return self.tiny(items, term);
        }
        let blocks = inner.div_ceil(COLUMNS);
        let (mut block, mut strip, mut before) =
            (items.start % blocks, items.start / blocks % strips, items.start / blocks / strips);
        let mut sums = [T::default(); COLUMNS];
        for _ in items {
            let first = block * COLUMNS;
            let width = COLUMNS.min(inner - first);
            let sums = &mut sums[..width];
            sums.fill(T::default());
            let steps = strip * STRIP..count.min((strip + 1) * STRIP);
            let at = |step: usize| &from[(before * count + step) * inner + first..][..width];
            let mut step = steps.start;
            while step + UNROLL <= steps.end {
                let [a, b, c, d] = [0, 1, 2, 3].map(|k| at(step + k));
                for ((((sum, &a), &b), &c), &d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                    *sum = *sum + term(a) + term(b) + term(c) + term(d);
                }
                step += UNROLL;
            }
            for step in step..steps.end {
                sums.iter_mut().zip(at(step)).for_each(|(sum, &x)| *sum = *sum + term(x));
            }
            // SAFETY: the sums of each strip's columns are one part's alone.
            unsafe {
                let to = self.to.0.add((before * strips + strip) * inner + first);
                to.copy_from_nonoverlapping(sums.as_ptr(), width);
            }
            // On to the next, without a division.
            block += 1;
            if block == blocks {
                (block, strip) = (0, strip + 1);
            }
            if strip == strips {
                (strip, before) = (0, before + 1);
            }
        }
    }
}

/// Accumulators become one.
#[inline(always)]
pub(super) fn fold<T: Term>(mut sums: [T; ACCUMULATORS]) -> T {
    let mut half = ACCUMULATORS / 2;
    while half > 0 {
        let (low, high) = sums.split_at_mut(half);
        low.iter_mut().zip(&high[..half]).for_each(|(a, &b)| *a = *a + b);
        half /= 2;
    }
    sums[0]
}

#[cfg(target_arch = "x86_64")]
multiversion! { Axis::items[T: Term](axis: &Axis<'_, T>, items: Range<usize>) }
