//! One suite for every name of the registry, on every device and in every type of parameter, driven by a table:
//! `tests/common/inputs.rs`.

use crate::common::inputs::{self, INPUTS, Inputs, Skip};
use crate::common::{
    Buffer, Left, Outcome, Random, Tensor, backends, bind, build_on, cpu, first_difference, method, name_of,
    outcome, outcome_of, recipe, run,
};
use fallline::optim::hyper::Value;
use fallline::optim::{Error, Skipped};
use fallline::registry::names::find;
use fallline::{Backend, Checkpoint, Driver, Format, Isa, NonFinitePolicy, Optimizer, Recipe};
use std::sync::Arc;

const STEPS: usize = 6;

/// Parameters of a name: matrices, vectors, one number and none at all, with gaps in their gradients; late ones.
fn tensors(inputs: &Inputs, format: Format, random: &mut Random) -> Vec<Tensor> {
    let flat: &[(&str, &[usize])] =
        &[("fc.bias", &[37]), ("zero.dim", &[]), ("empty", &[0, 3]), ("vector.late", &[6])];
    let matrix: &[(&str, &[usize])] =
        &[("fc.weight", &[7, 5]), ("last.weight", &[3, 4]), ("matrix.late", &[2, 3])];
    let flat = if inputs.skips(Skip::Flat) { &[] } else { flat };
    let given = |name: &str, t: usize| match name {
        "fc.bias" => t != 2,
        late if late.ends_with("late") => t >= 3,
        _ => true,
    };
    let of_grads = if format == Format::F64 { Format::F64 } else { Format::F32 };
    let mut tensors = Vec::new();
    for (name, shape) in flat.iter().chain(matrix) {
        let n = shape.iter().product();
        let value = Buffer::new(format, &random.units(n));
        let grads = (0..STEPS).map(|t| given(name, t).then(|| Buffer::new(of_grads, &random.units(n))));
        let grads = grads.collect();
        tensors.push(Tensor { shape: Some(shape.to_vec()), ..Tensor::new(*name, value, grads) });
    }
    tensors
}

/// Returns the types that a check runs in. The emulator takes its time: there each case has one of them, and
/// [`every_device_gives_the_scalar_bits`] all.
fn formats(case: usize) -> Vec<Format> {
    match env!("CARGO_CRATE_NAME") {
        "on_cuda" => vec![Format::ALL[case % Format::ALL.len()]],
        _ => Format::ALL.to_vec(),
    }
}

/// Runs a check for every good input and type: configuration, parameters, and a fresh optimizer on each device.
fn for_each(seed: u64, check: impl Fn(&Inputs, &str, &[Tensor], &dyn Fn() -> Driver)) {
    for (row, inputs) in INPUTS.iter().enumerate().filter(|(_, inputs)| !inputs.skips(Skip::Step)) {
        for (i, text) in inputs.good.iter().enumerate() {
            for format in formats(row + i) {
                let tensors = tensors(inputs, format, &mut Random(seed + i as u64));
                for backend in backends() {
                    check(inputs, text, &tensors, &|| build_on(Arc::clone(&backend), text));
                }
            }
        }
    }
}

/// Returns all of an optimizer: states, counts, what is remembered, hyperparameters.
fn saved(optimizer: &Driver) -> Vec<u8> {
    optimizer.save().unwrap().to_bytes().unwrap()
}

fn of<'o>(outcome: &'o Outcome, name: &str) -> &'o Left {
    outcome.iter().find(|param| param.0 == name).unwrap()
}

