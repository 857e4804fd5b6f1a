//! Rows copied and added up by index.

use super::grid::warp_of_grid;
use super::{Builder, Class, Ptx, Reg, Space, Target, Type, Value};
use fallline_core::{Compute, Format};

/// Bytes of a vector access.
const VECTOR: i64 = 16;

/// Copies rows by index: `to[i] = from[index[i]]`.
///
/// Launched in blocks of any multiple of 32 threads, with a warp for each row of the index. Rows are copied 128 bits
/// at a time where both tensors and the row's length in bytes are multiples of 16. Else they are copied element by
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

/// Copies rows by index: `to[index[i]] = from[i]`. No index may be there twice; everything else is as for
/// [`gather_rows_kernel`].
///
/// # Panics
/// When `element_bytes` is not 2, 4 or 8.
pub fn scatter_rows_kernel(name: &str, element_bytes: usize, target: Target) -> Ptx {
    rows_kernel(name, element_bytes, target, false)
}

/// Adds rows up by index: `to[i]` is the sum of `from[order[j]]` with j from `ends[i]` to `ends[i + 1]`, in this
/// order, each rounded to the type of the sums. A row on its own is copied, and no row at all is 0.
///
/// Launched in blocks of any multiple of 32 threads, with a warp for each sum. Parameters, all addresses in device
/// memory:
///
/// | parameter | type | what it is |
/// |---|---|---|
/// | `source` | u64 | the address of `from`, elements of `format` |
/// | `target` | u64 | the address of `to`, elements of `compute` |
/// | `order` | u64 | the address of the index, u64 |
/// | `ends` | u64 | the address of the ends, u64, the first of them 0 |
/// | `width` | u64 | elements of a row |
/// | `count` | u32 | how many sums |
pub fn add_rows_kernel(name: &str, format: Format, compute: Compute, target: Target) -> Ptx {
    let mut b = Builder::new(name);
    b.note("One warp adds up one row: target[i] = source[order[ends[i]]] + ... in this order.");
    let [source, to, order, ends, width] =
        ["source", "target", "order", "ends", "width"].map(|name| b.param(Type::U64, name));
    let count = b.param(Type::U32, "count");
    let [columns, addend, store, end] = ["columns", "addend", "store", "end"].map(|name| b.label(name));
    let (lane, warp) = warp_of_grid(&mut b);
    let outside = b.setp("ge", Type::U32, warp, count);
    b.when(outside).bra(&end);
    let (ty, zero) = match compute {
        Compute::F32 => (Type::F32, Value::F32(0.0)),
        Compute::F64 => (Type::F64, Value::F64(0.0)),
    };

    let at = b.mad_wide(warp, 8, ends);
    let first = b.ld(Space::Constant, Type::U64, 1, at, 0)[0];
    let last = b.ld(Space::Constant, Type::U64, 1, at, 8)[0];
    let pitch = b.mul(Type::U64, width, format.bytes() as i64);
    let own_from = b.named(Class::B64, "own_from");
    b.to(own_from).mad_wide(lane, format.bytes() as i64, source);
    let row = b.cvt("", Type::U64, Type::U32, warp);
    let offset = b.mul(Type::U64, row, width);
    let offset = b.mul(Type::U64, offset, ty.bytes() as i64);
    let row = b.add(Type::U64, to, offset);
    let own_to = b.named(Class::B64, "own_to");
    b.to(own_to).mad_wide(lane, ty.bytes() as i64, row);
    let lane_wide = b.cvt("", Type::S64, Type::U32, lane);
    let left = b.named(Class::B64, "left");
    b.to(left).mov(Type::U64, width);
    let j = b.named(Class::B64, "j");
    let total = b.named(ty.class(), "total");

    b.comment("32 columns at a time");
    b.place(&columns);
    let done = b.setp("le", Type::S64, left, 0);
    b.when(done).bra(&end);
    let there = b.setp("gt", Type::S64, left, lane_wide);
    b.to(total).mov(ty, zero);
    b.to(j).mov(Type::U64, first);
    let nothing = b.setp("ge", Type::U64, j, last);
    b.when(nothing).bra(&store);
    let x = addend_of(&mut b, [order, j, pitch, own_from], there, format, compute);
    b.to(total).mov(ty, x);
    b.place(&addend);
    b.to(j).add(Type::U64, j, 1);
    let finished = b.setp("ge", Type::U64, j, last);
    b.when(finished).bra(&store);
    let x = addend_of(&mut b, [order, j, pitch, own_from], there, format, compute);
    b.to(total).add(ty, total, x);
    b.bra(&addend);
    b.place(&store);
    b.when(there).st(Space::Global, ty, own_to, 0, &[total.into()]);
    b.to(own_from).add(Type::U64, own_from, 32 * format.bytes() as i64);
    b.to(own_to).add(Type::U64, own_to, 32 * ty.bytes() as i64);
    b.to(left).sub(Type::S64, left, 32);
    b.bra(&columns);
    b.place(&end);
    b.finish(target)
}

/// Returns the lane's element of row `order[j]`, in the type of the sums; 0 where there is none.
fn addend_of(
    b: &mut Builder,
    [order, j, pitch, own]: [Reg; 4],
    there: Reg,
    format: Format,
    compute: Compute,
) -> Reg {
    let offset = b.shl(Type::B64, j, 3);
    let at = b.add(Type::U64, order, offset);
    let row = b.ld(Space::Constant, Type::U64, 1, at, 0)[0];
    let offset = b.mul(Type::U64, row, pitch);
    let at = b.add(Type::U64, own, offset);
    let stored = match format {
        Format::F64 => Type::F64,
        Format::F32 => Type::F32,
        _ => Type::B16,
    };
    let zero = match stored {
        Type::F64 => Value::F64(0.0),
        Type::F32 => Value::F32(0.0),
        _ => Value::Int(0),
    };
    let raw = b.mov(stored, zero);
    b.when(there).to(raw).ld(Space::Global, stored, 1, at, 0);
    let single = match (format, compute) {
        (Format::F64, Compute::F64) => return raw,
        (Format::F64, Compute::F32) => return b.cvt("rn", Type::F32, Type::F64, raw),
        (Format::F32, _) => raw,
        (Format::F16, _) => b.cvt("", Type::F32, Type::F16, raw),
        // bfloat16 is the upper half of a single.
        _ => {
            let low = b.mov(Type::B16, 0);
            let bits = b.pack(Class::B32, low, raw);
            b.cast(Class::F32, bits)
        }
    };
    match compute {
        Compute::F64 => b.cvt("", Type::F64, Type::F32, single),
        Compute::F32 => single,
    }
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
