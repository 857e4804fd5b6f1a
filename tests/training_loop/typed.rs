//! Optimizers from structs of hyperparameters.

use crate::bits;
use fallline::algorithms::{AdamW, Lion, Muon, Sgd};
use fallline::prelude::*;
use fallline::{IntoBackend, LineSearch, Registry};
use std::sync::Arc;

const fn shared_between_threads<T: Send + Sync>() {}

const _: () = {
    shared_between_threads::<Driver>();
    shared_between_threads::<LineSearch>();
    shared_between_threads::<Checkpoint>();
    shared_between_threads::<Schedule>();
    shared_between_threads::<Recipe>();
    shared_between_threads::<Registry>();
    shared_between_threads::<fallline::Error>();
};

/// A binding is covariant: one that lives longer is taken where a shorter one is. A field that is invariant in the
/// lifetime does not compile here.
fn shorten<'short, 'long: 'short>(binding: Binding<'long>) -> Binding<'short> {
    binding
}

/// Steps a weight matrix, a bias and the gain of a norm, and returns their bits.
fn train(mut optimizer: Driver) -> fallline::Result<Vec<u32>> {
    let [mut weight, mut bias, mut gain] =
        [12, 4, 4].map(|n| (0..n).map(|i| i as f32 / 7.0).collect::<Vec<_>>());
    for step in 0..5 {
        let grad =
            |values: &[f32]| -> Vec<f32> { values.iter().map(|x| 3.0 * x - 0.1 * step as f32).collect() };
        let grads = [grad(&weight), grad(&bias), grad(&gain)];
        let bias = shorten(param("fc.bias", &mut bias, &grads[1]));
        optimizer.step(&mut [
            param("fc.weight", &mut weight, &grads[0]).shaped(&[4, 3]),
            bias,
            param("norm.weight", &mut gain, &grads[2]),
        ])?;
    }
    Ok([weight, bias, gain].iter().flat_map(|values| bits(values)).collect())
}

fn configured(text: &str) -> fallline::Result<Vec<u32>> {
    train(Recipe::from_text(text)?.optimizer(Cpu::with_threads(1)?.shared()))
}

#[test]
fn a_struct_steps_as_its_configuration_does() -> fallline::Result<()> {
    let expected = configured("dict(type='AdamW', lr=3e-4, weight_decay=0.1)")?;
    let adamw = AdamW { lr: 3e-4, weight_decay: 0.1, ..Default::default() };
    let cpu = Arc::new(Cpu::with_threads(1)?);
    assert_eq!(train(adamw.clone().on(&cpu)?)?, expected);
    assert_eq!(train(adamw.clone().on(cpu)?)?, expected);
    assert_eq!(train(adamw.clone().on(Cpu::scalar())?)?, expected);
    let device = Cpu::scalar().into_backend();
    assert_eq!(train(adamw.clone().on(&device)?)?, expected);
    assert_eq!(train(adamw.on(device)?)?, expected);
    Ok(())
}

#[test]
fn an_alias_has_its_own_name_and_defaults() -> fallline::Result<()> {
    let optimizer = fallline::algorithms::AdamW8bit::default().on(Cpu::scalar())?;
    assert_eq!(Optimizer::name(&optimizer), "AdamW8bit");
    Ok(())
}

#[test]
fn settings_are_those_of_a_configuration() -> fallline::Result<()> {
    let text = "dict(optim_wrapper=dict(type='AmpOptimWrapper', loss_scale=8.0, accumulative_counts=2, \
                clip_grad=dict(max_norm=0.5), optimizer=dict(type='SGD', lr=0.1)))";
    let sgd = Sgd { lr: 0.1, ..Default::default() };
    let optimizer = sgd.clone().on(Cpu::scalar())?;
    let optimizer = optimizer.clip_norm(0.5)?.accumulate(2)?.with_loss_scale(LossScaler::fixed(8.0)?);
    let recipe = Recipe::from_text(text)?;
    assert_eq!(optimizer.gradient_config(), recipe.gradient_config());
    let together = GradientConfig::default().clip_norm(0.5)?.accumulate(2)?;
    assert_eq!(&together.loss_scale(LossScaler::fixed(8.0)?), recipe.gradient_config());
    assert_eq!(train(optimizer)?, configured(text)?);

    let by_value = "dict(optim_wrapper=dict(clip_grad=dict(type='value', clip_value=0.25), \
                    optimizer=dict(type='SGD', lr=0.1)))";
    assert_eq!(train(sgd.on(Cpu::scalar())?.clip_value(0.25)?)?, configured(by_value)?);
    Ok(())
}

