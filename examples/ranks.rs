//! A training loop on several ranks: a linear model whose examples are split over them.
//!
//! ```sh
//! cargo run --release --example ranks                  # three ranks, threads of this process
//! cargo build --release --example ranks --features mpi
//! mpirun -n 3 target/release/examples/ranks            # three processes
//! ```

use fallline::optim::param;
use fallline::prelude::*;
use fallline::ranks::{Communicator, GradientReducer};
use std::sync::Arc;
use std::time::Duration;

const INPUTS: usize = 8;
const EXAMPLES: usize = 64;

/// Returns one example: its input, and what is to be predicted, which is the sum of the inputs.
fn example(i: usize) -> ([f32; INPUTS], f32) {
    let input = core::array::from_fn(|k| ((i * 7 + k * 13) % 17) as f32 / 8.0 - 1.0);
    (input, input.iter().sum())
}

fn train(ranks: Arc<dyn Communicator>) -> Result<Vec<f32>, Box<dyn std::error::Error + Send + Sync>> {
    let (rank, world) = (ranks.rank(), ranks.world_size());
    // States are sharded; with type="AdamW" every rank would have all of them.
    let recipe = Recipe::from_text("dict(type='ZeroRedundancyOptimizer', optimizer_type='AdamW', lr=0.05)")?;
    let mut optimizer = recipe.optimizer(Cpu::with_threads(1)?.shared()).with_ranks(Arc::clone(&ranks));
    let mut reducer = GradientReducer::new(Arc::clone(&ranks))?;
    let (mut weight, mut bias) = (vec![0.0_f32; INPUTS], [0.0_f32; 1]);
    let own = rank * EXAMPLES / world..(rank + 1) * EXAMPLES / world;
    let share = own.len() as f64 / EXAMPLES as f64;
    for step in 0..300 {
        let (mut weight_grad, mut bias_grad, mut loss) = (vec![0.0_f32; INPUTS], [0.0_f32; 1], 0.0);
        for (input, wanted) in own.clone().map(example) {
            let error = bias[0] + weight.iter().zip(input).map(|(w, x)| w * x).sum::<f32>() - wanted;
            loss += error * error / own.len() as f32;
            bias_grad[0] += 2.0 * error / own.len() as f32;
            weight_grad.iter_mut().zip(input).for_each(|(g, x)| *g += 2.0 * error * x / own.len() as f32);
        }
        // In a deeper network each is given as soon as it is there: full buckets travel while the next are computed.
        reducer.push("bias", &bias_grad, share)?;
        reducer.push("weight", &weight_grad, share)?;
        let averaged = reducer.wait()?;
        optimizer.step(&mut [
            param("weight", &mut weight, averaged.get("weight")),
            param("bias", &mut bias, averaged.get("bias")),
        ])?;
        if rank == 0 && step % 100 == 0 {
            println!("step {step}: loss {loss:.4} on rank 0 of {world}");
        }
    }
    // Collective: the states of all ranks, on every rank. One of them writes the file.
    let checkpoint = optimizer.save()?;
    if rank == 0 {
        println!("{} bytes of checkpoint, weights {weight:.2?}", checkpoint.to_bytes()?.len());
    }
    Ok(weight)
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    #[cfg(feature = "mpi")]
    {
        let ranks = Arc::new(fallline::Mpi::start(Duration::from_secs(60))?);
        train(ranks.clone())?;
        return Ok(ranks.finish()?);
    }
    #[cfg(not(feature = "mpi"))]
    std::thread::scope(|scope| {
        let ranks = fallline::ranks::threads(3, Duration::from_secs(60)).into_iter();
        let started: Vec<_> = ranks.map(|rank| scope.spawn(move || train(Arc::new(rank)))).collect();
        let ended = started.into_iter().map(|rank| rank.join().map_err(|_| "a rank ended unexpectedly")?);
        let weights = ended.collect::<Result<Vec<_>, _>>()?;
        assert!(weights.windows(2).all(|pair| pair[0] == pair[1]), "all ranks end with the same parameters");
        Ok(())
    })
}
