//! Stopping and resuming: a run that was saved and resumed is bitwise identical to one that was not.
//!
//! `cargo run --release --example checkpoint`

use fallline::prelude::*;

const CONFIG: &str = r#"
optimizer = dict(type="AdamW", lr=0.02)
param_scheduler = dict(type="CosineAnnealingLR", T_max=50, by_epoch=False)
"#;
type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A run: parameters, optimizer, schedule.
struct Run {
    weight: Vec<f32>,
    optimizer: Driver,
    schedule: Schedule,
}

impl Run {
    fn new() -> Result<Run> {
        let recipe = Recipe::from_text(CONFIG)?;
        let mut optimizer = recipe.optimizer(Cpu::new()?.shared());
        let schedule = recipe.schedule(1, &mut optimizer)?;
        Ok(Run { weight: (0..1000).map(|i| (i as f32).sin()).collect(), optimizer, schedule })
    }

    fn train(&mut self, steps: usize) -> Result {
        for _ in 0..steps {
            let grad: Vec<f32> = self.weight.iter().map(|w| w.powi(3) - 0.1).collect();
            self.optimizer.step(&mut [param("weight", &mut self.weight, &grad)])?;
            self.schedule.after_iteration(&mut self.optimizer)?;
        }
        Ok(())
    }

    /// Saves a checkpoint. The optimizer saves states, step counts, hyperparameters, and the parameters that are bound.
    /// The training loop adds the place in the schedule, which it owns.
    fn save(&mut self) -> Result<Checkpoint> {
        let mut checkpoint = self.optimizer.save_with(&[frozen("weight", &mut self.weight)])?;
        checkpoint.manifest.schedule = Some(self.schedule.save());
        Ok(checkpoint)
    }

    fn load(&mut self, checkpoint: &Checkpoint) -> Result {
        self.optimizer.load_into(checkpoint, &mut [frozen("weight", &mut self.weight)])?;
        self.schedule.load(checkpoint.manifest.schedule.as_ref().ok_or("the checkpoint has no schedule")?)?;
        Ok(())
    }
}

fn main() -> Result {
    let mut straight = Run::new()?;
    straight.train(50)?;

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("checkpoint.safetensors");
    let mut stopped = Run::new()?;
    stopped.train(20)?;
    // The file is written beside its place and renamed: it is never half there.
    stopped.save()?.write(&path)?;
    println!("saved after 20 steps: {} bytes", std::fs::metadata(&path)?.len());
    drop(stopped);

    let mut resumed = Run::new()?;
    resumed.load(&Checkpoint::read(&path)?)?;
    resumed.train(30)?;

    let bits = |run: &Run| run.weight.iter().map(|w| w.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&straight), bits(&resumed));
    println!("resumed for 30 more: the same bits as 50 without a stop");
    Ok(())
}
