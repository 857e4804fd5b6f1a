//! Checkpoints that do not fit.

use crate::checks::{Check, average, dynamic_scale, host, window};
use crate::common::{edit_manifest, edited, entry_bytes};
use crate::trainer::{Done, Memory, Place, Trainer, cpu, numbers, step};
use fallline::core::host::Slice;
use fallline::optim::checkpoint::{Entry, Part};
use fallline::optim::{Error, ParamPrecision};
use fallline::{Checkpoint, Format, LoadOptions, Optimizer, Shape};
use serde_json::{Map, Value, json};

fn adamw() -> Trainer {
    host("dict(type='AdamW', lr=0.1)")
}

fn averaged() -> Trainer {
    adamw().with(|driver| driver.averaged(average()))
}

fn lookahead() -> Trainer {
    host("dict(type='AdamW', lr=0.1, wrap=dict(type='Lookahead', k=2))")
}

fn narrow(format: ParamPrecision) -> Trainer {
    let mut trainer = Trainer::new(&cpu(), "dict(type='AdamW', lr=0.1)", Place::Narrow);
    trainer.optimizer.set_param_precision(0, format).expect("AdamW takes it");
    trainer
}

/// What another trainer saves after so many steps.
fn saved(mut trainer: Trainer, steps: usize) -> Result<Checkpoint, Error> {
    (0..steps).try_for_each(|t| step(&mut trainer, t).map(drop))?;
    trainer.optimizer.save()
}

fn load(trainer: &mut Trainer, checkpoint: &Checkpoint) -> Result<Done, Error> {
    trainer.optimizer.load(checkpoint).map(Done::Load)
}

/// Loads what the same trainer would have saved after a step, changed.
fn changed(
    trainer: &mut Trainer,
    of: Trainer,
    change: impl FnOnce(&mut Map<String, Value>, &mut Vec<u8>),
) -> Result<Done, Error> {
    let bytes = edited(&saved(of, 1)?, change);
    load(trainer, &Checkpoint::from_bytes(&bytes).map_err(Error::Mismatch)?)
}

/// The same of the manifest alone.
fn with_manifest(trainer: &mut Trainer, of: Trainer, change: impl FnOnce(&mut Value)) -> Result<Done, Error> {
    changed(trainer, of, |header, _| edit_manifest(header, change))
}

fn rename(header: &mut Map<String, Value>, from: &str, to: &str) {
    let entry = header.remove(from).expect("an entry");
    header.insert(to.to_owned(), entry);
}

fn entry(shape: &[usize]) -> Entry {
    let values = vec![0.5f32; shape.iter().product()];
    Entry::new(Shape::from(shape), Slice::from(&values))
}

