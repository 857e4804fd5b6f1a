//! Algorithms of another crate, by name: in configurations, groups, checkpoints and on ranks. They are those of the
//! examples, which run here too.

#[path = "../../examples/own_matrix.rs"]
mod own_matrix;
#[path = "../../examples/own_rule.rs"]
mod own_rule;
#[path = "../../examples/own_stages.rs"]
mod own_stages;

use fallline::optim::algorithms::Lion;
use fallline::optim::alias;
use fallline::prelude::*;
use fallline::ranks::threads;
use fallline::registry::Error;
use fallline::{Registry, Value};
use own_matrix::MyMuon;
use own_rule::MyMomentum;
use own_stages::MyLars;
use std::sync::Arc;
use std::time::Duration;

alias! {
    /// An alias of an algorithm of this crate.
    MyAlias as "MyAlias" is MyMomentum, with { beta = 0.25 }, without { weight_decay }
}

alias! {
    /// A shipped name for something else.
    NoAdamW as "AdamW" is Lion, with { lr = 0.5 }
}

fn registry() -> Registry {
    let registry = Registry::standard().with::<MyMomentum>().unwrap().with::<MyLars>().unwrap();
    registry.with::<MyMuon>().unwrap().with::<MyAlias>().unwrap()
}

fn recipe(text: &str) -> Recipe {
    Recipe::from_text_with(text, &registry()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn refused(text: &str, registry: &Registry) -> String {
    Recipe::from_text_with(text, registry).map(|_| ()).expect_err(text).to_string()
}

/// Named parameters, and steps of them with gradients that depend on them.
#[derive(Clone, Debug, PartialEq)]
struct Model(Vec<(&'static str, Vec<f32>)>);

impl Model {
    fn new(names: &[&'static str]) -> Model {
        let values = |i: usize| (0..12 + i).map(|k| ((i + 3 * k) % 7) as f32 / 4.0 - 0.6).collect();
        Model(names.iter().enumerate().map(|(i, name)| (*name, values(i))).collect())
    }

    fn train(&mut self, optimizer: &mut Driver, steps: usize) {
        for _ in 0..steps {
            let grads: Vec<Vec<f32>> =
                self.0.iter().map(|(_, x)| x.iter().map(|x| x * x * x - 0.1).collect()).collect();
            let bound = self.0.iter_mut().zip(&grads).map(|((name, x), grad)| param(name, x, grad));
            optimizer.step(&mut bound.collect::<Vec<_>>()).unwrap();
        }
    }
}

fn cpu() -> Arc<dyn Backend> {
    Cpu::with_threads(1).unwrap().shared()
}

#[test]
fn the_examples_run() {
    own_rule::main().unwrap();
    own_stages::main().unwrap();
    own_matrix::main().unwrap();
}

#[test]
fn every_way_to_write_a_configuration_knows_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("c.py", "optimizer = dict(type='MyMomentum', lr=0.5, beta=0.25)"),
        ("c.json", r#"{"optimizer": {"type": "own::MyMomentum", "lr": 0.5, "beta": 0.25}}"#),
        ("c.toml", "[optimizer]\ntype = \"own.optim.MyMomentum\"\nlr = 0.5\nbeta = 0.25\n"),
        ("c.yaml", "optim_wrapper:\n  optimizer: {type: MyMomentum, lr: 0.5, beta: 0.25}\n"),
    ];
    for (file, text) in files {
        let path = folder.path().join(file);
        std::fs::write(&path, text).unwrap();
        let read = Recipe::from_file_with(&path, &registry()).unwrap();
        for again in [recipe(text), recipe(&read.to_source()), recipe(&read.to_text()), read] {
            let algorithm = again.algorithm();
            assert_eq!(algorithm.name(), "MyMomentum", "{file}");
            let [lr, beta] = ["lr", "beta"].map(|name| algorithm.get(name));
            assert_eq!((lr, beta), (Some(Value::Float(0.5)), Some(Value::Float(0.25))), "{file}");
        }
        let error = Recipe::from_file(&path).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(r#"there is no optimizer "MyMomentum""#), "{error}");
    }
    assert_eq!(recipe("MyAlias").algorithm().get("beta"), Some(Value::Float(0.25)));
}

#[test]
fn groups_have_it() {
    let of_own = r#"optim_wrapper = dict(
        optimizer=dict(type="MyMomentum", lr=0.1, weight_decay=0.5),
        paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys={
            "head": dict(lr_mult=10.0, beta=0.5),
            "body": dict(optimizer=dict(type="MyAlias", lr=0.01), state_format="bf16"),
        }),
    )"#;
    let recipe = recipe(of_own);
    let mut optimizer = recipe.optimizer(cpu());
    let mut model = Model::new(&["stem.weight", "head.weight", "body.weight"]);
    model.train(&mut optimizer, 1);
    let of = |group: usize| optimizer.algorithm_of(group).unwrap();
    let groups = [
        (0, "MyMomentum", 0.1, 0.9, Some(0.5)),
        (1, "MyAlias", 0.01, 0.25, None),
        (2, "MyMomentum", 1.0, 0.5, Some(0.5)),
        (3, "MyMomentum", 0.1, 0.9, Some(0.0)),
    ];
    for (group, name, lr, beta, decay) in groups {
        let float = |name| of(group).get(name).and_then(|value| value.as_f64());
        assert_eq!(
            (of(group).name(), float("lr"), float("beta"), float("weight_decay")),
            (name, Some(lr), Some(beta), decay),
            "{}",
            recipe.rule_of(group)
        );
    }
    // Each moves by the lr of its group, against the gradient's sign; the first group decays.
    let moved = |i: usize| {
        let before = Model::new(&["stem.weight", "head.weight", "body.weight"]).0[i].1[0];
        (before, model.0[i].1[0])
    };
    let (before, after) = moved(2);
    assert!(before < 0.0 && (after - before - 0.01).abs() < 1e-6, "{before} {after}");
    let (before, after) = moved(1);
    assert!((after - (0.5 * before + 1.0)).abs() < 1e-6, "{before} {after}");
    let states = optimizer.save().unwrap();
    let stored = states.state("body.weight", "m").unwrap().format;
    assert_eq!(stored, fallline::Format::Bf16);
}

#[test]
fn checkpoints_go_on_in_the_same_bits() {
    let texts = [
        "dict(type='MyMomentum', lr=0.05, weight_decay=0.1)",
        "dict(type='MyAlias', lr=0.05, state_format='bf16')",
        "dict(type='MyLARS')",
        r#"optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1), paramwise_cfg=dict(custom_keys={
            "b": dict(optimizer=dict(type="MyLARS")), "c": dict(optimizer=dict(type="MyMomentum"))}))"#,
        "dict(type='ZeroRedundancyOptimizer', optimizer_type='MyMomentum', beta=0.5)",
    ];
    for text in texts {
        let build = || recipe(text).optimizer(cpu());
        let (mut straight, mut stopped) = (Model::new(&["a", "b", "c"]), Model::new(&["a", "b", "c"]));
        straight.train(&mut build(), 9);
        let mut first = build();
        stopped.train(&mut first, 4);
        // What was saved counts, not what the configuration says by now.
        first.set(0, &[("lr", Value::Float(0.75))]).unwrap();
        let saved = first.save().unwrap();
        first.set(0, &[("lr", recipe(text).algorithm().get("lr").unwrap())]).unwrap();
        let saved_again = first.save().unwrap().to_bytes().unwrap();
        let mut second = build();
        second.load(&Checkpoint::from_bytes(&saved.to_bytes().unwrap()).unwrap()).unwrap();
        assert_eq!(second.algorithm_of(0).unwrap().get("lr"), Some(Value::Float(0.75)), "{text}");
        second.load(&Checkpoint::from_bytes(&saved_again).unwrap()).unwrap();
        stopped.train(&mut second, 5);
        assert_eq!(straight, stopped, "{text}");
    }
    let mut own = recipe("MyMomentum").optimizer(cpu());
    Model::new(&["a"]).train(&mut own, 1);
    let saved = own.save().unwrap();
    let error = recipe("MyAlias").optimizer(cpu()).load(&saved).unwrap_err().to_string();
    assert!(error.contains("it is of MyMomentum, expected MyAlias"), "{error}");
    let error = recipe("SGD").optimizer(cpu()).load(&saved).unwrap_err().to_string();
    assert!(error.contains("it is of MyMomentum, expected SGD"), "{error}");
}

