//! `fallline convert`, from outside.

use assert_cmd::Command;
use fallline::Checkpoint;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/converted").join(name)
}

/// Runs it in a folder: exit code, what it prints, and its complaint.
fn convert(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fallline"));
    let output = command.current_dir(folder).arg("convert").args(arguments).output().unwrap();
    let (out, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(!error.contains("panicked"), "{error}");
    assert!(error.matches("error: ").count() <= 1, "{error}");
    (output.status.code().unwrap(), out, error)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn there_and_back_and_there_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("names.txt"), "body.weight\nhead.weight\nbody.bias\nscale\nlate\n").unwrap();
    let source = golden("AdamW.pth");
    let optimizer = ["--optimizer", "AdamW", "--params", "names.txt"];
    let (code, out, error) =
        convert(folder.path(), &[&[text(&source), "a.safetensors"][..], &optimizer].concat());
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("4 parameters with state, 12 tensors of state, 5 parameter values"), "{out}");
    let first = Checkpoint::read(at("a.safetensors")).unwrap();
    assert_eq!(first.steps("body.weight").unwrap(), 3);
    // What came from torch knows its order.
    let (code, _, error) = convert(folder.path(), &["a.safetensors", "b.pth", "--layout", "training"]);
    assert_eq!(code, 0, "{error}");
    let again = [&["b.pth", "c.safetensors", "--json"][..], &optimizer].concat();
    let (code, out, error) = convert(folder.path(), &again);
    assert_eq!(code, 0, "{error}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (report["parameters"].as_u64(), report["left_out"].as_array().map(Vec::len)),
        (Some(4), Some(0))
    );
    assert_eq!(std::fs::read(at("a.safetensors")).unwrap(), std::fs::read(at("c.safetensors")).unwrap());
    // Through safetensors as well.
    let (code, out, error) =
        convert(folder.path(), &[text(&source), "tree.safetensors", "--to", "safetensors"]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains(" tensors, copied without being read as a checkpoint"), "{out}");
    let (code, _, error) =
        convert(folder.path(), &[&["tree.safetensors", "d.safetensors"][..], &optimizer].concat());
    assert_eq!(code, 0, "{error}");
    assert_eq!(std::fs::read(at("a.safetensors")).unwrap(), std::fs::read(at("d.safetensors")).unwrap());
}

#[test]
fn mmengine_needs_no_list_of_names() {
    let folder = tempfile::tempdir().unwrap();
    let source = golden("mmengine.pth");
    let (code, out, error) =
        convert(folder.path(), &[text(&source), "out.safetensors", "--optimizer", "AdamW"]);
    assert_eq!(code, 0, "{error}");
    assert!(out.contains("4 parameters with state") && out.contains("message_hub"), "{out}");
    let (code, _, error) = convert(folder.path(), &["out.safetensors", "back.pth", "--layout", "mmengine"]);
    assert_eq!(code, 0, "{error}");
}

