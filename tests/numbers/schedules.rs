//! Schedules against the learning rates that MMEngine computes (`tests/golden/schedules.py`).

use fallline::Schedule;
use fallline::optim::hyper::Value;
use fallline::optim::schedule::{
    CosineAnnealing, Exponential, Linear, Numbers, OneCycle, PerGroup, Scheduled, Scheduler, Target,
    warmup_cosine,
};
use fallline::prelude::*;
use fallline::registry::Error;
use fallline::registry::Length;
use fallline::registry::schedulers::{Chain, names};

/// Both sides do the same operations in the same order. A platform's cosine and power may differ in the last bit,
/// and each step of the recursive form passes errors on. After 60 steps of a few half-ulps they stay far below
/// this.
const TOLERANCE: f64 = 1e-12;

fn lr(optimizer: &Driver) -> f64 {
    match optimizer.get(0, "lr") {
        Some(Value::Float(lr)) => lr,
        other => panic!("lr is {other:?}"),
    }
}

#[test]
fn chains_follow_mmengine() {
    let cases: serde_json::Value = serde_json::from_str(include_str!("../golden/schedules.json")).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for case in cases.as_array().unwrap() {
        let text = case["config"].as_str().unwrap();
        seen.extend(names().into_iter().filter(|name| text.contains(&format!("\"{name}\""))));
        seen.extend(names().into_iter().filter(|name| text.contains(&format!("'{name}'"))));
        let recipe = Recipe::from_text(text).unwrap();
        let epoch_length = case["epoch_length"].as_u64().unwrap();
        let mut optimizer = recipe.optimizer(Cpu::scalar().shared());
        let mut schedule = recipe.schedule(epoch_length, &mut optimizer).unwrap();
        let monitors: Vec<String> = schedule.monitors(true).map(str::to_owned).collect();
        for step in 0..case["steps"].as_u64().unwrap() {
            for (name, values) in case["values"].as_object().unwrap() {
                let expected = values.get(step as usize).unwrap_or(&values[0]).as_f64().unwrap();
                let target = if name == "momentum" { Target::Momentum } else { name.as_str().into() };
                let got = optimizer.scheduled(0, &target).unwrap();
                assert!(
                    (got - expected).abs() <= TOLERANCE * expected.abs(),
                    "{}: step {step}: {name} is {got} instead of {expected}",
                    case["name"]
                );
            }
            schedule.after_iteration(&mut optimizer).unwrap();
            if (step + 1).is_multiple_of(epoch_length) {
                schedule.after_epoch(&mut optimizer).unwrap();
                let metric = case["metrics"].get((step / epoch_length) as usize).and_then(|m| m.as_f64());
                let metrics: Vec<_> = monitors.iter().map(|name| (name.as_str(), metric.unwrap())).collect();
                schedule.observe(true, &metrics, &mut optimizer).unwrap();
            }
        }
    }
    let unseen: Vec<String> = names().into_iter().filter(|name| !seen.contains(name)).collect();
    // The same class as the other two forms of its kind, with its hyperparameter's name given.
    assert!(unseen.iter().all(|name| name.ends_with("ParamScheduler")), "no case has {unseen:?}");
    assert_eq!(names().len(), 29);
}

