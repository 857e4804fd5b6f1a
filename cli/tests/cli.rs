//! The command line, from outside: output, exit codes, files.

#[path = "../../tests/common/mod.rs"]
mod common;

use assert_cmd::Command;
use common::{Buffer, ONE_EACH, Random, Tensor, recipe};
use fallline::core::Role;
use fallline::optim::{ParamFormat, frozen, param};
use fallline::registry::names::ENTRIES;
use fallline::{Checkpoint, Compute, Cpu, Format, Optimizer, Recipe, Shape};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_fallline");

fn fallline() -> Command {
    let mut command = Command::new(BINARY);
    command.env_remove("FALLLINE_ISA");
    command
}

/// What a command gave.
struct Told {
    code: i32,
    out: String,
    error: String,
}

fn tell(command: &mut Command) -> Told {
    let output = command.output().unwrap();
    let told = Told {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        error: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!told.error.contains("panicked"), "{}", told.error);
    told
}

/// The output of a command that works.
fn good(arguments: &[&str]) -> String {
    let told = tell(fallline().args(arguments));
    assert_eq!(told.code, 0, "{arguments:?}: {}", told.error);
    told.out
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&good(arguments)).unwrap()
}

/// A command that fails with this code and one line, which has all of `parts`.
fn bad(command: &mut Command, code: i32, parts: &[&str]) {
    let told = tell(command);
    assert_eq!(told.code, code, "{command:?}: {}", told.error);
    assert!(told.out.is_empty(), "{command:?}: {}", told.out);
    assert_eq!(told.error.lines().count(), 1, "{command:?}: {}", told.error);
    for part in parts {
        assert!(told.error.contains(part), "{command:?}: {:?} is not in {}", part, told.error);
    }
}

#[test]
fn list_prints_every_name_and_what_is_known_of_it() {
    let names: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
    assert_eq!(good(&["list"]).lines().collect::<Vec<_>>(), names);
    let list = json(&["list", "--json"]);
    assert_eq!(list.as_array().unwrap().len(), names.len());
    for (row, entry) in list.as_array().unwrap().iter().zip(ENTRIES) {
        assert_eq!(row["name"], entry.name);
        for key in ["family", "source", "state_formula"] {
            assert!(row[key].as_str().is_some_and(|text| !text.is_empty()), "{row}");
        }
        assert_eq!(row["state_bytes_per_param"].as_f64(), entry.state_bytes());
        assert_eq!(row["needs"], serde_json::json!(entry.needs));
    }
    let of = |name: &str| {
        let row = list.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
        (row["state_bytes_per_param"].as_f64(), row["state_formula"].as_str().unwrap().to_owned())
    };
    assert_eq!(of("AdamW"), (Some(8.0), "4 (m) + 4 (v)".into()));
    assert_eq!(of("Adafactor"), (None, "4 / columns (row) + 4 / rows (column)".into()));
    assert_eq!(of("LBFGS").0, Some(4.0 * 202.0));
}

#[test]
fn describe_tells_the_rule_the_hyperparameters_and_the_references() {
    for entry in ENTRIES {
        let text = good(&["describe", entry.name]);
        let value = json(&["describe", entry.name, "--json"]);
        assert_eq!(value["name"], entry.name);
        for hyper in entry.defaults().table() {
            assert!(text.contains(hyper.name), "{}: {}", entry.name, hyper.name);
            let rows = value["hyperparameters"].as_array().unwrap();
            let row = rows.iter().find(|row| row["name"] == hyper.name).unwrap();
            assert_eq!(row["default"], (hyper.default)().to_string());
            assert!(row["type"].is_string() && row["range"].is_string() && row["meaning"].is_string());
        }
        for state in entry.defaults().states() {
            assert!(text.contains(state), "{}: {state}", entry.name);
        }
        for reference in entry.defaults().info().references {
            assert!(text.contains(reference.at) && value["references"].to_string().contains(reference.at));
        }
        assert!(text.contains('θ') && text.contains('←') || text.contains("θₜ ="), "{text}");
        assert!(!value["rules"].as_array().unwrap().is_empty());
    }
    for (dtype, width) in
        [("f32", "ld.global.v4.f32"), ("bf16", "ld.global.v4.b32"), ("f64", "ld.global.v2.f64")]
    {
        let ptx = good(&["describe", "AdamW", "--ptx", "--dtype", dtype]);
        assert!(ptx.contains(".visible .entry AdamWRule(") && ptx.contains(".visible .entry AdamWMaxRule("));
        assert!(ptx.contains(width), "{dtype}: {ptx}");
        assert!(ptx.contains("// "), "comments");
    }
    bad(fallline().args(["describe", "AdamW", "--ptx", "--json"]), 2, &["--ptx", "--json"]);
    bad(fallline().args(["describe", "AdmaW"]), 2, &["\"AdmaW\"", "did you mean \"AdamW\"?"]);
    bad(
        fallline().args(["describe", "Rotogravure"]),
        2,
        &["Rotogravure", "AdamW, AdamW32bit, AdamW8bit, Adamax"],
    );
}

