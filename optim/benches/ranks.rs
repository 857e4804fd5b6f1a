//! The figures of docs/scaling.md: `cargo bench -p fallline-optim --bench ranks`.

use fallline_core::ranks::{Communicator, CountingComm, SelfComm, ThreadComm, threads};
use fallline_core::{Backend, Format, Tensor};
use fallline_cpu::{Cpu, Native};
use fallline_optim::algorithms::{AdamW, OnebitAdam};
use fallline_optim::ranks::{GradientReducer, ZeroRedundancy};
use fallline_optim::{AnyAlgorithm, Driver, Linked, Method, Optimizer, param};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(600);
/// Elements of the tensors of a layer, as in a transformer of 12 layers and a width of 256.
const LAYER: [usize; 6] = [3 * 256 * 256, 3 * 256, 256 * 256, 256, 2 * 4 * 256 * 256, 5 * 256];
const LAYERS: usize = 12;

fn main() {
    bytes_of_each_mode();
    throughput_of_two_ranks();
    overhead_of_one_rank();
}

/// Runs `work` on each rank, and returns what each returns.
fn on_each<T: Send>(ranks: Vec<ThreadComm>, work: impl Fn(ThreadComm) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let started: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(|| work(rank))).collect();
        started.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn lengths() -> Vec<usize> {
    (0..LAYERS).flat_map(|_| LAYER).collect()
}

fn adamw() -> Box<dyn AnyAlgorithm> {
    Box::new(Linked::<AdamW, Native>::new(AdamW::default()).unwrap())
}

fn algorithm(mode: &str) -> Box<dyn AnyAlgorithm> {
    match mode {
        "sharded" => Box::new(ZeroRedundancy::new(|_, _| Some(Ok(Method::Algorithm(adamw()))), &[]).unwrap()),
        "1-bit" => {
            let hyper = OnebitAdam { freeze_step: 1, ..OnebitAdam::default() };
            Box::new(Linked::<OnebitAdam, Native>::new(hyper).unwrap())
        }
        _ => adamw(),
    }
}

/// Bytes and exchanges of one step of each mode, in the mean over the ranks.
fn bytes_of_each_mode() {
    let elements: usize = lengths().iter().sum();
    println!("{elements} elements in {} tensors", lengths().len());
    for world in [1, 2, 4, 8] {
        for mode in ["averaged", "sharded", "1-bit"] {
            let counted = on_each(threads(world, LIMIT), |rank| {
                let counting = Arc::new(CountingComm::new(Arc::new(rank)));
                let ranks: Arc<dyn Communicator> = counting.clone();
                let mut optimizer = driver(algorithm(mode)).with_ranks(Arc::clone(&ranks));
                let mut reducer = GradientReducer::new(Arc::clone(&ranks)).unwrap();
                let names: Vec<String> = (0..lengths().len()).map(|i| format!("p{i}")).collect();
                let mut params: Vec<Vec<f32>> = lengths().iter().map(|&n| vec![0.5; n]).collect();
                let grads: Vec<Vec<f32>> = lengths().iter().map(|&n| vec![0.1; n]).collect();
                let mut before = counting.traffic();
                for _ in 0..4 {
                    before = counting.traffic();
                    let average = optimizer.averages() && world > 1;
                    if average {
                        for (name, grad) in names.iter().zip(&grads).rev() {
                            reducer.push(name, grad, 1.0 / world as f64).unwrap();
                        }
                    }
                    let averaged = average.then(|| reducer.wait().unwrap());
                    let mut bindings: Vec<_> = names
                        .iter()
                        .zip(&mut params)
                        .zip(&grads)
                        .map(|((name, p), g)| match &averaged {
                            Some(averaged) => param(name, p, averaged.get(name)),
                            None => param(name, p, g),
                        })
                        .collect();
                    optimizer.step(&mut bindings).unwrap();
                }
                let after = counting.traffic();
                let state = optimizer.params().iter().map(|param| param.state_bytes).sum::<usize>();
                (after.bytes - before.bytes, after.exchanges - before.exchanges, state)
            });
            let mean =
                |of: fn(&(u64, u64, usize)) -> u64| counted.iter().map(of).sum::<u64>() as f64 / world as f64;
            let bytes = mean(|counted| counted.0) / elements as f64;
            let state = mean(|counted| counted.2 as u64) / elements as f64;
            println!(
                "{world} ranks, {mode}: {bytes:.4} bytes an element, {} exchanges, {state:.2} of state",
                counted[0].1
            );
        }
    }
}

fn driver(algorithm: Box<dyn AnyAlgorithm>) -> Driver {
    Driver::new(Cpu::with_threads(1).unwrap().shared(), algorithm)
}

