//! `--set`, `--optimizer` and `--seed`: a configuration changed from the command line.

use super::errors::SMALL;
use super::{bad, fallline, good, json, tell};
use fallline::Checkpoint;
use std::path::Path;

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The configuration that a run keeps.
fn kept(run: &str) -> String {
    let checkpoint = Checkpoint::read(Path::new(run).join("checkpoint.safetensors")).unwrap();
    checkpoint.manifest.trainer.unwrap()["config"].as_str().unwrap().to_owned()
}

#[test]
fn a_changed_run_is_the_run_of_a_changed_file_and_goes_on_so() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let config = write(folder.path(), "small.py", SMALL);
    let edited = SMALL.replace("type='AdamW', lr=0.01", "type='Lion', lr=1e-3, betas=(0.9, 0.95)");
    let edited = edited.replace("hidden=[4]", "hidden=[6], seed=7");
    let edited = write(folder.path(), "edited.py", &edited);
    let changes = [
        "--optimizer",
        "dict(type='Lion', lr=0.5)",
        "--set",
        "optim_wrapper.optimizer.lr=1e-3",
        "--set",
        "optim_wrapper.optimizer.betas=(0.9, 0.95)",
        "--set",
        "train.hidden.0=6",
        "--seed",
        "7",
    ];
    let (changed, expected) = (at("changed"), at("expected"));
    good(&[&["train", "--config", &config, "--out", &changed][..], &changes].concat());
    good(&["train", "--config", &edited, "--out", &expected, "--epochs", "2"]);
    assert!(kept(&changed).contains("Lion") && kept(&changed).contains("seed=7"), "{}", kept(&changed));
    good(&["train", "--resume", &changed, "--epochs", "2"]);
    let [a, b] = [&changed, &expected].map(Path::new);
    let checkpoints = [a, b].map(|run| super::contents(&run.join("checkpoint.safetensors")));
    assert!(checkpoints[0] == checkpoints[1], "the runs differ");
    let steps = [a, b].map(|run| std::fs::read_to_string(run.join("metrics.jsonl")).unwrap().lines().count());
    assert_eq!(steps[0], steps[1]);
    // With the same changes it is the same configuration; with others it is not.
    let resume = |more: &[&str]| {
        let mut command = fallline();
        command.args(["train", "--resume", &changed, "--epochs", "2"]).args(more);
        command
    };
    assert_eq!(tell(resume(&["--config", &config]).args(changes)).code, 0);
    assert_eq!(tell(&mut resume(&["--seed", "7"])).code, 0);
    for path in ["optim_wrapper.optimizer.lr", "optimizer.lr"] {
        let told = tell(&mut resume(&["--set", &format!("{path}=1e-3")]));
        assert_eq!(told.code, 0, "{path}: {}", told.error);
        let parts = [&format!("--set {path} is not the configuration"), "0.001 there", "0.002 is asked for"];
        bad(&mut resume(&["--set", &format!("{path}=2e-3")]), 2, &parts);
    }
    bad(&mut resume(&["--out", &at("other")]), 2, &["--out", "--resume"]);
    bad(&mut resume(&["--seed", "8"]), 2, &["--seed", "is not the configuration", "was started with"]);
    bad(&mut resume(&["--config", &config]), 2, &["small.py is not the configuration"]);
}

#[test]
fn changes_reach_every_command_with_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let config = write(folder.path(), "small.py", SMALL);
    let params = write(folder.path(), "params.json", r#"{"head.weight": {"shape": [2, 3]}}"#);
    let explain =
        |more: &[&str]| json(&[&["explain", "--params", &params, "--json"][..], more].concat())[0].clone();
    let row = explain(&["--config", &config, "--set", "optim_wrapper.optimizer.weight_decay=0.25"]);
    assert_eq!((row["lr"].as_f64(), row["weight_decay"].as_f64()), (Some(0.01), Some(0.25)));
    let keys = "optim_wrapper.paramwise_cfg.custom_keys={'head.weight': dict(lr_mult=0.5)}";
    assert_eq!(explain(&["--config", &config, "--set", keys])["lr"], 0.005);
    let row = explain(&["--optimizer", "SGD", "--set", "type=mmdet::Lion", "--set", "lr=3"]);
    assert_eq!((row["optimizer"].as_str(), row["lr"].as_f64()), (Some("Lion"), Some(3.0)));
    let other = write(folder.path(), "other.py", &format!("{SMALL}model = dict(a=1)\n"));
    let told =
        tell(fallline().args(["explain", "--params", &params, "--config", &other, "--set", "model.a=2"]));
    assert!(
        told.code == 0 && told.error.contains("warning: --set model.a: changes nothing"),
        "{}",
        told.error
    );
    let run = |set: &str| {
        let mut command = fallline();
        command.args(["explain", "--params", &params, "--config", &config, "--set", set]);
        command
    };
    bad(
        &mut run("optim_wraper.optimizer.lr=1"),
        2,
        &["--set optim_wraper.optimizer.lr:1:1: ", "\"optim_wrapper\""],
    );
    bad(&mut run("optim_wrapper.optmizer.lr=1"), 2, &["no key `optmizer`", "did you mean `optimizer`?"]);
    bad(
        &mut run("optim_wrapper.optimizer.lrr=1"),
        2,
        &["--set optim_wrapper.optimizer.lrr:1:25: ", "\"lr\""],
    );
    bad(&mut run("optim_wrapper.optimizer.lr=-1"), 2, &["--set optim_wrapper.optimizer.lr:1:28: ", "-1"]);
    bad(&mut run("optimizer.lr=1"), 2, &["the optimizer is `optim_wrapper.optimizer` there"]);
    bad(&mut run("param_scheduler.0.end=1"), 2, &["--set"]);
    bad(&mut run("optim_wrapper.optimizer.lr"), 2, &["expected `=` and a value"]);
    bad(
        fallline().args(["train", "--set", "train.epoch=1", "--out"]).arg(folder.path().join("never")),
        2,
        &["--set train.epoch:1:", "train has no \"epoch\"", "did you mean \"epochs\"?", "^"],
    );
    assert!(!folder.path().join("never").exists());
}
