//! A product block by block over packed factors: a block's share of both stays in the second-level cache.

use super::args::{GemmArgs, Sum, Widen};
use super::microkernel::{MAX_NR, Microkernel};
use super::pack::Packing;
use crate::context::ExecContext;
#[cfg(target_arch = "x86_64")]
use crate::isa::{Isa, multiversion};
use crate::prefetch::prefetch_l2;
use crate::workspace::address;
use core::mem::MaybeUninit;
use fallline_core::Result;
use std::sync::{Mutex, PoisonError};

/// Rows and columns of a block: small, so that threads end together.
const BLOCK: usize = 96;
/// Units along the product between two visits to a square's sums. Panels are prefetched as fast as they are used, and
/// each visit costs as much as three units.
const KC: usize = 1024;

/// Computes the product. The machine has what the kernel needs.
pub(super) fn product<K: Microkernel>(context: ExecContext<'_>, args: &GemmArgs<K::Element>) -> Result<()> {
    let &GemmArgs { m, k, n, left, right, .. } = args;
    let units = Packing::<K>::units(k);
    let bytes = |lanes: usize| lanes.next_multiple_of(K::NR) * units * size_of::<K::Unit>();
    // A product of a matrix with its own transpose has one factor.
    let same = K::LEFT == K::NR && left == right;
    let mut buffers = vec![context.workspace.acquire(bytes(m))?];
    if !same {
        buffers.push(context.workspace.acquire(bytes(n))?);
    }
    // Room for a block's sums on each thread, before anything is written: there may be no memory.
    let panels = Macrokernel::<K>::PANELS;
    let bytes = panels * panels * K::NR * K::NR * size_of::<Sum<K::Element>>();
    let rooms =
        (0..context.pool.threads()).map(|_| context.workspace.acquire(bytes)).collect::<Result<Vec<_>>>()?;
    let packing = |(buffer, (side, is_left))| Packing::<K> { side, is_left, k, panels: address(buffer) };
    let sides = [(left, true), (right, false)];
    let packings: Vec<_> = buffers.iter_mut().zip(sides).map(packing).collect();
    let first = packings[0].parts();
    let parts = packings.iter().map(Packing::parts).sum();
    context.for_each(parts, args.operations(), |part| {
        let (packing, part) = if part < first { (&packings[0], part) } else { (&packings[1], part - first) };
        // SAFETY: the buffers have room for all panels, and parts are apart.
        unsafe { packing.pack(part) }
    });
    let packed = |side: usize| packings[side].panels.cast_const();
    let blocks = Macrokernel::<K> { args, units, left: packed(0), right: packed(packings.len() - 1) };
    let rooms = Mutex::new(rooms);
    let free = || rooms.lock().unwrap_or_else(PoisonError::into_inner);
    let (down, across) = (m.div_ceil(panels * K::NR), n.div_ceil(panels * K::NR));
    context.for_each(down * across, args.operations(), |block| {
        // The lowest blocks first: those of a triangle are the longest rows, so that short ones fill the end.
        let (down, across) = ((down - 1 - block / across) * panels, block % across * panels);
        if args.symmetric && across > down {
            return;
        }
        let taken = free().pop();
        let mut room = taken.unwrap_or_else(|| unreachable!("each thread works on one block"));
        // SAFETY: the factors are packed, and the room is that of a block. No other block has elements of this one,
        // and the machine has what the kernel needs.
        unsafe { blocks.run_on(down, across, address(&mut room)) };
        free().push(room);
    });
    let rooms = rooms.into_inner().unwrap_or_else(PoisonError::into_inner);
    buffers.into_iter().chain(rooms).for_each(|buffer| context.workspace.release(buffer));
    Ok(())
}

/// What all blocks of a product share.
struct Macrokernel<'p, K: Microkernel> {
    args: &'p GemmArgs<K::Element>,
    units: usize,
    left: *const K::Unit,
    right: *const K::Unit,
}

// SAFETY: the panels are only read from here on; what blocks write is apart.
unsafe impl<K: Microkernel> Sync for Macrokernel<'_, K> {}

