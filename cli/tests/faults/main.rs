//! What a run leaves when a call of the system fails, and when it is killed: never a torn file, never a result that
//! differs without a word, and always something that `--resume` goes on from.
//!
//! `FALLLINE_FAULTS` and `FALLLINE_KILLS` say how many (300 and 50), `FALLLINE_SEED` which. `scripts/soak` has more.

#![cfg(target_os = "linux")]

#[path = "../../../tests/common/mod.rs"]
mod common;

use common::Random;
use fallline::Checkpoint;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_fallline");

/// Runs that differ in what a checkpoint holds, and their epochs.
const KINDS: [(&str, &str, u64); 5] = [
    ("adamw", "optimizer=dict(type='AdamW', lr=5e-3, weight_decay=0.1)", 3),
    ("blocks", "optimizer=dict(type='AdamW', lr=5e-3, state_format='q8')", 3),
    ("rounded", "optimizer=dict(type='Lion', lr=1e-3, state_format='bf16_sr')", 3),
    ("paged", "optimizer=dict(type='PagedAdamW8bit', lr=5e-3)", 3),
    (
        "scaled",
        "type='AmpOptimWrapper', loss_scale='dynamic', accumulative_counts=3, optimizer=dict(type='SGD', lr=0.05, momentum=0.9)",
        3,
    ),
];

/// How many, and from which seed.
fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

/// A folder of runs, in which each kind has its configuration and the folder of a run that nothing disturbed.
struct Runs {
    folder: tempfile::TempDir,
}

impl Runs {
    fn new(kinds: &[(&str, &str, u64)]) -> Runs {
        let runs = Runs { folder: tempfile::tempdir().unwrap() };
        for (kind, wrapper, epochs) in kinds {
            let text = format!(
                "optim_wrapper = dict({wrapper})\n\
                 param_scheduler = dict(type='CosineAnnealingLR', T_max=90, by_epoch=False)\n\
                 train = dict(epochs={epochs}, batch_size=128, hidden=[16], seed=3)\n"
            );
            std::fs::write(runs.at(&format!("{kind}.py")), text).unwrap();
            let done = runs.command(&begin(kind, &format!("ref-{kind}"))).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        runs
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(BINARY);
        command.current_dir(self.folder.path()).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs it undisturbed.
    fn run(&self, arguments: &[String]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What a run left: each file without what it says of the clock, and without the lock.
    fn left(&self, run: &str) -> BTreeMap<String, Vec<u8>> {
        let files = std::fs::read_dir(self.at(run)).unwrap().map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let bytes = std::fs::read(&path).unwrap();
            let bytes = match &*name {
                "metrics.jsonl" => without_clock(&bytes),
                "loss.svg" => without_duration(&bytes),
                _ => bytes,
            };
            (name, bytes)
        });
        // An empty temporary file is left alone for a minute: its writer may be about to write.
        let starting = |name: &str, bytes: &[u8]| name.starts_with(".fallline-") && bytes.is_empty();
        files.filter(|(name, bytes)| name != ".lock" && !starting(name, bytes)).collect()
    }

    /// A folder that no run has been in, with the content of another if that is given.
    fn fresh(&self, name: &str, from: Option<&str>) {
        let _ = std::fs::remove_dir_all(self.at(name));
        if let Some(from) = from {
            std::fs::create_dir(self.at(name)).unwrap();
            for file in std::fs::read_dir(self.at(from)).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), self.at(name).join(file.file_name())).unwrap();
            }
        }
    }

    /// What goes on with a run: a resume, or, where it was disturbed before its first checkpoint, a new start.
    fn again(&self, kind: &str, run: &str) -> Vec<String> {
        let saved = self.at(run).join("checkpoint.safetensors").exists();
        if saved { resume(run) } else { begin(kind, run) }
    }

    /// Ends what was disturbed, and compares it with what was not.
    fn finish(&self, kind: &str, run: &str, what: &str) {
        if let Some(problem) = torn(&self.at(run)) {
            panic!("{what}: {problem}");
        }
        let done = self.run(&self.again(kind, run));
        assert!(done.status.success(), "{what}: {}", String::from_utf8_lossy(&done.stderr));
        let (left, want) = (self.left(run), self.left(&format!("ref-{kind}")));
        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&left), names(&want), "{what}");
        for (name, bytes) in &want {
            assert!(left[name] == *bytes, "{what}: {name} differs");
        }
    }
}

