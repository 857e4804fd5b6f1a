//! Optimizer states of other libraries: imported in the middle of a run, which ends as theirs does, and exported.

use crate::common::inputs::{Skip, inputs_of};
use crate::common::{best, method, recipe, search};
use ::safetensors::SafeTensors;
use fallline::optim::{LoadOptions, Method, Objective, frozen, param};
use fallline::registry::names::{self, ENTRIES};
use fallline::{Checkpoint, Optimizer};
use fallline_convert::{
    Container, ExportOptions, ImportOptions, Limits, Value, archive, from_torch, layout, safetensors,
    to_torch,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const SAVED: usize = 3;
const STEPS: usize = 5;
const MODEL: [&str; 5] = ["body.weight", "body.bias", "head.weight", "scale", "late"];
const MATRICES: [&str; 2] = ["body.weight", "head.weight"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/converted")
}

/// A name whose source saves the same under another one: that states are paged is not in a file.
fn source_of(name: &str) -> String {
    match name.strip_prefix("Paged") {
        Some(rest) if rest.ends_with("bit") || rest.starts_with("AdEMAMix") => rest.to_owned(),
        Some(rest) => format!("bnb_{rest}"),
        None => name.to_owned(),
    }
}

fn file(name: &str) -> Vec<u8> {
    let path = folder().join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn tree(bytes: &[u8]) -> Value<'_> {
    archive::read(bytes, &Limits::default()).unwrap()
}

fn floats(file: &SafeTensors<'_>, key: &str) -> Option<Vec<f32>> {
    let view = file.tensor(key).ok()?;
    Some(view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Returns the configuration that a file's optimizer was built with.
fn config(name: &str) -> String {
    let bytes = file("expected.safetensors");
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let source = source_of(name);
    header.metadata().as_ref().unwrap()[&source].replacen(&source, name, 1)
}

/// Returns the parameters in the order of the optimizer: matrices are its first group, the others its second.
fn order(name: &str) -> Vec<String> {
    if name == "LBFGS" {
        return MODEL.map(str::to_owned).to_vec();
    }
    let rest = MODEL.iter().filter(|name| !MATRICES.contains(name));
    let rest = rest.take(if name == "Muon" { 0 } else { 3 });
    MATRICES.iter().chain(rest).map(|name| (*name).to_owned()).collect()
}

/// Only LBFGS needs to be told, and what has no state: the others' states have their parameter's extents.
fn dims(name: &str) -> Option<Vec<usize>> {
    let bytes = file("trace.safetensors");
    let view = SafeTensors::deserialize(&bytes).unwrap();
    Some(view.tensor(&format!("param/{name}")).unwrap().shape().to_vec())
}

fn options(name: &str) -> ImportOptions {
    ImportOptions {
        names: Some(
            order(name)
                .into_iter()
                .map(|param| {
                    (param.clone(), if name == "LBFGS" || param == "late" { dims(&param) } else { None })
                })
                .collect(),
        ),
        ..ImportOptions::default()
    }
}

fn taken_over(name: &str) -> Checkpoint {
    let bytes = file(&format!("{}.pth", source_of(name)));
    let base = method(&config(name));
    let (checkpoint, report) =
        from_torch(&tree(&bytes), &base, &options(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(report.left_out.is_empty(), "{name}: {report}");
    // What a file holds is what a checkpoint reads back.
    Checkpoint::from_bytes(&checkpoint.to_bytes().unwrap()).unwrap()
}

/// Returns an optimizer with the groups of the files.
fn optimizer(name: &str) -> Box<dyn Optimizer> {
    if name == "LBFGS" {
        return Box::new(search(&config(name)));
    }
    let mut driver = recipe(&config(name)).optimizer(best());
    if name != "Muon" {
        driver.add_group(|name| !MATRICES.contains(&name), &[]).unwrap();
    }
    Box::new(driver)
}

/// What LBFGS evaluates: `objective` of converted.py.
struct Bowl<'t> {
    params: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    grads: BTreeMap<String, Vec<f32>>,
    trace: &'t SafeTensors<'t>,
}

impl Objective for Bowl<'_> {
    fn evaluate(&mut self) -> fallline::optim::Result<f64> {
        let mut loss = 0.0;
        for (name, (_, value)) in &self.params {
            let center = floats(self.trace, &format!("grad/0/{name}"));
            let center = center.unwrap_or_else(|| vec![0.0; value.len()]);
            let off = value.iter().zip(&center).map(|(p, c)| f64::from(p - c));
            let weighted = off.enumerate().map(|(i, x)| ((i + 1) as f64, x));
            loss += weighted.clone().map(|(w, x)| w * x * x / 2.0 + x.powi(4) / 10.0).sum::<f64>();
            let grad = weighted.map(|(w, x)| (w * x + 0.4 * x.powi(3)) as f32);
            self.grads.insert(name.clone(), grad.collect());
        }
        Ok(loss)
    }

    fn bindings(&mut self) -> Vec<fallline::Binding<'_>> {
        let grads = &self.grads;
        self.params
            .iter_mut()
            .map(|(name, (shape, value))| param(name, value, &grads[name]).shaped(shape))
            .collect()
    }
}

/// Ends the run that a checkpoint is in the middle of.
fn end(name: &str, checkpoint: &Checkpoint, optimizer: &mut dyn Optimizer) -> BTreeMap<String, Vec<f32>> {
    let bytes = file("trace.safetensors");
    let trace = SafeTensors::deserialize(&bytes).unwrap();
    let mut params: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    for name in order(name) {
        let entry = checkpoint.param(&name).unwrap_or_else(|| panic!("{name} has no values"));
        params.insert(name, (entry.shape.dims().to_vec(), entry.values()));
    }
    if name == "LBFGS" {
        let mut bowl = Bowl { params, grads: BTreeMap::new(), trace: &trace };
        for _ in SAVED..STEPS {
            optimizer.step_with(&mut bowl).unwrap();
        }
        return bowl.params.into_iter().map(|(name, (_, value))| (name, value)).collect();
    }
    for t in SAVED..STEPS {
        let grads: BTreeMap<&String, Vec<f32>> = params
            .keys()
            .filter_map(|name| Some((name, floats(&trace, &format!("grad/{t}/{name}"))?)))
            .collect();
        let grads: BTreeMap<String, Vec<f32>> = grads.into_iter().map(|(k, v)| (k.clone(), v)).collect();
        let mut bindings = Vec::new();
        for (name, (shape, value)) in &mut params {
            let binding = match grads.get(name) {
                Some(grad) => param(name, value, grad),
                None => frozen(name, value),
            };
            bindings.push(binding.shaped(shape));
        }
        optimizer.step(&mut bindings).unwrap_or_else(|error| panic!("{error}"));
    }
    params.into_iter().map(|(name, (_, value))| (name, value)).collect()
}

/// Two steps from the same numbers. Each rounds a handful of times relative to what it moves, and three times
/// relative to the parameter. For the first, 3e-4 is far above that in f32 and far below any wrong formula, as in
/// tests/suites/golden.rs. In torch, Muon orthogonalises in bf16: five iterations a step, each of which rounds to 2^-8.
fn compare(name: &str, start: &Checkpoint, ended: &BTreeMap<String, Vec<f32>>) {
    let bytes = file("expected.safetensors");
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    for (key, got) in ended {
        let want = floats(&expected, &format!("{}/{key}", source_of(name))).unwrap();
        let start: Vec<f32> = start.param(key).unwrap().values();
        let largest =
            |values: &mut dyn Iterator<Item = f32>| values.fold(0.0f32, |most, x| most.max(x.abs()));
        let moved = largest(&mut want.iter().zip(&start).map(|(a, b)| a - b));
        assert!(moved > 0.0, "{name}: {key} does not move");
        let relative = if name == "Muon" { 2.0 * 5.0 / 256.0 } else { 3e-4 };
        let allowed = relative * moved + 2.0 * 3.0 * f32::EPSILON * largest(&mut want.iter().copied());
        for (i, (x, y)) in want.iter().zip(got).enumerate() {
            assert!(
                (x - y).abs() <= allowed,
                "{name}: {key}[{i}]: expected {x}, got {y}, allowed {allowed:e}"
            );
        }
    }
}

/// Runs a check for every name, and fails at the end with all that failed.
fn for_each_name(check: impl Fn(&'static str) + std::panic::RefUnwindSafe) {
    let failed: Vec<&str> =
        names_here().filter(|name| std::panic::catch_unwind(|| check(name)).is_err()).collect();
    assert!(failed.is_empty(), "failed (see above): {failed:?}");
}

/// Returns the names with files. Those in 8 bits have theirs in another folder (see `codes_go_there_and_back`);
/// SparseAdam, which has none, keeps what Adam keeps.
fn names_here() -> impl Iterator<Item = &'static str> {
    let names = ENTRIES.iter().map(|entry| entry.name);
    let names = names.filter(|name| !name.ends_with("8bit") && *name != "SparseAdam");
    names.filter(|name| layout::find(name).is_some_and(|row| row.is_ok()))
}

#[test]
fn no_name_is_forgotten_and_every_row_fits_its_algorithm() {
    for entry in ENTRIES {
        let skips = inputs_of(entry.name).is_some_and(|inputs| inputs.skips(Skip::Convert));
        let Some(found) = layout::find(entry.name) else {
            let name = entry.name;
            assert!(
                skips,
                "{name} is in no row: write how its source's state_dict is read in convert/src/layout/table.rs, \
                 or why that is not known: Skip::Convert in tests/common/inputs/table.rs"
            );
            continue;
        };
        assert!(!skips, "{} is in a row of convert/src/layout/table.rs, and skips that", entry.name);
        let Ok(row) = found else { continue };
        let method = entry.defaults();
        let known = |name: &str| method.table().iter().any(|hyper| hyper.name == name);
        let mut shared = Vec::new();
        for group in row.groups {
            match group {
                layout::Group::Same(name) | layout::Group::First(_, name) => {
                    assert!(known(name), "{} has no hyperparameter {name}", entry.name);
                }
                layout::Group::Shared(name, _) => shared.push(*name),
                layout::Group::Training(_) | layout::Group::WarmedUp(_) | layout::Group::Fixed(..) => {}
            }
        }
        let Some(algorithm) = method.algorithm() else { continue };
        for name in &shared {
            assert!(algorithm.spec().shared.iter().any(|(known, _)| known == name), "{}: {name}", entry.name);
        }
        // What no group keeps is computed anew in each step.
        let lost: Vec<&str> = algorithm
            .spec()
            .shared
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| !shared.contains(name))
            .collect();
        assert!(lost.is_empty() || lost == ["dlr"], "{}: {lost:?} would be lost", entry.name);
        assert!(algorithm.spec().memory.is_empty(), "{}: what it remembers for each parameter", entry.name);
        // Every state, whatever the hyperparameters and shapes.
        let mut states: Vec<&str> = Vec::new();
        for text in crate::common::CASES.iter().filter(|text| crate::common::name_of(text) == entry.name) {
            let recipe = recipe(text);
            recipe
                .algorithm()
                .programs()
                .for_each(|program| states.extend(program.operands(fallline::core::Role::State)));
        }
        for state in states {
            let has = row.states.iter().any(|row| row.ours().contains(&state));
            assert!(has, "{}: its state {state} is in no row", entry.name);
        }
    }
    let mut all: Vec<&str> = layout::ROWS.iter().flat_map(|(names, _)| names.iter().copied()).collect();
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "a name is in two rows");
    for name in all {
        assert!(names::find(name).is_some(), "{name} is in a row of convert/src/layout/table.rs alone");
    }
}

