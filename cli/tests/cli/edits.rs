//! Checkpoints of `train` that were edited: refused, with the run as it was.

use super::common::{edit_manifest, edited};
use super::{bad, contents, fallline, tell};
use fallline::Checkpoint;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// A run with iterations that are counted, an average and a schedule, whose checkpoint is that of its first epoch.
const CONFIG: &str = "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=5e-3, weight_decay=0.1), clip_grad=dict(type='value', clip_value=0.5))\n\
     param_scheduler = dict(type='CosineAnnealingLR', T_max=90, by_epoch=False, end=46)\n\
     train = dict(epochs=2, batch_size=64, hidden=[16], seed=3, average=dict(type='ExponentialMovingAverage', momentum=0.05))\n";

/// What an edit does to the header of a file and to its data.
type Edit = fn(&mut Map<String, Value>, &mut Vec<u8>);

fn manifest(header: &mut Map<String, Value>, path: &str, value: Option<Value>) {
    edit_manifest(header, |manifest| {
        let (before, last) = path.rsplit_once('/').unwrap();
        let object = manifest.pointer_mut(before).unwrap().as_object_mut().unwrap();
        assert!(object.remove(last).is_some(), "{path}");
        value.map(|value| object.insert(last.to_owned(), value));
    });
}

fn renamed(header: &mut Map<String, Value>, old: &str, new: &str) {
    let entry = header.remove(old).unwrap();
    header.insert(new.to_owned(), entry);
}

