//! Configurations that say something where it means nothing, and what is said of that.

use fallline::optim::gradient_config::Clip;
use fallline::prelude::*;
use fallline::registry::config::load;
use fallline::registry::{AnyRecipe, Plan};

fn error(text: &str) -> String {
    AnyRecipe::from_text(text).expect_err(text).to_string()
}

/// Keys of an `optim_wrapper` next to or inside an optimizer would be ignored.
#[test]
fn keys_of_a_wrapper_are_told_where_they_belong() {
    for key in ["clip_grad", "paramwise_cfg", "accumulative_counts", "loss_scale"] {
        let belongs = format!(
            "it belongs beside `optimizer` in `optim_wrapper`: optim_wrapper=dict(optimizer=dict(…), {key}=…)"
        );
        let slips = [key.to_owned(), key.replacen('a', "", 1), format!("{key}s"), key.to_uppercase()];
        for typed in slips {
            for text in [
                format!("dict(optimizer=dict(type='SGD'), {typed}=dict(max_norm=1))"),
                format!("optimizer = dict(type='SGD')\n{typed} = 3\nmodel = dict(a=1)\n"),
                format!("dict(type='SGD', lr=0.1, {typed}=dict(custom_keys={{'a': dict(lr_mult=0.1)}}))"),
                format!("dict(type='SGD', {typed}=2)"),
            ] {
                let error = error(&text);
                assert!(error.contains(&belongs) && error.contains(&typed), "{text}: {error}");
            }
        }
    }
    assert!(error("dict(optimizer=dict(type='SGD'), grad_clip=dict(max_norm=1))").contains("clip_grad=…"));
    // They are names like any other where there is a wrapper.
    let text = "clip_grad = dict(max_norm=1.0)\noptim_wrapper = dict(optimizer=dict(type='SGD'), clip_grad=clip_grad)\n";
    assert!(Recipe::from_text(text).unwrap().gradient_config().clip.is_some());
}

/// A dict that says that it is a wrapper is one, under whatever name.
#[test]
fn a_wrapper_is_known_by_its_type() {
    let wrapper =
        "dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=1.0))";
    let clip = Some(Clip::Norm { max_norm: 1.0, norm_type: 2.0, error_if_nonfinite: false });
    for text in
        [wrapper.to_owned(), format!("optimizer = {wrapper}"), format!("dict(optim_wrapper={wrapper})")]
    {
        let recipe = Recipe::from_text(&text).unwrap();
        assert_eq!((recipe.algorithm().name(), &recipe.gradient_config().clip), ("SGD", &clip), "{text}");
        let again = Recipe::from_text(&recipe.to_source()).unwrap();
        assert_eq!(again.gradient_config(), recipe.gradient_config(), "{text}");
    }
    // Somebody's own is read as MMEngine's of that name.
    let own = |keys: &str| format!("dict(type='my.My{keys}, optimizer=dict(type='SGD'))");
    for (keys, meant) in [
        ("OptimWrapper', clip_grad=dict(max_norm=1.0)", "OptimWrapper"),
        ("AmpOptimWrapper', loss_scale=8.0, clip_grad=dict(max_norm=1.0)", "AmpOptimWrapper"),
    ] {
        let recipe = Recipe::from_text(&own(keys)).unwrap();
        assert_eq!(recipe.gradient_config().clip, clip, "{keys}");
        assert_eq!(recipe.gradient_config().scaler.is_some(), meant == "AmpOptimWrapper", "{keys}");
        let told = format!("My{meant} is not known: it is read as MMEngine's {meant}");
        assert!(
            recipe.warnings().len() == 1 && recipe.warnings()[0].contains(&told),
            "{:?}",
            recipe.warnings()
        );
        assert_eq!(
            Recipe::from_text(&recipe.to_source()).unwrap().gradient_config(),
            recipe.gradient_config()
        );
    }
    assert!(error(&own("OptimWrapper', stages=2")).contains("an OptimWrapper has no \"stages\""));
    assert!(Recipe::from_text(wrapper).unwrap().warnings().is_empty());
}

