//! Two registers of singles at a time, which are one register where elements are stored in 16 bits.

use super::{Register, Ymm32, Zmm32};
use core::arch::x86_64::*;
use fallline_core::Literal;
use fallline_core::codec::stochastic::{MULTIPLIER, ROUNDS, WEYL};

/// The keys of the rounds of a draw: the first with the upper half of the key, which that round takes too.
#[derive(Clone, Copy)]
pub(crate) struct Rounds([i32; ROUNDS as usize]);

impl Rounds {
    pub(crate) const NONE: Rounds = Rounds([0; ROUNDS as usize]);

    /// Those of a key.
    pub(crate) fn new(key: u64) -> Rounds {
        let mut rounds =
            core::array::from_fn(|round| (key as u32).wrapping_add(WEYL.wrapping_mul(round as u32)) as i32);
        rounds[0] ^= (key >> 32) as i32;
        Rounds(rounds)
    }
}

/// Registers that come in pairs. The order of a pair's elements is the same wherever they come from, and is not that
/// in memory: good for what goes element by element, not for sums.
pub(crate) trait Pair: Register<Number = f32>
where
    f64: Literal<Self>,
{
    /// The bits of a register.
    type Bits: Bits;

    /// Elements of a pair.
    const PAIR: usize = 2 * Self::LANES;

    /// Reads a pair.
    ///
    /// # Safety
    /// Of this and all others: the memory holds a pair, and the CPU has the instruction set.
    unsafe fn load_pair(from: *const f32) -> [Self; 2];

    /// Writes a pair.
    ///
    /// # Safety
    /// As above.
    unsafe fn store_pair(pair: [Self; 2], to: *mut f32);

    /// Reads a pair that is stored as bfloat16.
    ///
    /// # Safety
    /// As above.
    unsafe fn widen_pair(from: *const u16) -> [Self; 2];

    /// Rounds a pair to the nearest bfloat16.
    ///
    /// # Safety
    /// As above.
    unsafe fn narrow_pair(pair: [Self; 2], to: *mut u16);

    /// Rounds a pair to bfloat16 by the chances of its elements.
    ///
    /// # Safety
    /// As above.
    unsafe fn narrow_pair_by(pair: [Self; 2], chances: Self::Bits, to: *mut u16);

    /// The same of a pair without NaN.
    ///
    /// # Safety
    /// As above.
    unsafe fn cut_pair_by(pair: [Self; 2], chances: Self::Bits, to: *mut u16);

    /// Where there is NaN.
    type Nan: Copy;

    /// Nowhere.
    ///
    /// # Safety
    /// As above.
    unsafe fn no_nan() -> Self::Nan;

    /// Where there was NaN or is some in the pair.
    ///
    /// # Safety
    /// As above.
    unsafe fn nan_in(nan: Self::Nan, pair: [Self; 2]) -> Self::Nan;

    /// Whether there is NaN anywhere.
    ///
    /// # Safety
    /// As above.
    unsafe fn is_nan(nan: Self::Nan) -> bool;
}

/// The bits of a register, as far as the generator needs them.
pub(crate) trait Bits: Copy {
    /// How many fours of elements a pair has.
    const FOURS: usize;

    /// Double words from `first` on.
    ///
    /// # Safety
    /// Of this and all others: the CPU has the instruction set.
    unsafe fn from(first: u64) -> Self;

    /// Sums of double words.
    ///
    /// # Safety
    /// As above.
    unsafe fn plus(self, other: u64) -> Self;

    /// Products of the lower halves of double words.
    ///
    /// # Safety
    /// As above.
    unsafe fn times(self, other: u32) -> Self;

    /// The upper halves of double words.
    ///
    /// # Safety
    /// As above.
    unsafe fn upper(self) -> Self;

    /// Exclusive or.
    ///
    /// # Safety
    /// As above.
    unsafe fn xor(self, other: Self) -> Self;

    /// The same with a word.
    ///
    /// # Safety
    /// As above.
    unsafe fn xor_word(self, word: i32) -> Self;

    /// The same of all three.
    ///
    /// # Safety
    /// As above.
    unsafe fn xor_both(self, other: Self, word: i32) -> Self;