/// Every edit that the run's own configuration or the rest of the file contradicts, and what is named.
const REFUSED: &[(&str, Edit)] = &[
    ("param/fc1.bias", |header, _| renamed(header, "param/fc1.bias", "param/fc9.bias")),
    ("param/fc9.bias", |header, data| {
        let end = data.len();
        let entry = json!({ "dtype": "F32", "shape": [0], "data_offsets": [end, end] });
        drop(header.insert("param/fc9.bias".into(), entry));
    }),
    ("param/fc1.weight", |header, _| header["param/fc1.weight"]["dtype"] = json!("I32")),
    ("state/fc1.bias/v", |header, _| renamed(header, "state/fc1.bias/v", "state/fc1.bias/w")),
    ("average/fc1.weight", |header, _| renamed(header, "average/fc1.weight", "xaverage/fc1.weight")),
    ("step/fc1.weight", |header, data| {
        let at = header["step/fc1.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
        data[at] += 1;
    }),
    ("schedule", |header, _| manifest(header, "/schedule", None)),
    ("last_step", |header, _| {
        edit_manifest(header, |manifest| {
            drop(manifest["schedule"][0].as_object_mut().unwrap().remove("last_step"));
        });
    }),
    ("global_step", |header, _| manifest(header, "/schedule/0/global_step", Some(json!(20)))),
    ("base", |header, _| manifest(header, "/schedule/0/base", Some(json!([0.5])))),
    ("wrapper", |header, _| manifest(header, "/wrapper/done", Some(json!(27)))),
    ("average_steps", |header, _| manifest(header, "/average_steps", None)),
    ("average_steps", |header, _| manifest(header, "/average_steps", Some(json!(22)))),
    ("`fallline train`", |header, _| manifest(header, "/trainer", None)),
    ("step 22", |header, _| manifest(header, "/trainer/progress/step", Some(json!(22)))),
    ("epoch 0", |header, _| manifest(header, "/trainer/progress/epoch", Some(json!(0)))),
    ("batch 1", |header, _| manifest(header, "/trainer/progress/batch", Some(json!(1)))),
    ("weight_decay", |header, _| manifest(header, "/optimizer/groups/0/weight_decay", Some(json!(0.5)))),
    ("weight_decay", |header, _| manifest(header, "/optimizer/groups/0/weight_decay", None)),
    ("lr", |header, _| manifest(header, "/optimizer/groups/0/lr", Some(json!(0.004)))),
    ("fc1.weight", |header, _| manifest(header, "/optimizer/params/fc1.weight", None)),
    ("group 1", |header, _| manifest(header, "/optimizer/params/fc1.weight/group", Some(json!(1)))),
    ("weight_decay", |header, _| {
        edit_manifest(header, |manifest| {
            let config = manifest["trainer"]["config"]
                .as_str()
                .unwrap()
                .replace("weight_decay=0.1", "weight_decay=0.2");
            manifest["trainer"]["config"] = config.into();
        });
    }),
    ("{{$HOME}}", |header, _| {
        edit_manifest(header, |manifest| {
            let config = manifest["trainer"]["config"].as_str().unwrap().replace("AdamW", "{{$HOME:AdamW}}");
            manifest["trainer"]["config"] = config.into();
        });
    }),
];

/// Trains for an epoch. Returns the run, and what it has after a second one.
fn trained(folder: &Path) -> (PathBuf, Vec<(String, Vec<u8>)>) {
    let [config, run, whole] = ["config.py", "run", "whole"].map(|name| folder.join(name));
    std::fs::write(&config, CONFIG).unwrap();
    for (epochs, out) in [("1", &run), ("2", &whole)] {
        let told = tell(
            fallline().args(["train", "--epochs", epochs, "--config"]).arg(&config).arg("--out").arg(out),
        );
        assert_eq!(told.code, 0, "{}", told.error);
    }
    (run, contents(&whole.join("checkpoint.safetensors")))
}

#[test]
fn an_edited_run_is_refused_or_ends_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (run, whole) = trained(folder.path());
    let [path, record] = ["checkpoint.safetensors", "metrics.jsonl"].map(|name| run.join(name));
    let (checkpoint, lines) = (Checkpoint::read(&path).unwrap(), std::fs::read(&record).unwrap());
    let resume = |more: &[&str]| {
        let mut command = fallline();
        command.args(["train", "--threads", "1", "--epochs", "2", "--resume"]).arg(&run).args(more);
        command
    };
    for (named, edit) in REFUSED {
        let bytes = edited(&checkpoint, edit);
        std::fs::write(&path, &bytes).unwrap();
        bad(&mut resume(&[]), 1, &["checkpoint.safetensors", named]);
        assert!(
            std::fs::read(&path).unwrap() == bytes && std::fs::read(&record).unwrap() == lines,
            "{named}"
        );
    }
    // The same file with its hashes: what they tell comes first, unless they are not looked at.
    let written = checkpoint.to_bytes().unwrap();
    let mut bytes = written.clone();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    bad(&mut resume(&[]), 1, &["checkpoint.safetensors", "does not match its hash"]);
    let file = path.to_str().unwrap();
    let good = folder.path().join("good.safetensors");
    std::fs::write(&good, &written).unwrap();
    let (good, out) = (good.to_str().unwrap(), folder.path().join("out.pth"));
    let commands: [(&[&str], i32); 3] = [
        (&["inspect", file], 1),
        (&["diff", good, file], 2),
        (&["convert", file, out.to_str().unwrap(), "--number"], 1),
    ];
    for (arguments, code) in commands {
        let told = tell(fallline().args(arguments));
        assert_eq!(told.code, code, "{arguments:?}: {}", told.error);
        assert!(told.error.contains("does not match its hash"), "{}", told.error);
        let told = tell(fallline().args(arguments).arg("--no-verify"));
        // They differ indeed.
        assert_eq!(told.code, i32::from(arguments[0] == "diff"), "{arguments:?}: {}", told.error);
    }
    bad(fallline().args(["train", "--no-verify"]), 2, &["--resume"]);
    // What is good ends as it would have, with hashes and without.
    for (bytes, more) in [(edited(&checkpoint, |_, _| ()), &[][..]), (written, &["--no-verify"][..])] {
        std::fs::write(&path, &bytes).unwrap();
        std::fs::write(&record, &lines).unwrap();
        let told = tell(&mut resume(more));
        assert_eq!(told.code, 0, "{}", told.error);
        assert!(contents(&path) == whole);
    }
}
