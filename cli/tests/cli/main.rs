//! The command line, from outside: output, exit codes, files.

#[path = "../../../tests/common/mod.rs"]
mod common;

mod bench;
mod changes;
#[cfg(unix)]
mod documents;
mod edits;
mod errors;
mod extremes;
mod files;
mod folders;
mod given;
mod pictures;
mod replay;
mod schemas;
mod settings;
mod shell;
mod train;

use assert_cmd::Command;
use fallline::registry::names::ENTRIES;
use safetensors::SafeTensors;
use serde_json::Value;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;

/// Every command.
const COMMANDS: [&str; 14] = [
    "list",
    "describe",
    "explain",
    "replay",
    "minimize",
    "schedule",
    "train",
    "convert",
    "inspect",
    "diff",
    "bench",
    "schema",
    "completions",
    "man",
];

const BINARY: &str = env!("CARGO_BIN_EXE_fallline");

fn fallline() -> Command {
    let mut command = Command::new(BINARY);
    command.env_remove("FALLLINE_ISA");
    command
}

/// What a command gave.
struct Told {
    code: i32,
    out: String,
    error: String,
}

fn tell(command: &mut Command) -> Told {
    let output = command.output().unwrap();
    let told = Told {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        error: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!told.error.contains("panicked"), "{}", told.error);
    told
}

/// Returns the output of a command that works.
fn good(arguments: &[&str]) -> String {
    let told = tell(fallline().args(arguments));
    assert_eq!(told.code, 0, "{arguments:?}: {}", told.error);
    told.out
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&good(arguments)).unwrap()
}

/// Checks that a command fails with this code. What it says has all of `parts` and begins with one line. The line of a file
/// may follow, or the parser's own tips.
fn bad(command: &mut Command, code: i32, parts: &[&str]) {
    let told = tell(command);
    assert_eq!(told.code, code, "{command:?}: {}", told.error);
    assert!(told.out.is_empty(), "{command:?}: {}", told.out);
    assert!(told.error.starts_with("error: "), "{command:?}: {}", told.error);
    assert_eq!(told.error.matches("error: ").count(), 1, "{command:?}: {}", told.error);
    for part in parts {
        assert!(told.error.contains(part), "{command:?}: {:?} is not in {}", part, told.error);
    }
}

/// Returns what a file holds: for each entry its bytes.
fn contents(path: &Path) -> Vec<(String, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut entries: Vec<_> =
        file.tensors().into_iter().map(|(key, view)| (key, view.data().to_vec())).collect();
    entries.sort();
    entries
}

#[test]
fn list_prints_every_name_and_what_is_known_of_it() {
    let names: Vec<&str> = ENTRIES.iter().map(|entry| entry.name).collect();
    assert_eq!(good(&["list"]).lines().collect::<Vec<_>>(), names);
    let list = json(&["list", "--json"]);
    assert_eq!(list.as_array().unwrap().len(), names.len());
    for (row, entry) in list.as_array().unwrap().iter().zip(ENTRIES) {
        assert_eq!(row["name"], entry.name);
        for key in ["family", "source", "state_formula"] {
            assert!(row[key].as_str().is_some_and(|text| !text.is_empty()), "{row}");
        }
        assert_eq!(row["state_bytes_per_param"].as_f64(), entry.state_bytes());
        assert_eq!(row["needs"], serde_json::json!(entry.needs()));
        let modifiers = row["modifiers"].as_array().unwrap();
        assert_eq!(
            modifiers.is_empty(),
            ["LBFGS", "SparseAdam", "ZeroOneAdam"].contains(&entry.name),
            "{row}"
        );
    }
    let of = |name: &str| {
        let row = list.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
        (row["state_bytes_per_param"].as_f64(), row["state_formula"].as_str().unwrap().to_owned())
    };
    assert_eq!(of("AdamW"), (Some(8.0), "4 (m) + 4 (v)".into()));
    assert_eq!(of("Adafactor"), (None, "4 / columns (row) + 4 / rows (column)".into()));
    assert_eq!(of("LBFGS").0, Some(4.0 * 202.0));
}

