//! How errors look, and what each bad input of a newcomer's review ends as.

use super::{bad, fallline, good, json, tell};
use std::path::Path;

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The lines of a failure: the message, then its excerpt.
fn lines(arguments: &[&str]) -> Vec<String> {
    let told = tell(fallline().args(arguments));
    assert!(told.code == 2 || told.code == 1, "{arguments:?}: {}", told.error);
    told.error.lines().map(str::to_owned).collect()
}

/// Returns the word above the carets of an excerpt.
fn marked(lines: &[String]) -> &str {
    let carets = lines.iter().position(|line| line.contains('^')).unwrap_or_else(|| panic!("{lines:?}"));
    let start = lines[carets].find('^').unwrap();
    &lines[carets - 1][start..start + lines[carets].matches('^').count()]
}

#[test]
fn errors_in_files_show_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let params = write(folder.path(), "params.json", r#"{"head.weight": {"shape": [2, 3]}}"#);
    let explain = |text: &str, more: &[&str]| {
        let config = write(folder.path(), "a.py", text);
        lines(&[&["explain", "--config", &config, "--params", &params][..], more].concat())
    };
    let told = explain("# first\noptimizer = dict(type='AdmaW', lr=1e-3)\n", &[]);
    assert!(
        told[0].starts_with("error: ") && told[0].contains("a.py:2:23: there is no optimizer \"AdmaW\""),
        "{told:?}"
    );
    assert!(told[1].contains("--> ") && told[1].ends_with("a.py:2:23"), "{told:?}");
    assert_eq!(marked(&told), "'AdmaW'");
    assert_eq!(told.last().unwrap(), "help: did you mean `AdamW`?");

    let told =
        explain("optimizer = dict(type='AdamW', lr=1e-3)\nparam_scheduler = dict(\n", &["--allow-unmatched"]);
    assert_eq!(marked(&told), "(", "{told:?}");
    let told = explain("optimizer = dict(type='AdamW', lr=-2.5)\n", &[]);
    assert_eq!(marked(&told), "-2.5");
    let rules = "paramwise_cfg=dict(custom_keys={'body': dict(lr_mult=0.1)})";
    let told = explain(&format!("optim_wrapper = dict(optimizer=dict(type='AdamW'), {rules})\n"), &[]);
    assert_eq!(marked(&told), "'body'", "{told:?}");

    let config =
        write(folder.path(), "a.yaml", "optimizer:\n  type: AdamW\n  weight_decai: 0.1  # as in SGD\n");
    let told = lines(&["explain", "--config", &config, "--params", &params]);
    assert_eq!(marked(&told), "weight_decai", "{told:?}");
    assert!(told[0].contains("a.yaml:3:3: AdamW has no"), "{told:?}");
    assert_eq!(told.last().unwrap(), "help: did you mean `weight_decay`?");

    // Whoever reads JSON gets one line.
    let told = explain("optimizer = dict(type='AdmaW')\n", &["--json"]);
    assert_eq!(told.len(), 1, "{told:?}");

    let told = lines(&[
        "explain",
        "--optimizer",
        "AdamW",
        "--params",
        &write(folder.path(), "p.json", "{\"a\": {]}"),
    ]);
    assert!(told[0].contains("p.json") && told[0].contains("line 1 column 8"), "{told:?}");
    assert!(told.iter().any(|line| line.contains('^')), "{told:?}");
    for (name, text, part, word) in [
        (
            "twice.json",
            r#"{"a": {"shape": [1]}, "b": {"shape": [1]}, "a": {"shape": [2]}}"#,
            "appears twice",
            "\"a\"",
        ),
        ("half.json", r#"{"a": {"shape": [-1]}}"#, "expected a whole number from 0", ""),
        (
            "shapes.json",
            r#"{"alpha": {"shape": [1], "module": "norm", "shape": [2]}}"#,
            "appears twice",
            "\"shape\"",
        ),
        ("none.json", "{}", "it has no parameters", ""),
        ("number.json", r#"{"a": 3}"#, "expected an object", ""),
    ] {
        let params = write(folder.path(), name, text);
        let told = lines(&["explain", "--optimizer", "AdamW", "--params", &params]);
        assert!(told[0].contains(part), "{told:?}");
        if !word.is_empty() {
            assert_eq!(marked(&told), word, "{told:?}");
            assert!(told[1].ends_with(":1:44"), "{told:?}");
        }
    }
}

#[test]
fn errors_in_arguments_show_them() {
    let told =
        lines(&["minimize", "beale", "--steps", "1", "--optimizer", "dict(type='AdamW', learning_rate=1)"]);
    assert!(told[0].starts_with("error: line 1, column 20: AdamW has no"), "{told:?}");
    assert!(told[0].contains("did you mean \"lr\"?"), "{told:?}");
    assert!(told[1].trim() == "--> --optimizer:1:20", "{told:?}");
    assert_eq!(marked(&told), "learning_rate");
    assert_eq!(told.last().unwrap(), "help: did you mean `lr`?");
    let folder = tempfile::tempdir().unwrap();
    let params = write(folder.path(), "params.json", r#"{"head.weight": {"shape": [2, 3]}}"#);
    let set = [
        "explain",
        "--params",
        &params,
        "--optimizer",
        "AdamW",
        "--set",
        "lr=1e-3",
        "--set",
        "betas=(0.9, 2)",
    ];
    let told = lines(&set);
    assert!(told[0].starts_with("error: --set betas:1:"), "{told:?}");
    assert!(told[1].trim().starts_with("--> --set:1:"), "{told:?}");
    let config =
        write(folder.path(), "eps.py", "optim_wrapper = dict(optimizer=dict(type='AdamW', eps=1e-6))\n");
    let set = |change: &str| lines(&["explain", "--params", &params, "--config", &config, "--set", change]);
    let told = set("optim_wrapper.optimizer.type=Lion");
    assert!(
        told[0].contains("--set 'optim_wrapper.optimizer=dict(_delete_=True, type=\"Lion\", …)'"),
        "{told:?}"
    );
    let told = set("optim_wrapper.optimizer.lrr=1");
    assert!(told[0].contains("did you mean \"lr\"?") && !told[0].contains("base"), "{told:?}");
    let told = set("optim_wrapper.optimiser.lr=1");
    assert_eq!(marked(&told), "optimiser", "{told:?}");
    let told = lines(&["bench", "--optimizer", "dict(type='AdamW8bit', lr=0.1, amsgrad=True, eps=1e-6)"]);
    assert_eq!(marked(&told), "amsgrad", "{told:?}");
    let told = lines(&["bench", "--optimizer", "dict(type='AdamW', lr=)"]);
    assert_eq!(marked(&told), ")");
}

#[test]
fn colours_are_where_they_are_wanted() {
    let coloured = |arguments: &[&str], variable: Option<&str>| {
        let mut command = fallline();
        command.args(arguments).env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE");
        variable.iter().for_each(|variable| {
            command.env(variable, "1");
        });
        let told = tell(&mut command);
        (told.out.contains('\x1b'), told.error.contains('\x1b'))
    };
    let broken = ["describe", "AdmaW"];
    assert_eq!(coloured(&broken, None), (false, false), "not a terminal");
    assert_eq!(coloured(&["describe", "AdmaW", "--color=always"], None), (false, true));
    assert_eq!(coloured(&["--color", "always", "describe", "AdmaW"], Some("NO_COLOR")), (false, true));
    assert_eq!(coloured(&["lst", "--color=always"], None), (false, true), "the parser's errors, too");
    assert_eq!(coloured(&["describe", "SGD", "--color=always"], None), (true, false));
    assert_eq!(coloured(&["describe", "SGD", "--color=never"], Some("CLICOLOR_FORCE")), (false, false));
    assert_eq!(coloured(&["list", "--json", "--color=always"], None), (false, false));
}

/// The bad inputs of a review, by the numbers of its table, as far as they are errors.
#[test]
fn what_a_newcomer_met() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let config = write(folder.path(), "small.py", SMALL);
    let (run, path) = (at("run"), Path::new(env!("CARGO_MANIFEST_DIR")));
    good(&["train", "--config", &config, "--out", &run]);
    let checkpoint = format!("{run}/checkpoint.safetensors");

    // 1. The hint of an export is one that works.
    good(&["convert", &checkpoint, &at("run.pth"), "--number"]);
    let golden = path.join("../tests/golden/converted/AdamW.pth");
    let told = tell(fallline().args([
        "convert",
        golden.to_str().unwrap(),
        &at("a.safetensors"),
        "--optimizer",
        "AdamW",
    ]));
    assert!(told.code == 0 || told.error.contains("--params FILE, or --number"), "{}", told.error);

    // 6. A schedule that is written for another length is named.
    let long = write(
        folder.path(),
        "long.py",
        "optimizer = dict(type='SGD', lr=0.1)\nparam_scheduler = dict(type='PolyLR', end=40, by_epoch=True)\n\
         train = dict(epochs=40, batch_size=1024, hidden=[4])\n",
    );
    let told = tell(fallline().args(["train", "--config", &long, "--epochs", "1", "--out", &at("short")]));
    assert!(
        told.error.contains("warning: ")
            && told.error.contains("40 epochs")
            && told.error.contains("--stretch")
    );
    let quiet = ["train", "--config", &long, "--epochs", "1", "--out", &at("quiet"), "--quiet"];
    assert_eq!(tell(fallline().args(quiet)).error, "");

    // 7. A run that is finished says so.
    let told = good(&["train", "--resume", &run, "--epochs", "1"]);
    assert!(told.contains("nothing is left to train: 1 epochs are done"), "{told}");

    // 10. Names are found as people type them; near ones are few.
    for name in ["adamw", "torch.optim.AdamW", "mmdet::AdamW"] {
        assert!(good(&["describe", name]).starts_with("AdamW: "), "{name}");
    }
    let told = tell(fallline().args(["describe", "Nonsense"]));
    assert!(
        told.code == 2 && told.error.len() < 200 && told.error.contains("`fallline list`"),
        "{}",
        told.error
    );

    // 11. Foreign names of hyperparameters.
    let text = "dict(type='AdamW', learning_rate=1)";
    bad(
        fallline().args(["minimize", "beale", "--steps", "1", "--optimizer", text]),
        2,
        &["lr", "weight_decay"],
    );

    // 12. The parser's tips stand on lines of their own.
    for (arguments, tip) in
        [(&["lst"][..], "list"), (&["list", "--jsno"], "--json"), (&["train", "--epoch", "3"], "--epochs")]
    {
        let told = tell(fallline().args(arguments));
        let lines: Vec<&str> = told.error.lines().map(str::trim).collect();
        assert!(
            lines.iter().any(|line| line.starts_with("tip: ") && line.contains(tip)),
            "{arguments:?}: {lines:?}"
        );
        assert!(lines.iter().any(|line| line.starts_with("Usage: ")) && told.code == 2, "{lines:?}");
    }

    // 13. Rows come one by one, and a sentence says what they come to.
    let told = tell(fallline().args([
        "bench",
        "--elements",
        "4000",
        "--optimizer",
        "SGD",
        "AdamW",
        "--threads",
        "1",
    ]));
    assert!(
        told.out.lines().count() == 3 && told.out.lines().next().unwrap().contains("roofline"),
        "{}",
        told.out
    );
    assert!(told.error.contains(" the fastest: ") && told.error.contains(" ± "), "{}", told.error);
    let quiet = ["bench", "--elements", "4000", "--optimizer", "SGD", "--threads", "1", "-q"];
    assert_eq!(tell(fallline().args(quiet)).error, "");
}

/// A run of a moment.
pub const SMALL: &str = "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.01))\n\
                     train = dict(epochs=1, batch_size=512, hidden=[4])\n";

#[test]
fn list_finds_names() {
    // The example of the help.
    assert!(good(&["list", "--help"]).contains("--family adaptive"));
    assert!(good(&["list", "--family", "Adaptive"]).lines().any(|name| name == "Adam"));
    let names = good(&["list", "--search", "ADAM"]);
    assert!(
        names.lines().any(|name| name == "AdamW") && !names.lines().any(|name| name == "Lion"),
        "{names}"
    );
    let all = json(&["list", "--json"]);
    let family = all[0]["family"].as_str().unwrap();
    let found = json(&["list", "--json", "--family", &family.to_uppercase()]);
    assert!(found.as_array().unwrap().iter().all(|row| row["family"] == family));
    assert!(
        !found.as_array().unwrap().is_empty()
            && found.as_array().unwrap().len() < all.as_array().unwrap().len()
    );
    bad(fallline().args(["list", "--family", "nonsense"]), 2, &["--family", "nonsense", family]);
    assert_eq!(good(&["list", "--search", "no such text"]), "");
}

/// Ctrl-C keeps the rows that are there.
#[cfg(unix)]
#[test]
fn a_bench_that_is_stopped_keeps_its_rows() {
    use std::io::{BufRead, BufReader, Read};
    use std::process::{Command, Stdio};
    let mut command = Command::new(super::BINARY);
    command.args(["bench", "--elements", "200000", "--threads", "1"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut rows = String::new();
    // The head and a row.
    out.read_line(&mut rows).unwrap();
    out.read_line(&mut rows).unwrap();
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
    out.read_to_string(&mut rows).unwrap();
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{error}");
    assert!(rows.starts_with("name") && rows.ends_with('\n') && rows.lines().count() >= 2, "{rows}");
    assert!(error.contains("interrupted: ") && error.contains("optimizers are measured"), "{error}");
}
