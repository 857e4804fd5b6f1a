//! `train`: its folder, and runs that are stopped and go on.

use super::common::Random;
use super::{BINARY, bad, contents, fallline, tell};
use fallline::Checkpoint;
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// A small run that does not take long unoptimised either.
fn config(folder: &Path, epochs: u64) -> PathBuf {
    let path = folder.join("small.py");
    let text = format!(
        "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=5e-3, weight_decay=0.1))\n\
         param_scheduler = dict(type='CosineAnnealingLR', T_max=90, by_epoch=False)\n\
         train = dict(epochs={epochs}, batch_size=64, hidden=[16], seed=3)\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

/// The numbers of steps and of epochs in `metrics.jsonl`, and its lines without what they say of the clock. That goes only
/// upward.
pub fn metrics(run: &Path) -> (Vec<u64>, Vec<u64>, Vec<Value>) {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut before = 0.0;
    for line in lines.iter_mut().map(|line| line.as_object_mut().unwrap()) {
        let time = line.remove("time").unwrap().as_f64().unwrap();
        assert!(time >= before, "{line:?}");
        before = time;
        let is_step = line.contains_key("loss");
        assert_eq!(line["kind"], if is_step { "train" } else { "test" });
        let throughput = line.remove("examples_per_second").and_then(|value| value.as_f64());
        assert_eq!(throughput.is_some_and(|throughput| throughput > 0.0), is_step, "{line:?}");
    }
    let of = |key: &str, only: &str| {
        let rows = lines.iter().filter(|line| line.get(only).is_some());
        rows.map(|line| line[key].as_u64().unwrap()).collect::<Vec<_>>()
    };
    (of("step", "loss"), of("epoch", "test_accuracy"), lines.clone())
}

/// The steps of an epoch: 1,437 images in batches of 64.
const EPOCH: u64 = 23;

#[test]
fn train_writes_its_folder_and_ends_with_the_accuracy() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let config = config(folder.path(), 3);
    let train = |more: &[&str]| {
        let mut command = fallline();
        command.current_dir(folder.path()).args(["train", "--config"]).arg(&config).args(more);
        command
    };
    let out = run.to_str().unwrap();
    let told = tell(&mut train(&["--epochs", "1", "--out", out]));
    assert_eq!(told.code, 0, "{}", told.error);
    let last = told.out.lines().last().unwrap();
    let accuracy = last.strip_prefix("test accuracy: ").and_then(|rest| rest.strip_suffix('%')).unwrap();
    assert!(accuracy.split_once('.').is_some_and(|(_, digits)| digits.len() == 1), "{last}");
    assert!(accuracy.parse::<f64>().unwrap() > 20.0, "{last}: chance is 10%");
    let (steps, epochs, lines) = metrics(&run);
    assert_eq!(steps, (1..=EPOCH).collect::<Vec<_>>());
    assert_eq!(epochs, [0]);
    assert!(
        lines.iter().all(|line| line.get("loss").or(line.get("test_loss")).unwrap().as_f64().unwrap() > 0.0)
    );
    assert!(
        lines
            .iter()
            .filter(|line| line["kind"] == "train")
            .all(|line| line["grad_norm"].as_f64() > Some(0.0))
    );
    let drawn = std::fs::read_to_string(run.join("loss.svg")).unwrap();
    for part in
        ["<svg", ">AdamW on digits<", ">lr=0.005, weight_decay=0.1<", ">test loss<", ">learning rate<"]
    {
        assert!(drawn.contains(part), "{part}");
    }
    assert!(Checkpoint::read(run.join("checkpoint.safetensors")).unwrap().params().count() >= 4);
    assert_eq!(std::fs::read_dir(&run).unwrap().count(), 3, "no temporary file is left");

    bad(&mut train(&["--out", out]), 2, &["--resume", out]);
    bad(&mut train(&["--resume", folder.path().to_str().unwrap()]), 2, &["checkpoint.safetensors"]);
    bad(&mut train(&["--resume"]), 2, &["--resume", "runs"]);
    // Without a folder: the next free one, and --resume takes the newest.
    for expected in ["small-1", "small-2"] {
        assert_eq!(tell(&mut train(&["--epochs", "0"])).code, 0);
        assert!(folder.path().join("runs").join(expected).is_dir(), "{expected}");
    }
    std::fs::write(&config, "optimizer = dict(type='SGD')\ntrain = dict(epochs=1, hiden=[4])").unwrap();
    bad(&mut train(&["--out", "x"]), 2, &["hiden", "hidden", "small.py:2:"]);
    assert!(!folder.path().join("x").exists(), "a bad configuration makes no folder");
}

/// A start without a checkpoint leaves nothing behind or can be begun again. One with a checkpoint resumes.
#[test]
fn a_start_that_fails_is_no_dead_end() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), 1);
    let train = |more: &[&str]| {
        let mut command = fallline();
        command.current_dir(folder.path()).args(["train", "--config"]).arg(&config).args(more);
        command
    };
    let told = tell(&mut train(&["--epochs", "0", "--out", "none"]));
    assert_eq!(told.code, 0, "{}", told.error);
    let told = tell(&mut train(&["--resume", "none", "--epochs", "1"]));
    assert_eq!(told.code, 0, "{}", told.error);
    assert_eq!(metrics(&folder.path().join("none")).0, (1..=EPOCH).collect::<Vec<_>>());
    let told = tell(&mut train(&["--resume", "none", "--epochs", "0"]));
    assert!(told.out.starts_with("1 of 0 epochs are done: nothing is left"), "{}", told.out);
    assert!(!told.error.contains("the schedule"), "{}", told.error);
    assert_ne!(tell(&mut train(&["--optimizer", "SparseAdam", "--out", "sparse"])).code, 0);
    assert!(!folder.path().join("sparse").exists());
    // What a start that was killed leaves.
    let left = folder.path().join("left");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("metrics.jsonl"), "").unwrap();
    bad(&mut train(&["--resume", "left"]), 2, &["no checkpoint.safetensors", "--out left begins"]);
    let told = tell(&mut train(&["--out", "left"]));
    assert!(told.code == 0 && told.error.contains("begins again"), "{}", told.error);
    bad(&mut train(&["--out", "small.py"]), 2, &["small.py is not a folder"]);
    for option in ["--epochs", "--seed"] {
        bad(&mut train(&[option, "-1", "--out", "never"]), 2, &[option, "-1", "0.."]);
    }
    bad(&mut train(&["--optimizer", "LBFGS", "--out", "never"]), 2, &["LBFGS", "`fallline minimize`"]);
    assert!(!folder.path().join("never").exists());
}