impl<K: Microkernel> Macrokernel<'_, K> {
    /// Panels of either factor that a block has.
    const PANELS: usize = BLOCK / K::NR;

    /// As [`run`](Self::run), compiled for the kernel's instruction set.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    unsafe fn run_on(&self, down: usize, across: usize, sums: *mut Sum<K::Element>) {
        // SAFETY: the caller's.
        unsafe {
            match K::ISA {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => avx512(self, down, across, sums),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => avx2(self, down, across, sums),
                _ => self.run(down, across, sums),
            }
        }
    }

    /// Computes the block whose first square is that of panel `down` of the left factor and panel `across` of the
    /// right one.
    ///
    /// # Safety
    /// The factors are packed, and `sums` has room for a block. Nobody else works on the block or its mirror image.
    /// The machine has what the kernel needs.
    #[inline(always)]
    unsafe fn run(&self, down: usize, across: usize, sums: *mut Sum<K::Element>) {
        let &GemmArgs { m, n, symmetric, .. } = self.args;
        let mut unit = 0;
        loop {
            let depth = KC.min(self.units - unit);
            for j in across..n.div_ceil(K::NR).min(across + Self::PANELS) {
                for i in down..m.div_ceil(K::NR).min(down + Self::PANELS) {
                    // Squares above the diagonal are the mirror images of others.
                    if symmetric && j > i {
                        continue;
                    }
                    let square = (i - down) * Self::PANELS + j - across;
                    // SAFETY: the square is in the block, its sums in the room.
                    unsafe {
                        let sums = sums.add(square * K::NR * K::NR);
                        self.micro_block(i, j, unit, depth, sums);
                        if unit + depth == self.units {
                            self.finish(i * K::NR, j * K::NR, sums);
                        }
                    }
                }
            }
            unit += depth;
            if unit == self.units {
                return;
            }
        }
    }

    /// Adds some units of the products of two panels' lanes to their sums.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    #[inline(always)]
    unsafe fn micro_block(&self, i: usize, j: usize, unit: usize, depth: usize, sums: *mut Sum<K::Element>) {
        let &GemmArgs { m, n, symmetric, .. } = self.args;
        let rows = K::NR.min(m - i * K::NR);
        for row in (0..rows).step_by(K::MR) {
            let needed = if symmetric && i == j { row + K::MR } else { n - j * K::NR };
            if unit + depth == self.units {
                self.prefetch(i * K::NR + row, j * K::NR);
            }
            // SAFETY: panels have `units` units of each lane; and MR divides what lanes there are in one.
            unsafe {
                let lane = i * K::NR + row;
                let left =
                    self.left.add(lane / K::LEFT * K::LEFT * self.units + unit * K::LEFT + lane % K::LEFT);
                let right = self.right.add((j * self.units + unit) * K::NR);
                K::microkernel(depth, needed, left, right, sums.add(row * K::NR), unit == 0);
            }
        }
    }

    /// Prefetches what a tile is added to, and where it is written, while it is computed.
    #[inline(always)]
    fn prefetch(&self, i: usize, j: usize) {
        let &GemmArgs { n, beta, added, c, .. } = self.args;
        let adds = beta != Sum::<K::Element>::default();
        let line = 64 / size_of::<K::Element>();
        for (row, x) in (0..K::MR).flat_map(|row| (0..K::NR).step_by(line).map(move |x| (row, x))) {
            let at = (i + row) * n + j + x;
            if adds {
                prefetch_l2(added.wrapping_add(at));
            }
            prefetch_l2(c.wrapping_add(at));
        }
    }

    /// Writes the square whose first element is (i, j) to the result, and its mirror image.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    #[inline(always)]
    unsafe fn finish(&self, i: usize, j: usize, sums: *mut Sum<K::Element>) {
        let &GemmArgs { m, n, symmetric, .. } = self.args;
        let (rows, columns) = (K::NR.min(m - i), K::NR.min(n - j));
        let row = |r: usize| sums.wrapping_add(r * K::NR);
        // SAFETY: rows of the square, its mirror image and what is added, which are no other square's.
        unsafe {
            if symmetric && i == j {
                for r in 0..rows {
                    self.scale(row(r), (i + r) * n + j, r + 1);
                    (0..r).for_each(|x| *row(x).add(r) = *row(r).add(x));
                }
                (0..rows).for_each(|r| self.write(row(r), (i + r) * n + j, rows));
                return;
            }
            if !symmetric {
                (0..rows).for_each(|r| self.scale_and_write(row(r), (i + r) * n + j, columns));
                return;
            }
            for r in 0..rows {
                self.scale(row(r), (i + r) * n + j, columns);
                self.write(row(r), (i + r) * n + j, columns);
            }
            let mut mirrored = [const { MaybeUninit::<Sum<K::Element>>::uninit() }; MAX_NR * MAX_NR];
            let mirrored = mirrored.as_mut_ptr().cast();
            mirror::<K>(sums, mirrored);
            for x in 0..columns {
                self.write(mirrored.add(x * K::NR), (j + x) * n + i, rows);
            }
        }
    }

    /// Returns the result of a sum: scaled, with element `at` of what is to be added.
    ///
    /// # Safety
    /// The element may be read.
    #[inline(always)]
    unsafe fn scaled(&self, sum: Sum<K::Element>, at: usize) -> Sum<K::Element> {
        let &GemmArgs { alpha, beta, added, .. } = self.args;
        match beta == Sum::<K::Element>::default() {
            true => alpha * sum,
            // SAFETY: the caller's.
            false => alpha * sum + beta * unsafe { (*added.add(at)).widen() },
        }
    }

    /// Makes the result of a row of sums in their place, with what is to be added from element `at` on.
    ///
    /// # Safety
    /// The row has `width` sums, at most NR, and as many elements may be read.
    #[inline(always)]
    unsafe fn scale(&self, sums: *mut Sum<K::Element>, at: usize, width: usize) {
        // SAFETY: the caller's.
        unsafe { copy_row::<K, _>(sums, width, |x| self.scaled(*sums.add(x), at + x)) }
    }

    /// Writes a row to the result, from its element `at` on.
    ///
    /// # Safety
    /// The row has `width` sums, at most NR, and as many elements of the result are nobody else's.
    #[inline(always)]
    unsafe fn write(&self, row: *const Sum<K::Element>, at: usize, width: usize) {
        // SAFETY: the caller's.
        unsafe { copy_row::<K, _>(self.args.c.add(at), width, |x| K::Element::narrow(*row.add(x))) }
    }

    /// Makes the result of a row of sums, and writes it from its element `at` on.
    ///
    /// # Safety
    /// As for [`scale`](Self::scale) and [`write`](Self::write).
    #[inline(always)]
    unsafe fn scale_and_write(&self, sums: *const Sum<K::Element>, at: usize, width: usize) {
        // SAFETY: the caller's.
        unsafe {
            let one = |x: usize| K::Element::narrow(self.scaled(*sums.add(x), at + x));
            copy_row::<K, _>(self.args.c.add(at), width, one);
        }
    }
}