/// Saved after every step in turn, JSON in between, each kind resumes with the same bits.
#[test]
fn every_kind_is_resumed_at_any_step() {
    let cases: serde_json::Value = serde_json::from_str(include_str!("../golden/schedules.json")).unwrap();
    for case in
        cases.as_array().unwrap().iter().filter(|case| !case["name"].as_str().unwrap().contains("random"))
    {
        let recipe = Recipe::from_text(case["config"].as_str().unwrap()).unwrap();
        let epoch_length = case["epoch_length"].as_u64().unwrap();
        let begin = || {
            let mut optimizer = recipe.optimizer(Cpu::scalar().shared());
            let schedule = recipe.schedule(epoch_length, &mut optimizer).unwrap();
            (optimizer, schedule)
        };
        let advance = |step: u64, optimizer: &mut Driver, schedule: &mut fallline::Schedule| {
            schedule.after_iteration(optimizer).unwrap();
            if (step + 1).is_multiple_of(epoch_length) {
                schedule.after_epoch(optimizer).unwrap();
                let metric = case["metrics"].get((step / epoch_length) as usize).and_then(|m| m.as_f64());
                let monitors: Vec<String> = schedule.monitors(true).map(str::to_owned).collect();
                let metrics: Vec<_> = monitors.iter().map(|name| (name.as_str(), metric.unwrap())).collect();
                schedule.observe(true, &metrics, optimizer).unwrap();
            }
        };
        let (mut optimizer, mut schedule) = begin();
        for step in 0..case["steps"].as_u64().unwrap() {
            let (mut resumed, mut again) = begin();
            resumed.load(&optimizer.save().unwrap()).unwrap();
            again.load(&serde_json::from_str(&schedule.save().to_string()).unwrap()).unwrap();
            advance(step, &mut optimizer, &mut schedule);
            advance(step, &mut resumed, &mut again);
            for target in [Target::from("lr"), Target::Momentum, Target::from("weight_decay")] {
                let [one, other] = [&optimizer, &resumed].map(|o| o.scheduled(0, &target).unwrap().to_bits());
                assert_eq!(one, other, "{}: {}", case["name"], target.name());
            }
            assert_eq!(schedule.save(), again.save());
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

/// What was saved from one chain is refused by every other, which stays as it is.
#[test]
fn a_schedule_of_another_chain_is_refused() {
    let chains = [
        "dict(type='OneCycleLR', eta_max=0.1, total_steps=20, by_epoch=False)",
        "dict(type='OneCycleLR', eta_max=0.3, total_steps=20, by_epoch=False)",
        "dict(type='StepLR', step_size=3, gamma=0.5, by_epoch=False)",
        "dict(type='StepLR', step_size=3, gamma=0.5)",
        "dict(type='CosineAnnealingLR', T_max=20, by_epoch=False)",
        "dict(type='CosineAnnealingLR', T_max=20, by_epoch=False, end=12)",
        "dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=5)",
        "dict(type='LinearLR', start_factor=0.2, by_epoch=False, end=5)",
        "dict(type='LinearMomentum', start_factor=0.2, by_epoch=False, end=5)",
        "dict(type='MultiStepLR', milestones=[2, 4], by_epoch=False)",
        "dict(type='MultiStepLR', milestones=[2, 5], by_epoch=False)",
    ];
    let begin = |chain: &str| {
        let text = format!("optimizer=dict(type='SGD', lr=0.05, momentum=0.9)\nparam_scheduler={chain}");
        let recipe = Recipe::from_text(&text).unwrap();
        let mut optimizer = recipe.optimizer(Cpu::scalar().shared());
        let schedule = recipe.schedule(1, &mut optimizer).unwrap();
        (optimizer, schedule)
    };
    for one in chains {
        let (mut optimizer, mut schedule) = begin(one);
        for _ in 0..5 {
            schedule.after_iteration(&mut optimizer).unwrap();
        }
        let saved: serde_json::Value = serde_json::from_str(&schedule.save().to_string()).unwrap();
        for other in chains {
            let (_, mut into) = begin(other);
            let before = into.save();
            match into.load(&saved) {
                Ok(()) => assert_eq!(one, other),
                Err(error) => {
                    assert!(one != other && error.to_string().contains("entry 0"), "{one} {other}: {error}");
                    assert_eq!(into.save(), before);
                }
            }
        }
        // Of an earlier version nothing of the entry is known.
        let mut earlier = saved.clone();
        earlier[0].as_object_mut().unwrap().remove("entry").unwrap();
        begin(one).1.load(&earlier).unwrap();
    }
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        ("dict(type='CosineAnealingLR', T_max=3)", "did you mean \"CosineAnnealingLR\"?"),
        ("dict(type='StepLR')", "StepLR needs a \"step_size\""),
        ("dict(type='StepLR', step_size=0)", "step_size must be above 0, got 0"),
        ("dict(type='OneCycleMomentum')", "there is no scheduler \"OneCycleMomentum\""),
        (
            "dict(type='OneCycleParamScheduler', param_name='momentum')",
            "param_name must be \"lr\" for a OneCycle",
        ),
        ("dict(type='OneCycleLR', anneal_strategy='sin')", "must be \"cos\" or \"linear\", got \"sin\""),
        ("dict(type='CosineRestartLR', periods=[2])", "CosineRestartLR needs an \"eta_min\""),
        ("dict(type='CosineRestartLR', periods=[2, 3], eta_min=0)", "as many restart_weights as periods"),
        ("dict(type='CosineAnnealingLR', eta_min=0, eta_min_ratio=0)", "left out where eta_min is given"),
        ("dict(type='ReduceOnPlateauLR', factor=1.0)", "factor must be below 1, got 1.0"),
        ("dict(type='ReduceOnPlateauLR', convert_to_iter_based=True)", "must be False for a ReduceOnPlateau"),
        ("dict(type='MultiStepLR', milestones=3)", "milestones must be a list of numbers from 0, got 3"),
        ("dict(type='LinearLR', last_step=-2)", "last_step must be an integer of at least -1, got -2"),
        ("dict(type='LinearLR', param_name='lr')", "LinearLR has no \"param_name\""),
        (
            "dict(type='LinearLR', start_facto=0.1)",
            "LinearLR has no \"start_facto\" (did you mean \"start_factor\"?)",
        ),
        ("dict(type='LinearLR', start_factor=2)", "start_factor must be in [0, 1], got 2"),
        ("dict(type='LinearLR', begin=5, end=5)", "end must be above begin (5), got 5"),
        ("dict(type='LinearParamScheduler')", "LinearParamScheduler needs a \"param_name\""),
        ("dict(type='LinearLR', by_epoch=1)", "by_epoch must be True or False, got 1"),
        ("[3]", "param_scheduler must be a dict, got an int"),
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

/// What only shows when values are computed is found before anything is set, or undone.
#[test]
fn what_fails_leaves_everything_as_it_was() {
    let mut numbers = Numbers::new([("lr", 0.5), ("momentum", 0.9)]);
    let before = numbers.clone();
    let half = Scheduler::of("lr", Linear::default()).between(0, 9);
    for (wrong, problem) in [
        (Scheduler::of("lr", Linear { start_factor: 0.0, end_factor: 1.0 }), "start_factor must be above 0"),
        (Scheduler::of("lr", Exponential { gamma: 0.5 }).between(3, 3), "end must be above begin"),
        (Scheduler::of("warp", Exponential { gamma: 0.5 }), "no numeric hyperparameter \"warp\""),
        (
            Scheduler::of("lr", OneCycle { eta_max: PerGroup::Each(vec![1.0, 2.0]), ..Default::default() }),
            "one number for each of 1 groups, got 2",
        ),
    ] {
        let error = Schedule::new(vec![half.clone(), wrong], &mut numbers).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
        assert_eq!(numbers, before);
    }
    // A cycle that is over, behind a scheduler that has taken its step already.
    let cycle = OneCycle { eta_max: PerGroup::All(1.0), total_steps: Some(2.0), ..Default::default() };
    let momentum = Scheduler::of("momentum", Exponential { gamma: 0.5 });
    let mut schedule = Schedule::new(vec![momentum, Scheduler::of("lr", cycle)], &mut numbers).unwrap();
    schedule.after_iteration(&mut numbers).unwrap();
    schedule.after_iteration(&mut numbers).unwrap();
    let (before, saved) = (numbers.clone(), schedule.save());
    let error = schedule.after_iteration(&mut numbers).unwrap_err().to_string();
    assert_eq!(error, "param_scheduler[1]: OneCycle: it has 2 steps, and the range more");
    assert_eq!((numbers, schedule.save()), (before, saved));
    // An optimizer that refuses a value: 1.8 is no beta.
    let mut adam = fallline::build("Adam").unwrap();
    let twice = vec![Scheduler::of(Target::Momentum, Exponential { gamma: 2.0 })];
    let mut schedule = Schedule::new(twice, &mut adam).unwrap();
    assert!(schedule.after_iteration(&mut adam).unwrap_err().to_string().contains("betas must be in [0, 1)"));
    assert_eq!(adam.scheduled(0, &Target::Momentum).unwrap(), 0.9);
    // The error of a configuration is a usage error of the same text.
    let error = Chain::from_text("dict(type='PolyLR', powr=2)").unwrap_err();
    assert!(matches!(error, Error::UnknownKey { .. }), "{error}");
}

#[test]
fn warm_up_and_cosine_is_one_line() {
    let mut numbers = Numbers::new([("lr", 0.4)]);
    let mut schedule = Schedule::new(warmup_cosine(4, 12), &mut numbers).unwrap();
    let mut rates = Vec::new();
    for _ in 0..13 {
        rates.push(numbers["lr"]);
        schedule.after_iteration(&mut numbers).unwrap();
    }
    // In closed form: quarters up (the first step is 1 / 4, the last of the warm-up 1), then half a cosine of 8 steps.
    for (t, rate) in rates.iter().enumerate() {
        let expected = match t {
            0..4 => 0.4 * (0.25 + 0.75 * t as f64 / 3.0),
            _ => 0.2 * (1.0 + (std::f64::consts::PI * (t.min(11) - 4) as f64 / 8.0).cos()),
        };
        assert!((rate - expected).abs() < 1e-15, "step {t}: {rate}, {expected}");
    }
    assert!(Schedule::new(warmup_cosine(0, 5), &mut numbers).is_ok());
}

/// An entry that does not say where it ends does so with training, if its length is known, as in MMEngine's Runner.
#[test]
fn training_ends_what_has_no_end() {
    let chain = Chain::from_text("[dict(type='CosineAnnealingLR')]").unwrap();
    let last = |epochs| {
        let mut numbers = Numbers::new([("lr", 1.0)]);
        let mut schedule = chain.schedule(Length { epochs, ..Length::new(3) }, &mut numbers).unwrap();
        (0..9).for_each(|_| schedule.after_epoch(&mut numbers).unwrap());
        numbers["lr"]
    };
    let mut by_hand = Numbers::new([("lr", 1.0)]);
    let cosine = Scheduler::of("lr", CosineAnnealing::default()).between(0, 10).in_epochs();
    let mut schedule = Schedule::new(vec![cosine], &mut by_hand).unwrap();
    (0..9).for_each(|_| schedule.after_epoch(&mut by_hand).unwrap());
    assert_eq!(last(Some(10)), by_hand["lr"]);
    assert!(last(None) > 0.999_999);
}
