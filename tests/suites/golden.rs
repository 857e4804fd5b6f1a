//! The sources' own results (torch, bitsandbytes, DeepSpeed, …), replayed: see `tests/golden/README.md`.

use crate::common::trace::{Params, bind, buffer, grads, recorded, starts};
use crate::common::{backends, recipe};
use fallline::optim::Mode;
use fallline::optim::hyper::Value;
use fallline::registry::names::{ENTRIES, find};
use fallline::{Compute, Driver, Optimizer};
use safetensors::SafeTensors;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const STEPS: usize = 16;

/// Names without a recorded trace here, with what replaces it.
const ELSEWHERE: &[(&str, &str)] = &[
    ("LBFGS", "evaluates an objective: tests/suites/objectives.rs, cli/tests/searches.rs"),
    ("ZeroRedundancyOptimizer", "has the rules of the algorithm that it names: optim/tests/ranks"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// The largest error that a tensor may have.
///
/// f64: 1e-9 of the tensor's largest move, and f32: 3e-4 of it. That is far more than what rounding does to a
/// move, and far less than any mistake in a formula. Where the source itself calculates in bf16, the file says how
/// much that may be (`tests/golden/matrices.py` why).
///
/// A parameter also rounds as it is stored. Its new value is `keep * p - move`, in three operations that each round
/// at the size of `p`. The source may take another order of them. That is at most 6 half units of the last place,
/// i.e. 3 epsilon of the largest |p|, at each step. It adds up over the steps. It matters where |p| is far above
/// the move (Lion at lr=1e-4), and it is all there is for a tensor that does not move.
fn tolerance(compute: Compute, coarse: Option<f64>, largest_move: f64, largest_value: f64) -> f64 {
    let (relative, epsilon) = match compute {
        Compute::F64 => (1e-9, f64::EPSILON),
        Compute::F32 => (3e-4, f64::from(f32::EPSILON)),
    };
    coarse.unwrap_or(relative) * largest_move + STEPS as f64 * 3.0 * epsilon * largest_value
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |most, x| most.max(x.abs()))
}

/// The largest error over what is allowed, or a complaint.
fn compare(
    what: &str,
    (compute, coarse): (Compute, Option<f64>),
    start: &[f64],
    expected: &[f64],
    got: &[f64],
) -> f64 {
    assert_eq!(expected.len(), got.len(), "{what}");
    let moved = largest(expected.iter().zip(start).map(|(x, s)| x - s));
    let allowed = tolerance(compute, coarse, moved, largest(expected.iter().copied()));
    let mut worst = 0.0f64;
    for (i, (x, y)) in expected.iter().zip(got).enumerate() {
        let error = (x - y).abs();
        assert!(
            error <= allowed,
            "{what}[{i}]: expected {x:e}, got {y:e}: off by {error:e}, allowed {allowed:e}"
        );
        if error > 0.0 {
            worst = worst.max(error / allowed);
        }
    }
    worst
}

/// Compares a file; the largest error of it over what is allowed.
fn check_file(path: &Path) -> f64 {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    let trace_bytes = std::fs::read(folder().join(&metadata["trace"])).unwrap();
    let trace = SafeTensors::deserialize(&trace_bytes).unwrap();
    let compute = match metadata["compute"].as_str() {
        "f32" => Compute::F32,
        "f64" => Compute::F64,
        other => panic!("{}: compute {other}", path.display()),
    };
    let starts = starts(&trace);
    let coarse = metadata.get("tolerance").map(|text| text.parse::<f64>().unwrap());
    let entries = file.tensors().iter().filter(|(key, _)| key.starts_with("expected/")).count();
    let late = |name: &String| if name == "long" { 1 } else { 5 };
    assert_eq!(entries, starts.keys().map(late).sum::<usize>(), "the README names the steps that are kept");
    let hessian_every = metadata.get("hessian_every").map(|every| every.parse::<usize>().unwrap());
    let factors = metadata.get("factors").map(|text| serde_json::from_str::<Vec<f64>>(text).unwrap());
    let factors = factors.unwrap_or_default();
    let toggle = metadata.get("toggle").map(|every| every.parse::<usize>().unwrap());
    // In f32 Prodigy's estimate hangs on roundings, and all that follows from it.
    let of_prodigy = metadata["source"].starts_with("prodigyopt");
    let of_states = coarse.filter(|_| of_prodigy);
    let mut worst = 0.0f64;

    for backend in backends() {
        let on = backend.describe();
        let at = |key: &str| format!("{} on {on}: {key}", path.file_name().unwrap().display());
        // A whole configuration, where there are groups.
        let recipe = recipe(metadata.get("config").unwrap_or(&metadata["optimizer"]));
        let mut optimizer = recipe.optimizer(backend).with_compute(compute);
        // Adafactor may have none.
        let rate = |group| optimizer.get(group, "lr").and_then(|lr| lr.as_f64()).unwrap_or(f64::NAN);
        let rates: Vec<f64> = (0..optimizer.groups()).map(rate).collect();
        let mut params = starts.clone();
        let mut compared = 0;
        // Steps in which Prodigy's sources count no step, as nothing moves.
        let mut stood = Vec::new();
        for t in 0..STEPS {
            let before = optimizer.shared("k");
            for (group, rate) in rates.iter().enumerate().filter(|_| !factors.is_empty()) {
                optimizer.set(group, &[("lr", Value::Float(rate * factors[t]))]).unwrap();
            }
            let grads = grads(&trace, t, &starts);
            optimizer.step(&mut bind(&mut params, &grads)).unwrap();
            if hessian_every.is_some_and(|every| (t + 1) % every == 0) {
                optimizer.update_hessian(&mut bind(&mut params, &grads)).unwrap();
            }
            if before.is_some() && optimizer.shared("k") == before {
                stood.push(t);
            }
            for (name, (_, value)) in &params {
                let key = format!("expected/{t}/{name}");
                let Ok(expected) = file.tensor(&key) else { continue };
                compared += 1;
                let start = starts[name].1.values();
                let expected = buffer(&expected).values();
                let by = (compute, coarse);
                worst = worst.max(compare(&at(&key), by, &start, &expected, &value.values()));
            }
            for (name, value) in evaluated(&file, t, &mut optimizer, &params) {
                let key = format!("expected_eval/{t}/{name}");
                let expected = buffer(&file.tensor(&key).unwrap()).values();
                let (start, by) = (starts[&name].1.values(), (compute, coarse));
                worst = worst.max(compare(&at(&key), by, &start, &expected, &value));
            }
            if toggle.is_some_and(|every| (t + 1) % every == 0) {
                for mode in [Mode::Evaluation, Mode::Training] {
                    optimizer.set_mode(mode, &mut bind(&mut params, &BTreeMap::new())).unwrap();
                }
            }
            for (key, scalar) in keys(&file, "expected_global/") {
                let remembered = || optimizer.get(0, &scalar)?.as_f64();
                let Some(got) = optimizer.shared(&scalar).or_else(remembered) else {
                    assert!(UNKEPT.contains(&scalar.as_str()), "{}", at(&key));
                    continue;
                };
                let expected = buffer(&file.tensor(&key).unwrap()).values()[t];
                worst = worst.max(compare(&at(&key), (compute, coarse), &[0.0], &[expected], &[got]));
            }
        }
        assert_eq!(compared, entries, "{}", at("expected"));
        let saved = optimizer.save().unwrap();
        for (key, view) in file.tensors() {
            if let Some(rest) = key.strip_prefix("expected_state/") {
                let (name, state) = rest.rsplit_once('/').unwrap();
                let got = optimizer.state(name, state).unwrap().unwrap_or_else(|| panic!("{}", at(&key)));
                let expected = buffer(&view).values();
                let (by, start) = ((compute, of_states), vec![0.0; got.len()]);
                worst = worst.max(compare(&at(&key), by, &start, &expected, &got));
            } else if let Some(rest) = key.strip_prefix("expected_memory/") {
                let (name, scalar) = rest.rsplit_once('/').unwrap();
                let got = saved.state(name, scalar).unwrap_or_else(|| panic!("{}", at(&key))).values::<f64>();
                let expected = buffer(&view).values();
                worst = worst.max(compare(&at(&key), (compute, None), &[0.0], &expected, &got));
            } else if let Some(name) = key.strip_prefix("expected_step/") {
                let expected = i64::from_le_bytes(view.data().try_into().unwrap()) as u64;
                let known = optimizer.params();
                let got = known.iter().find(|param| param.name == name).unwrap();
                let given = |t: &&usize| trace.tensor(&format!("grad/{t}/{name}")).is_ok();
                let uncounted = if of_prodigy { stood.iter().filter(given).count() as u64 } else { 0 };
                assert_eq!(got.steps, expected + uncounted, "{}", at(&key));
            }
        }
        let states = |param: &fallline::optim::ParamState| {
            let expected = param
                .states
                .iter()
                .filter(|state| file.tensor(&format!("expected_state/{}/{state}", param.name)).is_ok());
            (param.name.clone(), param.states.len(), expected.count())
        };
        for (name, kept, expected) in optimizer.params().iter().map(states) {
            assert_eq!(kept, expected, "{}", at(&name));
        }
    }
    worst
}

/// What a source reports and nothing follows from: numbers of the step that is over.
const UNKEPT: &[&str] = &["d_hat", "d_denom", "scheduled_lr"];

/// The keys of a file that begin so, and what comes behind.
fn keys(file: &SafeTensors<'_>, prefix: &str) -> Vec<(String, String)> {
    let rest = |key: &&str| Some((String::from(*key), key.strip_prefix(prefix)?.to_owned()));
    file.names().iter().filter_map(rest).collect()
}

/// The weights that are evaluated, of the parameters of which a file knows them after this step. The optimizer and the
/// parameters stay as they are.
fn evaluated(
    file: &SafeTensors<'_>,
    t: usize,
    optimizer: &mut Driver,
    params: &Params,
) -> Vec<(String, Vec<f64>)> {
    let known = keys(file, &format!("expected_eval/{t}/"));
    if known.is_empty() {
        return Vec::new();
    }
    let mut copies = params.clone();
    optimizer.weights_of(Mode::Evaluation, &mut bind(&mut copies, &BTreeMap::new())).unwrap();
    known.into_iter().map(|(_, name)| (name.clone(), copies[&name].1.values())).collect()
}

/// The files of the probes, and the names that they are of.
fn probes() -> Vec<(PathBuf, String)> {
    let named = |path: PathBuf| {
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        (path, stem.split('-').next().unwrap().to_owned())
    };
    recorded(&folder().join("probes")).into_iter().map(named).collect()
}

#[test]
fn every_probe_is_matched_on_its_recorded_trace() {
    let files = probes();
    let mut worst: BTreeMap<&str, [f64; 2]> = BTreeMap::new();
    for (path, name) in files.iter().filter(|(_, name)| find(name).is_some()) {
        let place = usize::from(path.file_stem().unwrap().to_string_lossy().ends_with("f64"));
        let of = worst.entry(name).or_default();
        of[place] = of[place].max(check_file(path));
    }
    assert_eq!(worst.len(), 3, "Prodigy, AdamWScheduleFree and NorMuon");
    for (name, [single, double]) in worst {
        println!("{name:18} of the allowed error: {single:.3} in f32, {double:.1e} in f64");
    }
}

#[test]
fn every_source_is_matched_on_its_recorded_trace() {
    let files = recorded(&folder().join("expected"));
    let (probes, muons) = (probes(), recorded(&folder().join("muons")));
    // Those of tests/suites/quantised.rs are parameters of other sizes.
    let quantised = |name: &str| name.ends_with("8bit") || name.starts_with("Paged");
    let here = |name: &str| !quantised(name) && ELSEWHERE.iter().all(|(other, _)| *other != name);
    for entry in ENTRIES.iter().filter(|entry| here(entry.name)) {
        let of = |kind: &str| {
            let all = files.iter().chain(probes.iter().map(|(path, _)| path)).chain(&muons);
            all.into_iter().any(|path| {
                let name = path.file_stem().unwrap().to_string_lossy();
                name.starts_with(&format!("{}-", entry.name)) && name.ends_with(kind)
            })
        };
        assert!(
            of("-f32") && of("-f64"),
            "{0} has no golden values: add it to tests/golden/elements.py and run `tests/golden/generate.py {0}`",
            entry.name
        );
    }
    // With --nocapture: how near to what is allowed each name comes.
    let mut worst: BTreeMap<String, [f64; 2]> = BTreeMap::new();
    for path in &files {
        let stem = path.file_stem().unwrap().to_string_lossy();
        let of = worst.entry(stem.split('-').next().unwrap().to_owned()).or_default();
        let place = usize::from(stem.ends_with("f64"));
        of[place] = of[place].max(check_file(path));
    }
    for (name, [single, double]) in worst {
        println!("{name:18} of the allowed error: {single:.3} in f32, {double:.1e} in f64");
    }
}

#[test]
fn muon_and_its_relatives_are_matched_on_their_recorded_traces() {
    let mut worst: BTreeMap<String, [f64; 2]> = BTreeMap::new();
    for path in recorded(&folder().join("muons")) {
        let stem = path.file_stem().unwrap().to_string_lossy();
        let of = worst.entry(stem.split('-').next().unwrap().to_owned()).or_default();
        let place = usize::from(stem.ends_with("f64"));
        of[place] = of[place].max(check_file(&path));
    }
    assert_eq!(worst.len(), 6, "Muon, AdaMuon, SCION, SCIONLight, MuonHyperball and Spel");
    for (name, [single, double]) in worst {
        println!("{name:18} of the allowed error: {single:.3} in f32, {double:.1e} in f64");
    }
}

#[test]
fn modifiers_are_matched_on_their_recorded_traces() {
    for modifier in ["Cautious", "Lookahead"] {
        let files: Vec<PathBuf> =
            probes().into_iter().filter(|(_, name)| name == modifier).map(|(path, _)| path).collect();
        assert!(!files.is_empty(), "{modifier}");
        let mut worst = [0.0f64; 2];
        for path in files {
            let place = usize::from(path.file_stem().unwrap().to_string_lossy().ends_with("f64"));
            worst[place] = worst[place].max(check_file(&path));
        }
        println!("{modifier:18} of the allowed error: {:.3} in f32, {:.1e} in f64", worst[0], worst[1]);
    }
}

#[test]
fn the_tolerance_is_far_below_a_wrong_formula() {
    // A coefficient off by a thousandth is found in either type.
    for compute in [Compute::F32, Compute::F64] {
        assert!(tolerance(compute, None, 1.0, 1.0) < 1e-3);
    }
}
