//! Steps between the parallel loops of a program, on each kind of threads: `cargo bench -p fallline-optim --bench rayon`.
//!
//! A loop of rayon computes the gradients, then AdamW steps; that is one round. The kinds take turns, round by round. With
//! the backend's own threads both kinds of threads look for work on the same cores.

use fallline_cpu::{Cpu, Native};
use fallline_optim::algorithms::AdamW;
use fallline_optim::{Driver, Linked, param};
use rayon::prelude::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

const ELEMENTS: usize = 4 << 20;
const TENSORS: usize = 64;
const ROUNDS: usize = 60;

/// A model and its optimizer.
struct Run {
    name: &'static str,
    params: Vec<Vec<f32>>,
    grads: Vec<Vec<f32>>,
    optimizer: Driver,
    /// The pool that the program's loops are in, where not the global one.
    pool: Option<Arc<rayon::ThreadPool>>,
    rounds: Vec<Duration>,
}

impl Run {
    fn new(name: &'static str, cpu: Cpu, pool: Option<Arc<rayon::ThreadPool>>) -> Run {
        let tensors = || vec![vec![0.5f32; ELEMENTS / TENSORS]; TENSORS];
        let algorithm = Linked::<AdamW, Native>::new(AdamW::default()).expect("valid defaults");
        let optimizer = Driver::new(cpu.shared(), Box::new(algorithm));
        Run { name, params: tensors(), grads: tensors(), optimizer, pool, rounds: Vec::new() }
    }

    fn round(&mut self) {
        let Run { params, grads, optimizer, pool, .. } = self;
        let start = Instant::now();
        let mut gradients = || {
            let pairs = grads.par_iter_mut().zip(&*params);
            pairs.for_each(|(grad, param)| {
                grad.iter_mut().zip(param).for_each(|(g, p)| *g = 0.9 * *g + 0.1 * p);
            });
        };
        match pool {
            Some(pool) => pool.install(gradients),
            None => gradients(),
        }
        let names: Vec<String> = (0..TENSORS).map(|i| i.to_string()).collect();
        let mut bindings: Vec<_> =
            names.iter().zip(&mut *params).zip(&*grads).map(|((name, p), g)| param(name, p, g)).collect();
        optimizer.step(&mut bindings).expect("a valid step");
        self.rounds.push(start.elapsed());
    }
}

fn main() {
    let pool = Arc::new(rayon::ThreadPoolBuilder::new().build().expect("threads"));
    let mut runs = [
        Run::new("own threads", Cpu::new().expect("threads"), None),
        Run::new("with_pool", Cpu::with_pool(Arc::clone(&pool)).expect("a backend"), Some(pool)),
        Run::new("with_global_pool", Cpu::with_global_pool().expect("threads"), None),
    ];
    for _ in 0..ROUNDS {
        runs.iter_mut().for_each(Run::round);
    }
    for Run { name, rounds, .. } in &mut runs {
        rounds.sort();
        let (least, median) = (rounds[0], rounds[ROUNDS / 2]);
        println!("{name:16}  median {median:8.2?}  least {least:8.2?}");
    }
}
