//! What is around an optimizer together with what is in it. Averages, accumulation windows, groups and kinds of
//! modules meet storage formats, master weights, rows, other optimizers, and lenient loads.

use crate::common::{Random, best, bits, recipe};
use fallline::Compute;
use fallline::optim::average::Average;
use fallline::optim::{LoadOptions, ModuleKind, frozen, param, rows};
use fallline::prelude::*;
use half::bf16;

fn halves(random: &mut Random, elements: usize) -> Vec<bf16> {
    random.units(elements).into_iter().map(bf16::from_f64).collect()
}

fn singles(random: &mut Random, elements: usize) -> Vec<f32> {
    random.units(elements).into_iter().map(|x| x as f32).collect()
}

/// Returns it saved and read again.
fn passed_on(optimizer: &Driver) -> Checkpoint {
    Checkpoint::from_bytes(&optimizer.save().unwrap().to_bytes().unwrap()).unwrap()
}

/// A parameter in 16 bits does not see small steps, its master does, and the average is the master's.
#[test]
fn averages_are_of_master_weights() {
    let mut random = Random(11);
    let build = || {
        let text = "dict(type='AdamW', lr=1e-4, param_format='master')";
        recipe(text).optimizer(best()).averaged(Average::exponential(0.25).unwrap())
    };
    let (mut value, mut still) = (halves(&mut random, 700), halves(&mut random, 5));
    let start = still.clone();
    let mut optimizer = build();
    let mut expected: Vec<f32> = Vec::new();
    for t in 0..6 {
        let grad = halves(&mut random, 700);
        optimizer.step(&mut [param("w", &mut value, &grad), frozen("still", &mut still)]).unwrap();
        let master = optimizer.state("w", "master").unwrap().unwrap();
        match t {
            0 => expected = master.iter().map(|x| *x as f32).collect(),
            _ => expected.iter_mut().zip(master).for_each(|(a, p)| *a += 0.25 * (p as f32 - *a)),
        }
        let got = optimizer.average("w").unwrap().unwrap();
        assert_eq!(bits(&got), bits(&expected.iter().map(|x| f64::from(*x)).collect::<Vec<_>>()), "{t}");
        // What has never had a gradient has no master.
        let got = optimizer.average("still").unwrap().unwrap();
        assert_eq!(got, start.iter().map(|x| x.to_f64()).collect::<Vec<_>>());
        let saved = passed_on(&optimizer);
        optimizer = build();
        optimizer.load(&saved).unwrap();
        assert_eq!(passed_on(&optimizer), saved);
    }
    let rounded: Vec<f64> = value.iter().map(|x| x.to_f64()).collect();
    assert_ne!(bits(&optimizer.average("w").unwrap().unwrap()), bits(&rounded));
}

const AROUND: &str = "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.01), accumulative_counts=2)\n";

/// A lenient load leaves what the checkpoint does not have as it is: its average, too.
#[test]
fn a_lenient_load_keeps_averages_and_lists_windows() {
    let build = |text: &str| recipe(text).optimizer(best()).averaged(Average::exponential(0.5).unwrap());
    let mut random = Random(12);
    let grad = singles(&mut random, 9);
    let mut saved = build(AROUND);
    let mut a = singles(&mut random, 9);
    for _ in 0..3 {
        saved.step(&mut [param("a", &mut a, &grad)]).unwrap();
    }
    let checkpoint = passed_on(&saved);
    let mut mine = build(AROUND);
    let mut b = singles(&mut random, 9);
    for _ in 0..2 {
        mine.step(&mut [param("a", &mut a, &grad), param("b", &mut b, &grad)]).unwrap();
    }
    let kept = mine.average("b").unwrap();
    assert!(kept.is_some());
    let report = mine.load_with(&checkpoint, &LoadOptions::default().lenient()).unwrap();
    assert_eq!((&report.missing[..], report.matched), (&["b".to_owned()][..], 1));
    assert_eq!(mine.average("b").unwrap(), kept);
    assert_eq!(mine.average("a").unwrap(), saved.average("a").unwrap());

    // Half a window is nothing to an optimizer without one.
    let plain = "dict(type='AdamW', lr=0.01)";
    let error = build(plain).load(&checkpoint).unwrap_err().to_string();
    assert!(error.contains("window/a is of a window of accumulation"), "{error}");
    let mut passing = build(plain);
    let report = passing.load_with(&checkpoint, &LoadOptions::default().lenient()).unwrap();
    assert_eq!((report.matched, report.unexpected), (1, vec!["window/a".to_owned()]));
    passing.step(&mut [param("a", &mut a, &grad)]).unwrap();
}

