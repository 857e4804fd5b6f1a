//! A product block by block over packed factors: a block's share of both stays in the second-level cache.

use super::Place;
use super::pack::{Kernel, MOST_LANES, Packing, ROWS};
use super::problem::{Problem, Stored, Sum};
use crate::buffers::address;
use fallline_core::Result;
use std::sync::{Mutex, PoisonError};

/// Rows of a block, in panels.
const DOWN: usize = 4;
/// Columns of a block, in panels.
const ACROSS: usize = 4;
/// Units along the product between two visits to a block's sums.
const DEPTH: usize = 128;

/// The product. The machine has what the kernel needs.
pub(super) fn product<K: Kernel>(place: Place<'_>, problem: &Problem<K::Factor>) -> Result<()> {
    let &Problem { m, k, n, left, right, .. } = problem;
    let units = Packing::<K>::units(k);
    let bytes = |lanes: usize| lanes.next_multiple_of(K::LANES) * units * size_of::<K::Unit>();
    // A product with the own transpose has one factor.
    let same = left == right;
    let mut buffers = [Some(place.buffers.take(bytes(m))?), None];
    if !same {
        buffers[1] = Some(place.buffers.take(bytes(n))?);
    }
    let mut packed = [core::ptr::null_mut(); 2];
    for ((packed, buffer), side) in packed.iter_mut().zip(&mut buffers).zip([left, right]) {
        let Some(buffer) = buffer else { continue };
        *packed = address(buffer);
        let packing = Packing::<K> { side, k, panels: *packed };
        // SAFETY: the buffer has room for all panels, and parts are apart.
        place.for_each(packing.parts(), problem.operations(), |part| unsafe { packing.pack(part) });
    }
    let [packed_left, packed_right] = packed;
    let blocks = Blocks::<K> {
        problem,
        units,
        left: packed_left,
        right: if same { packed_left } else { packed_right },
    };
    // Room for a block's sums on each thread, before anything is written: there may be no memory.
    let bytes = DOWN * ACROSS * MOST_LANES * MOST_LANES * size_of::<Sum<K::Factor>>();
    let rooms = (0..place.pool.threads()).map(|_| place.buffers.take(bytes)).collect::<Result<Vec<_>>>()?;
    let rooms = Mutex::new(rooms);
    let free = || rooms.lock().unwrap_or_else(PoisonError::into_inner);
    let (down, across) = (m.div_ceil(DOWN * K::LANES), n.div_ceil(ACROSS * K::LANES));
    place.for_each(down * across, problem.operations(), |block| {
        // The lowest blocks first: those of a triangle are the longest rows, so that short ones fill the end.
        let (i, j) = ((down - 1 - block / across) * DOWN * K::LANES, block % across * ACROSS * K::LANES);
        if problem.symmetric && j >= i + DOWN * K::LANES {
            return;
        }
        let taken = free().pop();
        let mut room = taken.unwrap_or_else(|| unreachable!("each thread works on one block"));
        // SAFETY: the factors are packed, the room is that of a block, no other block has elements of this one, and
        // the machine has what the kernel needs.
        unsafe { blocks.run(i, j, address(&mut room)) };
        free().push(room);
    });
    let rooms = rooms.into_inner().unwrap_or_else(PoisonError::into_inner);
    let used = buffers.into_iter().flatten().chain(rooms);
    used.for_each(|buffer| place.buffers.give(buffer));
    Ok(())
}

/// What all blocks of a product share.
struct Blocks<'p, K: Kernel> {
    problem: &'p Problem<K::Factor>,
    units: usize,
    left: *const K::Unit,
    right: *const K::Unit,
}

// SAFETY: the panels are only read from here on; what blocks write is apart.
unsafe impl<K: Kernel> Sync for Blocks<'_, K> {}

