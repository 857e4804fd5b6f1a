//! What is compiled for each rule: one loop over elements for each instruction set and compute type.

use super::tape::{self, TapeEntry};
use crate::isa::Isa;
use crate::vector::{Number, Register, WIDEST, Wide32, Wide64};
#[cfg(target_arch = "x86_64")]
use crate::vector::{Ymm32, Ymm64, Zmm32, Zmm64};
use fallline_core::sums::{ACCUMULATORS, QUARTERS, STEP};
use fallline_core::{Array, Compute, Kernel, Link, Literal, Role, Rule, Scalar, apply};

/// A compiled rule. The arguments:
///
/// - `scalars`: the gradient scale, the scalars of the step, those of the tensor;
/// - `operands`: the address of each operand's first element, all in the compute type;
/// - `elements`: how many; with sums at most a segment of them, from the start of a step;
/// - `accumulators`: a row of [`ACCUMULATORS`] for each sum, to be added to.
pub(crate) type Entry<T> =
    unsafe fn(scalars: *const T, operands: *const *mut T, elements: usize, accumulators: *mut T);

/// A rule's compiled entries, an entry for each [`Isa`], in order.
pub(crate) struct Entries {
    f32: [Entry<f32>; 4],
    f64: [Entry<f64>; 4],
    /// Parameter and gradient stored as bfloat16, the states as computed: the usual mixture needs no scratch.
    bf16: [Option<Entry<f32>>; 4],
    /// States with dynamic codes, decoded and encoded in the same loop.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fused: [Option<crate::kernels::quantized::Fused>; 4],
    /// Operands stored as singles or bfloat16 in any mixture, rounded by chance or not.
    #[cfg(target_arch = "x86_64")]
    pub(crate) halves: [Option<crate::kernels::bf16::Halves>; 4],
}

/// An address that may be kept in a rule's own arrays.
#[derive(Clone, Copy)]
struct Address<T>(*mut T);

// SAFETY: only ever a local of the loop below; whoever calls it vouches for the memory on this thread.
unsafe impl<T> Send for Address<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Address<T> {}

/// Access to the entries of a compute type.
pub(crate) trait Compiled: Number {
    /// The compute type that this number is.
    const COMPUTE: Compute;
    /// The entry for an instruction set.
    fn entry(entries: &Entries, isa: Isa) -> Entry<Self>;
    /// What interprets a tape, for an instruction set.
    fn tape_entry(isa: Isa) -> TapeEntry<Self>;
    /// The entry for parameters and gradients stored as bfloat16, where there is one.
    fn bf16_entry(entries: &Entries, isa: Isa) -> Option<Entry<Self>>;
}

impl Compiled for f32 {
    const COMPUTE: Compute = Compute::F32;
    fn entry(entries: &Entries, isa: Isa) -> Entry<f32> {
        entries.f32[isa as usize]
    }
    fn tape_entry(isa: Isa) -> TapeEntry<f32> {
        tape::of_singles(isa)
    }
    fn bf16_entry(entries: &Entries, isa: Isa) -> Option<Entry<f32>> {
        entries.bf16[isa as usize]
    }
}

impl Compiled for f64 {
    const COMPUTE: Compute = Compute::F64;
    fn entry(entries: &Entries, isa: Isa) -> Entry<f64> {
        entries.f64[isa as usize]
    }
    fn tape_entry(isa: Isa) -> TapeEntry<f64> {
        tape::of_doubles(isa)
    }
    fn bf16_entry(_: &Entries, _: Isa) -> Option<Entry<f64>> {
        None
    }
}

/// Compiles rules for the CPU: name it where algorithms are linked.
#[derive(Clone, Copy, Debug)]
pub struct Native;

impl Link for Native {
    fn kernel<R: Rule>() -> &'static Kernel {
        &Linked::<R>::KERNEL
    }
}

struct Linked<R>(R);

impl<R: Rule> Linked<R> {
    const KERNEL: Kernel = Kernel::new::<R>(&Self::ENTRIES);

    #[cfg(target_arch = "x86_64")]
    const ENTRIES: Entries = Entries {
        f32: [
            elements::<R, Scalar<f32>, false>,
            elements::<R, Wide32, false>,
            avx2::<R, Ymm32, false>,
            avx512::<R, Zmm32, false>,
        ],
        f64: [
            elements::<R, Scalar<f64>, false>,
            elements::<R, Wide64, false>,
            avx2::<R, Ymm64, false>,
            avx512::<R, Zmm64, false>,
        ],
        bf16: [None, None, Some(avx2::<R, Ymm32, true>), Some(avx512::<R, Zmm32, true>)],
        fused: match R::SUMS.is_empty() && has_state::<R>() {
            true => [
                None,
                None,
                Some(crate::kernels::quantized::avx2::<R>),
                Some(crate::kernels::quantized::avx512::<R>),
            ],
            false => [None; 4],
        },
        halves: match R::SUMS.is_empty() {
            true => {
                [None, None, Some(crate::kernels::bf16::avx2::<R>), Some(crate::kernels::bf16::avx512::<R>)]
            }
            false => [None; 4],
        },
    };