    /// The lower halves of `self`, and those of `upper` above them.
    ///
    /// # Safety
    /// As above.
    unsafe fn below(self, upper: Self) -> Self;
}

/// The counters of a pair's elements, and what the first round makes of them whatever the key is: the product, and its
/// upper half with that of the counter.
#[derive(Clone, Copy)]
pub(crate) struct Counted<B> {
    counters: B,
    product: B,
    mixed: B,
}

impl<B: Bits> Counted<B> {
    /// Counts the elements of a pair, the first of which is `first`, a multiple of four.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    #[inline(always)]
    pub(crate) unsafe fn new(first: u64) -> Counted<B> {
        // SAFETY: the caller's contract.
        unsafe { Counted::of(B::from(first / 4)) }
    }

    /// Counts those of the next pair.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    #[inline(always)]
    pub(crate) unsafe fn next(&self) -> Counted<B> {
        // SAFETY: the caller's contract.
        unsafe { Counted::of(self.counters.plus(B::FOURS as u64)) }
    }

    #[inline(always)]
    unsafe fn of(counters: B) -> Counted<B> {
        // SAFETY: the caller's contract.
        unsafe {
            let product = counters.times(MULTIPLIER as u32);
            Counted { counters, product, mixed: product.upper().xor(counters.upper()) }
        }
    }
}

/// The chances of a pair on their way through the rounds. Of what is above the lower halves, nothing takes notice.
#[derive(Clone, Copy)]
pub(crate) struct Drawn<B> {
    left: B,
    right: B,
}

impl<B: Bits> Drawn<B> {
    /// What is no chance yet.
    #[inline(always)]
    pub(crate) fn none(counted: &Counted<B>) -> Drawn<B> {
        Drawn { left: counted.mixed, right: counted.product }
    }

    /// Behind the first round.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    #[inline(always)]
    pub(crate) unsafe fn begin(rounds: &Rounds, counted: &Counted<B>) -> Drawn<B> {
        // SAFETY: the caller's contract.
        unsafe { Drawn { left: counted.mixed.xor_word(rounds.0[0]), right: counted.product } }
    }

    /// Through the rounds from `FROM` to before `TO`.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    #[inline(always)]
    pub(crate) unsafe fn go_on<const FROM: usize, const TO: usize>(self, rounds: &Rounds) -> Drawn<B> {
        let Drawn { mut left, mut right } = self;
        for round in FROM..TO {
            // SAFETY: the caller's contract.
            unsafe {
                let product = left.times(MULTIPLIER as u32);
                left = product.upper().xor_both(right, rounds.0[round]);
                right = product;
            }
        }
        Drawn { left, right }
    }

    /// The chances, behind all rounds.
    ///
    /// # Safety
    /// The CPU has the instruction set.
    #[inline(always)]
    pub(crate) unsafe fn end(self) -> B {
        // SAFETY: the caller's contract.
        unsafe { self.left.below(self.right) }
    }
}

/// The quiet bit of a NaN.
const QUIET: i32 = 0x0040_0000;

/// Where the upper words of an unpacked pair come from, in the order of memory.
#[repr(align(64))]
struct Words([u16; 32]);
static UPPERS: Words = Words({
    let mut words = [0; 32];
    let mut i = 0;
    while i < 32 {
        // Of eight neighbours four are in one register and four in the other.
        let (eight, four, at) = (i / 8, i % 8 / 4, i % 4);
        words[i] = (32 * four + 8 * eight + 2 * at + 1) as u16;
        i += 1;
    }
    words
});

/// The same of whole numbers: to an unpacked pair, and back.
#[repr(align(64))]
struct Places([[i32; 16]; 2]);
static UNPACKED: Places = Places({
    let mut places = [[0; 16]; 2];
    let mut i = 0;
    while i < 16 {
        places[0][i] = (8 * (i / 4) + i % 4) as i32;
        places[1][i] = places[0][i] + 4;
        i += 1;
    }
    places
});
static PACKED: Places = Places({
    let mut places = [[0; 16]; 2];
    let mut i = 0;
    while i < 16 {
        places[0][i] = (16 * (i % 8 / 4) + 4 * (i / 8) + i % 4) as i32;
        places[1][i] = places[0][i] + 8;
        i += 1;
    }
    places
});

