//! Every command knows an algorithm of one's own, from a binary of one's own.
//!
//! This test has no harness: started with the variable below it *is* that binary, `examples/own_command.rs`.

#[path = "../examples/own_command.rs"]
mod own_command;

use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;
use std::process::{Command, ExitCode, Output};

const AS_COMMAND: &str = "FALLLINE_TEST_OWN_COMMAND";

fn main() -> ExitCode {
    if std::env::var_os(AS_COMMAND).is_some() {
        return own_command::main();
    }
    for (name, test) in TESTS {
        println!("test {name} ...");
        test();
    }
    println!("{} tests passed", TESTS.len());
    ExitCode::SUCCESS
}

const TESTS: &[(&str, fn())] = &[
    ("list_and_describe", list_and_describe),
    ("explain_and_custom_keys", explain_and_custom_keys),
    ("replay_and_diff", replay_and_diff),
    ("minimize_schedule_and_bench", minimize_schedule_and_bench),
    ("train_resume_inspect_and_convert", train_resume_inspect_and_convert),
];

/// Runs a command of the binary that has the algorithm.
fn run(args: &[&str]) -> Output {
    let binary = std::env::current_exe().unwrap();
    Command::new(binary).env(AS_COMMAND, "1").args(args).output().unwrap()
}

/// Runs a command that must succeed, and returns what it prints.
fn good(args: &[&str]) -> String {
    let output = run(args);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail with a code, and returns its error.
fn bad(args: &[&str], code: i32) -> String {
    let output = run(args);
    assert_eq!(output.status.code(), Some(code), "{args:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn list_and_describe() {
    let names = good(&["list"]);
    assert!(names.lines().any(|name| name == "MySignum") && names.lines().any(|name| name == "AdamW"));
    let table = good(&["list", "--search", "mysignum", "--json"]);
    assert!(table.contains("\"MySignum\""), "{table}");

    let text = good(&["describe", "MySignum"]);
    for part in ["MySignum", "θₜ = θₜ₋₁ − γ·sign(mₜ)", "Momentum β", "1802.04434"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(good(&["describe", "mysignum"]), text);
    assert!(good(&["describe", "dict(type='MySignum', lr=0.5)"]).contains("Update as configured"));
    assert!(good(&["describe", "MySignum", "--ptx"]).contains("MySignumRule"));
    let error = bad(&["describe", "MySignun"], 2);
    assert!(error.contains("did you mean \"MySignum\"?"), "{error}");
}

/// Writes a trace of two parameters and three steps.
fn trace(path: &Path) {
    let numbers = |seed: usize| -> Vec<u8> {
        (0..4).flat_map(|i| (((i + seed) as f32) * 0.7).sin().to_le_bytes()).collect()
    };
    let mut entries = Vec::new();
    for (i, name) in ["layer.weight", "layer.bias"].iter().enumerate() {
        entries.push((format!("param/{name}"), numbers(i)));
        entries.extend((0..3).map(|t| (format!("grad/{t}/{name}"), numbers(10 * t + i))));
    }
    let view = |bytes| TensorView::new(Dtype::F32, vec![4], bytes).unwrap();
    let views = entries.iter().map(|(key, bytes)| (key.as_str(), view(bytes)));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

const GROUPS: &str = "optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.1), paramwise_cfg=dict(\
                      custom_keys={'bias': dict(optimizer=dict(type='MySignum', lr=0.5))}))";

fn explain_and_custom_keys() {
    let folder = tempfile::tempdir().unwrap();
    let [config, params] = ["config.py", "trace.safetensors"].map(|name| folder.path().join(name));
    trace(&params);
    std::fs::write(&config, GROUPS).unwrap();
    let told = good(&["explain", "--config", config.to_str().unwrap(), "--params", params.to_str().unwrap()]);
    let bias = told.lines().find(|line| line.contains("layer.bias")).unwrap();
    let weight = told.lines().find(|line| line.contains("layer.weight")).unwrap();
    assert!(bias.contains("MySignum") && weight.contains("AdamW"), "{told}");
}

fn replay_and_diff() {
    let folder = tempfile::tempdir().unwrap();
    let [recorded, cpu, scalar, config, groups] =
        ["trace", "cpu", "scalar", "config.py", "groups"].map(|name| folder.path().join(name));
    let [recorded, cpu, scalar, config, groups] =
        [&recorded, &cpu, &scalar, &config, &groups].map(|path| path.to_str().unwrap());
    trace(Path::new(recorded));
    let text = "dict(type='MySignum', lr=0.5)";
    good(&["replay", "--optimizer", text, "--trace", recorded, "--out", cpu]);
    good(&["replay", "--optimizer", text, "--trace", recorded, "--out", scalar, "--device", "scalar"]);
    assert!(run(&["diff", cpu, scalar]).status.success());
    // Of a group of its own it is the same; the other parameter has moved otherwise.
    std::fs::write(config, GROUPS).unwrap();
    good(&["replay", "--config", config, "--trace", recorded, "--out", groups]);
    let differs = run(&["diff", cpu, groups]);
    assert_eq!(differs.status.code(), Some(1));
    let read = |path: &str| std::fs::read(path).unwrap();
    let (cpu, groups) = (read(cpu), read(groups));
    let data = |bytes: &[u8], name: &str| {
        let tensors = safetensors::SafeTensors::deserialize(bytes).unwrap();
        let names: Vec<&str> = tensors.names().into_iter().filter(|key| key.ends_with(name)).collect();
        assert!(!names.is_empty(), "{:?}", tensors.names());
        let mut names = names;
        names.sort_unstable();
        names.iter().map(|key| tensors.tensor(key).unwrap().data().to_vec()).collect::<Vec<_>>()
    };
    assert_eq!(data(&cpu, "layer.bias"), data(&groups, "layer.bias"));
    assert_ne!(data(&cpu, "layer.weight"), data(&groups, "layer.weight"));
}

fn minimize_schedule_and_bench() {
    let told =
        good(&["minimize", "rosenbrock", "--optimizer", "dict(type='MySignum', lr=0.1)", "--steps", "5"]);
    assert!(!told.is_empty());
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.py");
    let text = "optimizer = dict(type='MySignum', lr=0.25)\n\
                param_scheduler = dict(type='CosineAnnealingLR', T_max=4, by_epoch=False)\n";
    std::fs::write(&config, text).unwrap();
    let output = run(&["schedule", "--config", config.to_str().unwrap(), "--steps", "4"]);
    let (told, warned) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && told.contains("0.25"), "{told}");
    // A stranger's numbers are read with a warning; this one is known.
    assert!(!warned.contains("MySignum"), "{warned}");
    let told = good(&["bench", "--optimizer", "MySignum", "--elements", "1024", "--threads", "1", "--json"]);
    assert!(told.contains("\"MySignum\""), "{told}");
}

fn train_resume_inspect_and_convert() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let out = out.to_str().unwrap();
    let text = "dict(type='MySignum', lr=0.002)";
    good(&["train", "--optimizer", text, "--out", out, "--epochs", "1"]);
    let told = good(&["train", "--resume", out, "--epochs", "2"]);
    assert!(!told.is_empty());
    let checkpoint = format!("{out}/checkpoint.safetensors");
    let told = good(&["inspect", &checkpoint]);
    assert!(told.contains("MySignum"), "{told}");
    // There is no layout of another framework for it, which is said by name.
    let torch = format!("{out}/run.pth");
    let error = bad(&["convert", &checkpoint, &torch, "--number"], 1);
    assert!(error.contains("MySignum"), "{error}");

    // The shipped binary has no such name, and says so.
    let shipped =
        Command::new(env!("CARGO_BIN_EXE_fallline")).args(["train", "--resume", out]).output().unwrap();
    let error = String::from_utf8_lossy(&shipped.stderr);
    assert!(!shipped.status.success() && error.contains("MySignum"), "{error}");
}
