//! Incremental steps against whole ones: 2,000 tensors of 1,000, one by one and in parts of 250, on one thread and on two.

use fallline_cpu::{Cpu, Native};
use fallline_optim::algorithms::AdamW;
use fallline_optim::{Driver, Linked, param};
use std::time::Instant;

const TENSORS: usize = 2_000;
const ELEMENTS: usize = 1_000;
/// How many are applied at once in the third way.
const PART: usize = 250;
const ROUNDS: usize = 25;

fn main() {
    for threads in [1, 2] {
        let cpu = Cpu::with_threads(threads).expect("threads").shared();
        let mut optimizers: Vec<Driver> = (0..3)
            .map(|_| {
                let algorithm = Linked::<AdamW, Native>::new(AdamW::default()).expect("the defaults");
                Driver::new(cpu.clone(), Box::new(algorithm))
            })
            .collect();
        let names: Vec<String> = (0..TENSORS).map(|i| format!("layers.{i}.weight")).collect();
        let mut weights = vec![vec![1.0f32; ELEMENTS]; TENSORS];
        let grads = vec![vec![0.5f32; ELEMENTS]; TENSORS];
        let mut times = [f64::MAX; 3];
        for round in 0..ROUNDS {
            for (way, optimizer) in optimizers.iter_mut().enumerate() {
                let started = Instant::now();
                let tensors = names.iter().zip(&mut weights).zip(&grads);
                let mut bindings: Vec<_> =
                    tensors.map(|((name, weight), grad)| param(name, weight, grad)).collect();
                match way {
                    0 => drop(optimizer.step(&mut bindings).expect("a step")),
                    _ => {
                        let mut step = optimizer.begin().expect("an incremental step");
                        let parts = if way == 1 { 1 } else { PART };
                        for part in bindings.chunks_mut(parts) {
                            step.apply_all(part).expect("a step");
                        }
                        step.finish().expect("a step");
                    }
                }
                if round > 2 {
                    times[way] = times[way].min(started.elapsed().as_secs_f64() * 1e3);
                }
            }
        }
        let [whole, each, parts] = times;
        println!(
            "{threads} threads: whole {whole:.2} ms, one by one {each:.2} ms ({:.2} times), by {PART} {parts:.2} ms ({:.2} times)",
            each / whole,
            parts / whole
        );
    }
}