fn begin(kind: &str, run: &str) -> Vec<String> {
    ["train", "--config", &format!("{kind}.py"), "--threads", "1", "--out", run].map(str::to_owned).to_vec()
}

fn resume(run: &str) -> Vec<String> {
    ["train", "--threads", "1", "--resume", run].map(str::to_owned).to_vec()
}

/// The record without what it says of the clock.
fn without_clock(bytes: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(bytes).unwrap();
    let lines = text.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap_or_else(|_| Value::String(line.to_owned()));
        if let Some(object) = line.as_object_mut() {
            object.remove("time");
            object.remove("examples_per_second");
        }
        format!("{line}\n")
    });
    lines.collect::<String>().into_bytes()
}

/// The picture without the line below its title, which says how long the run took.
fn without_duration(bytes: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(bytes).unwrap();
    let (before, after) = text.split_once(" epochs  \u{b7}  ").unwrap_or((text, ""));
    let after = after.split_once("\u{b7}").map_or(after, |(_, after)| after);
    [before, after].concat().into_bytes()
}

/// What is wrong with a run's checkpoint, if there is one.
fn torn(run: &Path) -> Option<String> {
    let path = run.join("checkpoint.safetensors");
    path.exists().then(|| Checkpoint::read(&path).err().map(|error| error.to_string())).flatten()
}

/// Compiles the library that makes calls fail.
fn shim(folder: &Path) -> PathBuf {
    let library = folder.join("libshim.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/shim.rs");
    let mut compiler = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()));
    compiler.args(["--edition", "2024", "--crate-type", "cdylib", "-O", "-C", "panic=abort", "-o"]);
    let done = compiler.arg(&library).arg(source).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    library
}

#[test]
fn a_call_that_fails_loses_nothing() {
    let runs = Runs::new(&KINDS[..1]);
    let shim = shim(runs.folder.path());
    let with = |command: &mut Command, nth: u64, mode: &str, count: Option<&Path>| {
        command.env("LD_PRELOAD", &shim).env("SHIM_NTH", nth.to_string()).env("SHIM_MODE", mode);
        if let Some(path) = count {
            command.env("SHIM_COUNT", path);
        }
        command.output().unwrap()
    };
    // A run that has ended after two of three epochs, to be resumed.
    let mut shorter = begin("adamw", "two");
    shorter.extend(["--epochs".to_owned(), "2".to_owned()]);
    assert!(runs.run(&shorter).status.success());
    let further: Vec<String> =
        resume("run").into_iter().chain(["--epochs".to_owned(), "3".to_owned()]).collect();
    let scenarios = [("a run", begin("adamw", "run"), None), ("a resume", further.clone(), Some("two"))];
    let mut faults = Vec::new();
    for (place, (what, arguments, from)) in scenarios.iter().enumerate() {
        runs.fresh("run", *from);
        let count = runs.at("count");
        let done = with(&mut runs.command(arguments), u64::MAX, "error", Some(&count));
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let calls: u64 = std::fs::read_to_string(&count).unwrap().parse().unwrap();
        assert!(calls > 20, "{what} makes {calls} calls");
        for mode in ["error", "full", "lasting", "short", "interrupted"] {
            faults.extend((1..=calls).map(|nth| (place, mode, nth)));
        }
    }
    let mut random = Random(number("FALLLINE_SEED", 1));
    for i in (1..faults.len()).rev() {
        faults.swap(i, random.below(i + 1));
    }
    let wanted = number("FALLLINE_FAULTS", 300) as usize;
    let (mut errors, mut through) = (0, 0);
    for &(place, mode, nth) in faults.iter().cycle().take(wanted) {
        let (what, arguments, from) = &scenarios[place];
        let what = format!("{what} whose call {nth} fails ({mode})");
        runs.fresh("run", *from);
        let done = with(&mut runs.command(arguments), nth, mode, None);
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        match done.status.code() {
            Some(0) => through += 1,
            Some(1 | 2) => errors += 1,
            other => panic!("{what}: exit code {other:?}: {told}"),
        }
        assert!(!told.contains("panicked"), "{what}: {told}");
        if done.status.success() {
            assert!(
                runs.left("run") == runs.left("ref-adamw"),
                "{what}: nothing was said, and what it left differs"
            );
        }
        if *from == Some("two") {
            let done = runs.run(&further);
            assert!(done.status.success(), "{what}: {}", String::from_utf8_lossy(&done.stderr));
        }
        runs.finish("adamw", "run", &what);
    }
    println!("{wanted} failing calls of {}: {errors} errors, {through} without effect", faults.len());
}