#[test]
fn a_run_of_the_source_goes_on_as_it_would_have() {
    for_each_name(|name| {
        let checkpoint = taken_over(name);
        let mut optimizer = optimizer(name);
        let report = optimizer.load(&checkpoint).unwrap_or_else(|error| panic!("{name}: {error}"));
        // `late` had no gradient yet, and is only known where the source keeps its shape.
        assert!(report.matched >= 2, "{name}: {report}");
        compare(name, &checkpoint, &end(name, &checkpoint, &mut *optimizer));
    });
}

/// Returns what a checkpoint's groups are stepped by.
fn methods(checkpoint: &Checkpoint) -> Vec<Method> {
    let manifest = checkpoint.manifest.optimizer.as_ref().unwrap();
    let entry = names::find(manifest.name()).unwrap();
    let group = |values: Vec<(&str, fallline::Value)>| {
        let mut method = entry.defaults();
        method.set(&values).unwrap();
        method
    };
    manifest.groups().map(group).collect()
}

/// Whether two trees say the same: tensors of the same type, shape and bits, numbers of the same value. Returns where
/// they do not. States that follow from others are in `derived`: they have a last digit of their own.
fn differs(at: &str, one: &Value<'_>, other: &Value<'_>) -> Option<String> {
    // Arguments that change no number are not kept.
    const FREE: [&str; 6] = ["foreach", "fused", "capturable", "differentiable", "log_every", "fsdp_in_use"];
    if FREE.contains(&at.rsplit('.').next().unwrap()) {
        return None;
    }
    // So does the table that bitsandbytes makes, which hangs on how torch adds.
    const DERIVED: [&str; 8] = ["mu_product", "eta", "mu", "z", "RMS", "unorm_vec", "qmap1", "qmap2"];
    if DERIVED.contains(&at.rsplit('.').next().unwrap()) {
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * a.abs().max(1e-3);
        return match (one, other) {
            // Computed anew in every step: what stands there does not matter, but that it does.
            _ if at.ends_with("RMS") || at.ends_with("unorm_vec") => None,
            (Value::Tensor(a), Value::Tensor(b)) => {
                let same = a.shape() == b.shape() && a.dtype() == b.dtype();
                let near = a.numbers().iter().zip(b.numbers()).all(|(&a, b)| close(a, b));
                (!same || !near).then(|| format!("{at}: {a:?} and {b:?}"))
            }
            _ => Some(format!("{at}: {one:?} and {other:?}")),
        };
    }
    let different = || Some(format!("{at}: {one:?} and {other:?}"));
    match (one, other) {
        (Value::Dict(a), Value::Dict(b)) => {
            // A parameter without a state has an entry where schedulefree has looked for one, with nothing in it.
            let holds = |value: &Value<'_>| !matches!(value, Value::Dict(entries) if entries.is_empty());
            let keys_of = |dict: &fallline_convert::Dict<'_>| -> Vec<String> {
                dict.iter().filter(|(_, value)| holds(value)).map(|(key, _)| key.to_string()).collect()
            };
            let (mut keys, mut others) = (keys_of(a), keys_of(b));
            // LBFGS's: scratch, and a loss that the next step computes first.
            for keys in [&mut keys, &mut others] {
                keys.retain(|key| key != "al" && key != "prev_loss");
            }
            keys.sort();
            others.sort();
            if keys != others {
                return Some(format!("{at}: keys {keys:?} and {others:?}"));
            }
            a.iter().find_map(|(key, value)| {
                // What only one has was let pass above.
                let (_, counterpart) = b.iter().find(|(known, _)| known == key)?;
                differs(&format!("{at}.{key}"), value, counterpart)
            })
        }
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            if a.len() != b.len() {
                return different();
            }
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| differs(&format!("{at}.{i}"), a, b))
        }
        (Value::Tensor(a), Value::Tensor(b)) => {
            let same = a.shape() == b.shape() && a.dtype() == b.dtype() && a.bytes() == b.bytes();
            if same { None } else { different() }
        }
        (Value::Bool(a), Value::Bool(b)) if a == b => None,
        _ if one == other || (one.as_f64().is_some() && one.as_f64() == other.as_f64()) => None,
        _ => different(),
    }
}

