//! Small steps: the speed of each instruction set in the cache, and what a step costs in addition.
//!
//! `cargo bench --bench cache`. To see what the choice at run time costs, against a build for this machine
//! only: `cargo bench --bench cache -- --save-baseline default`, then
//! `RUSTFLAGS="-C target-cpu=native" cargo bench --bench cache -- --baseline default`.

mod common;

use common::{OPTIMIZERS, Trainer, optimizer, optimizer_on};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fallline::Isa;

/// Elements of each stream: parameter, gradient and two states fill a quarter of a megabyte.
const ELEMENTS: usize = 16 << 10;

/// One thread, each instruction set that the machine has.
fn instruction_sets(c: &mut Criterion) {
    for (name, config) in OPTIMIZERS {
        let mut group = c.benchmark_group(format!("in cache/{name}"));
        group.throughput(Throughput::Elements(ELEMENTS as u64));
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let mut optimizer = optimizer_on(config, isa, 1);
            let mut trainer = Trainer::<f32>::new(&[ELEMENTS]);
            let mut bindings = trainer.bind();
            group.bench_function(isa.name(), |b| {
                b.iter(|| optimizer.step(&mut bindings).expect("a valid step"));
            });
        }
        group.finish();
    }
}

/// A model of 10,000 parameters in 10 tensors; ten tensors of one element are next to nothing but
/// overhead.
fn overhead(c: &mut Criterion) {
    let mut group = c.benchmark_group("overhead/AdamW");
    for threads in [1, 2] {
        for (id, lengths) in
            [("10 of 1000", &[1000; 10][..]), ("1 of 10000", &[10_000]), ("10 of 1", &[1; 10])]
        {
            let mut optimizer = optimizer("AdamW", threads);
            let mut trainer = Trainer::<f32>::new(lengths);
            let mut bindings = trainer.bind();
            group.bench_function(format!("{id}/{threads}"), |b| {
                b.iter(|| optimizer.step(&mut bindings).expect("a valid step"));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, instruction_sets, overhead);
criterion_main!(benches);
