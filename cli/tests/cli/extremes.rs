//! Arguments and values that nobody means: each ends in a result or in an error that is short and names its place.

use super::{Told, fallline, tell};
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;
use std::time::Duration;

/// Numbers at the ends of what types hold, and what is no number at all.
const NUMBERS: [&str; 12] = [
    "-1",
    "-0",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "nan",
    "-inf",
    "",
    "0x10",
    "--json",
];

fn ended(arguments: &[&str]) -> Told {
    let told = tell(fallline().arg("--quiet").args(arguments).timeout(Duration::from_secs(120)));
    assert!([0, 1, 2].contains(&told.code), "{arguments:?}: {}: {}", told.code, told.error);
    assert!(told.code == 0 || told.error.starts_with("error: "), "{arguments:?}: {}", told.error);
    assert!(told.error.len() < 4000, "{arguments:?}: {}", told.error);
    told
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

const SMALL: &str = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))\n\
                     train = dict(epochs=1, batch_size=1437, hidden=[2], seed=3)\n";

/// Every argument that takes a number.
#[test]
fn numbers_on_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let config = write(folder.path(), "small.py", SMALL);
    let values = 1_f32.to_le_bytes();
    let tensor = || TensorView::new(Dtype::F32, vec![1], &values).unwrap();
    let bytes = safetensors::serialize([("param/w", tensor()), ("grad/0/w", tensor())], None).unwrap();
    std::fs::write(at("trace.safetensors"), bytes).unwrap();
    let [trace, out, run] = ["trace.safetensors", "out.safetensors", "run"].map(at);
    let train = ["train", "--config", &config, "--out", &run, "--ranks", "threads:2"];
    let replay = ["replay", "--optimizer", "SGD", "--trace", &trace, "--out", &out];
    let minimize = ["minimize", "quadratic", "--optimizer", "SGD", "--dim", "2", "--steps", "1"];
    let bench = ["bench", "--optimizer", "SGD", "--threads", "1", "--elements", "1000"];
    let schedule = ["schedule", "--scheduler", "dict(type='CosineAnnealingLR', T_max=3)", "--steps", "4"];
    let diff = ["diff", &trace, &trace];
    let cases: [(&[&str], &[&str]); 6] = [
        (&train, &["--seed", "--epochs", "--threads", "--rank-timeout"]),
        (&replay, &["--seed", "--threads", "--keep"]),
        (&minimize, &["--seed", "--dim", "--steps"]),
        (&bench, &["--threads", "--elements"]),
        (&schedule, &["--lr", "--momentum", "--steps", "--iters-per-epoch", "--epochs"]),
        (&diff, &["--tolerance"]),
    ];
    let long = "9".repeat(100_000);
    for (command, options) in cases {
        for option in options {
            // Of an argument that is there already, this is the value.
            let place = command.iter().position(|argument| argument == option);
            for number in NUMBERS.into_iter().chain([&*long]) {
                let mut arguments = command.to_vec();
                match place {
                    Some(place) => arguments[place + 1] = number,
                    None => arguments.extend([*option, number]),
                }
                // So many elements are right, where there is memory for them.
                if (*option, number) == ("--elements", "4294967296") {
                    continue;
                }
                let told = ended(&arguments);
                assert!(!told.error.contains("unexpected argument"), "{arguments:?}: {}", told.error);
                if told.code == 2 {
                    assert!(told.error.contains(option), "{arguments:?}: {}", told.error);
                }
                std::fs::remove_dir_all(&run).ok();
            }
        }
    }
}

/// The numbers of a configuration, which are read before anything is done.
#[test]
fn numbers_in_configurations() {
    let folder = tempfile::tempdir().unwrap();
    let config = write(folder.path(), "small.py", SMALL);
    let with = |name: &str, length: &str| {
        let small = "optimizer = dict(type='SGD')\ntrain = dict(batch_size=1437, hidden=[2])\n";
        write(folder.path(), name, &format!("{small}train_cfg = dict({length}=1)\n"))
    };
    let cycle = with("cycle.py", "by_epoch=True, max_epochs");
    let steps = with("steps.py", "by_epoch=False, max_iters");
    let run = folder.path().join("run").to_str().unwrap().to_owned();
    let values =
        ["-1", "0", "9223372036854775807", "1e308", "float('nan')", "float('inf')", "2 ** 62", "'x'"];
    for value in values {
        for (config, key) in [
            (&config, "train.epochs"),
            (&config, "train.batch_size"),
            (&config, "train.seed"),
            (&cycle, "train_cfg.max_epochs"),
            (&steps, "train_cfg.max_iters"),
        ] {
            let set = format!("{key}={value}");
            let arguments = ["train", "--config", config, "--set", &set, "--out", &run, "--threads", "1"];
            ended(&arguments);
            std::fs::remove_dir_all(&run).ok();
        }
        for scheduler in [
            "type='StepLR', gamma=0.5, step_size=?",
            "type='StepLR', step_size=2, gamma=?",
            "type='CosineAnnealingLR', T_max=?",
            "type='CosineAnnealingLR', T_max=3, eta_min=?",
            "type='LinearLR', end=?",
            "type='LinearLR', begin=?, end=3",
            "type='MultiStepLR', milestones=[?]",
            "type='OneCycleLR', eta_max=1.0, total_steps=?",
            "type='CosineRestartLR', eta_min=0.0, restart_weights=[1], periods=[?]",
            "type='PolyLR', power=?, end=3",
            "type='ExponentialLR', gamma=?",
            "type='ReduceOnPlateauLR', patience=?",
        ] {
            let text = format!("dict({})", scheduler.replace('?', value));
            let metrics = write(folder.path(), "metrics.json", "[1, 2, 3, 4, 5]");
            let longest = "18446744073709551615";
            #[rustfmt::skip]
            ended(&[
                "schedule", "--scheduler", &text, "--steps", "4", "--epochs", longest, "--iters-per-epoch", longest,
                "--metrics", &metrics, "--json",
            ]);
        }
    }
}