/// Writes a row of `width` numbers, at most NR. A whole row goes by way of registers: the compiler cannot know that
/// what `of` reads is not written to.
///
/// # Safety
/// The row may be written.
#[inline(always)]
unsafe fn copy_row<K: Microkernel, T: Copy>(to: *mut T, width: usize, of: impl Fn(usize) -> T) {
    // SAFETY: the caller's.
    unsafe {
        if width < K::NR {
            (0..width).for_each(|x| *to.add(x) = of(x));
            return;
        }
        let mut row = [const { MaybeUninit::uninit() }; MAX_NR];
        row[..K::NR].iter_mut().enumerate().for_each(|(x, number)| _ = number.write(of(x)));
        core::ptr::copy_nonoverlapping(row.as_ptr().cast(), to, K::NR);
    }
}

/// Transposes a square of sums.
///
/// # Safety
/// The square is there, of NR rows and columns, and the machine has what the kernel needs.
#[inline(always)]
unsafe fn mirror<K: Microkernel>(square: *const Sum<K::Element>, to: *mut Sum<K::Element>) {
    let side = K::NR;
    let squares =
        |step: usize| (0..side).step_by(step).flat_map(move |i| (0..side).step_by(step).map(move |j| (i, j)));
    // SAFETY: within both squares; a unit is as large as a sum, and only moved.
    unsafe {
        if K::SQUARE > 0 && size_of::<K::Unit>() == size_of::<Sum<K::Element>>() {
            for (i, j) in squares(K::SQUARE) {
                let (from, to) = (square.add(i * side + j), to.add(j * side + i));
                K::transpose(from.cast(), side * size_of::<K::Unit>(), to.cast(), side);
            }
            return;
        }
        squares(1).for_each(|(i, j)| *to.add(j * side + i) = *square.add(i * side + j));
    }
}

#[cfg(target_arch = "x86_64")]
multiversion! {
    Macrokernel::run[K: Microkernel](
        kernel: &Macrokernel<'_, K>, down: usize, across: usize, sums: *mut Sum<K::Element>,
    )
}
