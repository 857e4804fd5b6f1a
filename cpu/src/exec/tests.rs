//! Formats in a pass, against the reference.

use crate::{Cpu, Isa, Native};
use fallline_core::backend::{DeviceMemory, Pass, Plan, TensorPass, View};
use fallline_core::{Backend, Codes, Compute, Format, Link, Storage, rule};

rule! {
    /// AdamW at some step.
    pub AdamWRule(h: (), t) {}
    element(g: Grad) -> (p: Param, m: State, v: State) {
        let (beta1, beta2) = (L::splat(0.9), L::splat(0.999));
        m = beta1 * m + L::splat(0.1) * g;
        v = beta2 * v + L::splat(0.001) * g * g;
        p = L::splat(0.99999) * p - L::splat(1e-3) * m / (v.sqrt() * L::splat(1.2) + L::splat(1e-8));
    }
}

/// Returns the parameter, moments and gradient.
fn operands(cpu: &Cpu, len: usize, formats: [Format; 2], grads: impl Fn(usize) -> f32) -> Vec<Storage> {
    let requests = [(Format::F32, len), (formats[0], len), (formats[1], len), (Format::F32, len)];
    let mut storages = cpu.allocate(&requests).unwrap();
    let params: Vec<f32> = (0..len).map(|i| (i % 77) as f32 * 0.01).collect();
    let grads: Vec<f32> = (0..len).map(grads).collect();
    cpu.write(&mut storages[0], params.as_slice().into()).unwrap();
    cpu.write(&mut storages[3], grads.as_slice().into()).unwrap();
    storages
}

/// Runs a step in which the gradient's runs of so many elements are repeated so many times.
fn step(cpu: &Cpu, plan: &mut Plan, storages: &mut [Storage], (run, times): (usize, usize)) {
    let mut views = Some(storages);
    let pass = Pass {
        kernel: Native::kernel::<AdamWRule>(),
        compute: Compute::F32,
        tensors: &mut |operands| {
            let storages = views.take()?;
            let elements = storages[0].len();
            let (grad, written) = storages.split_last_mut()?;
            for (operand, storage) in operands.iter_mut().zip(written) {
                *operand = Some(View::write(storage));
            }
            operands[3] = Some(View::read(grad).broadcast(run, times));
            Some(TensorPass { elements, constant_set: 0 })
        },
        constants: &[1.0],
        tensor_scalars: &[],
        plan,
        sums: &mut [],
        fused: &[],
        checked: false,
    };
    cpu.run(pass).unwrap();
}

const SIGNED: Codes = Codes::Signed;
const UNSIGNED: Codes = Codes::Unsigned;

/// Returns what the rule has written, to be compared.
fn bits(cpu: &Cpu, storages: &[Storage]) -> Vec<u32> {
    let mut all = Vec::new();
    for storage in &storages[..3] {
        let mut values = vec![0f32; storage.len()];
        cpu.read(storage, values.as_mut_slice().into()).unwrap();
        all.extend(values.iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }));
        if let Some(blocks) = storage.memory().blocks() {
            all.extend(blocks.codes.iter().map(|code| u32::from(*code)));
        }
    }
    all
}

