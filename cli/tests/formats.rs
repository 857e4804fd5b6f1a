//! Training with states in every format reaches the accuracy of states in single precision.

use assert_cmd::cargo::CommandCargoExt;
use fallline::Format;
use std::process::Command;

/// The last line of a run: `test accuracy: NN.N%`.
fn accuracy(format: &str) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("digits.py");
    let text = format!(
        "optimizer = dict(type='AdamW', lr=5e-3, weight_decay=0.1, state_format={format:?})\n\
         param_scheduler = dict(type='CosineAnnealingLR', T_max=540, by_epoch=False)\n\
         train = dict(epochs=12, batch_size=32, hidden=[128], seed=0)\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::cargo_bin("fallline").unwrap();
    command.current_dir(folder.path()).args(["train", "--out", "run", "--config"]).arg(&config);
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let last = told.lines().last().unwrap_or_default();
    let number = last.strip_prefix("test accuracy: ").and_then(|rest| rest.strip_suffix('%'));
    let number = number.unwrap_or_else(|| panic!("{format}: {}", String::from_utf8_lossy(&output.stderr)));
    number.parse().unwrap()
}

#[test]
fn every_format_reaches_the_accuracy_of_single_precision() {
    let single = accuracy("f32");
    assert!(single > 90.0, "{single}");
    let mut formats: Vec<&str> = Format::ALL.into_iter().chain(Format::BLOCKS).map(Format::name).collect();
    formats.dedup();
    for format in formats.into_iter().filter(|name| !["f64", "f32"].contains(name)) {
        let got = accuracy(format);
        println!("{format}: {got}, f32: {single}");
        assert!(got >= single - 1.0, "{format}: {got}, f32: {single}");
    }
}
