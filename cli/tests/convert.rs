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
    assert!(error.lines().count() <= 1, "{error}");
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
    let (code, _, error) =
        convert(folder.path(), &[text(&source), "tree.safetensors", "--to", "safetensors"]);
    assert_eq!(code, 0, "{error}");
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
fn what_cannot_be_converted_is_said_in_one_line_and_nothing_is_written() {
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
