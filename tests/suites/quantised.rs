//! bitsandbytes' own 8-bit and paged results, replayed: see `tests/golden/README.md`.

use crate::common::trace::recorded;
use crate::common::{backends, recipe};
use fallline::Optimizer;
use fallline::optim::param;
use fallline::registry::names::ENTRIES;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const STEPS: usize = 8;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quantised")
}

fn singles(view: &TensorView<'_>) -> Vec<f32> {
    assert_eq!(view.dtype(), Dtype::F32);
    view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |most, x| most.max(x.abs()))
}

/// Compares numbers; returns how many are further off than rounding explains.
///
/// Rounding: 3e-4 of the largest move, and for each step 3 units of the last place of the largest value, as
/// `tests/suites/golden.rs` derives it. A number further off has met a code on the other side of a border, on which the
/// last place of a moment decides. It is counted by the caller, and still within a step of the largest size.
fn off(what: &str, start: &[f32], expected: &[f32], got: &[f32]) -> usize {
    assert_eq!(expected.len(), got.len(), "{what}");
    let moved = largest(expected.iter().zip(start).map(|(x, s)| x - s));
    let value = largest(expected.iter().copied());
    let allowed = 3e-4 * moved + 3.0 * STEPS as f32 * f32::EPSILON * value;
    let mut count = 0;
    for (i, (x, y)) in expected.iter().zip(got).enumerate() {
        let error = (x - y).abs();
        assert!(error <= moved, "{what}[{i}]: expected {x:e}, got {y:e}");
        count += usize::from(error > allowed);
    }
    count
}

/// What a file was compared with.
#[derive(Default)]
struct Counts {
    numbers: usize,
    numbers_off: usize,
    codes: usize,
    codes_off: usize,
}

fn check(path: &Path, trace: &SafeTensors<'_>) -> Counts {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let text = &header.metadata().as_ref().unwrap()["optimizer"];
    let names = ["large", "middle", "small"];
    let starts = names.map(|name| singles(&trace.tensor(&format!("param/{name}")).unwrap()));
    let mut counts = Counts::default();
    for backend in backends() {
        let on = format!("{} on {}", path.file_name().unwrap().display(), backend.describe());
        let mut optimizer = recipe(text).optimizer(backend);
        let mut params = starts.clone();
        for t in 0..STEPS {
            let grads = names.map(|name| singles(&trace.tensor(&format!("grad/{t}/{name}")).unwrap()));
            let pairs = params.iter_mut().zip(&grads).zip(names);
            let mut bindings: Vec<_> =
                pairs.map(|((p, g), name)| param(name, p.as_mut_slice(), g.as_slice())).collect();
            optimizer.step(&mut bindings).unwrap();
            drop(bindings);
            for ((value, start), name) in params.iter().zip(&starts).zip(names) {
                let key = format!("expected/{t}/{name}");
                let Ok(expected) = file.tensor(&key) else { continue };
                counts.numbers += value.len();
                counts.numbers_off += off(&format!("{on}: {key}"), start, &singles(&expected), value);
            }
        }
        let checkpoint = optimizer.save().unwrap();
        for (key, expected) in file.tensors() {
            let Some(rest) = key.strip_prefix("expected_state/") else { continue };
            let (name, state) = rest.rsplit_once('/').unwrap();
            let what = format!("{on}: {key}");
            if let Some(state) = state.strip_suffix(".scale") {
                let (expected, got) = (singles(&expected), checkpoint.scales(name, state).unwrap());
                assert_eq!(expected.len(), got.len(), "{what}");
                for (x, y) in expected.iter().zip(got) {
                    // The largest moment of a block has been rounded some times a step, and met a few codes.
                    assert!((x - y).abs() <= 1e-2 * x, "{what}: {x:e}, {y:e}");
                }
            } else if expected.dtype() == Dtype::U8 {
                let (_, got) = checkpoint.codes(name, state).unwrap_or_else(|| panic!("{what}"));
                counts.codes += got.len();
                for (x, y) in expected.data().iter().zip(got) {
                    assert!(x.abs_diff(*y) <= 1, "{what}: {x}, {y}");
                    counts.codes_off += usize::from(x != y);
                }
            } else {
                let got = optimizer.state(name, state).unwrap().unwrap_or_else(|| panic!("{what}"));
                let got: Vec<f32> = got.into_iter().map(|x| x as f32).collect();
                assert!(checkpoint.codes(name, state).is_none(), "{what}");
                assert_eq!(off(&what, &vec![0.0; got.len()], &singles(&expected), &got), 0, "{what}");
            }
        }
    }
    counts
}

#[test]
fn bitsandbytes_is_matched_code_by_code() {
    let bytes = std::fs::read(folder().join("trace.safetensors")).unwrap();
    let trace = SafeTensors::deserialize(&bytes).unwrap();
    // Saved states are read by tests/loads/converted.rs.
    let mut files = recorded(&folder());
    files.retain(|path| path.file_stem().unwrap() != "trace");
    let stems: Vec<String> =
        files.iter().map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect();
    for entry in
        ENTRIES.iter().filter(|entry| entry.name.ends_with("8bit") || entry.name.starts_with("Paged"))
    {
        assert!(
            stems.contains(&format!("{}-default", entry.name)),
            "{} has no golden values: add it to tests/golden/quantised.py, and run that",
            entry.name
        );
    }
    let mut worst: BTreeMap<String, [f64; 2]> = BTreeMap::new();
    for (path, stem) in files.iter().zip(stems) {
        let counts = check(path, &trace);
        let share = |off: usize, of: usize| off as f64 / of.max(1) as f64;
        let shares = [share(counts.codes_off, counts.codes), share(counts.numbers_off, counts.numbers)];
        assert!(shares.iter().all(|share| *share <= 1e-3), "{stem}: {shares:?} of codes and numbers are off");
        worst.insert(stem, shares);
    }
    for (stem, [codes, numbers]) in worst {
        println!(
            "{stem:30} {:.4}% of the codes by one, {:.4}% of the numbers",
            100.0 * codes,
            100.0 * numbers
        );
    }
}
