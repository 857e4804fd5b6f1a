//! `replay`: traces in, trajectories out.

use super::common::{self, Buffer, ONE_EACH, Random, Tensor, recipe};
use super::{bad, contents, fallline, tell};
use assert_cmd::Command;
use fallline::optim::{frozen, param};
use fallline::{Checkpoint, Compute, Cpu, Format, Optimizer};
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;

/// Writes a safetensors file of numbers.
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

/// Returns a trace of parameters in these formats, the second without a gradient at step 1, and the same for the
/// library.
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

/// Returns what the library gives: for each step and parameter the bytes.
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

/// Matrices that take a square of a product and a part of one, and products with a vector.
#[test]
fn every_instruction_set_replays_muon_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.safetensors"), folder.path().join("out.safetensors"));
    let mut random = Random(32);
    let mut entries = Vec::new();
    for shape in [vec![26, 51], vec![30, 30], vec![1, 9]] {
        let mut draw = || Buffer::new(Format::F32, &random.units(shape.iter().product()));
        let name = format!("{}x{}", shape[0], shape[1]);
        entries.push((format!("param/{name}"), shape.clone(), draw()));
        entries.push((format!("grad/0/{name}"), shape.clone(), draw()));
    }
    write(&input, &entries);
    for text in ["Muon", "NorMuon"] {
        let given = |isa: fallline::Isa| {
            let told = tell(replay(text, &input, &out, &["--threads", "2"]).env("FALLLINE_ISA", isa.name()));
            assert_eq!(told.code, 0, "{}", told.error);
            contents(&out)
        };
        let expected = given(fallline::Isa::Scalar);
        for isa in common::isas() {
            assert!(given(isa) == expected, "{text} on {isa}");
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
    // What a replay wrote is no trace.
    write(&input, &[p(), grad("grad/0/p", 2)]);
    replay("SGD", &input, &out, &[]).assert().success();
    let state = folder.path().join("state.safetensors");
    bad(&mut replay("SGD", &out, &state, &[]), 1, &["out.safetensors", "it has no grad/<t>/<name>"]);
    // Two files have two names, and the trace stays.
    let before = std::fs::read(&input).unwrap();
    bad(&mut replay("SGD", &input, &input, &[]), 2, &["--out", "--trace", "in.safetensors"]);
    let again = folder.path().join(".").join("in.safetensors");
    bad(&mut replay("SGD", &input, &out, &["--state", again.to_str().unwrap()]), 2, &["--state", "--trace"]);
    let same = ["--state", state.to_str().unwrap()];
    bad(&mut replay("SGD", &input, &state, &same), 2, &["--state", "--out"]);
    assert_eq!(std::fs::read(&input).unwrap(), before);
}
