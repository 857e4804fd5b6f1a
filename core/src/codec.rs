//! Conversions between storage and arithmetic, specified bit for bit.
//!
//! Every conversion rounds once, to the nearest value, ties to even. Fast versions on any device must
//! give the same bits; a NaN stays a NaN, but its sign and payload are not promised. Formats in blocks have
//! their own page, [`block`].

pub mod block;
pub mod codebook;
pub mod stochastic;

/// Returns the bfloat16 bits nearest to `x`: the upper half of its bits, rounded by an integer addition.
#[inline(always)]
pub fn bf16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        // Keep it a NaN: the upper half alone could read as an infinity.
        return (bits >> 16) as u16 | 0x40;
    }
    (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Returns the value of bfloat16 bits, exactly.
#[inline(always)]
pub fn f32_from_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Returns the half-precision bits nearest to `x`.
///
/// In integers: normal numbers move the exponent's bias and round 13 bits away. Below 2^-14 the addition of a
/// constant lets the adder align and round the subnormal.
#[inline(always)]
pub fn f16_from_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    let rounded = if magnitude > 0x7f80_0000 {
        0x7e00
    } else if magnitude >= 0x477f_f000 {
        0x7c00 // 65520 and above round to infinity
    } else if magnitude < 0x3880_0000 {
        // 0.5 has the unit 2^-24, that of a half-precision subnormal
        (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000)
    } else {
        let odd = (magnitude >> 13) & 1;
        (magnitude - 0x3800_0000 + 0xfff + odd) >> 13
    };
    sign | rounded as u16
}

/// Returns the value of half-precision bits, exactly.
#[inline(always)]
pub fn f32_from_f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let value = if magnitude >= 0x7c00 {
        f32::from_bits(0x7f80_0000 | (magnitude & 0x3ff) << 13)
    } else if magnitude < 0x400 {
        magnitude as f32 * (1.0 / 16_777_216.0)
    } else {
        f32::from_bits((magnitude << 13) + 0x3800_0000)
    };
    f32::from_bits(value.to_bits() | sign)
}

/// Converts `f64` to `f32`, rounded to odd: exact where it can be, otherwise the neighbour whose last bit is 1.
/// A second rounding to a much shorter type then gives what one rounding would have given.
fn f32_to_odd(x: f64) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    if back == x || x.is_nan() || near.to_bits() & 1 == 1 {
        return near;
    }
    // `near` is even and inexact: the neighbour on the side of `x` is odd. (An infinity is even too. Its neighbour
    // towards zero is the largest finite number, which is odd.)
    let step_away = (back.abs() < x.abs()) as u32;
    f32::from_bits(if step_away == 1 { near.to_bits() + 1 } else { near.to_bits() - 1 })
}

/// Returns the bfloat16 bits nearest to a double, rounded once.
pub fn bf16_from_f64(x: f64) -> u16 {
    bf16_from_f32(f32_to_odd(x))
}

/// Returns the half-precision bits nearest to a double, rounded once.
pub fn f16_from_f64(x: f64) -> u16 {
    f16_from_f32(f32_to_odd(x))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns all 2^16 values in order, so that 'nearest, ties to even' can be looked up.
    fn nearest(x: f64, decode: fn(u16) -> f32, infinity: u16) -> u16 {
        let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
        let (mut low, mut high) = (0u16, infinity);
        let a = x.abs();
        // The value that would follow the largest finite one stands for infinity when rounding.
        let value = |b: u16| match b == infinity {
            false => f64::from(decode(b)),
            true => 2.0 * f64::from(decode(b - 1)) - f64::from(decode(b - 2)),
        };
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if value(middle) <= a { low = middle } else { high = middle }
        }
        let (down, up) = (a - value(low), value(high) - a);
        let pick = if down < up || (down == up && low % 2 == 0) { low } else { high };
        sign | pick
    }

    fn samples() -> impl Iterator<Item = f64> {
        // Every half-way point and its neighbours, over both formats' ranges.
        let points = (0u32..0x7f80).flat_map(|b| {
            let a = f64::from(f32_from_bf16(b as u16));
            let b = f64::from(f32_from_bf16(b as u16 + 1));
            [a, (a + b) / 2.0]
        });
        let halves = (0u16..0x7bff).flat_map(|b| {
            let (a, b) = (f64::from(f32_from_f16(b)), f64::from(f32_from_f16(b + 1)));
            [a, (a + b) / 2.0]
        });
        points
            .chain(halves)
            .filter(|x| x.is_finite())
            .flat_map(|x| [x, x.next_up(), x.next_down(), -x])
            .chain([65519.999, 65520.0, 1e300, -1e300, f64::from(f32::MAX), f64::MIN_POSITIVE, 1e-40])
    }

    #[test]
    fn sixteen_bits_are_the_nearest_ones() {
        for x in samples() {
            assert_eq!(bf16_from_f64(x), nearest(x, f32_from_bf16, 0x7f80), "bf16 of {x:e}");
            assert_eq!(f16_from_f64(x), nearest(x, f32_from_f16, 0x7c00), "f16 of {x:e}");
            let single = x as f32;
            if f64::from(single) == x {
                assert_eq!(bf16_from_f32(single), bf16_from_f64(x));
                assert_eq!(f16_from_f32(single), f16_from_f64(x));
            }
        }
    }

    #[test]
    fn half_agrees() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f32_from_f16(bits), half::f16::from_bits(bits).to_f32());
            assert!(ours == theirs || ours.is_nan() && theirs.is_nan());
            if !ours.is_nan() {
                assert_eq!(f16_from_f32(ours), bits);
                assert_eq!(ours.to_bits(), theirs.to_bits());
            }
        }
    }

    #[test]
    fn nan_and_infinity_are_kept() {
        for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)] {
            assert!(f32_from_bf16(bf16_from_f32(nan)).is_nan());
            assert!(f32_from_f16(f16_from_f32(nan)).is_nan());
            assert!(f32_from_f16(f16_from_f64(f64::from(nan))).is_nan());
        }
        assert_eq!(f32_from_bf16(bf16_from_f64(f64::NEG_INFINITY)), f32::NEG_INFINITY);
        assert_eq!(f32_from_f16(f16_from_f64(f64::INFINITY)), f32::INFINITY);
    }
}
