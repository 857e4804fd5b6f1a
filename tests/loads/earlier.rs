//! Checkpoints of earlier versions are read by this one, which resumes as it would have run alone. They are written
//! by `tests/golden/checkpoints.py`. For runs of `train` see `cli/tests/cli/train.rs`.

use crate::common::inputs::inputs_of;
use crate::common::trace::{Params, bind, grads, recorded, starts};
use crate::common::{Buffer, cpu, name_of, recipe, whole};
use fallline::optim::checkpoint::Entry;
use fallline::registry::names::ENTRIES;
use fallline::{Checkpoint, Isa, Optimizer, Recipe};
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::{Path, PathBuf};

const STEPS: usize = 6;
/// Steps before a checkpoint was written.
const SAVED: usize = 4;

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

/// Returns how far values may differ. An unbroken run differs from a resumed one by what versions may round
/// otherwise. That is a few of the last places of f32 at each of six steps (2⁻²³ each). A state that is lost, taken
/// for another or counted wrong is off by a part of a move. A move is a hundredth of these parameters and more. A
/// rounding to 16 bits or to a code may fall on the other side of a half. That is one unit of the last place of
/// bfloat16.
fn tolerance(recipe: &str, trace: &str) -> f64 {
    let coarse = trace == "half" || recipe.contains("8bit") || recipe.contains("_format");
    if coarse { 1.0 / 128.0 } else { 1e-6 }
}

/// Returns the folders, a version each.
fn versions() -> Vec<PathBuf> {
    let there = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = there.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// Returns the cases of which a version's folder has a checkpoint; those of runs of `train` are separate.
fn cases_of(version: &Path) -> Vec<String> {
    let stem = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
    let mut cases: Vec<String> = recorded(version).into_iter().map(stem).collect();
    cases.retain(|case| !case.ends_with(".run"));
    cases
}

#[test]
fn earlier_checkpoints_go_on() {
    // Another test writes what this one reads.
    if std::env::var_os("FALLLINE_CHECKPOINTS").is_some() {
        return;
    }
    let cases = cases();
    for version in versions() {
        for case in cases_of(&version) {
            let path = version.join(format!("{case}.safetensors"));
            let what =
                cases["replays"].get(&case).unwrap_or_else(|| panic!("{} is of no case", path.display()));
            let [trace_name, text] = [0, 1].map(|i| what[i].as_str().unwrap());
            let bytes = std::fs::read(&path).unwrap();
            let trace_bytes = std::fs::read(folder().join(format!("{trace_name}.safetensors"))).unwrap();
            let trace = SafeTensors::deserialize(&trace_bytes).unwrap();
            let build = || Recipe::from_text(text).unwrap().optimizer(cpu(Isa::best(), 1));
            let mut resumed = build();
            resumed
                .load(&Checkpoint::read(&path).unwrap())
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
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
                        "{}, {name}[{i}]: expected {x:e}, got {y:e}",
                        path.display()
                    );
                }
            }
        }
    }
}

/// Returns a checkpoint as `fallline replay --state` writes it.
fn checkpoint(text: &str, trace: &Path) -> Checkpoint {
    let bytes = std::fs::read(trace).unwrap();
    let trace = SafeTensors::deserialize(&bytes).unwrap();
    let (mut params, mut optimizer) = (starts(&trace), recipe(text).optimizer(cpu(Isa::best(), 1)));
    step(&mut optimizer, &mut params, &trace, 0..SAVED);
    let mut checkpoint = optimizer.save().unwrap();
    for (name, (shape, value)) in &params {
        let Buffer::F32(values) = value else { panic!("{name} is not of f32") };
        checkpoint.insert_param(name, Entry::new(shape.as_slice().into(), values.into()));
    }
    checkpoint
}

/// Writes checkpoints of names to a folder, its list, and the cases. A name without a case takes its largest input.
fn write(names: &[&str], version: &Path) {
    std::fs::create_dir_all(version).unwrap();
    let mut cases = cases();
    for name in names {
        let inputs =
            inputs_of(name).unwrap_or_else(|| panic!("{name} has no row in tests/common/inputs/table.rs"));
        let known = cases["replays"][name][1].as_str().map(str::to_owned);
        let text = known.unwrap_or_else(|| format!("optimizer = {}", whole(inputs.largest)));
        let by_rows = recipe(&text).algorithm().takes_dense().is_err();
        let trace = if by_rows { "rows" } else { "trace" };
        let checkpoint = checkpoint(&text, &folder().join(format!("{trace}.safetensors")));
        checkpoint.write(version.join(format!("{name}.safetensors"))).unwrap();
        cases["replays"][name] = serde_json::json!([trace, text]);
    }
    let there = std::fs::read_dir(version).unwrap().map(|entry| entry.unwrap().file_name());
    let mut list: Vec<String> = there.map(|name| name.to_string_lossy().into_owned()).collect();
    list.retain(|name| name.ends_with(".safetensors"));
    list.sort();
    std::fs::write(version.join("files.txt"), list.join("\n") + "\n").unwrap();
    let cases = serde_json::to_string_pretty(&cases).unwrap() + "\n";
    std::fs::write(folder().join("cases.json"), cases).unwrap();
}

/// With `FALLLINE_CHECKPOINTS=FOLDER` those that are missing are written to this folder.
#[test]
fn every_name_has_a_checkpoint() {
    let missing = || {
        let there: Vec<String> = versions().iter().flat_map(|version| cases_of(version)).collect();
        let names = ENTRIES.iter().map(|entry| entry.name);
        let here = names.filter(|name| ELSEWHERE.iter().all(|(other, _)| other != name));
        here.filter(|name| !there.iter().any(|case| case == name)).collect::<Vec<_>>()
    };
    if let (Some(version), false) = (std::env::var_os("FALLLINE_CHECKPOINTS"), missing().is_empty()) {
        write(&missing(), &folder().join(version));
    }
    let how = "FALLLINE_CHECKPOINTS=<today> cargo test --release --test loads earlier writes them";
    assert!(missing().is_empty(), "no checkpoints of {:?}: {how}", missing());
    assert!(ELSEWHERE.iter().all(|(name, _)| name_of(name) == *name));
}
