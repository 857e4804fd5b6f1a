//! The gradient pipeline and storage formats over several ranks against one: run by all ranks at once.

use fallline_core::ranks::Communicator;
use fallline_core::{Format, bf16};
use fallline_cpu::{Cpu, Native};
use fallline_optim::algorithms::{AdamW, OnebitAdam, Sgd};
use fallline_optim::average::Average;
use fallline_optim::gradient_config::{Accumulate, Clip, GradientConfig, LossScaler};
use fallline_optim::hyper::{HyperError, Value};
use fallline_optim::ranks::ZeroRedundancy;
use fallline_optim::{
    AnyAlgorithm, Binding, Checkpoint, Driver, Linked, Method, NonFinitePolicy, Optimizer, ParamPrecision,
    Skipped, StateStorage, StepReport, param, rows,
};
use std::sync::Arc;

const LENGTHS: [usize; 4] = [300, 40, 7, 4500];
const STEPS: u64 = 7;
/// The steps before the checkpoint: in the middle of a window of two.
const BEFORE: u64 = 3;

fn find(name: &str, values: &[(&str, Value)]) -> Option<Result<Method, HyperError>> {
    let mut algorithm: Box<dyn AnyAlgorithm> = match name {
        "AdamW" => Box::new(Linked::<AdamW, Native>::new(AdamW::default()).ok()?),
        "SGD" => Box::new(Linked::<Sgd, Native>::new(Sgd { momentum: 0.9, ..Sgd::default() }).ok()?),
        _ => return None,
    };
    Some(algorithm.set(values).map(|()| Method::Algorithm(algorithm)))
}

fn sharded(kind: &str) -> Box<dyn AnyAlgorithm> {
    let values = [("optimizer_type", Value::Text(kind.into())), ("lr", Value::Float(0.01))];
    Box::new(ZeroRedundancy::new(find, &values).unwrap())
}

fn driver(algorithm: Box<dyn AnyAlgorithm>) -> Driver {
    Driver::new(Cpu::with_threads(1).unwrap().shared(), algorithm)
}

