//! A run of a configuration that is saved half-way and resumed from its bytes: it ends where one does that never stopped.
#![no_main]

use fallline_core::Backend;
use fallline_cpu::Cpu;
use fallline_optim::schedule::Schedule;
use fallline_optim::{Checkpoint, Driver, Optimizer, param};
use fallline_registry::{Length, Recipe};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};

const STEPS: u64 = 6;
const HALF: u64 = 3;
/// Iterations of an epoch.
const EPOCH: u64 = 2;

static CPU: LazyLock<Arc<dyn Backend>> = LazyLock::new(|| Cpu::scalar().shared());

/// A run: its optimizer, schedule and parameters.
struct Run {
    optimizer: Driver,
    schedule: Schedule,
    params: Vec<(&'static str, Vec<usize>, Vec<f32>)>,
}

impl Run {
    /// Begins a run, where the configuration has one.
    fn new(recipe: &Recipe) -> Option<Run> {
        let shapes = [
            ("fc.weight", vec![4, 3]),
            ("fc.bias", vec![4]),
            ("norm.weight", vec![3]),
            ("embed.weight", vec![5, 2]),
        ];
        let params = shapes.map(|(name, shape)| {
            let elements: usize = shape.iter().product();
            (name, shape, (0..elements).map(|i| 0.1 * (i as f32 - 3.0)).collect())
        });
        let mut optimizer = recipe.optimizer(Arc::clone(&CPU));
        if let Some(average) = recipe.average() {
            optimizer = optimizer.averaged(average);
        }
        optimizer.set_iterations(Some(STEPS));
        let length = Length::new(EPOCH).of_epochs(STEPS / EPOCH);
        let schedule = recipe.schedule_over(length, &mut optimizer).ok()?;
        let monitors = schedule.monitors(true).chain(schedule.monitors(false)).next().is_some();
        (!monitors).then_some(Run { optimizer, schedule, params: params.into() })
    }

    /// Takes steps; whether all were taken.
    fn step(&mut self, steps: core::ops::Range<u64>) -> bool {
        for t in steps {
            let grads = self.params.iter().map(|(_, _, values)| {
                (0..values.len()).map(|i| 0.01 * ((7 * i as u64 + 3 * t) % 11) as f32 - 0.05).collect()
            });
            let grads: Vec<Vec<f32>> = grads.collect();
            let params = self.params.iter_mut().zip(&grads);
            let bound = params.map(|((name, shape, value), grad)| param(name, value, grad).shaped(shape));
            let bound = &mut bound.collect::<Vec<_>>()[..];
            let scheduled = |run: &mut Schedule, optimizer: &mut Driver| {
                run.after_iteration(optimizer)?;
                if (t + 1).is_multiple_of(EPOCH) { run.after_epoch(optimizer) } else { Ok(()) }
            };
            if self.optimizer.step(bound).is_err()
                || scheduled(&mut self.schedule, &mut self.optimizer).is_err()
            {
                return false;
            }
        }
        true
    }

    fn bits(&self) -> Vec<u32> {
        self.params.iter().flat_map(|(_, _, values)| values.iter().map(|value| value.to_bits())).collect()
    }
}

fuzz_target!(|text: &str| {
    let Ok(recipe) = Recipe::from_text(text) else { return };
    let recipe = recipe.allow_unmatched(true);
    let Some(mut whole) = Run::new(&recipe) else { return };
    if !whole.step(0..HALF) {
        return;
    }
    let mut checkpoint = whole.optimizer.save().expect("what has stepped can be saved");
    checkpoint.manifest.schedule = Some(whole.schedule.save());
    let bytes = checkpoint.to_bytes().expect("and written");
    let params = whole.params.clone();
    let through = whole.step(HALF..STEPS);

    let checkpoint = Checkpoint::from_bytes(&bytes).expect("what was written is read");
    // As a resumed run has it: from what the checkpoint says of the configuration.
    let recipe =
        Recipe::from_text(&recipe.to_source()).expect("a configuration that was read is written as one");
    let mut resumed = Run::new(&recipe.allow_unmatched(true)).expect("and is that of the same run");
    resumed.optimizer.load(&checkpoint).expect("what was saved is loaded");
    let schedule = checkpoint.manifest.schedule.as_ref().expect("it was saved");
    resumed.schedule.load(schedule).expect("so is a schedule");
    resumed.params = params;
    assert_eq!(resumed.step(HALF..STEPS), through);
    assert!(!through || resumed.bits() == whole.bits(), "a resumed run ends elsewhere");
});
