//! Row-sparse gradients: what a step costs when it touches a part of a large table.
//!
//! `cargo bench --bench rows`. The table has 128 MB; rows are drawn at random, so that most of them have no
//! neighbours. The throughput counts the elements that are touched: it is the same where cost is proportional to
//! them.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fallline::Recipe;
use fallline::prelude::*;
use std::sync::Arc;

const ROWS: usize = 500_000;
const WIDTH: usize = 64;

fn touched_rows(c: &mut Criterion) {
    let mut table = vec![1.0f32; ROWS * WIDTH];
    for config in ["SparseAdam", "Adagrad", "SGD"] {
        let mut group = c.benchmark_group(format!("rows/{config}"));
        for percent in [1, 10, 100] {
            // Multiples of a number without a common factor with ROWS: each row once, in no order.
            let count = ROWS * percent / 100;
            let indices: Vec<i64> = (0..count).map(|i| (i * 314_159 % ROWS) as i64).collect();
            let values = vec![0.01f32; count * WIDTH];
            let cpu = Cpu::with_threads(2).expect("threads");
            let recipe = Recipe::from_text(config).expect("a configuration of this file");
            let mut optimizer = recipe.optimizer(Arc::new(cpu));
            group.throughput(Throughput::Elements((count * WIDTH) as u64)).sample_size(10);
            group.bench_function(BenchmarkId::from_parameter(format!("{percent}%")), |b| {
                b.iter(|| {
                    let grad = rows(&indices, &values);
                    let mut bindings = [param("table", &mut table, grad).shaped(&[ROWS, WIDTH])];
                    optimizer.step(&mut bindings).expect("a valid step")
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, touched_rows);
criterion_main!(benches);