#[test]
fn several_optimizers_are_told_as_such() {
    let text = "optim_wrapper = dict(constructor='MultiOptimWrapperConstructor',\n\
                generator=dict(type='OptimWrapper', optimizer=dict(type='Adam')),\n\
                discriminator=dict(type='OptimWrapper', optimizer=dict(type='Adam')))\n";
    assert!(
        error(text)
            .contains("optim_wrapper is of several optimizers (generator, discriminator): a recipe has one")
    );
}

#[test]
fn names_of_other_projects_lead_to_the_right_ones() {
    for (text, near) in [
        ("dict(type='AdamW', learning_rate=1e-3)", "lr"),
        ("dict(type='AdamW', LearningRate=1e-3)", "lr"),
        ("dict(type='AdamW', beta1=0.9)", "betas"),
        ("dict(type='SGD', beta1=0.9)", "momentum"),
        ("dict(type='AdamW', epsilon=1e-8)", "eps"),
        ("dict(type='AdamW', wd=0.1)", "weight_decay"),
        ("dict(type='AdamW', weight_decy=0.1)", "weight_decay"),
    ] {
        let error = error(text);
        assert!(error.contains(&format!("(did you mean {near:?}?); it has lr, ")), "{text}: {error}");
    }
    let unknown = error("dict(type='Rotogravure')");
    assert!(unknown.contains("(`fallline list` prints all)") && unknown.len() < 150, "{unknown}");
    let scheduler = error("dict(type='OneCycleLR', eta_max=0.1)");
    assert!(
        scheduler.contains("\"OneCycleLR\" is a scheduler, and an optimizer is needed here"),
        "{scheduler}"
    );
}

/// A base's keys stay where a child only says another type.
#[test]
fn what_a_base_leaves_behind_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("base.py", "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9))\n");
    write("child.py", "_base_ = 'base.py'\noptim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.1))\n");
    let error = Recipe::from_file(folder.path().join("child.py")).unwrap_err().to_string();
    let hint = "AdamW has no \"momentum\"; it comes from the base: `_delete_=True` in this dict replaces all that the base has";
    assert!(error.contains("base.py:1:") && error.ends_with(hint), "{error}");
    let inline = self::error("dict(type='AdamW', _delete_=True)");
    assert!(inline.contains("nothing below this dict that `_delete_` could replace"), "{inline}");
}

#[test]
fn hooks_are_read_or_told() {
    let recipe =
        |hook: &str| Recipe::from_text(&format!("optimizer = dict(type='SGD')\ncustom_hooks = [{hook}]\n"));
    for (hook, average) in [
        ("dict(type='EMAHook', momentum=0.01)", "dict(type='ExponentialMovingAverage', momentum=0.01)"),
        (
            "dict(type='mmengine.EMAHook', ema_type='MomentumAnnealingEMA', gamma=10, interval=2, update_buffers=True, begin_epoch=0)",
            "dict(type='MomentumAnnealingEMA', gamma=10, interval=2)",
        ),
        (
            "dict(type='Other'), dict(type='EMAHook', ema_type='StochasticWeightAverage')",
            "dict(type='StochasticWeightAverage')",
        ),
    ] {
        let expected = fallline::registry::config::parse_inline(average).unwrap();
        let expected = fallline::registry::average(&expected).unwrap();
        let recipe = recipe(hook).unwrap();
        assert_eq!(recipe.average(), Some(expected), "{hook}");
        assert!(recipe.warnings().is_empty(), "{hook}");
    }
    for (hook, why) in [
        ("dict(type='EMAHook', begin_iter=100)", "begins later (begin_iter)"),
        (
            "dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002)",
            "ema_type=\"ExpMomentumEMA\" is none of",
        ),
    ] {
        let recipe = recipe(hook).unwrap();
        assert!(recipe.average().is_none(), "{hook}");
        let warning = &recipe.warnings()[0];
        assert!(
            warning.contains("custom_hooks[0] (EMAHook) is not read") && warning.contains(why),
            "{warning}"
        );
    }
    assert!(
        recipe("dict(type='EMAHook', momentm=0.1)")
            .unwrap_err()
            .to_string()
            .contains("did you mean \"momentum\"?")
    );
    assert!(recipe("dict(type='EMAHook', momentum=2)").is_err());
    assert!(recipe("dict(type='EMAHok')").unwrap_err().to_string().contains("did you mean \"EMAHook\"?"));
    // Other hooks are the trainer's, whatever they are.
    let text = "optimizer = dict(type='SGD')\ncustom_hooks = [make() for _ in y]\n";
    assert!(Recipe::from_text(text).unwrap().warnings().is_empty());
}

