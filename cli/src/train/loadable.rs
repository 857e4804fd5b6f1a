//! Whether a run can be resumed from a checkpoint, for `inspect`.

use super::saved::Trainer;
use super::{options, plan};
use crate::digits::network;
use crate::error::{Error, Result};
use fallline::{Checkpoint, Cpu, Optimizer, Recipe, Shape};
use serde::Deserialize;

/// Returns why a checkpoint cannot be loaded, as far as its own manifest tells.
///
/// What `train` wrote is loaded into the run of its configuration, in memory. Of others, the steps of every parameter
/// must be there; parts of ranks are loaded only once they are joined, and are not checked.
pub fn damage(checkpoint: &Checkpoint) -> Option<String> {
    let manifest = &checkpoint.manifest;
    if manifest.part.is_some() {
        return None;
    }
    let Some(optimizer) = &manifest.optimizer else { return Some("it holds no optimizer state".into()) };
    let trainer = manifest.trainer.as_ref().and_then(|trainer| Trainer::deserialize(trainer).ok());
    let checked = match trainer {
        // What several ranks kept needs as many of them.
        Some(trainer) if manifest.ranks.is_none() => resumed(checkpoint, &trainer),
        _ => optimizer
            .params()
            .try_for_each(|(name, _)| checkpoint.steps(name).map(|_| ()).map_err(Error::from)),
    };
    checked.err().map(|error| error.to_string())
}

/// Loads a checkpoint of `train` as a resumed run does.
fn resumed(checkpoint: &Checkpoint, trainer: &Trainer) -> Result<()> {
    let recipe = Recipe::from_text(&trainer.config)?;
    let mut options = options(&recipe)?;
    trainer.progress.check(trainer.epochs, plan::steps_of_epoch(&options)).map_err(Error::Other)?;
    (options.epochs, options.written_for) = (trainer.epochs, trainer.written_for);
    let recipe = plan::scaled(recipe, &options);
    for (name, shape) in network::shapes(&options.hidden) {
        let expected = Shape::from(&shape[..]);
        match checkpoint.param(&name) {
            None => return Err(Error::Other(format!("param/{name} is missing"))),
            Some(entry) if entry.shape != expected => {
                let shape = &entry.shape;
                return Err(Error::Other(format!("param/{name} has shape {shape}, expected {expected}")));
            }
            Some(_) => {}
        }
    }
    let mut optimizer = recipe.optimizer(Cpu::scalar().shared());
    if let Some(average) = options.average {
        optimizer = optimizer.averaged(average);
    }
    let length = plan::length(&options);
    optimizer.set_iterations(Some(options.epochs * length.epoch));
    let mut schedule = recipe.schedule_over(length, &mut optimizer)?;
    optimizer.load(checkpoint)?;
    match &checkpoint.manifest.schedule {
        Some(saved) => schedule.load(saved)?,
        None if schedule.targets().next().is_none() => {}
        None => {
            let lacks = "its manifest has no schedule, but the run has a param_scheduler";
            return Err(Error::Other(lacks.into()));
        }
    }
    Ok(())
}