    /// Elsewhere the baseline stands in for the instruction sets that are never available.
    #[cfg(not(target_arch = "x86_64"))]
    const ENTRIES: Entries = Entries {
        f32: [
            elements::<R, Scalar<f32>, false>,
            elements::<R, Wide32, false>,
            elements::<R, Wide32, false>,
            elements::<R, Wide32, false>,
        ],
        f64: [
            elements::<R, Scalar<f64>, false>,
            elements::<R, Wide64, false>,
            elements::<R, Wide64, false>,
            elements::<R, Wide64, false>,
        ],
        bf16: [None; 4],
    };
}

/// Whether a rule has a state.
#[cfg(target_arch = "x86_64")]
const fn has_state<R: Rule>() -> bool {
    let mut k = 0;
    while k < R::OPERANDS.len() {
        if matches!(R::OPERANDS[k].role, Role::State) {
            return true;
        }
        k += 1;
    }
    false
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn avx2<R: Rule, V: Register, const BF16: bool>(
    scalars: *const V::Number,
    operands: *const *mut V::Number,
    count: usize,
    accumulators: *mut V::Number,
) where
    f64: Literal<V>,
{
    // SAFETY: the caller's contract is that of `elements`.
    unsafe { elements::<R, V, BF16>(scalars, operands, count, accumulators) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn avx512<R: Rule, V: Register, const BF16: bool>(
    scalars: *const V::Number,
    operands: *const *mut V::Number,
    count: usize,
    accumulators: *mut V::Number,
) where
    f64: Literal<V>,
{
    // SAFETY: the caller's contract is that of `elements`.
    unsafe { elements::<R, V, BF16>(scalars, operands, count, accumulators) }
}

/// The one loop: loads every operand of a register of elements, runs the rule, stores what it writes, and
/// adds its terms to the sums in the order of `fallline_core::sums`.
///
/// # Safety
/// `scalars` holds a whole row; `operands` an address for each operand, valid for reading `count`
/// elements, and for writing them where the rule writes; no operand that is written overlaps another;
/// `accumulators` holds a row for each sum, and with sums `count` is at most a segment. The CPU has the
/// instruction set of `V`.
#[inline(always)]
unsafe fn elements<R: Rule, V: Register, const BF16: bool>(
    scalars: *const V::Number,
    operands: *const *mut V::Number,
    count: usize,
    accumulators: *mut V::Number,
) where
    f64: Literal<V>,
{
    // SAFETY: `scalars` holds the gradient scale first.
    let grad_scale = V::lit(unsafe { *scalars }.to_f64());
    let mut values = R::Scalars::fill(grad_scale);
    for (i, value) in values.as_mut().iter_mut().enumerate() {
        // SAFETY: the row holds one number for each scalar after the gradient scale.
        *value = V::lit(unsafe { *scalars.add(1 + i) }.to_f64());
    }
    let mut addresses = R::Operands::fill(Address(core::ptr::null_mut::<V::Number>()));
    for (k, address) in addresses.as_mut().iter_mut().enumerate() {
        // SAFETY: there is an address for each operand.
        *address = Address(unsafe { *operands.add(k) });
    }
    let pass = Registers::<R, V, BF16> { grad_scale, values, addresses };

    let mut i = 0;
    if R::SUMS.is_empty() {
        while i + V::LANES <= count {
            // SAFETY: `LANES` elements from `i` are within every operand.
            unsafe { pass.whole(i) };
            i += V::LANES;
        }
        if i < count {
            // SAFETY: the elements from `i` to `count` are within every operand.
            unsafe { pass.first(i, count - i) };
        }
        return;
    }
    let mut terms = R::Sums::fill([V::Number::default(); STEP]);
    while i + STEP <= count {
        // SAFETY: a step from `i` is within every operand, and the accumulators hold a row for each sum.
        unsafe {
            if V::LANES * QUARTERS.len() == ACCUMULATORS {
                pass.step_in_registers(i, accumulators);
            } else {
                pass.step(i, &mut terms, accumulators);
            }
        }
        i += STEP;
    }
    if i < count {
        // SAFETY: the elements from `i` to `count` are within every operand.
        unsafe { pass.last_step(i, count - i, accumulators) };
    }
}

/// Adds the terms of a step to the accumulators of each sum.
///
/// # Safety
/// `accumulators` holds a row for each sum; the CPU has the instruction set of `V`.
#[inline(always)]
unsafe fn add_step<R: Rule, V: Register>(terms: &R::Sums<[V::Number; STEP]>, accumulators: *mut V::Number)
where
    f64: Literal<V>,
{
    for s in 0..R::SUMS.len() {
        // SAFETY: the caller's contract.
        unsafe { add_terms::<V>(terms.as_ref()[s].as_ptr(), accumulators.add(s * ACCUMULATORS)) };
    }
}

/// Adds the terms of a step to the accumulators of a sum.
///
/// # Safety
/// There is a step of terms and a row of accumulators; the CPU has the instruction set of `V`.
#[inline(always)]
pub(crate) unsafe fn add_terms<V: Register>(from: *const V::Number, accumulators: *mut V::Number)
where
    f64: Literal<V>,
{
    for j in (0..ACCUMULATORS).step_by(V::LANES) {
        // SAFETY: the quarters lie within a step, and `LANES` divides the accumulators of a row.
        unsafe {
            let [a, b, c, d] = QUARTERS.map(|quarter| V::load(from.add(j + quarter)));
            let to = accumulators.add(j);
            V::load(to).plus(a.plus(b).plus(c.plus(d))).store(to);
        }
    }
}

/// A rule with its scalars in registers, at the start of its operands.
struct Registers<R: Rule, V: Register, const BF16: bool>
where
    f64: Literal<V>,
{
    grad_scale: V,
    values: R::Scalars<V>,
    addresses: R::Operands<Address<V::Number>>,
}

#[allow(
    clippy::needless_range_loop,
    reason = "plain indices: the closures of iterators are not always inlined"
)]
impl<R: Rule, V: Register, const BF16: bool> Registers<R, V, BF16>
where
    f64: Literal<V>,
{
    /// Whether operand `k` is stored as bfloat16.
    #[inline(always)]
    const fn halved(k: usize) -> bool {
        BF16 && matches!(R::OPERANDS[k].role, Role::Param | Role::Grad)
    }

    /// # Safety
    /// `LANES` elements from `i` are at the address of operand `k`; the CPU has the instruction set of `V`.
    #[inline(always)]
    unsafe fn load(&self, k: usize, address: *mut V::Number, i: usize) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            if Self::halved(k) { V::load_bf16(address.cast::<u16>().add(i)) } else { V::load(address.add(i)) }
        }
    }

    /// # Safety
    /// As for `load`, and they may be written.
    #[inline(always)]
    unsafe fn store(&self, k: usize, x: V, address: *mut V::Number, i: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            if Self::halved(k) { x.store_bf16(address.cast::<u16>().add(i)) } else { x.store(address.add(i)) }
        }
    }

    /// # Safety
    /// As for `load`, with `count < LANES` elements.
    #[inline(always)]
    unsafe fn load_first(&self, k: usize, address: *mut V::Number, i: usize, count: usize) -> V {
        if !Self::halved(k) {
            // SAFETY: the caller's contract.
            return unsafe { V::load_first(address.add(i), count) };
        }
        let mut stored = [0u16; WIDEST];
        // SAFETY: the caller's contract, and `count` is within the widest register.
        unsafe {
            core::ptr::copy_nonoverlapping(address.cast::<u16>().add(i), stored.as_mut_ptr(), count);
            V::load_bf16(stored.as_ptr())
        }
    }

    /// # Safety
    /// As for `load_first`, and they may be written.
    #[inline(always)]
    unsafe fn store_first(&self, k: usize, x: V, address: *mut V::Number, i: usize, count: usize) {
        if !Self::halved(k) {
            // SAFETY: the caller's contract.
            return unsafe { x.store_first(address.add(i), count) };
        }
        let mut stored = [0u16; WIDEST];
        // SAFETY: the caller's contract, and `count` is within the widest register.
        unsafe {
            x.store_bf16(stored.as_mut_ptr());
            core::ptr::copy_nonoverlapping(stored.as_ptr(), address.cast::<u16>().add(i), count);
        }
    }

    /// Updates a register of elements, and returns its terms of the sums.
    ///
    /// # Safety
    /// `LANES` elements from `i` are within every operand; the CPU has the instruction set of `V`.
    #[inline(always)]
    unsafe fn whole(&self, i: usize) -> R::Sums<V> {
        let addresses = self.addresses.as_ref();
        let mut x = R::Operands::fill(self.grad_scale);
        for k in 0..R::OPERANDS.len() {
            // SAFETY: the caller's contract.
            x.as_mut()[k] = unsafe { self.load(k, addresses[k].0, i) };
        }
        let terms = apply::<R, V>(self.grad_scale, &self.values, &mut x);
        for k in 0..R::OPERANDS.len() {
            if R::OPERANDS[k].written {
                // SAFETY: the caller's contract.
                unsafe { self.store(k, x.as_ref()[k], addresses[k].0, i) };
            }
        }
        terms
    }

    /// The same for fewer than `LANES` elements; the terms of the others mean nothing.
    ///
    /// # Safety
    /// `count < LANES` elements from `i` are within every operand; the CPU has the instruction set of `V`.
    #[inline(always)]
    unsafe fn first(&self, i: usize, count: usize) -> R::Sums<V> {
        let addresses = self.addresses.as_ref();
        let mut x = R::Operands::fill(self.grad_scale);
        for k in 0..R::OPERANDS.len() {
            // SAFETY: the caller's contract.
            x.as_mut()[k] = unsafe { self.load_first(k, addresses[k].0, i, count) };
        }
        let terms = apply::<R, V>(self.grad_scale, &self.values, &mut x);
        for k in 0..R::OPERANDS.len() {
            if R::OPERANDS[k].written {
                // SAFETY: the caller's contract.
                unsafe { self.store_first(k, x.as_ref()[k], addresses[k].0, i, count) };
            }
        }
        terms
    }

    /// Updates the elements of a step from the first to the last, as memory likes it best, and adds their terms.
    ///
    /// # Safety
    /// A step from `i` is within every operand, `accumulators` holds a row for each sum, and the CPU has the
    /// instruction set of `V`.
    #[inline(always)]
    unsafe fn step(&self, i: usize, terms: &mut R::Sums<[V::Number; STEP]>, accumulators: *mut V::Number) {
        // SAFETY: the caller's contract; `LANES` divides a step.
        unsafe {
            for j in (0..STEP).step_by(V::LANES) {
                let found = self.whole(i + j);
                for s in 0..R::SUMS.len() {
                    found.as_ref()[s].store(terms.as_mut()[s].as_mut_ptr().add(j));
                }
            }
            add_step::<R, V>(terms, accumulators);
        }
    }

    /// The same where four registers are a quarter of a step: its terms fold in registers, since storing them
    /// would take as long as storing what the rule writes.
    ///
    /// # Safety
    /// As for `step`.
    #[inline(always)]
    unsafe fn step_in_registers(&self, i: usize, accumulators: *mut V::Number) {
        let (mut one, mut other) = (R::Sums::fill([V::lit(0.0); 4]), R::Sums::fill([V::lit(0.0); 4]));
        for quarter in 0..QUARTERS.len() {
            // SAFETY: the caller's contract.
            unsafe {
                let i = i + quarter * ACCUMULATORS;
                let (a, b) = (self.whole(i), self.whole(i + V::LANES));
                let (c, d) = (self.whole(i + 2 * V::LANES), self.whole(i + 3 * V::LANES));
                for s in 0..R::SUMS.len() {
                    // The first and the third quarter, and the second and the fourth, take turns; a +0 to begin
                    // with changes no sum, since accumulators begin with one.
                    let [w, x, y, z] = one.as_ref()[s];
                    one.as_mut()[s] = other.as_ref()[s];
                    other.as_mut()[s] = [
                        w.plus(a.as_ref()[s]),
                        x.plus(b.as_ref()[s]),
                        y.plus(c.as_ref()[s]),
                        z.plus(d.as_ref()[s]),
                    ];
                }
            }
        }
        for s in 0..R::SUMS.len() {
            for j in 0..4 {
                let term = one.as_ref()[s][j].plus(other.as_ref()[s][j]);
                // SAFETY: the caller's contract.
                unsafe {
                    let to = accumulators.add(s * ACCUMULATORS + j * V::LANES);
                    V::load(to).plus(term).store(to);
                }
            }
        }
    }

    /// Updates the elements of a step that is not whole, and adds their terms; those that are missing count
    /// as +0.
    ///
    /// # Safety
    /// `count < STEP` elements from `i` are within every operand, `accumulators` holds a row for each sum, and
    /// the CPU has the instruction set of `V`.
    #[inline(always)]
    unsafe fn last_step(&self, i: usize, count: usize, accumulators: *mut V::Number) {
        let mut terms = R::Sums::fill([V::Number::default(); STEP]);
        for j in (0..count).step_by(V::LANES) {
            let rest = count - j;
            // SAFETY: the elements are those of the caller's contract, and a step has room for whole registers.
            unsafe {
                let whole = rest >= V::LANES;
                let found = if whole { self.whole(i + j) } else { self.first(i + j, rest) };
                for s in 0..R::SUMS.len() {
                    let to = terms.as_mut()[s].as_mut_ptr().add(j);
                    if whole { found.as_ref()[s].store(to) } else { found.as_ref()[s].store_first(to, rest) }
                }
            }
        }
        // SAFETY: the caller's contract.
        unsafe { add_step::<R, V>(&terms, accumulators) };
    }
}
