//! Fused multiply-add where there is no hardware for it: exact, for one number and for registers of them.
//!
//! All of it computes in `f64`, which holds every `f32`. Registers take a short way that knows when it is in doubt.
//! Then numbers take the long one, by rounding to odd.

use super::args::Accumulator;
use wide::{f64x2, u64x2};

/// A number whose fused multiply-add is emulated.
pub(super) trait Emulated: Accumulator {
    /// The numbers that the short way takes.
    const TAME: Tame;
    /// A register of factors, taken apart as the short way wants it.
    type Factor: Copy;

    /// Returns the number, exactly.
    fn to_f64(self) -> f64;
    /// Returns a number that [`to_f64`](Self::to_f64) gave.
    fn of_f64(x: f64) -> Self;
    /// Returns `a b + c`, rounded once to this type, of any three numbers of it.
    fn fused(a: f64, b: f64, c: f64) -> f64;
    /// Takes factors apart.
    fn factor(x: f64x2) -> Self::Factor;
    /// Returns how far the short way may be off before its last rounding, from the absmax of both factors
    /// and of the sum to begin with, over [`DEPTH`] steps.
    fn bound(a: f64, b: f64x2, c: f64x2) -> f64x2;
    /// Returns `a b + c` of tame numbers, rounded once to this type, or leaves a trace in `doubt`.
    fn short(a: Self::Factor, b: Self::Factor, c: f64x2, bound: f64x2, doubt: &mut u64x2) -> f64x2;
    /// Returns whether one of the short ways that had this to write to was in doubt.
    fn in_doubt(doubt: u64x2) -> bool;
}

/// Steps of the short way between two looks at whether there was a doubt.
pub(super) const DEPTH: usize = 32;

/// The magnitudes that the short way takes.
pub(super) struct Tame {
    /// Of factors, but for zero.
    pub(super) least: f64,
    pub(super) most: f64,
    /// Of sums.
    pub(super) most_sum: f64,
}

/// Returns 2 to the power of `exponent`, which is that of a normal number.
const fn power(exponent: i64) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

fn bits(x: f64x2) -> u64x2 {
    bytemuck::cast(x)
}

fn number(bits: u64x2) -> f64x2 {
    bytemuck::cast(bits)
}

/// Bits of an `f64` beyond those of an `f32`.
const BEYOND_F32: u64 = (1 << 29) - 1;

impl Emulated for f32 {
    // Products of such factors are multiples of 2⁻¹⁴⁸, so that every sum of them below 2⁻¹²⁶ is an `f32` as it is. 32
    // of them do not bring a sum to where `f32` ends.
    const TAME: Tame = Tame { least: power(-51), most: power(51), most_sum: power(120) };
    type Factor = f64x2;

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn of_f64(x: f64) -> f32 {
        x as f32
    }

    #[inline(always)]
    fn fused(a: f64, b: f64, c: f64) -> f64 {
        // The product of two numbers of 24 bits is exact. 53 bits, rounded to odd, are enough to round to 24 after.
        f64::from(sum_to_odd(a * b, c) as f32)
    }

    #[inline(always)]
    fn factor(x: f64x2) -> f64x2 {
        x
    }

    #[inline(always)]
    fn bound(_: f64, _: f64x2, c: f64x2) -> f64x2 {
        c
    }

    #[inline(always)]
    fn short(a: f64x2, b: f64x2, c: f64x2, _: f64x2, doubt: &mut u64x2) -> f64x2 {
        // Rounding the sum to 53 bits first goes wrong only where that is half-way between two `f32`, and there
        // rounding halves up does, too.
        let rounded = bits(a * b + c) + u64x2::splat(BEYOND_F32 / 2 + 1);
        *doubt |= (rounded & u64x2::splat(BEYOND_F32)) - u64x2::splat(1);
        number(rounded & u64x2::splat(!BEYOND_F32))
    }

    #[inline(always)]
    fn in_doubt(doubt: u64x2) -> bool {
        // Only what was 0 is below 0 now.
        doubt.to_bitmask() != 0
    }
}

