//! The portable baseline, on `wide`: its instructions are chosen at compile time.

use super::register::register;
use wide::{f32x4, f64x2};

register! {
    /// Four `f32`.
    Wide32(f32x4) of 4 f32, mask f32x4;
    splat(x) f32x4::splat(x);
    (a, b) add a + b; sub a - b; mul a * b; div a / b;
    min a.simd_lt(b).select(a, b); max b.simd_lt(a).select(a, b);
    lt a.simd_lt(b); le a.simd_le(b); eq a.simd_eq(b);
    neg a ^ f32x4::splat(-0.0); sqrt a.sqrt(); abs a.abs();
    select(m) m.select(a, b);
    memory(p) load p.cast::<f32x4>().read_unaligned(); store p.cast::<f32x4>().write_unaligned(a);
}

register! {
    /// Two `f64`.
    Wide64(f64x2) of 2 f64, mask f64x2;
    splat(x) f64x2::splat(x);
    (a, b) add a + b; sub a - b; mul a * b; div a / b;
    min a.simd_lt(b).select(a, b); max b.simd_lt(a).select(a, b);
    lt a.simd_lt(b); le a.simd_le(b); eq a.simd_eq(b);
    neg a ^ f64x2::splat(-0.0); sqrt a.sqrt(); abs a.abs();
    select(m) m.select(a, b);
    memory(p) load p.cast::<f64x2>().read_unaligned(); store p.cast::<f64x2>().write_unaligned(a);
}
