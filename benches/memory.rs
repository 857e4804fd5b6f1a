//! Large steps: how close they come to the speed of memory.
//!
//! `cargo bench --bench memory`. Each group holds a step next to its baseline. `FALLLINE_BENCH_ELEMENTS` sets the
//! elements of a flat tensor (16M by default), `FALLLINE_ISA` the instruction set. Criterion measures one benchmark
//! after the other; `fallline bench` interleaves step and baseline, which is the better ratio on a machine that
//! is not quiet.

mod common;

use common::{OPTIMIZERS, Trainer, optimizer};
use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use fallline::cpu::stream::{StreamLoop, StreamOperand};
use fallline::optim::AnyAlgorithm;
use fallline::prelude::*;
use half::bf16;
use std::hint::black_box;
use std::time::Duration;

const THREADS: [usize; 2] = [1, 2];
const F32: usize = size_of::<f32>();

/// Returns the number of elements of a flat tensor.
fn elements() -> usize {
    match std::env::var("FALLLINE_BENCH_ELEMENTS") {
        Ok(text) => text.parse().expect("FALLLINE_BENCH_ELEMENTS is a number"),
        Err(_) => 1 << 24,
    }
}

fn group<'c>(c: &'c mut Criterion, name: &str, elements: usize) -> BenchmarkGroup<'c, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sample_size(10).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(elements as u64));
    group
}

/// Times a step of a configuration over everything that the bindings hold.
fn step(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: String,
    config: &str,
    bindings: &mut [Binding<'_>],
    threads: usize,
) {
    let mut optimizer = optimizer(config, threads);
    group.bench_function(id, |b| b.iter(|| optimizer.step(bindings).expect("a valid step")));
}

/// Times a pass that only moves the bytes which the algorithm's rule reads and writes.
fn plain(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: String,
    algorithm: &dyn AnyAlgorithm,
    elements: usize,
    threads: usize,
) {
    let cpu = Cpu::with_threads(threads).expect("threads");
    let operands =
        algorithm.program(fallline::optim::Variant::ONLY).update().expect("an update").operands.iter();
    let mut buffers: Vec<_> = operands.map(|operand| (operand.written, vec![1u8; elements * F32])).collect();
    group.bench_function(id, |b| {
        b.iter(|| {
            let streams = buffers.iter_mut().map(|(written, bytes)| match written {
                true => StreamOperand::Update(bytes),
                false => StreamOperand::Read(bytes),
            });
            cpu.stream_copy(elements, &mut streams.collect::<Vec<_>>(), black_box(0), StreamLoop::default())
        });
    });
}

/// One flat tensor against the plain pass.
fn flat(c: &mut Criterion) {
    let elements = elements();
    for (name, config) in OPTIMIZERS {
        let mut group = group(c, &format!("flat/{name}"), elements);
        let recipe = Recipe::from_text(config).expect("a configuration of this file");
        for threads in THREADS {
            let mut trainer = Trainer::<f32>::new(&[elements]);
            step(&mut group, format!("step/{threads}"), config, &mut trainer.bind(), threads);
            drop(trainer);
            plain(&mut group, format!("plain pass/{threads}"), recipe.algorithm(), elements, threads);
        }
        group.finish();
    }
}

/// bf16 parameters and gradients with f32 states; compare with `flat/AdamW/step`.
fn half_precision(c: &mut Criterion) {
    let elements = elements();
    let mut group = group(c, "bf16/AdamW", elements);
    for threads in THREADS {
        let mut trainer = Trainer::<bf16>::new(&[elements]);
        step(&mut group, format!("step/{threads}"), "AdamW", &mut trainer.bind(), threads);
    }
    group.finish();
}

/// The 161 tensors of ResNet-50 compared with one of as many elements.
fn resnet50(c: &mut Criterion) {
    let lengths = resnet50_lengths();
    let elements = lengths.iter().sum();
    assert_eq!((lengths.len(), elements), (161, 25_557_032));
    let mut group = group(c, "resnet50/AdamW", elements);
    for threads in THREADS {
        for (id, lengths) in [("161 tensors", &lengths[..]), ("flat", &[elements])] {
            let mut trainer = Trainer::<f32>::new(lengths);
            step(&mut group, format!("{id}/{threads}"), "AdamW", &mut trainer.bind(), threads);
        }
    }
    group.finish();
}

/// 10,000 tensors of 1,000 elements: buffers of the training loop, slices of one buffer, and one tensor.
fn small(c: &mut Criterion) {
    let (tensors, length) = (10_000, 1_000);
    let mut group = group(c, "small/AdamW", tensors * length);
    for threads in THREADS {
        let mut owned = Trainer::<f32>::new(&vec![length; tensors]);
        step(&mut group, format!("owned/{threads}"), "AdamW", &mut owned.bind(), threads);
        // As a trainer does that writes its gradients between steps.
        let mut optimizer = optimizer("AdamW", threads);
        group.bench_function(format!("owned, bound for each step/{threads}"), |b| {
            b.iter(|| optimizer.step(&mut owned.bind()).expect("a valid step"));
        });
        drop((owned, optimizer));

        let (mut values, grads) = (vec![1.0f32; tensors * length], vec![0.01f32; tensors * length]);
        let names: Vec<String> = (0..tensors).map(|i| format!("tensor{i}")).collect();
        let slices = values.chunks_exact_mut(length).zip(grads.chunks_exact(length));
        let mut bindings: Vec<_> =
            names.iter().zip(slices).map(|(name, (value, grad))| param(name, value, grad)).collect();
        step(&mut group, format!("slices/{threads}"), "AdamW", &mut bindings, threads);
        drop(bindings);
        step(
            &mut group,
            format!("flat/{threads}"),
            "AdamW",
            &mut [param("all", &mut values, &grads)],
            threads,
        );
    }
    group.finish();
}

/// The first step, which allocates the states: once a run, but a pause that a user sees.
fn first_step(c: &mut Criterion) {
    let elements = elements();
    let mut group = group(c, "first step/AdamW", elements);
    let mut trainer = Trainer::<f32>::new(&[elements]);
    let mut bindings = trainer.bind();
    group.bench_function("2", |b| {
        let step = |mut optimizer: Driver| {
            optimizer.step(&mut bindings).expect("a valid step");
            optimizer
        };
        b.iter_batched(|| optimizer("AdamW", 2), step, BatchSize::PerIteration);
    });
    group.finish();
}

/// Returns the lengths of ResNet-50 (He et al. 2016): each convolution with the scale and shift of its batch
/// normalisation.
fn resnet50_lengths() -> Vec<usize> {
    let convolution = |from: usize, to: usize, kernel: usize| [from * to * kernel * kernel, to, to];
    let mut lengths = convolution(3, 64, 7).to_vec();
    let mut from = 64;
    for (width, blocks) in [(64, 3), (128, 4), (256, 6), (512, 3)] {
        for block in 0..blocks {
            lengths.extend(convolution(from, width, 1));
            lengths.extend(convolution(width, width, 3));
            lengths.extend(convolution(width, 4 * width, 1));
            if block == 0 {
                lengths.extend(convolution(from, 4 * width, 1));
            }
            from = 4 * width;
        }
    }
    lengths.extend([from * 1000, 1000]);
    lengths
}

criterion_group!(benches, flat, half_precision, resnet50, small, first_step);
criterion_main!(benches);