#[test]
fn the_fused_loop_gives_the_bits_of_the_reference() {
    let noise = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
    // Whole chunks and a tail; a block of zeros, one that is not finite, one of tiny numbers.
    let grads = |i: usize| match i / 256 {
        3 => 0.0,
        5 if i % 256 == 77 => f32::NAN,
        8 => noise(i) * 1e-22,
        _ => noise(i).powi(5) * 0.01,
    };
    let len = 2 * super::tiling::CHUNK + 1000;
    for formats in [
        [Format::Q8(SIGNED), Format::Q8(UNSIGNED)],
        [Format::Q8Grid(SIGNED), Format::Q8Grid(UNSIGNED)],
        [Format::Q8(SIGNED), Format::F32],
        [Format::Q4(SIGNED), Format::Q4(UNSIGNED)],
        [Format::Q8Linear(SIGNED), Format::Fp8],
        [Format::Bf16, Format::F16],
    ] {
        let run = |cpu: Cpu| {
            let mut storages = operands(&cpu, len, formats, grads);
            let mut plan = cpu.plan();
            (0..3).for_each(|_| step(&cpu, &mut plan, &mut storages, (1, 1)));
            bits(&cpu, &storages)
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

#[test]
fn repeated_operands_give_the_bits_of_written_out_ones_in_every_format() {
    let grads = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
    // More than a chunk; a part of a step at the end. Elements that fill many steps, and that do not; short and long runs.
    for (run, times, count) in [(1, 5000, 5), (1, 7, 3001), (3, 700, 11), (700, 3, 11), (9001, 2, 1)] {
        let (stored, len) = (run * count, run * count * times);
        for formats in [
            [Format::F32; 2],
            [Format::Q8(SIGNED), Format::Q8(UNSIGNED)],
            [Format::Q4(SIGNED), Format::F32],
            [Format::Bf16, Format::Fp8],
        ] {
            let cpu = Cpu::scalar();
            let mut storages = operands(&cpu, len, formats, |i| grads(i / (times * run) * run + i % run));
            let mut plan = cpu.plan();
            (0..2).for_each(|_| step(&cpu, &mut plan, &mut storages, (1, 1)));
            let expected = bits(&cpu, &storages);
            for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
                let cpu = Cpu::with_isa(isa, 2).unwrap();
                let mut storages = operands(&cpu, len, formats, |_| 0.0);
                storages[3] = cpu.allocate(&[(Format::F32, stored)]).unwrap().remove(0);
                let grads: Vec<f32> = (0..stored).map(grads).collect();
                cpu.write(&mut storages[3], grads.as_slice().into()).unwrap();
                let mut plan = cpu.plan();
                (0..2).for_each(|_| step(&cpu, &mut plan, &mut storages, (run, times)));
                assert!(bits(&cpu, &storages) == expected, "{isa}, {formats:?}, {run} {times} times");
            }
        }
    }
}

#[test]
fn operands_of_16_bits_give_the_bits_of_the_reference_in_any_mixture() {
    let (single, half) = (Format::F32, Format::Bf16);
    let noise = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0;
    // Numbers of all sizes, NaN in the first chunk and in a tail that is no pair, and less than a pair altogether.
    for len in [super::tiling::CHUNK + 1013, 36, 5] {
        for (formats, chances, copied) in [
            ([half; 4], [true; 3], false),
            ([half; 4], [false; 3], false),
            ([half; 4], [true, false, true], false),
            ([half, single, single, half], [true, false, false], false),
            ([half, half, single, single], [true, true, false], false),
            ([single, single, half, half], [false, false, true], true),
            ([half, half, half, half], [true, true, true], true),
        ] {
            let run = |cpu: Cpu| {
                let mut storages = cpu.allocate(&formats.map(|format| (format, len))).unwrap();
                let mut copy = cpu.allocate(&[(half, len)]).unwrap().remove(0);
                let params: Vec<f32> = (0..len).map(|i| noise(i + 7) * 3.0).collect();
                let grads: Vec<f32> = (0..len)
                    .map(|i| if i == 300 || i + 2 == len { f32::NAN } else { noise(i).powi(5) * 0.01 })
                    .collect();
                cpu.write(&mut storages[0], params.as_slice().into()).unwrap();
                cpu.write(&mut storages[3], grads.as_slice().into()).unwrap();
                let mut plan = cpu.plan();
                for round in 0..3 {
                    let mut views = Some((&mut storages, &mut copy));
                    let pass = Pass {
                        kernel: Native::kernel::<AdamWRule>(),
                        compute: Compute::F32,
                        tensors: &mut |operands| {
                            let (storages, copy) = views.take()?;
                            let mut copy = copied.then(|| View::write(copy));
                            let (grad, written) = storages.split_last_mut()?;
                            for (k, (operand, storage)) in operands.iter_mut().zip(written).enumerate() {
                                let mut view = View::write(storage);
                                if chances[k] {
                                    view = view.with_stochastic_rounding(
                                        0x0123_4567_89ab_cdef * (3 * round + k as u64 + 1),
                                    );
                                }
                                *operand = Some(match copy.take() {
                                    Some(copy) => view.with_cast_copy(copy),
                                    None => view,
                                });
                            }
                            operands[3] = Some(View::read(grad));
                            Some(TensorPass { elements: len, constant_set: 0 })
                        },
                        constants: &[1.0],
                        tensor_scalars: &[],
                        plan: &mut plan,
                        sums: &mut [],
                        fused: &[],
                        checked: false,
                    };
                    cpu.run(pass).unwrap();
                }
                let mut found = bits(&cpu, &storages);
                if copied {
                    let mut values = vec![0f32; len];
                    cpu.read(&copy, values.as_mut_slice().into()).unwrap();
                    found.extend(values.iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }));
                }
                found
            };
            let expected = run(Cpu::scalar());
            assert!(expected.contains(&u32::MAX) && expected.iter().any(|&bits| bits != u32::MAX));
            for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
                for threads in [1, 2] {
                    let cpu = Cpu::with_isa(isa, threads).unwrap();
                    assert!(run(cpu) == expected, "{isa}, {len}, {formats:?}, {chances:?}, {copied}");
                }
            }
        }
    }
}
