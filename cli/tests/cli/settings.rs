//! `schedule` and `explain`: what configurations come to.

use super::common::{self, Buffer, Random, Tensor};
use super::{bad, fallline, good, json, tell};
use fallline::optim::ParamPrecision;
use fallline::{Cpu, Format, Optimizer, Recipe};
use serde_json::Value;
use std::path::Path;

#[test]
fn schedule_prints_what_mmengine_computes() {
    let folder = tempfile::tempdir().unwrap();
    let cases: Value = serde_json::from_str(include_str!("../../../tests/golden/schedules.json")).unwrap();
    for case in
        cases.as_array().unwrap().iter().filter(|case| !case["name"].as_str().unwrap().contains("random"))
    {
        let (config, metrics) = (folder.path().join("config.py"), folder.path().join("metrics.json"));
        std::fs::write(&config, case["config"].as_str().unwrap()).unwrap();
        std::fs::write(&metrics, case["metrics"].to_string()).unwrap();
        let (steps, epoch) = (case["steps"].to_string(), case["epoch_length"].to_string());
        let (config, metrics) = (config.to_str().unwrap(), metrics.to_str().unwrap());
        let told = json(&[
            "schedule",
            "--config",
            config,
            "--steps",
            &steps,
            "--iters-per-epoch",
            &epoch,
            "--metrics",
            metrics,
            "--json",
        ]);
        for (name, expected) in case["values"].as_object().unwrap() {
            let Some(got) = told.get(name).and_then(Value::as_array) else {
                // Only what is scheduled is told beside the learning rate and the momentum.
                assert!(name == "weight_decay" && expected.as_array().unwrap().len() == 1, "{name}");
                continue;
            };
            assert_eq!(got.len().to_string(), steps);
            for (step, got) in got.iter().enumerate() {
                let expected = expected.get(step).unwrap_or(&expected[0]).as_f64().unwrap();
                let got = got.as_f64().unwrap();
                // As in tests/numbers/schedules.rs.
                assert!((got - expected).abs() <= 1e-12 * expected.abs(), "{}: {step}: {name}", case["name"]);
            }
        }
    }
    let plot = folder.path().join("plot.svg");
    let text = "[dict(type='LinearLR', end=5, by_epoch=False), dict(type='StepMomentum', step_size=3, by_epoch=False)]";
    let told = good(&["schedule", "--scheduler", text, "--steps", "6", "--plot", plot.to_str().unwrap()]);
    assert_eq!(told.lines().count(), 3, "beside a picture, a summary: {told}");
    let drawn = std::fs::read_to_string(&plot).unwrap();
    assert!(drawn.contains(">lr<") && drawn.contains(">momentum<"), "the panels are named");
    let told = good(&["schedule", "--scheduler", text, "--steps", "6"]);
    assert_eq!(told.lines().count(), 7, "{told}");
    let last: Vec<&str> = told.lines().nth(6).unwrap().split_whitespace().collect();
    assert_eq!(last, ["5", "0.05", "0.09"], "{told}");
    let told = json(&[
        "schedule",
        "--scheduler",
        "dict(type='ConstantLR')",
        "--lr",
        "3",
        "--momentum",
        "0.5",
        "--steps",
        "2",
        "--json",
    ]);
    assert_eq!(told, serde_json::json!({"lr": [1.0, 1.0], "momentum": [0.5, 0.5]}));
    let schedule = |more: &[&str]| {
        let mut command = fallline();
        command.arg("schedule").args(more);
        command
    };
    for (name, value) in [("--lr", "nan"), ("--lr", "-1"), ("--momentum", "nan"), ("--momentum", "-1")] {
        let given = ["--scheduler", "ConstantLR", "--steps", "3", name, value];
        bad(&mut schedule(&given), 2, &[name, "expected a number from 0"]);
    }
    // What has its own length needs no end; of several schedules a warning says which it is about.
    let cycle = "dict(type='OneCycleLR', eta_max=0.1, total_steps=10, by_epoch=False)";
    let told = super::tell(&mut schedule(&["--scheduler", cycle, "--steps", "3"]));
    assert_eq!((told.code, &*told.error), (0, ""));
    let told = super::tell(&mut schedule(&["--scheduler", cycle, "--scheduler", "PolyLR", "--steps", "3"]));
    assert!(
        told.error.starts_with("warning: --scheduler PolyLR: param_scheduler[0] (PolyLR)"),
        "{}",
        told.error
    );
    bad(&mut schedule(&["--steps", "3"]), 2, &["--scheduler", "--config"]);
    bad(&mut schedule(&["--scheduler", "StepLR", "--steps", "3"]), 2, &["step_size"]);
    bad(&mut schedule(&["--scheduler", "dict(type='StpLR')", "--steps", "3"]), 2, &["StpLR", "StepLR"]);
    bad(&mut schedule(&["--scheduler", "ReduceOnPlateauLR", "--steps", "3"]), 2, &["--metrics", "loss"]);
    bad(
        &mut schedule(&[
            "--scheduler",
            "dict(type='ConstantParamScheduler', param_name='warp')",
            "--steps",
            "3",
        ]),
        2,
        &["warp"],
    );
    let short = folder.path().join("short.json");
    std::fs::write(&short, "[1.0]").unwrap();
    let metrics = ["--scheduler", "ReduceOnPlateauLR", "--steps", "3", "--metrics", short.to_str().unwrap()];
    bad(&mut schedule(&metrics), 2, &["--metrics", "1", "3"]);
    std::fs::write(&short, "{}").unwrap();
    bad(&mut schedule(&metrics), 1, &["short.json", "array"]);
}

