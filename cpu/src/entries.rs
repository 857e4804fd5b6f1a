//! What is compiled for each rule: one loop over elements for each instruction set and compute type.

use crate::isa::Isa;
use crate::lane::{Number, Register, Wide32, Wide64};
#[cfg(target_arch = "x86_64")]
use crate::lane::{Ymm32, Ymm64, Zmm32, Zmm64};
use fallline_core::{Array, Compute, Kernel, Link, Literal, Rule, Scalar, apply, sums::ACCUMULATORS};

/// A compiled rule. The arguments:
///
/// - `scalars`: the gradient scale, the scalars of the step, those of the tensor;
/// - `operands`: the address of each operand's first element, all in the compute type;
/// - `elements`: how many; with sums at most a segment of them, from the start of an accumulator row;
/// - `accumulators`: a row of [`ACCUMULATORS`] for each sum, to be added to.
pub(crate) type Entry<T> =
    unsafe fn(scalars: *const T, operands: *const *mut T, elements: usize, accumulators: *mut T);

/// A rule's compiled entries, an entry for each [`Isa`], in order.
pub(crate) struct Entries {
    f32: [Entry<f32>; 4],
    f64: [Entry<f64>; 4],
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
}

impl Compiled for f32 {
    const COMPUTE: Compute = Compute::F32;
    fn entry(entries: &Entries, isa: Isa) -> Entry<f32> {
        entries.f32[isa as usize]
    }
}

impl Compiled for f64 {
    const COMPUTE: Compute = Compute::F64;
    fn entry(entries: &Entries, isa: Isa) -> Entry<f64> {
        entries.f64[isa as usize]
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
        f32: [elements::<R, Scalar<f32>>, elements::<R, Wide32>, avx2::<R, Ymm32>, avx512::<R, Zmm32>],
        f64: [elements::<R, Scalar<f64>>, elements::<R, Wide64>, avx2::<R, Ymm64>, avx512::<R, Zmm64>],
    };

    /// Elsewhere the baseline stands in for the instruction sets that are never available.
    #[cfg(not(target_arch = "x86_64"))]
    const ENTRIES: Entries = Entries {
        f32: [
            elements::<R, Scalar<f32>>,
            elements::<R, Wide32>,
            elements::<R, Wide32>,
            elements::<R, Wide32>,
        ],
        f64: [
            elements::<R, Scalar<f64>>,
            elements::<R, Wide64>,
            elements::<R, Wide64>,
            elements::<R, Wide64>,
        ],
    };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
unsafe fn avx2<R: Rule, V: Register>(
    scalars: *const V::Number,
    operands: *const *mut V::Number,
    count: usize,
    accumulators: *mut V::Number,
) where
    f64: Literal<V>,
{
    // SAFETY: the caller's contract is that of `elements`.
    unsafe { elements::<R, V>(scalars, operands, count, accumulators) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2")]
unsafe fn avx512<R: Rule, V: Register>(
    scalars: *const V::Number,
    operands: *const *mut V::Number,
    count: usize,
    accumulators: *mut V::Number,
) where
    f64: Literal<V>,
{
    // SAFETY: the caller's contract is that of `elements`.
    unsafe { elements::<R, V>(scalars, operands, count, accumulators) }
}

/// The one loop: loads every operand of a register of elements, runs the rule, stores what it writes,
/// adds its terms to the sums.
///
/// # Safety
/// `scalars` holds a whole row; `operands` an address for each operand, valid for reading `count`
/// elements, and for writing them where the rule writes; no operand that is written overlaps another;
/// `accumulators` holds a row for each sum, and with sums `count` is at most a segment. The CPU has the
/// instruction set of `V`.
#[inline(always)]
unsafe fn elements<R: Rule, V: Register>(
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
    let addresses = addresses.as_ref();

    let mut i = 0;
    while i + V::LANES <= count {
        // SAFETY: `LANES` elements from `i` are within every operand, and, since `LANES` divides the row
        // of accumulators, `LANES` accumulators from `i mod ACCUMULATORS` within their row.
        unsafe {
            let mut x = R::Operands::fill(grad_scale);
            for k in 0..R::OPERANDS.len() {
                x.as_mut()[k] = V::load(addresses[k].0.add(i));
            }
            let terms = apply::<R, V>(grad_scale, &values, &mut x);
            for k in 0..R::OPERANDS.len() {
                if R::OPERANDS[k].written {
                    x.as_ref()[k].store(addresses[k].0.add(i));
                }
            }
            for s in 0..R::SUMS.len() {
                let row = accumulators.add(s * ACCUMULATORS + i % ACCUMULATORS);
                V::load(row).plus(terms.as_ref()[s]).store(row);
            }
        }
        i += V::LANES;
    }
    let rest = count - i;
    if rest > 0 {
        // SAFETY: as above, for the `rest` elements that remain. Only they are added to the sums: what the
        // rule makes of the zeros beside them does not count.
        unsafe {
            let mut x = R::Operands::fill(grad_scale);
            for k in 0..R::OPERANDS.len() {
                x.as_mut()[k] = V::load_first(addresses[k].0.add(i), rest);
            }
            let terms = apply::<R, V>(grad_scale, &values, &mut x);
            for k in 0..R::OPERANDS.len() {
                if R::OPERANDS[k].written {
                    x.as_ref()[k].store_first(addresses[k].0.add(i), rest);
                }
            }
            for s in 0..R::SUMS.len() {
                let row = accumulators.add(s * ACCUMULATORS + i % ACCUMULATORS);
                V::load_first(row, rest).plus(terms.as_ref()[s]).store_first(row, rest);
            }
        }
    }
}
