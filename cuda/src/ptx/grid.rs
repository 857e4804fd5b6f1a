//! A thread's place in the grid.

use super::{Builder, Class, Reg, Type};

/// Returns the lane of this thread, and the place of its warp in the grid.
pub(super) fn warp_of_grid(b: &mut Builder) -> (Reg, Reg) {
    b.comment("the lane, and the warp's place in the grid");
    let thread = b.mov(Type::U32, "%tid.x");
    let lane = b.named(Class::B32, "lane");
    b.to(lane).and(Type::B32, thread, 31);
    let own = b.shr(Type::U32, thread, 5);
    let threads = b.mov(Type::U32, "%ntid.x");
    let warps = b.shr(Type::U32, threads, 5);
    let block = b.mov(Type::U32, "%ctaid.x");
    let before = b.mul(Type::U32, block, warps);
    let warp = b.named(Class::B32, "warp");
    b.to(warp).add(Type::U32, before, own);
    (lane, warp)
}
