//! A checkpoint of `train` loaded into the run of its configuration, with all that has to agree between the two.

use super::options::Options;
use super::saved::{Progress, Trainer};
use super::{options, plan};
use crate::digits::network::{self, Network};
use crate::error::{Error, Result};
use crate::registry::registry;
use fallline::optim::Error::Mismatch;
use fallline::optim::gradient_config::Clip;
use fallline::optim::hyper::Value;
use fallline::optim::schedule::Schedule;
use fallline::{Checkpoint, Cpu, Driver, Format, Optimizer, Recipe, Shape};
use serde::Deserialize;
use std::collections::BTreeSet;

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
    let recipe = Recipe::from_source_with(&trainer.config, registry())?;
    let mut options = options(&recipe)?;
    trainer.progress.check(trainer.epochs, plan::steps_of_epoch(&options)).map_err(Error::Other)?;
    (options.epochs, options.written_for) = (trainer.epochs, trainer.written_for);
    let recipe = plan::scaled(recipe, &options);
    // Before there is memory for it: the widths may be anything.
    check_parameters(checkpoint, &options.hidden)?;
    let mut network = Network::new(&options.hidden, options.seed)?;
    let mut optimizer = recipe.optimizer(Cpu::scalar().shared());
    if let Some(average) = options.average {
        optimizer = optimizer.averaged(average);
    }
    let length = plan::length(&options);
    optimizer.set_iterations(Some(options.epochs * length.epoch));
    let mut schedule = recipe.schedule_over(length, &mut optimizer)?;
    let run = Run { network: &mut network, optimizer: &mut optimizer, schedule: &mut schedule };
    Ok(run.load(checkpoint, &options, trainer.progress, true)?)
}

/// What a checkpoint is loaded into.
pub struct Run<'r> {
    pub network: &'r mut Network,
    pub optimizer: &'r mut Driver,
    pub schedule: &'r mut Schedule,
}

impl Run<'_> {
    /// Loads a checkpoint. `follows` says whether the schedule is the one that the run has had so far; one that is not stays.
    ///
    /// # Errors
    /// [`Mismatch`] with what does not agree with the configuration or with the rest.
    pub fn load(
        self,
        checkpoint: &Checkpoint,
        options: &Options,
        progress: Progress,
        follows: bool,
    ) -> fallline::optim::Result<()> {
        let Run { network, optimizer, schedule } = self;
        check_parameters(checkpoint, &options.hidden)?;
        for parameter in &mut network.parameters {
            let entry = checkpoint.param(&parameter.name);
            let values = entry.map(|entry| entry.values::<f32>()).unwrap_or_default();
            parameter.value.iter_mut().zip(values).for_each(|(to, from)| *to = from);
        }
        check_progress(checkpoint, (network, optimizer), progress).map_err(Mismatch)?;
        let scheduled: Vec<String> = schedule.targets().map(str::to_owned).collect();
        let expected = hyperparameters(optimizer, &scheduled);
        let now = match follows {
            true => check_schedule(checkpoint, options, progress, (schedule, optimizer))?,
            false => None,
        };
        optimizer.load(checkpoint)?;
        for (expected, got) in expected.iter().zip(hyperparameters(optimizer, &scheduled)) {
            if format!("{expected:?}") != format!("{got:?}") {
                let ((group, name, expected), (_, _, got)) = (expected, got);
                return Err(Mismatch(format!(
                    "{name} of group {group} is {got}, but its configuration has {expected}"
                )));
            }
        }
        if let Some(expected) = now {
            for ((target, expected), (_, got)) in expected.iter().zip(plan::values(schedule, optimizer)?) {
                if *expected != got {
                    let name = target.name();
                    return Err(Mismatch(format!(
                        "{name} of its groups is {got:?}, but its schedule gives {expected:?}"
                    )));
                }
            }
        }
        match &checkpoint.manifest.schedule {
            Some(saved) if follows => schedule.load(saved),
            None if follows && schedule.targets().next().is_some() => {
                let lacks = "its manifest has no schedule, but the run has a param_scheduler";
                Err(Mismatch(lacks.into()))
            }
            _ => Ok(()),
        }
    }
}