#[test]
fn usage_errors_are_one_line_with_code_2() {
    bad(fallline().args(["list", "--jsno"]), 2, &["--jsno", "--json"]);
    bad(fallline().args(["lisst"]), 2, &["lisst", "list"]);
    bad(fallline().args(["describe"]), 2, &["NAME"]);
    bad(fallline().args(["describe", "SGD", "extra"]), 2, &["extra"]);
    bad(fallline().args(["train", "--epochs", "-1"]), 2, &["-1"]);
    bad(fallline().args(["train", "--epochs", "many"]), 2, &["many"]);
    bad(fallline().args(["bench", "--threads", "0"]), 2, &["0"]);
    bad(fallline().args(["bench", "--elements", "0"]), 2, &["0"]);
    bad(fallline().args(["bench", "--layout", "falt"]), 2, &["falt", "flat"]);
    bad(fallline().args(["bench", "--dtype", "q8"]), 2, &["q8", "f32", "bf16"]);
    bad(fallline().args(["bench", "--optimizer", "AdmaW"]), 2, &["AdmaW", "AdamW"]);
    bad(&mut fallline(), 2, &["replay"]);
    for command in
        ["list", "describe", "explain", "replay", "schedule", "train", "minimize", "convert", "bench"]
    {
        assert!(good(&[command, "--help"]).contains("Example: fallline"), "{command}");
    }
    assert!(good(&["--version"]).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_forced_instruction_set_must_exist() {
    bad(
        fallline().env("FALLLINE_ISA", "nonsense").args(["bench", "--elements", "1000"]),
        2,
        &["FALLLINE_ISA", "nonsense", "avx2"],
    );
    for isa in common::isas() {
        let bench = ["bench", "--elements", "1000", "--optimizer", "SGD", "--threads", "1", "--json"];
        let told = tell(fallline().env("FALLLINE_ISA", isa.name()).args(bench));
        let value: Value = serde_json::from_str(&told.out).unwrap();
        assert_eq!(value[0]["isa"], isa.name());
    }
}

#[test]
fn bench_tells_bytes_times_and_the_roofline() {
    for (layout, dtype) in [("flat", "f32"), ("small", "bf16")] {
        let value = json(&[
            "bench",
            "--elements",
            "5000",
            "--layout",
            layout,
            "--dtype",
            dtype,
            "--threads",
            "1",
            "--json",
        ]);
        let rows = value.as_array().unwrap();
        // One that takes matrices only has a square one in place of a flat tensor.
        let fits = |needs: &[&str]| needs.is_empty() || (layout == "flat" && needs == ["matrix"]);
        let plain: Vec<_> = ENTRIES.iter().filter(|entry| fits(entry.needs)).collect();
        assert_eq!(rows.len(), plain.len());
        for (row, entry) in rows.iter().zip(plain) {
            assert_eq!(row["name"], entry.name);
            let (shape, elements, its_layout) = match entry.needs {
                [] => (Shape::from([5000]), 5000, layout),
                _ => (Shape::from([70, 71]), 4970, "matrix"),
            };
            assert_eq!((&row["elements"], &row["layout"]), (&elements.into(), &its_layout.into()));
            assert_eq!(row["threads"], 1);
            // The gradient is read; the parameter and each state (4 bytes) are read and written. Where the norms
            // must be known first, the parameter and the states (the gradient, where there are none) are read
            // once more.
            let size = if dtype == "bf16" { 2.0 } else { 4.0 };
            let algorithm = entry.defaults();
            let tensor = if layout == "small" { 1000 } else { elements };
            let shape = if layout == "small" { Shape::from([tensor]) } else { shape };
            let stages = algorithm.stages(algorithm.class(&shape).unwrap());
            let states = stages.operands(Role::State);
            let recipe = recipe(entry.name);
            let stored = states.iter().map(|state| recipe.state_format(state, tensor).mean_bytes());

            let (states, stored) = (states.len(), stored.sum::<f64>());
            let again = match (stages.kernels().count(), states, entry.name) {
                (1, ..) => 0.0,
                // The first reads the parameter too, the second makes a pass of its own of that.
                (_, _, "Adafactor") => 2.0 * size + 4.0,
                (_, _, "TorchAdafactor") => 3.0 * size + 8.0,
                // What is orthogonalised is written, and read again; the gradient is not.
                (_, _, "Muon") => 12.0,
                (_, 0, _) => 2.0 * size,
                // These need the parameter only then where nothing decays. x0 is read but never written; the first needs s
                // again, the last has no s.
                (_, _, "DAdaptSGD") => 0.0,
                (_, _, "DAdaptAdaGrad") => 4.0,
                (_, _, "DAdaptAdam") => 8.0,
                // And this does not need the fresh variance.
                (_, _, "OnebitLamb") => size + 8.0,
                _ => size + stored,
            };
            let bytes = 3.0 * size + 2.0 * stored + again;
            assert!(
                (row["bytes_per_element"].as_f64().unwrap() / bytes - 1.0).abs() < 1e-12,
                "{bytes}: {row}"
            );
            let number = |key: &str| row[key].as_f64().filter(|x| x.is_finite() && *x > 0.0).unwrap();
            let speed = bytes / number("ns_per_element");
            assert!((number("gb_per_s") / speed - 1.0).abs() < 1e-9, "{row}");
            assert!(number("roofline") > 0.0);
        }
    }
    let table = good(&["bench", "--elements", "1000", "--optimizer", "SGD", "dict(type='Lion', lr=0.1)"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("roofline") && table.contains("Lion"));
}

/// A safetensors file of numbers.
fn write(path: &Path, entries: &[(String, Vec<usize>, Buffer)]) {
    let bytes: Vec<(Dtype, Vec<u8>)> = entries.iter().map(|(_, _, buffer)| stored(buffer)).collect();
    let views = entries.iter().zip(&bytes).map(|((key, shape, _), (dtype, bytes))| {
        (key.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn stored(buffer: &Buffer) -> (Dtype, Vec<u8>) {
    match buffer {
        Buffer::F64(v) => (Dtype::F64, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Buffer::F32(v) => (Dtype::F32, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Buffer::Bf16(v) => (Dtype::BF16, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Buffer::F16(v) => (Dtype::F16, v.iter().flat_map(|x| x.to_le_bytes()).collect()),
    }
}

const STEPS: usize = 4;

/// A trace of parameters in these formats, the second without a gradient at step 1, and the same for the library.
fn trace(path: &Path, formats: &[Format]) -> Vec<Tensor> {
    let mut random = Random(31);
    let mut tensors = Vec::new();
    for (i, &format) in formats.iter().enumerate() {
        let mut draw = |format| Buffer::new(format, &random.units(6));
        let value = draw(format);
        let grads = (0..STEPS).map(|t| (i != 1 || t != 1).then(|| draw(format))).collect();
        tensors.push(Tensor::new(format!("layer/{i}.weight"), value, grads));
    }
    let mut entries = Vec::new();
    for Tensor { name, value, grads, .. } in &tensors {
        entries.push((format!("param/{name}"), vec![2, 3], value.clone()));
        for (t, grad) in grads.iter().enumerate().filter_map(|(t, grad)| Some((t, grad.clone()?))) {
            entries.push((format!("grad/{t}/{name}"), vec![2, 3], grad));
        }
    }
    write(path, &entries);
    tensors
}

/// What the library gives: for each step and parameter the bytes.
fn library(text: &str, compute: Compute, tensors: &[Tensor]) -> Vec<(String, Vec<u8>)> {
    let mut tensors = tensors.to_vec();
    let mut optimizer = recipe(text).optimizer(Cpu::scalar().shared()).with_compute(compute);
    let mut kept = Vec::new();
    for t in 0..STEPS {
        let mut bindings = Vec::new();
        for Tensor { name, value, grads, .. } in &mut tensors {
            let binding = match &grads[t] {
                Some(grad) => param(name, value.param_from(0), grad.grad_from(0)),
                None => frozen(name, value.param_from(0)),
            };
            bindings.push(binding.shaped(&[2, 3]));
        }
        optimizer.step(&mut bindings).unwrap();
        drop(bindings);
        kept.extend(
            tensors.iter().map(|tensor| (format!("param/{t}/{}", tensor.name), stored(&tensor.value).1)),
        );
    }
    kept.sort();
    kept
}

/// What a file holds: for each entry its bytes.
fn contents(path: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut entries: Vec<_> =
        file.tensors().into_iter().map(|(key, view)| (key, view.data().to_vec())).collect();
    entries.sort();
    entries
}

fn replay(text: &str, trace: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = fallline();
    command.args(["replay", "--optimizer", text, "--trace"]).arg(trace).arg("--out").arg(out).args(more);
    command
}

#[test]
fn replay_is_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let mixtures: [(&[Format], Compute); 3] = [
        (&[Format::F64, Format::F64], Compute::F64),
        (&[Format::F32, Format::F64], Compute::F32),
        (&[Format::Bf16, Format::F16, Format::F32], Compute::F32),
    ];
    for (formats, by_default) in mixtures {
        let tensors = trace(&input, formats);
        for text in ONE_EACH {
            let expected = library(text, by_default, &tensors);
            for more in [&["--device", "scalar"][..], &["--threads", "1"], &["--threads", "2"], &[]] {
                let told = tell(&mut replay(text, &input, &out, more));
                assert_eq!(told.code, 0, "{}", told.error);
                assert_eq!(contents(&out), expected, "{text} {formats:?} {more:?}");
            }
        }
        let text = ONE_EACH[0];
        for (name, compute) in [("f32", Compute::F32), ("f64", Compute::F64)] {
            replay(text, &input, &out, &["--compute", name]).assert().success();
            assert_eq!(contents(&out), library(text, compute, &tensors), "{formats:?} in {name}");
        }
    }
}

#[test]
fn replay_keeps_what_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let state = folder.path().join("state.safetensors");
    let tensors = trace(&input, &[Format::F32, Format::F32]);
    let text = ONE_EACH[1];
    replay(text, &input, &out, &["--keep", "0, 3", "--state", state.to_str().unwrap()]).assert().success();
    let of_kept = |(key, _): &(String, Vec<u8>)| key.starts_with("param/0/") || key.starts_with("param/3/");
    let mut expected = library(text, Compute::F32, &tensors);
    expected.retain(of_kept);
    assert_eq!(contents(&out), expected);

    // The state is a checkpoint that the library takes, parameters included.
    let checkpoint = Checkpoint::read(&state).unwrap();
    let mut optimizer = common::build(text);
    assert_eq!(optimizer.load(&checkpoint).unwrap().matched, 2);
    let steps: Vec<u64> = optimizer.params().iter().map(|param| param.steps).collect();
    assert_eq!(steps, [4, 3]);
    for tensor in &tensors {
        let key = format!("param/3/{}", tensor.name);
        let last = &expected.iter().find(|(k, _)| *k == key).unwrap().1;
        assert_eq!(&checkpoint.param(&tensor.name).unwrap().bytes, last);
    }
    bad(&mut replay(text, &input, &out, &["--keep", "0,4"]), 2, &["--keep", "4 steps"]);
    bad(&mut replay(text, &input, &out, &["--keep", "two"]), 2, &["--keep", "two"]);
    bad(&mut replay(text, &input, &out, &["--device", "tpu"]), 2, &["tpu", "cpu"]);
    bad(&mut replay(text, &input, &out, &["--compute", "f16"]), 2, &["f16"]);
    bad(&mut replay("dict(type='AdamW', lr=-1.0)", &input, &out, &[]), 2, &["lr", "-1"]);
    bad(&mut replay("dict(type='AdamW', ls=1.0)", &input, &out, &[]), 2, &["\"ls\"", "did you mean"]);
    bad(&mut replay("dict(type='AdmaW')", &input, &out, &[]), 2, &["AdmaW", "\"AdamW\""]);
    bad(&mut replay("dict(type='AdamW'", &input, &out, &[]), 2, &["line", "column"]);
    assert_eq!(contents(&out), expected, "a failure leaves the old output as it is");
}

#[test]
fn row_sparse_gradients_are_dense_ones_where_that_is_meant() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let start = Buffer::F32((0..12).map(|x| x as f32).collect());
    let bytes = |values: &[i64]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let sparse = |path: &Path, rows: &[i64], width: usize, values: &[f32]| {
        let (rows_bytes, (_, value_bytes)) = (bytes(rows), stored(&Buffer::F32(values.to_vec())));
        let (dtype, start_bytes) = stored(&start);
        let views = [
            ("param/e", TensorView::new(dtype, vec![4, 3], &start_bytes).unwrap()),
            ("grad/0/e.indices", TensorView::new(Dtype::I64, vec![rows.len()], &rows_bytes).unwrap()),
            ("grad/0/e.values", TensorView::new(Dtype::F32, vec![rows.len(), width], &value_bytes).unwrap()),
        ];
        std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    };
    // Row 2 twice: it adds up.
    sparse(&at("sparse"), &[2, 0, 2], 3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.5, 0.25, 0.125]);
    let sum = Buffer::F32(vec![4.0, 5.0, 6.0, 0.0, 0.0, 0.0, 1.5, 2.25, 3.125, 0.0, 0.0, 0.0]);
    write(
        &at("dense"),
        &[("param/e".into(), vec![4, 3], start.clone()), ("grad/0/e".into(), vec![4, 3], sum)],
    );
    for text in ["dict(type='SGD', lr=0.1, momentum=0.9)", "dict(type='SGD', lr=0.1)", "Lion", "Adagrad"] {
        replay(text, &at("sparse"), &at("a"), &[]).assert().success();
        replay(text, &at("dense"), &at("b"), &[]).assert().success();
        assert_eq!(contents(&at("a")), contents(&at("b")), "{text}");
    }
    std::fs::remove_file(at("a")).unwrap();
    replay("SparseAdam", &at("sparse"), &at("b"), &[]).assert().success();
    assert_ne!(contents(&at("b"))[0].1, stored(&start).1, "SparseAdam moves rows 0 and 2");
    bad(&mut replay("SparseAdam", &at("dense"), &at("a"), &[]), 2, &["grad/0/e", "dense gradients"]);
    for text in ["AdamW", "Adam", "dict(type='SGD', lr=0.1, weight_decay=0.1)"] {
        bad(&mut replay(text, &at("sparse"), &at("a"), &[]), 2, &["grad/0/e", "row-sparse"]);
    }
    sparse(&at("sparse"), &[4], 3, &[1.0; 3]);
    bad(&mut replay("SGD", &at("sparse"), &at("a"), &[]), 1, &["grad/0/e", "row 4"]);
    sparse(&at("sparse"), &[-1], 3, &[1.0; 3]);
    bad(&mut replay("SGD", &at("sparse"), &at("a"), &[]), 1, &["grad/0/e", "row -1"]);
    sparse(&at("sparse"), &[0], 2, &[1.0; 2]);
    bad(&mut replay("SGD", &at("sparse"), &at("a"), &[]), 1, &["grad/0/e", "[1, 2]"]);
    assert!(!at("a").exists(), "a failure writes nothing");
}

#[test]
fn a_trace_that_is_wrong_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let p = || ("param/p".to_owned(), vec![2], Buffer::F32(vec![1.0, 2.0]));
    let grad = |key: &str, n: usize| (key.to_owned(), vec![n], Buffer::F32(vec![1.0; n]));
    let traces = [
        (vec![grad("grad/0/p", 2)], "param/<name>"),
        (vec![p(), grad("grad/0/p", 3)], "grad/0/p"),
        (vec![p(), grad("grad/0/q", 2)], "grad/0/q"),
        (vec![p(), grad("grad/x/p", 2)], "grad/x/p"),
        (vec![p(), grad("grad/-1/p", 2)], "grad/-1/p"),
        (vec![p(), grad("grad/99999999999/p", 2)], "grad/99999999999/p"),
        (vec![p(), grad("grads", 2)], "grads"),
        (vec![p(), grad("hess/0/p", 3)], "hess/0/p"),
        (vec![p(), grad("hess/0/q", 2)], "hess/0/q"),
        (vec![p(), grad("grad/0/p.values", 2)], "grad/0/p.values"),
        (vec![p(), grad("grad/0/p.indices", 2)], "grad/0/p.indices"),
    ];
    for (entries, named) in traces {
        write(&input, &entries);
        bad(&mut replay("SGD", &input, &out, &[]), 1, &["in.safetensors", named]);
    }
    write(&input, &[p(), grad("grad/0/p", 2), grad("hess/0/p", 2)]);
    bad(&mut replay("SGD", &input, &out, &[]), 2, &["in.safetensors", "hess/", "SGD"]);
    // After its step: the second step is the first that sees it.
    write(&input, &[p(), grad("grad/0/p", 2), grad("hess/0/p", 2), grad("grad/1/p", 2)]);
    let text = "dict(type='SophiaG', lr=0.1, weight_decay=0.0, bs=1.0)";
    replay(text, &input, &out, &[]).assert().success();
    let (mut value, ones) = (vec![1.0f32, 2.0], [1.0f32; 2]);
    let mut optimizer = common::build(text);
    for t in 0..2 {
        optimizer.step(&mut [fallline::optim::param("p", &mut value, &ones)]).unwrap();
        if t == 0 {
            optimizer.update_hessian(&mut [fallline::optim::param("p", &mut value, &ones)]).unwrap();
        }
    }
    assert_eq!(contents(&out).last().unwrap().1, stored(&Buffer::F32(value)).1);
    std::fs::remove_file(&out).unwrap();
    for bytes in [&b""[..], b"garbage", &u64::MAX.to_le_bytes(), b"\x02\0\0\0\0\0\0\0{}"] {
        std::fs::write(&input, bytes).unwrap();
        bad(&mut replay("SGD", &input, &out, &[]), 1, &["in.safetensors"]);
    }
    bad(&mut replay("SGD", &folder.path().join("gone"), &out, &[]), 1, &["gone"]);
    bad(&mut replay("SGD", folder.path(), &out, &[]), 1, &[folder.path().to_str().unwrap()]);
    trace(&input, &[Format::F32]);
    bad(&mut replay("SGD", &input, &folder.path().join("no/folder"), &[]), 1, &["no/folder"]);
    assert!(!out.exists());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
    // A trace without gradients has no steps.
    write(&input, &[p()]);
    replay("SGD", &input, &out, &[]).assert().success();
    assert_eq!(contents(&out), []);
}

/// A small run that does not take long unoptimised either.
fn config(folder: &Path, epochs: u64) -> PathBuf {
    let path = folder.join("small.py");
    let text = format!(
        "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=5e-3, weight_decay=0.1))\n\
         param_scheduler = dict(type='CosineAnnealingLR', T_max=90, by_epoch=False)\n\
         train = dict(epochs={epochs}, batch_size=64, hidden=[16], seed=3)\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// The numbers of steps and of epochs in `metrics.jsonl`, and its lines.
fn metrics(run: &Path) -> (Vec<u64>, Vec<u64>, Vec<Value>) {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |key: &str, only: &str| {
        let rows = lines.iter().filter(|line| line.get(only).is_some());
        rows.map(|line| line[key].as_u64().unwrap()).collect::<Vec<_>>()
    };
    (of("step", "loss"), of("epoch", "test_accuracy"), lines.clone())
}

/// The steps of an epoch: 1,437 images in batches of 64.
const EPOCH: u64 = 23;

#[test]
fn train_writes_its_folder_and_ends_with_the_accuracy() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let config = config(folder.path(), 3);
    let train = |more: &[&str]| {
        let mut command = fallline();
        command.current_dir(folder.path()).args(["train", "--config"]).arg(&config).args(more);
        command
    };
    let out = run.to_str().unwrap();
    let told = tell(&mut train(&["--epochs", "1", "--out", out]));
    assert_eq!(told.code, 0, "{}", told.error);
    let last = told.out.lines().last().unwrap();
    let accuracy = last.strip_prefix("test accuracy: ").and_then(|rest| rest.strip_suffix('%')).unwrap();
    assert!(accuracy.split_once('.').is_some_and(|(_, digits)| digits.len() == 1), "{last}");
    assert!(accuracy.parse::<f64>().unwrap() > 20.0, "{last}: chance is 10%");
    let (steps, epochs, lines) = metrics(&run);
    assert_eq!(steps, (1..=EPOCH).collect::<Vec<_>>());
    assert_eq!(epochs, [0]);
    assert!(
        lines.iter().all(|line| line.get("loss").or(line.get("test_loss")).unwrap().as_f64().unwrap() > 0.0)
    );
    assert!(std::fs::read_to_string(run.join("loss.svg")).unwrap().contains("<svg"));
    assert!(Checkpoint::read(run.join("checkpoint.safetensors")).unwrap().params().count() >= 4);
    assert_eq!(std::fs::read_dir(&run).unwrap().count(), 3, "no temporary file is left");

    bad(&mut train(&["--out", out]), 2, &["--resume", out]);
    bad(&mut train(&["--resume", folder.path().to_str().unwrap()]), 2, &["checkpoint.safetensors"]);
    bad(&mut train(&["--resume"]), 2, &["--resume", "runs"]);
    // Without a folder: the next free one, and --resume takes the newest.
    for expected in ["small-1", "small-2"] {
        assert_eq!(tell(&mut train(&["--epochs", "0"])).code, 0);
        assert!(folder.path().join("runs").join(expected).is_dir(), "{expected}");
    }
    std::fs::write(&config, "optimizer = dict(type='SGD')\ntrain = dict(epochs=1, hiden=[4])").unwrap();
    bad(&mut train(&["--out", "x"]), 2, &["hiden", "hidden", "small.py:2:"]);
    assert!(!folder.path().join("x").exists(), "a bad configuration makes no folder");
}

/// The parameters, states and steps of a run's checkpoint.
fn trained(run: &Path) -> Vec<(String, Vec<u8>)> {
    contents(&run.join("checkpoint.safetensors"))
}

/// The same with all that goes on around an optimizer: 69 iterations in windows of 4, of which the last has 1; a loss
/// scale and steps so large that gradients overflow, so that some are skipped; another optimizer for the hidden layer.
#[cfg(unix)]
fn toolkit_config(folder: &Path, epochs: u64) -> PathBuf {
    let path = folder.join("toolkit.py");
    let text = format!(
        "optim_wrapper = dict(\n\
             type='AmpOptimWrapper', loss_scale=dict(init_scale=3e38, growth_interval=4),\n\
             optimizer=dict(type='AdamW', lr=2.0, weight_decay=0.1),\n\
             accumulative_counts=4, clip_grad=dict(max_norm=0.5),\n\
             paramwise_cfg=dict(bias_decay_mult=0.0, bias_lr_mult=2.0, custom_keys={{\n\
                 'fc1.weight': dict(optimizer=dict(type='Muon', lr=0.02, weight_decay=0.01))}}))\n\
         param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=10),\n\
             dict(type='CosineAnnealingLR', begin=10, by_epoch=False),\n\
             dict(type='LinearMomentum', start_factor=0.9, end=2),\n\
             dict(type='ReduceOnPlateauLR', patience=0, factor=0.7)]\n\
         train = dict(epochs={epochs}, batch_size=64, hidden=[16], seed=3,\n\
             average=dict(type='MomentumAnnealingEMA', momentum=0.05))\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[cfg(unix)]
#[test]
fn a_run_that_was_stopped_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    stopped(&config(folder.path(), 4), (4, EPOCH));
}

#[cfg(unix)]
#[test]
fn a_run_with_everything_around_that_was_stopped_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    stopped(&toolkit_config(folder.path(), 3), (3, EPOCH));
}

/// The record tells which steps were skipped: some of those that end a window (the last one has 3 iterations), and no other.
#[cfg(unix)]
#[test]
fn skipped_steps_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (config, run) = (toolkit_config(folder.path(), 3), folder.path().join("run"));
    let told = tell(fallline().args(["train", "--config"]).arg(config).arg("--out").arg(&run));
    assert_eq!(told.code, 0, "{}", told.error);
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let skipped: Vec<u64> = lines
        .filter(|line| !line["skipped"].is_null())
        .inspect(|line| assert_eq!(line["skipped"], true, "only what was skipped says so"))
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert!((1..40).contains(&skipped.len()), "{skipped:?}");
    assert!(skipped.iter().all(|&step| step % 4 == 0 || step == 3 * EPOCH), "{skipped:?}");
}

/// The configuration that is shipped: AmpOptimWrapper, paramwise_cfg, clip_grad, accumulative_counts=4, warm-up and
/// cosine, Muon and AdamW by rule. The warm-up is over in the third epoch of 45 steps.
#[cfg(unix)]
#[test]
fn the_bundled_run_with_everything_around_goes_on_bit_for_bit() {
    stopped(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/digits_amp.py"), (3, 45));
}

/// Stops runs at moments that are drawn (each time the same ones, as shares of the time that a whole run takes) and goes
/// on with them.
#[cfg(unix)]
fn stopped(config: &Path, (epochs_of_run, epoch): (u64, u64)) {
    let folder = tempfile::tempdir().unwrap();
    let train = |run: &Path| {
        let mut command = std::process::Command::new(BINARY);
        command.env_remove("FALLLINE_ISA").args(["train", "--config"]).arg(config).arg("--out").arg(run);
        command.args(["--epochs", &epochs_of_run.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let straight = folder.path().join("straight");
    let start = std::time::Instant::now();
    assert!(train(&straight).status().unwrap().success());
    let whole = start.elapsed();
    let expected = (trained(&straight), metrics(&straight));

    let mut random = Random(6);
    for (round, signal) in ["INT", "KILL", "INT", "KILL"].into_iter().enumerate() {
        let run = folder.path().join(format!("run{round}"));
        let mut child = train(&run).spawn().unwrap();
        // Not before the first checkpoint, without which there is nothing to go on with.
        while !run.join("checkpoint.safetensors").exists() {
            assert!(start.elapsed() < Duration::from_secs(120), "no checkpoint");
            std::thread::sleep(Duration::from_millis(2));
        }
        let wait = whole.mul_f64(random.unit().abs() * 0.7);
        std::thread::sleep(wait);
        let id = child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        let code = child.wait().unwrap().code();
        let mut error = String::new();
        child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        assert!(!error.contains("panicked"), "{error}");
        // Where it had ended by then, its code is 0.
        let allowed = if signal == "INT" { [Some(130), Some(0)] } else { [None, Some(0)] };
        assert!(allowed.contains(&code), "{signal} after {wait:?}: {code:?}, {error}");
        if code == Some(130) {
            assert!(error.contains("interrupted") && error.contains("--resume"), "{error}");
            assert!(run.join("loss.svg").exists());
        }
        let told = tell(fallline().args(["train", "--resume"]).arg(&run));
        assert_eq!(told.code, 0, "{signal}: {}", told.error);
        assert_eq!(trained(&run), expected.0, "{signal} after {wait:?}");
        let (steps, epochs, lines) = metrics(&run);
        assert_eq!(steps, (1..=epochs_of_run * epoch).collect::<Vec<_>>(), "{signal}: each step once");
        assert_eq!(epochs, (0..epochs_of_run).collect::<Vec<_>>(), "{signal}: each epoch once");
        assert_eq!(lines, expected.1.2, "{signal}: the same numbers");
    }

    // A damaged checkpoint is refused and named, and stays as it is.
    let path = folder.path().join("run0/checkpoint.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    bad(
        fallline().args(["train", "--resume"]).arg(folder.path().join("run0")),
        1,
        &["checkpoint.safetensors"],
    );
    assert_eq!(std::fs::read(&path).unwrap().len(), bytes.len() / 2);
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    for arguments in [&["list"][..], &["list", "--json"], &["describe", "AdamW"], &["--help"]] {
        let mut command = std::process::Command::new(BINARY);
        let mut child =
            command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut error = String::new();
        child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        assert_eq!((child.wait().unwrap().code(), error.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn schedule_prints_what_mmengine_computes() {
    let folder = tempfile::tempdir().unwrap();
    let cases: Value = serde_json::from_str(include_str!("../../tests/golden/schedules.json")).unwrap();
    for case in
        cases.as_array().unwrap().iter().filter(|case| !case["name"].as_str().unwrap().contains("random"))
    {
        let (config, metrics) = (folder.path().join("config.py"), folder.path().join("metrics.json"));
        std::fs::write(&config, case["config"].as_str().unwrap()).unwrap();
        std::fs::write(&metrics, case["metrics"].to_string()).unwrap();
        let (steps, epoch) = (case["steps"].to_string(), case["epoch_length"].to_string());
        let (config, metrics) = (config.to_str().unwrap(), metrics.to_str().unwrap());
        let told = json(&[
            "schedule",
            "--config",
            config,
            "--steps",
            &steps,
            "--iters-per-epoch",
            &epoch,
            "--metrics",
            metrics,
            "--json",
        ]);
        for (name, expected) in case["values"].as_object().unwrap() {
            let Some(got) = told.get(name).and_then(Value::as_array) else {
                // Only what is scheduled is told beside the learning rate and the momentum.
                assert!(name == "weight_decay" && expected.as_array().unwrap().len() == 1, "{name}");
                continue;
            };
            assert_eq!(got.len().to_string(), steps);
            for (step, got) in got.iter().enumerate() {
                let expected = expected.get(step).unwrap_or(&expected[0]).as_f64().unwrap();
                let got = got.as_f64().unwrap();
                // As in tests/schedules.rs.
                assert!((got - expected).abs() <= 1e-12 * expected.abs(), "{}: {step}: {name}", case["name"]);
            }
        }
    }
    let plot = folder.path().join("plot.svg");
    let text = "[dict(type='LinearLR', end=5, by_epoch=False), dict(type='StepMomentum', step_size=3, by_epoch=False)]";
    let told = good(&["schedule", "--scheduler", text, "--steps", "6", "--plot", plot.to_str().unwrap()]);
    assert_eq!(told.lines().count(), 7, "{told}");
    assert!(told.lines().nth(6).unwrap().starts_with("5     0.05"), "{told}");
    let drawn = std::fs::read_to_string(&plot).unwrap();
    assert!(drawn.contains(">lr<") || drawn.contains("lr\n"), "the panels are named");
    let told = json(&[
        "schedule",
        "--scheduler",
        "dict(type='ConstantLR')",
        "--lr",
        "3",
        "--momentum",
        "0.5",
        "--steps",
        "2",
        "--json",
    ]);
    assert_eq!(told, serde_json::json!({"lr": [1.0, 1.0], "momentum": [0.5, 0.5]}));
    let schedule = |more: &[&str]| {
        let mut command = fallline();
        command.arg("schedule").args(more);
        command
    };
    bad(&mut schedule(&["--steps", "3"]), 2, &["--scheduler", "--config"]);
    bad(&mut schedule(&["--scheduler", "StepLR", "--steps", "3"]), 2, &["step_size"]);
    bad(&mut schedule(&["--scheduler", "dict(type='StpLR')", "--steps", "3"]), 2, &["StpLR", "StepLR"]);
    bad(&mut schedule(&["--scheduler", "ReduceOnPlateauLR", "--steps", "3"]), 2, &["--metrics", "loss"]);
    bad(
        &mut schedule(&[
            "--scheduler",
            "dict(type='ConstantParamScheduler', param_name='warp')",
            "--steps",
            "3",
        ]),
        2,
        &["warp"],
    );
    let short = folder.path().join("short.json");
    std::fs::write(&short, "[1.0]").unwrap();
    let metrics = ["--scheduler", "ReduceOnPlateauLR", "--steps", "3", "--metrics", short.to_str().unwrap()];
    bad(&mut schedule(&metrics), 2, &["--metrics", "1", "3"]);
    std::fs::write(&short, "{}").unwrap();
    bad(&mut schedule(&metrics), 1, &["short.json", "array"]);
}

/// What `explain` says of states is what an optimizer has after a step.
fn explained_bytes_are_allocated(config: &Path, params: &Path) {
    let shapes: [(&str, &[usize]); 5] = [
        ("fc.weight", &[70, 60]),
        ("fc.bias", &[301]),
        ("head", &[4097]),
        ("hidden", &[12, 20]),
        ("one", &[1]),
    ];
    let described = shapes.map(|(name, shape)| (name.to_owned(), serde_json::json!({"shape": shape})));
    std::fs::write(params, Value::Object(described.into_iter().collect()).to_string()).unwrap();
    for (optimizer, format) in [
        ("dict(type='AdamW')", Format::F32),
        ("dict(type='SGD', lr=0.1)", Format::F32),
        (
            "dict(type='Adam', amsgrad=True, state_format={'m': 'bf16', 'v': 'q8', 'v_max': 'fp8'})",
            Format::F32,
        ),
        ("dict(type='AdamW8bit', min_8bit_size=500)", Format::F32),
        ("dict(type='AdamW', state_format='q4')", Format::F32),
        ("dict(type='Lion', state_format='q8_linear', param_format='master')", Format::Bf16),
        ("dict(type='AdamW', state_format='bf16', param_format='bf16_sr', seed=1)", Format::Bf16),
        ("dict(type='LAMB')", Format::F32),
    ] {
        let text = format!(
            "optim_wrapper = dict(optimizer={optimizer}, paramwise_cfg=dict(custom_keys=dict(\n\
                 hidden=dict(optimizer=dict(type='Muon')), head=dict(state_format='f32'))))\n"
        );
        std::fs::write(config, &text).unwrap();
        let mut driver = Recipe::from_text(&text).unwrap().optimizer(Cpu::scalar().shared());
        let mut random = Random(1);
        let mut tensors: Vec<Tensor> = shapes
            .iter()
            .map(|(name, shape)| {
                let mut draw = || Buffer::new(format, &random.units(shape.iter().product()));
                Tensor::new(*name, draw(), vec![Some(draw())])
            })
            .collect();
        let bound = common::bind(&mut tensors, 0).into_iter().zip(shapes);
        let mut bound: Vec<_> = bound.map(|(binding, (_, shape))| binding.shaped(shape)).collect();
        driver.step(&mut bound).unwrap();
        let paths = ["--config", config.to_str().unwrap(), "--params", params.to_str().unwrap()];
        let told = json(&[&["explain"], &paths[..], &["--json"]].concat());
        for row in told.as_array().unwrap() {
            let param = driver.params().into_iter().find(|param| row["name"] == param.name).unwrap();
            assert_eq!(row["state_bytes"], param.state_bytes, "{optimizer}: {row}");
            let mut names: Vec<&str> = param.formats.iter().map(|format| format.name()).collect();
            names.extend((driver.param_format(param.group) == Some(ParamFormat::Master)).then_some("f32"));
            names.dedup();
            if let [name] = names[..] {
                assert_eq!(row["state_format"], name, "{optimizer}: {row}");
            }
        }
    }
}

#[test]
fn explain_tells_each_parameter_its_rule() {
    let folder = tempfile::tempdir().unwrap();
    let file: Value = serde_json::from_str(include_str!("../../tests/golden/paramwise.json")).unwrap();
    let (config, params) = (folder.path().join("config.py"), folder.path().join("params.json"));
    std::fs::write(&params, file["params"].to_string()).unwrap();
    let paths = ["--config", config.to_str().unwrap(), "--params", params.to_str().unwrap()];
    for case in file["cases"].as_array().unwrap() {
        let [optimizer, rules] = ["optimizer", "paramwise_cfg"].map(|key| case[key].as_str().unwrap());
        std::fs::write(
            &config,
            format!("optim_wrapper = dict(optimizer={optimizer}, paramwise_cfg={rules})\n"),
        )
        .unwrap();
        let told = json(&[&["explain"], &paths[..], &["--json"]].concat());
        assert_eq!(told.as_array().unwrap().len(), file["params"].as_object().unwrap().len());
        for row in told.as_array().unwrap() {
            let expected = &case["expected"][row["name"].as_str().unwrap()];
            // torch has whole numbers among its defaults.
            let told = [&row["lr"], &row["weight_decay"]].map(Value::as_f64);
            assert_eq!(told, [expected[0].as_f64(), expected[1].as_f64()], "{rules}: {row}");
        }
    }
    std::fs::write(
        &config,
        "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.1),\n\
         paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys=dict(hidden=dict(optimizer=dict(type='Muon', lr=0.02)))))\n",
    )
    .unwrap();
    std::fs::write(
        &params,
        r#"{"hidden.weight": {"shape": [8, 4]}, "ln_1.bias": {"shape": [3]}, "head.bias": {"shape": [2], "module": "other"}}"#,
    )
    .unwrap();
    let told = json(&[&["explain"], &paths[..], &["--json"]].concat());
    let row = |name, optimizer, lr: f64, decay: f64, bytes, rule| {
        serde_json::json!({"name": name, "optimizer": optimizer, "lr": lr, "weight_decay": decay, "state_format": "f32",
            "state_bytes": bytes, "rule": rule})
    };
    assert_eq!(told[0], row("hidden.weight", "Muon", 0.02, 0.1, 128, "custom_keys[\"hidden\"]"));
    assert_eq!(told[1], row("ln_1.bias", "AdamW", 1e-3, 0.0, 24, "norm_decay_mult=0"));
    assert_eq!(told[2], row("head.bias", "AdamW", 1e-3, 0.1, 16, "optimizer"));
    let table = good(&[&["explain"], &paths[..]].concat());
    assert!(table.contains("ln_1.bias") && table.contains("3 parameters, 168 bytes of states"), "{table}");

    let explain = |more: &[&str]| {
        let mut command = fallline();
        command.arg("explain").args(paths).args(more);
        command
    };
    std::fs::write(&params, r#"{"head.bias": {"shape": [2]}}"#).unwrap();
    bad(&mut explain(&[]), 2, &["config.py:2:", "hidden", "--allow-unmatched"]);
    let told = tell(&mut explain(&["--allow-unmatched"]));
    assert!(
        told.code == 0 && told.error.starts_with("warning: ") && told.error.contains("hidden"),
        "{}",
        told.error
    );
    std::fs::write(&params, r#"{"hidden.bias": {"shape": [2]}}"#).unwrap();
    bad(&mut explain(&[]), 2, &["hidden.bias", "Muon"]);
    std::fs::write(&params, r#"{"head.bias": {"shape": [2], "module": "bn"}}"#).unwrap();
    bad(&mut explain(&[]), 1, &["head.bias", "dwconv", "bn"]);
    std::fs::write(&params, "nothing").unwrap();
    bad(&mut explain(&[]), 1, &["params.json"]);
    explained_bytes_are_allocated(&config, &params);
}