#[test]
fn what_cannot_be_converted_is_said_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("few.txt"), "a\nb\n").unwrap();
    std::fs::write(at("twice.json"), r#"["a", "a", "b", "c", "d"]"#).unwrap();
    std::fs::write(at("noise.pth"), b"PK\x03\x04 and nothing more").unwrap();
    std::fs::write(at("bad.pth"), b"not an archive at all").unwrap();
    let (adamw, sgd, lamb) = (golden("AdamW.pth"), golden("SGD.pth"), golden("LAMB.pth"));
    let (adamw, sgd, lamb) = (text(&adamw), text(&sgd), text(&lamb));
    let trace = golden("trace.safetensors");
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&[adamw], 2, &["OUT"]),
        (&[adamw, "out"], 2, &["--optimizer"]),
        (&[adamw, "out", "--optimizer", "AdmaW"], 2, &["did you mean \"AdamW\""]),
        (&[adamw, "out", "--optimizer", "AdamW"], 1, &["AdamW.pth", "group", "--params"]),
        (&[adamw, "out", "--optimizer", "AdamW", "--params", "few.txt"], 1, &["5 parameters", "2 names"]),
        (&[adamw, "out", "--optimizer", "AdamW", "--params", "twice.json"], 1, &["\"a\"", "twice"]),
        (&[adamw, "out", "--optimizer", "AdamW", "--params", "none.txt"], 1, &["none.txt"]),
        (&[adamw, "out", "--optimizer", "AdamW", "--key", "model"], 1, &["model", "param_groups"]),
        (&[adamw, "out", "--optimizer", "SGD", "--number"], 1, &["param_groups[0].betas", "--lenient"]),
        (&[sgd, "out", "--optimizer", "AdamW", "--number"], 1, &["param_groups[0].momentum"]),
        (&[lamb, "out", "--optimizer", "AdEMAMix", "--number"], 1, &["param_groups[0]", "AdEMAMix: betas"]),
        (
            &[adamw, "out", "--optimizer", "LBFGS", "--number"],
            1,
            &["param_groups[0].", "no hyperparameter of LBFGS"],
        ),
        (&["noise.pth", "out", "--optimizer", "AdamW"], 1, &["noise.pth", "archive"]),
        (&["bad.pth", "out", "--optimizer", "AdamW"], 1, &["bad.pth", "torch.save"]),
        (&[text(&trace), "out"], 1, &["trace.safetensors", "manifest"]),
        (&[adamw, "no/such/out.safetensors", "--to", "safetensors"], 1, &["no/such"]),
        (&["gone.pth", "out", "--optimizer", "AdamW"], 1, &["gone.pth"]),
    ];
    for (arguments, code, parts) in cases {
        let (got, out, error) = convert(folder.path(), arguments);
        assert_eq!(got, *code, "{arguments:?}: {error}");
        assert!(out.is_empty(), "{arguments:?}: {out}");
        for part in *parts {
            assert!(error.contains(part), "{arguments:?}: {part:?} is not in {error}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4, "nothing was written");
}

#[test]
fn a_checkpoint_of_ours_needs_an_order_for_torch() {
    use fallline::optim::{Optimizer, param};
    let folder = tempfile::tempdir().unwrap();
    let mut optimizer = fallline::build("dict(type='AdamW', lr=0.1)").unwrap();
    let (mut a, mut b, grad) = (vec![1.0f32; 3], vec![2.0f32; 3], vec![0.5f32; 3]);
    optimizer.step(&mut [param("z", &mut a, &grad), param("a", &mut b, &grad)]).unwrap();
    optimizer.save().unwrap().write(folder.path().join("ours.safetensors")).unwrap();
    let (code, _, error) = convert(folder.path(), &["ours.safetensors", "out.pth"]);
    assert_eq!(code, 1);
    assert!(error.contains("order") && error.contains("--params"), "{error}");
    for (list, says) in [("z\n", "\"a\" is in the checkpoint"), ("z\na\na\n", "twice")] {
        std::fs::write(folder.path().join("names.txt"), list).unwrap();
        let (code, _, error) =
            convert(folder.path(), &["ours.safetensors", "out.pth", "--params", "names.txt"]);
        assert_eq!(code, 1, "{error}");
        assert!(error.contains(says), "{error}");
    }
    // One that has not been stepped yet stands in its place without a state.
    std::fs::write(folder.path().join("names.txt"), "z\nnew\na\n").unwrap();
    let (code, _, error) = convert(folder.path(), &["ours.safetensors", "out.pth", "--params", "names.txt"]);
    assert_eq!(code, 0, "{error}");
    let bytes = std::fs::read(folder.path().join("out.pth")).unwrap();
    let tree = fallline::convert::archive::read(&bytes, &Default::default()).unwrap();
    let steps = |id: &str| tree.at(&format!("state.{id}.step")).and_then(|value| value.as_f64());
    assert_eq!((steps("0"), steps("1"), steps("2")), (Some(1.0), None, Some(1.0)));
}

fn container(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/containers").join(name)
}

/// Converts a file of `tests/golden/containers` as AdamW; the report.
fn report_of(folder: &Path, name: &str, arguments: &[&str]) -> Value {
    let source = container(name);
    let all = [&[text(&source), "out.safetensors", "--optimizer", "AdamW", "--json"][..], arguments].concat();
    let (code, out, error) = convert(folder, &all);
    assert_eq!(code, 0, "{name} {arguments:?}: {error}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{name}: {error}: {out}"))
}

#[test]
fn what_nobody_needs_is_listed_and_refuses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (name, at, class) in [
        ("namespace.pth", "args", "argparse.Namespace"),
        ("datetime.pth", "when", "datetime.datetime"),
        ("fp8.pth", "scale", "a tensor of torch.float8_e4m3fn"),
    ] {
        let report = report_of(folder.path(), name, &[]);
        assert_eq!(report["opaque"], serde_json::json!([{ "at": at, "class": class }]), "{name}");
        assert_eq!((report["parameters"].as_u64(), report["weights"].as_u64()), (Some(1), Some(1)), "{name}");
    }
    for name in
        ["defaultdict.pth", "legacy.pth", "protocol0.pth", "protocol5.pth", "numpy_group.pth", "list.ckpt"]
    {
        let report = report_of(folder.path(), name, &[]);
        assert_eq!(report["parameters"].as_u64(), Some(1), "{name}: {report}");
    }
    let source = container("namespace.pth");
    let (code, out, _) = convert(folder.path(), &[text(&source), "out.safetensors", "--optimizer", "AdamW"]);
    assert!(code == 0 && out.contains("not built: args (argparse.Namespace)"), "{out}");
    // The same tree as safetensors, without it.
    let (code, out, error) =
        convert(folder.path(), &[text(&source), "flat.safetensors", "--to", "safetensors"]);
    assert!(code == 0 && out.contains("left out: args"), "{out}{error}");
}