/// What is very long is cut, and what a terminal would obey is escaped, wherever it is given.
#[test]
fn texts_are_cut_and_escaped() {
    let folder = tempfile::tempdir().unwrap();
    let params = write(folder.path(), "params.json", "{\"w\": {\"shape\": [2]}}");
    let begin = "x\u{1b}[31m\u{202e}";
    for text in [format!("{begin}y"), format!("{begin}{}", "y".repeat(100_000))] {
        let (inline, list) = (format!("dict(type='{text}')"), format!("dict(type='SGD', lr='{text}')"));
        let key = format!("dict(type='SGD', **{{'{text}': 1}})");
        let set =
            [format!("{text}=1"), format!("lr={text}"), format!("lr='{text}'"), format!("a.{text}.b=1")];
        let file = format!("{}/{text}.json", folder.path().display());
        let json = write(
            folder.path(),
            "c.json",
            &format!("{{\"optimizer\": {{\"type\": \"SGD\", \"{text}\": 1}}}}"),
        );
        let named = write(
            folder.path(),
            "p.json",
            &serde_json::json!({ (text.as_str()): { "shape": [2], "module": text } }).to_string(),
        );
        let right = write(
            folder.path(),
            "q.json",
            &serde_json::json!({ (text.as_str()): { "shape": [2] } }).to_string(),
        );
        let ignored = write(
            folder.path(),
            "i.json",
            &serde_json::json!({ "optimizer": "SGD", (text.as_str()): 1 }).to_string(),
        );
        let mut cases = vec![
            vec![&*text],
            vec!["describe", &text],
            vec!["list", "--family", &text],
            vec!["list", "--search", &text],
            vec!["explain", "--optimizer", &inline, "--params", &params],
            vec!["explain", "--optimizer", &list, "--params", &params],
            vec!["explain", "--optimizer", &key, "--params", &params],
            vec!["explain", "--optimizer", "SGD", "--params", &file],
            vec!["explain", "--config", &file, "--params", &params],
            vec!["explain", "--config", &json, "--params", &params],
            vec!["explain", "--config", &ignored, "--params", &params],
            vec!["explain", "--config", &ignored, "--params", &params, "--json"],
            vec!["explain", "--optimizer", "SGD", "--params", &named],
            vec!["explain", "--optimizer", "SGD", "--params", &right],
            vec!["schedule", "--scheduler", &inline, "--steps", "3"],
            vec!["schedule", "--scheduler", "PolyLR", "--steps", &text],
            vec!["minimize", &text, "--steps", "3", "--optimizer", "SGD"],
            vec!["minimize", "beale", "--steps", "3", "--optimizer", "SGD", "--out", &text],
            vec!["bench", "--optimizer", &text],
            vec!["bench", "--device", &text],
            vec!["replay", "--optimizer", "SGD", "--trace", &file, "--out", "never"],
            vec!["replay", "--optimizer", "SGD", "--trace", &params, "--out", "never", "--keep", &text],
            vec!["train", "--config", &file],
            vec!["train", "--resume", &file],
            vec!["train", "--optimizer", &text],
            vec!["train", "--ranks", &text],
            vec!["convert", &file, "never"],
            vec!["inspect", &file],
            vec!["diff", &file, &file],
        ];
        cases.extend(
            set.iter().map(|set| vec!["explain", "--optimizer", "SGD", "--set", set, "--params", &params]),
        );
        for arguments in cases {
            let shown: Vec<&str> = arguments.iter().map(|text| text.get(..40).unwrap_or(text)).collect();
            let told = tell(
                fallline().current_dir(folder.path()).args(&arguments).timeout(Duration::from_secs(120)),
            );
            assert!([0, 1, 2].contains(&told.code), "{shown:?}: {}", told.code);
            for told in [&told.out, &told.error] {
                let obeyed = told.chars().find(|c| ['\u{1b}', '\u{202e}'].contains(c));
                assert_eq!(obeyed, None, "{shown:?}: {:?}", told.get(..2000).unwrap_or(told));
            }
            assert!(told.error.len() < 6000, "{shown:?}: {} bytes", told.error.len());
        }
    }
}
