//! The loop of rules whose operands are stored in the compute type, compiled for each rule and instruction set.
//! Parameters and gradients may be stored as bfloat16.

use crate::vector::{Number, Register, WIDEST};
use fallline_core::reduction::{ACCUMULATORS, QUARTERS, STEP};
use fallline_core::{Array, Literal, Role, Rule, apply};

/// A compiled rule. The arguments:
///
/// - `scalars`: the gradient scale, the scalars of the step, those of the tensor;
/// - `operands`: the address of each operand's first element, all in the compute type;
/// - `elements`: how many; with sums at most a segment of them, from the start of a step;
/// - `accumulators`: a row of [`ACCUMULATORS`] for each sum, to be added to.
pub(crate) type ElementKernel<T> =
    unsafe fn(scalars: *const T, operands: *const *mut T, elements: usize, accumulators: *mut T);

/// An address that may be kept in a rule's own arrays.
#[derive(Clone, Copy)]
struct Address<T>(*mut T);

// SAFETY: only ever a local of the loop below; whoever calls it vouches for the memory on this thread.
unsafe impl<T> Send for Address<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Address<T> {}

/// Runs the one loop. It loads every operand of a vector of elements, runs the rule and stores what it writes. It
/// adds the rule's terms to the sums in the order of `fallline_core::reduction`.
///
/// # Safety
/// `scalars` holds a whole row. `operands` holds an address for each operand, valid for reading `count` elements,
/// and for writing them where the rule writes. No operand that is written overlaps another. `accumulators` holds a
/// row for each sum, and with sums `count` is at most a segment. The CPU has the instruction set of `V`.
#[inline(always)]
pub(super) unsafe fn elements<R: Rule, V: Register, const BF16: bool>(
    scalars: *const V::Number,
    operands: *const *mut V::Number,
    count: usize,
    accumulators: *mut V::Number,
) where
    f64: Literal<V>,
{
    // SAFETY: `scalars` holds the gradient scale first.
    let grad_scale = V::splat(unsafe { *scalars }.to_f64());
    let mut values = R::Scalars::fill(grad_scale);
    for (i, value) in values.as_mut().iter_mut().enumerate() {
        // SAFETY: the row holds one number for each scalar after the gradient scale.
        *value = V::splat(unsafe { *scalars.add(1 + i) }.to_f64());
    }
    let mut addresses = R::Operands::fill(Address(core::ptr::null_mut::<V::Number>()));
    for (k, address) in addresses.as_mut().iter_mut().enumerate() {
        // SAFETY: there is an address for each operand.
        *address = Address(unsafe { *operands.add(k) });
    }
    let pass = UnrolledRule::<R, V, BF16> { grad_scale, values, addresses };

    let mut i = 0;
    // Constants decide, so that a rule is compiled in the form that it needs and in no other.
    if const { R::SUMS.is_empty() } {
        while i + V::LANES <= count {
            // SAFETY: `LANES` elements from `i` are within every operand.
            unsafe { pass.full(i) };
            i += V::LANES;
        }
        if const { V::LANES > 1 } && i < count {
            // SAFETY: the elements from `i` to `count` are within every operand.
            unsafe { pass.tail(i, count - i) };
        }
    } else {
        let mut terms = R::Sums::fill([V::Number::default(); STEP]);
        while i + STEP <= count {
            // SAFETY: a step from `i` is within every operand, and the accumulators hold a row for each sum.
            unsafe {
                if const { V::LANES * QUARTERS.len() == ACCUMULATORS } {
                    pass.step_in_registers(i, accumulators);
                } else {
                    pass.step(i, &mut terms, accumulators);
                }
            }
            i += STEP;
        }
        if i < count {
            // SAFETY: the elements from `i` to `count` are within every operand.
            unsafe { pass.tail_step(i, count - i, accumulators) };
        }
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
            (V::load(to) + (a + b + (c + d))).store(to);
        }
    }
}

