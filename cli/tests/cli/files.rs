//! `inspect` and `diff`: files of tensors.

use super::errors::SMALL;
use super::{bad, fallline, good, json, tell};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use std::path::Path;

/// Writes a file of f32 tensors.
fn tensors(path: &Path, each: &[(&str, &[usize], &[f32])]) -> String {
    let bytes: Vec<Vec<u8>> =
        each.iter().map(|(.., values)| values.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = each.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn row<'v>(value: &'v Value, name: &str) -> &'v Value {
    let rows = value["tensors"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}: {value}"))
}

#[test]
fn inspect_tells_what_files_hold() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let trace = tensors(
        &at("trace.safetensors"),
        &[
            ("param/w", &[2], &[3.0, -4.0]),
            ("grad/0/w", &[2], &[1.0, f32::NAN]),
            ("grad/10/w", &[2], &[1e30, 1e30]),
        ],
    );
    let told = json(&["inspect", &trace, "--json"]);
    assert_eq!(
        (&told["kind"], &told["manifest"], &told["damage"]),
        (&"trace".into(), &Value::Null, &Value::Null)
    );
    let w = row(&told, "param/w");
    assert_eq!(w["shape"], serde_json::json!([2]));
    assert_eq!(
        (w["norm"].as_f64(), w["largest"].as_f64(), w["bytes"].as_u64()),
        (Some(5.0), Some(4.0), Some(8))
    );
    assert_eq!((row(&told, "grad/0/w")["non_finite"].as_u64(), w["role"].as_str()), (Some(1), Some("param")));

    // Names reach the terminal on one line, without commands to it, and stay apart.
    let odd = [("a\nb", &[1usize][..], &[1.0f32][..]), ("a\u{1b}b", &[1], &[1.0]), ("ab\u{202e}", &[0], &[])];
    let text = good(&["inspect", &tensors(&at("odd.safetensors"), &odd)]);
    for part in ["a\\nb ", "a\\u{1b}b ", "ab\\u{202e} "] {
        assert!(text.lines().any(|line| line.starts_with(part)), "{part}: {text}");
    }
    assert!(!text.lines().skip(1).any(|line| line.contains("-0")), "{text}");

    // A checkpoint whose states are codes: the norms are those of the numbers.
    let config = at("small.py");
    std::fs::write(&config, SMALL.replace("lr=0.01", "lr=0.01, state_format='q8'")).unwrap();
    let run = at("run").to_str().unwrap().to_owned();
    good(&["train", "--config", config.to_str().unwrap(), "--out", &run]);
    let checkpoint = format!("{run}/checkpoint.safetensors");
    let told = json(&["inspect", &checkpoint, "--json"]);
    assert_eq!(
        (&told["kind"], &told["manifest"]["optimizer"]["type"]),
        (&"checkpoint".into(), &"AdamW".into())
    );
    let states: Vec<&Value> =
        told["tensors"].as_array().unwrap().iter().filter(|row| row["format"] == "q8").collect();
    assert!(!states.is_empty());
    for state in states {
        assert_eq!(state["dtype"], "U8");
        let norm = state["norm"].as_f64().unwrap();
        assert!(norm > 0.0 && norm < 10.0, "{state}");
    }
    let text = good(&["inspect", &checkpoint]);
    for part in [
        "optimizer: AdamW",
        "group 0: ",
        "lr=0.01",
        "trained: 1 epoch, 3 steps",
        "q8",
        " KiB",
        "parameters, ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    // What torch saves, of which nothing is executed.
    let torch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/converted/AdamW.pth");
    let told = json(&["inspect", torch.to_str().unwrap(), "--json"]);
    assert_eq!(told["kind"], "torch");
    let norms: Vec<f64> =
        told["tensors"].as_array().unwrap().iter().filter_map(|row| row["norm"].as_f64()).collect();
    assert!(norms.len() > 4 && norms.iter().any(|&norm| norm > 0.0), "{told}");

    // A checkpoint that cannot be loaded is shown, and fails.
    let bytes = std::fs::read(&checkpoint).unwrap();
    let version = b"\\\"version\\\":";
    let newer = bytes.windows(version.len()).position(|part| part == version).unwrap() + version.len();
    let mut changed = bytes.clone();
    changed[newer] = b'9';
    std::fs::write(at("newer.safetensors"), changed).unwrap();
    let told = tell(fallline().args(["inspect", at("newer.safetensors").to_str().unwrap()]));
    assert!(
        told.code == 1 && told.out.contains("param/") && told.error.contains("version 9"),
        "{}",
        told.error
    );
    // What a resumed run would refuse is refused here, too, by its name.
    for gone in ["param/fc1.bias", "state/fc1.weight/m", "step/fc1.bias"] {
        let (path, file) = (at("gone.safetensors"), safetensors::SafeTensors::deserialize(&bytes).unwrap());
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let mut metadata = header.metadata().clone().unwrap();
        metadata.retain(|key, _| key == "fallline");
        let kept = file.tensors().into_iter().filter(|(name, _)| name != gone);
        std::fs::write(&path, safetensors::serialize(kept, Some(metadata)).unwrap()).unwrap();
        let told = tell(fallline().arg("inspect").arg(&path));
        assert!(told.code == 1 && told.error.contains("fc1"), "{gone}: {}", told.error);
    }
    std::fs::write(at("half.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    bad(fallline().arg("inspect").arg(at("half.safetensors")), 1, &["half.safetensors"]);
    bad(fallline().arg("inspect").arg(at("none")), 1, &["none"]);
}

#[test]
fn diff_finds_the_first_difference() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let next = f32::from_bits(4f32.to_bits() + 2);
    let nan = f32::NAN;
    let a = tensors(
        &at("a.safetensors"),
        &[
            ("param/2/w", &[2, 2], &[1.0, 2.0, 3.0, 4.0]),
            ("param/10/w", &[2], &[0.0, 1.0]),
            ("param/9/w", &[1], &[nan]),
            ("old", &[1], &[1.0]),
        ],
    );
    let b = tensors(
        &at("b.safetensors"),
        &[
            ("param/2/w", &[2, 2], &[1.0, 2.0, 3.0, next]),
            ("param/10/w", &[1, 2], &[0.0, 1.0]),
            ("param/9/w", &[1], &[nan]),
            ("new", &[1], &[1.0]),
        ],
    );
    let run = |more: &[&str]| tell(fallline().args(["diff", &a]).args(more));
    let same = run(&[&a]);
    assert_eq!((same.code, &*same.out, &*same.error), (0, "all 4 tensors are equal\n", ""));

    let told = run(&[&b, "--json"]);
    assert_eq!((told.code, &*told.error), (1, ""));
    let value: Value = serde_json::from_str(&told.out).unwrap();
    assert_eq!(value["equal"], false);
    let names: Vec<&str> =
        value["tensors"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["old", "param/2/w", "param/9/w", "param/10/w", "new"]);
    let w = row(&value, "param/2/w");
    assert_eq!((w["max_ulps"].as_u64(), w["differing"].as_u64()), (Some(2), Some(1)));
    assert_eq!(w["max_abs"].as_f64(), Some(f64::from(next) - 4.0));
    assert_eq!(w["relative_norm"].as_f64(), Some((f64::from(next) - 4.0) / 30f64.sqrt()));
    assert_eq!(w["first"], serde_json::json!({"index": [1, 1], "a": 4.0, "b": f64::from(next)}));
    for (name, outcome) in
        [("old", "only_in_a"), ("new", "only_in_b"), ("param/9/w", "equal"), ("param/10/w", "shape")]
    {
        assert_eq!(row(&value, name)["outcome"], outcome, "{name}");
    }
    let text = run(&[&b]);
    assert!(
        text.out.contains("[1, 1]: 4.0 and 4.000001") && text.out.ends_with("4 of 5 tensors differ\n"),
        "{}",
        text.out
    );

    // A tolerance is one of the norm.
    let c = tensors(&at("c.safetensors"), &[("w", &[2], &[3.0, 4.0])]);
    let d = tensors(&at("d.safetensors"), &[("w", &[2], &[3.0, 4.5])]);
    for (tolerance, code) in [("0.1", 0), ("0.09", 1), ("0", 1)] {
        assert_eq!(
            tell(fallline().args(["diff", &c, &d, "--tolerance", tolerance])).code,
            code,
            "{tolerance}"
        );
    }
    let negative = ["--tolerance", "-1"];
    bad(fallline().args(["diff", &c, &d]).args(negative), 2, &["--tolerance", "expected a number from 0"]);
    bad(fallline().args(["diff", &a]).arg(at("none")), 2, &["none"]);
    std::fs::write(at("text"), "text").unwrap();
    bad(fallline().args(["diff", &a]).arg(at("text")), 2, &["text"]);
    bad(fallline().args(["diff", &a, &b, "--tolerance=-1"]), 2, &["--tolerance", "expected a number from 0"]);
}

/// Integers keep all their digits, and what differs in its type alone says so.
#[test]
fn diff_compares_integers_and_types() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, dtype: Dtype, bytes: &[u8]| {
        let path = folder.path().join(name);
        let view = TensorView::new(dtype, vec![2], bytes).unwrap();
        std::fs::write(&path, safetensors::serialize([("w", view)], None).unwrap()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let longs = |values: [u64; 2]| values.map(u64::to_le_bytes).concat();
    let a = write("a.safetensors", Dtype::I64, &longs([9_007_199_254_740_993, 1]));
    let b = write("b.safetensors", Dtype::I64, &longs([9_007_199_254_740_992, 1]));
    let diff = |a: &str, b: &str, more: &[&str]| tell(fallline().args(["diff", a, b]).args(more));
    let told = diff(&a, &b, &[]);
    assert_eq!(told.code, 1);
    assert!(told.out.contains("[0]: 9007199254740993 and 9007199254740992"), "{}", told.out);
    assert!(told.out.ends_with("1 of 1 tensor differs\n"), "{}", told.out);
    assert_eq!(diff(&a, &b, &["--tolerance", "0"]).code, 1);
    let told = diff(&a, &b, &["--tolerance", "1e-9"]);
    assert_eq!((told.code, &*told.out), (0, "the one tensor is within the tolerance\n"));
    let value: Value = serde_json::from_str(&diff(&a, &b, &["--json"]).out).unwrap();
    assert_eq!(row(&value, "w")["first"]["a"].as_u64(), Some(9_007_199_254_740_993));

    let unsigned = write("u.safetensors", Dtype::U64, &longs([u64::MAX, 1]));
    assert_eq!(diff(&unsigned, &unsigned, &[]).code, 0);
    let other = write("v.safetensors", Dtype::U64, &longs([u64::MAX - 1, 1]));
    assert_eq!(diff(&unsigned, &other, &[]).code, 1);

    let floats = write("f.safetensors", Dtype::F32, &[1.0f32, 2.0].map(f32::to_le_bytes).concat());
    let doubles = write("d.safetensors", Dtype::F64, &[1.0f64, 2.0].map(f64::to_le_bytes).concat());
    let told = diff(&floats, &doubles, &[]);
    assert!(told.code == 1 && told.out.contains("F32 and F64"), "{}", told.out);
}

/// Two devices' replays are the same, two optimizers' are not, and checkpoints are compared with their manifests.
#[test]
fn diff_compares_replays_and_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let trace = tensors(
        Path::new(&at("trace.safetensors")),
        &[("param/w", &[2], &[3.0, -4.0]), ("grad/0/w", &[2], &[1.0, 0.5])],
    );
    let replay = |name: &str, device: &str, lr: &str| {
        let (out, state) = (at(&format!("{name}.safetensors")), at(&format!("{name}.state.safetensors")));
        let optimizer = format!("dict(type='AdamW', lr={lr})");
        let arguments = ["replay", "--optimizer", &optimizer, "--trace", &trace, "--out", &out];
        good(&[&arguments[..], &["--device", device, "--state", &state]].concat());
        (out, state)
    };
    let [cpu, scalar, other] = [("a", "cpu", "0.1"), ("b", "scalar", "0.1"), ("c", "cpu", "0.2")]
        .map(|(name, device, lr)| replay(name, device, lr));
    assert_eq!(tell(fallline().args(["diff", &cpu.0, &scalar.0])).code, 0);
    assert_eq!(tell(fallline().args(["diff", &cpu.1, &scalar.1])).code, 0);
    assert_eq!(json(&["inspect", &cpu.0, "--json"])["kind"], "replay");
    let told = tell(fallline().args(["diff", &cpu.1, &other.1]));
    assert!(
        told.code == 1 && told.out.contains("the manifests differ in optimizer.groups.0.lr"),
        "{}",
        told.out
    );
}
