//! A step after a load over one after a fresh start, in turn on the same parameters, with a second fresh one as the
//! noise: `cargo bench -p fallline-optim --bench loaded`.

use fallline_cpu::{Cpu, Native};
use fallline_optim::{Checkpoint, Driver, Linked, Optimizer, algorithms::AdamW, param};
use std::time::Instant;

const ROUNDS: usize = 60;

/// Parameters and elements of each.
const SIZES: [(usize, usize); 3] = [(100_000, 30), (10_000, 1000), (50, 1_000_000)];

type Failure = Box<dyn std::error::Error>;

struct Trainer {
    optimizer: Driver,
    values: Vec<Vec<f32>>,
}

impl Trainer {
    fn new(elements: &[usize]) -> Result<Trainer, Failure> {
        let values = elements.iter().map(|&len| vec![1.0; len]).collect();
        Ok(Trainer { optimizer: optimizer()?, values })
    }

    /// Steps and returns the seconds it took.
    fn step(&mut self, names: &[String], grads: &[Vec<f32>]) -> Result<f64, Failure> {
        let params = names.iter().zip(&mut self.values).zip(grads);
        let mut bindings: Vec<_> = params.map(|((name, value), grad)| param(name, value, grad)).collect();
        let start = Instant::now();
        self.optimizer.step(&mut bindings)?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Replaces the optimizer by one that has loaded its checkpoint from a file.
    fn reload(&mut self) -> Result<(), Failure> {
        let file = std::env::temp_dir().join(format!("fallline-loaded-{}.safetensors", std::process::id()));
        self.optimizer.save()?.write(&file)?;
        let read = Checkpoint::read(&file);
        std::fs::remove_file(&file)?;
        self.optimizer = optimizer()?;
        self.optimizer.load(&read?)?;
        Ok(())
    }
}

fn optimizer() -> Result<Driver, Failure> {
    let algorithm = Linked::<AdamW, Native>::new(AdamW::default())?;
    Ok(Driver::new(Cpu::new()?.shared(), Box::new(algorithm)))
}

fn main() -> Result<(), Failure> {
    for (count, len) in SIZES {
        // The order of a checkpoint is that of the names, 10 before 2.
        let names: Vec<String> = (0..count).map(|i| format!("layer.{i}.weight")).collect();
        let elements = vec![len; count];
        let grads: Vec<Vec<f32>> = elements.iter().map(|&len| vec![0.1; len]).collect();
        let mut trainers = [Trainer::new(&elements)?, Trainer::new(&elements)?, Trainer::new(&elements)?];
        for trainer in &mut trainers {
            trainer.step(&names, &grads)?;
        }
        trainers[1].reload()?;
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            for (trainer, times) in trainers.iter_mut().zip(&mut times) {
                times.push(trainer.step(&names, &grads)?);
            }
        }
        // The first step after the load moves the states.
        let [fresh, loaded, again] = times.map(|mut times| {
            times.remove(0);
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        println!(
            "{count} x {len}: {:.2} ms; after a load {:.2} times, a second fresh one {:.2}",
            1e3 * fresh,
            loaded / fresh,
            again / fresh
        );
    }
    Ok(())
}