#[test]
fn a_run_that_is_killed_goes_on() {
    let runs = Runs::new(&KINDS);
    let began = Instant::now();
    assert!(runs.run(&begin(KINDS[0].0, "timed")).status.success());
    let whole = began.elapsed();
    let mut random = Random(number("FALLLINE_SEED", 1));
    let wanted = number("FALLLINE_KILLS", 50);
    let (mut kills, mut ended, mut round) = (0, 0, 0);
    while kills < wanted {
        let (kind, ..) = KINDS[round % KINDS.len()];
        round += 1;
        runs.fresh("run", None);
        let what = format!("a killed run of {kind} (round {round})");
        // The run, and up to three resumes of it, are killed.
        for _ in 0..1 + random.below(4) {
            let arguments = runs.again(kind, "run");
            let mut child =
                runs.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let share = random.below(1300) as u32;
            std::thread::sleep(whole * share / 1000 + Duration::from_micros(500));
            let status = match child.try_wait().unwrap() {
                Some(status) => {
                    ended += 1;
                    status
                }
                None => {
                    kills += 1;
                    child.kill().unwrap();
                    child.wait().unwrap()
                }
            };
            // Killed, or at its end: never an error of its own.
            assert!(status.code().is_none_or(|code| code == 0), "{what}: {status}");
            if let Some(problem) = torn(&runs.at("run")) {
                panic!("{what}: {problem}");
            }
        }
        runs.finish(kind, "run", &what);
    }
    println!("{kills} kills in {round} runs, {ended} came too late");
}

#[test]
fn of_two_resumes_one_goes_on_and_one_says_why_not() {
    let runs = Runs::new(&KINDS[..1]);
    let mut shorter = begin("adamw", "one");
    shorter.extend(["--epochs".to_owned(), "1".to_owned()]);
    assert!(runs.run(&shorter).status.success());
    let further: Vec<String> =
        resume("run").into_iter().chain(["--epochs".to_owned(), "3".to_owned()]).collect();
    let mut random = Random(number("FALLLINE_SEED", 1));
    let wanted = number("FALLLINE_PAIRS", 10);
    let (mut pairs, mut followed) = (0, 0);
    while pairs < wanted {
        runs.fresh("run", Some("one"));
        let start = || runs.command(&further).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let first = start();
        std::thread::sleep(Duration::from_micros(random.below(3000) as u64));
        let ended = [first, start()].map(|child| {
            let done = child.wait_with_output().unwrap();
            (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
        });
        let refused: Vec<&String> =
            ended.iter().filter(|(code, _)| *code == Some(2)).map(|(_, told)| told).collect();
        assert!(ended.iter().filter(|(code, _)| *code == Some(0)).count() == 2 - refused.len(), "{ended:?}");
        match refused[..] {
            // The second came when the first had ended: nothing is left to train.
            [] => followed += 1,
            [told] => {
                pairs += 1;
                assert!(told.contains(" writes in run: wait for its end"), "{told}");
            }
            _ => panic!("neither went on: {ended:?}"),
        }
        runs.finish("adamw", "run", "two resumes");
    }
    println!("{pairs} pairs of which one was refused, {followed} one after the other");
}