/// A rule with its scalars in registers, at the start of its operands.
struct UnrolledRule<R: Rule, V: Register, const BF16: bool>
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
impl<R: Rule, V: Register, const BF16: bool> UnrolledRule<R, V, BF16>
where
    f64: Literal<V>,
{
    /// Returns whether operand `k` is stored as bfloat16.
    #[inline(always)]
    const fn is_bf16(k: usize) -> bool {
        BF16 && matches!(R::OPERANDS[k].role, Role::Param | Role::Grad)
    }

    /// # Safety
    /// `LANES` elements from `i` are at the address of operand `k`; the CPU has the instruction set of `V`.
    #[inline(always)]
    unsafe fn load(&self, k: usize, address: *mut V::Number, i: usize) -> V {
        // SAFETY: the caller's contract.
        unsafe {
            if const { BF16 } && Self::is_bf16(k) {
                V::load_bf16(address.cast::<u16>().add(i))
            } else {
                V::load(address.add(i))
            }
        }
    }

    /// # Safety
    /// As for `load`, and they may be written.
    #[inline(always)]
    unsafe fn store(&self, k: usize, x: V, address: *mut V::Number, i: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            if const { BF16 } && Self::is_bf16(k) {
                x.store_bf16(address.cast::<u16>().add(i))
            } else {
                x.store(address.add(i))
            }
        }
    }

    /// # Safety
    /// As for `load`, with `count < LANES` elements.
    #[inline(always)]
    unsafe fn load_first(&self, k: usize, address: *mut V::Number, i: usize, count: usize) -> V {
        // SAFETY: the caller's contract, and `count` is within the widest register.
        unsafe {
            if const { BF16 } && Self::is_bf16(k) {
                let mut stored = [0u16; WIDEST];
                core::ptr::copy_nonoverlapping(address.cast::<u16>().add(i), stored.as_mut_ptr(), count);
                V::load_bf16(stored.as_ptr())
            } else {
                V::load_first(address.add(i), count)
            }
        }
    }

    /// # Safety
    /// As for `load_first`, and they may be written.
    #[inline(always)]
    unsafe fn store_first(&self, k: usize, x: V, address: *mut V::Number, i: usize, count: usize) {
        // SAFETY: the caller's contract, and `count` is within the widest register.
        unsafe {
            if const { BF16 } && Self::is_bf16(k) {
                let mut stored = [0u16; WIDEST];
                x.store_bf16(stored.as_mut_ptr());
                core::ptr::copy_nonoverlapping(stored.as_ptr(), address.cast::<u16>().add(i), count);
            } else {
                x.store_first(address.add(i), count)
            }
        }
    }

    /// Updates a register of elements, and returns its terms of the sums.
    ///
    /// # Safety
    /// `LANES` elements from `i` are within every operand; the CPU has the instruction set of `V`.
    #[inline(always)]
    unsafe fn full(&self, i: usize) -> R::Sums<V> {
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

    /// Returns the same for fewer than `LANES` elements; the terms of the others mean nothing.
    ///
    /// # Safety
    /// `count < LANES` elements from `i` are within every operand; the CPU has the instruction set of `V`.
    #[inline(always)]
    unsafe fn tail(&self, i: usize, count: usize) -> R::Sums<V> {
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
                let found = self.full(i + j);
                for s in 0..R::SUMS.len() {
                    found.as_ref()[s].store(terms.as_mut()[s].as_mut_ptr().add(j));
                }
            }
            add_step::<R, V>(terms, accumulators);
        }
    }

    /// Does the same where four registers are a quarter of a step. Its terms are reduced in registers, since
    /// storing them would take as long as storing what the rule writes.
    ///
    /// # Safety
    /// As for `step`.
    #[inline(always)]
    unsafe fn step_in_registers(&self, i: usize, accumulators: *mut V::Number) {
        let (mut one, mut other) = (R::Sums::fill([V::splat(0.0); 4]), R::Sums::fill([V::splat(0.0); 4]));
        for quarter in 0..QUARTERS.len() {
            // SAFETY: the caller's contract.
            unsafe {
                let i = i + quarter * ACCUMULATORS;
                let (a, b) = (self.full(i), self.full(i + V::LANES));
                let (c, d) = (self.full(i + 2 * V::LANES), self.full(i + 3 * V::LANES));
                for s in 0..R::SUMS.len() {
                    // The first and the third quarter, and the second and the fourth, are interleaved. A +0 to begin
                    // with changes no sum, since accumulators begin with one.
                    let [w, x, y, z] = one.as_ref()[s];
                    one.as_mut()[s] = other.as_ref()[s];
                    other.as_mut()[s] =
                        [w + a.as_ref()[s], x + b.as_ref()[s], y + c.as_ref()[s], z + d.as_ref()[s]];
                }
            }
        }
        for s in 0..R::SUMS.len() {
            for j in 0..4 {
                let term = one.as_ref()[s][j] + other.as_ref()[s][j];
                // SAFETY: the caller's contract.
                unsafe {
                    let to = accumulators.add(s * ACCUMULATORS + j * V::LANES);
                    (V::load(to) + term).store(to);
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
    unsafe fn tail_step(&self, i: usize, count: usize, accumulators: *mut V::Number) {
        let mut terms = R::Sums::fill([V::Number::default(); STEP]);
        for j in (0..count).step_by(V::LANES) {
            let rest = count - j;
            // SAFETY: the elements are those of the caller's contract, and a step has room for whole registers.
            unsafe {
                let part = const { V::LANES > 1 } && rest < V::LANES;
                let found = if part { self.tail(i + j, rest) } else { self.full(i + j) };
                for s in 0..R::SUMS.len() {
                    let to = terms.as_mut()[s].as_mut_ptr().add(j);
                    if part { found.as_ref()[s].store_first(to, rest) } else { found.as_ref()[s].store(to) }
                }
            }
        }
        // SAFETY: the caller's contract.
        unsafe { add_step::<R, V>(&terms, accumulators) };
    }
}
