//! Steps of candle's variables, against candle's own AdamW and against slices.

mod common;

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer as _, ParamsAdamW};
use common::{Model, adamw, loss_of};
use fallline_candle::CandleOptimizer;
use fallline_optim::gradient_config::{Clip, GradientConfig};
use fallline_optim::{Driver, Optimizer, param};

const STEPS: usize = 30;

#[test]
fn adamw_is_candles_own() {
    let (theirs, ours) = (Model::new(DType::F32), Model::new(DType::F32));
    let settings = ParamsAdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };
    let mut candle = candle_nn::AdamW::new(theirs.variables.all_vars(), settings).unwrap();
    let mut optimizer = CandleOptimizer::new(&ours.variables, adamw()).unwrap();
    for step in 0..STEPS {
        candle.backward_step(&loss_of(&theirs, step)).unwrap();
        let report = optimizer.backward_step(&loss_of(&ours, step)).unwrap();
        assert_eq!((report.updated, optimizer.copies()), (4, 0));
    }
    for ((name, one), (_, other)) in theirs.values().iter().zip(ours.values()) {
        for (one, other) in one.iter().zip(other) {
            // Rounding of each step, with the order of operations apart: a few units in the last place a step.
            assert!((one - other).abs() <= 2e-6 * one.abs().max(0.1), "{name}: {one} and {other}");
        }
    }
    let start = f64::from(loss_of(&Model::new(DType::F32), 0).to_scalar::<f32>().unwrap());
    assert!(f64::from(loss_of(&ours, 0).to_scalar::<f32>().unwrap()) < 0.7 * start, "it learns");
}

/// Trains through candle, and through slices on the gradients that candle had.
fn same_bits_as_slices(dtype: DType, driver: impl Fn() -> Driver) {
    let model = Model::new(dtype);
    let mut optimizer = CandleOptimizer::new(&model.variables, driver()).unwrap();
    let mut plain = driver();
    let mut values = model.values();
    for step in 0..STEPS {
        let grads = loss_of(&model, step).backward().unwrap();
        let slices: Vec<Vec<f64>> =
            model.named().iter().map(|(_, v)| common::read(grads.get(v).unwrap())).collect();
        let through_candle = optimizer.step(&grads).unwrap();
        macro_rules! step_as {
            ($t:ty, $to:expr) => {{
                let to: fn(&f64) -> $t = $to;
                let grads: Vec<Vec<$t>> = slices.iter().map(|grad| grad.iter().map(to).collect()).collect();
                let mut weights: Vec<Vec<$t>> =
                    values.iter().map(|(_, value)| value.iter().map(to).collect()).collect();
                let shapes: Vec<_> = model.named().iter().map(|(_, v)| v.dims().to_vec()).collect();
                let tensors = values.iter().zip(&mut weights).zip(&grads).zip(&shapes);
                let mut bindings: Vec<_> = tensors
                    .map(|((((name, _), weight), grad), shape)| param(name, weight, grad).shaped(shape))
                    .collect();
                let report = plain.step(&mut bindings).unwrap();
                assert_eq!(report.clip_factor(), through_candle.clip_factor());
                for ((_, value), weight) in values.iter_mut().zip(&weights) {
                    *value = weight.iter().map(|x| f64::from(*x)).collect();
                }
            }};
        }
        match dtype {
            DType::F64 => step_as!(f64, |x| *x),
            DType::F32 => step_as!(f32, |x| *x as f32),
            _ => step_as!(fallline_core::bf16, |x| fallline_core::bf16::from_f64(*x)),
        }
    }
    let bits = |values: &[(String, Vec<f64>)]| -> Vec<Vec<u64>> {
        values.iter().map(|(_, value)| value.iter().map(|x| x.to_bits()).collect()).collect()
    };
    assert_eq!(bits(&model.values()), bits(&values));
}

#[test]
fn steps_are_those_of_slices_bit_for_bit() {
    for dtype in [DType::F32, DType::F64, DType::BF16] {
        same_bits_as_slices(dtype, adamw);
    }
}

#[test]
fn clipping_sees_all_gradients() {
    let clip = Some(Clip::Norm { max_norm: 0.05, norm_type: 2.0, error_if_nonfinite: false });
    same_bits_as_slices(DType::F32, || {
        let mut config = GradientConfig::default();
        config.clip = clip;
        adamw().with_gradients(config)
    });
}

#[test]
fn training_resumes_bit_for_bit() {
    let run = |save_at: usize| {
        let model = Model::new(DType::F32);
        let mut optimizer = CandleOptimizer::new(&model.variables, adamw()).unwrap();
        for step in 0..STEPS {
            if step == save_at {
                let saved = optimizer.driver().save().unwrap();
                optimizer = CandleOptimizer::new(&model.variables, adamw()).unwrap();
                assert!(optimizer.load(&saved).unwrap().unbound.is_empty());
            }
            optimizer.backward_step(&loss_of(&model, step)).unwrap();
        }
        model.values()
    };
    assert_eq!(run(7), run(STEPS));
}

#[test]
fn many_variables_fit_onto_a_small_stack() {
    let step = || {
        let variables = candle_nn::VarMap::new();
        for i in 0..3_000 {
            let variable = Var::zeros(10, DType::F32, &Device::Cpu).unwrap();
            variables.data().lock().unwrap().insert(format!("layers.{i}"), variable);
        }
        let mut optimizer = CandleOptimizer::new(&variables, adamw()).unwrap();
        let ones = Tensor::ones(10, DType::F32, &Device::Cpu).unwrap();
        let mut grads = ones.sum_all().unwrap().backward().unwrap();
        variables.all_vars().iter().for_each(|variable| drop(grads.insert(variable, ones.clone())));
        assert_eq!(optimizer.step(&grads).unwrap().updated, 3_000);
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(step).unwrap().join().unwrap();
}

#[test]
fn it_is_an_optimizer_of_candle() {
    fn train<O: candle_nn::Optimizer>(mut optimizer: O, model: &Model) -> f64 {
        optimizer.set_learning_rate(3e-3);
        optimizer.backward_step(&loss_of(model, 0)).unwrap();
        optimizer.learning_rate()
    }
    let model = Model::new(DType::F32);
    let before = model.values();
    let optimizer =
        <CandleOptimizer as candle_nn::Optimizer>::new(model.variables.all_vars(), adamw()).unwrap();
    assert_eq!(train(optimizer, &model), 3e-3);
    assert_ne!(model.values(), before);
}