#[test]
fn what_is_given_back_is_what_the_source_saved() {
    for_each_name(|name| {
        let checkpoint = taken_over(name);
        // Through an optimizer, so that it is our state that is written.
        let mut optimizer = optimizer(name);
        optimizer.load(&checkpoint).unwrap();
        let mut ours = optimizer.save().unwrap();
        ours.manifest.origin = checkpoint.manifest.origin.clone();
        let options = ExportOptions::default();
        let (value, report) =
            to_torch(&ours, &methods(&ours), &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        let bytes = archive::write(&value).unwrap();
        assert_eq!(bytes, archive::write(&value).unwrap(), "the same bytes each time");
        let saved = file(&format!("{}.pth", source_of(name)));
        let saved = tree(&saved);
        let theirs = saved.get("optimizer").unwrap();
        assert_eq!(differs("optimizer", theirs, &tree(&bytes)), None, "{name}");
        let entries = theirs.get("state").map_or(0, |state| match state {
            Value::Dict(entries) => entries
                .iter()
                .filter(|(_, value)| !matches!(value, Value::Dict(empty) if empty.is_empty()))
                .count(),
            _ => 0,
        });
        // torch keeps LBFGS's memory of all parameters under the first.
        assert_eq!(report.parameters, if name == "LBFGS" { MODEL.len() } else { entries }, "{name}");
        // The same tree as safetensors, exactly.
        let flat_bytes = safetensors::write(&saved).unwrap();
        let again = safetensors::read(&flat_bytes, &Limits::default()).unwrap();
        assert_eq!(differs("", &saved, &again), None, "{name}");
        // And there and back once more is the same checkpoint.
        let base = method(&config(name));
        let names = self::options(name);
        let (back, _) = from_torch(&tree(&bytes), &base, &names).unwrap();
        assert_eq!(back.manifest.optimizer, checkpoint.manifest.optimizer, "{name}");
    });
}

/// With `FALLLINE_TORCH_PYTHON=<a Python with requirements.txt>`: the sources' own classes load what is written here,
/// end the run, and come out where they did without us.
#[test]
fn the_source_loads_what_is_written() {
    let Some(python) = std::env::var_os("FALLLINE_TORCH_PYTHON") else {
        println!("FALLLINE_TORCH_PYTHON is not set: not asked");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/converted.py")).arg("--resume");
    command.env("DS_ACCELERATOR", "cpu");
    // DeepSpeed's ops are not built for this.
    for name in names_here().filter(|name| !["FusedAdam", "DeepSpeedCPUAdam", "FusedLamb"].contains(name)) {
        let mut checkpoint = taken_over(name);
        // Muon's optimizer has the matrices only, but the script's model has all.
        let all = from_torch_weights(name);
        all.into_iter().for_each(|(name, entry)| checkpoint.insert_param(&name, entry));
        let options = ExportOptions { container: Container::Training, ..ExportOptions::default() };
        let (value, _) = to_torch(&checkpoint, &methods(&checkpoint), &options).unwrap();
        let value = with_whole_model(value, name);
        let path = folder.path().join(format!("{name}.pth"));
        std::fs::write(&path, archive::write(&value).unwrap()).unwrap();
        command.arg(path).arg(name);
    }
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
}

fn from_torch_weights(name: &str) -> Vec<(String, fallline::optim::checkpoint::Entry)> {
    let checkpoint = taken_over(name);
    let names: Vec<String> = checkpoint.params().map(str::to_owned).collect();
    names.into_iter().map(|name| (name.clone(), checkpoint.param(&name).unwrap().clone())).collect()
}

/// The script's model has all parameters, whichever the optimizer has.
fn with_whole_model<'a>(value: Value<'a>, name: &str) -> Value<'a> {
    if name != "Muon" {
        return value;
    }
    let bytes: &'static [u8] = Box::leak(file("Muon.pth").into_boxed_slice());
    let model = tree(bytes).get("model").unwrap().clone();
    Value::dict([("model", model), ("optimizer", value.get("optimizer").unwrap().clone())])
}