#[test]
fn a_run_that_diverges_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), 1);
    let train = |out: &str, more: &[&str]| {
        let optimizer = "dict(type='SGD', lr=1e30)";
        let mut command = fallline();
        command.current_dir(folder.path()).args([
            "train",
            "--optimizer",
            optimizer,
            "--out",
            out,
            "--config",
        ]);
        tell(command.arg(&config).args(more))
    };
    let told = train("a", &[]);
    assert_eq!(told.code, 0, "{}", told.error);
    assert_eq!(told.error.matches("diverged at step ").count(), 1, "{}", told.error);
    assert!(told.out.contains("diverged at step "), "{}", told.out);
    assert!(told.out.lines().last().unwrap().starts_with("test accuracy: "), "{}", told.out);
    assert_eq!(train("b", &["--check"]).code, 1);
}

/// The parameters, states and steps of a run's checkpoint.
fn trained(run: &Path) -> Vec<(String, Vec<u8>)> {
    contents(&run.join("checkpoint.safetensors"))
}

/// Writes the same with a whole gradient pipeline. It has 69 iterations in windows of 4, of which the last has 1, and
/// another optimizer for the hidden layer. Its loss scale and its steps are so large that gradients overflow and some
/// are skipped.
#[cfg(unix)]
fn toolkit_config(folder: &Path, epochs: u64) -> PathBuf {
    let path = folder.join("toolkit.py");
    let text = format!(
        "optim_wrapper = dict(\n\
             type='AmpOptimWrapper', loss_scale=dict(init_scale=3e38, growth_interval=4),\n\
             optimizer=dict(type='AdamW', lr=2.0, weight_decay=0.1),\n\
             accumulative_counts=4, clip_grad=dict(max_norm=0.5),\n\
             paramwise_cfg=dict(bias_decay_mult=0.0, bias_lr_mult=2.0, custom_keys={{\n\
                 'fc1.weight': dict(optimizer=dict(type='Muon', lr=0.02, weight_decay=0.01))}}))\n\
         param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=10),\n\
             dict(type='CosineAnnealingLR', begin=10, by_epoch=False),\n\
             dict(type='LinearMomentum', start_factor=0.9, end=2),\n\
             dict(type='ReduceOnPlateauLR', patience=0, factor=0.7)]\n\
         train = dict(epochs={epochs}, batch_size=64, hidden=[16], seed=3,\n\
             average=dict(type='MomentumAnnealingEMA', momentum=0.05))\n"
    );
    std::fs::write(&path, text).unwrap();
    path
}

