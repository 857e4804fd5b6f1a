//! A rule whose states have dynamic codes, in one loop: decode, rule, largest magnitude, encode.
//!
//! Encoding needs a block's scale, which is known when the rule has gone through all of it, and its arithmetic is
//! a long chain. So block `b` goes through the rule while block `b - 1` is encoded, in turns of 64 elements: the
//! CPU has both to choose from. Operands that are not states are asked for ahead, because the streams of codes are
//! too slow for the CPU to see what comes next.

use crate::codec::avx512::{BLOCK, Encoder, GROUP, Tables, decode_group, encode_group, larger};
use crate::lane::{Register, Zmm32};
use core::arch::x86_64::*;
use core::mem::MaybeUninit;
use fallline_core::backend::MAX_OPERANDS;
use fallline_core::{Arithmetic, Array, Role, Rule, apply};

/// An operand: plain singles, or, of a state, codes and scales.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) address: *mut u8,
    pub(crate) scales: *mut f32,
    /// Of a state.
    pub(crate) tables: Option<&'static Tables>,
}

/// A compiled rule: its scalars as for any entry, a place for each operand, and how many whole blocks.
pub(crate) type Fused = unsafe fn(scalars: *const f32, places: *const Place, blocks: usize);

/// Elements that are asked for ahead.
const AHEAD: usize = 512;
/// Registers of a turn.
const REGISTERS: usize = GROUP / 16;

/// A block of each state's new numbers, and the one before.
#[repr(C, align(64))]
struct Scratch([[MaybeUninit<[f32; BLOCK]>; 2]; MAX_OPERANDS]);

/// Whether operand `k` is a state.
const fn state<R: Rule>(k: usize) -> bool {
    matches!(R::OPERANDS[k].role, Role::State)
}

/// The body for each operand, written out: a loop over them would keep registers in memory.
macro_rules! for_each_operand {
    ($count:ident, $k:ident => $body:block) => {
        for_each_operand!(@ $count, $k => $body; 0 1 2 3 4 5 6 7)
    };
    (@ $count:ident, $k:ident => $body:block; $($place:literal)*) => { $(
        if $place < $count {
            let $k: usize = $place;
            $body
        }
    )* };
}
const _: () = assert!(MAX_OPERANDS == 8, "for_each_operand has as many places");