/// What `explain` says of states is what an optimizer has after a step.
fn explained_bytes_are_allocated(config: &Path, params: &Path) {
    let shapes: [(&str, &[usize]); 5] = [
        ("fc.weight", &[70, 60]),
        ("fc.bias", &[301]),
        ("head", &[4097]),
        ("hidden", &[12, 20]),
        ("one", &[1]),
    ];
    let described = shapes.map(|(name, shape)| (name.to_owned(), serde_json::json!({"shape": shape})));
    std::fs::write(params, Value::Object(described.into_iter().collect()).to_string()).unwrap();
    for (optimizer, format) in [
        ("dict(type='AdamW')", Format::F32),
        ("dict(type='SGD', lr=0.1)", Format::F32),
        (
            "dict(type='Adam', amsgrad=True, state_format={'m': 'bf16', 'v': 'q8', 'v_max': 'fp8'})",
            Format::F32,
        ),
        ("dict(type='AdamW8bit', min_8bit_size=500)", Format::F32),
        ("dict(type='AdamW', state_format='q4')", Format::F32),
        ("dict(type='Lion', state_format='q8_linear', param_format='master')", Format::Bf16),
        ("dict(type='AdamW', state_format='bf16', param_format='bf16_sr', seed=1)", Format::Bf16),
        ("dict(type='LAMB')", Format::F32),
    ] {
        let text = format!(
            "optim_wrapper = dict(optimizer={optimizer}, paramwise_cfg=dict(custom_keys=dict(\n\
                 hidden=dict(optimizer=dict(type='Muon')), head=dict(state_format='f32'))))\n"
        );
        std::fs::write(config, &text).unwrap();
        let mut driver = Recipe::from_text(&text).unwrap().optimizer(Cpu::scalar().shared());
        let mut random = Random(1);
        let mut tensors: Vec<Tensor> = shapes
            .iter()
            .map(|(name, shape)| {
                let mut draw = || Buffer::new(format, &random.units(shape.iter().product()));
                Tensor::new(*name, draw(), vec![Some(draw())])
            })
            .collect();
        let bound = common::bind(&mut tensors, 0).into_iter().zip(shapes);
        let mut bound: Vec<_> = bound.map(|(binding, (_, shape))| binding.shaped(shape)).collect();
        driver.step(&mut bound).unwrap();
        let paths = ["--config", config.to_str().unwrap(), "--params", params.to_str().unwrap()];
        let told = json(&[&["explain"], &paths[..], &["--json"]].concat());
        for row in told.as_array().unwrap() {
            let param = driver.params().into_iter().find(|param| row["name"] == param.name).unwrap();
            assert_eq!(row["state_bytes"], param.state_bytes, "{optimizer}: {row}");
            let mut names: Vec<&str> = param.formats.iter().map(|format| format.name()).collect();
            names.extend(
                (driver.param_precision(param.group) == Some(ParamPrecision::MasterWeights)).then_some("f32"),
            );
            names.dedup();
            if let [name] = names[..] {
                assert_eq!(row["state_format"], name, "{optimizer}: {row}");
            }
        }
    }
}

/// An optimizer with all modifiers around it.
const MODIFIED: &str = "dict(type='AdamW', cautious=True, wrap=dict(type='Lookahead', k=4))";