#[test]
fn a_checkpoint_of_mmengine_brings_its_names() {
    let bytes = file("mmengine.pth");
    let root = tree(&bytes);
    let base = method("AdamW");
    let (checkpoint, report) = from_torch(&root, &base, &ImportOptions::default()).unwrap();
    let manifest = checkpoint.manifest.optimizer.as_ref().unwrap();
    let names: Vec<&str> = manifest.params().map(|(name, _)| name).collect();
    assert_eq!(names, ["bn.bias", "bn.weight", "conv.bias", "conv.weight"]);
    assert_eq!((report.parameters, report.weights), (4, 4), "buffers are no parameters");
    assert!(report.left_out.contains(&"message_hub".to_owned()), "{report}");
    // Four groups of one parameter each are two: with decay and without.
    let decays: Vec<fallline::Value> = manifest
        .groups()
        .map(|group| group.into_iter().find(|(name, _)| *name == "weight_decay").unwrap().1)
        .collect();
    assert_eq!(decays, [fallline::Value::Float(0.05), fallline::Value::Float(0.0)]);
    assert_eq!(checkpoint.manifest.trainer, Some(serde_json::json!({ "epoch": 1, "iter": 2 })));
    // A trainer with an lr of its own takes the state alone.
    let mut mine = fallline::build("dict(type='AdamW', lr=5e-4)").unwrap();
    let report = mine.load_with(&checkpoint, &LoadOptions::default().state_only()).unwrap();
    assert_eq!((report.matched, mine.get(0, "lr")), (4, Some(fallline::Value::Float(5e-4))));
    // And back: groups of one again, in the model's order.
    let options = ExportOptions { container: Container::MmEngine, ..ExportOptions::default() };
    let (value, _) = to_torch(&checkpoint, &methods(&checkpoint), &options).unwrap();
    let there = root.get("optimizer").unwrap();
    let back = value.get("optimizer").unwrap();
    assert_eq!(differs("state", there.get("state").unwrap(), back.get("state").unwrap()), None);
    let (Some(Value::List(a)), Some(Value::List(b))) = (there.get("param_groups"), back.get("param_groups"))
    else {
        panic!("groups");
    };
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        for key in ["lr", "weight_decay", "params", "decoupled_weight_decay"] {
            assert_eq!(differs(key, a.get(key).unwrap(), b.get(key).unwrap()), None);
        }
    }
}

