//! A rule whose operands are stored in 16 bits, or some of them, in one loop: load, rule, random bits, round.
//!
//! An iteration takes two vectors, since their elements are one vector in memory, and their random bits one vector
//! too. A block of the generator has 64 bits, those of four elements. What the first round makes of the counters is
//! the same for all operands, whose keys differ. No random bit depends on the rule, so that the CPU works on both at
//! a time.

use super::unroll::{for_each_operand, is_written};
use crate::prefetch::prefetch;
use crate::vector::{PhiloxCounter, PhiloxKeys, PhiloxState, VectorPair};
use fallline_core::backend::MAX_OPERANDS;
use fallline_core::codec::stochastic::ROUNDS;
use fallline_core::{Array, Literal, Rule, apply};

/// An operand of `f32` or bfloat16.
#[derive(Clone, Copy)]
pub(crate) struct HalfOperand {
    pub(crate) address: *mut u8,
    /// Two for bfloat16.
    pub(crate) bytes: usize,
    /// Whether bfloat16 is rounded stochastically, and the keys of the generator's rounds.
    pub(crate) stochastic: bool,
    pub(crate) keys: PhiloxKeys,
    /// Where it is also stored, as the nearest bfloat16, unless null.
    pub(crate) copy: *mut u16,
}

impl HalfOperand {
    pub(crate) const NULL: HalfOperand = HalfOperand {
        address: core::ptr::null_mut(),
        bytes: 0,
        stochastic: false,
        keys: PhiloxKeys::NONE,
        copy: core::ptr::null_mut(),
    };
}

/// A compiled rule: its scalars as for any kernel, its operands, the first element, and how many there are, a
/// multiple of four.
pub(crate) type HalfPrecisionKernel =
    unsafe fn(scalars: *const f32, operands: *const HalfOperand, first: usize, elements: usize);

/// Bytes that are prefetched.
const PREFETCH_BYTES: usize = 1024;

/// Elements of the widest pair.
const WIDEST: usize = 32;

/// Rounds of the generator before the rule processes the first vector, before the second, and behind both. The CPU
/// looks ahead over some 60 instructions, so that only neighbouring instructions overlap.
const FIRST: usize = 3;
const SECOND: usize = 5;
const LAST: usize = ROUNDS as usize;

/// What is less than a pair, of an operand and of its copy.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Rest {
    elements: [u32; WIDEST],
    copy: [u16; WIDEST],
}

