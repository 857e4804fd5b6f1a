//! Stochastic rounding to bfloat16: up or down at random, unbiased.
//!
//! The random bits come from a counter-based generator: Philox2x32 with 7 rounds (Salmon et al. 2011, Parallel Random
//! Numbers: As Easy as 1, 2, 3). The 16 bits of an element are a function of a 64-bit key and the element's index in
//! its tensor. So they depend neither on threads nor on the device.

/// Philox's multiplier.
pub const MULTIPLIER: u64 = 0xd256_d193;
/// What its key grows by from round to round.
pub const WEYL: u32 = 0x9e37_79b9;
/// How many rounds there are.
pub const ROUNDS: u32 = 7;

/// Computes one block of Philox2x32-7.
#[inline(always)]
pub fn philox(counter: [u32; 2], key: u32) -> [u32; 2] {
    let ([mut left, mut right], mut key) = (counter, key);
    let mut round = 0;
    while round < ROUNDS {
        let product = MULTIPLIER * left as u64;
        left = (product >> 32) as u32 ^ key ^ right;
        right = product as u32;
        key = key.wrapping_add(WEYL);
        round += 1;
    }
    [left, right]
}

/// Returns the random numbers of four elements, of which the first is `4 · quarter`: 16 bits for each, the lower ones
/// first.
#[inline(always)]
pub fn random_of_four(key: u64, quarter: u64) -> [u32; 2] {
    philox([quarter as u32, (key >> 32) as u32 ^ (quarter >> 32) as u32], key as u32)
}

/// Returns the 16 random bits of an element.
#[inline(always)]
pub fn random(key: u64, element: u64) -> u16 {
    let word = random_of_four(key, element / 4)[(element / 2 % 2) as usize];
    (word >> (16 * (element % 2))) as u16
}

/// Returns the bfloat16 below or above `x`, the nearer the likelier: `random` is added to the bits that are cut off.
/// NaN and infinity stay what they are.
#[inline(always)]
pub fn bf16_from_f32(x: f32, random: u16) -> u16 {
    let bits = x.to_bits();
    let up = bits.wrapping_add(u32::from(random));
    let quiet = bits | 0x0040_0000;
    ((if x.is_nan() { quiet } else { up }) >> 16) as u16
}

/// Whose random bits the elements of a view take: those of a tensor's elements from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The tensor's key.
    pub key: u64,
    /// The place of the view's first element in the tensor.
    pub first: u64,
}

impl Counted {
    /// Returns the same where `first` is a multiple of four, elements that share a block of the generator. Otherwise the
    /// elements are counted from 0, under a key of their own.
    #[inline]
    pub fn aligned(self) -> Counted {
        match self.first % 4 {
            0 => self,
            _ => Counted { key: mix(self.key ^ mix(self.first)), first: 0 },
        }
    }
}

/// Returns a key from a seed, a name, a step count, and which of the step's numbers it is for.
pub fn key(seed: u64, name: &str, step: u64, stream: u64) -> u64 {
    // FNV-1a over the name, then a round of SplitMix64 for each number.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    [seed, step, stream].into_iter().fold(hash, |hash, number| mix(hash ^ mix(number)))
}

const fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::f32_from_bf16;

    /// The reference implementation's known answers are for 10 rounds: the same function with ten.
    #[test]
    fn philox_is_the_published_function() {
        let ten = |counter: [u32; 2], key: u32| {
            let more = philox(counter, key);
            let ([mut left, mut right], mut key) = (more, key.wrapping_add(0x9e37_79b9u32.wrapping_mul(7)));
            for _ in 0..3 {
                let product = 0xd256_d193u64 * u64::from(left);
                (left, right) = ((product >> 32) as u32 ^ key ^ right, product as u32);
                key = key.wrapping_add(0x9e37_79b9);
            }
            [left, right]
        };
        assert_eq!(ten([0, 0], 0), [0xff1d_ae59, 0x6cd1_0df2]);
        assert_eq!(ten([u32::MAX; 2], u32::MAX), [0x2c3f_628b, 0xab4f_d7ad]);
        assert_eq!(ten([0x243f_6a88, 0x85a3_08d3], 0x1319_8a2e), [0xdd7c_e038, 0xf62a_4c12]);
    }

    #[test]
    fn neighbours_only_and_unbiased() {
        let count = 1 << 16;
        for x in [1.003f32, -1.003, 3.3e-38, 2.7e30, -1e-40, 0.0, 1.0] {
            let exact = f64::from(x);
            let mut sum = 0.0;
            let down = f32_from_bf16((x.to_bits() >> 16) as u16);
            let up = f32_from_bf16((x.to_bits() >> 16) as u16 + 1);
            for i in 0..count {
                let rounded = f32_from_bf16(bf16_from_f32(x, random(7, i)));
                assert!(rounded == down || rounded == up && x != down, "{x:e}: {rounded:e}");
                sum += f64::from(rounded);
            }
            // The mean of n independent numbers of deviation at most half a gap: six deviations of it.
            let bound = 6.0 * 0.5 * (f64::from(up) - f64::from(down)).abs() / (count as f64).sqrt();
            assert!((sum / count as f64 - exact).abs() <= bound, "{x:e}: {}", sum / count as f64);
        }
    }

    #[test]
    fn parts_of_a_tensor_take_its_bits_or_their_own() {
        let part = |first| Counted { key: 9, first }.aligned();
        assert_eq!((part(0), part(8)), (Counted { key: 9, first: 0 }, Counted { key: 9, first: 8 }));
        let keys: Vec<u64> = [1, 2, 3, 5].map(|first| part(first).key).into();
        assert!((0..4).all(|i| keys[i] != 9 && (0..i).all(|j| keys[i] != keys[j])));
        assert!([1, 2, 3, 5].iter().all(|&first| part(first).first == 0));
    }

    #[test]
    fn nan_and_infinity_are_kept_and_keys_differ() {
        for random in [0, 1, 0x8000, u16::MAX] {
            assert!(f32_from_bf16(bf16_from_f32(f32::NAN, random)).is_nan());
            assert!(f32_from_bf16(bf16_from_f32(f32::from_bits(0x7f80_0001), random)).is_nan());
            assert_eq!(f32_from_bf16(bf16_from_f32(f32::NEG_INFINITY, random)), f32::NEG_INFINITY);
        }
        let keys =
            [key(0, "a", 1, 0), key(1, "a", 1, 0), key(0, "b", 1, 0), key(0, "a", 2, 0), key(0, "a", 1, 1)];
        assert!((0..5).all(|i| (0..i).all(|j| keys[i] != keys[j])));
    }
}
