//! f32 and f64 arithmetic with its modifiers.

use super::regs::Regs;
use crate::ptx::program::{Alu, FloatMode, Round};

/// The NaN that a device gives.
const NAN: u32 = 0x7fff_ffff;

#[inline(always)]
fn bits(x: f32) -> u32 {
    if x.is_nan() { NAN } else { x.to_bits() }
}

#[inline(always)]
fn f(x: u32) -> f32 {
    f32::from_bits(x)
}

/// Returns zero of the same sign for a denormal number.
pub fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// Clamps to [0, 1]; NaN becomes 0.
pub fn saturate(x: f32) -> f32 {
    // A comparison that is false for NaN and -0.
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

// Where one operand is NaN the other is the result; -0 is less than +0, whose bits differ in the sign only.
macro_rules! extremum {
    ($name:ident, $float:ty, $less:tt, $equal:tt) => {
        #[inline(always)]
        fn $name(a: $float, b: $float) -> $float {
            if a.is_nan() {
                b
            } else if b.is_nan() {
                a
            } else if a == b {
                <$float>::from_bits(a.to_bits() $equal b.to_bits())
            } else if a $less b {
                a
            } else {
                b
            }
        }
    };
}
extremum!(min32, f32, <, |);
extremum!(max32, f32, >, &);
extremum!(min64, f64, <, |);
extremum!(max64, f64, >, &);

/// Runs an operation on f32.
pub fn single(regs: &mut Regs, alu: Alu, mode: FloatMode, d: u32, s: [u32; 4], mask: u32) {
    let (two, three) = ([s[0], s[1]], [s[0], s[1], s[2]]);
    if mode != FloatMode::PLAIN {
        regs.map3(d, three, mask, |a, b, c| moded(alu, mode, f(a), f(b), f(c)).to_bits());
        return;
    }
    match alu {
        Alu::Add => regs.map2(d, two, mask, |a, b| bits(f(a) + f(b))),
        Alu::Sub => regs.map2(d, two, mask, |a, b| bits(f(a) - f(b))),
        Alu::Mul => regs.map2(d, two, mask, |a, b| bits(f(a) * f(b))),
        Alu::Div => regs.map2(d, two, mask, |a, b| bits(f(a) / f(b))),
        Alu::Fma => regs.map3(d, three, mask, |a, b, c| bits(f(a).mul_add(f(b), f(c)))),
        Alu::Sqrt => regs.map1(d, s[0], mask, |a| bits(f(a).sqrt())),
        Alu::Rcp => regs.map1(d, s[0], mask, |a| bits(1.0 / f(a))),
        Alu::Neg => regs.map1(d, s[0], mask, |a: u32| a ^ 0x8000_0000),
        Alu::Abs => regs.map1(d, s[0], mask, |a: u32| a & 0x7fff_ffff),
        Alu::Min => regs.map2(d, two, mask, |a, b| bits(min32(f(a), f(b)))),
        Alu::Max => regs.map2(d, two, mask, |a, b| bits(max32(f(a), f(b)))),
        _ => regs.map1(d, s[0], mask, |a| bits(nearest(alu, f(a), 0.0, 0.0))),
    }
}

/// Returns the operation rounded to nearest. What a device approximates is computed in f64 and rounded once.
fn nearest(alu: Alu, a: f32, b: f32, c: f32) -> f32 {
    let x = f64::from(a);
    match alu {
        Alu::Add => a + b,
        Alu::Sub => a - b,
        Alu::Mul => a * b,
        Alu::Div => a / b,
        Alu::Fma => a.mul_add(b, c),
        Alu::Sqrt => a.sqrt(),
        Alu::Rcp => 1.0 / a,
        Alu::Neg => -a,
        Alu::Abs => a.abs(),
        Alu::Min => min32(a, b),
        Alu::Max => max32(a, b),
        Alu::Rsqrt => (1.0 / x.sqrt()) as f32,
        Alu::Ex2 => x.exp2() as f32,
        Alu::Lg2 => x.log2() as f32,
        Alu::Sin => x.sin() as f32,
        Alu::Cos => x.cos() as f32,
        Alu::Tanh => x.tanh() as f32,
        _ => unreachable!("the decoder gives no other operation on floats"),
    }
}

fn moded(alu: Alu, mode: FloatMode, a: f32, b: f32, c: f32) -> f32 {
    let [a, b, c] = [a, b, c].map(|x| if mode.flush { flush(x) } else { x });
    if mode.nan && (a.is_nan() || b.is_nan()) {
        return f(NAN);
    }
    let mut r = nearest(alu, a, b, c);
    if mode.round != Round::Nearest {
        r = directed(alu, mode.round, a, b, c, r);
    }
    if mode.flush {
        r = flush(r);
    }
    if mode.saturate {
        r = saturate(r);
    }
    f(bits(r))
}

/// Returns what addition leaves behind: `x + y` is the sum and this, exactly (Knuth's two-sum).
fn lost(x: f64, y: f64) -> f64 {
    let sum = x + y;
    let part = sum - x;
    (x - (sum - part)) + (y - part)
}

/// Steps from the nearest result `r` to the one in the direction, by the sign of what rounding lost. For operands
/// of 24 bits f64 gives that exactly.
fn directed(alu: Alu, round: Round, a: f32, b: f32, c: f32, r: f32) -> f32 {
    let (x, y, z, near) = (f64::from(a), f64::from(b), f64::from(c), f64::from(r));
    let finite = a.is_finite() && (b.is_finite() || matches!(alu, Alu::Sqrt | Alu::Rcp));
    let finite = finite && (c.is_finite() || alu != Alu::Fma);
    let by_zero = (alu == Alu::Div && b == 0.0) || (alu == Alu::Rcp && a == 0.0);
    if r.is_nan() || !finite || by_zero {
        return r;
    }
    let sum = |x: f64, y: f64| (x + y - near) + lost(x, y);
    let error = match alu {
        // Beyond the largest number: the exact value is finite, so nearer to zero.
        _ if r.is_infinite() => -near,
        Alu::Add => sum(x, y),
        Alu::Sub => sum(x, -y),
        Alu::Mul => x * y - near,
        Alu::Fma => sum(x * y, z),
        Alu::Div => (x - near * y) * y.signum(),
        Alu::Rcp => (1.0 - near * x) * x.signum(),
        Alu::Sqrt => x - near * near,
        _ => 0.0,
    };
    let terms = match alu {
        Alu::Add => Some((x, y)),
        Alu::Sub => Some((x, -y)),
        Alu::Fma => Some((x * y, z)),
        _ => None,
    };
    if let (true, Some((x, y))) = (round == Round::Down && near == 0.0 && error == 0.0, terms) {
        // An exact cancellation is -0 in this direction.
        return if x.is_sign_positive() && y.is_sign_positive() { r } else { -0.0 };
    }
    match round {
        Round::Zero if error > 0.0 && r < 0.0 => r.next_up(),
        Round::Zero if error < 0.0 && r > 0.0 => r.next_down(),
        Round::Down if error < 0.0 => r.next_down(),
        Round::Up if error > 0.0 => r.next_up(),
        _ => r,
    }
}

/// Runs an operation on f64; it has no modes.
pub fn double(regs: &mut Regs, alu: Alu, d: u32, s: [u32; 4], mask: u32) {
    let (two, three) = ([s[0], s[1]], [s[0], s[1], s[2]]);
    let f = f64::from_bits;
    match alu {
        Alu::Add => regs.map2(d, two, mask, |a, b| (f(a) + f(b)).to_bits()),
        Alu::Sub => regs.map2(d, two, mask, |a, b| (f(a) - f(b)).to_bits()),
        Alu::Mul => regs.map2(d, two, mask, |a, b| (f(a) * f(b)).to_bits()),
        Alu::Div => regs.map2(d, two, mask, |a, b| (f(a) / f(b)).to_bits()),
        Alu::Fma => regs.map3(d, three, mask, |a, b, c| f(a).mul_add(f(b), f(c)).to_bits()),
        Alu::Sqrt => regs.map1(d, s[0], mask, |a| f(a).sqrt().to_bits()),
        Alu::Rcp => regs.map1(d, s[0], mask, |a| (1.0 / f(a)).to_bits()),
        Alu::Rsqrt => regs.map1(d, s[0], mask, |a| (1.0 / f(a).sqrt()).to_bits()),
        Alu::Neg => regs.map1(d, s[0], mask, |a| (-f(a)).to_bits()),
        Alu::Abs => regs.map1(d, s[0], mask, |a| f(a).abs().to_bits()),
        Alu::Min => regs.map2(d, two, mask, |a, b| min64(f(a), f(b)).to_bits()),
        Alu::Max => regs.map2(d, two, mask, |a, b| max64(f(a), f(b)).to_bits()),
        _ => unreachable!("the decoder gives no other operation on f64"),
    }
}