/// # Safety
/// `scalars` holds a whole row. `operands` holds an operand for each of the rule's, valid for reading `elements`
/// elements. Where the rule writes, they and their copies are valid for writing them. Nothing that is written
/// overlaps anything else. The rule has no sums. The CPU has the instruction set of `V`.
#[inline(always)]
pub(super) unsafe fn bf16<R: Rule, V: VectorPair>(
    scalars: *const f32,
    operands: *const HalfOperand,
    first: usize,
    elements: usize,
) where
    f64: Literal<V>,
{
    // SAFETY: of the whole body, the caller's contract; a pair that is not whole is read and written in `rest`.
    unsafe {
        let grad_scale = V::splat(f64::from(*scalars));
        let mut values = R::Scalars::fill(grad_scale);
        for (i, value) in values.as_mut().iter_mut().enumerate() {
            *value = V::splat(f64::from(*scalars.add(1 + i)));
        }
        let count = const { R::OPERANDS.len() };
        let stored = core::slice::from_raw_parts(operands, count);
        let mut operands = [HalfOperand::NULL; MAX_OPERANDS];
        operands[..count].copy_from_slice(stored);
        let mut rest = [Rest { elements: [0; WIDEST], copy: [0; WIDEST] }; MAX_OPERANDS];
        let (mut all_bf16, mut any_stochastic, mut all_stochastic) = (true, false, true);
        for (declared, operand) in R::OPERANDS.iter().zip(stored) {
            all_bf16 &= operand.bytes == 2;
            if declared.written {
                any_stochastic |= operand.stochastic;
                all_stochastic &= operand.stochastic && operand.copy.is_null();
            }
        }
        let mut counter = PhiloxCounter::new(first as u64);
        let whole = elements / V::PAIR * V::PAIR;
        let mut i = 0;
        while i < elements {
            if i == whole {
                for (operand, rest) in operands.iter_mut().zip(&mut rest).take(count) {
                    let (address, bytes) = (rest.elements.as_mut_ptr().cast::<u8>(), operand.bytes);
                    address.copy_from_nonoverlapping(operand.address.add(i * bytes), (elements - i) * bytes);
                    // An element is as far from here as from where it is.
                    operand.address = address.wrapping_sub(i * bytes);
                    if !operand.copy.is_null() {
                        operand.copy = rest.copy.as_mut_ptr().wrapping_sub(i);
                    }
                }
            }
            let mut x = [R::Operands::fill(grad_scale); 2];
            for_each_operand!(R, K => {
                let HalfOperand { address, bytes, .. } = operands[K];
                prefetch(address.wrapping_add(i * bytes + PREFETCH_BYTES), 64);
            });
            if all_bf16 {
                for_each_operand!(R, K => {
                    let pair = V::load_bf16_pair(operands[K].address.cast::<u16>().wrapping_add(i));
                    (x[0].as_mut()[K], x[1].as_mut()[K]) = (pair[0], pair[1]);
                });
            } else {
                for_each_operand!(R, K => {
                    let HalfOperand { address, bytes, .. } = operands[K];
                    let address = address.wrapping_add(i * bytes);
                    let pair = match bytes {
                        2 => V::load_bf16_pair(address.cast()),
                        _ => V::load_pair(address.cast()),
                    };
                    (x[0].as_mut()[K], x[1].as_mut()[K]) = (pair[0], pair[1]);
                });
            }
            let mut random = [PhiloxState::unused(&counter); MAX_OPERANDS];
            if any_stochastic {
                for_each_operand!(R, K => {
                    if const { is_written::<R>(K) } && operands[K].stochastic {
                        random[K] = PhiloxState::first_round(&operands[K].keys, &counter).rounds::<1, FIRST>(&operands[K].keys);
                    }
                });
            }
            apply::<R, V>(grad_scale, &values, &mut x[0]);
            if any_stochastic {
                for_each_operand!(R, K => {
                    if const { is_written::<R>(K) } && operands[K].stochastic {
                        random[K] = random[K].rounds::<FIRST, SECOND>(&operands[K].keys);
                    }
                });
            }
            apply::<R, V>(grad_scale, &values, &mut x[1]);
            if any_stochastic {
                for_each_operand!(R, K => {
                    if const { is_written::<R>(K) } && operands[K].stochastic {
                        random[K] = random[K].rounds::<SECOND, LAST>(&operands[K].keys);
                    }
                });
            }
            let mut usual = all_stochastic;
            if all_stochastic {
                let mut nan = V::no_nan();
                for_each_operand!(R, K => {
                    if const { is_written::<R>(K) } {
                        nan = V::nan_in(nan, [x[0].as_ref()[K], x[1].as_ref()[K]]);
                    }
                });
                usual = !V::is_nan(nan);
            }
            if usual {
                for_each_operand!(R, K => {
                    if const { is_written::<R>(K) } {
                        let address = operands[K].address.cast::<u16>().wrapping_add(i);
                        V::truncate_bf16_sr([x[0].as_ref()[K], x[1].as_ref()[K]], random[K].random_bits(), address);
                    }
                });
            } else {
                for_each_operand!(R, K => {
                    if const { is_written::<R>(K) } {
                        let HalfOperand { address, bytes, stochastic, copy, .. } = operands[K];
                        let (address, pair) = (address.wrapping_add(i * bytes), [x[0].as_ref()[K], x[1].as_ref()[K]]);
                        if bytes != 2 {
                            V::store_pair(pair, address.cast());
                        } else if stochastic {
                            V::store_bf16_sr(pair, random[K].random_bits(), address.cast());
                        } else {
                            V::store_bf16_pair(pair, address.cast());
                        }
                        if !copy.is_null() {
                            V::store_bf16_pair(pair, copy.wrapping_add(i));
                        }
                    }
                });
            }
            counter = counter.next();
            i += V::PAIR;
        }
        if whole < elements {
            for (k, (operand, rest)) in stored.iter().zip(&rest).enumerate() {
                if R::OPERANDS[k].written {
                    let HalfOperand { address, bytes, copy, .. } = *operand;
                    let from = rest.elements.as_ptr().cast::<u8>();
                    from.copy_to_nonoverlapping(address.add(whole * bytes), (elements - whole) * bytes);
                    if !copy.is_null() {
                        let from = rest.copy.as_ptr();
                        from.copy_to_nonoverlapping(copy.add(whole), elements - whole);
                    }
                }
            }
        }
    }
}