/// MMCV 1.x clips with the same words in another place; what else it has is told.
#[test]
fn old_configurations_are_told_as_such() {
    let text = "optimizer = dict(type='SGD', lr=0.02, momentum=0.9)\n\
                optimizer_config = dict(grad_clip=dict(max_norm=35, norm_type=2))\n\
                lr_config = dict(policy='step', step=[8, 11])\nrunner = dict(type='EpochBasedRunner', max_epochs=12)\n";
    let recipe = Recipe::from_text(text).unwrap();
    let clip = Some(Clip::Norm { max_norm: 35.0, norm_type: 2.0, error_if_nonfinite: false });
    assert_eq!(recipe.gradient_config().clip, clip);
    assert!(
        recipe.warnings()[0].contains("`lr_config` is MMCV 1.x's, and not read"),
        "{:?}",
        recipe.warnings()
    );
    assert_eq!(Recipe::from_text(&recipe.to_source()).unwrap().gradient_config().clip, clip);
    let none =
        Recipe::from_text("optimizer = dict(type='SGD')\noptimizer_config = dict(grad_clip=None)\n").unwrap();
    assert!(none.gradient_config().clip.is_none() && none.warnings().is_empty());
    let fp16 =
        "optimizer = dict(type='SGD')\noptimizer_config = dict(type='Fp16OptimizerHook', loss_scale=512.)\n";
    assert!(Recipe::from_text(fp16).unwrap().warnings()[0].contains("Fp16OptimizerHook in it is not read"));
    assert!(
        error("optimizer = dict(type='SGD')\noptimizer_config = dict(grad_clip=dict(max_norms=1))\n")
            .contains("max_norm")
    );
}

/// A configuration in MMEngine's new style is the same one as in the old.
#[test]
fn new_style_configurations_are_recipes() {
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/config/tests/config_files/new_style/configs/retina/");
    let recipe = Recipe::from_file(format!("{samples}inline.py")).unwrap();
    assert_eq!(
        recipe.to_source(),
        "dict(optimizer=dict(type=\"SGD\", lr=0.02, momentum=0.9, weight_decay=0.0001), param_scheduler=[dict(\
         type=\"LinearLR\", start_factor=0.001, by_epoch=False, begin=0, end=500), dict(type=\"MultiStepLR\", begin=0, \
         end=12, by_epoch=True, milestones=[8, 11], gamma=0.1)], train_cfg=dict(type=\"EpochBasedTrainLoop\", max_epochs=3))"
    );
    let plan = Plan::from_entries(&load(format!("{samples}retina_adamw.py")).unwrap()).unwrap();
    assert_eq!((plan.numbers()["lr"], plan.length(5).epochs), (1e-4, Some(12)));
    assert!(plan.warnings().is_empty());
    let recipe = Recipe::from_file(format!("{samples}retina_sgd.py")).unwrap();
    assert_eq!((recipe.algorithm().name(), recipe.length(1).epochs), ("SGD", Some(24)));
    assert!(recipe.gradient_config().scaler.is_some());
}