#[test]
fn explain_tells_each_parameter_its_rule() {
    let folder = tempfile::tempdir().unwrap();
    let file: Value = serde_json::from_str(include_str!("../../../tests/golden/paramwise.json")).unwrap();
    let (config, params) = (folder.path().join("config.py"), folder.path().join("params.json"));
    std::fs::write(&params, file["params"].to_string()).unwrap();
    let paths = ["--config", config.to_str().unwrap(), "--params", params.to_str().unwrap()];
    for case in file["cases"].as_array().unwrap() {
        let [optimizer, rules] = ["optimizer", "paramwise_cfg"].map(|key| case[key].as_str().unwrap());
        std::fs::write(
            &config,
            format!("optim_wrapper = dict(optimizer={optimizer}, paramwise_cfg={rules})\n"),
        )
        .unwrap();
        let told = json(&[&["explain"], &paths[..], &["--json"]].concat());
        assert_eq!(told.as_array().unwrap().len(), file["params"].as_object().unwrap().len());
        for row in told.as_array().unwrap() {
            let expected = &case["expected"][row["name"].as_str().unwrap()];
            // torch has whole numbers among its defaults.
            let told = [&row["lr"], &row["weight_decay"]].map(Value::as_f64);
            assert_eq!(told, [expected[0].as_f64(), expected[1].as_f64()], "{rules}: {row}");
        }
    }
    std::fs::write(
        &config,
        "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.1),\n\
         paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys=dict(hidden=dict(optimizer=dict(type='Muon', lr=0.02)))))\n",
    )
    .unwrap();
    std::fs::write(
        &params,
        r#"{"hidden.weight": {"shape": [8, 4]}, "ln_1.bias": {"shape": [3]}, "head.bias": {"shape": [2], "module": "other"}}"#,
    )
    .unwrap();
    let told = json(&[&["explain"], &paths[..], &["--json"]].concat());
    let row = |name, optimizer, lr: f64, decay: f64, bytes, rule| {
        serde_json::json!({"name": name, "optimizer": optimizer, "lr": lr, "weight_decay": decay, "state_format": "f32",
            "state_bytes": bytes, "rule": rule})
    };
    assert_eq!(told[0], row("hidden.weight", "Muon", 0.02, 0.1, 128, "custom_keys[\"hidden\"]"));
    assert_eq!(told[1], row("ln_1.bias", "AdamW", 1e-3, 0.0, 24, "norm_decay_mult=0"));
    assert_eq!(told[2], row("head.bias", "AdamW", 1e-3, 0.1, 16, "optimizer"));
    let table = good(&[&["explain"], &paths[..]].concat());
    assert!(table.contains("ln_1.bias") && table.contains("3 parameters, 168 bytes of states"), "{table}");

    // What is around an optimizer has a column.
    let told = json(&["explain", "--optimizer", MODIFIED, "--params", params.to_str().unwrap(), "--json"]);
    assert_eq!(told[1]["modifiers"], "cautious, Lookahead(k=4, alpha=0.5)");
    assert_eq!(told[1]["state_bytes"], 3 * 3 * 4);

    let explain = |more: &[&str]| {
        let mut command = fallline();
        command.arg("explain").args(paths).args(more);
        command
    };
    std::fs::write(&params, r#"{"head.bias": {"shape": [2]}}"#).unwrap();
    bad(&mut explain(&[]), 2, &["config.py:2:", "hidden", "--allow-unmatched"]);
    let told = tell(&mut explain(&["--allow-unmatched"]));
    assert!(
        told.code == 0 && told.error.starts_with("warning: ") && told.error.contains("hidden"),
        "{}",
        told.error
    );
    std::fs::write(&params, r#"{"hidden.bias": {"shape": [2]}}"#).unwrap();
    bad(&mut explain(&[]), 2, &["hidden.bias", "Muon"]);
    std::fs::write(&params, r#"{"head.bias": {"shape": [2], "module": "bn"}}"#).unwrap();
    bad(&mut explain(&[]), 1, &["head.bias", "dwconv", "bn"]);
    std::fs::write(&params, r#"{"head.bias": {"shape": [2], "dtype": "q8"}}"#).unwrap();
    bad(&mut explain(&[]), 1, &["head.bias", "dtype", "bf16", "q8"]);
    for (text, named) in [
        (r#"{"head.bias": {"shape": [2]}, "head.bias": {"shape": [3]}}"#, "twice"),
        (r#"{"head.bias": {"shape": [4294967296, 4294967296]}}"#, "4294967296"),
    ] {
        std::fs::write(&params, text).unwrap();
        bad(&mut explain(&[]), 1, &["params.json", "head.bias", named]);
    }
    let stored = |format, dtype| {
        let optimizer = format!("optimizer = dict(type='AdamW', param_format='{format}')\n");
        std::fs::write(&config, optimizer).unwrap();
        std::fs::write(&params, format!(r#"{{"head.bias": {{"shape": [2], "dtype": "{dtype}"}}}}"#)).unwrap();
        explain(&["--json"])
    };
    bad(&mut stored("master", "f32"), 2, &["params.json", "head.bias", "bf16 or f16", "f32"]);
    bad(&mut stored("bf16_sr", "f16"), 2, &["head.bias", "bf16", "f16"]);
    for (format, dtype, bytes) in [("master", "f16", 24), ("bf16_sr", "bf16", 16)] {
        let told: Value = serde_json::from_str(&tell(&mut stored(format, dtype)).out).unwrap();
        assert_eq!(told[0]["state_bytes"], bytes);
    }
    std::fs::write(&params, "nothing").unwrap();
    bad(&mut explain(&[]), 1, &["params.json"]);
    explained_bytes_are_allocated(&config, &params);
}