/// Averages and windows change their type with the states, rounded once.
#[test]
fn averages_and_windows_are_converted() {
    let build = |compute| {
        let driver = recipe(AROUND).optimizer(best()).with_compute(compute);
        driver.averaged(Average::exponential(0.5).unwrap())
    };
    let (mut value, grad) = (vec![0.1f64, 0.7, -0.3], vec![0.1f64, 0.3, -0.7]);
    let mut wide = build(Compute::F64);
    for _ in 0..3 {
        wide.step(&mut [param("w", &mut value, &grad)]).unwrap();
    }
    let checkpoint = passed_on(&wide);
    let mut narrow = build(Compute::F32);
    let error = narrow.load(&checkpoint).unwrap_err().to_string();
    assert!(error.contains("f64"), "{error}");
    let report = narrow.load_with(&checkpoint, &LoadOptions::default().converting()).unwrap();
    // Two states, a window, an average.
    assert_eq!((report.matched, report.converted), (1, 4));
    let round = |values: Vec<f64>| values.into_iter().map(|x| f64::from(x as f32)).collect::<Vec<_>>();
    let average = wide.average("w").unwrap().unwrap();
    assert_eq!(narrow.average("w").unwrap().unwrap(), round(average));
    assert!(narrow.step(&mut [param("w", &mut value, &grad)]).unwrap().updated == 1, "the window goes on");
}

/// The same parameters one after the other, and all at once: averages and optimizers by rule included.
#[test]
fn optimizers_by_rule_step_in_pieces() {
    let text = "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.01, state_format='q8'),\n\
        paramwise_cfg=dict(custom_keys={'hidden': dict(optimizer=dict(type='Muon', lr=0.02)), 'head': dict(lr_mult=2.0)}))\n";
    let build = || recipe(text).optimizer(best()).averaged(Average::equal(2).unwrap());
    let shapes: [(&str, &[usize]); 3] = [("head", &[300]), ("hidden", &[12, 20]), ("rest", &[600])];
    let outcome = |pieces: bool| {
        let mut random = Random(13);
        let mut values: Vec<Vec<f32>> =
            shapes.iter().map(|(_, shape)| singles(&mut random, shape.iter().product())).collect();
        let mut optimizer = build();
        for _ in 0..5 {
            let grads: Vec<Vec<f32>> =
                shapes.iter().map(|(_, shape)| singles(&mut random, shape.iter().product())).collect();
            let bound = values.iter_mut().zip(&grads).zip(shapes);
            let mut bound: Vec<_> =
                bound.map(|((value, grad), (name, shape))| param(name, value, grad).shaped(shape)).collect();
            if !pieces {
                assert_eq!(optimizer.step(&mut bound).unwrap().updated, 3);
                continue;
            }
            let mut step = optimizer.begin().unwrap();
            for binding in bound.into_iter().rev() {
                step.apply(binding).unwrap();
            }
            assert_eq!(step.finish().unwrap().updated, 3);
        }
        let averages: Vec<_> =
            shapes.iter().map(|(name, _)| bits(&optimizer.average(name).unwrap().unwrap())).collect();
        (optimizer.save().unwrap(), values, averages)
    };
    let (whole, pieces) = (outcome(false), outcome(true));
    assert!(whole.0 == pieces.0 && whole.1 == pieces.1 && whole.2 == pieces.2);
}

