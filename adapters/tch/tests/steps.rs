//! Steps of libtorch's variables, against libtorch's own optimizers and against slices.

mod common;

use common::{Model, adamw, driver};
use fallline_core::{Element, bf16, f16};
use fallline_optim::algorithms::{Adam, AdamW, RmsProp, Sgd};
use fallline_optim::gradient_config::{Clip, GradientConfig};
use fallline_optim::hyper::Value;
use fallline_optim::{Driver, GradRef, Optimizer, ParamRef, param};
use fallline_tch::TchOptimizer;
use tch::Kind;
use tch::nn::{self, OptimizerConfig};

const STEPS: usize = 30;
const LR: f64 = 1e-2;

/// Trains one model by libtorch and another one by fallline.
fn same_as_libtorchs(config: impl OptimizerConfig, driver: Driver) {
    let (theirs, ours) = (Model::new(Kind::Float), Model::new(Kind::Float));
    let mut torch = config.build(&theirs.store, LR).unwrap();
    let mut optimizer = TchOptimizer::new(&ours.store, driver).unwrap();
    for step in 0..STEPS {
        torch.backward_step(&theirs.loss(step));
        let report = optimizer.backward_step(&ours.loss(step)).unwrap();
        assert_eq!((report.updated, optimizer.copies()), (4, 0));
    }
    for ((name, one), (_, other)) in theirs.values().iter().zip(ours.values()) {
        for (one, other) in one.iter().zip(other) {
            // Rounding of each step, with the order of operations apart: a few units in the last place a step.
            assert!((one - other).abs() <= 2e-6 * one.abs().max(0.1), "{name}: {one} and {other}");
        }
    }
    let loss = |model: &Model| model.loss(0).double_value(&[]);
    assert!(loss(&ours) < 0.9 * loss(&Model::new(Kind::Float)), "it learns");
}

#[test]
fn adamw_is_libtorchs_own() {
    let settings = AdamW { lr: LR, weight_decay: 0.1, ..AdamW::default() };
    same_as_libtorchs(nn::AdamW::default().wd(0.1), driver(settings));
    let settings = AdamW { lr: LR, betas: (0.8, 0.95), amsgrad: true, ..AdamW::default() };
    same_as_libtorchs(nn::AdamW::default().beta1(0.8).beta2(0.95).amsgrad(true), driver(settings));
}

#[test]
fn adam_is_libtorchs_own() {
    let settings = Adam { lr: LR, weight_decay: 0.05, eps: 1e-6, ..Adam::default() };
    same_as_libtorchs(nn::Adam::default().wd(0.05).eps(1e-6), driver(settings));
}

#[test]
fn sgd_is_libtorchs_own() {
    let settings = Sgd { lr: LR, momentum: 0.9, dampening: 0.1, weight_decay: 0.01, ..Sgd::default() };
    same_as_libtorchs(nn::sgd(0.9, 0.1, 0.01, false), driver(settings));
    let settings = Sgd { lr: LR, momentum: 0.9, nesterov: true, ..Sgd::default() };
    same_as_libtorchs(nn::sgd(0.9, 0.0, 0.0, true), driver(settings));
}

#[test]
fn rmsprop_is_libtorchs_own() {
    let settings = RmsProp { lr: LR, eps: 1e-4, weight_decay: 0.01, ..RmsProp::default() };
    same_as_libtorchs(nn::rms_prop(0.99, 1e-4, 0.01, 0.0, false), driver(settings));
    let settings =
        RmsProp { lr: LR, alpha: 0.9, eps: 1e-2, momentum: 0.5, centered: true, ..RmsProp::default() };
    same_as_libtorchs(nn::rms_prop(0.9, 1e-2, 0.0, 0.5, true), driver(settings));
}

/// Trains through libtorch's memory, and through slices on the gradients that libtorch had.
fn same_bits_as_slices<T: Element>(kind: Kind, driver: impl Fn() -> Driver)
where
    for<'a> ParamRef<'a>: From<&'a mut Vec<T>>,
    for<'a> GradRef<'a>: From<&'a Vec<T>>,
{
    let model = Model::new(kind);
    let of = |numbers: Vec<f64>| -> Vec<T> { numbers.into_iter().map(T::from_f64).collect() };
    let read = || model.values().into_iter().map(|(name, numbers)| (name, of(numbers)));
    let mut values: Vec<(String, Vec<T>)> = read().collect();
    let (mut optimizer, mut plain) = (TchOptimizer::new(&model.store, driver()).unwrap(), driver());
    for step in 0..STEPS {
        optimizer.zero_grad().unwrap();
        model.loss(step).backward();
        let grads: Vec<(Vec<T>, Vec<usize>)> = model
            .named()
            .iter()
            .map(|(_, variable)| {
                let shape = variable.size().iter().map(|&size| size as usize).collect();
                (of(common::read(&variable.grad())), shape)
            })
            .collect();
        let tensors = values.iter_mut().zip(&grads);
        let mut bindings: Vec<_> =
            tensors.map(|((name, value), (grad, shape))| param(name, value, grad).shaped(shape)).collect();
        let through_slices = plain.step(&mut bindings).unwrap();
        let report = optimizer.step().unwrap();
        assert_eq!(report.clip_factor(), through_slices.clip_factor());
        // No bit is lost in `f64`.
        assert_eq!(read().collect::<Vec<_>>(), values, "{kind:?}, step {step}");
    }
}

