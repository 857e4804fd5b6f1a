//! What a configuration says of the length of training, against whole runs of MMEngine (`tests/golden/lengths.py`).

use fallline::optim::schedule::{Numbers, Scheduled, Target};
use fallline::prelude::*;
use fallline::registry::config::parse_python;
use fallline::registry::schedulers::Chain;
use fallline::registry::{Length, Plan};

/// As in `tests/numbers/schedules.rs`.
const TOLERANCE: f64 = 1e-12;

#[test]
fn runs_follow_mmengine() {
    let cases: serde_json::Value = serde_json::from_str(include_str!("../golden/lengths.json")).unwrap();
    let mut followed = 0;
    for case in cases.as_array().unwrap() {
        let (text, name) = (case["config"].as_str().unwrap(), &case["name"]);
        let [epoch, steps] = ["epoch_length", "steps"].map(|key| case[key].as_u64().unwrap());
        let recipe = Recipe::from_text(text).unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
        let length = recipe.length(epoch);
        assert!(length.is_known(), "{text}");
        let mut optimizer = recipe.optimizer(Cpu::scalar().shared());
        let mut run = || -> Result<(), fallline::Error> {
            let mut schedule = recipe.schedule(epoch, &mut optimizer)?;
            for step in 0..steps {
                for (target, values) in case["values"].as_object().into_iter().flatten() {
                    let target = if target == "momentum" { Target::Momentum } else { target.as_str().into() };
                    let (got, expected) =
                        (optimizer.scheduled(0, &target)?, values[step as usize].as_f64().unwrap());
                    assert!(
                        (got - expected).abs() <= TOLERANCE * expected.abs(),
                        "{name}: step {step}: {} is {got} instead of {expected}\n{text}",
                        target.name()
                    );
                }
                schedule.after_iteration(&mut optimizer)?;
                // MMEngine's loop over iterations ends no epoch.
                if length.epochs.is_some() && (step + 1).is_multiple_of(epoch) {
                    schedule.after_epoch(&mut optimizer)?;
                }
            }
            Ok(())
        };
        run().unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
        followed += 1;
    }
    assert_eq!(followed, 160);
}

#[test]
fn a_file_says_how_long_training_is() {
    let length = |text: &str| {
        let text =
            format!("optimizer = dict(type='SGD', lr=1.0)\nparam_scheduler = dict(type='PolyLR')\n{text}");
        Recipe::from_text(&text).map(|recipe| recipe.length(10))
    };
    let known = Length::new(10);
    for (text, expected) in [
        ("", known),
        ("train = dict(epochs=3)", known.of_epochs(3)),
        ("train = dict(epochs=0)", known),
        ("train_cfg = dict(by_epoch=True, max_epochs=12, val_interval=2)", known.of_epochs(12)),
        ("train_cfg = dict(type='mmengine.EpochBasedTrainLoop', max_epochs=12.0)", known.of_epochs(12)),
        ("train_cfg = dict(by_epoch=False, max_iters=900)", known.of_iterations(900)),
        ("train_cfg = dict(type='IterBasedTrainLoop', max_iters=900)", known.of_iterations(900)),
        ("train_cfg = dict(type='MyLoop', max_epochs=5, other=1)", known.of_epochs(5)),
        // fallline's own key is nearer to its own runs.
        ("train = dict(epochs=3)\ntrain_cfg = dict(by_epoch=True, max_epochs=12)", known.of_epochs(3)),
        // MMDetection 2.x keeps something else there.
        ("train_cfg = dict(rpn=dict(a=1), rcnn=None)", known),
        ("train_cfg = None", known),
    ] {
        assert_eq!(length(text).unwrap(), expected, "{text}");
    }
    for (text, problem) in [
        (
            "train_cfg = dict(by_epoch=True, max_epoch=12)",
            "train_cfg has no \"max_epoch\" (did you mean \"max_epochs\"?)",
        ),
        (
            "train_cfg = dict(by_epoch=True, max_epochs=1.5)",
            "max_epochs must be a whole number from 1, got 1.5",
        ),
        ("train_cfg = dict(by_epoch=False, max_iters='many')", "max_iters must be a whole number from 1"),
        ("train = dict(epoch=3)", "train has no \"epoch\" (did you mean \"epochs\"?)"),
        ("train = dict(epochs=-1)", "epochs must be a whole number from 0, got -1"),
    ] {
        let error = length(text).unwrap_err().to_string();
        assert!(error.contains(problem), "{text}: {error}");
    }
    // Nobody needs to read what nobody needs.
    let text =
        "optimizer = dict(type='SGD')\nparam_scheduler = dict(type='PolyLR', end=4)\ntrain_cfg = make()\n";
    assert!(!Recipe::from_text(text).unwrap().length(1).is_known());
    let error = Recipe::from_text(&text.replace(", end=4", "")).unwrap_err().to_string();
    assert!(error.contains("a call of `make` is not understood"), "{error}");
}