/// A rule may say how its parameters and their states are stored; each then takes the steps that it takes alone.
#[test]
fn rules_store_their_parameters_as_they_say() {
    let mixed = "optim_wrapper = dict(\n\
        optimizer=dict(type='AdamW', lr=0.01, state_format='q8', param_format='bf16_sr', seed=3),\n\
        paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys={\n\
            'seeded': dict(seed=4),\n\
            'states': dict(state_format={'m': 'bf16', 'v': 'f32'}, lr_mult=2.0),\n\
            'whole': dict(param_format=None, state_format=None),\n\
            'master': dict(param_format='master'),\n\
            'other': dict(optimizer=dict(type='Lion', lr=0.01, state_format='q4', param_format='master'))}))\n";
    let adamw = "type='AdamW', lr=0.01";
    let alone = [
        ("rest", format!("dict({adamw}, state_format='q8', param_format='bf16_sr', seed=3)")),
        ("norm.weight", format!("dict({adamw}, weight_decay=0.0, state_format='q8', param_format='bf16_sr', seed=3)")),
        ("seeded", format!("dict({adamw}, state_format='q8', param_format='bf16_sr', seed=4)")),
        (
            "states",
            "dict(type='AdamW', lr=0.02, state_format={'m': 'bf16', 'v': 'f32'}, param_format='bf16_sr', seed=3)".into(),
        ),
        ("whole", format!("dict({adamw})")),
        ("master", format!("dict({adamw}, state_format='q8', param_format='master')")),
        ("other", "dict(type='Lion', lr=0.01, state_format='q4', param_format='master')".into()),
    ];
    let mixed = mixed.replace("type='AdamW', lr=0.01", "type='AdamW', lr=0.01, weight_decay=0.01");
    const ELEMENTS: usize = 900;
    let mut random = Random(14);
    let starts: Vec<Vec<bf16>> = alone.iter().map(|_| halves(&mut random, ELEMENTS)).collect();
    let grads: Vec<Vec<Vec<bf16>>> =
        (0..4).map(|_| alone.iter().map(|_| halves(&mut random, ELEMENTS)).collect()).collect();
    let mut values = starts.clone();
    let mut optimizer = recipe(&mixed).optimizer(best());
    for (t, grads) in grads.iter().enumerate() {
        if t == 2 {
            let saved = passed_on(&optimizer);
            optimizer = recipe(&mixed).optimizer(best());
            assert_eq!(optimizer.load(&saved).unwrap().matched, alone.len());
        }
        let bound = values.iter_mut().zip(grads).zip(&alone);
        let mut bound: Vec<_> =
            bound.map(|((value, grad), (name, _))| param(name, value, grad).shaped(&[ELEMENTS])).collect();
        optimizer.step(&mut bound).unwrap();
    }
    for (place, (name, text)) in alone.iter().enumerate() {
        let mut value = starts[place].clone();
        let mut own = recipe(text).optimizer(best());
        for grads in &grads {
            own.step(&mut [param(name, &mut value, &grads[place]).shaped(&[ELEMENTS])]).unwrap();
        }
        assert!(value == values[place], "{name}");
        let of = |driver: &Driver| {
            driver.params().into_iter().find(|param| param.name == *name).map(|p| (p.formats, p.state_bytes))
        };
        assert_eq!(of(&own), of(&optimizer), "{name}");
    }
    // A seed without chances says nothing.
    let error = Recipe::from_text(&mixed.replace("'master': dict(param", "'master': dict(seed=3, param"));
    assert!(error.unwrap_err().to_string().contains("seed"));
}

/// Curvature is asked of the optimizers that have one; those next to them do not move.
#[test]
fn curvature_is_taken_beside_other_optimizers() {
    let text = "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.01),\n\
        type='AmpOptimWrapper', loss_scale=8.0, clip_grad=dict(max_norm=0.1),\n\
        paramwise_cfg=dict(custom_keys=dict(s=dict(optimizer=dict(type='SophiaG', betas=(0.9, 0.5))))))\n";
    let mut optimizer = recipe(text).optimizer(best());
    let (mut s, mut a) = (vec![1.0f32, 2.0], vec![3.0f32, 4.0]);
    let drawn = vec![16.0f32, 32.0];
    let report =
        optimizer.update_hessian(&mut [param("s", &mut s, &drawn), param("a", &mut a, &drawn)]).unwrap();
    assert_eq!((report.updated, report.without_grad), (1, 0), "{report}");
    // Of the loss times its scale, and not clipped: 0.5 (16 / 8)², 0.5 (32 / 8)².
    assert_eq!(optimizer.state("s", "hessian").unwrap().unwrap(), [2.0, 8.0]);
    assert_eq!((&s[..], &a[..]), (&[1.0f32, 2.0][..], &[3.0f32, 4.0][..]));
    assert_eq!(optimizer.state("a", "m").unwrap(), None);
    let mut resumed = recipe(text).optimizer(best());
    resumed.load(&passed_on(&optimizer)).unwrap();
    assert_eq!(passed_on(&resumed), passed_on(&optimizer));
    let infinite = vec![f32::INFINITY, 1.0];
    let report =
        optimizer.update_hessian(&mut [param("s", &mut s, &infinite), param("a", &mut a, &drawn)]).unwrap();
    assert!(report.skipped());
    assert_eq!(optimizer.state("s", "hessian").unwrap().unwrap(), [2.0, 8.0]);
    // A step counts as the first of both.
    let grad = vec![8.0f32, 8.0];
    optimizer.step(&mut [param("s", &mut s, &grad), param("a", &mut a, &grad)]).unwrap();
    assert!(optimizer.params().iter().all(|param| param.steps == 1));
}

