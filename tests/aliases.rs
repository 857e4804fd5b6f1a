//! An alias of any algorithm, and a wrapper of any, is that algorithm: the same bits.

mod common;

use common::inputs::INPUTS;
use common::{Buffer, Random, best, bits};
use fallline::optim::algorithms::*;
use fallline::optim::{Binding, alias, param, rows};
use fallline::ranks::threads;
use fallline::registry::names::ENTRIES;
use fallline::{Format, Method, Optimizer, Recipe, Registry};
use std::any::{Any, TypeId};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// An alias of each algorithm, in a module of its name.
macro_rules! aliases {
    ($($of:ident as $text:literal),* $(,)?) => {
        mod renamed {
            use super::*;
            $(alias! {
                /// The same under another name.
                pub $of as $text is super::$of
            })*
        }

        /// All of them.
        fn registry() -> Registry {
            let registry = Registry::standard();
            $(let registry = registry.with::<renamed::$of>().unwrap();)*
            registry
        }

        /// The algorithms that have one.
        fn listed() -> HashSet<TypeId> {
            [$(TypeId::of::<$of>()),*].into()
        }
    };
}

aliases! {
    AdEmaMix as "my_AdEMAMix", Adadelta as "my_Adadelta", Adafactor as "my_Adafactor", Adagrad as "my_Adagrad",
    Adam as "my_Adam", AdamW as "my_AdamW", AdamWScheduleFree as "my_AdamWScheduleFree", Adamax as "my_Adamax",
    Asgd as "my_ASGD", BnbAdagrad as "my_bnb_Adagrad", BnbAdam as "my_bnb_Adam", BnbLion as "my_bnb_Lion",
    BnbRmsProp as "my_bnb_RMSprop", BnbSgd as "my_bnb_SGD", CpuAdam as "my_DeepSpeedCPUAdam",
    DAdaptAdaGrad as "my_DAdaptAdaGrad", DAdaptAdam as "my_DAdaptAdam", DAdaptSgd as "my_DAdaptSGD",
    FusedAdam as "my_FusedAdam", FusedLamb as "my_FusedLamb", Lamb as "my_LAMB", Lars as "my_LARS",
    Lion as "my_Lion", Muon as "my_Muon", NAdam as "my_NAdam", NorMuon as "my_NorMuon",
    OnebitAdam as "my_OnebitAdam", OnebitLamb as "my_OnebitLamb", Prodigy as "my_Prodigy",
    PytorchLars as "my_PytorchLARS", RAdam as "my_RAdam", RmsProp as "my_RMSprop", Rprop as "my_Rprop",
    Sgd as "my_SGD", SophiaG as "my_SophiaG", SparseAdam as "my_SparseAdam", TorchAdafactor as "my_TorchAdafactor",
    ZeroOneAdam as "my_ZeroOneAdam",
}

/// The configurations of algorithms under their own name, each as it is and under the other name.
fn pairs() -> Vec<(String, String)> {
    let registry = registry();
    let mut pairs = Vec::new();
    for text in INPUTS.iter().flat_map(|inputs| inputs.good()) {
        let Ok(recipe) = Recipe::from_text(text) else { continue };
        let name = recipe.algorithm().name();
        if registry.find(&format!("my_{name}")).is_some() {
            let whole =
                if text.starts_with("dict") { text.to_owned() } else { format!("dict(type='{text}')") };
            let other = whole.replacen(&format!("type='{name}'"), &format!("type='my_{name}'"), 1);
            assert_ne!(whole, other);
            pairs.push((whole, other));
        }
    }
    pairs
}