#[test]
fn folders_of_trainers_are_converted() {
    let folder = tempfile::tempdir().unwrap();
    let all: Value = serde_json::from_slice(&std::fs::read(container("expected.json")).unwrap()).unwrap();
    for name in ["accelerate", "trainer", "deepspeed", "deepspeed/step2", "lightning.ckpt", "fsdp.pth"] {
        let expected = all[name.split('/').next().unwrap()].as_array().unwrap();
        let names: Vec<&str> = expected.iter().map(|param| param["name"].as_str().unwrap()).collect();
        std::fs::write(folder.path().join("names.txt"), names.join("\n")).unwrap();
        let listed = ["--params", "names.txt"];
        let named = ["accelerate", "trainer"].contains(&name);
        let report = report_of(folder.path(), name, if named { &listed } else { &[] });
        assert_eq!(report["parameters"].as_u64(), Some(4), "{name}: {report}");
        let checkpoint = Checkpoint::read(folder.path().join("out.safetensors")).unwrap();
        for param in expected {
            let name = param["name"].as_str().unwrap();
            assert_eq!(Some(checkpoint.steps(name).unwrap()), param["step"].as_u64(), "{name}");
            let got: Vec<f64> =
                checkpoint.state(name, "m").unwrap().values::<f32>().into_iter().map(f64::from).collect();
            let want: Vec<f64> = param["m"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            assert_eq!(got, want, "{name}");
        }
    }
    // A folder that has none, and shards that are not all there.
    let (code, _, error) = convert(folder.path(), &[".", "out", "--optimizer", "AdamW"]);
    assert!(code == 1 && error.contains("optimizer.pt, optimizer.bin"), "{error}");
    let shard = "zero_pp_rank_0_mp_rank_00_optim_states.pt";
    std::fs::copy(container("deepspeed/step2").join(shard), folder.path().join(shard)).unwrap();
    let (code, _, error) = convert(folder.path(), &[shard, "out", "--optimizer", "AdamW"]);
    let missing = "zero_pp_rank_1_mp_rank_00_optim_states.pt is missing";
    assert!(code == 1 && error.contains("one of 2 shards") && error.contains(missing), "{error}");
    let other = shard.replace("rank_0_", "rank_1_");
    std::fs::copy(container("deepspeed/step2").join(&other), folder.path().join(&other)).unwrap();
    let (code, _, error) = convert(folder.path(), &[shard, "out", "--optimizer", "AdamW"]);
    assert!(code == 1 && error.contains("mp_rank_00_model_states.pt is missing"), "{error}");
    let shapes = r#"{"body.weight": {"shape": [4, 3]}, "head.weight": {"shape": [2, 4]},
        "body.bias": {"shape": [4]}, "head.bias": {"shape": [2]}}"#;
    std::fs::write(folder.path().join("shapes.json"), shapes).unwrap();
    let listed = [shard, "out.safetensors", "--optimizer", "AdamW", "--params", "shapes.json"];
    let (code, _, error) = convert(folder.path(), &listed);
    assert_eq!(code, 0, "{error}");
}

