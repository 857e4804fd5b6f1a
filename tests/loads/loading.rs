//! What a load lets pass, and what it says about it.

use crate::common::{ONE_EACH, Random, Tensor, build, outcome, run};
use fallline::optim::hyper::Value;
use fallline::optim::{LoadOptions, Optimizer};
use fallline::{Compute, Format};

/// Parameters of these names with two gradients each, the same for the same name.
fn tensors(shapes: &[(&str, usize)]) -> Vec<Tensor> {
    let plain = |(name, n): &(&str, usize)| {
        Tensor::plain(name, *n, 2, &mut Random(name.bytes().map(u64::from).sum::<u64>() + *n as u64))
    };
    shapes.iter().map(plain).collect()
}

const SAVED: &[(&str, usize)] = &[("a", 5), ("b", 7), ("old", 2)];
const HERE: &[(&str, usize)] = &[("a", 5), ("b", 3), ("new", 4)];

#[test]
fn a_strict_load_counts_and_changes_nothing() {
    let mut saved = build("AdamW");
    run(&mut saved, &mut tensors(SAVED), 0..1);
    let checkpoint = saved.save().unwrap();
    let mut here = tensors(HERE);
    let mut optimizer = build("AdamW");
    run(&mut optimizer, &mut here, 0..1);
    let before = (outcome(&optimizer, &here), optimizer.save().unwrap());
    let error = optimizer.load(&checkpoint).unwrap_err().to_string();
    assert!(error.contains("\"b\" has shape [7] in it, but [3] here"), "{error}");
    assert_eq!((outcome(&optimizer, &here), optimizer.save().unwrap()), before);
}

#[test]
fn a_lenient_load_restores_what_fits_and_lists_the_rest() {
    for text in ["AdamW", "dict(type='SGD', lr=0.1, momentum=0.9)", "Adafactor"] {
        let (mut there, mut here) = (tensors(SAVED), tensors(HERE));
        let (mut saved, mut optimizer) = (build(text), build(text));
        run(&mut saved, &mut there, 0..1);
        run(&mut optimizer, &mut here, 0..1);
        let report = optimizer.load_with(&saved.save().unwrap(), &LoadOptions::default().lenient()).unwrap();
        assert_eq!(
            (report.matched, report.missing.join(" "), report.unexpected.join(" ")),
            (1, "new".into(), "old".into())
        );
        assert_eq!(report.shape.len(), 1);
        assert_eq!(report.shape[0].param, "b");
        assert!(!report.is_complete());
        assert_eq!(report.to_string(), "1 parameter restored, 1 missing, 1 unexpected, 1 of another shape");
        // What was kept goes on as if nothing had been loaded, what was restored as if it had always been there.
        let mut alone = tensors(HERE);
        let mut straight = build(text);
        run(&mut straight, &mut alone, 0..2);
        run(&mut optimizer, &mut here, 1..2);
        let (got, kept) = (outcome(&optimizer, &here), outcome(&straight, &alone));
        let of = |list: &crate::common::Outcome, name: &str| {
            list.iter().find(|entry| entry.0 == name).unwrap().clone()
        };
        for name in ["b", "new"] {
            assert_eq!(of(&got, name), of(&kept, name), "{text}: {name}");
        }
        run(&mut saved, &mut there, 1..2);
        assert_eq!(of(&got, "a").2, of(&outcome(&saved, &there), "a").2, "{text}: steps of a");
    }
}

#[test]
fn state_only_keeps_lr_and_takes_the_rest() {
    for text in ONE_EACH {
        let (mut there, mut saved) = (tensors(HERE), build(text));
        run(&mut saved, &mut there, 0..1);
        let checkpoint = saved.save().unwrap();
        let lr = Value::Float(0.25);
        saved.set(0, &[("lr", lr.clone())]).unwrap();
        let mut here = there.clone();
        run(&mut saved, &mut there, 1..2);
        let mut mine = build(text);
        mine.set(0, &[("lr", lr.clone())]).unwrap();
        let report = mine.load_with(&checkpoint, &LoadOptions::default().state_only()).unwrap();
        assert!(report.is_complete());
        assert_eq!(mine.get(0, "lr"), Some(lr), "{text}");
        run(&mut mine, &mut here, 1..2);
        assert_eq!(outcome(&mine, &here), outcome(&saved, &there), "{text}");
    }
}

