//! `cvt`: between all types of numbers, with every rounding.

use half::{bf16, f16};

use super::float::{flush, saturate};
use super::regs::{LANES, Regs};
use crate::ptx::program::{Convert, Round};
use crate::ptx::types::{File, Type};

fn integral(x: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

/// Rounds to a format of `digits` binary digits behind the leading one and exponents from `low` to `high`.
fn narrow(x: f64, round: Round, digits: i32, low: i32, high: i32) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let exponent = ((x.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(low);
    // Powers of two of this size are exact, so scaling is, and the one rounding is that of `integral`.
    let unit = 2f64.powi(exponent - digits);
    let rounded = integral(x / unit, round) * unit;
    let largest = (2.0 - 2f64.powi(-digits)) * 2f64.powi(high);
    if rounded.abs() <= largest {
        return rounded.copysign(x);
    }
    let outward = match round {
        Round::Nearest => true,
        Round::Zero => false,
        Round::Down => x < 0.0,
        Round::Up => x > 0.0,
    };
    if outward { f64::INFINITY.copysign(x) } else { largest.copysign(x) }
}

/// Returns the bits of a number in a format, rounded once.
fn encode(x: f64, ty: Type, round: Round) -> u64 {
    match ty {
        Type::F64 => x.to_bits(),
        _ if x.is_nan() => match ty {
            Type::F32 => 0x7fff_ffff,
            _ => 0x7fff,
        },
        Type::F32 if round == Round::Nearest => u64::from((x as f32).to_bits()),
        Type::F32 => u64::from((narrow(x, round, 23, -126, 127) as f32).to_bits()),
        Type::F16 => u64::from(f16::from_f64(narrow(x, round, 10, -14, 15)).to_bits()),
        _ => u64::from(bf16::from_f32(narrow(x, round, 7, -126, 127) as f32).to_bits()),
    }
}

fn decode(bits: u64, ty: Type) -> f64 {
    match ty {
        Type::F64 => f64::from_bits(bits),
        Type::F32 => f64::from(f32::from_bits(bits as u32)),
        Type::F16 => f16::from_bits(bits as u16).to_f64(),
        _ => bf16::from_bits(bits as u16).to_f64(),
    }
}

/// Returns the smallest and the largest value of an integer type.
fn limits(ty: Type) -> (i128, i128) {
    let bits = ty.bits();
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

fn whole(bits: u64, ty: Type) -> i128 {
    let value = ty.extend(bits);
    if ty.is_signed() { i128::from(value as i64) } else { i128::from(value) }
}

/// Creates an integer in a format. f64 holds all integers that f16 reaches, and those of 32 bits.
fn from_integer(value: i128, ty: Type, round: Round) -> u64 {
    macro_rules! rounded {
        ($float:ty) => {{
            let near = value as $float;
            // Near is at most 2^64, an integer, so the comparison is exact.
            let up = (near as i128) < value;
            let down = (near as i128) > value;
            match round {
                Round::Down if down => near.next_down(),
                Round::Up if up => near.next_up(),
                Round::Zero if down && value > 0 => near.next_down(),
                Round::Zero if up && value < 0 => near.next_up(),
                _ => near,
            }
        }};
    }
    match ty {
        Type::F32 => u64::from(rounded!(f32).to_bits()),
        Type::F64 => rounded!(f64).to_bits(),
        _ => encode(value as f64, ty, round),
    }
}

fn to_integer(x: f64, how: &Convert) -> u64 {
    if x.is_nan() {
        let wide = how.from == Type::F64 || how.to.size() == 8;
        return if wide { 1 << (how.to.bits() - 1) } else { 0 };
    }
    let x = integral(x, how.integral.unwrap_or(Round::Zero));
    let (low, high) = limits(how.to);
    (x as i128).clamp(low, high) as u64
}

/// Converts one value.
fn value(how: &Convert, bits: u64) -> u64 {
    let (to, from) = (how.to, how.from);
    if !from.is_float() {
        let mut value = whole(bits, from);
        if to.is_float() {
            let out = from_integer(value, to, how.mode.round);
            return if how.mode.saturate { clamp(out, to) } else { out };
        }
        if how.mode.saturate {
            let (low, high) = limits(to);
            value = value.clamp(low, high);
        }
        return to.extend(value as u64);
    }
    let mut x = decode(bits, from);
    if how.mode.flush && from == Type::F32 {
        x = f64::from(flush(x as f32));
    }
    if !to.is_float() {
        return to.extend(to_integer(x, how));
    }
    if let Some(round) = how.integral {
        x = integral(x, round);
    }
    let mut out = encode(x, to, how.mode.round);
    if how.mode.flush && to == Type::F32 {
        out = u64::from(flush(f32::from_bits(out as u32)).to_bits());
    }
    if how.mode.saturate { clamp(out, to) } else { out }
}

fn clamp(bits: u64, ty: Type) -> u64 {
    let x = decode(bits, ty);
    match ty {
        // Anything outside [0, 1] becomes an end, and those are exact in every format.
        _ if x.is_nan() || x <= 0.0 => 0,
        Type::F32 => u64::from(saturate(x as f32).to_bits()),
        _ => encode(x.min(1.0), ty, Round::Nearest),
    }
}

/// Runs a conversion; with `b` it makes a pair, `a` above.
pub fn run(regs: &mut Regs, how: &Convert, d: u32, a: u32, b: Option<u32>, mask: u32) {
    if let Some(b) = b {
        let half = if how.to == Type::F16x2 { Type::F16 } else { Type::BF16 };
        let round = how.mode.round;
        let one = |x: u32| encode(f64::from(f32::from_bits(x)), half, round) as u32;
        return regs.map2(d, [a, b], mask, |high, low| one(high) << 16 | one(low));
    }
    let plain = !how.mode.saturate && !how.mode.flush;
    let kept = u64::MAX >> (64 - how.target_bits);
    match (how.to, how.from) {
        (Type::F32, Type::F64) if plain && how.mode.round == Round::Nearest => {
            regs.map1(d, a, mask, |x: u64| (f64::from_bits(x) as f32).to_bits())
        }
        (Type::F64, Type::F32) if plain => {
            regs.map1(d, a, mask, |x: u32| f64::from(f32::from_bits(x)).to_bits())
        }
        (Type::U32, Type::U64) if plain && how.target == File::Word => {
            regs.map1(d, a, mask, |x: u64| x as u32)
        }
        (Type::U64, Type::U32) if plain && how.source == File::Word => {
            regs.map1(d, a, mask, |x: u32| u64::from(x))
        }
        _ => {
            for lane in (0..LANES).filter(|lane| mask >> lane & 1 == 1) {
                let bits = regs.lane(how.source == File::Long, a, lane);
                regs.set_lane(how.target == File::Long, d, lane, value(how, bits) & kept);
            }
        }
    }
}