#[test]
fn names_that_do_not_fit_the_file_are_refused_or_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("names.json"), r#"["dec", "enc"]"#).unwrap();
    std::fs::write(at("right.json"), r#"["enc", "dec"]"#).unwrap();
    let (shapes, prefixed) = (container("shapes.pth"), container("prefixed.pth"));
    let run = |source: &Path, more: &[&str]| {
        let all = [&[text(source), "out.safetensors", "--optimizer", "AdamW"][..], more].concat();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fallline"));
        let output = command.current_dir(folder.path()).arg("convert").args(all).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, error) = run(&shapes, &["--params", "names.json"]);
    assert!(code == 1 && !at("out.safetensors").exists(), "{error}");
    for part in ["[5, 2]", "[7]", "\"dec\"", "--lenient"] {
        assert!(error.contains(part), "{part}: {error}");
    }
    let (code, error) = run(&shapes, &["--params", "names.json", "--lenient"]);
    assert!(code == 0 && error.contains("warning: \"dec\" starts anew"), "{error}");
    assert_eq!(run(&shapes, &["--params", "right.json"]), (0, String::new()));
    let (code, error) = run(&prefixed, &["--params", "right.json"]);
    assert!(code == 1 && error.contains("--rename module.="), "{error}");
    let (code, error) = run(&prefixed, &["--params", "right.json", "--lenient"]);
    assert!(code == 0 && error.contains("warning: 2 of the names given"), "{error}");
    assert_eq!(run(&prefixed, &["--params", "right.json", "--rename", "module.="]), (0, String::new()));
    let (code, error) = run(&prefixed, &["--rename", "module."]);
    assert!(code == 2 && error.contains("OLD=NEW"), "{error}");
    let (code, error) = run(&prefixed, &["--params", "right.json", "--rename", "modul_=x"]);
    assert!(code == 1 && error.contains("no name begins with \"modul_\""), "{error}");
    assert!(error.contains("\"module.") && error.contains("--rename"), "{error}");
    let (code, error) = run(&prefixed, &["--number", "--rename", "module.="]);
    assert!(code == 2 && error.contains("--number") && error.contains("--rename"), "{error}");
}

#[test]
fn names_are_replaced_on_the_way_back_too() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("names.txt"), "body.weight\nhead.weight\nbody.bias\nscale\nlate\n").unwrap();
    std::fs::write(at("new.txt"), "trunk.weight\nhead.weight\ntrunk.bias\nscale\nlate\n").unwrap();
    let source = golden("AdamW.pth");
    let run = |arguments: &[&str]| {
        let (code, _, error) = convert(folder.path(), arguments);
        (code, error)
    };
    let names = ["--optimizer", "AdamW", "--params", "names.txt"];
    assert_eq!(run(&[&[text(&source), "a.safetensors"][..], &names].concat()).0, 0);
    let there = ["a.safetensors", "b.pth", "--layout", "training", "--rename"];
    let (code, error) = run(&[&there[..], &["body.=trunk."]].concat());
    assert_eq!(code, 0, "{error}");
    // The model in the file has the new names, or these would be refused.
    let new = ["b.pth", "c.safetensors", "--optimizer", "AdamW", "--params", "new.txt"];
    assert_eq!(run(&new), (0, String::new()));
    let (code, error) = run(&[&there[..], &["boddy=trunk."]].concat());
    assert!(code == 1 && error.contains("\"body.") && error.contains("--rename"), "{error}");
    let (code, error) = run(&[&there[..], &["body.weight=body.bias"]].concat());
    assert!(code == 1 && error.contains("would both be renamed") && error.contains("--rename"), "{error}");
}