#[test]
fn describe_tells_the_rule_the_hyperparameters_and_the_references() {
    for entry in ENTRIES {
        let text = good(&["describe", entry.name]);
        let value = json(&["describe", entry.name, "--json"]);
        assert_eq!(value["name"], entry.name);
        for hyper in entry.defaults().table() {
            assert!(text.contains(hyper.name), "{}: {}", entry.name, hyper.name);
            let rows = value["hyperparameters"].as_array().unwrap();
            let row = rows.iter().find(|row| row["name"] == hyper.name).unwrap();
            assert_eq!(row["default"], (hyper.default)().to_string());
            assert!(row["type"].is_string() && row["range"].is_string() && row["meaning"].is_string());
        }
        for state in entry.defaults().algorithm().map_or(Vec::new(), |algorithm| algorithm.states()) {
            assert!(text.contains(state), "{}: {state}", entry.name);
        }
        for reference in entry.defaults().info().references {
            assert!(text.contains(reference.at) && value["references"].to_string().contains(reference.at));
        }
        assert!(text.contains('θ') && text.contains('←') || text.contains("θₜ ="), "{text}");
        assert!(!value["rules"].as_array().unwrap().is_empty());
    }
    for (dtype, width) in
        [("f32", "ld.global.v4.f32"), ("bf16", "ld.global.v4.b32"), ("f64", "ld.global.v2.f64")]
    {
        let ptx = good(&["describe", "AdamW", "--ptx", "--dtype", dtype]);
        assert!(ptx.contains(".visible .entry AdamWRule(") && ptx.contains(".visible .entry AdamWMaxRule("));
        assert!(ptx.contains(width), "{dtype}: {ptx}");
        assert!(ptx.contains("// "), "comments");
    }
    // With modifiers around it: the passes that are taken then.
    let text = good(&["describe", "dict(type='AdamW', cautious=True, wrap=dict(type='Lookahead', k=4))"]);
    for part in ["Update as configured", "agree = Σ", "Pass 3, in one of 4 steps", "slowₜ", "scale = "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let plain = good(&["describe", "AdamW"]);
    assert!(plain.contains("Modifiers: cautious=True; wrap=dict(type=\"Lookahead\")\n"), "{plain}");
    let refused = good(&["describe", "LBFGS"]);
    assert!(refused.contains("no cautious=True (LBFGS is closure-based)"), "{refused}");
    let cautious = good(&["describe", "dict(type='AdamW', cautious=True)"]);
    assert!(cautious.contains("(1 if 0 < (g if 0 < a₁ else (−g if a₁ < 0 else 0)) else 0)"), "{cautious}");
    assert!(cautious.contains("elements = number of elements\n"), "{cautious}");
    for scalar in ["root ", "α ", "keep "] {
        let lines = cautious.lines().filter(|line| line.starts_with(&format!("    {scalar}")));
        assert_eq!(lines.count(), 1, "{scalar}: {cautious}");
    }
    let ptx = good(&["describe", "dict(type='AdamW', cautious=True)", "--ptx"]);
    assert!(ptx.contains(".visible .entry AdamWRuleMasked("), "{ptx}");
    bad(fallline().args(["describe", "dict(type='LBFGS', cautious=True)"]), 2, &["LBFGS", "cautious"]);
    bad(fallline().args(["describe", "AdamW", "--ptx", "--json"]), 2, &["--ptx", "--json"]);
    bad(fallline().args(["describe", "AdmaW"]), 2, &["\"AdmaW\"", "did you mean \"AdamW\"?"]);
    bad(
        fallline().args(["describe", "Rotogravure"]),
        2,
        &["Rotogravure", "near are ", "`fallline list` prints all"],
    );
}

#[test]
fn usage_errors_have_code_2() {
    bad(fallline().args(["list", "--jsno"]), 2, &["--jsno", "--json"]);
    bad(fallline().args(["lisst"]), 2, &["lisst", "list"]);
    bad(fallline().args(["describe"]), 2, &["NAME"]);
    bad(fallline().args(["describe", "SGD", "extra"]), 2, &["extra"]);
    bad(fallline().args(["train", "--epochs", "-1"]), 2, &["-1"]);
    bad(fallline().args(["train", "--epochs", "many"]), 2, &["many"]);
    bad(fallline().args(["bench", "--threads", "0"]), 2, &["0"]);
    bad(fallline().args(["bench", "--elements", "0"]), 2, &["0"]);
    bad(fallline().args(["bench", "--layout", "falt"]), 2, &["falt", "flat"]);
    bad(fallline().args(["bench", "--dtype", "q8"]), 2, &["q8", "f32", "bf16"]);
    bad(fallline().args(["bench", "--optimizer", "AdmaW"]), 2, &["AdmaW", "AdamW"]);
    bad(&mut fallline(), 2, &["replay"]);
    for command in COMMANDS {
        assert!(good(&[command, "--help"]).contains("Example: fallline"), "{command}");
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    for arguments in [&["list"][..], &["list", "--json"], &["describe", "AdamW"], &["--help"]] {
        let mut command = std::process::Command::new(BINARY);
        let mut child =
            command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut error = String::new();
        child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
        assert_eq!((child.wait().unwrap().code(), error.as_str()), (Some(0), ""), "{arguments:?}");
    }
}
