//! torch's own searches on the problems of `minimize`: see `tests/golden/searches.py`.

use assert_cmd::Command;
use safetensors::SafeTensors;
use serde_json::Value;

/// Both sides round in their own order. What they round differs by some hundred units of the last place after 18
/// iterations at most. A division by a difference of gradients may carry that on. Of the largest coordinate or
/// loss.
const TOLERANCE: f64 = 1e-9;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most, x| most.max(x.abs()))
}

#[test]
fn lbfgs_goes_where_torch_goes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/searches.json");
    let recorded: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = recorded["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 13);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("way.safetensors");
    for case in cases {
        let (problem, text) = (case["problem"].as_str().unwrap(), case["optimizer"].as_str().unwrap());
        let steps = case["x"].as_array().unwrap().len().to_string();
        let dim = case["dim"].to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fallline"));
        command.args(["minimize", problem, "--optimizer", text, "--steps", &steps, "--dim", &dim, "--out"]);
        command.arg(&out).assert().success();
        let bytes = std::fs::read(&out).unwrap();
        let way = SafeTensors::deserialize(&bytes).unwrap();
        let read = |key: &str| -> Vec<f64> {
            let view = way.tensor(key).unwrap_or_else(|error| panic!("{key}: {error}"));
            view.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
        };
        let check = |key: &str, expected: &[f64]| {
            let (got, most) = (read(key), largest(expected).max(1.0));
            assert_eq!(got.len(), expected.len());
            let error = largest(&got.iter().zip(expected).map(|(a, b)| a - b).collect::<Vec<_>>());
            assert!(error <= TOLERANCE * most, "{problem}, {text}, {key}: off by {error:e}");
        };
        for (t, expected) in case["x"].as_array().unwrap().iter().enumerate() {
            check(&format!("x/{t}"), &numbers(expected));
        }
        check("loss", &numbers(&case["loss"]));
    }
}