impl Emulated for f64 {
    // The parts of products of such factors are exact.
    const TAME: Tame = Tame { least: power(-450), most: power(450), most_sum: power(1000) };
    type Factor = Halves<f64x2>;

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }

    #[inline(always)]
    fn of_f64(x: f64) -> f64 {
        x
    }

    #[inline(always)]
    fn fused(a: f64, b: f64, c: f64) -> f64 {
        let tame = |x: f64| x == 0.0 || (f64::TAME.least..=f64::TAME.most).contains(&x.abs());
        if !(tame(a) && tame(b) && c.abs() <= f64::TAME.most_sum) {
            return libm::fma(a, b, c);
        }
        // Boldo and Melquiond 2008, Emulation of FMA and correctly rounded sums: proved algorithms using rounding to
        // odd.
        let (x, y) = (halves(a, SPLIT), halves(b, SPLIT));
        let product = a * b;
        let low = ((x.high * y.high - product) + x.high * y.low + x.low * y.high) + x.low * y.low;
        let (sum, rest) = two_sum(c, low);
        let (high, middle) = two_sum(product, sum);
        if high == 0.0 && middle == 0.0 && rest == 0.0 {
            // Of zeros, and where all cancels, the sign is that of the plain sum.
            return product + c;
        }
        high + sum_to_odd(rest, middle)
    }

    #[inline(always)]
    fn factor(x: f64x2) -> Halves<f64x2> {
        halves(x, f64x2::splat(SPLIT))
    }

    #[inline(always)]
    fn bound(a: f64, b: f64x2, c: f64x2) -> f64x2 {
        // Of the products of halves two are exact. That of the whole and a low half is off by 2⁻⁷⁹ of the product, the
        // sum of the two small ones by 2⁻⁷⁸. What is added to that is 2⁻⁵³ of the sum, and so is off by 2⁻¹⁰⁶ of it. A
        // sum grows by less than twice the product in a step. All that, twice, and the rounding of the bound itself:
        let product = f64x2::splat(a) * b;
        product * f64x2::splat(power(-75)) + c * f64x2::splat(power(-103))
    }

    #[inline(always)]
    fn short(a: Halves<f64x2>, b: Halves<f64x2>, c: f64x2, bound: f64x2, doubt: &mut u64x2) -> f64x2 {
        let product = a.high * b.high;
        let (sum, rest) = two_sum(c, product);
        let rest = rest + (a.whole * b.low + a.low * b.high);
        // Whatever is between the two rounds to the same number.
        let (up, down) = (sum + (rest + bound), sum + (rest - bound));
        *doubt |= bits(up) ^ bits(down);
        up
    }

    #[inline(always)]
    fn in_doubt(doubt: u64x2) -> bool {
        doubt.to_array() != [0; 2]
    }
}

/// A number and the two of half its digits that it is the sum of.
#[derive(Clone, Copy)]
pub(super) struct Halves<V> {
    whole: V,
    high: V,
    low: V,
}

/// 2²⁷ + 1.
const SPLIT: f64 = 134_217_729.0;

/// Returns a number's halves (Veltkamp).
#[inline(always)]
fn halves<V: Copy + core::ops::Mul<Output = V> + core::ops::Sub<Output = V>>(
    whole: V,
    split: V,
) -> Halves<V> {
    let scaled = whole * split;
    let high = scaled - (scaled - whole);
    Halves { whole, high, low: whole - high }
}

/// Returns a sum and what its rounding took away (Knuth).
#[inline(always)]
fn two_sum<V: Copy + core::ops::Add<Output = V> + core::ops::Sub<Output = V>>(a: V, b: V) -> (V, V) {
    let sum = a + b;
    let of_b = sum - a;
    (sum, (a - (sum - of_b)) + (b - of_b))
}

