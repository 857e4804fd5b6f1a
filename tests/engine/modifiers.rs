//! Cautious updates and Lookahead: around which algorithms they go, and with what else.

use crate::common::inputs::{Skip, inputs_of};
use crate::common::{
    Buffer, MODIFIED, ONE_EACH, Random, Tensor, bits, cpu, isas, outcome, outcome_of, recipe, run,
};
use fallline::core::backend::{Pass, TensorPass, View};
use fallline::registry::names::ENTRIES;
use fallline::{Backend, Checkpoint, Compute, Format, Isa, Kernel, Method, Optimizer, Range, Recipe, Value};
use std::collections::BTreeMap;

/// Returns every rule that runs for a name of the registry, with any of its options.
fn every_rule() -> Vec<&'static Kernel> {
    let mut rules: BTreeMap<&str, &'static Kernel> = BTreeMap::new();
    for entry in ENTRIES {
        let mut methods = vec![entry.defaults()];
        for hyper in entry.defaults().table() {
            for value in [Value::Bool(true), Value::Float(0.5)] {
                methods.extend(entry.with(&[(hyper.name, value)]));
            }
        }
        rules.extend(methods.iter().flat_map(Method::kernels).map(|kernel| (kernel.name, kernel)));
    }
    rules.into_values().collect()
}

/// Returns what a pass of a rule leaves: its operands, and its sums.
fn passed(
    backend: &dyn Backend,
    kernel: &'static Kernel,
    compute: Compute,
    elements: usize,
    seed: u64,
) -> (Vec<Vec<u64>>, Vec<u64>) {
    let mut random = Random(seed);
    let format = compute.format();
    let requests = vec![(format, elements); kernel.operands.len()];
    let mut storages = backend.allocate(&requests).unwrap();
    for storage in &mut storages {
        backend.write(storage, random.wilds(elements).as_slice().into()).unwrap();
    }
    // Flags on and off among them.
    let mut scalar = || match random.below(4) {
        0 => 0.0,
        1 => 1.0,
        _ => random.unit(),
    };
    let row: Vec<f64> = (0..1 + kernel.scalars.len()).map(|_| scalar()).collect();
    let own: Vec<f64> = kernel.tensor_scalars.iter().map(|_| scalar()).collect();
    let mut sums = vec![0.0; kernel.sums.len()];
    let mut left = Some(&mut storages);
    backend
        .run(Pass {
            kernel,
            compute,
            tensors: &mut |views| {
                for (view, storage) in views.iter_mut().zip(left.take()?) {
                    *view = Some(View::write(storage));
                }
                Some(TensorPass { elements, constant_set: 0 })
            },
            constants: &row,
            tensor_scalars: &own,
            plan: &mut backend.plan(),
            sums: &mut sums,
            fused: &[],
            checked: false,
        })
        .unwrap();
    let read = |storage| {
        let mut values = vec![0.0f64; elements];
        backend.read(storage, values.as_mut_slice().into()).unwrap();
        bits(&values)
    };
    (storages.iter().map(read).collect(), bits(&sums))
}

#[test]
fn an_interpreted_rule_gives_the_bits_of_its_compiled_entry() {
    let rules = every_rule();
    assert!(rules.len() > 100, "{}", rules.len());
    for kernel in rules {
        let interpreted = kernel.derived(format!("{}Recorded", kernel.name), kernel.record(), kernel);
        for isa in isas() {
            let backend = cpu(isa, 1);
            for compute in [Compute::F32, Compute::F64] {
                for (seed, elements) in [0, 1, 7, 33, 255, 256, 300, 4097].into_iter().enumerate() {
                    let seed = seed as u64;
                    let expected = passed(&*backend, kernel, compute, elements, seed);
                    let got = passed(&*backend, interpreted, compute, elements, seed);
                    let what = format!("{} on {isa} in {compute}, {elements} elements", kernel.name);
                    for (operand, (expected, got)) in
                        kernel.operands.iter().zip(expected.0.iter().zip(&got.0))
                    {
                        let first = expected.iter().zip(got).position(|(one, other)| one != other);
                        assert_eq!(first, None, "{what}: {}", operand.name);
                    }
                    assert_eq!(expected.1, got.1, "{what}: sums");
                }
            }
        }
    }
}

/// Parameters in these formats, one with gaps in its gradients, one late, one empty, one over several chunks.
fn tensors(formats: (Format, Format), steps: usize, seed: u64) -> Vec<Tensor> {
    let mut random = Random(seed);
    let lists = [("w", 1300), ("gaps", 37), ("late", 300), ("empty", 0), ("large", 20_000)];
    lists
        .map(|(name, n)| {
            let mut draw = |format| Buffer::new(format, &random.units(n));
            let value = draw(formats.0);
            let given = |t: usize| (name != "gaps" || t % 3 != 1) && (name != "late" || t >= 2);
            let grads = (0..steps).map(|t| given(t).then(|| draw(formats.1)));
            Tensor::new(name, value, grads.collect())
        })
        .to_vec()
}

