//! Memory that files, checkpoints and arguments ask for is bounded, or refused by name: under a limit of the process no
//! command aborts or panics.
#![cfg(target_os = "linux")]

use fallline::Checkpoint;
use fallline::optim::checkpoint::OptimizerManifest;
use fallline::{Compute, Shape};
use safetensors::tensor::{Dtype, TensorView};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Kilobytes of address space that the command has before it does anything: its code, and the stacks of its threads.
fn base() -> u64 {
    static BASE: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *BASE.get_or_init(|| {
        let fits = |limit: u64| {
            let output =
                limited(limit, Path::new("."), &["minimize", "beale", "--optimizer", "SGD", "--steps", "3"]);
            output.status.code() == Some(0)
        };
        let most = 16 << 20;
        assert!(fits(most));
        // The least power of two: there is room for what differs from run to run.
        (14..24).map(|power| 1 << power).find(|&limit| fits(limit)).unwrap_or(most)
    })
}

/// Runs the command in a folder under a limit of so many kilobytes.
fn limited(limit: u64, folder: &Path, arguments: &[&str]) -> Output {
    Command::new("bash")
        .args(["-c", &format!("ulimit -v {limit}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_fallline")])
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Runs the command with so many megabytes to allocate. Returns its exit code and what it says.
fn run(megabytes: u64, folder: &Path, arguments: &[&str]) -> (i32, String) {
    let output = limited(base() + (megabytes << 10), folder, arguments);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let code =
        output.status.code().unwrap_or_else(|| panic!("{arguments:?} ends by {}: {told}", output.status));
    assert!(!told.contains("panicked") && [0, 1, 2].contains(&code), "{arguments:?}: {code}, {told}");
    (code, told)
}

fn refused(megabytes: u64, folder: &Path, arguments: &[&str], code: i32, says: &str) {
    let (got, told) = run(megabytes, folder, arguments);
    assert!(got == code && told.contains(says), "{arguments:?}: {got}, {told}");
}

fn taken(megabytes: u64, folder: &Path, arguments: &[&str]) {
    let (code, told) = run(megabytes, folder, arguments);
    assert_eq!(code, 0, "{arguments:?}: {told}");
}

/// Writes tensors of `f32` as safetensors.
fn write(path: &Path, tensors: &[(&str, &[usize], Vec<f32>)]) {
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|(_, _, values)| values.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A folder with a file in it.
fn folder(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

/// Writes a torch file of before 1.6: AdamW's states of so many parameters, all of them views of one storage.
fn shared_storage(path: &Path, parameters: u32, elements: i32) {
    let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let int = |x: i32| [&b"J"[..], &x.to_le_bytes()].concat();
    let shared = [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        int(elements),
        b"tQK\x00".to_vec(),
        int(elements),
        b"\x85K\x01\x85\x89NtRq\x00".to_vec(),
    ]
    .concat();
    let mut value = [b"\x80\x02}(".to_vec(), text("state"), b"}(".to_vec()].concat();
    for parameter in 0..parameters {
        value.extend([int(parameter as i32), b"}(".to_vec(), text("step"), b"K\x01".to_vec()].concat());
        value.extend(text("exp_avg"));
        value.extend(if parameter == 0 { shared.clone() } else { b"h\x00".to_vec() });
        value.extend([text("exp_avg_sq"), b"h\x00u".to_vec()].concat());
    }
    value.extend([b"u".to_vec(), text("param_groups"), b"](}(".to_vec()].concat());
    value.extend(
        [text("lr"), b"G\x3f\x50\x62\x4d\xd2\xf1\xa9\xfc".to_vec(), text("params"), b"](".to_vec()].concat(),
    );
    (0..parameters).for_each(|parameter| value.extend(int(parameter as i32)));
    value.extend(b"eueu.");
    let mut file = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.".to_vec();
    file.extend([value, b"\x80\x02](".to_vec(), text("0"), b"e.".to_vec()].concat());
    file.extend((elements as u64).to_le_bytes());
    file.resize(file.len() + 4 * elements as usize, 0);
    std::fs::write(path, file).unwrap();
}

#[test]
fn tensors_that_share_a_storage_are_bounded_by_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let convert = ["convert", "in.pth", "out.safetensors", "--optimizer", "AdamW", "--number"];
    shared_storage(&folder.path().join("in.pth"), 2000, 1_000_000);
    refused(256, folder.path(), &convert, 1, "bytes of tensors");
    // Weights that are tied.
    shared_storage(&folder.path().join("in.pth"), 3, 1_000_000);
    taken(256, folder.path(), &convert);
}

#[test]
fn layers_are_bounded_by_their_product_and_by_memory() {
    let config =
        |hidden: &str| format!("optimizer = dict(type='AdamW')\ntrain = dict(epochs=0, hidden={hidden})\n");
    for (hidden, code, says) in [
        ("[1048576, 1048576]", 2, "[1048576, 1048576]"),
        ("[1048576] * 40", 2, "weights and biases"),
        ("[16000, 16000]", 1, "no memory for training with hidden=[16000, 16000]"),
    ] {
        let (folder, _) = folder("wide.py", &config(hidden));
        refused(512, folder.path(), &["train", "--config", "wide.py", "--out", "run"], code, says);
        assert!(!folder.path().join("run").exists(), "{hidden}");
    }
}

#[test]
fn states_of_empty_tensors_are_empty() {
    let folder = tempfile::tempdir().unwrap();
    for (name, shape) in
        [("rows", &[0, 1 << 40][..]), ("columns", &[300_000_000, 0]), ("cube", &[0, 1 << 30, 1 << 33])]
    {
        let path = folder.path().join("in.safetensors");
        let few = vec![0.5; 6];
        let tensors = [
            ("param/a", shape, Vec::new()),
            ("grad/0/a", shape, Vec::new()),
            ("grad/1/a", shape, Vec::new()),
            ("param/b", &[2, 3], few.clone()),
            ("grad/0/b", &[2, 3], few),
        ];
        write(&path, &tensors);
        for optimizer in [
            "Adafactor",
            "TorchAdafactor",
            "AdamW",
            "dict(type='NorMuon', flatten=True)",
            "LAMB",
            "SGD",
            "Prodigy",
        ] {
            let replay =
                ["replay", "--optimizer", optimizer, "--trace", "in.safetensors", "--out", "out.safetensors"];
            let state = [&replay[..], &["--state", "state.safetensors"]].concat();
            let (code, told) = run(64, folder.path(), &state);
            assert_eq!(code, 0, "{optimizer} on {name}: {told}");
            let length = std::fs::metadata(folder.path().join("state.safetensors")).unwrap().len();
            assert!(length < 8192, "{optimizer} on {name}: {length}");
        }
    }
}

#[test]
fn many_small_tensors_take_no_more_than_small_ones() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<[String; 2]> =
        (0..20_000).map(|i| [format!("param/{i}"), format!("grad/0/{i}")]).collect();
    let tensors: Vec<_> = names.iter().flatten().map(|name| (&name[..], &[1][..], vec![0.5])).collect();
    write(&folder.path().join("in.safetensors"), &tensors);
    let replay = ["replay", "--optimizer", "AdamW", "--trace", "in.safetensors", "--out", "out.safetensors"];
    // Five kilobytes each.
    taken(100, folder.path(), &[&replay[..], &["--threads", "1"]].concat());
}

#[test]
fn a_gap_in_a_trace_is_refused_where_its_steps_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let tensors =
        [("param/a", &[100_000][..], vec![0.5; 100_000]), ("grad/9999999/a", &[100_000], vec![0.5; 100_000])];
    write(&folder.path().join("in.safetensors"), &tensors);
    let replay = ["replay", "--optimizer", "SGD", "--trace", "in.safetensors", "--out", "out.safetensors"];
    refused(256, folder.path(), &replay, 1, "--keep: no memory for the steps that are kept");
}

