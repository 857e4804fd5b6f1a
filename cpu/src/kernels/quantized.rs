//! A rule whose states have dynamic codes, in one software-pipelined loop: dequantize, rule, absmax, quantize.
//!
//! Encoding needs a block's scale, which is known when the rule has processed all of it. Its arithmetic is a long
//! chain, while a rule mostly waits for roots and quotients. So the loop is software-pipelined: block `b` goes
//! through the rule while block `b - 1` is encoded. An iteration takes four registers, with half of a state's codes
//! behind each of them, since the CPU only overlaps neighbouring instructions. All operands are prefetched, because
//! the streams of codes are too slow for the CPU to see what comes next.

use super::unroll::{for_each_operand, is_written};
use crate::prefetch::prefetch;
use crate::quant::{AbsMax, BlockCodec, Codebook, QuantParams, QuantVector, REGISTERS};
use core::mem::MaybeUninit;
use fallline_core::backend::MAX_OPERANDS;
use fallline_core::{Array, Literal, Role, Rule, apply};

/// An operand: plain `f32`, or, of a state, codes and scales.
#[derive(Clone, Copy)]
pub(crate) struct QuantOperand {
    pub(crate) address: *mut u8,
    pub(crate) scales: *mut f32,
    /// Of a state.
    pub(crate) codebook: Option<&'static Codebook>,
    /// Of a state, for what is not usual.
    pub(crate) blocks: Option<BlockCodec>,
}

impl QuantOperand {
    const NULL: QuantOperand = QuantOperand {
        address: core::ptr::null_mut(),
        scales: core::ptr::null_mut(),
        codebook: None,
        blocks: None,
    };
}

/// A compiled rule: its scalars as for any kernel, its operands, and how many whole blocks.
pub(crate) type QuantizedKernel =
    unsafe fn(scalars: *const f32, operands: *const QuantOperand, blocks: usize);

/// Elements of a block.
pub(crate) const BLOCK: usize = 256;
/// Elements that are prefetched.
const PREFETCH_ELEMENTS: usize = 512;

/// A block of each state's new numbers, and the one before.
#[repr(C, align(64))]
struct Scratch([[MaybeUninit<[f32; BLOCK]>; 2]; MAX_OPERANDS]);

/// Returns whether there is an operand `k` and it is a state.
const fn state<R: Rule>(k: usize) -> bool {
    k < R::OPERANDS.len() && matches!(R::OPERANDS[k].role, Role::State)
}

/// Returns after which of an iteration's registers the codes of state `k` are begun; they are finished after the
/// next one.
const fn stage1_register<R: Rule>(k: usize) -> usize {
    let (mut before, mut operand) = (0, 0);
    while operand < k {
        before += (state::<R>(operand) && is_written::<R>(operand)) as usize;
        operand += 1;
    }
    2 * before % REGISTERS
}

/// Repeats the body for each register of an iteration, as `for_each_operand` does for operands.
macro_rules! for_each_register {
    ($r:ident => $body:block) => {
        for_each_register!(@ $r => $body; 0 1 2 3)
    };
    (@ $r:ident => $body:block; $($register:literal)*) => { $( {
        const $r: usize = $register;
        $body
    } )* };
}
const _: () = assert!(REGISTERS == 4, "for_each_register has as many bodies");

