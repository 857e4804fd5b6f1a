//! Factors of gradients that the device knows.

use super::grid::warp_of_grid;
use super::{Builder, Ptx, Space, Target, Type};
use fallline_core::Compute;

/// Returns the factor of the gradient in each row of scalars, times one that is on the device: multiplied in double
/// precision and rounded once.
///
/// Launched in blocks of any multiple of 32 threads, with a lane for each row. Parameters:
///
/// | parameter | type | what it is |
/// |---|---|---|
/// | `rows` | u64 | the address of the rows in device memory |
/// | `scales` | u64 | that of the other factor's address (u64), behind which is each row's own factor, f64 |
/// | `count` | u32 | rows |
/// | `bytes` | u32 | of a row |
pub fn scale_kernel(name: &str, compute: Compute, target: Target) -> Ptx {
    let mut b = Builder::new(name);
    b.note("One lane multiplies the gradient's factor of one row of scalars.");
    let [rows, scales] = ["rows", "scales"].map(|name| b.param(Type::U64, name));
    let [count, bytes] = ["count", "bytes"].map(|name| b.param(Type::U32, name));
    let end = b.label("end");
    let (lane, warp) = warp_of_grid(&mut b);
    let first = b.shl(Type::B32, warp, 5);
    let outside = b.setp("ge", Type::U32, first, count);
    b.when(outside).bra(&end);
    let row = b.add(Type::U32, first, lane);
    let there = b.setp("lt", Type::U32, row, count);
    // Lanes behind the end do what the last one does, and store nothing.
    let last = b.sub(Type::U32, count, 1);
    let row = b.min(Type::U32, row, last);
    let at = b.mad_wide(row, 8, scales);
    let own = b.ld(Space::Constant, Type::F64, 1, at, 8)[0];
    let factor = b.ld(Space::Constant, Type::U64, 1, scales, 0)[0];
    let other = b.ld(Space::Constant, Type::F64, 1, factor, 0)[0];
    let product = b.mul(Type::F64, own, other);
    let to = b.mad_wide(row, bytes, rows);
    match compute {
        Compute::F64 => b.when(there).st(Space::Global, Type::F64, to, 0, &[product.into()]),
        Compute::F32 => {
            let product = b.cvt("rn", Type::F32, Type::F64, product);
            b.when(there).st(Space::Global, Type::F32, to, 0, &[product.into()]);
        }
    }
    b.place(&end);
    b.finish(target)
}
