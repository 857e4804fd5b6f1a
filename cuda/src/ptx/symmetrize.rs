//! The lower half of a square matrix copied to the upper one, through shared memory.

use super::{Builder, Class, Ptx, Reg, Space, Target, Type};

/// Rows and columns of a tile.
const TILE: i64 = 32;
/// Warps of a block: each moves every eighth row of a tile.
const WARPS: i64 = 8;

/// Makes a square matrix in row order symmetric: `x[c · size + r] = x[r · size + c]` for r > c, in elements of
/// `element_bytes` (2, 4 or 8). Products of commuting symmetric matrices are symmetric but for rounding, and an
/// iteration over them would let the difference grow.
///
/// Launched in blocks of 256 threads, with a block for each tile of 32 by 32 elements. There are `⌈size / 32⌉²` of
/// them, and those above the diagonal have nothing to do. Parameters:
///
/// | parameter | type | what it is |
/// |---|---|---|
/// | `matrix` | u64 | its address in device memory |
/// | `size` | u32 | its rows, and its columns |
///
/// # Panics
/// When `element_bytes` is not 2, 4 or 8.
pub fn symmetrize_kernel(name: &str, element_bytes: usize, target: Target) -> Ptx {
    let ty = match element_bytes {
        2 => Type::B16,
        4 => Type::B32,
        8 => Type::B64,
        other => panic!("{name}: elements of {other} bytes"),
    };
    let bytes = element_bytes as i64;
    let mut b = Builder::new(name);
    b.note(
        "One block copies one tile of 32 by 32 elements across the diagonal. Both sides are accessed along",
    );
    b.note("their rows; the tile in shared memory has a column more, so that its columns lie in different banks.");
    let matrix = b.param(Type::U64, "matrix");
    let size = b.param(Type::U32, "size");
    let tile = b.shared("tile", (TILE * (TILE + 1) * bytes) as usize);
    let end = b.label("end");

    b.comment("the lane, the warp, and the tile's first row and column");
    let thread = b.mov(Type::U32, "%tid.x");
    let lane = b.and(Type::B32, thread, 31);
    let warp = b.shr(Type::U32, thread, 5);
    let block = b.mov(Type::U32, "%ctaid.x");
    let padded = b.add(Type::U32, size, TILE - 1);
    let across = b.shr(Type::U32, padded, 5);
    let tile_row = b.div(Type::U32, block, across);
    let tile_column = b.rem(Type::U32, block, across);
    let above = b.setp("lt", Type::U32, tile_row, tile_column);
    b.when(above).bra(&end);
    let first_row = b.shl(Type::B32, tile_row, 5);
    let first_column = b.shl(Type::B32, tile_column, 5);
    let tile = b.mov(Type::U32, tile);

    b.comment("in along the rows below the diagonal");
    let side = Side { size, row: first_row, column: first_column, warp, lane, bytes };
    for i in 0..TILE / WARPS {
        let Element { there, at, .. } = side.element(&mut b, matrix, i);
        let shared = cell(&mut b, tile, [warp, lane], [i, 0], bytes);
        let value = b.temp(ty.class());
        b.when(there).to(value).ld(Space::Global, ty, 1, at, 0);
        b.when(there).st(Space::Shared, ty, shared, 0, &[value.into()]);
    }
    b.bar_sync();
    b.comment("out along the rows above it, which are the tile's columns");
    let side = Side { size, row: first_column, column: first_row, warp, lane, bytes };
    for i in 0..TILE / WARPS {
        let Element { there, at, row, column } = side.element(&mut b, matrix, i);
        let above = b.setp("lt", Type::U32, row, column);
        let there = b.and(Type::Pred, there, above);
        let shared = cell(&mut b, tile, [lane, warp], [0, i], bytes);
        let value = b.temp(ty.class());
        b.when(there).to(value).ld(Space::Shared, ty, 1, shared, 0);
        b.when(there).st(Space::Global, ty, at, 0, &[value.into()]);
    }
    b.place(&end);
    b.finish(target)
}

/// A tile of the matrix.
struct Side {
    size: Reg,
    row: Reg,
    column: Reg,
    warp: Reg,
    lane: Reg,
    bytes: i64,
}

/// An element of it.
struct Element {
    /// Whether it lies in the matrix.
    there: Reg,
    /// Its address.
    at: Reg,
    row: Reg,
    column: Reg,
}

impl Side {
    /// Returns the thread's `i`-th element.
    fn element(&self, b: &mut Builder, matrix: Reg, i: i64) -> Element {
        let row = b.add(Type::U32, self.row, self.warp);
        let row = b.add(Type::U32, row, WARPS * i);
        let column = b.add(Type::U32, self.column, self.lane);
        let in_rows = b.setp("lt", Type::U32, row, self.size);
        let in_columns = b.setp("lt", Type::U32, column, self.size);
        let there = b.and(Type::Pred, in_rows, in_columns);
        let wide = b.cvt("", Type::U64, Type::U32, column);
        let index = b.mad_wide(row, self.size, wide);
        let offset = b.mul(Type::U64, index, self.bytes);
        Element { there, at: b.add(Type::U64, matrix, offset), row, column }
    }
}

/// Returns the address of a cell of the tile: `place` plus `ahead` warps' strides of rows and columns.
fn cell(b: &mut Builder, tile: Reg, place: [Reg; 2], ahead: [i64; 2], bytes: i64) -> Reg {
    let [row, column] = [0, 1].map(|side| b.add(Type::U32, place[side], WARPS * ahead[side]));
    let index = b.mul(Type::U32, row, TILE + 1);
    let index = b.add(Type::U32, index, column);
    let offset = b.mul(Type::U32, index, bytes);
    let at = b.temp(Class::B32);
    b.to(at).add(Type::U32, tile, offset)
}