/// Returns the shortest of some steps over `tensors` tensors of `each` elements on every rank.
fn fastest(
    world: usize,
    algorithm: &(dyn Fn() -> Box<dyn AnyAlgorithm> + Sync),
    each: usize,
    tensors: usize,
    alone: bool,
) -> Duration {
    let times = on_each(threads(world, LIMIT), |rank| {
        let ranks: Arc<dyn Communicator> = Arc::new(rank);
        let backend: Arc<dyn Backend> = Cpu::with_threads(1).unwrap().shared();
        let optimizer = Driver::new(Arc::clone(&backend), algorithm());
        let mut optimizer = if alone { optimizer } else { optimizer.with_ranks(Arc::clone(&ranks)) };
        let names: Vec<String> = (0..tensors).map(|i| format!("p{i}")).collect();
        let shapes = || vec![[each]; tensors];
        let mut params = Tensor::side_by_side(&backend, Format::F32, shapes()).unwrap();
        let mut grads = Tensor::side_by_side(&backend, Format::F32, shapes()).unwrap();
        // Memory that was never written is one page of zeros.
        for grad in &mut grads {
            backend.write(grad.storage_mut(), vec![0.1_f32; each].as_slice().into()).unwrap();
        }
        let mut times = Vec::new();
        for _ in 0..12 {
            ranks.barrier().unwrap();
            let begun = Instant::now();
            let mut bindings: Vec<_> =
                names.iter().zip(&mut params).zip(&grads).map(|((name, p), g)| param(name, p, g)).collect();
            optimizer.step(&mut bindings).unwrap();
            ranks.barrier().unwrap();
            times.push(begun.elapsed());
        }
        times
    });
    // A step takes as long as the slowest rank.
    (2..12).map(|i| times.iter().map(|of| of[i]).max().unwrap()).min().unwrap()
}

/// Two ranks with sharded states against two that each have half of the parameters and nothing to exchange. Quick
/// steps of both are interleaved, so that a machine that does other things disturbs them alike.
fn throughput_of_two_ranks() {
    for (each, tensors) in [(1 << 20, 32), (1 << 14, 256), (1 << 22, 16)] {
        let mut rounds: Vec<(f64, f64)> = (0..9)
            .map(|_| {
                let halves = fastest(2, &adamw, each, tensors / 2, true).as_secs_f64();
                (halves, fastest(2, &|| algorithm("sharded"), each, tensors, false).as_secs_f64())
            })
            .collect();
        rounds.sort_by(|one, other| (one.0 / one.1).total_cmp(&(other.0 / other.1)));
        let ratios: Vec<f64> = rounds.iter().map(|(halves, shared)| halves / shared).collect();
        let least = |of: fn(&(f64, f64)) -> f64| rounds.iter().map(of).fold(f64::MAX, f64::min);
        let (halves, shared) = (least(|round| round.0), least(|round| round.1));
        let elements = (each * tensors) as f64;
        println!(
            "{tensors} x {each}: {ratios:.2?}; shortest {:.3} and {:.3} ms ({:.2}): {:.1} GB/s of steps, {:.1} GB/s broadcast",
            1e3 * halves,
            1e3 * shared,
            halves / shared,
            28.0 * elements / halves / 1e9,
            4.0 * elements / (shared - halves) / 1e9,
        );
    }
}

/// A driver that was given a world of one against one that was given none.
fn overhead_of_one_rank() {
    for (each, tensors) in [(1000, 10), (1 << 20, 8)] {
        let one = |ranks: bool| {
            let mut optimizer = driver(adamw());
            if ranks {
                optimizer = optimizer.with_ranks(Arc::new(SelfComm));
            }
            let names: Vec<String> = (0..tensors).map(|i| format!("p{i}")).collect();
            let mut params = vec![vec![0.5_f32; each]; tensors];
            let grads = vec![vec![0.1_f32; each]; tensors];
            let time = |_| {
                let begun = Instant::now();
                let mut bindings: Vec<_> = names
                    .iter()
                    .zip(&mut params)
                    .zip(&grads)
                    .map(|((name, p), g)| param(name, p, g))
                    .collect();
                optimizer.step(&mut bindings).unwrap();
                begun.elapsed()
            };
            (0..if each == 1000 { 20_000 } else { 60 }).map(time).skip(5).min().unwrap().as_secs_f64()
        };
        let mut ratios: Vec<f64> = (0..7).map(|_| one(true) / one(false)).collect();
        ratios.sort_by(f64::total_cmp);
        println!("{tensors} x {each}: {ratios:.3?} times the time without a communicator");
    }
}