/// Returns the gradient of a step, the same on all ranks.
fn gradient(step: u64, tensor: usize) -> Vec<f32> {
    let mix = |i: usize| (i as u64 + 31 * step + 7 * tensor as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (0..LENGTHS[tensor]).map(|i| mix(i) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn names() -> [String; 4] {
    [0, 1, 2, 3].map(|tensor| format!("p{tensor}"))
}

fn start() -> Vec<Vec<bf16>> {
    let values = |n: usize| (0..n).map(|i| bf16::from_f32((i % 13) as f32 / 8.0 - 0.7)).collect();
    LENGTHS.map(values).into()
}

fn steps(optimizer: &mut Driver, params: &mut [Vec<bf16>], steps: std::ops::Range<u64>) -> Vec<StepReport> {
    let names = names();
    let one = |step| {
        let grads: Vec<Vec<f32>> = (0..4).map(|tensor| gradient(step, tensor)).collect();
        let bound = names.iter().zip(&mut *params).zip(&grads);
        let mut bindings: Vec<Binding<'_>> = bound.map(|((name, p), g)| param(name, p, g)).collect();
        optimizer.step(&mut bindings).unwrap()
    };
    steps.map(one).collect()
}

/// A way to build an optimizer.
type Build = fn() -> Driver;

/// Returns several of them, by name.
fn kinds() -> Vec<(&'static str, Build)> {
    fn stored(params: ParamPrecision, states: Option<Format>) -> Driver {
        let mut driver = driver(sharded("AdamW"));
        driver.set_param_precision(0, params).unwrap();
        if let Some(format) = states {
            driver.set_state_storage(0, StateStorage::all(format)).unwrap();
        }
        driver
    }
    fn wrapped(change: impl FnOnce(&mut GradientConfig)) -> Driver {
        let mut wrapper = GradientConfig::default();
        change(&mut wrapper);
        driver(sharded("AdamW")).with_gradients(wrapper)
    }
    vec![
        ("nearest", || driver(sharded("AdamW"))),
        ("master", || stored(ParamPrecision::MasterWeights, None)),
        ("stochastically", || stored(ParamPrecision::StochasticRounding { seed: 5 }, Some(Format::Bf16))),
        ("blocks", || stored(ParamPrecision::RoundToNearest, Format::named("q8"))),
        ("average", || driver(sharded("AdamW")).averaged(Average::exponential(0.1).unwrap())),
        ("window", || wrapped(|w| w.accumulate = Accumulate { accumulation_steps: 2, total: Some(STEPS) })),
        ("clip and scale", || {
            wrapped(|w| {
                w.clip = Some(Clip::Norm { max_norm: 0.5, norm_type: 2.0, error_if_nonfinite: true });
                w.scaler = Some(LossScaler::fixed(8.0).unwrap());
            })
        }),
        ("all of it", || {
            wrapped(|w| {
                w.accumulate = Accumulate { accumulation_steps: 2, total: None };
                w.clip = Some(Clip::Value { clip_value: 0.25 });
            })
            .averaged(Average::equal(2).unwrap())
            .with_non_finite(NonFinitePolicy::Skip)
        }),
        ("two optimizers", || {
            let mut driver = driver(sharded("AdamW"));
            driver.add_group_of(sharded("SGD"), |member| member.name == "p3", None).unwrap();
            driver
        }),
    ]
}

/// Sharded states, in any storage format and with any gradient pipeline, are those of one rank. The parameters and
/// checkpoints are the same. So is what comes after a checkpoint, even if nothing comes before the next.
pub fn kept_as_alone(ranks: &Arc<dyn Communicator>) {
    let place = format!("rank {} of {}", ranks.rank(), ranks.world_size());
    for (kind, build) in kinds() {
        let (mut alone, mut expected) = (build(), start());
        let (mut together, mut params) = (build().with_ranks(Arc::clone(ranks)), start());
        let reports = steps(&mut alone, &mut expected, 0..BEFORE);
        assert_eq!(steps(&mut together, &mut params, 0..BEFORE), reports, "{kind}, {place}");
        assert!(params == expected, "{kind}, {place}");
        let at = alone.save().unwrap();
        assert!(together.save().unwrap() == at, "{kind}, {place}: the checkpoint");
        let mut resumed = build().with_ranks(Arc::clone(ranks));
        resumed.load(&Checkpoint::from_bytes(&at.to_bytes().unwrap()).unwrap()).unwrap();
        assert!(resumed.save().unwrap() == at, "{kind}, {place}: saved as loaded");
        steps(&mut alone, &mut expected, BEFORE..STEPS);
        steps(&mut resumed, &mut params, BEFORE..STEPS);
        assert!(params == expected, "{kind}, {place}: resumed");
        assert!(resumed.save().unwrap() == alone.save().unwrap(), "{kind}, {place}: the last checkpoint");
        for name in names() {
            assert_eq!(resumed.average(&name).unwrap(), alone.average(&name).unwrap(), "{kind}, {place}");
        }
    }
}

/// Rows that all ranks give, of a parameter that one of them updates.
pub fn rows_as_alone(ranks: &Arc<dyn Communicator>) {
    let step = |optimizer: &mut Driver, values: &mut [f32], t: i64| {
        let indices = [t % 4, 3];
        let grad = [0.5_f32, -1.0, 0.25 * t as f32, 2.0];
        let mut bias = [1.0_f32; 2];
        let bound = param("table", values, rows(&indices, &grad)).shaped(&[4, 2]);
        optimizer.step(&mut [bound, param("bias", &mut bias, &[0.5_f32; 2])]).unwrap();
    };
    let (mut alone, mut together) =
        (driver(sharded("SGD")), driver(sharded("SGD")).with_ranks(Arc::clone(ranks)));
    let (mut expected, mut values) = ([0.5_f32; 8], [0.5_f32; 8]);
    for t in 0..5 {
        step(&mut alone, &mut expected, t);
        step(&mut together, &mut values, t);
        assert_eq!(values, expected, "step {t}");
    }
    assert!(together.save().unwrap() == alone.save().unwrap());
}

/// Settings that are not hyperparameters differ: all ranks are told which.
pub fn settings(ranks: &Arc<dyn Communicator>) {
    let (world, last) = (ranks.world_size(), ranks.rank() + 1 == ranks.world_size());
    if world == 1 {
        return;
    }
    type Change = fn(Driver) -> Driver;
    let cases: [(&str, Change); 6] = [
        ("Q8", |mut driver| {
            driver.set_state_storage(0, StateStorage::all(Format::named("q8").unwrap())).unwrap();
            driver
        }),
        ("Skip", |driver| driver.with_non_finite(NonFinitePolicy::Skip)),
        ("accumulation_steps: 2", |driver| {
            let mut wrapper = GradientConfig::default();
            wrapper.accumulate.accumulation_steps = 2;
            driver.with_gradients(wrapper)
        }),
        ("interval: 3", |driver| driver.averaged(Average::equal(3).unwrap())),
        ("\"2 groups\" on rank", |mut driver| {
            driver.add_group_of(sharded("SGD"), |_| false, None).unwrap();
            driver
        }),
        ("after 1 steps", |mut driver| {
            driver.step(&mut [param("w", &mut [1.0_f32; 3], &[1.0_f32; 3])]).unwrap();
            driver
        }),
    ];
    for (told, change) in cases {
        let plain = driver(sharded("AdamW"));
        let mut optimizer = if last { change(plain) } else { plain }.with_ranks(Arc::clone(ranks));
        let mut values = [1.0_f32; 3];
        let error = optimizer.step(&mut [param("w", &mut values, &[1.0_f32; 3])]).unwrap_err().to_string();
        assert!(
            error.contains(&format!("ranks 0 and {} differ", world - 1)) && error.contains(told),
            "{error}"
        );
        assert_eq!(values, [1.0; 3]);
    }
}

/// What one rank alone finds skips the step on all: NaN in its gradient, or in a state that it alone has.
pub fn found_by_one(ranks: &Arc<dyn Communicator>) {
    let (rank, world) = (ranks.rank(), ranks.world_size());
    if world == 1 {
        return;
    }
    let hyper = OnebitAdam { freeze_step: 2, ..OnebitAdam::default() };
    let algorithm = Linked::<OnebitAdam, Native>::new(hyper).unwrap();
    let mut optimizer =
        driver(Box::new(algorithm)).with_ranks(Arc::clone(ranks)).with_non_finite(NonFinitePolicy::Skip);
    let (mut a, mut b) = ([1.0_f32; 3], [1.0_f32; 9]);
    for t in 0..8 {
        let mut own = [0.5_f32; 9];
        let spoilt = t == 5 && rank == world - 1;
        if spoilt {
            (own[2], own[7]) = (f32::NAN, f32::INFINITY);
        }
        let before = (a, b);
        let report =
            optimizer.step(&mut [param("a", &mut a, &[0.5_f32; 3]), param("b", &mut b, &own)]).unwrap();
        let skipped = (t == 5).then(|| Skipped::NonFinite { param: "b".into(), count: 2 });
        assert_eq!(report.skipped, skipped, "step {t}, rank {rank} of {world}");
        assert!(t != 5 || (a, b) == before);
    }
    assert!(!optimizer.averages());

    // Quantised states that hold a NaN belong to one rank.
    let mut optimizer = driver(sharded("AdamW")).with_ranks(Arc::clone(ranks));
    optimizer.set_state_storage(0, StateStorage::all(Format::named("q8").unwrap())).unwrap();
    let mut values = [vec![1.0_f32; 64], vec![1.0_f32; 32]];
    let mut bad = vec![0.5_f32; 32];
    bad[3] = f32::NAN;
    let mut step = |optimizer: &mut Driver, grad: &[f32]| {
        let [one, other] = &mut values;
        optimizer.step(&mut [param("one", one, &[0.5_f32; 64]), param("other", other, grad)]).unwrap()
    };
    step(&mut optimizer, &bad);
    let mut optimizer = optimizer.with_non_finite(NonFinitePolicy::Skip);
    let report = step(&mut optimizer, &[0.5_f32; 32]);
    let told = matches!(&report.skipped, Some(Skipped::PoisonedState { param, .. }) if param == "other");
    assert!(told, "{report:?}, rank {rank} of {world}");
}

/// All of it.
pub fn suite(ranks: &Arc<dyn Communicator>) {
    kept_as_alone(ranks);
    rows_as_alone(ranks);
    settings(ranks);
    found_by_one(ranks);
}