impl<K: Kernel> Blocks<'_, K> {
    /// The block whose first element is (i, j).
    ///
    /// # Safety
    /// The factors are packed, `sums` has room for a block, nobody else works on the block or its mirror image, and the
    /// machine has what the kernel needs.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn run(&self, i: usize, j: usize, sums: *mut Sum<K::Factor>) {
        let &Problem { m, n, symmetric, .. } = self.problem;
        let rows = i..m.min(i + DOWN * K::LANES);
        let columns = j..n.min(j + ACROSS * K::LANES);
        // A panel of columns stays in the first-level cache while rows go by.
        let tiles = || {
            let rows = rows.clone();
            columns.clone().step_by(K::LANES).flat_map(move |j| {
                // Tiles above the diagonal are the mirror images of others.
                let above = move |i: &usize| symmetric && j >= i + ROWS;
                rows.clone().step_by(ROWS).skip_while(above).map(move |i| (i, j))
            })
        };
        let tile_of = |(i, j): (usize, usize)| {
            let number = (i - rows.start) / ROWS * ACROSS + (j - columns.start) / K::LANES;
            number * ROWS * K::LANES
        };
        let mut unit = 0;
        loop {
            let depth = DEPTH.min(self.units - unit);
            for (i, j) in tiles() {
                // SAFETY: panels of LANES lanes have `units` units each; ROWS lanes of one begin at a multiple of ROWS.
                unsafe {
                    let left = self.left.add((i / K::LANES * self.units + unit) * K::LANES + i % K::LANES);
                    let right = self.right.add((j / K::LANES * self.units + unit) * K::LANES);
                    let needed = if symmetric { n.min(i + ROWS) - j } else { n - j };
                    K::tile(depth, needed, left, right, sums.add(tile_of((i, j))), unit == 0);
                }
            }
            unit += depth;
            if unit == self.units {
                break;
            }
        }
        for (i, j) in tiles() {
            // SAFETY: the tile is in the block.
            unsafe { self.finish(i, j, sums.add(tile_of((i, j)))) };
        }
    }

    /// Writes a tile to the result, and its mirror image.
    ///
    /// # Safety
    /// As for [`run`](Self::run).
    #[inline(always)]
    unsafe fn finish(&self, i: usize, j: usize, sums: *const Sum<K::Factor>) {
        let &Problem { m, n, alpha, beta, added, c, symmetric, .. } = self.problem;
        let (rows, columns) = (ROWS.min(m - i), K::LANES.min(n - j));
        let mut values = [[K::Factor::default(); MOST_LANES]; ROWS];
        let adds = beta != Sum::<K::Factor>::default();
        for (r, row) in values.iter_mut().enumerate().take(rows) {
            // What is above the diagonal is the mirror image of what is below.
            let kept = if symmetric { columns.min((i + r + 1).saturating_sub(j)) } else { columns };
            // SAFETY: the row lies in the result, and as many elements in what is added.
            unsafe {
                let sums = core::slice::from_raw_parts(sums.add(r * K::LANES), kept);
                let start = (i + r) * n + j;
                let row = &mut row[..kept];
                if adds {
                    for ((to, sum), x) in row.iter_mut().zip(sums).enumerate().map(|(x, pair)| (pair, x)) {
                        *to = K::Factor::narrow(alpha * *sum + beta * (*added.add(start + x)).widen());
                    }
                } else {
                    row.iter_mut().zip(sums).for_each(|(to, sum)| *to = K::Factor::narrow(alpha * *sum));
                }
                core::ptr::copy_nonoverlapping(row.as_ptr(), c.add(start), kept);
            }
        }
        if symmetric {
            for x in 0..columns {
                let first = (j + x + 1).saturating_sub(i);
                for (r, row) in values.iter().enumerate().take(rows).skip(first) {
                    // SAFETY: below the diagonal, so that the mirror image is above it and this tile's alone.
                    unsafe { *c.add((j + x) * n + i + r) = row[x] };
                }
            }
        }
    }
}
