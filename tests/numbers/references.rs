//! The engine against literal, naive `f64` references of algorithms of several passes, with hyperparameters and shapes drawn at
//! random. Every name has recorded values as well: `tests/suites/golden.rs` and `tests/suites/quantised.rs` say which has none.

use crate::common::{Random, best, recipe, search};
use crate::naive::{Grad, Reference, adafactor, dadapt, layerwise, lbfgs, muon, sparse_adam};
use fallline::optim::{Binding, Objective, frozen, param, rows};
use fallline::{Driver, Optimizer};
use ndarray::{Array1, ArrayD};
use proptest::prelude::*;

/// The largest difference that two ways of computing the same in `f64` may come to.
///
/// Here a formula has below 100 roundings an element, a sum below 1,000 terms, and a run 6 steps. That is 1e-12
/// relative to the largest number that takes part: a start value, a gradient or a move. Two algorithms amplify it.
/// Newton-Schulz does so by 3.45⁵ = 490: its polynomial has a slope of up to 3.45 in 0. D-Adaptation does so by
/// 1,000: its d grows from 1e-3 of a difference of sums. The tolerance 1e-9 is above both, and a coefficient that
/// is wrong by a millionth is far above 1e-9.
const TOLERANCE: f64 = 1e-9;
const STEPS: usize = 6;

/// Shapes of a run's parameters.
type Shapes = Vec<Vec<usize>>;