pub const LOADS: &[Check] = &[
    Check::new("no optimizer", adamw, 2, |trainer, _| load(trainer, &Checkpoint::default())),
    Check::new("another algorithm", adamw, 2, |trainer, _| load(trainer, &saved(host("Lion"), 1)?)),
    Check::new("more groups", adamw, 2, |trainer, _| {
        let mut other = adamw();
        other.optimizer.add_group(|name| name == "a", &[])?;
        load(trainer, &saved(other, 1)?)
    }),
    Check::new("a parameter less", adamw, 2, |trainer, _| {
        let mut other = adamw();
        other.held[0].bound = false;
        load(trainer, &saved(other, 1)?)
    }),
    Check::new("a parameter more", adamw, 2, |trainer, _| {
        let mut other = adamw();
        let new = other.another("n", &[3]);
        other.held.push(new);
        load(trainer, &saved(other, 1)?)
    }),
    Check::new("a parameter of another shape", adamw, 2, |trainer, _| {
        let mut other = adamw();
        other.held[1].shape = vec![3, 4];
        load(trainer, &saved(other, 1)?)
    }),
    Check::new("a parameter of another type", adamw, 2, |trainer, _| {
        let mut other = adamw();
        other.held[0].other_value(Memory::Host(numbers(Format::F64, 5, 5)));
        load(trainer, &saved(other, 1)?)
    }),
    Check::new("a state less", adamw, 2, |trainer, _| {
        changed(trainer, adamw(), |header, _| rename(header, "state/b/v", "state/b/w"))
    }),
    Check::new("a state more", adamw, 2, |trainer, _| {
        let mut checkpoint = saved(adamw(), 1)?;
        checkpoint.insert_state_entry("b", "w", entry(&[4, 3]));
        load(trainer, &checkpoint)
    }),
    Check::new("a state of an unknown parameter", adamw, 2, |trainer, _| {
        let mut checkpoint = saved(adamw(), 1)?;
        checkpoint.insert_state_entry("n", "m", entry(&[4, 3]));
        load(trainer, &checkpoint)
    }),
    Check::new("a state of another shape", adamw, 2, |trainer, _| {
        let mut checkpoint = saved(adamw(), 1)?;
        checkpoint.insert_state_entry("b", "v", entry(&[4, 2]));
        load(trainer, &checkpoint)
    }),
    Check::new("states in another format", adamw, 2, |trainer, _| {
        load(trainer, &saved(host("dict(type='AdamW', lr=0.1, state_format='bf16')"), 1)?)
    }),
    Check::new("a count of steps below 0", adamw, 2, |trainer, _| {
        changed(trainer, adamw(), |header, data| entry_bytes(header, data, "step/b").fill(0xff))
    }),
    Check::new("no count of steps", adamw, 2, |trainer, _| {
        changed(trainer, adamw(), |header, _| rename(header, "step/b", "step/n"))
    }),
    Check::new("a group that there is not", adamw, 2, |trainer, _| {
        with_manifest(trainer, adamw(), |manifest| manifest["optimizer"]["params"]["b"]["group"] = json!(7))
    }),
    Check::new("a hyperparameter out of range", adamw, 2, |trainer, _| {
        with_manifest(trainer, adamw(), |manifest| manifest["optimizer"]["groups"][0]["lr"] = json!(-1.0))
    }),
    Check::new("a type of the arithmetic that is unknown", adamw, 2, |trainer, _| {
        with_manifest(trainer, adamw(), |manifest| {
            manifest["optimizer"]["params"]["b"]["compute"] = json!("f8");
        })
    }),
    Check::new("a mode that is unknown", adamw, 2, |trainer, _| {
        with_manifest(trainer, adamw(), |manifest| manifest["mode"] = json!("sleeping"))
    }),
    Check::new("a later version", adamw, 2, |trainer, _| {
        with_manifest(trainer, adamw(), |manifest| manifest["version"] = json!(99))
    }),
    Check::new("one rank's part", adamw, 2, |trainer, _| {
        let mut checkpoint = saved(adamw(), 1)?;
        checkpoint.manifest.part = Some(Part { rank: 1, of: 2 });
        load(trainer, &checkpoint)
    }),
    Check::new("no count of Lookahead", lookahead, 2, |trainer, _| load(trainer, &saved(adamw(), 1)?)),
    Check::new(
        "an estimate less",
        || host("dict(type='DAdaptAdam', d0=1e-3)"),
        2,
        |trainer, _| {
            with_manifest(trainer, host("dict(type='DAdaptAdam', d0=1e-3)"), |manifest| {
                manifest["optimizer"]["shared"].as_object_mut().expect("numbers").remove("d");
            })
        },
    ),
    Check::new(
        "stochastic rounding before, round-to-nearest now",
        || narrow(ParamPrecision::RoundToNearest),
        2,
        |trainer, _| load(trainer, &saved(narrow(ParamPrecision::StochasticRounding { seed: 1 }), 1)?),
    ),
    Check::new(
        "round-to-nearest before, stochastic rounding now",
        || narrow(ParamPrecision::StochasticRounding { seed: 1 }),
        2,
        |trainer, _| load(trainer, &saved(narrow(ParamPrecision::RoundToNearest), 1)?),
    ),
    Check::new(
        "no parameters in full precision",
        || narrow(ParamPrecision::MasterWeights),
        2,
        |trainer, _| load(trainer, &saved(narrow(ParamPrecision::RoundToNearest), 1)?),
    ),
    Check::new("a window for what has none", adamw, 2, |trainer, _| load(trainer, &saved(window(), 1)?)),
    Check::new("a window of an unknown parameter", window, 2, |trainer, _| {
        changed(trainer, window(), |header, _| rename(header, "window/b", "window/n"))
    }),
    Check::new("a window of another shape", window, 2, |trainer, _| {
        changed(trainer, window(), |header, _| header["window/b"]["shape"] = json!([3, 4]))
    }),
    Check::new("a loss scale out of range", dynamic_scale, 2, |trainer, _| {
        with_manifest(trainer, dynamic_scale(), |manifest| {
            manifest["wrapper"]["scaler"]["scale"] = json!(-1.0)
        })
    }),
    Check::new("an average of an unknown parameter", averaged, 2, |trainer, _| {
        changed(trainer, averaged(), |header, _| rename(header, "average/b", "average/n"))
    }),
    Check::new("an average of another shape", averaged, 2, |trainer, _| {
        changed(trainer, averaged(), |header, _| header["average/b"]["shape"] = json!([3, 4]))
    }),
    Check::new("an average of another shape, and a window", window_averaged, 2, |trainer, _| {
        changed(trainer, window_averaged(), |header, _| header["average/b"]["shape"] = json!([3, 4]))
    }),
    Check::new("lenient: an average of another shape", averaged, 2, |trainer, _| {
        let bytes = edited(&saved(averaged(), 1)?, |header, _| header["average/b"]["shape"] = json!([3, 4]));
        let checkpoint = Checkpoint::from_bytes(&bytes).map_err(Error::Mismatch)?;
        trainer.optimizer.load_with(&checkpoint, &LoadOptions::default().lenient()).map(Done::Load)
    }),
    Check::new("lenient: another parameter less", adamw, 2, |trainer, _| {
        let mut other = adamw();
        other.held[0].bound = false;
        let checkpoint = saved(other, 1)?;
        trainer.optimizer.load_with(&checkpoint, &LoadOptions::default().lenient()).map(Done::Load)
    }),
];

fn window_averaged() -> Trainer {
    window().with(|driver| driver.averaged(average()))
}
