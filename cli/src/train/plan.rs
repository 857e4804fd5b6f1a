//! How long a run is, and the schedule that follows from that.

use super::options::{MOST, Options};
use super::saved::SavedRun;
use crate::common::warn;
use crate::digits::data::TRAIN;
use crate::error::{Error, Result};
use crate::registry::registry;
use crate::run_folder::tested;
use fallline::optim::schedule::{Schedule, Scheduled, Target};
use fallline::registry::Length;
use fallline::{Driver, Recipe};
use std::path::Path;

/// Returns the epochs that a configuration asks for: `train.epochs`, or what MMEngine's `train_cfg` says; the default
/// otherwise. A run that is too long is refused.
pub fn epochs(recipe: &Recipe, options: &Options, tells: bool) -> Result<u64> {
    let length = recipe.length(steps_of_epoch(options));
    let whole = |iterations: u64| {
        let epochs = iterations.div_ceil(length.epoch);
        if tells {
            let of = length.epoch;
            warn(&format!("train_cfg: {iterations} iterations are rounded up to {epochs} epochs of {of}"));
        }
        epochs
    };
    let epochs = length.epochs.or_else(|| length.iterations.map(whole)).unwrap_or(options.epochs);
    match epochs <= MOST as u64 {
        true => Ok(epochs),
        false => {
            Err(Error::Usage(format!("train_cfg: the run has {epochs} epochs, expected at most {MOST}")))
        }
    }
}

/// Steps of an epoch.
pub fn steps_of_epoch(options: &Options) -> u64 {
    TRAIN.div_ceil(options.batch_size) as u64
}

/// Returns the length of a run.
pub fn length(options: &Options) -> Length {
    let length = Length::new(steps_of_epoch(options));
    if options.epochs > 0 { length.of_epochs(options.epochs) } else { length }
}

/// Returns what `--stretch` scales a schedule from: the epochs that it is written for.
pub fn written_for(recipe: &Recipe) -> Result<u64> {
    recipe.length(1).epochs.ok_or_else(|| {
        let lacks = "the configuration does not say how many epochs its schedule is written for";
        Error::Usage(format!("--stretch: {lacks} (train.epochs, or train_cfg.max_epochs)"))
    })
}

/// A recipe with its schedule scaled to the run, where that was asked for.
pub fn scaled(recipe: Recipe, options: &Options) -> Recipe {
    match options.written_for {
        Some(written) if options.epochs > 0 && written > 0 => {
            recipe.stretched(options.epochs as f64 / written as f64)
        }
        _ => recipe,
    }
}

/// Says so where a schedule is followed in a run of another length than it is written for.
pub fn warn_of_length(recipe: &Recipe, options: &Options) {
    let (has, written) = (options.epochs, recipe.length(1).epochs);
    if let (Some(written), None) = (written, options.written_for)
        && written != has
        && recipe.chain().has_own_steps()
    {
        warn(&format!(
            "the schedule is written for {written} epochs and followed as it stands in a run of {has}: --stretch scales it"
        ));
    }
}

/// What a ReduceOnPlateau may monitor: the loss over the test images, and the share of them that is right.
pub const METRIC_NAMES: [&str; 2] = ["loss", "accuracy"];

/// Returns the metrics of a test, by name.
pub fn metrics(loss: f32, accuracy: f64) -> [(&'static str, f64); 2] {
    [(METRIC_NAMES[0], f64::from(loss)), (METRIC_NAMES[1], accuracy)]
}

/// Values of hyperparameters, for each group.
pub type Values = Vec<(Target, Vec<f64>)>;

/// Follows the plan of a run of another length than so far, from the start to where the run is. That gives what the
/// values would be. Where the plan is the same one there is nothing to do.
pub fn caught_up(
    (recipe, options): (&Recipe, &Options),
    (saved, record): (&SavedRun, &Path),
    (schedule, optimizer): (&mut Schedule, &mut Driver),
    tells: bool,
) -> Result<Option<Values>> {
    let before = Options { epochs: saved.epochs, written_for: saved.written_for, ..options.clone() };
    let chain = scaled(Recipe::from_source_with(&saved.config, registry())?, &before)
        .chain()
        .schedulers(length(&before));
    let length = length(options);
    if chain == recipe.chain().schedulers(length) {
        return Ok(None);
    }
    let tested = tested(record);
    for step in 0..saved.progress.step {
        schedule.after_iteration(optimizer)?;
        if !(step + 1).is_multiple_of(length.epoch) {
            continue;
        }
        schedule.after_epoch(optimizer)?;
        if schedule.monitors(true).next().is_some() {
            let epoch = step / length.epoch;
            let (loss, accuracy) = tested.get(&epoch).ok_or_else(|| {
                let lacks = format!("the record has no test of epoch {epoch}, which the schedule follows");
                Error::Usage(format!("--epochs: {lacks}: resume without it, or begin another run"))
            })?;
            schedule.observe(true, &metrics(*loss, *accuracy), optimizer)?;
        }
    }
    let values = values(schedule, optimizer)?;
    if tells && saved.progress.epoch < options.epochs {
        warn(&format!("the schedule is from here on what it would be in a run of {} epochs", options.epochs));
    }
    Ok(Some(values))
}

/// Takes a schedule on by so many steps, without what is measured.
pub fn follow(
    schedule: &mut Schedule,
    optimizer: &mut Driver,
    epoch: u64,
    steps: u64,
) -> fallline::optim::Result<()> {
    for step in 0..steps {
        schedule.after_iteration(optimizer)?;
        if (step + 1).is_multiple_of(epoch) {
            schedule.after_epoch(optimizer)?;
        }
    }
    Ok(())
}

/// Returns the values of the hyperparameters that are scheduled.
pub fn values(schedule: &Schedule, optimizer: &Driver) -> fallline::optim::Result<Values> {
    let mut values = Values::new();
    for name in schedule.targets() {
        let target = if name == Target::Momentum.name() { Target::Momentum } else { name.into() };
        let groups = 0..optimizer.scheduled_groups();
        let each: fallline::optim::Result<_> =
            groups.map(|group| optimizer.scheduled(group, &target)).collect();
        values.push((target, each?));
    }
    Ok(values)
}

/// Sets values.
pub fn set(values: &Values, optimizer: &mut Driver) -> Result<()> {
    for (target, each) in values {
        for (group, value) in each.iter().enumerate() {
            optimizer.set_scheduled(group, target, *value)?;
        }
    }
    Ok(())
}