#[test]
fn steps_are_those_of_slices_bit_for_bit() {
    same_bits_as_slices::<f32>(Kind::Float, adamw);
    same_bits_as_slices::<f64>(Kind::Double, adamw);
    same_bits_as_slices::<bf16>(Kind::BFloat16, adamw);
    same_bits_as_slices::<f16>(Kind::Half, adamw);
}

#[test]
fn clipping_sees_all_gradients() {
    let clip = Some(Clip::Norm { max_norm: 0.05, norm_type: 2.0, error_if_nonfinite: false });
    same_bits_as_slices::<f32>(Kind::Float, || {
        let mut config = GradientConfig::default();
        config.clip = clip;
        adamw().with_gradients(config)
    });
}

#[test]
fn training_resumes_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let run = |save_at: usize| {
        let mut model = Model::new(Kind::Float);
        let mut optimizer = TchOptimizer::new(&model.store, adamw()).unwrap();
        for step in 0..STEPS {
            if step == save_at {
                model.store.save(&file).unwrap();
                let saved = optimizer.driver().save().unwrap();
                // Both come back, into a model that was made anew. Its variables move as the store loads them.
                model = Model::new(Kind::Float);
                optimizer = TchOptimizer::new(&model.store, adamw()).unwrap();
                model.store.load(&file).unwrap();
                assert!(optimizer.load(&saved).unwrap().unbound.is_empty());
            }
            optimizer.backward_step(&model.loss(step)).unwrap();
        }
        model.values()
    };
    assert_eq!(run(7), run(STEPS));
}

#[test]
fn groups_of_the_store_are_groups() {
    let (theirs, ours) = (Model::new(Kind::Float), Model::new(Kind::Float));
    let before = ours.values();
    let mut torch = nn::AdamW::default().wd(0.1).build(&theirs.store, LR).unwrap();
    torch.set_lr_group(1, 0.0);
    let mut optimizer = TchOptimizer::new(&ours.store, adamw()).unwrap();
    let group = optimizer.add_store_group(1, &[("lr", Value::Float(0.0))]).unwrap();
    assert_eq!(optimizer.driver().get(group, "lr"), Some(Value::Float(0.0)));
    torch.backward_step(&theirs.loss(0));
    optimizer.backward_step(&ours.loss(0)).unwrap();
    for (((name, one), (_, other)), (_, start)) in theirs.values().iter().zip(ours.values()).zip(&before) {
        assert_eq!(*one == *start, name.starts_with("second."), "{name}");
        assert_eq!(other == *start, name.starts_with("second."), "{name}");
    }
    let missing = optimizer.add_store_group(2, &[]).unwrap_err().to_string();
    assert_eq!(missing, "no variable of the store is in group 2");
}

#[test]
fn names_are_those_of_the_store() {
    let model = Model::new(Kind::Float);
    let mut optimizer = TchOptimizer::new(&model.store, adamw()).unwrap();
    let frozen = [("lr", Value::Float(0.0))];
    optimizer.driver_mut().add_group(|name| name.ends_with(".bias"), &frozen).unwrap();
    let before = model.values();
    optimizer.backward_step(&model.loss(0)).unwrap();
    for (one, other) in before.iter().zip(model.values()) {
        assert_eq!(one.1 == other.1, one.0.ends_with(".bias"), "{}", one.0);
    }
}

#[test]
fn an_optimizer_goes_to_another_thread_with_its_store() {
    let train = |model: Model, mut optimizer: TchOptimizer| {
        optimizer.backward_step(&model.loss(0)).unwrap();
        model.values()
    };
    let parts = || {
        let model = Model::new(Kind::Float);
        let optimizer = TchOptimizer::new(&model.store, adamw()).unwrap();
        (model, optimizer)
    };
    let (model, optimizer) = parts();
    let elsewhere = std::thread::spawn(move || train(model, optimizer)).join().unwrap();
    let (model, optimizer) = parts();
    assert_eq!(elsewhere, train(model, optimizer));
}
