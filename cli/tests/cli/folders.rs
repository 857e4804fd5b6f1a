//! One process writes in a run's folder, and a process that is stopped goes on.

use super::train::metrics;
use super::{BINARY, bad, fallline, tell};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A small run, begun: its folder.
fn begun(folder: &Path) -> PathBuf {
    let (config, run) = (folder.join("small.py"), folder.join("run"));
    let text = "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=5e-3))\n\
                train = dict(epochs=1, batch_size=256, hidden=[8], seed=3)\n";
    std::fs::write(&config, text).unwrap();
    let told = tell(fallline().args(["train", "--config"]).arg(config).arg("--out").arg(&run));
    assert_eq!(told.code, 0, "{}", told.error);
    run
}

/// Starts a run that takes long, and returns once `is_there`.
#[cfg(unix)]
fn started(arguments: &[&str], run: &Path, is_there: impl Fn() -> bool) -> std::process::Child {
    let mut command = std::process::Command::new(BINARY);
    command.env_remove("FALLLINE_ISA").args(["train", "--resume"]).arg(run).args(arguments);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while !is_there() {
        assert!(start.elapsed() < Duration::from_secs(60), "it does not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn a_folder_in_use_is_named_with_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let run = begun(folder.path());
    assert!(!run.join(".lock").exists(), "it is removed at the end");
    let before = std::fs::read(run.join("checkpoint.safetensors")).unwrap();
    let fresh = folder.path().join("fresh");
    std::fs::create_dir(&fresh).unwrap();
    for (argument, folder) in [("--resume", &run), ("--out", &fresh), ("--resume", &fresh)] {
        let mut lock = File::create(folder.join(".lock")).unwrap();
        writeln!(lock, "4242").unwrap();
        lock.lock().unwrap();
        let mut train = fallline();
        train.args(["train", "--quiet", "--epochs", "2", argument]).arg(folder);
        let who = if cfg!(unix) { "process 4242 writes in" } else { "process writes in" };
        bad(&mut train, 2, &[argument, who, folder.to_str().unwrap()]);
        assert_eq!(std::fs::read(folder.join(".lock")).unwrap(), b"4242\n");
    }
    assert_eq!(std::fs::read(run.join("checkpoint.safetensors")).unwrap(), before);
    // The files are there, the locks are gone with their holder.
    for (arguments, folder) in [(["--epochs=2", "--resume"], &run), (["--epochs=0", "--out"], &fresh)] {
        let told = tell(fallline().arg("train").args(arguments).arg(folder));
        assert_eq!(told.code, 0, "{}", told.error);
    }
    assert_eq!(metrics(&run).0, (1..=12).collect::<Vec<_>>());
}

/// Of two that resume one folder, one goes on and the other says why it does not. After a kill the next one goes on.
#[cfg(unix)]
#[test]
fn two_do_not_resume_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let run = begun(folder.path());
    let record = run.join("metrics.jsonl");
    let longer = || std::fs::metadata(&record).is_ok_and(|there| there.len() > 10_000);
    let mut first = started(&["--epochs", "1000000"], &run, longer);
    let who = format!("process {} writes in", first.id());
    bad(fallline().args(["train", "--epochs", "9", "--resume"]).arg(&run), 2, &[&who, "wait for its end"]);
    bad(fallline().args(["train", "--out"]).arg(&run), 2, &[&who]);
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(run.join(".lock").exists(), "a killed process leaves it");
    let told = tell(fallline().args(["train", "--epochs", "1", "--resume"]).arg(&run));
    assert_eq!(told.code, 0, "{}", told.error);
    let steps = metrics(&run).0;
    assert_eq!(steps, (1..=steps.len() as u64).collect::<Vec<_>>());
}

/// Ranks of a process that was stopped for longer than they may take do not give each other up.
#[cfg(unix)]
#[test]
fn a_stopped_process_keeps_its_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let run = begun(folder.path());
    let record = run.join("metrics.jsonl");
    let size = || std::fs::metadata(&record).map_or(0, |there| there.len());
    let mut child =
        started(&["--epochs", "1000000", "--ranks", "threads:3", "--rank-timeout", "1"], &run, || {
            size() > 10_000
        });
    let signal = |name: &str| {
        let id = child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    };
    signal("STOP");
    std::thread::sleep(Duration::from_millis(1500));
    let before = size();
    signal("CONT");
    let start = Instant::now();
    while size() <= before + 20_000 && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    signal("INT");
    let code = child.wait().unwrap().code();
    let mut error = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut error).unwrap();
    assert_eq!(code, Some(130), "{error}");
    assert!(size() > before + 20_000, "it goes on");
}

/// A path that leads to no file is refused at once, where it is and what it is.
#[cfg(unix)]
#[test]
fn pipes_and_devices_are_no_files() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe.json");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let link = folder.path().join("zero.py");
    std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
    let base = folder.path().join("base.py");
    std::fs::write(&base, "_base_ = 'zero.py'\n").unwrap();
    let params = folder.path().join("params.json");
    std::fs::write(&params, "{\"w\": {\"shape\": [2]}}").unwrap();
    let run = folder.path().join("run");
    std::fs::create_dir(&run).unwrap();
    std::os::unix::fs::symlink(&pipe, run.join("checkpoint.safetensors")).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let [pipe, link, base, params, run] = [&pipe, &link, &base, &params, &run].map(|path| text(path));
    let out = text(&folder.path().join("out.safetensors"));
    for (is_usage, arguments) in [
        (true, vec!["explain", "--config", &pipe, "--params", &params]),
        (true, vec!["explain", "--config", &link, "--params", &params]),
        (true, vec!["explain", "--config", &base, "--params", &params]),
        (false, vec!["explain", "--optimizer", "SGD", "--params", &pipe]),
        (true, vec!["train", "--config", &pipe]),
        (true, vec!["train", "--resume", &run]),
        (true, vec!["schedule", "--config", &link, "--steps", "3"]),
        (
            false,
            vec!["schedule", "--scheduler", "dict(type='ConstantLR')", "--steps", "3", "--metrics", &pipe],
        ),
        (false, vec!["replay", "--optimizer", "SGD", "--trace", &pipe, "--out", &out]),
        (false, vec!["inspect", "/dev/zero"]),
        (false, vec!["inspect", &pipe]),
        (true, vec!["diff", &pipe, &params]),
        (false, vec!["convert", &pipe, &out]),
        (true, vec!["minimize", "beale", "--steps", "1", "--config", &pipe]),
    ] {
        let mut command = fallline();
        command.args(&arguments).timeout(Duration::from_secs(30));
        let code = if is_usage { 2 } else { 1 };
        let part = if arguments.contains(&"--resume") {
            "has no checkpoint"
        } else {
            "where a regular file is needed"
        };
        bad(&mut command, code, &[part]);
    }
    let (mut explain, text) = (fallline(), std::fs::read(&params).unwrap());
    explain.args(["explain", "--optimizer", "SGD", "--params", "/dev/stdin"]).write_stdin(text);
    assert_eq!(tell(&mut explain).code, 0, "standard input is open already");
    let mut inspect = fallline();
    bad(inspect.args(["inspect", "/dev/stdin"]).write_stdin("nothing"), 1, &["/dev/stdin"]);
}