/// Two vectors and a matrix, of which some have no gradient in some steps; rows of a table where nothing else is taken.
struct Model {
    values: Vec<(&'static str, Vec<usize>, Buffer)>,
    /// By step.
    grads: Vec<Vec<Buffer>>,
}

const STEPS: usize = 4;

impl Model {
    fn new(seed: u64) -> Model {
        let mut random = Random(seed);
        let mut draw = |elements: usize| Buffer::new(Format::F32, &random.units(elements));
        let shapes: [(&'static str, Vec<usize>); 3] =
            [("bias", vec![300]), ("odd", vec![7]), ("weight", vec![9, 40])];
        let grads =
            (0..STEPS).map(|_| shapes.iter().map(|(_, s)| draw(s.iter().product())).collect()).collect();
        let values = shapes.map(|(name, shape)| (name, shape.clone(), draw(shape.iter().product()))).into();
        Model { values, grads }
    }

    /// Takes all steps that are taken. Returns the first complaint, without names, and all bits that are left.
    fn run(mut self, recipe: &Recipe, optimizer: &mut dyn Optimizer) -> (Option<String>, Vec<u64>) {
        let algorithm = recipe.algorithm();
        let (sparse, curved) = (algorithm.takes_dense().is_err(), algorithm.hessian().is_some());
        let matrices_only = algorithm.variant("bias", &[300].into()).is_err();
        let index: Vec<i64> = (0..9).rev().collect();
        let mut complaint = None;
        for t in 0..STEPS {
            let mut bindings: Vec<Binding<'_>> = Vec::new();
            for ((name, shape, value), grad) in self.values.iter_mut().zip(&self.grads[t]) {
                if (sparse || matrices_only) && *name != "weight" || *name == "odd" && t == 1 {
                    continue;
                }
                let grad = match sparse {
                    true => rows(&index, grad.grad_from(0)),
                    false => grad.grad_from(0),
                };
                bindings.push(param(name, value.param_from(0), grad).shaped(shape));
            }
            let mut stepped = optimizer.step(&mut bindings).map(|_| ());
            if curved && t % 2 == 0 {
                stepped = stepped.and_then(|()| optimizer.update_hessian(&mut bindings).map(|_| ()));
            }
            if let (Err(error), None) = (stepped, &complaint) {
                complaint = Some(error.to_string().replace("my_", ""));
            }
        }
        let mut left: Vec<u64> = self.values.iter().flat_map(|(_, _, value)| value.bits()).collect();
        for known in optimizer.params() {
            left.push(known.steps);
            for state in known.states {
                left.extend(bits(&optimizer.state(&known.name, state).unwrap().unwrap()));
            }
        }
        (complaint, left)
    }
}

#[test]
fn every_algorithm_has_an_alias_here() {
    let listed = listed();
    for entry in ENTRIES {
        // Searches are no algorithms, and ZeroRedundancyOptimizer's is the one that it is around.
        if let Method::Algorithm(algorithm) = entry.defaults() {
            assert!(listed.contains(&Any::type_id(algorithm.hyper())), "{}: no alias is tested", entry.name);
        }
    }
}

#[test]
fn an_alias_is_its_algorithm() {
    let registry = registry();
    let pairs = pairs();
    assert!(pairs.len() >= listed().len());
    for (seed, (text, other)) in pairs.iter().enumerate() {
        let [one, two] = [text, other].map(|text| {
            let recipe = Recipe::from_text_with(text, &registry).unwrap_or_else(|error| panic!("{error}"));
            Model::new(seed as u64).run(&recipe, &mut recipe.optimizer(best()))
        });
        assert_eq!(one.0, two.0, "{text}");
        assert_eq!(one.0, None, "{text}: nothing is compared of what is not taken");
        assert!(one.1 == two.1, "{other} has other bits than {text}");
    }
}

#[test]
fn an_alias_is_its_algorithm_on_several_ranks() {
    let registry = registry();
    for (text, other) in
        pairs().iter().filter(|(text, _)| text.contains("type='Onebit") || text.contains("ZeroOne"))
    {
        // From each rank on, a gradient of its own.
        let outcomes = [text, other].map(|text| {
            let running: Vec<_> = threads(2, Duration::from_secs(60))
                .into_iter()
                .enumerate()
                .map(|(rank, ranks)| {
                    let recipe = Recipe::from_text_with(text, &registry).unwrap();
                    std::thread::spawn(move || {
                        let mut optimizer = recipe.optimizer(best()).with_ranks(Arc::new(ranks));
                        let mut model = Model::new(1);
                        model.grads = Model::new(10 + rank as u64).grads;
                        model.run(&recipe, &mut optimizer)
                    })
                })
                .collect();
            running.into_iter().map(|rank| rank.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(outcomes[0] == outcomes[1], "{other} has other bits than {text}");
    }
}

#[test]
fn a_wrapper_is_its_algorithm() {
    let registry = registry();
    let mut wrapped = 0;
    // torch's wrapper means torch's Adafactor by that name, which is called TorchAdafactor here.
    let pairs = pairs().into_iter().filter(|(text, _)| !text.contains("type='Adafactor'"));
    for (seed, (text, other)) in pairs.enumerate() {
        // Alone, a rank has all states.
        let around = |text: &str| {
            text.replacen("type=", "optimizer_type=", 1).replacen(
                "dict(",
                "dict(type='ZeroRedundancyOptimizer', ",
                1,
            )
        };
        let Ok(recipe) = Recipe::from_text_with(&around(&text), &registry) else { continue };
        wrapped += 1;
        let plain = Recipe::from_text(&text).unwrap();
        let expected = Model::new(seed as u64).run(&plain, &mut plain.optimizer(best()));
        for (text, recipe) in
            [(&text, Ok(recipe)), (&other, Recipe::from_text_with(&around(&other), &registry))]
        {
            let recipe = recipe.unwrap_or_else(|error| panic!("{text}: {error}"));
            let got = Model::new(seed as u64).run(&recipe, &mut recipe.optimizer(best()));
            assert!(got == expected, "{text} sharded has other bits");
        }
    }
    assert!(wrapped > 60, "only {wrapped} could be wrapped");
}