/// A pair in another order.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn cross512(x: __m512, y: __m512, places: &Places) -> [__m512; 2] {
    // SAFETY: the caller's contract.
    unsafe {
        let [a, b] = &places.0;
        let (a, b) = (_mm512_load_si512(a.as_ptr().cast()), _mm512_load_si512(b.as_ptr().cast()));
        [_mm512_permutex2var_ps(x, a, y), _mm512_permutex2var_ps(x, b, y)]
    }
}

/// The upper halves of a pair with something added; where a number is NaN, that number made quiet.
///
/// # Safety
/// As [`Pair`].
#[inline(always)]
unsafe fn narrow512(pair: [Zmm32; 2], added: [__m512i; 2], to: *mut u16) {
    // SAFETY: the caller's contract.
    unsafe {
        let [Zmm32(x), Zmm32(y)] = pair;
        let (a, b) = (_mm512_castps_si512(x), _mm512_castps_si512(y));
        let (mut up, mut up2) = (_mm512_add_epi32(a, added[0]), _mm512_add_epi32(b, added[1]));
        if _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, y) != 0 {
            let quiet = _mm512_set1_epi32(QUIET);
            up = _mm512_mask_or_epi32(up, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x), a, quiet);
            up2 = _mm512_mask_or_epi32(up2, _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(y, y), b, quiet);
        }
        _mm512_storeu_si512(
            to.cast(),
            _mm512_permutex2var_epi16(up, _mm512_load_si512(UPPERS.0.as_ptr().cast()), up2),
        );
    }
}

/// What is added to numbers so that cutting them off rounds to the nearest, or the even one.
///
/// # Safety
/// The CPU has AVX-512.
#[inline(always)]
unsafe fn to_even512(x: __m512) -> __m512i {
    // SAFETY: the caller's contract.
    unsafe {
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(_mm512_castps_si512(x)), _mm512_set1_epi32(1));
        _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))
    }
}

impl Pair for Zmm32 {
    type Bits = __m512i;

    #[inline(always)]
    unsafe fn load_pair(from: *const f32) -> [Self; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let [x, y] = cross512(_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)), &UNPACKED);
            [Zmm32(x), Zmm32(y)]
        }
    }

    #[inline(always)]
    unsafe fn store_pair(pair: [Self; 2], to: *mut f32) {
        // SAFETY: the caller's contract.
        unsafe {
            let [x, y] = cross512(pair[0].0, pair[1].0, &PACKED);
            _mm512_storeu_ps(to, x);
            _mm512_storeu_ps(to.add(16), y);
        }
    }

    #[inline(always)]
    unsafe fn widen_pair(from: *const u16) -> [Self; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let (zero, x) = (_mm512_setzero_si512(), _mm512_loadu_si512(from.cast()));
            let (a, b) = (_mm512_unpacklo_epi16(zero, x), _mm512_unpackhi_epi16(zero, x));
            [Zmm32(_mm512_castsi512_ps(a)), Zmm32(_mm512_castsi512_ps(b))]
        }
    }

    #[inline(always)]
    unsafe fn narrow_pair(pair: [Self; 2], to: *mut u16) {
        // SAFETY: the caller's contract.
        unsafe {
            narrow512(pair, [to_even512(pair[0].0), to_even512(pair[1].0)], to);
        }
    }

    type Nan = __mmask16;

    #[inline(always)]
    unsafe fn no_nan() -> Self::Nan {
        0
    }

    #[inline(always)]
    unsafe fn nan_in(nan: Self::Nan, pair: [Self; 2]) -> Self::Nan {
        // SAFETY: the caller's contract.
        unsafe { nan | _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(pair[0].0, pair[1].0) }
    }

    #[inline(always)]
    unsafe fn is_nan(nan: Self::Nan) -> bool {
        nan != 0
    }

    #[inline(always)]
    unsafe fn cut_pair_by(pair: [Self; 2], chances: __m512i, to: *mut u16) {
        // SAFETY: the caller's contract.
        unsafe {
            let zero = _mm512_setzero_si512();
            let up = _mm512_add_epi32(_mm512_castps_si512(pair[0].0), _mm512_unpacklo_epi16(chances, zero));
            let up2 = _mm512_add_epi32(_mm512_castps_si512(pair[1].0), _mm512_unpackhi_epi16(chances, zero));
            _mm512_storeu_si512(
                to.cast(),
                _mm512_permutex2var_epi16(up, _mm512_load_si512(UPPERS.0.as_ptr().cast()), up2),
            );
        }
    }

    #[inline(always)]
    unsafe fn narrow_pair_by(pair: [Self; 2], chances: __m512i, to: *mut u16) {
        // SAFETY: the caller's contract.
        unsafe {
            let zero = _mm512_setzero_si512();
            let added = [_mm512_unpacklo_epi16(chances, zero), _mm512_unpackhi_epi16(chances, zero)];
            narrow512(pair, added, to);
        }
    }
}