/// What the training loop said of a module is in the checkpoint, where a guess would be another.
#[test]
fn groups_after_a_load_are_those_that_were_told() {
    let text = "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.1),\n\
        paramwise_cfg=dict(norm_decay_mult=0.0))\n";
    let mut optimizer = recipe(text).optimizer(best());
    let (mut told, mut guessed, grad) = (vec![1.0f32; 3], vec![1.0f32; 3], vec![1.0f32; 3]);
    optimizer
        .step(&mut [
            param("a.scale", &mut told, &grad).kind(ModuleKind::Norm),
            param("norm.weight", &mut guessed, &grad),
        ])
        .unwrap();
    let saved = passed_on(&optimizer);
    for options in [LoadOptions::default(), LoadOptions::default().state_only()] {
        let mut resumed = recipe(text).optimizer(best());
        resumed.load_with(&saved, &options).unwrap();
        assert!(resumed.params().iter().all(|param| param.group == 1), "{options:?}");
        assert_eq!(passed_on(&resumed), saved);
    }
}

/// Rows that are not named are zeros to the norm, and the average is of whole parameters.
#[test]
fn rows_are_clipped_and_averaged_as_whole_gradients() {
    let text = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.5), type='AmpOptimWrapper', loss_scale=4.0,\n\
        clip_grad=dict(max_norm=0.5, norm_type=NORM))\n";
    for norm in ["2", "1", "3", "'inf'"] {
        let build = || {
            let driver = recipe(&text.replace("NORM", norm)).optimizer(best());
            driver.averaged(Average::exponential(0.5).unwrap())
        };
        let mut random = Random(15);
        let start = singles(&mut random, 20);
        let (mut sparse, mut dense) = (start.clone(), start);
        let (mut one, mut other) = (build(), build());
        for _ in 0..3 {
            let given = singles(&mut random, 12);
            let indices = [3i64, 0, 3];
            let mut whole = vec![0.0f32; 20];
            for (values, row) in given.chunks(4).zip(indices) {
                let to = &mut whole[row as usize * 4..][..4];
                to.iter_mut().zip(values).for_each(|(to, x)| *to += x);
            }
            let by_rows =
                one.step(&mut [param("w", &mut sparse, rows(&indices, &given)).shaped(&[5, 4])]).unwrap();
            let at_once = other.step(&mut [param("w", &mut dense, &whole).shaped(&[5, 4])]).unwrap();
            // Sums of different lengths fold in different orders.
            let [a, b] = [&by_rows, &at_once].map(|report| report.grad_norm().unwrap());
            assert!((a - b).abs() <= 20.0 * f64::from(f32::EPSILON) * b, "{norm}: {a}, {b}");
        }
        let near = |a: &[f64], b: &[f64]| {
            a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 60.0 * f64::from(f32::EPSILON))
        };
        let wide = |values: &[f32]| values.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        assert!(near(&wide(&sparse), &wide(&dense)), "{norm}");
        let [a, b] = [&one, &other].map(|driver| driver.average("w").unwrap().unwrap());
        assert!(near(&a, &b), "{norm}");
    }
    let accumulating = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.5), accumulative_counts=2)\n";
    let (mut value, given) = (vec![1.0f32; 4], vec![1.0f32; 2]);
    let mut bound = [param("w", &mut value, rows(&[1], &given)).shaped(&[2, 2])];
    let error = recipe(accumulating).optimizer(best()).step(&mut bound).unwrap_err().to_string();
    assert!(error.contains("row-sparse"), "{error}");
}
