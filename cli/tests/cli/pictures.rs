//! `minimize` and `schedule`: pictures, files of numbers, several in one run, and searches that diverge.

use super::{Told, bad, contents, fallline, good, json, tell};
use resvg::tiny_skia::Pixmap;
use serde_json::{Value, json};
use std::path::Path;

const WILD: &str = "dict(type='SGD', lr=10)";

fn minimize(arguments: &[&str]) -> Told {
    tell(fallline().arg("minimize").args(arguments))
}

/// Returns the share of pixels that are not white, between a top and a bottom.
fn inked(picture: &Pixmap, (top, bottom): (u32, u32)) -> f64 {
    let rows = &picture.pixels()[(top * picture.width()) as usize..(bottom * picture.width()) as usize];
    rows.iter().filter(|pixel| pixel.red() < 200).count() as f64 / rows.len() as f64
}

/// The name says what is written. No other is, and before anything runs.
#[test]
fn extensions_decide_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let search = ["minimize", "rosenbrock", "--optimizer", "AdamW", "--steps", "3"];
    let schedule = ["schedule", "--scheduler", "dict(type='StepLR', step_size=2)", "--steps", "3"];
    for (command, flag, known, wrong) in [
        (&search[..], "--plot", ".svg, .png", ["x.csv", "x.gif", "x", "x.safetensors"]),
        (&search, "--out", ".safetensors, .csv, .json", ["x.svg", "x.npz", "x", "x.png"]),
        (&schedule, "--plot", ".svg, .png", ["x.json", "x.pdf", "svg", "x.csv"]),
        (&schedule, "--out", ".csv, .json", ["x.svg", "x.txt", "x", "x.safetensors"]),
    ] {
        for name in wrong {
            bad(fallline().args(command).args([flag, &at(name)]), 2, &[flag, name, known]);
        }
    }
    let replay = ["replay", "--optimizer", "SGD", "--trace", "t.safetensors", "--out", "x.csv"];
    bad(fallline().args(replay), 2, &["--out", "x.csv", ".safetensors"]);
    // The refusal is first: before a missing optimizer is searched, and before any step.
    bad(
        fallline().args([
            "minimize",
            "beale",
            "--optimizer",
            "No",
            "--steps",
            "9999999999",
            "--plot",
            "x.gif",
        ]),
        2,
        &["x.gif"],
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    for (command, flag, name) in [
        (&search[..], "--plot", "a.SVG"),
        (&search, "--plot", "a.png"),
        (&schedule, "--plot", "b.svg"),
        (&schedule, "--plot", "b.png"),
    ] {
        assert_eq!(tell(fallline().args(command).args([flag, &at(name)])).code, 0, "{name}");
    }
    for name in ["a.SVG", "b.svg"] {
        assert!(std::fs::read_to_string(at(name)).unwrap().starts_with("<svg "));
    }
    // Words are drawn in PNGs, too: in the title, and below the lower axis.
    for name in ["a.png", "b.png"] {
        let bytes = std::fs::read(at(name)).unwrap();
        assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n") && bytes.len() < 500_000, "{name}: {}", bytes.len());
        let picture = Pixmap::decode_png(&bytes).unwrap();
        assert_eq!((picture.width(), picture.height()), (1920, 1360));
        for rows in [(40, 90), (1254, 1290), (1300, 1330)] {
            let share = inked(&picture, rows);
            assert!((0.0002..0.3).contains(&share), "{name}, {rows:?}: {share}");
        }
    }
}

#[test]
fn numbers_of_searches_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [tensors, csv, whole] = ["x.safetensors", "x.csv", "x.json"].map(at);
    for out in [&tensors, &csv, &whole] {
        let told = minimize(&["quadratic", "--optimizer", "SGD", "--steps", "2", "--out", out]);
        assert_eq!(told.code, 0, "{}", told.error);
    }
    let keys: Vec<String> = contents(Path::new(&tensors)).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["loss", "x/0", "x/1"]);
    let rows: Vec<Vec<String>> = csv::Reader::from_path(&csv)
        .unwrap()
        .records()
        .map(|row| row.unwrap().iter().map(str::to_owned).collect())
        .collect();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0], ["SGD", "lr=0.001", "0", "500.5", "1.0", "1.0"]);
    let number = |row: usize, column: usize| rows[row][column].parse::<f64>().unwrap();
    assert!((number(1, 4) - 0.999).abs() < 1e-12 && number(1, 5).abs() < 1e-12);
    let read: Value = serde_json::from_str(&std::fs::read_to_string(&whole).unwrap()).unwrap();
    assert_eq!(read["problem"], "quadratic");
    let run = &read["runs"][0];
    assert_eq!((&run["optimizer"], &run["diverged_at"]), (&json!("SGD"), &Value::Null));
    assert_eq!(run["loss"][0], 500.5);
    assert_eq!(run["x"][2][0].as_f64().unwrap(), number(2, 4));
    // Of several, each has a place.
    let several = ["beale", "--optimizer", "SGD", "--optimizer", "Lion", "--steps", "1", "--out", &tensors];
    assert_eq!(minimize(&several).code, 0);
    let keys: Vec<String> = contents(Path::new(&tensors)).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["0/loss", "0/x/0", "1/loss", "1/x/0"]);
}