#[test]
fn ranks_share_it_out() {
    let names = ["a", "b", "c", "d", "e"];
    for own in ["type='MyMomentum', beta=0.5", "type='MyAlias'", "type='MyLARS'"] {
        let mut alone = Model::new(&names);
        alone.train(&mut recipe(&format!("dict({own})")).optimizer(cpu()), 6);
        let text = format!("dict(type='ZeroRedundancyOptimizer', optimizer_{own})");
        let sharded = recipe(&text);
        assert_eq!(recipe(&sharded.to_text()).to_text(), sharded.to_text());
        for world in [1, 2, 3] {
            let (sharded, names) = (&sharded, &names);
            let ended: Vec<Model> = std::thread::scope(|scope| {
                let started = threads(world, Duration::from_secs(60)).into_iter().map(|rank| {
                    scope.spawn(move || {
                        let rank: Arc<dyn fallline::ranks::Communicator> = Arc::new(rank);
                        let build = || sharded.optimizer(cpu()).with_ranks(Arc::clone(&rank));
                        let mut model = Model::new(names);
                        let mut first = build();
                        model.train(&mut first, 3);
                        // Collective: the states of all ranks.
                        let saved = first.save().unwrap();
                        let mut second = build();
                        second.load(&saved).unwrap();
                        model.train(&mut second, 3);
                        model
                    })
                });
                started.collect::<Vec<_>>().into_iter().map(|rank| rank.join().unwrap()).collect()
            });
            assert!(ended.iter().all(|model| *model == alone), "{text} on {world}");
        }
    }
}

