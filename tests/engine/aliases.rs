//! An alias of any algorithm, and a wrapper of any, is that algorithm: the same bits.

use crate::common::inputs::INPUTS;
use crate::common::{Buffer, Random, best, bits, method, whole};
use fallline::core::{Kernel, Link, Rule};
use fallline::optim::algorithms::*;
use fallline::optim::hyper::Hyperparameters;
use fallline::optim::{Binding, alias, for_each_algorithm, param, rows};
use fallline::ranks::threads;
use fallline::registry::names::ENTRIES;
use fallline::{Format, Method, Optimizer, Recipe, Registry};
use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// The rules that the registry's crate compiled: an alias has no others, and nothing is compiled once more for it.
struct Shipped;

impl Link for Shipped {
    fn kernel<R: Rule>() -> &'static Kernel {
        static RULES: LazyLock<HashMap<&str, &Kernel>> = LazyLock::new(|| {
            let mut rules: HashMap<&str, &Kernel> = HashMap::new();
            for text in INPUTS.iter().flat_map(|inputs| inputs.good) {
                let method = method(text);
                let builtins =
                    method.algorithm().into_iter().flat_map(|algorithm| algorithm.builtins().all());
                for kernel in method.kernels().into_iter().chain(builtins) {
                    // One rule may have been linked in several places.
                    let known = *rules.entry(kernel.name).or_insert(kernel);
                    let same =
                        known.scalars == kernel.scalars && known.operands.len() == kernel.operands.len();
                    assert!(same, "two rules are called {}", kernel.name);
                }
            }
            rules
        });
        RULES.get(R::NAME).copied().unwrap_or_else(|| panic!("no good input chooses {}", R::NAME))
    }
}

/// An alias of each algorithm.
macro_rules! aliases {
    ([$($of:ident,)+] [$($alias:ident,)+]) => {
        mod renamed {
            use super::*;
            $(alias! {
                /// The same under another name.
                pub $of as "my_alias" is super::$of
            })+
        }

        /// Returns of each algorithm the name, the type, and a registry in which "my_alias" is another name of it.
        fn algorithms() -> Vec<(&'static str, TypeId, Registry)> {
            let with = |registry: Result<Registry, _>| registry.unwrap_or_else(|error| panic!("{error}"));
            vec![$((
                $of::NAME,
                TypeId::of::<$of>(),
                with(Registry::standard().with_linked::<renamed::$of, Shipped>()),
            ),)+]
        }
    };
}

for_each_algorithm!(aliases);

/// A configuration of an algorithm under its own name, the same under the other name, and the registry that knows it.
struct Pair {
    text: String,
    other: String,
    registry: Registry,
}

fn pairs() -> Vec<Pair> {
    let algorithms = algorithms();
    let mut pairs = Vec::new();
    for text in INPUTS.iter().flat_map(|inputs| inputs.good) {
        let Ok(recipe) = Recipe::from_text(text) else { continue };
        let name = recipe.algorithm().name();
        if let Some((_, _, registry)) = algorithms.iter().find(|(known, ..)| *known == name) {
            let whole = whole(text);
            let other = whole.replacen(&format!("type='{name}'"), "type='my_alias'", 1);
            assert_ne!(whole, other);
            pairs.push(Pair { text: whole, other, registry: registry.clone() });
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

    /// Takes all steps that are taken. Returns the first complaint, and all bits that are left.
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
                complaint = Some(error.to_string());
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
    let listed: HashSet<TypeId> = algorithms().into_iter().map(|(_, of, _)| of).collect();
    for entry in ENTRIES {
        // Searches are no algorithms, and ZeroRedundancyOptimizer's is the one that it is around.
        if let Method::Algorithm(algorithm) = entry.defaults() {
            assert!(listed.contains(&Any::type_id(algorithm.hyper())), "{}: no alias is tested", entry.name);
        }
    }
}

#[test]
fn an_alias_is_its_algorithm() {
    let pairs = pairs();
    for (name, ..) in algorithms() {
        let quoted = format!("type='{name}'");
        assert!(pairs.iter().any(|pair| pair.text.contains(&quoted)), "{name} has no good input");
    }
    for (seed, Pair { text, other, registry }) in pairs.iter().enumerate() {
        let [one, two] = [text, other].map(|text| {
            let recipe = Recipe::from_text_with(text, registry).unwrap_or_else(|error| panic!("{error}"));
            Model::new(seed as u64).run(&recipe, &mut recipe.optimizer(best()))
        });
        assert_eq!((&one.0, &two.0), (&None, &None), "{text}: nothing is compared of what is not taken");
        assert!(one.1 == two.1, "{other} has other bits than {text}");
    }
}

#[test]
fn an_alias_is_its_algorithm_on_several_ranks() {
    // With non_freeze they are refused on several ranks, by their names.
    let of_ranks = |text: &str| {
        (text.contains("type='Onebit") || text.contains("ZeroOne")) && !text.contains("non_freeze")
    };
    for Pair { text, other, registry } in pairs().iter().filter(|pair| of_ranks(&pair.text)) {
        // From each rank on, a gradient of its own.
        let outcomes = [text, other].map(|text| {
            let running: Vec<_> = threads(2, Duration::from_secs(60))
                .into_iter()
                .enumerate()
                .map(|(rank, ranks)| {
                    let recipe = Recipe::from_text_with(text, registry).unwrap();
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
    let mut wrapped = 0;
    // torch's wrapper means torch's Adafactor by that name, which is called TorchAdafactor here.
    let pairs = pairs().into_iter().filter(|pair| !pair.text.contains("type='Adafactor'"));
    for (seed, Pair { text, other, registry }) in pairs.enumerate() {
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