#[test]
fn every_instruction_set_and_number_of_threads_gives_the_scalar_bits() {
    let formats = [(Format::F32, Format::F32), (Format::F64, Format::F64), (Format::Bf16, Format::F32)];
    for (i, text) in MODIFIED.iter().enumerate() {
        let tensors = tensors(formats[i % 3], 5, i as u64);
        let reference = outcome_of(crate::common::build_on(cpu(Isa::Scalar, 1), text), &tensors);
        for (isa, threads) in isas().into_iter().map(|isa| (isa, 1)).chain([(Isa::best(), 3)]) {
            let got = outcome_of(crate::common::build_on(cpu(isa, threads), text), &tensors);
            let difference = || crate::common::first_difference(&reference, &got);
            assert!(got == reference, "{text} on {isa}, {threads} threads: {}", difference());
        }
    }
}

/// Master weights, stochastic rounding, states in 8 bits.
#[test]
fn other_storage_gives_the_scalar_bits() {
    let modified = "cautious=True, wrap=dict(type='Lookahead', k=2)";
    let texts = [
        format!("dict(type='AdamW', lr=0.01, weight_decay=0.1, param_format='master', {modified})"),
        format!("dict(type='AdamW', lr=0.01, weight_decay=0.1, param_format='bf16_sr', seed=3, {modified})"),
        format!("dict(type='Adam', lr=0.01, state_format='q8', {modified})"),
        format!("dict(type='Adam', lr=0.01, state_format=dict(slow='bf16', m='q8'), {modified})"),
        format!(
            "dict(type='LARS', lr=0.1, weight_decay=0.1, state_format='q8', param_format='master', {modified})"
        ),
        format!(
            "dict(type='ASGD', lr=0.1, t0=1.0, weight_decay=0.1, state_format='bf16', param_format='bf16_sr', seed=3, \
            {modified})"
        ),
    ];
    for text in &texts {
        let tensors = tensors((Format::Bf16, Format::Bf16), 5, 3);
        let reference = outcome_of(crate::common::build_on(cpu(Isa::Scalar, 1), text), &tensors);
        for isa in isas() {
            let got = outcome_of(crate::common::build_on(cpu(isa, 1), text), &tensors);
            assert!(
                got == reference,
                "{text} on {isa}: {}",
                crate::common::first_difference(&reference, &got)
            );
        }
    }
    // Slow weights are as computed unless they are named.
    let format_of = |text: &str, state: &str| recipe(text).state_format(state, 1 << 20);
    let eight = "dict(type='AdamW8bit', wrap=dict(type='Lookahead'))";
    assert_eq!((format_of(eight, "slow"), format_of(eight, "m").block()), (Format::F32, Some(256)));
    assert_eq!(format_of(&texts[3], "slow"), Format::Bf16);
}

/// Lookahead around any algorithm is that algorithm, brought together with slow weights by hand.
#[test]
fn lookahead_goes_around_every_algorithm() {
    const STEPS: usize = 7;
    for (i, text) in ONE_EACH.iter().filter(|text| !text.contains("ZeroOneAdam")).enumerate() {
        let (k, alpha) = [(2, 0.5f64), (3, 0.8), (1, 0.25)][i % 3];
        let inner = recipe(text).to_text();
        let wrapped =
            format!("{}, wrap=dict(type='Lookahead', k={k}, alpha={alpha}))", &inner[..inner.len() - 1]);
        let mut there = tensors((Format::F32, Format::F32), STEPS, i as u64);
        let mut by_hand = there.clone();
        let values =
            |tensor: &Tensor| -> Vec<f32> { tensor.value.values().iter().map(|x| *x as f32).collect() };
        let mut slow: Vec<Vec<f32>> = by_hand.iter().map(values).collect();
        let (mut one, mut other) = (crate::common::build(&wrapped), crate::common::build(&inner));
        for t in 0..STEPS {
            run(&mut one, &mut there, t..t + 1);
            run(&mut other, &mut by_hand, t..t + 1);
            if (t + 1) % k == 0 {
                for (tensor, slow) in
                    by_hand.iter_mut().zip(&mut slow).filter(|(t_, _)| t_.grads[t].is_some())
                {
                    let back = (1.0 - alpha) as f32;
                    let rest = (1.0 - (1.0 - alpha)) as f32;
                    let now = values(tensor);
                    let merged = now.iter().zip(&*slow).map(|(p, slow)| {
                        let way = slow - p;
                        if back < 0.5 { p + back * way } else { slow - way * rest }
                    });
                    *slow = merged.collect();
                    let widened: Vec<f64> = slow.iter().map(|x| f64::from(*x)).collect();
                    tensor.value = Buffer::new(Format::F32, &widened);
                }
            }
            for (one, other) in there.iter().zip(&by_hand) {
                assert_eq!(one.value.bits(), other.value.bits(), "{wrapped}: {} after step {t}", one.name);
            }
        }
        for (tensor, slow) in by_hand.iter().zip(&slow) {
            let Some(found) = one.state(&tensor.name, "slow").unwrap() else { continue };
            assert_eq!(found, slow.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), "{wrapped}");
        }
        assert_eq!(one.shared("lookahead_steps"), Some((STEPS % k) as f64), "{wrapped}");
        assert_eq!(other.shared("lookahead_steps"), None);
    }
}