impl Bits for __m512i {
    const FOURS: usize = 8;

    #[inline(always)]
    unsafe fn from(first: u64) -> Self {
        // SAFETY: the caller's contract.
        unsafe {
            _mm512_add_epi64(_mm512_set1_epi64(first as i64), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7))
        }
    }

    #[inline(always)]
    unsafe fn plus(self, other: u64) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm512_add_epi64(self, _mm512_set1_epi64(other as i64)) }
    }

    #[inline(always)]
    unsafe fn times(self, other: u32) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm512_mul_epu32(self, _mm512_set1_epi64(i64::from(other))) }
    }

    #[inline(always)]
    unsafe fn upper(self) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm512_srli_epi64::<32>(self) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm512_xor_si512(self, other) }
    }

    #[inline(always)]
    unsafe fn xor_word(self, word: i32) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm512_xor_si512(self, _mm512_set1_epi32(word)) }
    }

    #[inline(always)]
    unsafe fn xor_both(self, other: Self, word: i32) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm512_ternarylogic_epi32::<0x96>(self, other, _mm512_set1_epi32(word)) }
    }

    #[inline(always)]
    unsafe fn below(self, upper: Self) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm512_mask_shuffle_epi32::<0b10_10_00_00>(self, 0xaaaa, upper) }
    }
}

/// Where the halves of two registers go when their pairs are unpacked, and back.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn cross([x, y]: [__m256; 2]) -> [__m256; 2] {
    // SAFETY: the caller's contract.
    unsafe { [_mm256_permute2f128_ps::<0x20>(x, y), _mm256_permute2f128_ps::<0x31>(x, y)] }
}

/// The upper halves of a pair with something added; where a number is NaN, that number made quiet.
///
/// # Safety
/// As [`Pair`].
#[inline(always)]
unsafe fn narrow256(pair: [Ymm32; 2], added: [__m256i; 2], to: *mut u16) {
    // SAFETY: the caller's contract.
    unsafe {
        let [Ymm32(x), Ymm32(y)] = pair;
        let (a, b) = (_mm256_castps_si256(x), _mm256_castps_si256(y));
        let (mut up, mut up2) = (_mm256_add_epi32(a, added[0]), _mm256_add_epi32(b, added[1]));
        if _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, y)) != 0 {
            (up, up2) = (quiet256(x, up), quiet256(y, up2));
        }
        let (up, up2) = (_mm256_srli_epi32::<16>(up), _mm256_srli_epi32::<16>(up2));
        _mm256_storeu_si256(to.cast(), _mm256_packus_epi32(up, up2));
    }
}

/// What is NaN among numbers, made quiet, and the others' `up`.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn quiet256(x: __m256, up: __m256i) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe {
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        let quiet = _mm256_or_si256(_mm256_castps_si256(x), _mm256_set1_epi32(QUIET));
        _mm256_blendv_epi8(up, quiet, nan)
    }
}

/// What is added to numbers so that cutting them off rounds to the nearest, or the even one.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn to_even256(x: __m256) -> __m256i {
    // SAFETY: the caller's contract.
    unsafe {
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(_mm256_castps_si256(x)), _mm256_set1_epi32(1));
        _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))
    }
}

impl Pair for Ymm32 {
    type Bits = __m256i;