#[cfg(unix)]
#[test]
fn a_run_that_was_stopped_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    stopped(&config(folder.path(), 4), (4, EPOCH));
}

#[cfg(unix)]
#[test]
fn a_run_with_everything_around_that_was_stopped_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    stopped(&toolkit_config(folder.path(), 3), (3, EPOCH));
}

/// The record tells which steps were skipped: some of those that end a window (the last one has 3 iterations), and no other.
#[cfg(unix)]
#[test]
fn skipped_steps_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (config, run) = (toolkit_config(folder.path(), 3), folder.path().join("run"));
    let told = tell(fallline().args(["train", "--config"]).arg(config).arg("--out").arg(&run));
    assert_eq!(told.code, 0, "{}", told.error);
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let skipped: Vec<u64> = lines
        .filter(|line| !line["skipped"].is_null())
        .inspect(|line| assert_eq!(line["skipped"], true, "only what was skipped says so"))
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert!((1..40).contains(&skipped.len()), "{skipped:?}");
    assert!(skipped.iter().all(|&step| step % 4 == 0 || step == 3 * EPOCH), "{skipped:?}");
}

/// The configuration that is shipped: AmpOptimWrapper, paramwise_cfg, clip_grad, accumulative_counts=4, warm-up and
/// cosine, Muon and AdamW by rule. The warm-up is over in the third epoch of 45 steps.
#[cfg(unix)]
#[test]
fn the_bundled_run_with_everything_around_goes_on_bit_for_bit() {
    stopped(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/digits_amp.py"), (3, 45));
}

/// Stops runs at moments that are drawn, and resumes them. The moments are the same each time, as shares of the time that
/// a whole run takes.
#[cfg(unix)]
fn stopped(config: &Path, (epochs_of_run, epoch): (u64, u64)) {
    let folder = tempfile::tempdir().unwrap();
    let train = |run: &Path| {
        let mut command = std::process::Command::new(BINARY);
        command.env_remove("FALLLINE_ISA").args(["train", "--config"]).arg(config).arg("--out").arg(run);
        command.args(["--epochs", &epochs_of_run.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let straight = folder.path().join("straight");
    let start = std::time::Instant::now();
    assert!(train(&straight).status().unwrap().success());
    let whole = start.elapsed();
    let expected = (trained(&straight), metrics(&straight));

    let mut random = Random(6);
    for (round, signal) in ["INT", "KILL", "INT", "KILL"].into_iter().enumerate() {
        let run = folder.path().join(format!("run{round}"));
        let mut child = train(&run).spawn().unwrap();
        // Not before the first checkpoint, without which there is nothing to go on with.
        while !run.join("checkpoint.safetensors").exists() {
            assert!(start.elapsed() < Duration::from_secs(120), "no checkpoint");
            std::thread::sleep(Duration::from_millis(2));
        }
        let wait = whole.mul_f64(random.unit().abs() * 0.7);
        std::thread::sleep(wait);
        let id = child.id().to_string();
        assert!(std::process::Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        let code = child.wait().unwrap().code();
        let mut error = String::new();
        child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        assert!(!error.contains("panicked"), "{error}");
        // Where it had ended by then, its code is 0.
        let allowed = if signal == "INT" { [Some(130), Some(0)] } else { [None, Some(0)] };
        assert!(allowed.contains(&code), "{signal} after {wait:?}: {code:?}, {error}");
        if code == Some(130) {
            assert!(error.contains("stopped at step ") && error.contains("--resume"), "{error}");
            assert!(!error.contains("error:"), "{error}");
            assert!(run.join("loss.svg").exists());
        }
        let told = tell(fallline().args(["train", "--resume"]).arg(&run));
        assert_eq!(told.code, 0, "{signal}: {}", told.error);
        assert_eq!(trained(&run), expected.0, "{signal} after {wait:?}");
        let (steps, epochs, lines) = metrics(&run);
        assert_eq!(steps, (1..=epochs_of_run * epoch).collect::<Vec<_>>(), "{signal}: each step once");
        assert_eq!(epochs, (0..epochs_of_run).collect::<Vec<_>>(), "{signal}: each epoch once");
        assert_eq!(lines, expected.1.2, "{signal}: the same numbers");
    }

    // A damaged checkpoint is refused and named, and stays as it is.
    let path = folder.path().join("run0/checkpoint.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    bad(
        fallline().args(["train", "--resume"]).arg(folder.path().join("run0")),
        1,
        &["checkpoint.safetensors"],
    );
    assert_eq!(std::fs::read(&path).unwrap().len(), bytes.len() / 2);
}

/// Runs that earlier versions stopped after their first epoch end as if this version had trained alone.
#[test]
fn runs_of_earlier_versions_go_on() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/checkpoints");
    let cases: Value = serde_json::from_slice(&std::fs::read(golden.join("cases.json")).unwrap()).unwrap();
    for (version, case) in [("2026-11-24", "plain"), ("2026-11-26", "plain"), ("2026-11-26", "around")] {
        let folder = tempfile::tempdir().unwrap();
        let [config, whole, resumed] = ["config.py", "whole", "resumed"].map(|name| folder.path().join(name));
        std::fs::write(&config, cases["runs"][case].as_str().unwrap()).unwrap();
        std::fs::create_dir(&resumed).unwrap();
        let stopped = golden.join(version).join(format!("{case}.run.safetensors"));
        std::fs::copy(stopped, resumed.join("checkpoint.safetensors")).unwrap();
        let train = |more: [&str; 2], run: &Path| {
            let told = tell(fallline().args(["train", "--config"]).arg(&config).args(more).arg(run));
            assert_eq!(told.code, 0, "{version}, {case}: {}", told.error);
        };
        train(["--epochs=2", "--out"], &whole);
        train(["--epochs=2", "--resume"], &resumed);
        assert!(trained(&whole) == trained(&resumed), "{version}, {case}");
    }
}

#[test]
fn a_checkpoint_without_its_schedule_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let text = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))\n\
                param_scheduler = dict(type='MultiStepLR', milestones=[1], end=4)\n\
                train = dict(epochs=4, batch_size=256, hidden=[8], seed=0)\n";
    let config = folder.path().join("a.py");
    std::fs::write(&config, text).unwrap();
    let run = folder.path().join("run");
    let told =
        tell(fallline().args(["train", "--epochs", "1", "--config"]).arg(&config).arg("--out").arg(&run));
    assert_eq!(told.code, 0, "{}", told.error);
    let path = run.join("checkpoint.safetensors");
    let mut checkpoint = Checkpoint::read(&path).unwrap();
    let schedule = checkpoint.manifest.schedule.take();
    checkpoint.write(&path).unwrap();
    let mut resume = fallline();
    resume.args(["train", "--epochs", "4", "--resume"]).arg(&run);
    bad(&mut resume, 1, &["checkpoint.safetensors", "no schedule", "param_scheduler"]);
    checkpoint.manifest.schedule = schedule;
    checkpoint.write(&path).unwrap();
    let told = tell(&mut resume);
    assert_eq!(told.code, 0, "{}", told.error);
}