/// In the middle of a window, and with parameters of two types.
#[test]
fn a_resumed_run_has_the_bits_of_one_that_went_on() {
    for text in MODIFIED.iter().filter(|text| !crate::common::looks_at_all_together(text)) {
        for at in [0, 1, 2, 3] {
            let mut there = tensors((Format::F32, Format::Bf16), 6, 9);
            there.extend(tensors((Format::F64, Format::F64), 6, 10).into_iter().map(|tensor| {
                let name = format!("double {}", tensor.name);
                Tensor { name, ..tensor }
            }));
            let mut optimizer = crate::common::build(text);
            run(&mut optimizer, &mut there, 0..at);
            let (saved, mut again) = (optimizer.save().unwrap().to_bytes().unwrap(), there.clone());
            run(&mut optimizer, &mut there, at..6);
            let mut resumed = crate::common::build(text);
            resumed.load(&Checkpoint::from_bytes(&saved).unwrap()).unwrap();
            run(&mut resumed, &mut again, at..6);
            assert_eq!(outcome(&resumed, &again), outcome(&optimizer, &there), "{text} from step {at}");
        }
    }
    // What belongs to no wrap is no checkpoint of one.
    let plain = crate::common::build("AdamW").save().unwrap();
    let error =
        crate::common::build("dict(type='AdamW', wrap=dict(type='Lookahead'))").load(&plain).unwrap_err();
    assert!(error.to_string().contains("lookahead_steps"), "{error}");
}

#[test]
fn a_step_in_pieces_is_a_step() {
    for text in [MODIFIED[0], MODIFIED[9], MODIFIED[14]] {
        let mut there = tensors((Format::F32, Format::F32), 6, 4);
        let mut pieces = there.clone();
        let (mut one, mut other) = (crate::common::build(text), crate::common::build(text));
        for t in 0..6 {
            run(&mut one, &mut there, t..t + 1);
            let mut step = other.begin().unwrap();
            for binding in crate::common::bind(&mut pieces, t) {
                step.apply(binding).unwrap();
            }
            step.finish().unwrap();
        }
        assert_eq!(outcome(&one, &there), outcome(&other, &pieces), "{text}");
    }
}

/// Which part of the parameter moves, by hand: a step of SGD of 1 moves by the gradient.
#[test]
fn what_agrees_moves_further_and_nothing_else() {
    let text = "dict(type='SGD', lr=1.0, momentum=0.5, cautious=True)";
    let mut optimizer = crate::common::build(text);
    let mut p = vec![0.0f32; 4];
    let mut step = |p: &mut Vec<f32>, g: [f32; 4]| {
        optimizer.step(&mut [fallline::optim::param("p", p, &g)]).unwrap();
    };
    step(&mut p, [1.0, -1.0, 0.0, 2.0]);
    // Three of four agree: the step is 4/3 as long.
    let third = (1.0f64 / 0.75) as f32;
    assert_eq!(p, [-third, third, 0.0, -2.0 * third]);
    // The momenta are 0.5, -0.5, 0, 1: against the new gradient but for the last.
    let before = p.clone();
    step(&mut p, [-0.25, 0.25, -1.0, f32::MIN_POSITIVE]);
    assert_eq!(p[..2], before[..2]);
    assert_eq!(p[2..], [before[2] + 2.0, before[3] - 2.0 * (1.0 + f32::MIN_POSITIVE)]);
    // What is no number stays none.
    step(&mut p, [f32::NAN, 1.0, 1.0, 1.0]);
    assert!(p[0].is_nan() && p[1..].iter().all(|x| x.is_finite()));
    // Nothing agrees: nothing moves, a thousandfold step of nothing.
    let mut still = vec![1.0f32; 3];
    let mut adam = crate::common::build("dict(type='AdamW', lr=0.1, weight_decay=0.5, cautious=True)");
    adam.step(&mut [fallline::optim::param("p", &mut still, &[0.0f32; 3])]).unwrap();
    assert_eq!(still, [0.95f32; 3]);
}