#[test]
fn settings_out_of_range_are_errors() -> fallline::Result<()> {
    let sgd = || Sgd::default().on(Cpu::scalar());
    let said = [
        sgd()?.clip_norm(-1.0).err().map(fallline::Error::from),
        sgd()?.clip_norm(f64::NAN).err().map(fallline::Error::from),
        sgd()?.clip_value(-1.0).err().map(fallline::Error::from),
        sgd()?.accumulate(0).err().map(fallline::Error::from),
        Average::ema(1.5).err().map(fallline::Error::from),
        Sgd { lr: -1.0, ..Default::default() }.on(Cpu::scalar()).err(),
        sgd()?.group(|_| true, Lion { lr: -1.0, ..Default::default() }).err(),
    ];
    let said: Vec<_> =
        said.into_iter().map(|error| error.map(|error| error.to_string()).unwrap_or_default()).collect();
    assert_eq!(
        said,
        [
            "max_norm must be 0 or more, got -1",
            "max_norm must be 0 or more, got NaN",
            "clip_value must be 0 or more, got -1",
            "accumulation steps must be at least 1, got 0",
            "decay must be between 0 and 1, got 1.5",
            "SGD: lr must be ≥ 0, got -1.0",
            "Lion: lr must be ≥ 0, got -1.0",
        ]
    );
    // A window of no steps that is set by hand is one of one step.
    let mut config = GradientConfig::default();
    (config.accumulate.accumulation_steps, config.accumulate.total) = (0, Some(5));
    train(sgd()?.with_gradients(config))?;
    Ok(())
}

#[test]
fn groups_are_those_of_paramwise_cfg() -> fallline::Result<()> {
    let text = "dict(optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.01), paramwise_cfg=dict(custom_keys={\
                'norm': dict(decay_mult=0.0), 'fc.weight': dict(optimizer=dict(type='Muon', lr=0.02))})))";
    let adamw = AdamW { lr: 0.01, ..Default::default() };
    let still = AdamW { weight_decay: 0.0, ..adamw.clone() };
    let optimizer = adamw
        .on(Cpu::scalar())?
        .group(|param| param.shape.rank() == 2, Muon { lr: 0.02, ..Default::default() })?
        .group_named(&["norm", "gain"], still)?;
    assert_eq!(optimizer.lr(0), Some(0.01));
    assert_eq!(optimizer.lr(1), Some(0.02));
    assert_eq!(optimizer.lr(9), None);
    let missing = train(optimizer).err().map(|error| error.to_string());
    assert_eq!(missing.as_deref(), Some("the group of names with \"gain\" matches no parameter"));

    let adamw = AdamW { lr: 0.01, ..Default::default() };
    let optimizer = adamw
        .clone()
        .on(Cpu::scalar())?
        .group(|param| param.shape.rank() == 2, Muon { lr: 0.02, ..Default::default() })?
        .group_named(&["norm"], AdamW { weight_decay: 0.0, ..adamw })?;
    assert_eq!(train(optimizer)?, configured(text)?);
    Ok(())
}

#[test]
fn the_learning_rate_of_all_groups_or_of_none() -> fallline::Result<()> {
    let mut optimizer = AdamW::default().on(Cpu::scalar())?.group(|_| true, Lion::default())?;
    optimizer.set_lr(0.5)?;
    assert_eq!([optimizer.lr(0), optimizer.lr(1)], [Some(0.5); 2]);
    assert!(optimizer.set_lr(-1.0).is_err());
    assert_eq!([optimizer.lr(0), optimizer.lr(1)], [Some(0.5); 2]);
    optimizer.set(1, &[("lr", 0.25.into()), ("betas", (0.8, 0.9).into())])?;
    assert_eq!([optimizer.lr(0), optimizer.lr(1)], [Some(0.5), Some(0.25)]);
    Ok(())
}

#[test]
fn every_error_becomes_the_facades() {
    fn said<T>(run: impl FnOnce() -> fallline::Result<T>) -> fallline::Error {
        run().err().expect("it fails")
    }
    let hyper = said(|| Ok(Recipe::from_text("SGD")?.optimizer(Cpu::scalar().shared()).set_lr(-1.0)?));
    assert!(matches!(hyper, fallline::Error::Hyper(_)), "{hyper}");
    let recipe = said(|| Ok(Recipe::from_text("SDG")?));
    assert!(matches!(recipe, fallline::Error::Recipe(_)), "{recipe}");
    let backend = said(|| Ok(Tensor::from_slice(&Cpu::scalar().shared(), &[1.0f32][..], [2])?));
    assert!(matches!(backend, fallline::Error::Backend(_)), "{backend}");
    let text = said(|| Ok(Checkpoint::from_bytes(b"no checkpoint")?));
    assert!(matches!(text, fallline::Error::Text(_)), "{text}");
    let optim = said(|| Ok(Checkpoint::read("no/such/file")?));
    assert!(matches!(optim, fallline::Error::Optim(_)), "{optim}");
}