    #[inline(always)]
    unsafe fn load_pair(from: *const f32) -> [Self; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let [x, y] = cross([_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]);
            [Ymm32(x), Ymm32(y)]
        }
    }

    #[inline(always)]
    unsafe fn store_pair(pair: [Self; 2], to: *mut f32) {
        // SAFETY: the caller's contract.
        unsafe {
            let [x, y] = cross([pair[0].0, pair[1].0]);
            _mm256_storeu_ps(to, x);
            _mm256_storeu_ps(to.add(8), y);
        }
    }

    #[inline(always)]
    unsafe fn widen_pair(from: *const u16) -> [Self; 2] {
        // SAFETY: the caller's contract.
        unsafe {
            let (zero, x) = (_mm256_setzero_si256(), _mm256_loadu_si256(from.cast()));
            let (a, b) = (_mm256_unpacklo_epi16(zero, x), _mm256_unpackhi_epi16(zero, x));
            [Ymm32(_mm256_castsi256_ps(a)), Ymm32(_mm256_castsi256_ps(b))]
        }
    }

    #[inline(always)]
    unsafe fn narrow_pair(pair: [Self; 2], to: *mut u16) {
        // SAFETY: the caller's contract.
        unsafe {
            narrow256(pair, [to_even256(pair[0].0), to_even256(pair[1].0)], to);
        }
    }

    type Nan = __m256;

    #[inline(always)]
    unsafe fn no_nan() -> Self::Nan {
        // SAFETY: the caller's contract.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn nan_in(nan: Self::Nan, pair: [Self; 2]) -> Self::Nan {
        // SAFETY: the caller's contract.
        unsafe { _mm256_or_ps(nan, _mm256_cmp_ps::<_CMP_UNORD_Q>(pair[0].0, pair[1].0)) }
    }

    #[inline(always)]
    unsafe fn is_nan(nan: Self::Nan) -> bool {
        // SAFETY: the caller's contract.
        unsafe { _mm256_movemask_ps(nan) != 0 }
    }

    #[inline(always)]
    unsafe fn cut_pair_by(pair: [Self; 2], chances: __m256i, to: *mut u16) {
        // SAFETY: the caller's contract.
        unsafe {
            let zero = _mm256_setzero_si256();
            let up = _mm256_add_epi32(_mm256_castps_si256(pair[0].0), _mm256_unpacklo_epi16(chances, zero));
            let up2 = _mm256_add_epi32(_mm256_castps_si256(pair[1].0), _mm256_unpackhi_epi16(chances, zero));
            let (up, up2) = (_mm256_srli_epi32::<16>(up), _mm256_srli_epi32::<16>(up2));
            _mm256_storeu_si256(to.cast(), _mm256_packus_epi32(up, up2));
        }
    }

    #[inline(always)]
    unsafe fn narrow_pair_by(pair: [Self; 2], chances: __m256i, to: *mut u16) {
        // SAFETY: the caller's contract.
        unsafe {
            let zero = _mm256_setzero_si256();
            let added = [_mm256_unpacklo_epi16(chances, zero), _mm256_unpackhi_epi16(chances, zero)];
            narrow256(pair, added, to);
        }
    }
}

impl Bits for __m256i {
    const FOURS: usize = 4;

    #[inline(always)]
    unsafe fn from(first: u64) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm256_add_epi64(_mm256_set1_epi64x(first as i64), _mm256_setr_epi64x(0, 1, 2, 3)) }
    }

    #[inline(always)]
    unsafe fn plus(self, other: u64) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm256_add_epi64(self, _mm256_set1_epi64x(other as i64)) }
    }

    #[inline(always)]
    unsafe fn times(self, other: u32) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm256_mul_epu32(self, _mm256_set1_epi64x(i64::from(other))) }
    }

    #[inline(always)]
    unsafe fn upper(self) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm256_srli_epi64::<32>(self) }
    }

    #[inline(always)]
    unsafe fn xor(self, other: Self) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm256_xor_si256(self, other) }
    }

    #[inline(always)]
    unsafe fn xor_word(self, word: i32) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm256_xor_si256(self, _mm256_set1_epi32(word)) }
    }

    #[inline(always)]
    unsafe fn xor_both(self, other: Self, word: i32) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm256_xor_si256(self, _mm256_xor_si256(other, _mm256_set1_epi32(word))) }
    }

    #[inline(always)]
    unsafe fn below(self, upper: Self) -> Self {
        // SAFETY: the caller's contract.
        unsafe { _mm256_blend_epi32::<0b1010_1010>(self, _mm256_slli_epi64::<32>(upper)) }
    }
}
