//! What a file gives is used, and what it gives that is not used is told.

use super::{bad, fallline, good, json, tell};
use serde_json::Value;
use std::path::Path;

const LENGTHS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/lengths");

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn numbers(values: &Value) -> Vec<f64> {
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
}

fn close(got: &[f64], expected: &[f64], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (step, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(
            (got - expected).abs() <= 1e-12 * expected.abs(),
            "{what}: {step}: {got} instead of {expected}"
        );
    }
}

/// MMEngine's values, with the ends that its runner fills in (`tests/golden/lengths/expected.py`).
#[test]
fn schedule_takes_the_length_of_the_run_from_the_file() {
    for (name, steps, epoch) in
        [("run", 12, 1), ("iters", 40, 1), ("one_cycle", 24, 4), ("own_train", 69, 23)]
    {
        let config = format!("{LENGTHS}/{name}.py");
        let expected = std::fs::read_to_string(format!("{LENGTHS}/{name}.expected.json")).unwrap();
        let expected = numbers(&serde_json::from_str(&expected).unwrap());
        let (steps, epoch) = (steps.to_string(), epoch.to_string());
        let told = tell(fallline().args([
            "schedule",
            "--config",
            &config,
            "--steps",
            &steps,
            "--iters-per-epoch",
            &epoch,
            "--json",
        ]));
        assert_eq!((told.code, &*told.error), (0, ""), "{name}");
        let got: Value = serde_json::from_str(&told.out).unwrap();
        close(&numbers(&got["lr"]), &expected, name);
    }
}

#[test]
fn schedule_says_what_has_no_end() {
    let told = tell(fallline().args(["schedule", "--scheduler", "PolyLR", "--steps", "3", "--json"]));
    assert_eq!(told.code, 0);
    assert!(told.error.starts_with("warning: param_scheduler[0] (PolyLR) has no `end`"), "{}", told.error);
    assert!(told.error.contains("--epochs"), "{}", told.error);
    let arguments = ["schedule", "--scheduler", "PolyLR", "--steps", "3", "--epochs", "2", "--json"];
    let told = tell(fallline().args(arguments));
    assert_eq!(told.error, "");
    let got: Value = serde_json::from_str(&told.out).unwrap();
    close(&numbers(&got["lr"]), &[0.05, 0.0, 0.0], "two steps, and then the run is over");
}

#[test]
fn schedule_answers_files_as_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let schedule = |name: &str, text: &str, steps: &str| {
        let path = write(folder.path(), name, text);
        json(&["schedule", "--config", &path, "--steps", steps, "--json"])
    };
    // A scheduler alone, and a list of them.
    let one_cycle =
        schedule("one_cycle.yaml", "type: OneCycleLR\neta_max: 0.01\ntotal_steps: 8\nby_epoch: false\n", "5");
    let expected =
        [0.0004, 0.00819275104892192, 0.009719417773875232, 0.00811745653949763, 0.005559840141227016];
    close(&numbers(&one_cycle["lr"]), &expected, "one cycle");
    let list =
        "[dict(type='ConstantLR', factor=0.5, end=1), dict(type='StepLR', step_size=2, gamma=0.1, end=5)]\n";
    close(&numbers(&schedule("list.py", list, "3")["lr"]), &[0.025, 0.025, 0.0025], "list");
    // Numbers as keys, of which nobody asks.
    let yaml = "optimizer: {type: AdamW, lr: 0.002}\nparam_scheduler: {type: ConstantLR, factor: 0.5, end: 3, by_epoch: false}\n\
                dataset:\n  classes: {0: cat, 1: dog}\n";
    close(&numbers(&schedule("run.yaml", yaml, "4")["lr"]), &[0.001, 0.001, 0.002, 0.002], "yaml");
    // Without schedulers, and with a constructor of somebody's own.
    let path = write(folder.path(), "plain.py", "optimizer = dict(type='SGD', lr=0.3)\n");
    let told = tell(fallline().args(["schedule", "--config", &path, "--steps", "2", "--json"]));
    assert!(told.error.contains("there is no param_scheduler: the values are constant"), "{}", told.error);
    assert_eq!(serde_json::from_str::<Value>(&told.out).unwrap()["lr"], serde_json::json!([0.3, 0.3]));
    let text = "optim_wrapper = dict(constructor='LayerDecay', optimizer=dict(type='SGD', lr=0.3))\n\
                param_scheduler = dict(type='ConstantLR', factor=0.5, end=3)\n";
    let path = write(folder.path(), "layers.py", text);
    let told = tell(fallline().args(["schedule", "--config", &path, "--steps", "2", "--json"]));
    assert!(
        told.error.contains("constructor=\"LayerDecay\"") && told.error.lines().count() == 1,
        "{}",
        told.error
    );
    assert_eq!(serde_json::from_str::<Value>(&told.out).unwrap()["lr"], serde_json::json!([0.15, 0.15]));
    let refused = |name: &str, text: &str, parts: &[&str]| {
        let path = write(folder.path(), name, text);
        bad(fallline().args(["schedule", "--config", &path, "--steps", "2"]), 2, parts);
    };
    refused("other.py", "model = dict(a=1)\n", &["other.py", "neither a param_scheduler nor an optimizer"]);
    refused(
        "old.py",
        "optimizer = dict(type='SGD')\nlr_config = dict(policy='step')\n",
        &["old.py:2:", "MMCV 1.x"],
    );
    let path = write(folder.path(), "sched.py", "dict(type='PolyLR')\n");
    bad(
        fallline().args(["minimize", "beale", "--config", &path, "--steps", "1"]),
        2,
        &["PolyLR", "is a scheduler", "fallline schedule"],
    );
}