/// What was read reads back to the same, the length included.
#[test]
fn a_source_keeps_the_length() {
    let text = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=1.0))\nparam_scheduler = dict(type='PolyLR')\n\
                train_cfg = dict(by_epoch=True, max_epochs=7, val_interval=1)\n\
                custom_hooks = [dict(type='Other'), dict(type='EMAHook', momentum=0.01, priority=49)]\nmodel = dict(a=1)\n";
    let recipe = Recipe::from_text(text).unwrap();
    assert_eq!(recipe.keys().0, ["optim_wrapper", "param_scheduler", "train_cfg", "custom_hooks"]);
    assert_eq!(recipe.keys().1, ["model", "custom_hooks[0] (Other)"]);
    let again = Recipe::from_text(&recipe.to_source()).unwrap();
    assert_eq!(again.to_source(), recipe.to_source());
    assert_eq!(again.length(1), Length::new(1).of_epochs(7));
    assert_eq!(again.average(), recipe.average());
    assert_eq!(recipe.average(), fallline::optim::average::Average::exponential(0.01).ok());
}

#[test]
fn entries_without_an_end_are_named() {
    let chain = Chain::from_text("[dict(type='LinearLR', end=3), dict(type='PolyLR')]").unwrap();
    assert_eq!(chain.without_end(Length::new(1)), ["param_scheduler[1] (PolyLR)"]);
    assert!(chain.without_end(Length::new(1).of_epochs(4)).is_empty());
    assert!(chain.without_end(Length::new(1).of_iterations(4)).is_empty());
}

/// A plan scaled to half its length reaches half-way what it reached before, and adapts itself where it has no steps of
/// its own.
#[test]
fn a_stretched_plan_is_the_same_plan() {
    let values = |chain: &Chain, steps: u64| {
        let mut numbers = Numbers::new([("lr", 1.0)]);
        let mut schedule = chain.schedule(Length::new(1).of_epochs(steps), &mut numbers).unwrap();
        let mut values = vec![numbers["lr"]];
        for _ in 1..steps {
            schedule.after_epoch(&mut numbers).unwrap();
            values.push(numbers["lr"]);
        }
        values
    };
    for (text, has_own_steps) in [
        ("dict(type='MultiStepLR', milestones=[8, 12], gamma=0.1)", true),
        ("dict(type='StepLR', step_size=4, gamma=0.5)", true),
        ("dict(type='ExponentialLR', gamma=0.81)", true),
        ("dict(type='CosineAnnealingLR', T_max=16)", true),
        ("dict(type='OneCycleLR', eta_max=1.0, total_steps=16)", true),
        ("dict(type='CosineRestartLR', periods=[8, 8], restart_weights=[1, 0.5], eta_min=0)", true),
        ("dict(type='CosineAnnealingLR')", false),
        ("dict(type='PolyLR', power=2)", false),
    ] {
        let chain = Chain::from_text(text).unwrap();
        assert_eq!(chain.has_own_steps(), has_own_steps, "{text}");
        let half = chain.stretched(0.5);
        let (long, short) = (values(&chain, 16), values(&half, 8));
        if text.contains("OneCycle") {
            // Where the highest value is, is rounded.
            assert_eq!(short[0], long[0], "{text}");
        } else if has_own_steps {
            for (step, value) in short.iter().enumerate() {
                assert!((value - long[2 * step]).abs() < 1e-12, "{text}: {step}: {short:?}, {long:?}");
            }
        } else {
            assert_eq!(half, chain, "{text}");
        }
    }
    // No range becomes empty, and one goes on where the other ends.
    let chain =
        Chain::from_text("[dict(type='LinearLR', end=3), dict(type='PolyLR', begin=3, end=9)]").unwrap();
    let ranges = chain.stretched(0.01).schedulers(Length::new(1));
    let ranges: Vec<_> = ranges.iter().map(|scheduler| (scheduler.begin, scheduler.end)).collect();
    assert_eq!(ranges, [(0.0, Some(1.0)), (1.0, Some(2.0))]);
}

