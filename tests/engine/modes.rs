//! Algorithms that evaluate other weights than they train: going from one to the other, and what a checkpoint says.

use crate::common::{best, build, recipe};
use fallline::optim::{Binding, Error, LoadOptions, Mode, ParamPrecision, frozen, param};
use fallline::ranks::threads;
use fallline::{Checkpoint, Cpu, Driver, Format, Optimizer, Tensor, Value};
use half::bf16;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

const FREE: &str = "dict(type='AdamWScheduleFree', lr=0.1, betas=(0.8, 0.9), weight_decay=0.1)";

fn grad(t: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((t * 7 + i * 3) as f32).sin()).collect()
}

/// Returns what is after some steps over two parameters, the second without a gradient so far.
fn stepped(steps: usize) -> (Driver, Vec<f32>, Vec<f32>) {
    let (mut optimizer, mut p, mut q) = (build(FREE), vec![1.0f32, -2.0, 3.0], vec![0.5f32; 2]);
    for t in 0..steps {
        let g = grad(t, 3);
        optimizer.step(&mut [param("p", &mut p, &g), frozen("q", &mut q)]).unwrap();
    }
    (optimizer, p, q)
}

fn close(x: &[f32], y: &[f32]) {
    assert!(x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-5), "{x:?} {y:?}");
}

#[test]
fn evaluation_weights_are_the_average_and_come_back() {
    let (mut optimizer, mut p, mut q) = stepped(5);
    let (y, z) = (p.clone(), optimizer.state("p", "z").unwrap().unwrap());
    assert_eq!(optimizer.mode(), Mode::Training);
    optimizer.set_mode(Mode::Evaluation, &mut [frozen("p", &mut p), frozen("q", &mut q)]).unwrap();
    let x: Vec<f32> = y.iter().zip(&z).map(|(y, z)| y / 0.8 + (1.0 - 1.0 / 0.8) * *z as f32).collect();
    close(&p, &x);
    assert_ne!(p, y);
    assert_eq!(q, [0.5; 2], "without a gradient both are the same");

    let once = p.clone();
    optimizer.set_mode(Mode::Evaluation, &mut [frozen("p", &mut p)]).unwrap();
    assert_eq!(p, once, "twice the same is nothing");
    let error = optimizer.step(&mut [param("p", &mut p, &grad(5, 3))]).unwrap_err();
    assert!(error.to_string().contains("set_mode(Mode::Training"), "{error}");
    assert!(matches!(error, Error::Evaluating { algorithm: "AdamWScheduleFree" }));
    assert!(matches!(optimizer.begin().map(drop), Err(Error::Evaluating { .. })));
    assert_eq!(p, once);

    optimizer.set_mode(Mode::Training, &mut [frozen("p", &mut p), frozen("q", &mut q)]).unwrap();
    close(&p, &y);
    optimizer.step(&mut [param("p", &mut p, &grad(5, 3))]).unwrap();
    assert_eq!(optimizer.get(0, "k"), Some(Value::Int(6)));
}