#[test]
fn eight_bit_codes_become_the_numbers_that_they_mean() {
    let bytes = file("Adam8bit.pth");
    let options = ImportOptions { number: true, ..ImportOptions::default() };
    let base = method("Adam32bit");
    let (checkpoint, report) = from_torch(&tree(&bytes), &base, &options).unwrap();
    assert_eq!(report.decoded, 2);
    let expected = file("expected.safetensors");
    let expected = SafeTensors::deserialize(&expected).unwrap();
    for state in ["m", "v"] {
        // One product of two floats, rounded once, on either side.
        let got: Vec<f32> = checkpoint.state("0", state).unwrap().values();
        assert_eq!(got, floats(&expected, &format!("Adam8bit/{state}")).unwrap(), "{state}");
    }
}

/// The codes, scales and tables of bitsandbytes are imported and exported as they are, and the run resumes. No more
/// numbers than one in a thousand meet another code (`tests/suites/quantised.rs` has the same bounds).
#[test]
fn codes_go_there_and_back() {
    const NAMES: [&str; 3] = ["large", "middle", "small"];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quantised");
    let read = |name: String| std::fs::read(folder.join(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let trace = read("trace.safetensors".into());
    let trace = SafeTensors::deserialize(&trace).unwrap();
    let names = NAMES.map(|name| (name.to_owned(), None)).to_vec();
    let options = ImportOptions { names: Some(names), ..ImportOptions::default() };
    let eight = ENTRIES.iter().map(|entry| entry.name);
    for name in eight.filter(|name| name.ends_with("8bit") && !name.starts_with("Paged")) {
        let golden = read(format!("{name}-options.safetensors"));
        let (_, header) = SafeTensors::read_metadata(&golden).unwrap();
        let base = recipe(&header.metadata().as_ref().unwrap()["optimizer"]);
        let golden = SafeTensors::deserialize(&golden).unwrap();
        let bytes = read(format!("{name}.pth"));
        let (checkpoint, report) = from_torch(&tree(&bytes), &Method::from(base.algorithm()), &options)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(report.decoded, 0, "{name}");
        let mut driver = base.optimizer(best());
        driver.load(&Checkpoint::from_bytes(&checkpoint.to_bytes().unwrap()).unwrap()).unwrap();
        let mut ours = driver.save().unwrap();
        assert!(ours.codes("middle", driver.params()[1].states[0]).is_some(), "{name}");
        ours.manifest.origin = checkpoint.manifest.origin.clone();
        let given_back = |name: &str, ours: &Checkpoint| {
            let (value, report) = to_torch(ours, &methods(ours), &ExportOptions::default())
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(report.decoded, 0, "{name}");
            archive::write(&value).unwrap()
        };
        let written = given_back(name, &ours);
        let (one, other) = (tree(&bytes), tree(&written));
        assert_eq!(differs("state", one.get("state").unwrap(), other.get("state").unwrap()), None, "{name}");
        let mut off = 0;
        let mut count = 0;
        let kept = ["middle", "small"];
        let starts = kept.map(|key| floats(&golden, &format!("expected/3/{key}")).unwrap());
        let mut params = starts.clone();
        for t in 4..8 {
            let grads = kept.map(|key| floats(&trace, &format!("grad/{t}/{key}")).unwrap());
            let pairs = params.iter_mut().zip(&grads).zip(kept);
            let mut bindings: Vec<_> =
                pairs.map(|((p, g), key)| param(key, p.as_mut_slice(), g.as_slice())).collect();
            driver.step(&mut bindings).unwrap();
        }
        for ((got, start), key) in params.iter().zip(&starts).zip(kept) {
            let want = floats(&golden, &format!("expected/7/{key}")).unwrap();
            let largest =
                |values: &mut dyn Iterator<Item = f32>| values.fold(0.0f32, |most, x| most.max(x.abs()));
            let moved = largest(&mut want.iter().zip(start).map(|(a, b)| a - b));
            let allowed = 3e-4 * moved + 3.0 * 4.0 * f32::EPSILON * largest(&mut want.iter().copied());
            count += want.len();
            off += want.iter().zip(got).filter(|(x, y)| (*x - *y).abs() > allowed).count();
        }
        assert!(off * 1000 <= count, "{name}: {off} of {count} numbers are off");
    }
}