/// # Safety
/// `scalars` holds a whole row; `places` a place for each operand, with tables and scales for states, valid for reading
/// `blocks` blocks of 256 elements, and for writing them where the rule writes; no operand that is written overlaps
/// another; the rule has no sums; the CPU has AVX-512 with VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx2,fma,f16c")]
pub(crate) unsafe fn fused<R: Rule>(scalars: *const f32, places: *const Place, blocks: usize) {
    // SAFETY: of the whole body, the caller's contract; scratch is written before it is read, block by block.
    unsafe {
        let grad_scale = Zmm32::lit(f64::from(*scalars));
        let mut values = R::Scalars::fill(grad_scale);
        for (i, value) in values.as_mut().iter_mut().enumerate() {
            *value = Zmm32::lit(f64::from(*scalars.add(1 + i)));
        }
        let count = const { R::OPERANDS.len() };
        let places = core::slice::from_raw_parts(places, count);
        let mut scratch = Scratch([const { [MaybeUninit::uninit(); 2] }; MAX_OPERANDS]);
        let scratch = scratch.0.as_mut_ptr().cast::<[[f32; BLOCK]; 2]>();
        let numbers = |k: usize, side: usize, i: usize| {
            let both = scratch.add(k).cast::<f32>();
            both.add(side * BLOCK + i)
        };
        let mut encoders = [Encoder::new(0).1; MAX_OPERANDS];
        for block in 0..=blocks {
            let (side, other) = (block % 2, 1 - block % 2);
            let mut most = [_mm512_setzero_si512(); MAX_OPERANDS];
            for turn in 0..BLOCK / GROUP {
                let within = turn * GROUP;
                let first = block * BLOCK + within;
                if block < blocks {
                    let mut x = [R::Operands::fill(grad_scale); REGISTERS];
                    for_each_operand!(count, k => {
                        let Place { address, scales, tables } = places[k];
                        if state::<R>(k) {
                            let tables = tables.unwrap_unchecked();
                            let scale = _mm512_set1_ps(*scales.add(block));
                            let decoded = decode_group(tables, address.add(first), scale);
                            for (x, decoded) in x.iter_mut().zip(decoded) {
                                x.as_mut()[k] = Zmm32(decoded);
                            }
                        } else {
                            let address = address.cast::<f32>();
                            for (r, x) in x.iter_mut().enumerate() {
                                let ahead = address.wrapping_add(first + AHEAD + 16 * r);
                                _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
                                x.as_mut()[k] = Zmm32::load(address.add(first + 16 * r));
                            }
                        }
                    });
                    for x in &mut x {
                        apply::<R, Zmm32>(grad_scale, &values, x);
                    }
                    for_each_operand!(count, k => {
                        let written = R::OPERANDS[k].written;
                        for (r, x) in x.iter().enumerate().filter(|_| written) {
                            let x = x.as_ref()[k];
                            if state::<R>(k) {
                                most[k] = larger(most[k], x.0);
                                x.store(numbers(k, side, within + 16 * r));
                            } else {
                                x.store(places[k].address.cast::<f32>().add(first + 16 * r));
                            }
                        }
                    });
                }
                if block > 0 {
                    for_each_operand!(count, k => {
                        if state::<R>(k) && R::OPERANDS[k].written {
                            let tables = places[k].tables.unwrap_unchecked();
                            let codes = places[k].address.add(first - BLOCK);
                            encode_group(tables, &encoders[k], numbers(k, other, within), codes);
                        }
                    });
                }
            }
            if block < blocks {
                for_each_operand!(count, k => {
                    if state::<R>(k) && R::OPERANDS[k].written {
                        let (scale, encoder) = Encoder::new(_mm512_reduce_max_epu32(most[k]));
                        *places[k].scales.add(block) = scale;
                        encoders[k] = encoder;
                    }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Cpu, Isa, Native};
    use fallline_core::backend::{Pass, Plan, TensorPass, View};
    use fallline_core::{Backend, Codes, Compute, Format, Link, Storage, rule};

    rule! {
        /// AdamW at some step.
        pub AdamWRule(h: (), t) {}
        element(g: Grad) -> (p: Param, m: State, v: State) {
            let (beta1, beta2) = (L::lit(0.9), L::lit(0.999));
            m = beta1 * m + L::lit(0.1) * g;
            v = beta2 * v + L::lit(0.001) * g * g;
            p = L::lit(0.99999) * p - L::lit(1e-3) * m / (v.sqrt() * L::lit(1.2) + L::lit(1e-8));
        }
    }

    /// Parameter, moments and gradient.
    fn operands(cpu: &Cpu, len: usize, formats: [Format; 2], grads: impl Fn(usize) -> f32) -> Vec<Storage> {
        let requests = [(Format::F32, len), (formats[0], len), (formats[1], len), (Format::F32, len)];
        let mut storages = cpu.allocate(&requests).unwrap();
        let params: Vec<f32> = (0..len).map(|i| (i % 77) as f32 * 0.01).collect();
        let grads: Vec<f32> = (0..len).map(grads).collect();
        cpu.write(&mut storages[0], params.as_slice().into()).unwrap();
        cpu.write(&mut storages[3], grads.as_slice().into()).unwrap();
        storages
    }

    fn step(cpu: &Cpu, plan: &mut Plan, storages: &mut [Storage]) {
        let mut views = Some(storages);
        let pass = Pass {
            kernel: Native::kernel::<AdamWRule>(),
            compute: Compute::F32,
            tensors: &mut |operands| {
                let storages = views.take()?;
                let elements = storages[0].len();
                for (operand, storage) in operands.iter_mut().zip(storages) {
                    *operand = Some(View::write(storage));
                }
                Some(TensorPass { elements, row: 0 })
            },
            rows: &[1.0],
            tensor_scalars: &[],
            plan,
            sums: &mut [],
            beside: &[],
        };
        cpu.run(pass).unwrap();
    }

    const SIGNED: Codes = Codes::Signed;
    const UNSIGNED: Codes = Codes::Unsigned;

    #[test]
    fn the_fused_loop_gives_the_bits_of_the_reference() {
        let noise = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
        // Whole chunks and a tail; a block of zeros, one that is poisoned, one of tiny numbers.
        let grads = |i: usize| match i / 256 {
            3 => 0.0,
            5 if i % 256 == 77 => f32::NAN,
            8 => noise(i) * 1e-22,
            _ => noise(i).powi(5) * 0.01,
        };
        let len = 2 * crate::plan::CHUNK + 1000;
        for formats in [
            [Format::Q8(SIGNED), Format::Q8(UNSIGNED)],
            [Format::Q8Grid(SIGNED), Format::Q8Grid(UNSIGNED)],
            [Format::Q8(SIGNED), Format::F32],
            [Format::Q4(SIGNED), Format::Q4(UNSIGNED)],
        ] {
            let run = |cpu: Cpu| {
                let mut storages = operands(&cpu, len, formats, grads);
                let mut plan = cpu.plan();
                (0..3).for_each(|_| step(&cpu, &mut plan, &mut storages));
                let mut all = Vec::new();
                for storage in &storages[..3] {
                    let mut values = vec![0f32; len];
                    cpu.read(storage, values.as_mut_slice().into()).unwrap();
                    all.extend(values.iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }));
                    if let Some(blocks) = storage.memory().blocks() {
                        all.extend(blocks.codes.iter().map(|code| u32::from(*code)));
                    }
                }
                all
            };
            let expected = run(Cpu::scalar());
            for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
                for threads in [1, 2] {
                    let cpu = Cpu::with_isa(isa, threads).unwrap();
                    assert!(run(cpu) == expected, "{isa}, {formats:?}");
                }
            }
        }
    }

    /// Nanoseconds: of this thread alone, where it is the only one.
    fn now(threads: usize) -> f64 {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let clock = if threads == 1 { libc::CLOCK_THREAD_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
        // SAFETY: the clock exists, and `time` is a place for it.
        unsafe { libc::clock_gettime(clock, &mut time) };
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    }

    #[test]
    #[ignore = "measures: prints the time of 8-bit AdamW over that in f32"]
    fn speed() {
        for (len, threads, repeats) in [(16384, 1, 200), (8 << 20, 1, 1)] {
            for isa in [Isa::Avx2, Isa::Avx512] {
                let cpu = Cpu::with_isa(isa, threads).unwrap();
                let kinds = [
                    [Format::F32; 2],
                    [Format::Q8(SIGNED), Format::Q8(UNSIGNED)],
                    [Format::Q8Grid(SIGNED), Format::Q8Grid(UNSIGNED)],
                    [Format::Q8Linear(SIGNED), Format::Q8Linear(UNSIGNED)],
                    [Format::Q4(SIGNED), Format::Q4(UNSIGNED)],
                    [Format::Fp8, Format::Fp8],
                ];
                let mut times = vec![Vec::new(); kinds.len()];
                let noise =
                    |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
                let mut all: Vec<_> =
                    kinds.map(|formats| operands(&cpu, len, formats, |i| noise(i).powi(5) * 0.01)).into();
                let mut plans: Vec<_> = kinds.iter().map(|_| cpu.plan()).collect();
                for round in 0..8 {
                    for ((storages, plan), times) in all.iter_mut().zip(&mut plans).zip(&mut times) {
                        let start = now(threads);
                        (0..repeats).for_each(|_| step(&cpu, plan, storages));
                        let ns = (now(threads) - start) / (len * repeats) as f64;
                        if round > 0 {
                            times.push(ns);
                        }
                    }
                }
                for (kind, times) in kinds.iter().zip(&mut times) {
                    times.sort_by(f64::total_cmp);
                    println!("{isa} {len} {:10} median {:.3} min {:.3}", kind[0].name(), times[3], times[0]);
                }
            }
        }
    }
}
