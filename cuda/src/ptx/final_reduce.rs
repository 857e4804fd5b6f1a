//! The second pass of a rule with sums.

use super::grid::warp_of_grid;
use super::{Builder, Class, Ptx, Reg, Space, Target, Type, Value};

/// Partials that a lane has under way, so that the latency of memory is paid once for all of them.
const UNDER_WAY: usize = 8;

/// Folds the partials of each tensor to its sums, in the order of [`fallline_core::reduction::tree_reduce`].
///
/// Launched in blocks of any multiple of 32 threads, with a warp for each sum of each tensor. Parameters, all
/// addresses in device memory:
///
/// | parameter | type | what it points at |
/// |---|---|---|
/// | `segments` | u64 | for each tensor: its first segment and its count of segments, u64 |
/// | `partials` | u64 | f64: for each segment one for each sum |
/// | `out` | u64 | f64: for each tensor one for each sum |
/// | `tensors` | u32 | |
/// | `sums` | u32 | sums of the rule |
pub fn final_reduce_kernel(name: &str, target: Target) -> Ptx {
    let mut b = Builder::new(name);
    b.note("One warp folds one sum of one tensor: lane l adds the partials l, l + 32, ... to +0,");
    b.note("then lanes 16, 8, 4, 2 and 1 apart add up.");
    let [segments, partials, out] = ["segments", "partials", "out"].map(|name| b.param(Type::U64, name));
    let [tensors, sums] = ["tensors", "sums"].map(|name| b.param(Type::U32, name));
    let [round, folded, end] = ["round", "folded", "end"].map(|name| b.label(name));
    let (lane, warp) = warp_of_grid(&mut b);
    let all = b.mul(Type::U32, tensors, sums);
    let outside = b.setp("ge", Type::U32, warp, all);
    b.when(outside).bra(&end);

    b.comment("the tensor and its segments; the lane's first partial");
    let tensor = b.div(Type::U32, warp, sums);
    let sum = b.rem(Type::U32, warp, sums);
    let record = b.mad_wide(tensor, 16, segments);
    let first = b.ld(Space::Constant, Type::U64, 1, record, 0)[0];
    let left = b.named(Class::B64, "left");
    b.to(left).ld(Space::Constant, Type::U64, 1, record, 8);
    let wide_sums = b.cvt("", Type::U64, Type::U32, sums);
    let pitch = b.shl(Type::B64, wide_sums, 3);
    let lane_wide = b.cvt("", Type::S64, Type::U32, lane);
    let segment = b.add(Type::U64, first, lane_wide);
    let base = b.mad_wide(sum, 8, partials);
    let offset = b.mul(Type::U64, segment, pitch);
    let at = b.named(Class::B64, "at");
    b.to(at).add(Type::U64, base, offset);
    let stride = b.shl(Type::B64, pitch, 5);
    let total = b.named(Class::F64, "total");
    b.to(total).mov(Type::F64, Value::F64(0.0));

    b.comment("rounds of 8 partials a lane; `left` counts from the warp's first");
    b.place(&round);
    let done = b.setp("le", Type::S64, left, 0);
    b.when(done).bra(&folded);
    // Below zero in lanes behind the end, so that a comparison with sign tells which partials are there.
    let mine = b.sub(Type::S64, left, lane_wide);
    let loads: Vec<(Reg, Reg)> = (0..UNDER_WAY)
        .map(|i| {
            let there = b.setp("gt", Type::S64, mine, 32 * i as i64);
            let value = b.mov(Type::F64, Value::F64(0.0));
            b.when(there).to(value).ld(Space::Global, Type::F64, 1, at, 0);
            b.to(at).add(Type::U64, at, stride);
            (there, value)
        })
        .collect();
    for (there, value) in loads {
        b.when(there).to(total).add(Type::F64, total, value);
    }
    b.to(left).sub(Type::S64, left, 32 * UNDER_WAY as i64);
    b.bra(&round);

    b.place(&folded);
    for distance in [16, 8, 4, 2, 1] {
        let other = b.shfl_bfly(total, distance);
        b.to(total).add(Type::F64, total, other);
    }
    let at = b.mad_wide(warp, 8, out);
    let first = b.setp("eq", Type::U32, lane, 0);
    b.when(first).st(Space::Global, Type::F64, at, 0, &[total.into()]);
    b.place(&end);
    b.finish(target)
}
