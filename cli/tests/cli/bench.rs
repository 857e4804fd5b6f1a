//! `bench`: bytes, times and the roofline.

use super::common::{self, recipe};
use super::{bad, fallline, good, json, tell};
use fallline::Shape;
use fallline::core::Role;
use fallline::registry::names::ENTRIES;
use serde_json::Value;

#[test]
fn a_forced_instruction_set_must_exist() {
    bad(
        fallline().env("FALLLINE_ISA", "nonsense").args(["bench", "--elements", "1000"]),
        2,
        &["FALLLINE_ISA", "nonsense", "avx2"],
    );
    for isa in common::isas() {
        let bench = ["bench", "--elements", "1000", "--optimizer", "SGD", "--threads", "1", "--json"];
        let told = tell(fallline().env("FALLLINE_ISA", isa.name()).args(bench));
        let value: Value = serde_json::from_str(&told.out).unwrap();
        assert_eq!(value[0]["isa"], isa.name());
    }
}

#[test]
fn bench_tells_bytes_times_and_the_roofline() {
    for (layout, dtype) in [("flat", "f32"), ("small", "bf16")] {
        let value = json(&[
            "bench",
            "--elements",
            "5000",
            "--layout",
            layout,
            "--dtype",
            dtype,
            "--threads",
            "1",
            "--json",
        ]);
        let rows = value.as_array().unwrap();
        // One that takes matrices only has a square one in place of a flat tensor.
        let fits = |needs: &[&str]| needs.is_empty() || (layout == "flat" && needs == ["matrix"]);
        let plain: Vec<_> = ENTRIES.iter().filter(|entry| fits(entry.needs())).collect();
        assert_eq!(rows.len(), plain.len());
        for (row, entry) in rows.iter().zip(plain) {
            assert_eq!(row["name"], entry.name);
            let (shape, elements, its_layout) = match entry.needs() {
                [] => (Shape::from([5000]), 5000, layout),
                _ => (Shape::from([70, 71]), 4970, "matrix"),
            };
            assert_eq!((&row["elements"], &row["layout"]), (&elements.into(), &its_layout.into()));
            assert_eq!(row["threads"], 1);
            // The gradient is read; the parameter and each state (4 bytes) are read and written. Where the norms
            // must be known first, the parameter and the states (the gradient, where there are none) are read
            // once more.
            let size = if dtype == "bf16" { 2.0 } else { 4.0 };
            let method = entry.defaults();
            let algorithm = method.algorithm().unwrap();
            let tensor = if layout == "small" { 1000 } else { elements };
            let shape = if layout == "small" { Shape::from([tensor]) } else { shape };
            let program = algorithm.program_of("", &shape).unwrap();
            let states = program.operands(Role::State);
            let recipe = recipe(entry.name);
            let stored = states.iter().map(|state| recipe.state_format(state, tensor).mean_bytes());

            let (states, stored) = (states.len(), stored.sum::<f64>());
            let again = match (program.kernels().count(), states, entry.name) {
                (1, ..) => 0.0,
                // The first reads the parameter too, the second makes a pass of its own of that.
                (_, _, "Adafactor") => 2.0 * size + 4.0,
                (_, _, "TorchAdafactor") => 3.0 * size + 8.0,
                // What is orthogonalised is written, and read again; the gradient is not.
                (_, _, "Muon") => 12.0,
                (_, _, "SCION" | "SCIONLight") => 12.0,
                // It is changed once more.
                (_, _, "AdaMuon") => 20.0,
                // These need the parameter before: the second for what is orthogonalised, the first for its norm, too.
                (_, _, "MuonHyperball") => 2.0 * size + 24.0,
                (_, _, "Spel") => size + 20.0,
                // The same; of the states one is of rows, which only the operation between works on.
                (_, _, "NorMuon") => 4.0 + 4.0 / 71.0,
                (_, 0, _) => 2.0 * size,
                // p0 is read but never written; m and v once more, and the parameter.
                (_, _, "Prodigy") => size + 4.0,
                // These need the parameter only then where nothing decays. x0 is read but never written; the first needs s
                // again, the last has no s.
                (_, _, "DAdaptSGD") => 0.0,
                (_, _, "DAdaptAdaGrad") => 4.0,
                (_, _, "DAdaptAdam") => 8.0,
                // And this does not need the fresh variance.
                (_, _, "OnebitLamb") => size + 8.0,
                _ => size + stored,
            };
            let bytes = 3.0 * size + 2.0 * stored + again;
            assert!(
                (row["bytes_per_element"].as_f64().unwrap() / bytes - 1.0).abs() < 1e-12,
                "{bytes}: {row}"
            );
            let number = |key: &str| row[key].as_f64().filter(|x| x.is_finite() && *x > 0.0).unwrap();
            let speed = bytes / number("ns_per_element");
            assert!((number("gb_per_s") / speed - 1.0).abs() < 1e-9, "{row}");
            assert!(number("roofline") > 0.0);
        }
    }
    let table = good(&["bench", "--elements", "1000", "--optimizer", "SGD", "dict(type='Lion', lr=0.1)"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("roofline") && table.contains("Lion"));
}

#[test]
fn products_have_their_peak_and_share() {
    let told = json(&["bench", "--products", "--elements", "65536", "--threads", "1", "--json"]);
    let rows = told.as_array().unwrap();
    let types: Vec<_> = rows.iter().map(|row| row["dtype"].as_str().unwrap()).collect();
    assert_eq!(types, ["f32", "f64", "bf16", "f16"]);
    for row in rows {
        assert_eq!(
            [&row["m"], &row["k"], &row["n"], &row["threads"]].map(Value::as_u64),
            [256, 256, 256, 1].map(Some)
        );
        let number = |key: &str| row[key].as_f64().filter(|x| x.is_finite() && *x > 0.0).unwrap();
        assert!((number("gflops") / number("peak_gflops") / number("share") - 1.0).abs() < 1e-9, "{row}");
        assert!(
            row["unit"].as_str().unwrap().contains(' ') && !row["processor"].as_str().unwrap().is_empty(),
            "{row}"
        );
    }
    bad(fallline().args(["bench", "--products", "--elements", "100"]), 2, &["--elements", "65536", "100"]);
    bad(fallline().args(["bench", "--products", "--device", "cuda"]), 2, &["--products", "cpu"]);
    bad(fallline().args(["bench", "--products", "--optimizer", "SGD"]), 2, &["--products", "--optimizer"]);
}
