//! Rows copied by index.

use super::element::warp_of_grid;
use super::{Builder, Class, Ptx, Reg, Space, Target, Type};

/// Bytes of a vector access.
const VECTOR: i64 = 16;

/// Copies rows by index: `to[i] = from[index[i]]`.
///
/// Launched in blocks of any multiple of 32 threads, with a warp for each row of the index. Rows are copied
/// 128 bits at a time where both tensors and the row's length in bytes are multiples of 16, else element by
/// element of `element_bytes` (2, 4 or 8). Parameters, all addresses in device memory:
///
/// | parameter | type | what it is |
/// |---|---|---|
/// | `source` | u64 | the address of `from` |
/// | `target` | u64 | the address of `to` |
/// | `index` | u64 | the address of the index, i64 |
/// | `row_bytes` | u64 | bytes of a row |
/// | `limit` | u64 | rows of the indexed tensor: rows whose index is not below it are left out |
/// | `count` | u32 | length of the index |
///
/// # Panics
/// When `element_bytes` is not 2, 4 or 8.
pub fn gather_rows_kernel(name: &str, element_bytes: usize, target: Target) -> Ptx {
    rows_kernel(name, element_bytes, target, true)
}

/// Copies rows by index: `to[index[i]] = from[i]`. An index must not stand twice; everything else is as for
/// [`gather_rows_kernel`].
///
/// # Panics
/// When `element_bytes` is not 2, 4 or 8.
pub fn scatter_rows_kernel(name: &str, element_bytes: usize, target: Target) -> Ptx {
    rows_kernel(name, element_bytes, target, false)
}

fn rows_kernel(name: &str, element_bytes: usize, target: Target, gather: bool) -> Ptx {
    let element = match element_bytes {
        2 => Type::B16,
        4 => Type::B32,
        8 => Type::B64,
        other => panic!("{name}: elements of {other} bytes"),
    };
    let mut b = Builder::new(name);
    b.note(match gather {
        true => "One warp copies one row: target[i] = source[index[i]].",
        false => "One warp copies one row: target[index[i]] = source[i].",
    });
    let [source, to, index, row_bytes, limit] =
        ["source", "target", "index", "row_bytes", "limit"].map(|name| b.param(Type::U64, name));
    let count = b.param(Type::U32, "count");
    let [elements, end] = ["elements", "end"].map(|name| b.label(name));
    let (lane, warp) = warp_of_grid(&mut b);
    let outside = b.setp("ge", Type::U32, warp, count);
    b.when(outside).bra(&end);

    let at = b.mad_wide(warp, 8, index);
    let indexed = b.ld(Space::Constant, Type::U64, 1, at, 0)[0];
    // Negative indices are large without a sign.
    let outside = b.setp("ge", Type::U64, indexed, limit);
    b.when(outside).bra(&end);
    let plain = b.cvt("", Type::U64, Type::U32, warp);
    let (from_row, to_row) = if gather { (indexed, plain) } else { (plain, indexed) };
    let [from, to] = [(from_row, source), (to_row, to)].map(|(row, tensor)| {
        let offset = b.mul(Type::U64, row, row_bytes);
        b.add(Type::U64, tensor, offset)
    });

    let low = b.or(Type::B64, source, to);
    let low = b.or(Type::B64, low, row_bytes);
    let low = b.or(Type::B64, low, from);
    let low = b.and(Type::B64, low, VECTOR - 1);
    let misaligned = b.setp("ne", Type::U64, low, 0);
    b.when(misaligned).bra(&elements);
    b.comment("128 bits at a time");
    copy(&mut b, "vectors", [from, to], row_bytes, lane, (Type::B32, 4));
    b.bra(&end);
    b.place(&elements);
    b.comment("element by element");
    copy(&mut b, "element", [from, to], row_bytes, lane, (element, 1));
    b.place(&end);
    b.finish(target)
}

/// Copies a row with the lanes side by side, one access of `count` parts a lane and turn. Every lane takes
/// as many turns, so that the branch is the same for the warp.
fn copy(b: &mut Builder, name: &str, rows: [Reg; 2], bytes: Reg, lane: Reg, (ty, count): (Type, usize)) {
    let own = (count * ty.bytes()) as i64;
    let end = b.label(&format!("{name}_done"));
    let turn = b.label(name);
    let [from, to] = rows.map(|row| b.mad_wide(lane, own, row));
    let lane_offset = b.mad_wide(lane, own, 0);
    let left = b.named(Class::B64, &format!("{name}_left"));
    b.to(left).mov(Type::U64, bytes);
    b.place(&turn);
    let done = b.setp("le", Type::S64, left, 0);
    b.when(done).bra(&end);
    let there = b.setp("gt", Type::S64, left, lane_offset);
    let parts: Vec<Reg> = (0..count).map(|_| b.temp(ty.class())).collect();
    b.when(there).ld_to(&parts, Space::Global, ty, from, 0);
    let parts: Vec<_> = parts.into_iter().map(Into::into).collect();
    b.when(there).st(Space::Global, ty, to, 0, &parts);
    for address in [from, to] {
        b.to(address).add(Type::U64, address, 32 * own);
    }
    b.to(left).sub(Type::S64, left, 32 * own);
    b.bra(&turn);
    b.place(&end);
}
