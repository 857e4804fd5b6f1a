//! The command on the emulated CUDA device, from outside.
#![cfg(target_os = "linux")]

use assert_cmd::Command;
use half::{bf16, f16};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use std::path::{Path, PathBuf};

/// Returns the folder with the emulator under the names of CUDA's libraries.
fn emulator() -> PathBuf {
    fallline_emulator::install().expect("the emulator");
    let exe = std::env::current_exe().unwrap();
    let folder = exe.parent().unwrap().join("emulated-cuda");
    assert!(folder.join("libcuda.so").exists(), "{folder:?}");
    folder
}

fn fallline(options: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fallline"));
    command.env_remove("FALLLINE_ISA").env("LD_LIBRARY_PATH", emulator()).env("FALLLINE_EMULATOR", options);
    command.args(arguments);
    command
}

fn good(options: &str, arguments: &[&str]) -> String {
    let output = fallline(options, arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}, {options}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn bad(options: &str, arguments: &[&str], code: i32, expected: &str) {
    let output = fallline(options, arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}, {options}: {error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains(expected) && !error.contains("panicked"), "{error:?} has no {expected:?}");
}

fn encode(dtype: Dtype, values: &[f64]) -> Vec<u8> {
    let bytes = |x: &f64| match dtype {
        Dtype::F64 => x.to_le_bytes().to_vec(),
        Dtype::F32 => (*x as f32).to_le_bytes().to_vec(),
        Dtype::BF16 => bf16::from_f64(*x).to_le_bytes().to_vec(),
        _ => f16::from_f64(*x).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(bytes).collect()
}

/// Returns the bits of all numbers; those of a NaN are not promised.
fn decode(dtype: Dtype, bytes: &[u8]) -> Vec<u64> {
    let number = |bytes: &[u8]| match dtype {
        Dtype::F64 => f64::from_le_bytes(bytes.try_into().unwrap()),
        Dtype::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
        Dtype::BF16 => bf16::from_le_bytes(bytes.try_into().unwrap()).into(),
        _ => f16::from_le_bytes(bytes.try_into().unwrap()).into(),
    };
    let bits = |x: f64| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() };
    bytes.chunks_exact(dtype.bitsize() / 8).map(number).map(bits).collect()
}

/// Parameters of every kind of shape, in one format, with special numbers, and one without a gradient at step 1.
fn trace(path: &Path, dtype: Dtype) {
    const SPECIAL: [f64; 9] =
        [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1e-40, 6e-8, 65504.0, -1e30];
    let shapes: [(&str, Vec<usize>); 5] = [
        ("scalar", vec![]),
        ("empty", vec![0, 3]),
        ("odd", vec![3, 5]),
        ("long", vec![1300]),
        ("wild", vec![9]),
    ];
    let mut state = 7u64;
    let mut entries = Vec::new();
    let mut push = |key: String, shape: &[usize]| {
        let n: usize = shape.iter().product();
        let mut draw = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        let values: Vec<f64> = match key.ends_with("wild") {
            true => SPECIAL.to_vec(),
            false => (0..n).map(|_| draw()).collect(),
        };
        entries.push((key, shape.to_vec(), encode(dtype, &values)));
    };
    for (name, shape) in &shapes {
        push(format!("param/{name}"), shape);
        (0..4).filter(|t| *name != "odd" || *t != 1).for_each(|t| push(format!("grad/{t}/{name}"), shape));
    }
    let views = entries
        .iter()
        .map(|(key, shape, bytes)| (key.as_str(), TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn contents(path: &Path) -> Vec<(String, Vec<usize>, Vec<u64>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let entry = |(key, view): (String, TensorView<'_>)| {
        (key, view.shape().to_vec(), decode(view.dtype(), view.data()))
    };
    let mut entries: Vec<_> = file.tensors().into_iter().map(entry).collect();
    entries.sort();
    entries
}

#[test]
fn replay_gives_the_bits_of_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (input, expected, found) = (path("in.st"), path("cpu.st"), path("cuda.st"));
    let recipes = [
        "dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)",
        "dict(type='Adam', lr=0.1, weight_decay=0.1, amsgrad=True)",
        "AdamW",
        "dict(type='Lion', lr=0.01, weight_decay=0.1)",
        "LAMB",
    ];
    for dtype in [Dtype::F32, Dtype::F64, Dtype::BF16, Dtype::F16] {
        trace(Path::new(&input), dtype);
        for recipe in recipes {
            let replay = |out: &str, device: &str, options: &str| {
                let arguments =
                    ["replay", "--optimizer", recipe, "--trace", &input, "--out", out, "--device", device];
                good(options, &arguments);
                contents(Path::new(out))
            };
            let on_cpu = replay(&expected, "cpu", "");
            assert_eq!(on_cpu.len(), 5 * 4);
            for (device, options) in
                [("cuda", ""), ("cuda:0", "checked,seed=3"), ("cuda:1", "lazy,devices=2")]
            {
                assert_eq!(
                    replay(&found, device, options),
                    on_cpu,
                    "{recipe}, {dtype:?}, {device}, {options}"
                );
            }
        }
    }
}

#[test]
fn bench_measures_against_a_copy_and_says_that_it_is_emulated() {
    let bench = ["bench", "--device", "cuda", "--optimizer", "AdamW", "SGD", "LAMB", "--elements", "2000"];
    for more in [&["--layout", "small"][..], &["--dtype", "bf16"]] {
        let output = fallline("", &bench).args(more).arg("--json").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("emulated, so these are speeds of an interpreter"), "{said}");
        let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let rows = rows.as_array().unwrap();
        assert_eq!(rows.len(), 3);
        for row in rows {
            assert_eq!((&row["elements"], &row["emulated"]), (&2000.into(), &true.into()));
            assert!(
                row["threads"].is_null() && row["device"].as_str().unwrap().starts_with("cuda:0"),
                "{row}"
            );
            let number = |key: &str| row[key].as_f64().unwrap();
            assert!(number("ns_per_element") > 0.0 && number("roofline") > 0.0);
            let ratio = number("gb_per_s") * number("ns_per_element") / number("bytes_per_element");
            // One division and one product, each rounded once.
            assert!((ratio - 1.0).abs() < 1e-14, "{ratio}");
        }
        let bytes = if more[0] == "--dtype" { 22.0 } else { 28.0 };
        assert_eq!(rows[0]["bytes_per_element"], bytes);
    }
    let table = good("", &["bench", "--device", "cuda", "--optimizer", "SGD", "--elements", "100"]);
    assert!(table.starts_with("name") && table.lines().count() == 2, "{table}");
    bad("", &["bench", "--device", "scalar"], 2, "bench takes cpu, cuda or cuda:N");
}

#[test]
fn devices_that_are_not_there_are_named() {
    let on = |device: &'static str| {
        ["minimize", "quadratic", "--optimizer", "SGD", "--steps", "1", "--device", device]
    };
    bad("", &on("cuda:7"), 2, "there is no cuda:7: the driver finds 1 CUDA device, cuda:0");
    bad("devices=0", &on("cuda"), 2, "there is no cuda:0: the driver finds no CUDA device");
    bad("", &on("cuda:x"), 2, "expected cpu, scalar, cuda or cuda:N, got \"cuda:x\"");
    bad("", &on("cuda:-1"), 2, "cuda:-1");
    bad("", &on("cuda:99999999999999999999"), 2, "expected cpu, scalar, cuda or cuda:N");
    bad("", &["bench", "--device", "gpu"], 2, "expected cpu, scalar, cuda or cuda:N, got \"gpu\"");
    bad("memory=1000", &["bench", "--device", "cuda", "--optimizer", "AdamW"], 1, "no memory for");
    bad("fail=cuLaunchKernel:1:700", &on("cuda"), 1, "kernel SgdRule failed");
    // Without the emulator: a machine with a driver runs it, any other says what it looked for.
    let output = Command::new(env!("CARGO_BIN_EXE_fallline")).args(on("cuda")).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {}
        Some(2) => assert!(error.contains("CUDA") && error.lines().count() == 1, "{error}"),
        other => panic!("{other:?}: {error}"),
    }
}