#[test]
fn groups_are_cautious_each_for_itself_and_in_one_lookahead() {
    let keys = |keys: &str, base: &str| {
        format!(
            "optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01{base}), paramwise_cfg=dict(custom_keys={{{keys}}}))\n"
        )
    };
    let of = |text: &str, name: &str| {
        let there = tensors((Format::F32, Format::F32), 5, 8);
        outcome_of(crate::common::build(text), &there).into_iter().find(|left| left.0 == name).unwrap()
    };
    let plain = "dict(type='AdamW', lr=0.01)";
    let cautious = "dict(type='AdamW', lr=0.01, cautious=True)";
    for (mixed, of_w, of_late) in [
        (keys("'late': dict(cautious=True)", ""), plain, cautious),
        (keys("'late': dict(cautious=False)", ", cautious=True"), cautious, plain),
        (keys("'late': dict(cautious=False)", ""), plain, plain),
        (keys("'late': dict(optimizer=dict(type='AdamW', lr=0.01, cautious=True))", ""), plain, cautious),
    ] {
        assert_eq!(of(&mixed, "w"), of(of_w, "w"), "{mixed}");
        assert_eq!(of(&mixed, "late"), of(of_late, "late"), "{mixed}");
    }
    // The wrap is around another optimizer of a group too.
    let wrap = ", wrap=dict(type='Lookahead', k=2)";
    let mixed = keys("'late': dict(optimizer=dict(type='Lion', lr=0.02))", wrap);
    let late = of(&format!("dict(type='Lion', lr=0.02{wrap})"), "late");
    assert_eq!(of(&mixed, "late"), late);
    assert!(late.3.iter().any(|(state, _)| *state == "slow"));
    for (keys, place) in [
        (keys("'late': dict(wrap=dict(type='Lookahead'))", ""), "wrap of one group"),
        (
            keys("'late': dict(optimizer=dict(type='SGD', lr=0.1, wrap=dict(type='Lookahead')))", ""),
            "wrap of one group",
        ),
        (keys("'late': dict(lookahead_k=3)", wrap), "wrap of one group"),
        (keys("'late': dict(cautious=1)", ", cautious=True"), "cautious must be a bool, got 1"),
    ] {
        let error = Recipe::from_text(&keys).unwrap_err().to_string();
        assert!(error.contains(place), "{keys}: {error}");
    }
    // Nor by hand.
    let mut driver = crate::common::build(&format!("dict(type='AdamW'{wrap})"));
    let other = recipe("AdamW").algorithm().boxed();
    let error = driver.add_group_of(other, |_| true, None).unwrap_err().to_string();
    assert!(error.contains("all groups of an optimizer are in one Lookahead, or none is"), "{error}");
}