#[test]
fn a_file_that_is_cut_short_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let source = golden("AdamW.pth");
    let numbered = ["a.safetensors", "--optimizer", "AdamW", "--number"];
    let (code, _, error) = convert(folder.path(), &[&[text(&source)][..], &numbered].concat());
    assert_eq!(code, 0, "{error}");
    let whole = std::fs::read(folder.path().join("a.safetensors")).unwrap();
    for kept in [20, whole.len() - 1] {
        std::fs::write(folder.path().join("cut.safetensors"), &whole[..kept]).unwrap();
        let (code, _, error) = convert(folder.path(), &["cut.safetensors", "b.pth", "--number"]);
        assert!(code == 1 && error.contains(&format!("is cut short: {kept} of ")), "{error}");
    }
}

#[test]
fn where_an_optimizer_is_is_found_or_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let report = report_of(folder.path(), "list.ckpt", &["--key", "optimizer_states.0"]);
    assert_eq!(report["parameters"].as_u64(), Some(1));
    report_of(folder.path(), "deep.pth", &["--number"]);
    report_of(folder.path(), "two.pth", &["--number", "--key", "opt_d"]);
    let source = container("two.pth");
    let (code, _, error) =
        convert(folder.path(), &[text(&source), "out", "--optimizer", "AdamW", "--number"]);
    assert!(code == 1 && error.contains("opt_g or opt_d (--key PATH)"), "{error}");
    for (name, says) in [("trainer/scheduler.pt", "scheduler"), ("scaler.pt", "gradient scaler")] {
        let source = container(name);
        let (code, _, error) = convert(folder.path(), &[text(&source), "out", "--optimizer", "AdamW"]);
        assert!(code == 1 && error.contains(says), "{error}");
    }
    let source = container("group_step.pth");
    let fused = [text(&source), "fused.safetensors", "--optimizer", "FusedAdam", "--number"];
    assert_eq!(convert(folder.path(), &fused).0, 0);
    let checkpoint = Checkpoint::read(folder.path().join("fused.safetensors")).unwrap();
    assert_eq!(checkpoint.steps("0").unwrap(), 41);
    let source = container("bf16.pth");
    let wide = [text(&source), "wide.safetensors", "--optimizer", "FusedAdam", "--number"];
    let (_, out, _) = convert(folder.path(), &wide);
    assert!(out.contains("2 widened, bf16 to f32"), "{out}");
}

#[test]
fn number_gives_torch_an_order() {
    use fallline::optim::{Optimizer, param};
    let folder = tempfile::tempdir().unwrap();
    let mut optimizer = fallline::build("dict(type='AdamW', lr=0.1)").unwrap();
    let (mut a, mut b, grad) = (vec![1.0f32; 3], vec![2.0f32; 2], vec![0.5f32; 3]);
    optimizer.step(&mut [param("z", &mut a, &grad), param("a", &mut b, &grad[..2])]).unwrap();
    optimizer.save().unwrap().write(folder.path().join("ours.safetensors")).unwrap();
    // The message that names --number is answered by it.
    let (code, _, error) = convert(folder.path(), &["ours.safetensors", "out.pth"]);
    assert!(code == 1 && error.contains("--number"), "{error}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_fallline"));
    let command =
        command.current_dir(folder.path()).args(["convert", "ours.safetensors", "out.pth", "--number"]);
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && error.contains("0 is \"a\", 1 is \"z\""), "{error}");
    let bytes = std::fs::read(folder.path().join("out.pth")).unwrap();
    let tree = fallline::convert::archive::read(&bytes, &Default::default()).unwrap();
    let shape = |id: &str| match tree.at(&format!("state.{id}.exp_avg")) {
        Some(fallline::convert::Value::Tensor(tensor)) => tensor.shape().to_vec(),
        other => panic!("{other:?}"),
    };
    assert_eq!((shape("0"), shape("1")), (vec![2], vec![3]));
}

/// With `FALLLINE_BIG=<a file of containers.py --big>`: a checkpoint of more than 4 GiB, which torch wrote.
#[test]
fn a_checkpoint_above_4_gib_is_read() {
    let Some(big) = std::env::var_os("FALLLINE_BIG") else {
        println!("FALLLINE_BIG is not set: not asked");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let arguments = [big.to_str().unwrap(), "out.safetensors", "--optimizer", "AdamW"];
    let (code, out, error) = convert(folder.path(), &arguments);
    assert!(code == 0 && out.contains("1 parameter with state"), "{out}{error}");
}