#[test]
fn a_name_that_is_nearly_right_is_told() {
    let near = refused("dict(type='MyMomentun')", &registry());
    assert!(near.contains(r#"there is no optimizer "MyMomentun" (did you mean "MyMomentum"?)"#), "{near}");
    assert!(near.contains("; near are MyMomentum, MyMuon, "), "{near}");
    let in_group = r#"optim_wrapper=dict(optimizer=dict(type="SGD"), paramwise_cfg=dict(custom_keys={
        "head": dict(optimizer=dict(type="mylars"))}))"#;
    let near = refused(in_group, &registry());
    assert!(near.contains(r#"there is no optimizer "mylars" (did you mean "MyLARS"?)"#), "{near}");
    let key = refused("dict(type='MyMomentum', betta=0.5)", &registry());
    assert!(key.contains(r#"MyMomentum has no "betta" (did you mean "beta"?)"#), "{key}");
    let gone = refused("dict(type='MyAlias', weight_decay=0.5)", &registry());
    assert!(gone.contains(r#"MyAlias has no "weight_decay""#), "{gone}");
    let range = refused("dict(type='MyAlias', beta=1.5)", &registry());
    assert!(range.contains("MyAlias: beta must be"), "{range}");
    let sharded = "dict(type='ZeroRedundancyOptimizer', optimizer_type='MyMomentum')";
    recipe(sharded);
    let unknown = refused(sharded, &Registry::standard());
    assert!(unknown.contains(r#"there is no optimizer_type "MyMomentum""#), "{unknown}");
    // The standard list is as it was.
    let plain = refused("dict(type='MyMomentum')", &Registry::standard());
    assert_eq!(plain, Recipe::from_text("dict(type='MyMomentum')").map(|_| ()).unwrap_err().to_string());
    assert!(!plain.contains("MyLARS"), "{plain}");
}

#[test]
fn a_name_is_registered_once_unless_forced() {
    let twice = registry().with::<MyMomentum>().unwrap_err();
    assert!(matches!(twice, Error::Registration { name: "MyMomentum", .. }), "{twice}");
    let shipped = Registry::standard().with::<NoAdamW>().unwrap_err();
    assert!(matches!(shipped, Error::Registration { name: "AdamW", .. }), "{shipped}");

    let forced = registry().with_forced::<NoAdamW>().unwrap();
    assert_eq!(forced.entries().len(), registry().entries().len());
    let sharded = "dict(type='ZeroRedundancyOptimizer', optimizer_type='AdamW')";
    let eps = |recipe: &Recipe| recipe.algorithm().table().iter().any(|hyper| hyper.name == "eps");
    for text in ["AdamW", sharded] {
        let own = Recipe::from_text_with(text, &forced).unwrap();
        let standard = Recipe::from_text(text).unwrap();
        assert_eq!(own.algorithm().get("lr"), Some(Value::Float(0.5)), "{text}");
        assert_eq!(own.algorithm().states(), ["m"], "{text}");
        assert_eq!(standard.algorithm().states(), ["m", "v"], "{text}");
        // Hyperparameters are those of the one that is meant, though both have one name.
        assert_eq!((eps(&own), eps(&standard)), (false, true), "{text}");
    }
}

#[test]
fn entries_describe_it() {
    let registry = registry();
    let of = |name: &str| {
        let entry = registry.find(name).unwrap();
        (entry.state_bytes(), entry.state_formula(), entry.needs().to_vec())
    };
    assert_eq!(of("MyMomentum"), (Some(4.0), "4 (m)".into(), vec![]));
    assert_eq!(of("MyLARS"), (Some(4.0), "4 (momentum)".into(), vec![]));
    assert_eq!(of("MyMuon"), (Some(4.0), "4 (momentum)".into(), vec!["matrix"]));
    let alias = registry.find("MyAlias").unwrap().defaults();
    assert_eq!(alias.info().family, "sign");
    assert_eq!(alias.table().iter().map(|hyper| hyper.name).collect::<Vec<_>>(), ["lr", "beta"]);
}