#[test]
fn configurations_are_read_and_written() {
    for text in MODIFIED {
        let read = recipe(text);
        let again = recipe(&read.to_text());
        assert_eq!(read.algorithm().modifiers(), again.algorithm().modifiers(), "{text}");
        assert_eq!(read.to_text(), again.to_text());
    }
    let text = recipe(MODIFIED[14]).to_text();
    assert!(text.ends_with(r#"cautious=True, wrap=dict(type="Lookahead", k=2, alpha=0.5))"#), "{text}");
    // Off is off: the same as without the key.
    let off = recipe("dict(type='AdamW', cautious=False, wrap=None)");
    assert_eq!(off.to_text(), recipe("AdamW").to_text());
    // A schedule changes alpha.
    let mut driver = crate::common::build(MODIFIED[14]);
    driver.set(0, &[("lookahead_alpha", Value::Float(0.25)), ("lr", Value::Float(0.5))]).unwrap();
    assert_eq!(driver.get(0, "lookahead_alpha"), Some(Value::Float(0.25)));
    // All or nothing.
    let error = driver.set(0, &[("lookahead_alpha", Value::Float(0.75)), ("lr", Value::Float(-1.0))]);
    assert!(error.is_err());
    assert_eq!(driver.get(0, "lookahead_alpha"), Some(Value::Float(0.25)));
    assert_eq!(driver.get(0, "lr"), Some(Value::Float(0.5)));
    let unknown = driver.set(0, &[("alpha", Value::Float(0.5))]).unwrap_err().to_string();
    assert!(unknown.contains("cautious") && unknown.contains("lookahead_alpha"), "{unknown}");
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for (text, expected) in [
        ("dict(type='AdamW', cautious=1)", "AdamW: cautious must be a bool, got 1"),
        ("dict(type='AdamW', cautoius=True)", r#"did you mean "cautious"?"#),
        ("dict(type='AdamW', wrap='Lookahead')", "wrap must be a dict"),
        ("dict(type='AdamW', wrap=dict(k=5))", "type"),
        ("dict(type='AdamW', wrap=dict(type='LookAhead'))", r#"did you mean "Lookahead"?"#),
        ("dict(type='AdamW', wrap=dict(type='SWA'))", r#"known are Lookahead"#),
        ("dict(type='AdamW', wrap=dict(type='Lookahead', K=5))", r#"has no "K""#),
        ("dict(type='AdamW', wrap=dict(type='Lookahead', k=0))", "k must be an integer of at least 1, got 0"),
        (
            "dict(type='AdamW', wrap=dict(type='Lookahead', k=2.5))",
            "k must be an integer of at least 1, got 2.5",
        ),
        (
            "dict(type='AdamW', wrap=dict(type='Lookahead', alpha=1.0))",
            "alpha must be a number in [0, 1), got 1.0",
        ),
        ("dict(type='LBFGS', cautious=True)", "LBFGS: cautious does not go with it"),
        ("dict(type='LBFGS', wrap=dict(type='Lookahead'))", "LBFGS: Lookahead does not go with it"),
        ("dict(type='SparseAdam', wrap=dict(type='Lookahead'))", "it takes row-sparse gradients only"),
        (
            "dict(type='ZeroOneAdam', wrap=dict(type='Lookahead'))",
            "its replicas diverge between two exchanges",
        ),
    ] {
        let error = fallline::AnyRecipe::from_text(text).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    // Rows would move alone.
    let (mut table, values) = (vec![1.0f32; 12], vec![0.5f32; 4]);
    for modifier in ["cautious=True", "wrap=dict(type='Lookahead')"] {
        let mut optimizer = crate::common::build(&format!("dict(type='Adagrad', {modifier})"));
        let rows = fallline::optim::rows(&[2, 0], &values);
        let bound = fallline::optim::param("table", &mut table, rows).shaped(&[6, 2]);
        let error = optimizer.step(&mut [bound]).unwrap_err().to_string();
        assert!(error.contains("Adagrad takes no row-sparse gradients"), "{error}");
        let error =
            fallline::optim::can_offload(recipe(&format!("dict(type='AdamW', {modifier})")).algorithm());
        assert!(error.unwrap_err().starts_with("AdamW cannot be offloaded"));
    }
}

/// What modifiers leave out costs nothing: the passes of a step, and the bytes that they move.
#[test]
fn passes_move_what_they_must() {
    let bytes = |text: &str| recipe(text).algorithm().program(Default::default()).traffic(|_| 4.0);
    assert_eq!(bytes("AdamW"), 28.0);
    // The first pass writes the moments and the masked update, the second the parameter; the decay is the second's.
    assert_eq!(bytes("dict(type='AdamW', cautious=True)"), 28.0 + 12.0);
    // Three passes: momentum, norms and the decayed gradient; the masked update; the step.
    assert_eq!(bytes("dict(type='LARS', cautious=True)"), 24.0 + 16.0 + 12.0);
    // The average goes with the parameter.
    assert_eq!(bytes("dict(type='ASGD', cautious=True)"), 16.0 + 20.0);
    let program = |text: &str| recipe(text).algorithm().program(Default::default());
    // Where no gradient takes a decay, none is kept.
    let first = |options: &str| {
        let text = format!("dict(type='DAdaptAdam', weight_decay=0.1, cautious=True{options})");
        program(&text).kernels().next().unwrap().name
    };
    assert_eq!(first(""), "DAdaptAdamMomentsRuleDecayed");
    assert_eq!(first(", decouple=True"), "DAdaptAdamUndecayedRule");
    assert!(program("dict(type='AdamW', wrap=dict(type='Lookahead'))").is_periodic());
    assert_eq!(program("dict(type='AdamW', cautious=False)"), program("AdamW"));
}

#[test]
fn every_name_is_cautious_or_says_why_not() {
    let text = |name: &str| match name {
        "ZeroRedundancyOptimizer" => format!("dict(type='{name}', optimizer_type='AdamW', cautious=True)"),
        _ => format!("dict(type='{name}', cautious=True)"),
    };
    for entry in ENTRIES {
        let found = fallline::AnyRecipe::from_text(&text(entry.name));
        let skips = inputs_of(entry.name).map_or(&[][..], |inputs| inputs.skips);
        match skips.iter().find(|(part, _)| *part == Skip::Cautious) {
            None => {
                let recipe = found.unwrap_or_else(|error| {
                    panic!("{error}\nIf this must be, write Skip::Cautious in tests/common/inputs/table.rs")
                });
                let recipe = recipe.stepping().unwrap();
                let modifiers = recipe.algorithm().modifiers();
                assert!(modifiers.cautious, "{}", entry.name);
                assert_eq!(modifiers.sharded, entry.name == "ZeroRedundancyOptimizer");
                // In every program the parameter is written behind a pass that counts.
                for program in recipe.algorithm().programs() {
                    let passes: Vec<&Kernel> = program.kernels().collect();
                    let [.., counts, moves] = passes[..] else { panic!("{}", entry.name) };
                    assert_eq!(moves.between.declared.reads, ["agree"], "{}", entry.name);
                    assert_eq!(counts.sums.last(), Some(&"agree"), "{}", entry.name);
                }
            }
            Some((_, why)) => {
                let error = found.map(|_| ()).unwrap_err().to_string();
                assert!(error.contains(entry.name) && error.contains(why), "{error}");
            }
        }
    }
    // In a program that hyperparameters choose too.
    Recipe::from_text("dict(type='DAdaptAdam', weight_decay=0.1, cautious=True)").unwrap();
    Recipe::from_text("dict(type='PytorchLARS', momentum=0.9, weight_decay=0.1, cautious=True)").unwrap();
}

/// Returns of a step's updates what agrees with the gradients, longer by as much as there is less of it.
fn agreeing(updates: &[f64], grads: &[f64]) -> Vec<f64> {
    let agrees = |u: f64, g: f64| if u * g > 0.0 { 1.0 } else { 0.0 };
    let mask: Vec<f64> = updates.iter().zip(grads).map(|(u, g)| agrees(*u, *g)).collect();
    let share = mask.iter().sum::<f64>() / mask.len() as f64;
    updates.iter().zip(&mask).map(|(u, agrees)| u * agrees / share.max(1e-3)).collect()
}

fn norm(numbers: &[f64]) -> f64 {
    numbers.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// A tensor of a reference, and its states by name.
#[derive(Default)]
struct Naive {
    p: Vec<f64>,
    states: BTreeMap<&'static str, Vec<f64>>,
}

impl Naive {
    /// Changes the parameter and a state of its: what a function makes of each element and its gradient.
    fn change(&mut self, state: &'static str, grads: &[f64], with: impl Fn(f64, &mut f64, f64)) {
        let states = self.states.entry(state).or_insert_with(|| vec![0.0; grads.len()]);
        self.p.iter().zip(states).zip(grads).for_each(|((p, state), g)| with(*p, state, *g));
    }

    /// The step: of the parameter as it is multiplied by a decay the masked updates are taken.
    fn descend(&mut self, keep: f64, updates: &[f64], grads: &[f64]) {
        self.p.iter_mut().zip(agreeing(updates, grads)).for_each(|(p, move_)| *p = keep * *p - move_);
    }
}

/// Steps an optimizer and a reference, given the number of each step, and compares parameters and states in `f64`.
fn follows(optimizer: &mut fallline::Driver, mut reference: impl FnMut(usize, &mut [Naive], &[Vec<f64>])) {
    const LENGTHS: [usize; 3] = [300, 37, 2];
    let mut random = Random(11);
    let mut got = LENGTHS.map(|n| random.units(n));
    let mut expected: Vec<Naive> = got.iter().map(|p| Naive { p: p.clone(), ..Naive::default() }).collect();
    // Gradients have a direction of their own, so that there is something to find, and some elements none.
    let drift = LENGTHS.map(|n| random.units(n));
    for t in 1..=9 {
        let grads = drift.each_ref().map(|drift| {
            let given = drift.iter().zip(random.units(drift.len())).enumerate();
            let given = given.map(|(i, (drift, x))| if i % 5 == 2 { 0.0 } else { drift + x });
            given.collect::<Vec<f64>>()
        });
        reference(t, &mut expected, &grads);
        let names = ["a", "b", "c"];
        let bound = names.into_iter().zip(&mut got).zip(&grads);
        let mut bindings: Vec<_> = bound.map(|((name, p), g)| fallline::optim::param(name, p, g)).collect();
        optimizer.step(&mut bindings).unwrap();
        drop(bindings);
        for ((name, got), expected) in names.into_iter().zip(&got).zip(&expected) {
            // Some hundred roundings of numbers of about 1, which an estimate of D-Adaptation makes a hundred times
            // larger; an element on the other side of the mask would be off by a hundredth.
            let near = |what: &str, got: &[f64], expected: &[f64]| {
                for (i, (x, y)) in got.iter().zip(expected).enumerate() {
                    assert!((x - y).abs() <= 1e-10, "{what} of {name}, {i}, step {t}: {x:e}, expected {y:e}");
                }
            };
            near("p", got, &expected.p);
            for (state, expected) in &expected.states {
                near(state, &optimizer.state(name, state).unwrap().unwrap(), expected);
            }
        }
    }
}

/// The gradient, with its decay, enters the momentum in a pass before the one that is made cautious.
#[test]
fn cautious_lars_is_its_definition() {
    let options = "lr=0.1, momentum=0.5, weight_decay=0.3, max_unorm=0.3, cautious=True";
    for name in ["LARS", "LARS32bit", "LARS8bit", "PytorchLARS"] {
        let mut optimizer =
            recipe(&format!("dict(type='{name}', {options})")).optimizer(crate::common::best());
        follows(&mut optimizer, |_, tensors, grads| {
            for (tensor, grads) in tensors.iter_mut().zip(grads) {
                let grads: Vec<f64> = grads.iter().zip(&tensor.p).map(|(g, p)| g + 0.3 * p).collect();
                tensor.change("momentum", &grads, |_, b, g| *b = 0.5 * *b + g);
                let b = &tensor.states["momentum"];
                let ratio = (0.3 * norm(&tensor.p) / norm(b)).min(1.0);
                let updates: Vec<f64> = b.iter().map(|b| 0.1 * ratio * b).collect();
                tensor.descend(1.0, &updates, &grads);
            }
        });
    }
}

#[test]
fn cautious_dadapt_adam_is_its_definition() {
    for decouple in [false, true] {
        let flag = if decouple { "True" } else { "False" };
        let text = format!(
            "dict(type='DAdaptAdam', betas=(0.9, 0.96), eps=1e-3, weight_decay=0.3, decouple={flag}, d0=1e-2, \
            growth_rate=1.5, cautious=True)"
        );
        let mut optimizer = recipe(&text).optimizer(crate::common::best());
        let (mut d, mut numerator, root) = (1e-2f64, 0.0, 0.96f64.sqrt());
        follows(&mut optimizer, |_, tensors, grads| {
            let (mut dot, mut length, rate) = (0.0, 0.0, d);
            let decayed = tensors.iter().zip(grads).map(|(tensor, grads)| {
                let decay = if decouple { 0.0 } else { 0.3 };
                grads.iter().zip(&tensor.p).map(|(g, p)| g + decay * p).collect()
            });
            let decayed: Vec<Vec<f64>> = decayed.collect();
            for (tensor, grads) in tensors.iter_mut().zip(&decayed) {
                for name in ["s", "v"] {
                    tensor.change(name, grads, |_, _, _| {});
                }
                let (s, v) = (&tensor.states["s"], &tensor.states["v"]);
                let terms = grads.iter().zip(s.iter().zip(v));
                dot += terms.map(|(g, (s, v))| rate * g * s / (v.sqrt() + 1e-3)).sum::<f64>();
                tensor.change("m", grads, |_, m, g| *m = 0.9 * *m + rate * (1.0 - 0.9) * g);
                tensor.change("v", grads, |_, v, g| *v = 0.96 * *v + (1.0 - 0.96) * g * g);
                tensor.change("s", grads, |_, s, g| *s = root * *s + rate * (1.0 - root) * g);
                length += tensor.states["s"].iter().map(|s| s.abs()).sum::<f64>();
            }
            numerator = root * numerator + (1.0 - root) * dot;
            d = d.max((numerator / ((1.0 - root) * length)).min(1.5 * d));
            for (tensor, grads) in tensors.iter_mut().zip(&decayed) {
                let (m, v) = (&tensor.states["m"], &tensor.states["v"]);
                let updates: Vec<f64> = m.iter().zip(v).map(|(m, v)| m / (v.sqrt() + 1e-3)).collect();
                tensor.descend(if decouple { 1.0 - 0.3 * rate } else { 1.0 }, &updates, grads);
            }
        });
        assert!(d > 1e-2, "the estimate has moved");
        assert!((optimizer.shared("d").unwrap() - d).abs() < 1e-10 * d);
    }
}

/// Its average is that of the parameter as it is after the masked step.
#[test]
fn cautious_asgd_is_its_definition() {
    let single = |x: f64| f64::from(x as f32);
    // Without a decay in them, gradients of 0 agree with nothing.
    for decay in [0.3, 0.0] {
        let options = format!("lr=0.1, lambd=0.2, t0=2.0, weight_decay={decay:?}, cautious=True");
        let mut optimizer = recipe(&format!("dict(type='ASGD', {options})")).optimizer(crate::common::best());
        follows(&mut optimizer, |t, tensors, grads| {
            let before = (t - 1) as f64;
            let eta = single(0.1 / (1.0 + 0.2 * 0.1 * before).powf(0.75));
            let share = single(1.0 / (before - 2.0).max(1.0));
            for (tensor, grads) in tensors.iter_mut().zip(grads) {
                let grads: Vec<f64> = grads.iter().zip(&tensor.p).map(|(g, p)| g + decay * p).collect();
                let updates: Vec<f64> = grads.iter().map(|g| eta * g).collect();
                tensor.descend(1.0 - 0.2 * eta, &updates, &grads);
                tensor.change("ax", &grads, |p, ax, _| *ax += (p - *ax) * share);
            }
        });
    }
}

fallline::hyperparameters! {
    /// A momentum, and states that follow the parameter.
    pub Trailing as "Trailing" {
        /// Learning rate.
        lr: f64 = 0.1, Range::AtLeast(0.0);
        /// How much of all is kept.
        keep: f64 = 0.5, Range::HalfOpen(0.0, 1.0);
        /// Whether one of them takes in the momentum too.
        entangled: bool = false, Range::Any;
    }
}

fallline::rule! {
    /// A step of [`Trailing`]. The states that follow read the parameter as it was, the gradient and each other.
    pub TrailingRule(h: Trailing, t) {
        let lr = h.lr;
        let keep = h.keep;
    }
    element(g: Grad) -> (p: Param, way: State, m: State, ax: State) {
        let before = p;
        m = keep * m + g;
        p = p - lr * m;
        ax = keep * ax + p * g + way;
        way = before - p;
    }
    or
    /// The same with a state that follows the parameter and the momentum.
    pub EntangledRule
    element(g: Grad) -> (p: Param, m: State, ax: State) {
        m = keep * m + g;
        p = p - lr * m;
        ax = keep * ax + p * m;
    }
}

impl fallline::Algorithm for Trailing {
    const INFO: fallline::Info = fallline::Info {
        summary: "A momentum, and states that follow the parameter.",
        family: "averaging",
        source: "these tests",
        differences: "",
        references: &[],
    };

    fn program<K: fallline::Link>(
        &self,
        on: &fallline::Site<'_, '_, Self, K>,
    ) -> Result<fallline::Steps<Self, K>, String> {
        Ok(if self.entangled { on.pass::<EntangledRule>() } else { on.pass::<TrailingRule>() })
    }
}

#[test]
fn states_go_with_the_parameter_that_they_follow() {
    let registry = fallline::Registry::standard().with::<Trailing>().unwrap();
    let read = |options: &str| {
        Recipe::from_text_with(&format!("dict(type='Trailing', cautious=True{options})"), &registry)
    };
    let mut optimizer = read("").unwrap().optimizer(crate::common::best());
    follows(&mut optimizer, |_, tensors, grads| {
        for (tensor, grads) in tensors.iter_mut().zip(grads) {
            let before = tensor.p.clone();
            tensor.change("m", grads, |_, m, g| *m = 0.5 * *m + g);
            let updates: Vec<f64> = tensor.states["m"].iter().map(|m| 0.1 * m).collect();
            tensor.descend(1.0, &updates, grads);
            tensor.change("way", grads, |_, _, _| {});
            let way = tensor.states["way"].clone();
            tensor.change("ax", grads, |p, ax, g| *ax = 0.5 * *ax + p * g);
            tensor.change("ax", &way, |_, ax, way| *ax += way);
            tensor.change("way", &before, |p, way, before| *way = before - p);
        }
    });
    let error = read(", entangled=True").unwrap_err().to_string();
    let expected = "its states follow the new parameter and what only the pass before it has";
    assert!(error.contains("Trailing") && error.contains(expected), "{error}");
}

fallline::alias! {
    /// Under a separate name.
    pub Own as "OwnAdamW" is fallline::optim::algorithms::AdamW, with { lr = 0.01 }
}

#[test]
fn algorithms_of_other_crates_take_them_too() {
    let registry = fallline::Registry::standard().with::<Own>().unwrap();
    let around = "cautious=True, wrap=dict(type='Lookahead', k=2)";
    let own = Recipe::from_text_with(&format!("dict(type='OwnAdamW', {around})"), &registry).unwrap();
    let tensors = tensors((Format::F32, Format::F32), 4, 5);
    let expected =
        outcome_of(crate::common::build(&format!("dict(type='AdamW', lr=0.01, {around})")), &tensors);
    assert_eq!(outcome_of(own.optimizer(crate::common::best()), &tensors), expected);
}