/// Checks that a checkpoint has the parameters of a network with these hidden layers, and no others.
fn check_parameters(checkpoint: &Checkpoint, hidden: &[usize]) -> fallline::optim::Result<()> {
    let mut known = BTreeSet::new();
    for (name, shape) in network::shapes(hidden) {
        let expected = Shape::from(&shape[..]);
        let entry = checkpoint.param(&name).ok_or_else(|| Mismatch(format!("param/{name} is missing")))?;
        if (&entry.shape, entry.format) != (&expected, Format::F32) {
            let (got, format) = (&entry.shape, entry.format);
            return Err(Mismatch(format!(
                "param/{name} has shape {got} in {format}, expected {expected} in {}",
                Format::F32
            )));
        }
        known.insert(name);
    }
    match checkpoint.params().find(|name| !known.contains(*name)) {
        None => Ok(()),
        Some(name) => Err(Mismatch(format!("param/{name} is no parameter of the network"))),
    }
}

/// Checks that everything that counts says the same as the run's progress.
fn check_progress(
    checkpoint: &Checkpoint,
    (network, optimizer): (&Network, &Driver),
    progress: Progress,
) -> Result<(), String> {
    let step = progress.step;
    let manifest = &checkpoint.manifest;
    let around = optimizer.gradient_config();
    // Only what collects gradients counts.
    let collects =
        around.accumulate.accumulation_steps > 1 || matches!(around.clip, Some(Clip::Value { .. }));
    let counts = [
        ("wrapper", manifest.iterations(), if collects { step } else { 0 }),
        ("average_steps", manifest.averaged_iterations(), step),
    ];
    for (name, count, expected) in counts {
        if let Some(count) = count.filter(|count| *count != expected) {
            return Err(format!("the manifest's {name:?} is at iteration {count}, expected {expected}"));
        }
    }
    let Some(optimizer) = manifest.optimizer.as_ref().filter(|_| step > 0) else { return Ok(()) };
    let saved: BTreeSet<&str> = optimizer.params().map(|(name, _)| name).collect();
    if let Some(parameter) = network.parameters.iter().find(|parameter| !saved.contains(&*parameter.name)) {
        return Err(format!("parameter {:?} is missing in its manifest", parameter.name));
    }
    let known = |name: &str| network.parameters.iter().any(|parameter| parameter.name == name);
    if let Some(name) = saved.iter().find(|name| !known(name)) {
        return Err(format!("parameter {name:?} is not one of the network's"));
    }
    // Every step is one of all parameters.
    let mut all = None;
    for name in saved {
        let own = checkpoint.steps(name).map_err(|error| match error {
            Mismatch(problem) => problem,
            other => other.to_string(),
        })?;
        if own > step || *all.get_or_insert(own) != own {
            let of_all = all.unwrap_or(own).min(step);
            return Err(format!("step/{name} is {own}, expected {of_all}"));
        }
    }
    Ok(())
}

/// Returns what no step changes of an optimizer's hyperparameters: the group, the name and the value of each.
fn hyperparameters(optimizer: &Driver, scheduled: &[String]) -> Vec<(usize, &'static str, Value)> {
    let mut all = Vec::new();
    for group in 0..optimizer.groups() {
        let table = optimizer.algorithm_of(group).map_or(&[][..], |algorithm| algorithm.table());
        for hyper in table.iter().filter(|hyper| !hyper.kept) {
            let is_scheduled = scheduled
                .iter()
                .any(|name| name == hyper.name || (name == "momentum" && hyper.name == "betas"));
            if let Some(value) = optimizer.get(group, hyper.name).filter(|_| !is_scheduled) {
                all.push((group, hyper.name, value));
            }
        }
    }
    all
}

/// Follows the schedule from the start to where the run is, and compares what a checkpoint has of it. Returns the values that
/// it gives. Nothing where it depends on what was measured.
fn check_schedule(
    checkpoint: &Checkpoint,
    options: &Options,
    progress: Progress,
    (schedule, optimizer): (&Schedule, &mut Driver),
) -> fallline::optim::Result<Option<plan::Values>> {
    let monitors = [true, false].into_iter().any(|by_epoch| schedule.monitors(by_epoch).next().is_some());
    let Some(saved) = checkpoint.manifest.schedule.as_ref().filter(|_| !monitors) else { return Ok(None) };
    let mut followed = schedule.clone();
    plan::follow(&mut followed, optimizer, plan::steps_of_epoch(options), progress.step)?;
    let expected = followed.save();
    let entries = saved.as_array().into_iter().flatten().zip(expected.as_array().into_iter().flatten());
    for (place, (saved, expected)) in entries.enumerate() {
        for key in ["global_step", "last_step", "base"] {
            if saved.get(key).is_some_and(|saved| Some(saved) != expected.get(key)) {
                let (got, expected) = (&saved[key], &expected[key]);
                return Err(Mismatch(format!(
                    "entry {place} of its schedule has {key} {got}, expected {expected} after {} steps",
                    progress.step
                )));
            }
        }
    }
    plan::values(&followed, optimizer).map(Some)
}