/// Returns a sum: where it is not exact, that of its two neighbours whose last bit is 1.
#[inline(always)]
fn sum_to_odd(a: f64, b: f64) -> f64 {
    let (sum, rest) = two_sum(a, b);
    // Of what is not finite the rest is none that compares.
    let inexact = (rest < 0.0) | (rest > 0.0);
    if !inexact || sum.to_bits() & 1 == 1 {
        return sum;
    }
    let grows = (rest < 0.0) == (sum < 0.0);
    f64::from_bits(if grows { sum.to_bits() + 1 } else { sum.to_bits() - 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bits with any exponent, and digits that are random, few, or many: the last two make for sums half-way between.
    fn wild(digits: u32, width: u32) -> impl Strategy<Value = u64> {
        let special = prop::sample::select(vec![0u64, 1, (1 << digits) - 1]);
        let few = (0..digits, 0..digits).prop_map(|(i, j)| 1u64 << i | 1 << j);
        let many = (0..digits).prop_map(move |i| ((1u64 << digits) - 1) & !(1 << i));
        let mantissa = prop_oneof![any::<u64>(), special, few, many];
        let exponents = 1u64 << (width - digits - 1);
        let exponent = prop_oneof![
            6 => 0..exponents,
            1 => prop::sample::select(vec![0, 1, exponents / 2, exponents - 2, exponents - 1]),
        ];
        (any::<bool>(), exponent, mantissa).prop_map(move |(negative, exponent, mantissa)| {
            u64::from(negative) << (width - 1) | exponent << digits | mantissa & ((1 << digits) - 1)
        })
    }

    /// Returns bits of a number with the exponent of another one, but for a few.
    fn beside(bits: u64, near: u64, away: i64, digits: u32, width: u32) -> u64 {
        let field = ((1u64 << (width - digits - 1)) - 1) << digits;
        let exponent = ((near & field) >> digits) as i64 + away;
        bits & !field | (exponent.clamp(0, (field >> digits) as i64) as u64) << digits
    }

    fn same(a: f64, b: f64) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    /// Compares the short way with what is right, where it takes the numbers, and returns whether it does and is sure.
    fn short_is_sure<T: Emulated>([a, b, c]: [f64; 3], right: f64) -> Result<bool, TestCaseError> {
        let tame = |x: f64| x == 0.0 || (T::TAME.least..=T::TAME.most).contains(&x.abs());
        if !(tame(a) && tame(b) && c.abs() <= T::TAME.most_sum && !(c == 0.0 && c.is_sign_negative())) {
            return Ok(false);
        }
        let [x, y, z] = [a, b, c].map(f64x2::splat);
        let mut doubt = u64x2::splat(0);
        let bound = T::bound(a.abs(), y.abs(), z.abs());
        let got = T::short(T::factor(x), T::factor(y), z, bound, &mut doubt).to_array()[0];
        let sure = !T::in_doubt(doubt);
        prop_assert!(!sure || same(got, right), "{a:e} {b:e} {c:e}: short {got:e}, right {right:e}");
        Ok(sure)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn singles_are_fused_as_hardware_does(
            a in wild(23, 32), b in wild(23, 32), c in wild(23, 32), near in any::<bool>(), away in -50i64..50,
        ) {
            let number = |bits: u64| f32::from_bits(bits as u32);
            let product = u64::from((number(a) * number(b)).to_bits());
            let c = if near { beside(c, product, away, 23, 32) } else { c };
            let (a, b, c) = (number(a), number(b), number(c));
            let right = f64::from(a.mul_add(b, c));
            let [a, b, c] = [a, b, c].map(f64::from);
            prop_assert!(same(f32::fused(a, b, c), right), "{a:e} {b:e} {c:e}");
            short_is_sure::<f32>([a, b, c], right)?;
        }

        #[test]
        fn doubles_are_fused_as_hardware_does(
            a in wild(52, 64), b in wild(52, 64), c in wild(52, 64), near in any::<bool>(), away in -110i64..110,
            middle in any::<bool>(),
        ) {
            // Exponents that the short way takes, or any.
            let one = 1.0f64.to_bits();
            let (a, b) = if middle { (beside(a, one, away, 52, 64), beside(b, one, -away / 2, 52, 64)) } else { (a, b) };
            let (a, b) = (f64::from_bits(a), f64::from_bits(b));
            let c = f64::from_bits(if near { beside(c, (a * b).to_bits(), away, 52, 64) } else { c });
            let right = a.mul_add(b, c);
            prop_assert!(same(right, libm::fma(a, b, c)), "the libraries do not agree: {a:e} {b:e} {c:e}");
            prop_assert!(same(f64::fused(a, b, c), right), "{a:e} {b:e} {c:e}: {:e} {right:e}", f64::fused(a, b, c));
            short_is_sure::<f64>([a, b, c], right)?;
        }
    }

    /// The short way is the usual one: of random numbers it is in doubt about fewer than one in a thousand.
    #[test]
    fn the_short_way_is_seldom_in_doubt() {
        let mut x = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        let mut doubts = [0; 2];
        for _ in 0..20_000 {
            let [a, b, c] = [next(), next(), 4.0 * next()];
            doubts[0] += usize::from(!short_is_sure::<f64>([a, b, c], a.mul_add(b, c)).unwrap());
            let [a, b, c] = [a, b, c].map(|x| x as f32);
            let right = f64::from(a.mul_add(b, c));
            doubts[1] += usize::from(!short_is_sure::<f32>([a, b, c].map(f64::from), right).unwrap());
        }
        assert!(doubts.into_iter().all(|doubts| doubts < 20), "{doubts:?}");
    }
}
