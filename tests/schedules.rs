//! Schedules against the learning rates that MMEngine computes (`tests/golden/schedules.py`).

use fallline::optim::hyper::Value;
use fallline::prelude::*;

/// The same operations in the same order; a platform's cosine may differ in the last bit, and each step of
/// the recursive form passes errors on: 60 steps of a few half-ulps stay far below this.
const TOLERANCE: f64 = 1e-12;

fn lr(optimizer: &Driver) -> f64 {
    match optimizer.get(0, "lr") {
        Some(Value::Float(lr)) => lr,
        other => panic!("lr is {other:?}"),
    }
}

#[test]
fn chains_follow_mmengine() {
    let cases: serde_json::Value = serde_json::from_str(include_str!("golden/schedules.json")).unwrap();
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let recipe = Recipe::from_text(case["config"].as_str().unwrap()).unwrap();
        let epoch_length = case["epoch_length"].as_u64().unwrap();
        let mut optimizer = recipe.optimizer(Cpu::scalar().shared());
        let mut schedule = recipe.schedule(epoch_length, &mut optimizer).unwrap();
        for (step, expected) in case["lr"].as_array().unwrap().iter().enumerate() {
            let (expected, got) = (expected.as_f64().unwrap(), lr(&optimizer));
            assert!(
                (got - expected).abs() <= TOLERANCE * expected.abs(),
                "{}: step {step}: {got} instead of {expected}",
                case["name"]
            );
            schedule.after_iteration(&mut optimizer).unwrap();
            if (step as u64 + 1).is_multiple_of(epoch_length) {
                schedule.after_epoch(&mut optimizer).unwrap();
            }
        }
    }
}

#[test]
fn a_saved_schedule_goes_on_where_it_was() {
    let text = "optimizer = dict(type='AdamW', lr=0.1)\n\
                param_scheduler = dict(type='CosineAnnealingLR', T_max=20, by_epoch=False)\n";
    let recipe = Recipe::from_text(text).unwrap();
    let begin = || {
        let mut optimizer = recipe.optimizer(Cpu::scalar().shared());
        let schedule = recipe.schedule(1, &mut optimizer).unwrap();
        (optimizer, schedule)
    };
    let (mut optimizer, mut schedule) = begin();
    for _ in 0..7 {
        schedule.after_iteration(&mut optimizer).unwrap();
    }
    let (mut resumed, mut again) = begin();
    resumed.load(&optimizer.save().unwrap()).unwrap();
    again.load(&schedule.save()).unwrap();
    for _ in 7..25 {
        schedule.after_iteration(&mut optimizer).unwrap();
        again.after_iteration(&mut resumed).unwrap();
        assert_eq!(lr(&optimizer).to_bits(), lr(&resumed).to_bits());
    }
    assert!(again.load(&serde_json::json!([])).is_err());
    assert!(again.load(&serde_json::json!("nonsense")).is_err());
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        ("dict(type='CosineAnealingLR', T_max=3)", "did you mean \"CosineAnnealingLR\"?"),
        ("dict(type='StepLR', step_size=3)", "the scheduler StepLR is not supported by this version"),
        (
            "dict(type='LinearLR', start_facto=0.1)",
            "LinearLR has no \"start_facto\" (did you mean \"start_factor\"?)",
        ),
        ("dict(type='LinearLR', start_factor=2)", "start_factor must be in [0, 1], got 2"),
        ("dict(type='LinearLR', begin=5, end=5)", "end must be above begin (5), got 5"),
        ("dict(type='LinearParamScheduler')", "LinearParamScheduler needs a \"param_name\""),
        ("dict(type='LinearLR', by_epoch=1)", "by_epoch must be True or False, got 1"),
        ("[3]", "param_scheduler must be a dict, got a int"),
    ];
    for (scheduler, message) in cases {
        let text = format!("optimizer = dict(type='SGD')\nparam_scheduler = {scheduler}\n");
        let error = Recipe::from_text(&text).unwrap_err().to_string();
        assert!(error.contains(message), "{scheduler}: {error}");
    }
    let recipe = Recipe::from_text(
        "optimizer = dict(type='SGD')\nparam_scheduler = dict(type='LinearParamScheduler', param_name='warp', end=3)\n",
    )
    .unwrap();
    let error = recipe.schedule(1, &mut recipe.optimizer(Cpu::scalar().shared())).unwrap_err().to_string();
    assert_eq!(error, "param_scheduler: SGD has no numeric hyperparameter \"warp\" to schedule");
}
