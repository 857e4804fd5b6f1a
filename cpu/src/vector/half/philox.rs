//! The random bits of stochastic rounding, Philox 2x32, for a pair of vectors at a time.

use fallline_core::codec::stochastic::{MULTIPLIER, ROUNDS, WEYL};

/// The keys of the generator's rounds: the first with the upper half of the key, which that round takes too.
#[derive(Clone, Copy)]
pub(crate) struct PhiloxKeys([i32; ROUNDS as usize]);

impl PhiloxKeys {
    pub(crate) const NONE: PhiloxKeys = PhiloxKeys([0; ROUNDS as usize]);

    /// Returns those of a key.
    pub(crate) fn new(key: u64) -> PhiloxKeys {
        let mut keys =
            core::array::from_fn(|round| (key as u32).wrapping_add(WEYL.wrapping_mul(round as u32)) as i32);
        keys[0] ^= (key >> 32) as i32;
        PhiloxKeys(keys)
    }
}

/// A vector of 64-bit words, as far as the generator needs it: a counter each, that of four elements.
pub(crate) trait PhiloxWords: Copy {
    /// How many there are: a pair's.
    const COUNTERS: usize;

    /// Returns the words from `first` on.
    ///
    /// # Safety
    /// Of this and all others: the CPU has the instruction set.
    unsafe fn from(first: u64) -> Self;

    /// Adds a word.
    ///
    /// # Safety
    /// As above.
    unsafe fn add(self, other: u64) -> Self;

    /// Multiplies the lower halves.
    ///
    /// # Safety
    /// As above.
    unsafe fn mul(self, other: u32) -> Self;

    /// Returns the upper halves.
    ///
    /// # Safety
    /// As above.
    unsafe fn high(self) -> Self;

    /// Returns the exclusive or.
    ///
    /// # Safety
    /// As above.
    unsafe fn xor(self, other: Self) -> Self;

    /// Returns the exclusive or with half a word, in the lower halves.
    ///
    /// # Safety
    /// As above.
    unsafe fn xor_word(self, word: i32) -> Self;

    /// Returns the exclusive or of all three.
    ///
    /// # Safety
    /// As above.
    unsafe fn xor3(self, other: Self, word: i32) -> Self;

    /// Returns the lower halves of `self`, and those of `upper` above them.
    ///
    /// # Safety
    /// As above.
    unsafe fn interleave(self, upper: Self) -> Self;
}

/// The counters of a pair's elements, and the part of the first round that does not depend on the key. That is the
/// product, and its upper half with that of the counter.
#[derive(Clone, Copy)]
pub(crate) struct PhiloxCounter<B> {
    counters: B,
    product: B,
    mixed: B,
}

impl<B: PhiloxWords> PhiloxCounter<B> {
    /// Counts the elements of a pair, the first of which is `first`, a multiple of four.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    #[inline(always)]
    pub(crate) unsafe fn new(first: u64) -> PhiloxCounter<B> {
        // SAFETY: the caller's contract.
        unsafe { PhiloxCounter::from_counters(B::from(first / 4)) }
    }

    /// Counts those of the next pair.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    #[inline(always)]
    pub(crate) unsafe fn next(&self) -> PhiloxCounter<B> {
        // SAFETY: the caller's contract.
        unsafe { PhiloxCounter::from_counters(self.counters.add(B::COUNTERS as u64)) }
    }

    #[inline(always)]
    unsafe fn from_counters(counters: B) -> PhiloxCounter<B> {
        // SAFETY: the caller's contract.
        unsafe {
            let product = counters.mul(MULTIPLIER as u32);
            PhiloxCounter { counters, product, mixed: product.high().xor(counters.high()) }
        }
    }
}

/// The random bits of a pair on their way through the rounds. Of what is above the lower halves, nothing takes notice.
#[derive(Clone, Copy)]
pub(crate) struct PhiloxState<B> {
    left: B,
    right: B,
}

impl<B: PhiloxWords> PhiloxState<B> {
    /// Returns a state that nobody uses.
    #[inline(always)]
    pub(crate) fn unused(counter: &PhiloxCounter<B>) -> PhiloxState<B> {
        PhiloxState { left: counter.mixed, right: counter.product }
    }

    /// Returns the state after the first round.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    #[inline(always)]
    pub(crate) unsafe fn first_round(keys: &PhiloxKeys, counter: &PhiloxCounter<B>) -> PhiloxState<B> {
        // SAFETY: the caller's contract.
        unsafe { PhiloxState { left: counter.mixed.xor_word(keys.0[0]), right: counter.product } }
    }

    /// Runs the rounds from `FROM` to before `TO`.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    #[inline(always)]
    pub(crate) unsafe fn rounds<const FROM: usize, const TO: usize>(
        self,
        keys: &PhiloxKeys,
    ) -> PhiloxState<B> {
        let PhiloxState { mut left, mut right } = self;
        for round in FROM..TO {
            // SAFETY: the caller's contract.
            unsafe {
                let product = left.mul(MULTIPLIER as u32);
                left = product.high().xor3(right, keys.0[round]);
                right = product;
            }
        }
        PhiloxState { left, right }
    }

    /// Returns the random bits, after all rounds.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    #[inline(always)]
    pub(crate) unsafe fn random_bits(self) -> B {
        // SAFETY: the caller's contract.
        unsafe { self.left.interleave(self.right) }
    }
}
