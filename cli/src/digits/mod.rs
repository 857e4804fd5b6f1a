//! The job that `fallline train` does: a small network on the bundled handwritten digits.
//!
//! Every random choice here (the split, the order of an epoch, the first weights) comes from [`SplitMix64`]. So it
//! is the same on every machine and with every version of every library. It depends only on numbers that a
//! checkpoint holds anyway: a resumed run needs no generator state.

pub mod data;
pub mod network;

/// A counter-based generator: its n-th number is a fixed mix of `seed + n · 0x9e3779b97f4a7c15`.
///
/// This is SplitMix64 (G. Steele, D. Lea, C. Flood, 'Fast splittable pseudorandom number generators',
/// OOPSLA 2014), with the constants of S. Vigna's `splitmix64.c`.
#[derive(Clone, Debug)]
pub struct SplitMix64 {
    /// The seed plus the increment times the numbers drawn so far.
    counter: u64,
}

impl SplitMix64 {
    /// What the counter grows by: 2^64 over the golden ratio, made odd.
    const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;

    /// Returns the generator whose first number is the mix of `seed` plus one increment.
    pub fn new(seed: u64) -> Self {
        SplitMix64 { counter: seed }
    }

    /// Returns the generator of one of many independent sequences under one seed: of an epoch, of a parameter.
    ///
    /// `stream` is told apart from its neighbours by a mix, so that the sequences start far from one another.
    pub fn stream(seed: u64, stream: u64) -> Self {
        SplitMix64 { counter: Self::mix(Self::mix(seed).wrapping_add(stream)) }
    }

    /// Returns the next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(Self::INCREMENT);
        Self::mix(self.counter)
    }

    /// Returns an integer from 0 up to, not including, `bound`, each as likely as the others; 0 for a bound of 0.
    ///
    /// The high half of a 128-bit product (D. Lemire, 'Fast random integer generation in an interval',
    /// 2019), drawn again in the few cases that would favour some numbers.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        let favoured = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.draw()) * u128::from(bound);
            if product as u64 >= favoured {
                return (product >> 64) as u64;
            }
        }
    }

    /// Returns a number between -1 and 1, neither included: one of the 2^24 odd multiples of 2^-24, all exact in f32.
    pub fn symmetric(&mut self) -> f32 {
        let odd = (self.draw() >> 40) as i32 * 2 + 1 - (1 << 24);
        odd as f32 / (1 << 24) as f32
    }

    /// Returns the numbers 0 up to, not including, `length` in an order drawn from all of them (Fisher and Yates).
    pub fn permutation(&mut self, length: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..length).collect();
        for last in (1..order.len()).rev() {
            let other = self.below(last as u64 + 1) as usize;
            order.swap(last, other);
        }
        order
    }

    /// Returns the finaliser: a one-to-one map of 64 bits in which every input bit reaches every output bit.
    fn mix(bits: u64) -> u64 {
        let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published numbers of `splitmix64.c` for the seeds 0 and 1234567.
    #[test]
    fn the_generator_is_the_published_one() {
        let mut zero = SplitMix64::new(0);
        assert_eq!(zero.draw(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(zero.draw(), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(zero.draw(), 0x06c4_5d18_8009_454f);
        let mut other = SplitMix64::new(1_234_567);
        assert_eq!(other.draw(), 6_457_827_717_110_365_317);
        assert_eq!(other.draw(), 3_203_168_211_198_807_973);
    }

    /// 60,000 draws below 6: each face within 5 standard deviations (456) of 10,000.
    #[test]
    fn bounded_draws_are_even() {
        let mut generator = SplitMix64::new(7);
        let mut counts = [0_i32; 6];
        for _ in 0..60_000 {
            counts[generator.below(6) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (count - 10_000).abs() < 456), "{counts:?}");
        assert_eq!(generator.below(0), 0);
        assert_eq!(generator.below(1), 0);
        assert!((0..1000).all(|_| generator.below(u64::MAX) < u64::MAX));
    }

    /// The numbers stay inside the interval and their mean is near 0 (5 standard deviations: 0.029).
    #[test]
    fn symmetric_draws_are_symmetric() {
        let mut generator = SplitMix64::new(3);
        let draws: Vec<f32> = (0..10_000).map(|_| generator.symmetric()).collect();
        assert!(draws.iter().all(|draw| draw.abs() < 1.0 && *draw != 0.0));
        assert!((draws.iter().sum::<f32>() / 10_000.0).abs() < 0.029);
    }

    /// Every number is there once, for lengths down to none.
    #[test]
    fn permutations_hold_every_number_once() {
        for length in [0, 1, 2, 3, 360, 1797] {
            let mut order = SplitMix64::new(11).permutation(length);
            order.sort_unstable();
            assert!(order.into_iter().eq(0..length));
        }
    }
}