#[test]
fn copies_are_evaluated_without_a_trace() {
    let run = |looks: bool| {
        let (mut optimizer, mut p) = (build(FREE), vec![bf16::from_f32(1.0), bf16::from_f32(-2.0)]);
        optimizer.set_param_precision(0, ParamPrecision::MasterWeights).unwrap();
        for t in 0..6 {
            optimizer.step(&mut [param("p", &mut p, &grad(t, 2))]).unwrap();
            if looks {
                let mut copy = p.clone();
                optimizer.weights_of(Mode::Evaluation, &mut [frozen("p", &mut copy)]).unwrap();
                assert_eq!(optimizer.mode(), Mode::Training);
                assert!(t == 0 || copy != p);
            }
        }
        (p, optimizer.save().unwrap().to_bytes().unwrap())
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn a_checkpoint_says_which_weights_it_goes_with() {
    let (mut optimizer, mut p, mut q) = stepped(4);
    let training = optimizer.save().unwrap();
    assert_eq!(training.manifest.mode().unwrap(), Mode::Training);
    optimizer.set_mode(Mode::Evaluation, &mut [frozen("p", &mut p), frozen("q", &mut q)]).unwrap();
    let saved = Checkpoint::from_bytes(&optimizer.save().unwrap().to_bytes().unwrap()).unwrap();
    assert_eq!(saved.manifest.mode().unwrap(), Mode::Evaluation);

    let mut other = build(FREE);
    other.load(&saved).unwrap();
    assert_eq!(other.mode(), Mode::Evaluation);
    let mut copy = p.clone();
    let g = grad(4, 3);
    assert!(matches!(other.step(&mut [param("p", &mut copy, &g)]), Err(Error::Evaluating { .. })));
    other.set_mode(Mode::Training, &mut [frozen("p", &mut copy)]).unwrap();
    optimizer.set_mode(Mode::Training, &mut [frozen("p", &mut p), frozen("q", &mut q)]).unwrap();
    for (optimizer, p) in [(&mut optimizer, &mut p), (&mut other, &mut copy)] {
        optimizer.step(&mut [param("p", p, &g)]).unwrap();
    }
    assert_eq!(p, copy);
    other.load(&training).unwrap();
    assert_eq!(other.mode(), Mode::Training);
}

#[test]
fn hyperparameters_of_ones_own_keep_what_the_groups_remember() {
    let (optimizer, ..) = stepped(4);
    let saved = optimizer.save().unwrap();
    let mut other = build("dict(type='AdamWScheduleFree', lr=0.02, betas=(0.8, 0.9))");
    other.load_with(&saved, &LoadOptions::default().state_only()).unwrap();
    assert_eq!((other.get(0, "lr"), other.get(0, "k")), (Some(Value::Float(0.02)), Some(Value::Int(4))));
    for name in ["weight_sum", "lr_max"] {
        assert_eq!(other.get(0, name), optimizer.get(0, name), "{name}");
    }
}

#[test]
fn steps_count_for_the_group_whoever_has_gradients() {
    let (mut optimizer, mut p) = (build(FREE), vec![1.0f32; 3]);
    let count = |optimizer: &Driver| optimizer.get(0, "k");
    optimizer.step(&mut [frozen("p", &mut p)]).unwrap();
    assert_eq!(count(&optimizer), Some(Value::Int(1)), "a step without any gradient");
    let g = grad(0, 3);
    let mut pieces = optimizer.begin().unwrap();
    pieces.apply(param("p", &mut p, &g)).unwrap();
    pieces.finish().unwrap();
    assert_eq!(count(&optimizer), Some(Value::Int(2)), "a step in pieces");
    let wrong = grad(0, 2);
    assert!(optimizer.step(&mut [param("p", &mut p, &wrong)]).is_err());
    assert_eq!(count(&optimizer), Some(Value::Int(2)), "a step that is refused");
    let power = "dict(type='AdamWScheduleFree', lr=0.0, weight_lr_power=-1.0)";
    let error = build(power).step(&mut [param("p", &mut p, &g)]).unwrap_err();
    assert!(error.to_string().contains("weight_lr_power below 0 needs an lr above 0"), "{error}");
}

#[test]
fn a_parameter_that_is_not_bound_is_named() {
    let (mut optimizer, mut p, mut q) = stepped(2);
    let error = optimizer.set_mode(Mode::Evaluation, &mut [frozen("q", &mut q)]).unwrap_err();
    assert!(error.to_string().contains("\"p\" is to be switched, but is not bound"), "{error}");
    let mut wrong = vec![0.0f32; 2];
    assert!(optimizer.set_mode(Mode::Evaluation, &mut [frozen("p", &mut wrong)]).is_err());
    assert_eq!(optimizer.mode(), Mode::Training);
    optimizer.set_mode(Mode::Evaluation, &mut [frozen("p", &mut p)]).unwrap();
}

#[test]
fn where_both_are_the_same_nothing_happens() {
    let (mut optimizer, mut p) = (build("AdamW"), vec![1.0f32; 3]);
    let g = grad(0, 3);
    optimizer.step(&mut [param("p", &mut p, &g)]).unwrap();
    let before = p.clone();
    optimizer.set_mode(Mode::Evaluation, &mut []).unwrap();
    assert_eq!((optimizer.mode(), optimizer.has_modes()), (Mode::Training, false));
    optimizer.step(&mut [param("p", &mut p, &g)]).unwrap();
    assert_ne!(p, before);
}

#[test]
fn tensors_of_the_device_are_switched_like_memory_of_the_host() {
    let (mut host, mut p, mut q) = stepped(3);
    let mut optimizer = recipe(FREE).optimizer(best());
    let mut tensor = Tensor::from_slice(optimizer.backend(), &[1.0f32, -2.0, 3.0][..], [3]).unwrap();
    for t in 0..3 {
        let g = Tensor::from_slice(optimizer.backend(), &grad(t, 3)[..], [3]).unwrap();
        optimizer.step(&mut [param("p", &mut tensor, &g)]).unwrap();
    }
    host.set_mode(Mode::Evaluation, &mut [frozen("p", &mut p), frozen("q", &mut q)]).unwrap();
    let binding: Binding<'_> = frozen("p", &mut tensor);
    optimizer.set_mode(Mode::Evaluation, &mut [binding]).unwrap();
    assert_eq!(tensor.format(), Format::F32);
    assert_eq!(tensor.to_vec::<f32>().unwrap(), p);
}

#[test]
fn ranks_that_share_parameters_out_bring_each_other_the_weights() {
    let names = ["a", "b", "c"];
    let run = |optimizer: &mut Driver| {
        let mut params = [vec![1.0f32, -2.0, 3.0], vec![0.5; 2], vec![-1.0; 5]];
        let step = |optimizer: &mut Driver, params: &mut [Vec<f32>; 3], t: usize| {
            let grads: Vec<_> = params.iter().map(|p| grad(t, p.len())).collect();
            let bound = params.iter_mut().zip(&grads).zip(names);
            let mut bound: Vec<Binding<'_>> = bound.map(|((p, g), name)| param(name, p, g)).collect();
            optimizer.step(&mut bound).unwrap();
        };
        let switch = |optimizer: &mut Driver, params: &mut [Vec<f32>; 3], mode| {
            let bound = params.iter_mut().zip(names);
            let mut bound: Vec<Binding<'_>> = bound.map(|(p, name)| frozen(name, p)).collect();
            optimizer.set_mode(mode, &mut bound).unwrap();
        };
        (0..3).for_each(|t| step(optimizer, &mut params, t));
        switch(optimizer, &mut params, Mode::Evaluation);
        let shown = params.clone();
        let mode = optimizer.save().unwrap().manifest.mode().unwrap();
        switch(optimizer, &mut params, Mode::Training);
        step(optimizer, &mut params, 3);
        (shown, params, mode)
    };
    let alone = run(&mut build(FREE));
    assert_eq!(alone.2, Mode::Evaluation);
    let sharded = FREE.replace(
        "type='AdamWScheduleFree'",
        "type='ZeroRedundancyOptimizer', optimizer_type='AdamWScheduleFree'",
    );
    for text in [FREE, &sharded] {
        thread::scope(|scope| {
            let running: Vec<_> = threads(2, Duration::from_secs(60))
                .into_iter()
                .map(|rank| {
                    scope.spawn(|| {
                        let cpu = Cpu::with_threads(1).unwrap().shared();
                        run(&mut recipe(text).optimizer(cpu).with_ranks(Arc::new(rank)))
                    })
                })
                .collect();
            running.into_iter().for_each(|rank| assert_eq!(rank.join().unwrap(), alone, "{text}"));
        });
    }
}