fn shapes(dimensions: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Shapes> {
    proptest::collection::vec(proptest::collection::vec(1..8usize, dimensions), 1..4)
}

/// Returns random start values and gradients; now and then a gradient is missing. One in `by_rows` parameters has
/// row-sparse gradients, if not 0.
fn drawn(shapes: &Shapes, by_rows: usize, seed: u64) -> (Vec<ArrayD<f64>>, Vec<Vec<Option<Grad>>>) {
    let mut random = Random(seed);
    let array = |shape: &[usize], random: &mut Random| ArrayD::from_shape_fn(shape, |_| random.unit());
    let params = shapes.iter().map(|shape| array(shape, &mut random)).collect();
    let mut grad = |i: usize, shape: &Vec<usize>, t: usize| {
        if t > 0 && random.below(6) == 0 {
            return None;
        }
        if by_rows == 0 || !i.is_multiple_of(by_rows) {
            return Some(Grad::Dense(array(shape, &mut random)));
        }
        let count = random.below(2 * shape[0] + 1);
        let indices: Vec<i64> = (0..count).map(|_| random.below(shape[0]) as i64).collect();
        let values = array(&[&[count], &shape[1..]].concat(), &mut random);
        Some(Grad::Rows(indices, values))
    };
    let grads = (0..STEPS).map(|t| shapes.iter().enumerate().map(|(i, shape)| grad(i, shape, t)).collect());
    (params, grads.collect())
}

fn step(optimizer: &mut Driver, params: &mut [ArrayD<f64>], grads: &[Option<Grad>]) {
    let names: Vec<String> = (0..params.len()).map(|i| format!("p{i}")).collect();
    let mut bindings: Vec<Binding<'_>> = Vec::new();
    for ((name, value), grad) in names.iter().zip(params).zip(grads) {
        bindings.push(match grad {
            None => frozen(name, value),
            Some(Grad::Dense(grad)) => param(name, value, grad),
            Some(Grad::Rows(indices, values)) => param(name, value, rows(indices, values)),
        });
    }
    optimizer.step(&mut bindings).unwrap();
}

/// Steps both and compares after each step.
fn agree(text: &str, reference: impl Reference, shapes: &Shapes, by_rows: usize, seed: u64) {
    let (params, grads) = drawn(shapes, by_rows, seed);
    agree_on(text, reference, params, &grads);
}

/// Checks the same from these start values on, with these gradients.
fn agree_on(
    text: &str,
    mut reference: impl Reference,
    params: Vec<ArrayD<f64>>,
    grads: &[Vec<Option<Grad>>],
) {
    let mut got = params;
    let (mut expected, mut optimizer) = (got.clone(), recipe(text).optimizer(best()));
    for (t, grads) in grads.iter().enumerate() {
        let before = expected.clone();
        reference.step(&mut expected, grads);
        step(&mut optimizer, &mut got, grads);
        let all = || before.iter().flatten().chain(expected.iter().flatten());
        let scale = all().fold(1.0f64, |most, x| most.max(x.abs()));
        for (i, (expected, got)) in expected.iter().zip(&got).enumerate() {
            for (x, y) in expected.iter().zip(got) {
                let near = (x - y).abs() <= TOLERANCE * scale;
                assert!(near, "{text}: p{i} after step {t}: expected {x:e}, got {y:e} (scale {scale:e})");
            }
        }
    }
}

/// Returns a configuration: the name and its options.
fn config(name: &str, options: &str) -> String {
    format!("dict(type='{name}', {options})")
}

fn python(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

fn betas() -> impl Strategy<Value = (f64, f64)> {
    (0.0..0.99f64, 0.1..0.999f64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn lamb(
        shapes in shapes(0..=3), seed in any::<u64>(), lr in 1e-4..0.1f64, betas in betas(), eps in 1e-8..1e-2f64,
        decay in 0.0..0.5f64, most in prop_oneof![Just(0.0), 0.01..2.0f64],
    ) {
        let options = format!("lr={lr:?}, betas={betas:?}, eps={eps:?}, weight_decay={decay:?}, max_unorm={most:?}");
        for name in ["LAMB", "LAMB32bit"] {
            let reference = layerwise::Lamb::new(lr, betas, eps, decay, most);
            agree(&config(name, &options), reference, &shapes, 0, seed);
        }
    }

    #[test]
    fn lars(
        shapes in shapes(0..=3), seed in any::<u64>(), lr in 1e-4..0.1f64, momentum in 0.1..0.99f64,
        decay in 0.0..0.5f64, most in prop_oneof![Just(0.0), 0.01..2.0f64],
    ) {
        let options = format!("lr={lr:?}, momentum={momentum:?}, weight_decay={decay:?}, max_unorm={most:?}");
        for name in ["LARS", "LARS32bit"] {
            let reference = layerwise::Lars::new(lr, momentum, 0.0, false, decay, most);
            agree(&config(name, &options), reference, &shapes, 0, seed);
        }
    }

    #[test]
    fn pytorch_lars(
        shapes in shapes(0..=3), seed in any::<u64>(), lr in 1e-4..0.1f64, decay in 0.0..0.5f64,
        (momentum, dampening, nesterov) in
            prop_oneof![Just((0.0, 0.0, false)), (0.1..0.99f64, -0.5..0.9f64).prop_map(|(m, d)| (m, d, false)),
            (0.1..0.99f64).prop_map(|m| (m, 0.0, true))],
        most in prop_oneof![Just(0.0), 0.01..2.0f64],
    ) {
        let options = format!(
            "lr={lr:?}, momentum={momentum:?}, dampening={dampening:?}, nesterov={}, weight_decay={decay:?}, \
            max_unorm={most:?}", python(nesterov));
        let reference = layerwise::Lars::new(lr, momentum, dampening, nesterov, decay, most);
        agree(&config("PytorchLARS", &options), reference, &shapes, 0, seed);
    }

    #[test]
    fn fused_lamb(
        shapes in shapes(0..=3), seed in any::<u64>(), lr in 1e-4..0.1f64, corrected in any::<bool>(),
        betas in betas(), eps in 1e-8..1e-2f64, inside in any::<bool>(), decay in 0.0..0.5f64,
        clip in prop_oneof![Just(0.0), 0.1..5.0f64], most in 0.5..10.0f64, least in 0.01..0.4f64,
    ) {
        let options = format!(
            "lr={lr:?}, bias_correction={}, betas={betas:?}, eps={eps:?}, eps_inside_sqrt={}, weight_decay={decay:?}, \
            max_grad_norm={clip:?}, max_coeff={most:?}, min_coeff={least:?}", python(corrected), python(inside));
        let reference = layerwise::FusedLamb::new(lr, corrected, betas, eps, inside, decay, clip, (most, least));
        agree(&config("FusedLamb", &options), reference, &shapes, 0, seed);
    }

    #[test]
    fn dadapt_adam(
        shapes in shapes(0..=3), seed in any::<u64>(), lr in 0.1..1.0f64, betas in betas(), eps in 1e-8..1e-2f64,
        decay in 0.0..0.5f64, decouple in any::<bool>(), corrected in any::<bool>(), d0 in 1e-3..0.1f64,
        growth in prop_oneof![Just(f64::INFINITY), 1.01..3.0f64],
    ) {
        let growth_text = if growth.is_infinite() { "float('inf')".to_owned() } else { format!("{growth:?}") };
        let options = format!(
            "lr={lr:?}, betas={betas:?}, eps={eps:?}, weight_decay={decay:?}, decouple={}, use_bias_correction={}, \
            d0={d0:?}, growth_rate={growth_text}", python(decouple), python(corrected));
        let reference = dadapt::Adam::new(lr, betas, eps, decay, decouple, corrected, d0, growth);
        agree(&config("DAdaptAdam", &options), reference, &shapes, 0, seed);
    }

    #[test]
    fn dadapt_sgd(
        shapes in shapes(0..=3), seed in any::<u64>(), lr in 0.1..1.0f64, momentum in 0.0..0.95f64,
        decay in 0.0..0.5f64, d0 in 1e-3..0.1f64, growth in 1.01..3.0f64,
    ) {
        let options = format!(
            "lr={lr:?}, momentum={momentum:?}, weight_decay={decay:?}, d0={d0:?}, growth_rate={growth:?}");
        let reference = dadapt::Sgd::new(lr, momentum, decay, d0, growth);
        agree(&config("DAdaptSGD", &options), reference, &shapes, 0, seed);
    }

    #[test]
    fn dadapt_adagrad(
        shapes in shapes(1..=3), seed in any::<u64>(), lr in 0.1..1.0f64, momentum in 0.0..0.95f64,
        decay in 0.0..0.5f64, eps in 1e-6..1e-2f64, d0 in 1e-3..0.1f64, growth in 1.01..3.0f64,
        by_rows in 0..3usize,
    ) {
        let options = format!(
            "lr={lr:?}, momentum={momentum:?}, weight_decay={decay:?}, eps={eps:?}, d0={d0:?}, growth_rate={growth:?}");
        let reference = dadapt::AdaGrad::new(lr, momentum, decay, eps, d0, growth);
        agree(&config("DAdaptAdaGrad", &options), reference, &shapes, by_rows, seed);
    }

    #[test]
    fn sparse_adam(
        shapes in shapes(1..=3), seed in any::<u64>(), lr in 1e-4..0.1f64, betas in betas(), eps in 1e-8..1e-2f64,
        maximize in any::<bool>(),
    ) {
        let options = format!("lr={lr:?}, betas={betas:?}, eps={eps:?}, maximize={}", python(maximize));
        let reference = sparse_adam::SparseAdam::new(lr, betas, eps, maximize);
        agree(&config("SparseAdam", &options), reference, &shapes, 1, seed);
    }

    #[test]
    fn muon(
        shapes in shapes(2..=2), seed in any::<u64>(), lr in 1e-4..0.1f64, decay in 0.0..0.5f64,
        momentum in 0.0..0.99f64, nesterov in any::<bool>(), steps in 1..6u64,
        adjust in prop_oneof![Just(None), Just(Some("original")), Just(Some("match_rms_adamw")),
            Just(Some("spectral_unclamped"))],
    ) {
        let function = adjust.map_or("None".to_owned(), |name| format!("{name:?}"));
        let coefficients = (3.4445, -4.7750, 2.0315);
        let options = format!(
            "lr={lr:?}, weight_decay={decay:?}, momentum={momentum:?}, nesterov={}, ns_steps={steps}, \
            adjust_lr_fn={function}", python(nesterov));
        let reference = muon::Muon::new(lr, decay, momentum, nesterov, coefficients, 1e-7, steps, adjust);
        agree(&config("Muon", &options), reference, &shapes, 0, seed);
    }

    #[test]
    fn adafactor(
        shapes in shapes(0..=4), seed in any::<u64>(), lr in prop_oneof![Just(None), (1e-4..0.1f64).prop_map(Some)],
        clip in 0.3..2.0f64, decay_rate in -0.95..-0.3f64, decay in 0.0..0.5f64, scaled in any::<bool>(),
        beta1 in prop_oneof![Just(None), (0.0..0.99f64).prop_map(Some)], warmup in any::<bool>(),
    ) {
        let none = |value: Option<f64>| value.map_or("None".to_owned(), |value| format!("{value:?}"));
        let (relative, warmup) = (lr.is_none(), warmup && lr.is_none());
        let options = format!(
            "lr={}, clip_threshold={clip:?}, decay_rate={decay_rate:?}, beta1={}, weight_decay={decay:?}, \
            scale_parameter={}, relative_step={}, warmup_init={}",
            none(lr), none(beta1), python(scaled), python(relative), python(warmup));
        let reference =
            adafactor::Adafactor::new(lr, (1e-30, 1e-3), clip, decay_rate, beta1, decay, scaled, warmup);
        agree(&config("Adafactor", &options), reference, &shapes, 0, seed);
    }

    #[test]
    fn torch_adafactor(
        shapes in shapes(0..=4), seed in any::<u64>(), lr in 1e-4..0.5f64, beta2_decay in -0.95..-0.3f64,
        eps1 in prop_oneof![Just(None), (1e-8..1e-2f64).prop_map(Some)], d in 1.0..2.0f64, decay in 0.0..0.5f64,
        maximize in any::<bool>(),
    ) {
        let none = eps1.map_or("None".to_owned(), |value| format!("{value:?}"));
        let options = format!(
            "lr={lr:?}, beta2_decay={beta2_decay:?}, eps=({none}, 1e-3), d={d:?}, weight_decay={decay:?}, maximize={}",
            python(maximize));
        let eps = (eps1.unwrap_or(f64::EPSILON), 1e-3);
        let reference = adafactor::TorchAdafactor::new(lr, beta2_decay, eps, d, decay, maximize);
        agree(&config("TorchAdafactor", &options), reference, &shapes, 0, seed);
    }

    #[test]
    fn lbfgs(
        n in 1..9usize, seed in any::<u64>(), lr in 0.3..1.0f64, max_iter in 2..6usize, history in 1..6usize,
        wolfe in any::<bool>(),
    ) {
        let mut random = Random(seed);
        // A bowl with curvatures from 0.5 to 4 and a term of the fourth order, which keeps it convex.
        let curvature = Array1::from_iter((0..n).map(|_| 0.5 + 1.75 * (1.0 + random.unit())));
        let mix = Array1::from_iter(random.units(n));
        let function = move |x: &Array1<f64>| {
            let along = mix.dot(x);
            let loss = 0.5 * (&curvature * x * x).sum() + 0.1 * along.powi(4);
            (loss, &curvature * x + 0.4 * along.powi(3) * &mix)
        };
        let line_search = if wolfe { "'strong_wolfe'" } else { "None" };
        let text = config("LBFGS", &format!(
            "lr={lr:?}, max_iter={max_iter}, history_size={history}, line_search_fn={line_search}"));
        let start = 2.0 * Array1::from_iter(random.units(n));
        let mut bowl = Bowl { x: start.clone(), gradient: Array1::zeros(n), function: &function };
        let (mut x, mut optimizer) = (start, search(&text));
        let mut reference = lbfgs::Lbfgs::new(lr, max_iter, history, wolfe);
        for t in 0..3 {
            let expected = reference.step(&mut x, &function);
            let loss = optimizer.step_with(&mut bowl).unwrap();
            // Condition numbers below 1e3: inverting the curvature amplifies roundings by no more.
            prop_assert!((loss - expected).abs() <= TOLERANCE, "{text}: loss at {t}: {expected:e}, got {loss:e}");
            for (x, y) in x.iter().zip(&bowl.x) {
                prop_assert!((x - y).abs() <= TOLERANCE, "{text}: after step {t}: expected {x:e}, got {y:e}");
            }
        }
    }
}

/// One number, and a step without any gradient: the source divides by zero there, here nothing happens.
#[test]
fn dadapt_sgd_passes_over_a_step_without_gradients() {
    let text = config("DAdaptSGD", "lr=0.1, momentum=0.0, weight_decay=0.0, d0=0.001, growth_rate=1.01");
    let reference = dadapt::Sgd::new(0.1, 0.0, 0.0, 0.001, 1.01);
    let (shapes, seed) = (vec![Vec::new()], 14658208611074790043);
    assert!(drawn(&shapes, 0, seed).1.iter().any(|grads| grads[0].is_none()));
    agree(&text, reference, &shapes, 0, seed);
}

/// A function as a training loop has it.
struct Bowl<'f> {
    x: Array1<f64>,
    gradient: Array1<f64>,
    function: lbfgs::Function<'f>,
}

impl Objective for Bowl<'_> {
    fn evaluate(&mut self) -> fallline::optim::Result<f64> {
        let (loss, gradient) = (self.function)(&self.x);
        self.gradient = gradient;
        Ok(loss)
    }

    fn bindings(&mut self) -> Vec<Binding<'_>> {
        vec![param("x", &mut self.x, &self.gradient)]
    }
}

