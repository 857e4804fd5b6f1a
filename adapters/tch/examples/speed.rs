//! AdamW's step by libtorch and by fallline, interleaved: `cargo run --release --example speed`.

use fallline_cpu::{Cpu, Native};
use fallline_optim::algorithms::AdamW;
use fallline_optim::{Driver, Linked};
use fallline_tch::TchOptimizer;
use std::time::Instant;
use tch::nn::{self, OptimizerConfig, VarStore};
use tch::{Device, Kind, Tensor};

const ROUNDS: usize = 9;
const LR: f64 = 1e-3;

/// Returns a store of so many variables, which have gradients.
fn store(count: usize, elements: i64) -> VarStore {
    let store = VarStore::new(Device::Cpu);
    let layers = store.root() / "layers";
    let mut loss = Tensor::zeros(1, (Kind::Float, Device::Cpu));
    for i in 0..count {
        loss += layers.ones(&i.to_string(), &[elements]).sum(Kind::Float) * 0.5;
    }
    loss.backward();
    store
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let threads = std::thread::available_parallelism()?.get();
    tch::set_num_threads(i32::try_from(threads)?);
    for (what, count, elements) in
        [("1 of 10,000,000", 1, 10_000_000), ("300 of 30,000", 300, 30_000), ("2,000 of 1,000", 2_000, 1_000)]
    {
        let [theirs, ours] = [(); 2].map(|()| store(count, elements));
        let mut torch = nn::AdamW::default().build(&theirs, LR)?;
        let adamw = Linked::<AdamW, Native>::new(AdamW { lr: LR, ..AdamW::default() })?;
        let driver = Driver::new(Cpu::with_threads(threads)?.shared(), Box::new(adamw));
        let mut fallline = TchOptimizer::new(&ours, driver)?;
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS + 2 {
            let started = Instant::now();
            torch.step();
            let between = Instant::now();
            fallline.step()?;
            if round >= 2 {
                times[0].push((between - started).as_secs_f64() * 1e3);
                times[1].push(between.elapsed().as_secs_f64() * 1e3);
            }
        }
        times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
        let [torch, fallline] = times.map(|times| times[ROUNDS / 2]);
        println!("{what}: torch {torch:.2} ms, fallline {fallline:.2} ms, {:.1} times", torch / fallline);
    }
    Ok(())
}