#[test]
fn explain_says_what_was_read_and_what_was_not() {
    let folder = tempfile::tempdir().unwrap();
    let params = write(folder.path(), "params.json", r#"{"head.weight": {"shape": [2, 3]}}"#);
    let explain = |text: &str| {
        let config = write(folder.path(), "run.py", text);
        let mut command = fallline();
        command.args(["explain", "--config", &config, "--params", &params]);
        command
    };
    let told = tell(&mut explain(
        "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))\ntrain_cfg = dict(by_epoch=True, max_epochs=3)\n\
         model = dict(type='X')\ncustom_hooks = [dict(type='EMAHook', begin_epoch=3)]\n",
    ));
    assert_eq!(told.code, 0, "{}", told.error);
    assert!(
        told.out.ends_with("read: optim_wrapper, train_cfg; ignored: model, custom_hooks\n"),
        "{}",
        told.out
    );
    assert!(told.error.contains("custom_hooks[0] (EMAHook) is not read"), "{}", told.error);
    let told = tell(&mut explain(
        "optimizer = dict(type='SGD', lr=0.1)\n\
         custom_hooks = [dict(type='Foo'), dict(type='EMAHook', momentum=0.01)]\n",
    ));
    assert!(
        told.out.ends_with("read: optimizer, custom_hooks; ignored: custom_hooks[0] (Foo)\n"),
        "{}{}",
        told.out,
        told.error
    );
    let wrong = "optimizer = dict(type='SGD', lr=0.1)\ntrain = dict(epochs='abc')\n";
    bad(&mut explain(wrong), 2, &["run.py:2:", "epochs must be an int from 0"]);
    let inside = "optimizer = dict(type='AdamW', lr=1e-3, weight_decay=0.05,\n\
                  \x20                paramwise_cfg=dict(custom_keys={'encoder': dict(lr_mult=0.1)}))\n\
                  param_scheduler = dict(type='ConstantLR', factor=0.5, end=3, by_epoch=False)\n";
    bad(&mut explain(inside), 2, &["run.py:2:", "paramwise_cfg", "beside `optimizer`", "optim_wrapper"]);
    bad(
        &mut explain("optimizer = dict(type='SGD')\nclip_grad = dict(max_norm=1)\n"),
        2,
        &["run.py:2:", "optim_wrapper"],
    );
}

#[test]
fn describe_says_where_a_zero_gradient_moves_a_parameter() {
    for (name, moves) in [("Lion8bit", true), ("AdamW8bit", true), ("Adagrad8bit", false), ("Lion", false)] {
        assert_eq!(good(&["describe", name]).contains("Zero gradients: in 8 bits"), moves, "{name}");
        assert_eq!(json(&["describe", name, "--json"])["zero_gradient"].is_string(), moves, "{name}");
    }
}

#[test]
fn describe_counts_the_states_that_are_configured() {
    for (text, bytes, formula) in [
        ("AdamW", 8.0, "4 (m) + 4 (v)"),
        ("dict(type='AdamW', state_format='bf16')", 4.0, "2 (m) + 2 (v)"),
        ("dict(type='AdamW', state_format=dict(v='bf16'))", 6.0, "4 (m) + 2 (v)"),
        ("dict(type='AdamW', param_format='master')", 12.0, "4 (m) + 4 (v) + 4 (master)"),
        ("dict(type='AdamW', amsgrad=True)", 12.0, "4 (m) + 4 (v) + 4 (v_max)"),
    ] {
        let told = json(&["describe", text, "--json"]);
        assert_eq!(told["state_bytes_per_param"], bytes, "{text}");
        assert_eq!(told["state_formula"], formula, "{text}");
        let told = good(&["describe", text]);
        assert!(
            told.contains(&format!("bytes per element (computed in f32): {formula}\n")),
            "{text}: {told}"
        );
    }
}

#[test]
fn describe_finds_names_as_people_type_them() {
    for name in ["adamw", "torch.optim.AdamW", "mmengine::AdamW"] {
        assert_eq!(good(&["describe", name]), good(&["describe", "AdamW"]), "{name}");
    }
    let told = tell(fallline().args(["describe", "Adamz"]));
    assert!(told.code == 2 && told.error.len() < 160, "{}", told.error);
}

/// Returns the learning rates of a run's epochs, as its record has them.
fn rates(run: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut rates: Vec<(u64, f64)> = Vec::new();
    for line in lines.filter(|line| line.get("loss").is_some()) {
        let (epoch, lr) = (line["epoch"].as_u64().unwrap(), line["lr"].as_f64().unwrap());
        match rates.last() {
            Some(&(last, rate)) if last == epoch => assert_eq!(rate, lr, "within epoch {epoch}"),
            _ => rates.push((epoch, lr)),
        }
    }
    rates.into_iter().map(|(_, rate)| rate).collect()
}

#[test]
fn a_run_of_another_length_follows_the_plan_for_that_length() {
    let folder = tempfile::tempdir().unwrap();
    let text = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))\n\
                param_scheduler = dict(type='MultiStepLR', milestones=[2], gamma=0.1)\n\
                train = dict(epochs=4, batch_size=128, hidden=[16], seed=0)\n";
    let config = write(folder.path(), "drop.py", text);
    let train = |run: &str, more: &[&str]| {
        let told = tell(
            fallline().current_dir(folder.path()).args(["train", "--config", &config]).args(more).arg(run),
        );
        assert_eq!(told.code, 0, "{more:?}: {}", told.error);
        (told, folder.path().join(run))
    };
    // Two of the four epochs, then the others: as if the run had always had four.
    let (told, run) = train("d", &["--epochs", "2", "--out"]);
    assert!(
        told.error.contains("written for 4 epochs") && told.error.contains("--stretch"),
        "{}",
        told.error
    );
    close(&rates(&run), &[0.1, 0.1], "half of it");
    let (told, run) = train("d", &["--epochs", "4", "--resume"]);
    assert!(told.error.contains("what it would be in a run of 4 epochs"), "{}", told.error);
    close(&rates(&run), &[0.1, 0.1, 0.1 * 0.1, 0.1 * 0.1], "all of it");
    let (_, whole) = train("whole", &["--epochs", "4", "--out"]);
    // All but what the clock says.
    let record = |run: &Path| super::train::metrics(run).2;
    assert_eq!(record(&run), record(&whole));
    // Nothing is left of it.
    let (told, _) = train("d", &["--resume"]);
    assert!(told.out.starts_with("nothing is left to train: 4 epochs are done"), "{}", told.out);
    assert!(told.out.lines().last().unwrap().starts_with("test accuracy: "), "{}", told.out);
    assert_eq!(record(&run), record(&whole));
    // A schedule that follows a metric is told the tests that were.
    let text = text.replace(
        "MultiStepLR', milestones=[2], gamma=0.1",
        "ReduceOnPlateauLR', patience=0, factor=0.5, threshold=0.9",
    );
    write(folder.path(), "drop.py", &text);
    train("p", &["--epochs", "2", "--out"]);
    let (_, run) = train("p", &["--epochs", "4", "--resume"]);
    let (_, whole) = train("plateau", &["--epochs", "4", "--out"]);
    assert_eq!(record(&run), record(&whole));
    assert!(rates(&run)[3] < 0.1, "{:?}", rates(&run));
    write(
        folder.path(),
        "drop.py",
        &text.replace(
            "ReduceOnPlateauLR', patience=0, factor=0.5, threshold=0.9",
            "MultiStepLR', milestones=[2], gamma=0.1",
        ),
    );
    // Scaled: the drop in the middle, and it stays there when the run goes on.
    let (told, run) = train("s", &["--epochs", "2", "--stretch", "--out"]);
    assert!(!told.error.contains("warning"), "{}", told.error);
    close(&rates(&run), &[0.1, 0.1 * 0.1], "scaled");
    let (_, run) = train("s", &["--epochs", "6", "--resume"]);
    close(&rates(&run)[..2], &[0.1, 0.1 * 0.1], "what is past");
    close(
        &rates(&run)[2..],
        &[0.1, 0.1 * 0.1, 0.1 * 0.1, 0.1 * 0.1],
        "the plan of six, whose drop is at the third",
    );
    let path = write(
        folder.path(),
        "short.py",
        "optimizer = dict(type='SGD')\nparam_scheduler = dict(type='StepLR', step_size=3)\n",
    );
    bad(
        fallline().args(["train", "--config", &path, "--epochs", "2", "--stretch"]),
        2,
        &["--stretch", "train.epochs"],
    );
}

#[test]
fn a_run_takes_its_length_and_its_average_from_mmengines_keys() {
    let folder = tempfile::tempdir().unwrap();
    let text = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))\ntrain_cfg = dict(by_epoch=True, max_epochs=1)\n\
                custom_hooks = [dict(type='EMAHook', momentum=0.01)]\ntrain = dict(batch_size=256, hidden=[8])\n";
    let config = write(folder.path(), "a.py", text);
    let run = folder.path().join("run");
    let told = tell(fallline().args(["train", "--config", &config, "--out"]).arg(&run));
    assert_eq!(told.code, 0, "{}", told.error);
    assert_eq!(rates(&run).len(), 1);
    let held = super::contents(&run.join("checkpoint.safetensors"));
    assert!(held.iter().any(|(name, _)| name.contains("average")), "no average is kept");
}