#[test]
fn state_only_takes_groups_of_its_own() {
    let mut saved = build("AdamW");
    run(&mut saved, &mut tensors(HERE), 0..1);
    let checkpoint = saved.save().unwrap();
    let mut mine = build("AdamW");
    let group = mine.add_group(|name| name == "a", &[("weight_decay", Value::Float(0.0))]).unwrap();
    assert!(mine.load(&checkpoint).unwrap_err().to_string().contains("groups"));
    mine.load_with(&checkpoint, &LoadOptions::default().state_only()).unwrap();
    assert_eq!(mine.params().iter().find(|param| param.name == "a").unwrap().group, group);
    assert_eq!(mine.get(group, "weight_decay"), Some(Value::Float(0.0)));
}

#[test]
fn a_missing_state_is_an_error_or_starts_anew() {
    let mut saved = build("AdamW");
    run(&mut saved, &mut tensors(HERE), 0..1);
    let checkpoint = saved.save().unwrap();
    let mut mine = build("dict(type='AdamW', amsgrad=True)");
    let strict = LoadOptions::default().state_only();
    let error = mine.load_with(&checkpoint, &strict).unwrap_err().to_string();
    assert!(error.contains("v_max"), "{error}");
    let report = mine.load_with(&checkpoint, &strict.clone().lenient()).unwrap();
    assert_eq!(report.missing, ["a/v_max", "b/v_max", "new/v_max"]);
    run(&mut mine, &mut tensors(HERE), 1..2);
    assert_eq!(mine.params()[0].states, ["m", "v", "v_max"]);
    // And one that is too much is left out.
    let mut plain = build("AdamW");
    let report = plain.load_with(&mine.save().unwrap(), &strict.lenient()).unwrap();
    assert_eq!(report.unexpected, ["a/v_max", "b/v_max", "new/v_max"]);
}

#[test]
fn states_change_their_type_when_asked() {
    let mut there: Vec<Tensor> = tensors(HERE);
    let mut saved = build("AdamW").with_compute(Compute::F64);
    run(&mut saved, &mut there, 0..1);
    let checkpoint = saved.save().unwrap();
    let mut single = build("AdamW").with_compute(Compute::F32);
    let error = single.load(&checkpoint).unwrap_err().to_string();
    assert!(error.contains("\"a\"") && error.contains("f64"), "{error}");
    let report = single.load_with(&checkpoint, &LoadOptions::default().converting()).unwrap();
    assert_eq!((report.matched, report.converted), (3, 6));
    for name in ["a", "b", "new"] {
        for state in ["m", "v"] {
            let (wide, narrow) =
                (saved.state(name, state).unwrap().unwrap(), single.state(name, state).unwrap());
            let rounded: Vec<f64> = wide.iter().map(|x| f64::from(*x as f32)).collect();
            assert_eq!(narrow.unwrap(), rounded, "{name}/{state}");
        }
    }
    // And back: exactly.
    let mut double = build("AdamW").with_compute(Compute::F64);
    double.load_with(&single.save().unwrap(), &LoadOptions::default().converting()).unwrap();
    assert_eq!(double.state("a", "m").unwrap(), single.state("a", "m").unwrap());
    assert_eq!(double.save().unwrap().state("a", "m").unwrap().format, Format::F64);
    run(&mut double, &mut there, 1..2);
}

#[test]
fn another_device_takes_a_checkpoint() {
    for text in ONE_EACH {
        let mut there = tensors(HERE);
        let mut cpu = build(text);
        run(&mut cpu, &mut there, 0..1);
        let mut moved = crate::common::build_on(crate::common::cuda(), text);
        moved.load(&cpu.save().unwrap()).unwrap();
        assert_eq!(moved.save().unwrap(), cpu.save().unwrap(), "{text}");
    }
}