#[test]
fn shapes_of_a_manifest_ask_for_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for shape in [&[1 << 33][..], &[1 << 40, 1 << 20], &[1 << 62]] {
        let mut optimizer = OptimizerManifest::new("AdamW");
        let recipe = fallline::Recipe::from_text("AdamW").unwrap();
        optimizer.push_group(recipe.algorithm());
        optimizer.insert_param("a", &Shape::from(shape), 0, Compute::F32);
        let mut checkpoint = Checkpoint::default();
        checkpoint.manifest.optimizer = Some(optimizer);
        for steps in [0, 7] {
            checkpoint.insert_steps("a", steps);
            checkpoint.write(folder.path().join("in.safetensors")).unwrap();
            run(64, folder.path(), &["inspect", "in.safetensors"]);
            run(64, folder.path(), &["convert", "in.safetensors", "out.pth", "--number"]);
        }
    }
}

#[test]
fn arguments_ask_for_what_there_is() {
    let (folder, _) = folder(
        "wide.json",
        r#"{"a": {"shape": [16777216, 16777216]}, "b": {"shape": [0, 281474976710656]}}"#,
    );
    let at = folder.path();
    refused(
        128,
        at,
        &["minimize", "quadratic", "--optimizer", "AdamW", "--dim", "16777216", "--steps", "1"],
        1,
        "no memory for",
    );
    let minimize = |steps: &'static str| ["minimize", "beale", "--optimizer", "AdamW", "--steps", steps];
    refused(128, at, &minimize("100000000"), 1, "no memory for the losses of --steps");
    refused(128, at, &minimize("18446744073709551615"), 2, "--steps: expected at most 100000000");
    refused(
        256,
        at,
        &["bench", "--optimizer", "AdamW", "--elements", "8589934592"],
        1,
        "no memory for --elements",
    );
    let small = ["bench", "--optimizer", "AdamW", "--layout", "small", "--elements", "8589934592"];
    refused(256, at, &small, 1, "no memory for the tensors of --elements");
    refused(256, at, &["schedule", "--scheduler", "ConstantLR", "--steps", "100000000"], 1, "--steps");
    for optimizer in ["AdamW", "Adafactor", "Muon"] {
        taken(64, at, &["explain", "--optimizer", optimizer, "--params", "wide.json"]);
    }
}
