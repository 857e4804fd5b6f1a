//! AdamW's step by candle and by fallline, in turns: `cargo run --release --example speed`.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer, ParamsAdamW, VarMap};
use fallline_candle::CandleOptimizer;
use fallline_cpu::{Cpu, Native};
use fallline_optim::algorithms::AdamW;
use fallline_optim::{Driver, Linked};
use std::time::Instant;

const ROUNDS: usize = 9;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (what, count, elements) in
        [("1 of 10,000,000", 1, 10_000_000), ("300 of 30,000", 300, 30_000), ("2,000 of 1,000", 2_000, 1_000)]
    {
        let variables = VarMap::new();
        for i in 0..count {
            let variable = Var::ones(elements, DType::F32, &Device::Cpu)?;
            variables.data().lock().map_err(|_| "poisoned")?.insert(format!("layers.{i}"), variable);
        }
        let mut grads = Tensor::ones(1, DType::F32, &Device::Cpu)?.backward()?;
        for variable in variables.all_vars() {
            grads.insert(&variable, (variable.ones_like()? * 0.5)?);
        }
        let mut candle = candle_nn::AdamW::new(variables.all_vars(), ParamsAdamW::default())?;
        let adamw = Linked::<AdamW, Native>::new(AdamW::default())?;
        let driver = Driver::new(Cpu::new()?.shared(), Box::new(adamw));
        let mut fallline = CandleOptimizer::new(&variables, driver)?;
        let mut times = [Vec::new(), Vec::new()];
        for round in 0..ROUNDS + 2 {
            let started = Instant::now();
            candle.step(&grads)?;
            let between = Instant::now();
            fallline.step(&grads)?;
            if round >= 2 {
                times[0].push((between - started).as_secs_f64() * 1e3);
                times[1].push(between.elapsed().as_secs_f64() * 1e3);
            }
        }
        times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
        let [candle, fallline] = times.map(|times| times[ROUNDS / 2]);
        println!("{what}: candle {candle:.2} ms, fallline {fallline:.2} ms, {:.1} times", candle / fallline);
    }
    Ok(())
}