#[test]
fn a_search_that_diverges_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let plot = folder.path().join("x.svg");
    let plot = plot.to_str().unwrap();
    let run = ["rosenbrock", "--optimizer", WILD, "--steps", "50"];
    let told = minimize(&[&run[..], &["--plot", plot]].concat());
    assert_eq!(told.code, 0, "{}", told.error);
    assert!(
        told.out.contains("diverged at step ") && told.error.contains("SGD diverged at step "),
        "{}",
        told.out
    );
    let svg = std::fs::read_to_string(plot).unwrap();
    assert!(
        svg.contains("diverged at step ") && svg.len() < 100_000 && !svg.contains("e136"),
        "{}",
        svg.len()
    );
    let checked = minimize(&[&run[..], &["--check"]].concat());
    assert_eq!(checked.code, 1);
    assert!(checked.error.starts_with("error: SGD diverged at step "), "{}", checked.error);
    let told = minimize(&[&run[..], &["--json"]].concat());
    let read: Value = serde_json::from_str(&told.out).unwrap();
    let step = read["diverged_at"].as_u64().unwrap();
    assert!(read["last_loss"].is_null() && read["diverged"] == true && (1..20).contains(&step), "{read}");
    // It names the first step behind which nothing is finite.
    let before = |steps: u64| {
        let steps = steps.to_string();
        json(&["minimize", "rosenbrock", "--optimizer", WILD, "--steps", &steps, "--json"])
    };
    assert_eq!(before(step - 1)["diverged"], false);
    assert_eq!(before(step)["diverged_at"], step);
    let fine = minimize(&["rosenbrock", "--optimizer", "AdamW", "--steps", "5", "--check"]);
    assert_eq!((fine.code, fine.error.as_str()), (0, ""));
    assert!(!fine.out.contains("diverged"));
    // One of several is enough.
    let mixed = ["rosenbrock", "--optimizer", "AdamW", "--optimizer", WILD, "--steps", "50", "--check"];
    assert_eq!(minimize(&mixed).code, 1);
}

#[test]
fn several_optimizers_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let (plot, config) = (folder.path().join("x.svg"), folder.path().join("muon.py"));
    std::fs::write(&config, "optimizer = dict(type='Adagrad', lr=0.5)\n").unwrap();
    let config = config.to_str().unwrap();
    let adam = "dict(type='AdamW', lr=0.1)";
    let run = [
        "minimize",
        "beale",
        "--optimizer",
        adam,
        "--optimizer",
        "Lion",
        "--config",
        config,
        "--steps",
        "20",
    ];
    for problem in ["beale", "logistic"] {
        let mut run = run;
        run[1] = problem;
        let told = good(&[&run[..], &["--plot", plot.to_str().unwrap()]].concat());
        let firsts: Vec<&str> = told.lines().filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(firsts, ["optimizer", "AdamW", "Lion", "Adagrad"], "{told}");
        let svg = std::fs::read_to_string(&plot).unwrap();
        for part in [">AdamW<", ">Lion<", ">Adagrad<", ">lr=0.1<", ">lr=0.5<"] {
            assert!(svg.contains(part), "{part}");
        }
    }
    let all = json(&[&run[..], &["--json"]].concat());
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 3);
    let alone = json(&["minimize", "beale", "--optimizer", adam, "--steps", "20", "--json"]);
    assert_eq!(all[0], alone, "each as if alone");
    assert_eq!((&all[1]["optimizer"], &all[2]["settings"]), (&json!("Lion"), &json!("lr=0.5")));
    bad(fallline().args(["minimize", "beale", "--steps", "1"]), 2, &["--optimizer", "--config"]);
}

#[test]
fn several_schedules_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [plot, csv] = ["x.svg", "x.csv"].map(at);
    let cosine = "dict(type='CosineAnnealingLR', T_max=50, by_epoch=False)";
    let both = "[dict(type='PolyLR', end=50, by_epoch=False), dict(type='StepMomentum', step_size=9, by_epoch=False)]";
    let run = ["schedule", "--scheduler", cosine, "--scheduler", both, "--steps", "50"];
    let told = good(&[&run[..], &["--plot", &plot, "--out", &csv]].concat());
    assert_eq!(told.lines().count(), 4, "a head, and a row for each that is scheduled: {told}");
    let svg = std::fs::read_to_string(&plot).unwrap();
    for part in [">CosineAnnealingLR<", ">PolyLR + StepMo", ">lr<", ">momentum<", "2 schedules"] {
        assert!(svg.contains(part), "{part}: {svg}");
    }
    assert_eq!(
        svg.matches("stroke=\"#175ca4\"").count(),
        2,
        "one panel and the legend: its momentum is constant"
    );
    let rows = csv::Reader::from_path(&csv).unwrap().records().count();
    assert_eq!(rows, 100);
    let all = json(&[&run[..], &["--json"]].concat());
    let alone = json(&["schedule", "--scheduler", cosine, "--steps", "50", "--json"]);
    assert_eq!((&all[0]["lr"], &all[0]["schedule"]), (&alone["lr"], &json!("CosineAnnealingLR")));
    assert_eq!(alone.as_object().unwrap().len(), 2, "of one, the values alone");
    // What no entry changes has no panel; a long table is not printed beside a picture.
    let one = ["schedule", "--scheduler", cosine, "--steps", "1800", "--plot", &plot];
    assert_eq!(good(&one).lines().count(), 2);
    let svg = std::fs::read_to_string(&plot).unwrap();
    assert!(svg.contains(">lr<") && !svg.contains("momentum") && svg.contains("T_max=50"));
    // Without a picture each step is told, and short.
    let told = good(&["schedule", "--scheduler", cosine, "--steps", "30"]);
    assert_eq!(told.lines().count(), 31);
    assert!(told.split_whitespace().all(|word| word.len() <= 9), "{told}");
}