/// The bound ε₁ of torch's Adafactor. A row and a column are zeros, and rows and columns are so small that it acts
/// where they meet, or everywhere.
#[test]
fn torch_adafactor_at_its_bound() {
    let shapes = vec![vec![5, 7], vec![2, 4, 3], vec![6]];
    for (least, seed) in [(1e-3, 1), (1e-9, 2), (1e-18, 3)] {
        let (params, mut grads) = drawn(&shapes, 0, seed);
        for grad in grads.iter_mut().flatten().flatten() {
            let Grad::Dense(grad) = grad else { panic!("none was asked for by rows") };
            let last = grad.ndim() - 1;
            for (index, g) in grad.indexed_iter_mut() {
                let (row, column) = (index[last.saturating_sub(1)], index[last]);
                *g *= match (row.min(column), row.max(column)) {
                    (0, _) => 0.0,
                    (1, 1) => least * least,
                    (1, _) => least,
                    _ if least < 1e-12 => least,
                    _ => 1.0,
                };
            }
        }
        for eps1 in [None, Some(1e-6)] {
            let none = eps1.map_or("None".to_owned(), |value| format!("{value:?}"));
            let eps = (eps1.unwrap_or(f64::EPSILON), 1e-3);
            let reference = adafactor::TorchAdafactor::new(0.1, -0.8, eps, 1.0, 0.1, false);
            let text = config("TorchAdafactor", &format!("lr=0.1, eps=({none}, 1e-3), weight_decay=0.1"));
            agree_on(&text, reference, params.clone(), &grads);
        }
    }
}

/// Of torch's Adafactor a gradient that is not a number reaches all of its matrix, through the mean of the rows.
#[test]
fn torch_adafactor_of_what_is_no_number() {
    let (mut params, mut grads) = drawn(&vec![vec![5, 7], vec![3, 4]], 0, 4);
    let Some(Grad::Dense(grad)) = &mut grads[0][0] else { panic!("the first step has all gradients") };
    grad[[1, 2]] = f64::NAN;
    step(&mut recipe("TorchAdafactor").optimizer(best()), &mut params, &grads[0]);
    assert!(params[0].iter().all(|x| x.is_nan()) && params[1].iter().all(|x| x.is_finite()), "{params:?}");
}
