//! Checkpoints of earlier versions are read by this one, which goes on as it would have alone
//! (`tests/golden/checkpoints.py` wrote them; for runs of `train` see `cli/tests/cli/train.rs`).

mod common;

use common::trace::{Params, bind, grads, starts};
use common::{cpu, name_of};
use fallline::registry::names::ENTRIES;
use fallline::{Checkpoint, Isa, Optimizer, Recipe};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::{Path, PathBuf};

const STEPS: usize = 6;
/// Steps before a checkpoint was written.
const SAVED: usize = 4;

/// The folders, a version each, and how many checkpoints of optimizers each holds.
const VERSIONS: [(&str, usize); 2] = [("2026-11-24", 42), ("2026-11-26", 81)];

/// Names without a checkpoint here, and why.
const ELSEWHERE: &[(&str, &str)] = &[("LBFGS", "evaluates an objective, which replay has none of")];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/checkpoints")
}

fn cases() -> Value {
    serde_json::from_slice(&std::fs::read(folder().join("cases.json")).unwrap()).unwrap()
}

/// Goes on from the parameters over these steps.
fn step(
    optimizer: &mut dyn Optimizer,
    params: &mut Params,
    trace: &SafeTensors<'_>,
    steps: core::ops::Range<usize>,
) {
    for t in steps {
        let names = params.clone();
        let grads = grads(trace, t, &names);
        optimizer.step(&mut bind(params, &grads)).unwrap();
    }
}

/// An unbroken run differs from one that goes on by what versions may round otherwise: a few of the last places of f32
/// at each of six steps (2⁻²³ each). A state that is lost, taken for another or counted wrong is off by a part of a
/// move, which is a hundredth of these parameters and more. A rounding to 16 bits or to a code may fall on the other
/// side of a half, which is one unit of the last place of bfloat16.
fn tolerance(recipe: &str, trace: &str) -> f64 {
    let coarse = trace == "half" || recipe.contains("8bit") || recipe.contains("_format");
    if coarse { 1.0 / 128.0 } else { 1e-6 }
}

#[test]
fn earlier_checkpoints_go_on() {
    let cases = cases();
    for (version, count) in VERSIONS {
        let mut seen = 0;
        for (case, what) in cases["replays"].as_object().unwrap() {
            let [trace_name, text] = [0, 1].map(|i| what[i].as_str().unwrap());
            let path = folder().join(version).join(format!("{case}.safetensors"));
            let Ok(bytes) = std::fs::read(&path) else { continue };
            seen += 1;
            let trace_bytes = std::fs::read(folder().join(format!("{trace_name}.safetensors"))).unwrap();
            let trace = SafeTensors::deserialize(&trace_bytes).unwrap();
            let build = || Recipe::from_text(text).unwrap().optimizer(cpu(Isa::best(), 1));
            let mut resumed = build();
            resumed
                .load(&Checkpoint::read(&path).unwrap())
                .unwrap_or_else(|error| panic!("{version}, {case}: {error}"));
            let mut params = starts(&SafeTensors::deserialize(&bytes).unwrap());
            step(&mut resumed, &mut params, &trace, SAVED..STEPS);

            let mut expected = starts(&trace);
            step(&mut build(), &mut expected, &trace, 0..STEPS);
            let allowed = tolerance(text, trace_name);
            for (name, (_, values)) in &expected {
                let (values, got) = (values.values(), params[name].1.values());
                let largest = values.iter().fold(0.0f64, |most, x| most.max(x.abs()));
                for (i, (x, y)) in values.iter().zip(&got).enumerate() {
                    let error = (x - y).abs();
                    assert!(
                        error <= allowed * largest,
                        "{version}, {case}, {name}[{i}]: expected {x:e}, got {y:e}"
                    );
                }
            }
        }
        assert_eq!(seen, count, "checkpoints of {version}");
    }
}

#[test]
fn every_name_has_a_checkpoint() {
    let cases = cases();
    let replays = cases["replays"].as_object().unwrap();
    for entry in ENTRIES.iter().filter(|entry| ELSEWHERE.iter().all(|(name, _)| *name != entry.name)) {
        assert!(replays.contains_key(entry.name), "no checkpoint of {}", entry.name);
    }
    assert!(ELSEWHERE.iter().all(|(name, _)| name_of(name) == *name));
}