/// # Safety
/// `scalars` holds a whole row. `operands` holds one for each of the rule's, with codebooks, conversions and scales
/// for states. Each is valid for reading `blocks` blocks of 256 elements, and for writing them where the rule
/// writes. No operand that is written overlaps another. The rule has no sums. The CPU has the instruction set of
/// `V`.
#[inline(always)]
pub(super) unsafe fn quantized<R: Rule, V: QuantVector>(
    scalars: *const f32,
    operands: *const QuantOperand,
    blocks: usize,
) where
    f64: Literal<V>,
{
    // SAFETY: of the whole body, the caller's contract; scratch is written before it is read, block by block.
    unsafe {
        let group = const { REGISTERS * V::LANES };
        let grad_scale = V::splat(f64::from(*scalars));
        let mut values = R::Scalars::fill(grad_scale);
        for (i, value) in values.as_mut().iter_mut().enumerate() {
            *value = V::splat(f64::from(*scalars.add(1 + i)));
        }
        let count = const { R::OPERANDS.len() };
        let stored = core::slice::from_raw_parts(operands, count);
        let mut operands = [QuantOperand::NULL; MAX_OPERANDS];
        operands[..count].copy_from_slice(stored);
        let operands = operands;
        let mut scratch = Scratch([const { [MaybeUninit::uninit(); 2] }; MAX_OPERANDS]);
        let scratch = scratch.0.as_mut_ptr().cast::<f32>();
        let mut params = [QuantParams::NONE; MAX_OPERANDS];
        for block in 0..blocks {
            let (side, other) = (block % 2 * BLOCK, (1 - block % 2) * BLOCK);
            let mut absmax = [V::no_absmax(); MAX_OPERANDS];
            for within in (0..BLOCK).step_by(group) {
                let first = block * BLOCK + within;
                let mut x = [R::Operands::fill(grad_scale); REGISTERS];
                for_each_operand!(R, K => {
                    let QuantOperand { address, scales, codebook, .. } = operands[K];
                    if const { state::<R>(K) } {
                        let scale = *scales.add(block);
                        prefetch(address.wrapping_add(first + PREFETCH_ELEMENTS), 64);
                        let decoded = V::decode(codebook.unwrap_unchecked(), address.add(first), scale);
                        for (x, decoded) in x.iter_mut().zip(decoded) {
                            x.as_mut()[K] = decoded;
                        }
                    }
                });
                let mut stage1 = [V::no_stage1(); MAX_OPERANDS];
                for_each_register!(I => {
                    for_each_operand!(R, K => {
                        if const { !state::<R>(K) } {
                            let (address, at) = (operands[K].address.cast::<f32>(), first + V::LANES * I);
                            if at.is_multiple_of(16) {
                                prefetch(address.wrapping_add(at + PREFETCH_ELEMENTS).cast(), 64);
                            }
                            x[I].as_mut()[K] = V::load(address.add(at));
                        }
                    });
                    apply::<R, V>(grad_scale, &values, &mut x[I]);
                    // Stored at once, or the compiler would put the rule behind the codes.
                    for_each_operand!(R, K => {
                        if const { is_written::<R>(K) } {
                            let (x, at) = (x[I].as_ref()[K], V::LANES * I);
                            if const { state::<R>(K) } {
                                absmax[K] = V::update_absmax(operands[K].codebook.unwrap_unchecked(), absmax[K], x);
                                x.store(scratch.add(2 * BLOCK * K + side + within + at));
                            } else {
                                x.store(operands[K].address.cast::<f32>().add(first + at));
                            }
                        }
                    });
                    for_each_operand!(R, K => {
                        if const { state::<R>(K) && is_written::<R>(K) } {
                            let QuantOperand { address, codebook, blocks, .. } = operands[K];
                            let numbers = scratch.add(2 * BLOCK * K + other + within);
                            let QuantParams { usual, factor, .. } = params[K];
                            if const { I == stage1_register::<R>(K) } && usual {
                                stage1[K] = V::stage1(codebook.unwrap_unchecked(), factor, numbers);
                            }
                            if const { I == stage1_register::<R>(K) + 1 } {
                                let codes = address.wrapping_add(first).wrapping_sub(BLOCK);
                                if usual {
                                    V::stage2(codebook.unwrap_unchecked(), factor, stage1[K], numbers, codes);
                                } else if block > 0 {
                                    (blocks.unwrap_unchecked().part)(numbers, &params[K], codes, group);
                                }
                            }
                        }
                    });
                });
            }
            for_each_operand!(R, K => {
                if const { state::<R>(K) && is_written::<R>(K) } {
                    let columns: AbsMax = V::to_absmax(absmax[K]);
                    let numbers = scratch.add(2 * BLOCK * K + side);
                    let scale = BlockCodec::finish(&columns, numbers, BLOCK, &mut params[K]);
                    *operands[K].scales.add(block) = scale;
                }
            });
        }
        // What there is of the last one is not in the loop, which would be compiled once more for it.
        let Some(last) = blocks.checked_sub(1) else { return };
        for_each_operand!(R, K => {
            if const { state::<R>(K) && is_written::<R>(K) } {
                let numbers = scratch.add(2 * BLOCK * K + last % 2 * BLOCK);
                let codes = operands[K].address.add(last * BLOCK);
                (operands[K].blocks.unwrap_unchecked().part)(numbers, &params[K], codes, BLOCK);
            }
        });
    }
}
