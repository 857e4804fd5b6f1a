//! A rule whose operands are stored in 16 bits, or some of them, in one loop: widen, rule, chances, round.
//!
//! A turn takes two registers, since their elements are one register in memory, and their chances one register too: a
//! block of the generator has 64 bits, those of four elements. What the first round makes of the counters is the same
//! for all operands, whose keys differ. Nothing of a chance depends on the rule, so that the CPU works on both at a time.

use crate::kernels::quantized::{expect, for_each_operand};
use crate::vector::{Counted, Drawn, Pair, Rounds};
use fallline_core::backend::MAX_OPERANDS;
use fallline_core::codec::stochastic::ROUNDS;
use fallline_core::{Array, Literal, Rule, apply};

/// An operand of singles or bfloat16.
#[derive(Clone, Copy)]
pub(crate) struct Half {
    pub(crate) address: *mut u8,
    /// Two for bfloat16.
    pub(crate) bytes: usize,
    /// Bfloat16 that is rounded by chance, and the key's rounds.
    pub(crate) by_chance: bool,
    pub(crate) rounds: Rounds,
    /// Stored once more as the nearest bfloat16, unless null.
    pub(crate) copy: *mut u16,
}

impl Half {
    pub(crate) const NOWHERE: Half = Half {
        address: core::ptr::null_mut(),
        bytes: 0,
        by_chance: false,
        rounds: Rounds::NONE,
        copy: core::ptr::null_mut(),
    };
}

/// A compiled rule: its scalars as for any entry, an operand for each of its own, and how many elements from which one
/// on, a multiple of four.
pub(crate) type Halves = unsafe fn(scalars: *const f32, operands: *const Half, first: usize, elements: usize);

/// Bytes that are asked for ahead.
const AHEAD: usize = 1024;

/// Elements of the widest pair.
const WIDEST: usize = 32;

/// Where a chance is on its way when the rule goes over the first register, the second, and behind them: the CPU looks
/// ahead over some 60 instructions, so that only what stands near each other is done at a time.
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
/// `scalars` holds a whole row; `operands` an operand for each of the rule's, valid for reading `elements` elements, and
/// they and their copies for writing them where the rule writes; nothing that is written overlaps anything else; the rule
/// has no sums; the CPU has the instruction set of `V`.
#[inline(always)]
unsafe fn halves<R: Rule, V: Pair>(scalars: *const f32, operands: *const Half, first: usize, elements: usize)
where
    f64: Literal<V>,
{
    // SAFETY: of the whole body, the caller's contract; a pair that is not whole is read and written in `rest`.
    unsafe {
        let grad_scale = V::lit(f64::from(*scalars));
        let mut values = R::Scalars::fill(grad_scale);
        for (i, value) in values.as_mut().iter_mut().enumerate() {
            *value = V::lit(f64::from(*scalars.add(1 + i)));
        }
        let count = const { R::OPERANDS.len() };
        let stored = core::slice::from_raw_parts(operands, count);
        let mut operands = [Half::NOWHERE; MAX_OPERANDS];
        operands[..count].copy_from_slice(stored);
        let mut rest = [Rest { elements: [0; WIDEST], copy: [0; WIDEST] }; MAX_OPERANDS];
        let (mut halved, mut chance, mut plain) = (true, false, true);
        for (operand, half) in R::OPERANDS.iter().zip(stored) {
            halved &= half.bytes == 2;
            if operand.written {
                chance |= half.by_chance;
                plain &= half.by_chance && half.copy.is_null();
            }
        }
        let mut counted = Counted::new(first as u64);
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
            for_each_operand!(count, k => {
                let Half { address, bytes, .. } = operands[k];
                expect(address.wrapping_add(i * bytes + AHEAD));
            });
            if halved {
                for_each_operand!(count, k => {
                    let pair = V::widen_pair(operands[k].address.cast::<u16>().wrapping_add(i));
                    (x[0].as_mut()[k], x[1].as_mut()[k]) = (pair[0], pair[1]);
                });
            } else {
                for_each_operand!(count, k => {
                    let Half { address, bytes, .. } = operands[k];
                    let address = address.wrapping_add(i * bytes);
                    let pair = match bytes {
                        2 => V::widen_pair(address.cast()),
                        _ => V::load_pair(address.cast()),
                    };
                    (x[0].as_mut()[k], x[1].as_mut()[k]) = (pair[0], pair[1]);
                });
            }
            let mut drawn = [Drawn::none(&counted); MAX_OPERANDS];
            if chance {
                for_each_operand!(count, k => {
                    if R::OPERANDS[k].written {
                        drawn[k] = Drawn::begin(&operands[k].rounds, &counted).go_on::<1, FIRST>(&operands[k].rounds);
                    }
                });
            }
            apply::<R, V>(grad_scale, &values, &mut x[0]);
            if chance {
                for_each_operand!(count, k => {
                    if R::OPERANDS[k].written {
                        drawn[k] = drawn[k].go_on::<FIRST, SECOND>(&operands[k].rounds);
                    }
                });
            }
            apply::<R, V>(grad_scale, &values, &mut x[1]);
            if chance {
                for_each_operand!(count, k => {
                    if R::OPERANDS[k].written {
                        drawn[k] = drawn[k].go_on::<SECOND, LAST>(&operands[k].rounds);
                    }
                });
            }
            let mut usual = plain;
            if plain {
                let mut nan = V::no_nan();
                for_each_operand!(count, k => {
                    if R::OPERANDS[k].written {
                        nan = V::nan_in(nan, [x[0].as_ref()[k], x[1].as_ref()[k]]);
                    }
                });
                usual = !V::is_nan(nan);
            }
            if usual {
                for_each_operand!(count, k => {
                    if R::OPERANDS[k].written {
                        let address = operands[k].address.cast::<u16>().wrapping_add(i);
                        V::cut_pair_by([x[0].as_ref()[k], x[1].as_ref()[k]], drawn[k].end(), address);
                    }
                });
            } else {
                for_each_operand!(count, k => {
                    if R::OPERANDS[k].written {
                        let Half { address, bytes, by_chance, copy, .. } = operands[k];
                        let (address, pair) = (address.wrapping_add(i * bytes), [x[0].as_ref()[k], x[1].as_ref()[k]]);
                        if bytes != 2 {
                            V::store_pair(pair, address.cast());
                        } else if by_chance {
                            V::narrow_pair_by(pair, drawn[k].end(), address.cast());
                        } else {
                            V::narrow_pair(pair, address.cast());
                        }
                        if !copy.is_null() {
                            V::narrow_pair(pair, copy.wrapping_add(i));
                        }
                    }
                });
            }
            counted = counted.next();
            i += V::PAIR;
        }
        if whole < elements {
            for (k, (operand, rest)) in stored.iter().zip(&rest).enumerate() {
                if R::OPERANDS[k].written {
                    let Half { address, bytes, copy, .. } = *operand;
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

/// # Safety
/// As [`Halves`]: see `halves`, with AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn avx2<R: Rule>(
    scalars: *const f32,
    operands: *const Half,
    first: usize,
    elements: usize,
) {
    // SAFETY: the caller's contract.
    unsafe { halves::<R, crate::vector::Ymm32>(scalars, operands, first, elements) }
}

/// # Safety
/// As [`Halves`]: see `halves`, with AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(crate) unsafe fn avx512<R: Rule>(
    scalars: *const f32,
    operands: *const Half,
    first: usize,
    elements: usize,
) {
    // SAFETY: the caller's contract.
    unsafe { halves::<R, crate::vector::Zmm32>(scalars, operands, first, elements) }
}