#[test]
fn the_table_has_every_name_and_hyperparameter() {
    let mut problems = inputs::problems();
    for inputs in INPUTS {
        let Some(entry) = find(inputs.name) else { continue };
        for text in inputs.good.iter().chain([&inputs.largest]).filter(|text| name_of(text) != inputs.name) {
            problems.push(format!("{}: {text} is of another name", inputs.name));
        }
        if inputs.bad.is_empty() {
            problems.push(format!("{} has no bad inputs", inputs.name));
        }
        for hyper in entry.defaults().table().iter().filter(|hyper| hyper.counts) {
            let default = (hyper.default)();
            let moved = |text: &&str| method(text).get(hyper.name).as_ref() != Some(&default);
            // A switch may have one good position; then the other is among the bad inputs.
            let other = |x: bool| format!("{}={}", hyper.name, Value::Bool(!x));
            let refused = |x: bool| inputs.bad.iter().any(|(arguments, _)| *arguments == other(x));
            let only = matches!(default, Value::Bool(x) if refused(x));
            if !inputs.good.iter().any(moved) && !only {
                problems.push(format!("{}: {} has its default in every good input", inputs.name, hyper.name));
            }
        }
        let states = |text: &str| method(text).algorithm().map_or(0, |algorithm| algorithm.states().len());
        if let Some(larger) = inputs.good.iter().find(|text| states(text) > states(inputs.largest)) {
            problems.push(format!("{}: {larger} has more states than the largest", inputs.name));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The kind of a hyperparameter that takes strings.
const STRINGS: &str = "list of strings";

#[test]
fn bad_inputs_are_refused_with_these_words() {
    let complaint = |text: &str| {
        let error = Recipe::from_text(text).err().unwrap_or_else(|| panic!("{text} is taken")).to_string();
        // In front is the place in the text.
        let at = error.find(": ").filter(|_| error.starts_with("line "));
        at.map_or(error.clone(), |at| error[at + 2..].to_owned())
    };
    for inputs in INPUTS {
        let name = inputs.name;
        for (arguments, expected) in inputs.bad {
            let found = complaint(&format!("dict(type='{name}', {arguments})"));
            // Behind what it lacks stands what it has.
            let found = found.split("; it has ").next().unwrap_or_default();
            assert_eq!(found, *expected, "{name}, {arguments}");
        }
        assert!(complaint(&format!("dict(type='{name}', nonsense_=1)")).contains(r#"has no "nonsense_""#));
        // Every hyperparameter refuses what is of no type that any has.
        // (A list of strings is what two strings are.)
        for hyper in find(name).unwrap().defaults().table().iter().filter(|hyper| hyper.kind != STRINGS) {
            let expected = format!("{name}: {} must be a {}, got (\"x\", \"y\")", hyper.name, hyper.kind);
            assert_eq!(complaint(&format!("dict(type='{name}', {}=('x', 'y'))", hyper.name)), expected);
        }
    }
}

#[test]
fn accepted_arguments_change_no_bit() {
    for inputs in INPUTS.iter().filter(|inputs| !inputs.skips(Skip::Step)) {
        let entry = find(inputs.name).unwrap();
        let text = inputs.good[0];
        let start = tensors(inputs, Format::F32, &mut Random(1));
        let expected = outcome_of(build_on(cpu(Isa::best(), 1), text), &start);
        let lr = recipe(text).algorithm().get("lr").unwrap();
        for hyper in entry.defaults().table().iter().filter(|hyper| !hyper.counts) {
            let default = (hyper.default)();
            let values = [default.clone(), Value::Bool(true), Value::Bool(false), Value::None];
            for value in values.into_iter().filter(|value| *value == default || hyper.kind.contains("bool")) {
                let text = match text.strip_suffix(')') {
                    Some(rest) => format!("{rest}, {}={value})", hyper.name),
                    None => format!("dict(type='{text}', lr={lr}, {}={value})", hyper.name),
                };
                match Recipe::from_text(&text) {
                    Ok(_) => {
                        let got = outcome_of(build_on(cpu(Isa::best(), 1), &text), &start);
                        assert!(got == expected, "{text}");
                    }
                    Err(error) => {
                        assert!(
                            value != default && error.to_string().contains(hyper.name),
                            "{text}: {error}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn every_device_gives_the_scalar_bits() {
    let on_cuda = env!("CARGO_CRATE_NAME") == "on_cuda";
    let others = |inputs: &&Inputs| !inputs.skips(Skip::Step) && !(on_cuda && inputs.skips(Skip::Products));
    for inputs in INPUTS.iter().filter(others) {
        for (i, text) in inputs.good.iter().enumerate() {
            for format in Format::ALL {
                let tensors = tensors(inputs, format, &mut Random(i as u64));
                let reference = outcome_of(build_on(cpu(Isa::Scalar, 1), text), &tensors);
                // AVX-512 may have a unit of its own for products of bf16.
                let comparable = |on: &str| !(text.contains("ns_dtype='bf16'") && on.contains("avx512"));
                for backend in backends().into_iter().filter(|backend| comparable(&backend.describe())) {
                    let on = backend.describe();
                    let got = outcome_of(build_on(backend, text), &tensors);
                    let difference = || first_difference(&reference, &got);
                    assert!(got == reference, "{text} in {format} on {on}: {}", difference());
                }
            }
        }
    }
}

#[test]
fn a_run_goes_on_bit_for_bit_from_any_step() {
    for_each(21, |_, text, start, fresh| {
        let mut whole = start.to_vec();
        let mut straight = fresh();
        run(&mut straight, &mut whole, 0..STEPS);
        let (expected, everything) = (outcome(&straight, &whole), saved(&straight));
        for stop in 0..=STEPS {
            let mut parts = start.to_vec();
            let mut first = fresh();
            run(&mut first, &mut parts, 0..stop);
            let saved_there = first.save().unwrap();
            let bytes = saved_there.to_bytes().unwrap();
            let read = Checkpoint::from_bytes(&bytes).unwrap();
            assert_eq!(read, saved_there, "{text}: what is read is what was saved");
            assert_eq!(read.to_bytes().unwrap(), bytes, "{text}: and writes the same");
            let mut second = fresh();
            let report = second.load(&read).unwrap();
            assert_eq!(report.matched, first.params().len());
            assert_eq!(second.params(), first.params(), "{text} at {stop}");
            run(&mut second, &mut parts, stop..STEPS);
            assert!(outcome(&second, &parts) == expected, "{text} at {stop}");
            assert!(saved(&second) == everything, "{text} at {stop}: what is remembered");
        }
    });
}

#[test]
fn a_missing_gradient_leaves_everything_as_it_was() {
    for_each(5, |inputs, text, start, fresh| {
        let name = start.iter().find(|tensor| tensor.name.starts_with("fc")).unwrap().name.clone();
        let mut tensors = start.to_vec();
        let mut optimizer = fresh();
        run(&mut optimizer, &mut tensors, 0..2);
        // One of them: it stays, and others go on.
        let mut gap = tensors.clone();
        let place = gap.iter().position(|tensor| tensor.name == name).unwrap();
        gap[place].grads[2] = None;
        let before = outcome(&optimizer, &gap);
        let given = gap.iter().filter(|tensor| tensor.grads[2].is_some()).count();
        let report = optimizer.step(&mut bind(&mut gap, 2)).unwrap();
        assert_eq!((report.updated, report.without_grad), (given, gap.len() - given), "{text}");
        let after = outcome(&optimizer, &gap);
        assert_eq!(of(&before, &name), of(&after, &name), "{text}");
        // All of them: nothing at all happens.
        let everything = saved(&optimizer);
        gap.iter_mut().for_each(|tensor| tensor.grads[3] = None);
        assert_eq!(optimizer.step(&mut bind(&mut gap, 3)).unwrap().updated, 0);
        assert_eq!(outcome(&optimizer, &gap), after, "{text}");
        // What counts the steps of a group counts this one.
        let counts = inputs.skips(Skip::Alone);
        assert!(saved(&optimizer) == everything || counts, "{text}: what is remembered");
        // A gradient of zeros is not the same.
        let zeros = vec![0.0; gap[place].value.values().len()];
        gap[place].grads[4] = Some(Buffer::new(gap[place].grads[1].as_ref().unwrap().format(), &zeros));
        run(&mut optimizer, &mut gap, 4..5);
        let zero = outcome(&optimizer, &gap);
        assert_eq!(of(&zero, &name).2, of(&after, &name).2 + 1, "{text}");
        if !of(&after, &name).3.is_empty() && !inputs.skips(Skip::Rest) {
            let both = |outcome| (of(outcome, &name).1.clone(), of(outcome, &name).3.clone());
            assert_ne!(both(&zero), both(&after), "{text}: nothing moves");
        }
        // Without the gap the rest is the same, where it does not depend on the others.
        if inputs.skips(Skip::Alone) {
            return;
        }
        let mut gapless = Tensor { value: start[place].value.clone(), ..gap[place].clone() };
        gapless.grads = [0, 1, 4].map(|t| gap[place].grads[t].clone()).to_vec();
        assert_eq!(outcome_of(fresh(), &[gapless])[0], *of(&zero, &name), "{text}");
    });
}

#[test]
fn empty_parameters_step_and_one_number_is_a_vector_of_one() {
    for_each(8, |inputs, text, start, fresh| {
        if inputs.skips(Skip::Flat) {
            return;
        }
        let got = outcome_of(fresh(), start);
        assert_eq!((of(&got, "empty").1.len(), of(&got, "empty").2), (0, STEPS as u64), "{text}");
        let mut flat = start.to_vec();
        flat.iter_mut()
            .filter(|tensor| tensor.name == "zero.dim")
            .for_each(|tensor| tensor.shape = Some(vec![1]));
        assert_eq!(of(&outcome_of(fresh(), &flat), "zero.dim"), of(&got, "zero.dim"), "{text}");
    });
}

#[test]
fn the_order_of_bindings_changes_nothing() {
    for_each(13, |_, text, start, fresh| {
        let reference = outcome_of(fresh(), start);
        let mut random = Random(7);
        let (mut optimizer, mut shuffled) = (fresh(), start.to_vec());
        for t in 0..STEPS {
            for i in (1..shuffled.len()).rev() {
                shuffled.swap(i, random.below(i + 1));
            }
            run(&mut optimizer, &mut shuffled, t..t + 1);
        }
        assert!(outcome(&optimizer, &shuffled) == reference, "{text}");
    });
}

#[test]
fn groups_have_rates_of_their_own() {
    let is_weight = |name: &str| name.ends_with("weight");
    for_each(17, |inputs, text, start, fresh| {
        if inputs.skips(Skip::Rates)
            || recipe(text).algorithm().get("lr").and_then(|lr| lr.as_f64()).is_none()
        {
            return;
        }
        let other = [("lr", Value::Float(0.03))];
        // Phases that all tensors share are the same when all step together.
        let mut start = start.to_vec();
        start.retain(|tensor| tensor.grads.iter().all(Option::is_some));
        let mut both = fresh();
        both.add_group(is_weight, &other).unwrap();
        let both = outcome_of(both, &start);
        let (weights, others): (Vec<Tensor>, Vec<Tensor>) =
            start.into_iter().partition(|tensor| is_weight(&tensor.name));
        let mut faster = fresh();
        faster.set(0, &other).unwrap();
        let mut apart = outcome_of(faster, &weights);
        apart.extend(outcome_of(fresh(), &others));
        apart.sort();
        assert!(both == apart, "{text}");
    });
}

#[test]
fn a_step_with_nan_or_infinity_is_skipped_or_refused_whole() {
    for inputs in INPUTS.iter().filter(|inputs| !inputs.skips(Skip::Step)) {
        for (i, text) in inputs.good.iter().enumerate() {
            for backend in backends() {
                let bad = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][i % 3];
                let format = Format::ALL[i % Format::ALL.len()];
                let start = tensors(inputs, format, &mut Random(i as u64));
                for policy in [NonFinitePolicy::Skip, NonFinitePolicy::Error] {
                    not_finite(text, &backend, &start, policy, bad);
                }
            }
        }
    }
}

fn not_finite(text: &str, backend: &Arc<dyn Backend>, start: &[Tensor], policy: NonFinitePolicy, bad: f64) {
    let build = || build_on(Arc::clone(backend), text).with_non_finite(policy);
    let mut tensors = start.to_vec();
    let place = tensors.iter().position(|tensor| tensor.name.starts_with("fc")).unwrap();
    let mut values = tensors[place].grads[1].as_ref().unwrap().values();
    let last = values.len() - 1;
    (values[0], values[last]) = (bad, bad);
    tensors[place].grads[1] = Some(Buffer::new(tensors[place].grads[1].as_ref().unwrap().format(), &values));
    let mut without = tensors.clone();
    let (mut optimizer, mut fresh) = (build(), build());
    run(&mut optimizer, &mut tensors, 0..1);
    for optimizer in [&mut optimizer, &mut fresh] {
        let (before, everything) = (outcome(optimizer, &tensors), saved(optimizer));
        match (policy, optimizer.step(&mut bind(&mut tensors, 1))) {
            (NonFinitePolicy::Skip, Ok(report)) => {
                let expected = Skipped::NonFinite { param: start[place].name.clone(), count: 2 };
                assert_eq!((report.skipped, report.updated), (Some(expected), 0), "{text}");
            }
            (NonFinitePolicy::Error, Err(Error::NonFinite { param, count: 2 })) => {
                assert_eq!(param, start[place].name)
            }
            (_, other) => panic!("{text}, {policy:?}: {other:?}"),
        }
        assert_eq!(outcome(optimizer, &tensors), before, "{text}, {policy:?}");
        assert!(saved(optimizer) == everything, "{text}, {policy:?}: what is remembered");
    }
    // And it goes on as if the step had not been.
    run(&mut optimizer, &mut tensors, 2..STEPS);
    without.iter_mut().for_each(|tensor| drop(tensor.grads.remove(1)));
    assert_eq!(outcome_of(build(), &without), outcome(&optimizer, &tensors), "{text}");
}

#[test]
fn nan_stays_in_its_tensor_by_default() {
    for_each(19, |inputs, text, start, fresh| {
        if inputs.skips(Skip::Alone) {
            return;
        }
        let mut start = start.to_vec();
        let place = start.iter().position(|tensor| tensor.name.starts_with("fc")).unwrap();
        let expected = outcome_of(fresh(), &start);
        let mut values = start[place].grads[0].as_ref().unwrap().values();
        values[0] = f64::NAN;
        start[place].grads[0] = Some(Buffer::new(start[place].grads[0].as_ref().unwrap().format(), &values));
        let got = outcome_of(fresh(), &start);
        for (got, expected) in got.iter().zip(&expected) {
            if got.0 != start[place].name {
                assert_eq!(got, expected, "{text}");
            }
        }
        // Every other element of the tensor has what it had, where a step looks at one element alone.
        let (got, expected) = (of(&got, &start[place].name), of(&expected, &start[place].name));
        let alone = !crate::common::looks_at_whole_tensors(text) && !crate::common::in_blocks(text);
        if alone && !inputs.skips(Skip::Flat) {
            assert_eq!(got.1[1..], expected.1[1..], "{text}");
        }
    });
}