/// A plan is read around what it does not depend on, with a word about it; not around what is wrong.
#[test]
fn plans_are_read_around_what_is_not_known() {
    let plan = |text: &str| Plan::from_entries(&parse_python(text, "a.py").unwrap());
    let chain = "param_scheduler = dict(type='StepLR', step_size=1, end=9)\n";
    for (optimizer, lr, momentum, warnings) in [
        ("optimizer = dict(type='SGD', lr=0.3, momentum=0.8)", 0.3, 0.8, 0),
        ("optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(type='AdamW', lr=0.3))", 0.3, 0.9, 0),
        (
            "optim_wrapper = dict(constructor='LayerDecayOptimizerConstructor', paramwise_cfg=dict(layers=3),\n\
             optimizer=dict(type='AdamW', lr=0.3, betas=(0.5, 0.9)))",
            0.3,
            0.5,
            1,
        ),
        (
            "optim_wrapper = dict(type='DeepSpeedOptimWrapper', optimizer=dict(type='AdamW', lr=0.3))",
            0.3,
            0.9,
            1,
        ),
        (
            "optim_wrapper = dict(constructor='Own', modules='.*', optimizer=dict(type='AdamW', lr=0.3))",
            0.3,
            0.9,
            1,
        ),
        (
            "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.3, momentum=0.2), paramwise_cfg=dict(custom_keys={\n\
             'bn': dict(lars_exclude=True)}))",
            0.3,
            0.2,
            1,
        ),
        ("optimizer = dict(type='SomebodysOwnThing', lr=0.3, betas=(0.7, 0.9), k=1)", 0.3, 0.7, 1),
        ("optimizer = dict(type='mmpretrain.Lamb', lr=0.3, betas=(0.7, 0.9))", 0.3, 0.7, 1),
    ] {
        let plan = plan(&format!("{optimizer}\n{chain}")).unwrap();
        assert_eq!((plan.numbers()["lr"], plan.numbers()["momentum"]), (lr, momentum), "{optimizer}");
        assert_eq!(plan.warnings().len(), warnings, "{optimizer}: {:?}", plan.warnings());
    }
    for (text, problem) in [
        ("optimizer = dict(type='AdmaW', lr=0.3)", "did you mean \"AdamW\"?"),
        ("optimizer = dict(type='SomebodysOwnThing')", "SomebodysOwnThing"),
        ("optimizer = dict(type='AdamW', lr='fast')", "lr"),
        (
            "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.3), clip_gard=dict(max_norm=1))",
            "clip_grad",
        ),
        (
            "optim_wrapper = dict(generator=dict(optimizer=dict(type='Adam')), critic=dict(optimizer=dict(type='SGD')))",
            "optim_wrapper is of several optimizers (generator, critic)",
        ),
    ] {
        let error = plan(&format!("{text}\n{chain}")).unwrap_err().to_string();
        assert!(error.contains(problem), "{text}: {error}");
    }
    let constant = plan("optimizer = dict(type='SGD', lr=0.3)").unwrap();
    assert!(constant.chain().is_empty());
    assert_eq!(constant.warnings(), ["a.py: there is no param_scheduler: the values are constant"]);
    for (text, problem) in [
        (
            "model = dict(a=1)",
            "a.py: there is nothing to schedule in it: it has neither a param_scheduler nor an optimizer",
        ),
        (
            "optimizer = dict(type='SGD')\nlr_config = dict(policy='step', step=[8, 11])",
            "a.py:2:1: `lr_config` is MMCV 1.x's, and not read: `param_scheduler` is its successor in MMEngine",
        ),
        (
            "optimizer = dict(type='SGD')\nparam_schedular = dict(type='PolyLR')",
            "a.py:2:1: a configuration has no \"param_schedular\" (did you mean \"param_scheduler\"?)",
        ),
        (
            "optimizer = dict(type='SGD')\nparam_scheduler = dict(a=[dict(type='PolyLR')], b=[dict(type='StepLR')])",
            "a.py:2:19: param_scheduler is of several optimizers (a, b)",
        ),
    ] {
        let error = plan(text).unwrap_err().to_string();
        assert!(error.starts_with(problem), "{text}: {error}");
    }
    let by_iterations = "optimizer = dict(type='SGD')\nparam_scheduler = dict(type='StepLR', step_size=1, end=9)\n\
                         train_cfg = dict(by_epoch=False, max_iters=9)\n";
    assert!(plan(by_iterations).unwrap().warnings()[0].contains("train_cfg counts iterations"));
}
