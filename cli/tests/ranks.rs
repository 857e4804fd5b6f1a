//! `train --ranks`: several ranks from outside, over threads and, where the command is built with it, over MPI.

use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_fallline");

fn fallline(arguments: &[&str]) -> Output {
    Command::new(BINARY).arg("train").args(arguments).output().unwrap()
}

fn told(output: &Output) -> String {
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    text
}

fn good(output: &Output) {
    assert!(output.status.success(), "{}", told(output));
}

/// Returns a configuration of a small network, as a file.
fn config(folder: &Path, name: &str, optimizer: &str) -> PathBuf {
    let path = folder.join(name).with_extension("py");
    let train = "train = dict(epochs=3, batch_size=32, hidden=[64], seed=3)";
    std::fs::write(&path, format!("optimizer = dict({optimizer})\n{train}\n")).unwrap();
    path
}

/// Parameters and states of a run, by name.
fn kept(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(folder.join("checkpoint.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> =
        file.tensors().into_iter().map(|(name, view)| (name, view.data().to_vec())).collect();
    all.sort();
    all
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

const ADAMW: &str = "type='AdamW', lr=5e-3, weight_decay=0.1";
const SHARDED: &str = "type='ZeroRedundancyOptimizer', optimizer_type='AdamW', lr=5e-3, weight_decay=0.1";
const LAMB: &str = "type='OnebitLamb', lr=1e-2, freeze_step=60, eps=1e-3";
/// Of the 45 steps of an epoch, the last are in the middle of an interval of four.
const ZERO_ONE: &str = "type='ZeroOneAdam', lr=1e-3, eps=1e-3, var_freeze_step=60, var_update_scaler=8, \
                        local_step_scaler=8, local_step_clipper=4";
const ONEBIT: &str = "type='OnebitAdam', lr=1e-3, freeze_step=60, eps=1e-3";

#[test]
fn states_that_are_shared_out_change_nothing() {
    let folder = TempDir::new().unwrap();
    let run = |name: &str, optimizer: &str, ranks: &str| {
        let out = folder.path().join(name);
        let config = config(folder.path(), name, optimizer);
        good(&fallline(&["--config", text(&config), "--out", text(&out), "--ranks", ranks]));
        kept(&out)
    };
    for ranks in ["threads:1", "threads:2", "threads:3", "threads:9"] {
        let (adamw, sharded) = (format!("adamw-{ranks}"), format!("sharded-{ranks}"));
        assert!(run(&adamw, ADAMW, ranks) == run(&sharded, SHARDED, ranks), "{ranks}");
    }
    assert!(run("one", ADAMW, "one") == run("threads-of-one", ADAMW, "threads:1"));
}

const KINDS: [(&str, &str); 5] =
    [("adamw", ADAMW), ("sharded", SHARDED), ("onebit", ONEBIT), ("lamb", LAMB), ("zero-one", ZERO_ONE)];

/// Returns a configuration with a wrapper, rules and an average.
fn config_around(folder: &Path, name: &str, optimizer: &str) -> PathBuf {
    let path = folder.join(name).with_extension("py");
    let around = "accumulative_counts=4, clip_grad=dict(max_norm=0.5), loss_scale=dict(init_scale=3e38), \
                  paramwise_cfg=dict(bias_decay_mult=0.0, custom_keys=dict(fc1=dict(lr_mult=0.5)))";
    let average = "average=dict(type='ExponentialMovingAverage', momentum=0.1)";
    let train = format!("train = dict(epochs=2, batch_size=32, hidden=[64], seed=3, {average})");
    let text = format!(
        "optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict({optimizer}), {around})\n{train}\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// The gradient pipeline is the same on all ranks, and in the checkpoint of sharded states.
#[test]
fn what_stands_around_is_the_same_on_all_ranks() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let run = |name: &str, optimizer: &str| {
        let config = config_around(folder.path(), name, optimizer);
        good(&fallline(&["--config", text(&config), "--out", text(&path(name)), "--ranks", "threads:2"]));
        kept(&path(name))
    };
    let (adamw, sharded) = (run("adamw", ADAMW), run("sharded", SHARDED));
    assert!(adamw == sharded);
    assert!(adamw.iter().filter(|(name, _)| name.starts_with("average/")).count() == 4);
    // Half-way through a window, and with another number of ranks.
    let config = config_around(folder.path(), "parts", SHARDED);
    let out = path("parts");
    let begin = ["--config", text(&config), "--out", text(&out), "--epochs", "1", "--ranks", "threads:2"];
    good(&fallline(&begin));
    assert!(
        kept(&out).iter().all(|(name, _)| !name.starts_with("window/")),
        "the last window is closed in time"
    );
    good(&fallline(&["--resume", text(&out), "--epochs", "2", "--ranks", "threads:3"]));
    assert_eq!(kept(&out).len(), sharded.len());
}

#[test]
fn a_run_goes_on_bit_for_bit_and_with_another_number_of_ranks() {
    let folder = TempDir::new().unwrap();
    for (name, optimizer) in KINDS {
        let config = config(folder.path(), name, optimizer);
        let out = |part: &str| folder.path().join(format!("{name}-{part}"));
        let begin = |to: &Path, epochs: &str, ranks: &str| {
            good(&fallline(&[
                "--config",
                text(&config),
                "--out",
                text(to),
                "--epochs",
                epochs,
                "--ranks",
                ranks,
            ]));
        };
        let resume = |of: &Path, ranks: &str| {
            good(&fallline(&["--resume", text(of), "--epochs", "3", "--ranks", ranks]))
        };
        let (whole, parts, other) = (out("whole"), out("parts"), out("other"));
        begin(&whole, "3", "threads:3");
        begin(&parts, "2", "threads:3");
        let own =
            kept(&parts).iter().filter(|(key, _)| key.starts_with("rank/") && key.ends_with("/u")).count();
        assert_eq!(own, if name == "zero-one" { 4 * 3 } else { 0 }, "{name}: what ranks have of their own");
        resume(&parts, "threads:3");
        assert!(kept(&whole) == kept(&parts), "{name}");
        assert_eq!(lines(&whole), lines(&parts), "{name}");
        begin(&other, "2", "threads:3");
        resume(&other, "threads:2");
        resume(&other, "one");
        assert_eq!(lines(&whole).len(), lines(&other).len(), "{name}");
    }
}

/// The records of a run, without what they say of the clock.
fn lines(run: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let read = |line: &str| {
        let mut record: serde_json::Map<_, _> = serde_json::from_str(line).unwrap();
        record.retain(|key, _| !["time", "examples_per_second"].contains(&key.as_str()));
        record.into()
    };
    text.lines().map(read).collect()
}

#[test]
fn mistakes_are_told_and_leave_nothing() {
    let folder = TempDir::new().unwrap();
    for ranks in ["threads:0", "threads:x", "two", "threads:-1"] {
        let output = fallline(&["--ranks", ranks]);
        assert_eq!(output.status.code(), Some(2));
        assert!(told(&output).contains("expected one, mpi or threads:N"), "{}", told(&output));
    }
    let cases = [
        ("type='ZeroRedundancyOptimizer', lr=0.1", "needs an \"optimizer_type\""),
        ("type='ZeroRedundancyOptimizer', optimizer_type='LBFGS'", "searches along all parameters together"),
        ("type='ZeroRedundancyOptimizer', optimizer_type='OnebitAdam'", "compressed momenta"),
        ("type='ZeroRedundancyOptimizer', optimizer_type='DAdaptAdam'", "looks at all parameters together"),
        (
            "type='ZeroRedundancyOptimizer', optimizer_type='FusedLamb', max_grad_norm=1.0",
            "FusedLamb cannot be sharded: it looks at all parameters together",
        ),
        (
            "type='ZeroRedundancyOptimizer', optimizer_type='SGD', nesterof=True",
            "has no \"nesterof\" (did you mean \"nesterov\"?)",
        ),
        (
            "type='ZeroRedundancyOptimizer', optimizer_type='SGD', overlap_with_ddp=True",
            "overlap_with_ddp must be False",
        ),
    ];
    for (number, (optimizer, problem)) in cases.iter().enumerate() {
        let (config, out) =
            (config(folder.path(), &format!("bad{number}"), optimizer), folder.path().join("out"));
        let output = fallline(&["--config", text(&config), "--out", text(&out), "--ranks", "threads:2"]);
        // The line of the file follows.
        let told = told(&output);
        assert_eq!((output.status.code(), told.matches("error: ").count()), (Some(2), 1), "{told}");
        assert!(told.lines().next().unwrap().contains(problem) && told.contains('^'), "{told}");
        assert!(!out.exists());
    }
    let masked =
        [("128", "type='AdamW'", "it takes no exp_avg_mask"), ("-1", ONEBIT, "a number of rows, or")];
    for (number, (mask, optimizer, problem)) in masked.into_iter().enumerate() {
        let name = format!("mask{number}");
        let config = config(folder.path(), &name, &format!("{optimizer}, exp_avg_mask={mask}"));
        let output = fallline(&["--config", text(&config), "--ranks", "threads:2"]);
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
        assert!(told(&output).contains(problem), "{}", told(&output));
    }
    // What does not fit shows with the parameters.
    let (config, out) = (
        config(folder.path(), "mask", &format!("{ONEBIT}, exp_avg_mask=(0, 4096)")),
        folder.path().join("mask"),
    );
    let output = fallline(&["--config", text(&config), "--out", text(&out), "--ranks", "threads:2"]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let problem = "has 64 rows, and its exp_avg_mask names rows 0 to 4096";
    assert!(told(&output).contains(problem), "{}", told(&output));
    let averaged = folder.path().join("averaged.py");
    let average = "average=dict(type='ExponentialMovingAverage')";
    let text_of = format!(
        "optimizer = dict({ZERO_ONE})\ntrain = dict(epochs=1, batch_size=32, hidden=[64], {average})\n"
    );
    std::fs::write(&averaged, text_of).unwrap();
    let out = folder.path().join("averaged");
    let output = fallline(&["--config", text(&averaged), "--out", text(&out), "--ranks", "threads:2"]);
    assert!(told(&output).contains("each rank would average a diverged replica"), "{}", told(&output));
    if cfg!(not(feature = "mpi")) {
        let output = fallline(&["--ranks", "mpi"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(told(&output).contains("built without MPI"), "{}", told(&output));
    }
}

/// `mpirun` on this machine.
#[cfg(all(feature = "mpi", target_os = "linux"))]
mod mpi {
    use super::*;
    use std::process::{Child, Stdio};
    use std::time::{Duration, Instant};

    fn mpirun(ranks: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new("mpirun");
        command.args(["--oversubscribe", "--allow-run-as-root", "-n", &ranks.to_string(), BINARY, "train"]);
        command.args(["--ranks", "mpi"]).args(arguments);
        command
    }

    #[test]
    fn processes_end_where_threads_do() {
        let folder = TempDir::new().unwrap();
        for (name, optimizer) in KINDS {
            let config = config(folder.path(), name, optimizer);
            for ranks in 1..=4 {
                let out = |kind: &str| folder.path().join(format!("{name}-{kind}-{ranks}"));
                let (processes, threads) = (out("processes"), out("threads"));
                good(
                    &mpirun(ranks, &["--config", text(&config), "--out", text(&processes)]).output().unwrap(),
                );
                let ranks = format!("threads:{ranks}");
                good(&fallline(&["--config", text(&config), "--out", text(&threads), "--ranks", &ranks]));
                assert!(kept(&processes) == kept(&threads), "{name}, {ranks}");
            }
        }
    }

    #[test]
    fn three_processes_reach_the_accuracy() {
        let folder = TempDir::new().unwrap();
        for (name, optimizer) in [("sharded", SHARDED), ("onebit", ONEBIT), ("zero-one", ZERO_ONE)] {
            let config = config(folder.path(), name, optimizer);
            let out = folder.path().join(format!("out-{name}"));
            let output = mpirun(3, &["--config", text(&config), "--out", text(&out), "--epochs", "30"])
                .output()
                .unwrap();
            good(&output);
            let text = told(&output);
            let accuracy = text.rsplit_once("test accuracy: ").and_then(|(_, rest)| rest.split_once('%'));
            let accuracy: f64 = accuracy.unwrap_or_else(|| panic!("{text}")).0.parse().unwrap();
            // Twice as many mistakes as AdamW on one rank makes with the bundled configuration (98.3%).
            assert!(accuracy >= 96.6, "{name}: {accuracy}");
        }
    }

    /// Returns the ranks that a launcher has started.
    fn children(launcher: &Child) -> Vec<u32> {
        let stat = |pid: u32| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        let parent = |pid: u32| stat(pid)?.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok();
        let all = std::fs::read_dir("/proc").unwrap();
        let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(|&pid| parent(pid) == Some(launcher.id())).collect()
    }

    /// Starts a run, and does something to one of its ranks when it has taken so many steps more than an epoch.
    fn disturb(folder: &Path, config: &Path, out: &Path, steps: usize, signal: &str) -> Output {
        let arguments =
            ["--config", text(config), "--out", text(out), "--epochs", "60", "--rank-timeout", "3"];
        let mut command = mpirun(3, &arguments);
        let mut launcher = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let begun = Instant::now();
        let lines =
            || std::fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
        while !out.join("checkpoint.safetensors").exists() || lines() < steps {
            assert!(
                begun.elapsed() < Duration::from_secs(120),
                "the run does not get on in {}",
                folder.display()
            );
            assert!(launcher.try_wait().unwrap().is_none(), "the run ended too early");
            std::thread::sleep(Duration::from_millis(1));
        }
        let ranks = children(&launcher);
        assert_eq!(ranks.len(), 3);
        let victim = ranks[steps % 3].to_string();
        good(&Command::new("kill").args([signal, &victim]).output().unwrap());
        let disturbed = Instant::now();
        let output = launcher.wait_with_output().unwrap();
        // The limit, and what a busy machine needs to end processes.
        assert!(disturbed.elapsed() < Duration::from_secs(60), "{:?}", disturbed.elapsed());
        assert!(!output.status.success(), "{}", told(&output));
        output
    }

    #[test]
    fn a_rank_that_is_killed_or_stalls_ends_the_run_which_goes_on() {
        for (name, optimizer) in [("sharded", SHARDED), ("zero-one", ZERO_ONE)] {
            disturbed(name, optimizer);
        }
    }

    fn disturbed(name: &str, optimizer: &str) {
        let folder = TempDir::new().unwrap();
        let config = config(folder.path(), name, optimizer);
        let whole = folder.path().join("whole");
        good(
            &mpirun(3, &["--config", text(&config), "--out", text(&whole), "--epochs", "60"])
                .output()
                .unwrap(),
        );
        let random =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_micros();
        for (kind, signal) in [("killed", "-KILL"), ("stopped", "-STOP")] {
            let steps = 50 + random as usize % 500;
            let out = folder.path().join(kind);
            disturb(folder.path(), &config, &out, steps, signal);
            kept(&out);
            good(&mpirun(3, &["--resume", text(&out), "--epochs", "60"]).output().unwrap());
            assert!(kept(&out) == kept(&whole), "{kind} at step {steps}");
            let names = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
            names.sort();
            assert_eq!(names, ["checkpoint.safetensors", "loss.svg", "metrics.jsonl"]);
        }
    }

    #[test]
    fn processes_with_different_configurations_are_told() {
        let folder = TempDir::new().unwrap();
        let configs = [("one", ADAMW), ("other", "type='AdamW', lr=5e-3, weight_decay=0.2")];
        let [one, other] = configs.map(|(name, optimizer)| config(folder.path(), name, optimizer));
        let out = folder.path().join("out");
        let mut command = mpirun(1, &["--config", text(&one), "--out", text(&out)]);
        command.args([":", "-n", "1", BINARY, "train", "--ranks", "mpi", "--config", text(&other)]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            told(&output).contains("ranks 0 and 1 differ in the run: \"weight_decay=0.1"),
            "{}",
            told(&output)
        );
        assert!(!out.join("metrics.jsonl").exists());
    }
}
