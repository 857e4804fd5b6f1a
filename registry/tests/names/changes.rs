//! Changes of a configuration from a command line.

use fallline_registry::config::{Change, Entries};
use fallline_registry::{AnyRecipe, Error, Recipe, Registry, Result, change, replace_optimizer};

fn recipe(entries: &Entries) -> Recipe {
    AnyRecipe::from_entries(entries, &Registry::standard()).unwrap().stepping().unwrap()
}

fn changed(config: &str, text: &str) -> Result<String> {
    let mut entries = Entries::inline(config)?;
    change(&mut entries, &Change::parse(text, "--set")?)?;
    Ok(recipe(&entries).to_source())
}

#[test]
fn keys_at_the_top_are_those_that_are_read() {
    let wrapped = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))\nmodel = dict(a=1)\n";
    let source = changed(wrapped, "optim_wrapper.optimizer.lr=0.5").unwrap();
    assert_eq!(source, r#"dict(optimizer=dict(type="SGD", lr=0.5))"#);
    assert!(changed(wrapped, "train.seed=3").unwrap().contains("train=dict(seed=3)"));
    assert!(changed(wrapped, "model.a=2").is_ok());
    let bare = "dict(type='SGD', lr=0.1)";
    assert_eq!(changed(bare, "momentum=0.9").unwrap(), r#"dict(type="SGD", lr=0.1, momentum=0.9)"#);
    assert_eq!(
        changed(bare, "train.seed=3").unwrap(),
        r#"dict(optimizer=dict(type="SGD", lr=0.1), train=dict(seed=3))"#
    );
    for (config, text, error) in [
        (wrapped, "optim_wraper.optimizer.lr=1", "did you mean \"optim_wrapper\"?"),
        (wrapped, "learning=1", "it has optim_wrapper, optimizer"),
        (wrapped, "optimizer.lr=1", "the optimizer is `optim_wrapper.optimizer` there"),
        (
            "optimizer = dict(type='SGD')\n",
            "optim_wrapper.optimizer.lr=1",
            "the optimizer is `optimizer` there",
        ),
        (bare, "lerning_rate=1", "\"lerning_rate\""),
        (bare, "optim_wrapper.optimizer.lr=3", "its keys are at the top: `--set lr=…`"),
        (bare, "optim_wrapper.clip_grad.max_norm=3", "that takes dict(optimizer=dict(…), …)"),
    ] {
        let told = match Entries::inline(config).map_err(Error::from).and_then(|mut entries| {
            change(&mut entries, &Change::parse(text, "--set")?)?;
            AnyRecipe::from_entries(&entries, &Registry::standard()).map(|_| ())
        }) {
            Ok(()) => panic!("{text} is taken"),
            Err(told) => told,
        };
        assert!(told.to_string().starts_with("--set:1:1: ") && told.to_string().contains(error), "{told}");
    }
}

#[test]
fn the_optimizer_is_replaced_where_it_stands() {
    let wrapped = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=1))\n\
                   param_scheduler = dict(type='StepLR', step_size=3)\n";
    for (config, text, source) in [
        (
            wrapped,
            "Lion",
            r#"dict(optim_wrapper=dict(optimizer=dict(type="Lion"), clip_grad=dict(max_norm=1)), "#,
        ),
        (
            wrapped,
            "dict(type='OptimWrapper', optimizer=dict(type='Lion'))",
            r#"dict(optimizer=dict(type="Lion"), "#,
        ),
        ("dict(type='SGD', lr=0.1)", "Lion", r#"dict(optimizer=dict(type="Lion"))"#),
        (
            "optimizer = dict(type='SGD')\n",
            "dict(type='Lion', lr=0.5)",
            r#"dict(optimizer=dict(type="Lion", lr=0.5))"#,
        ),
        (
            wrapped,
            "optim_wrapper = dict(optimizer=dict(type='Lion'))\n",
            r#"dict(optimizer=dict(type="Lion"), "#,
        ),
    ] {
        let mut entries = Entries::inline(config).unwrap();
        replace_optimizer(&mut entries, text).unwrap();
        let told = recipe(&entries).to_source();
        assert!(told.starts_with(source), "{text}: {told}");
    }
    let mut entries = Entries::inline(wrapped).unwrap();
    assert!(replace_optimizer(&mut entries, "dict(type=").is_err());
    assert_eq!(recipe(&entries).algorithm().name(), "SGD");
}
