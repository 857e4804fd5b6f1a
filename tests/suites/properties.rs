//! What must hold of the algorithms and of the driver, whatever the numbers.

use crate::common::{
    Buffer, CASES, Random, Tensor, best, bind, build, cpu, edited, entry_bytes, isas, outcome_of, recipe,
};
use fallline::optim::hyper::Value;
use fallline::optim::param;
use fallline::{Checkpoint, Format, Isa, NonFinitePolicy, Optimizer};
use proptest::prelude::*;

/// Algorithms that can climb, with options that matter to it.
const CLIMBERS: &[&str] = &[
    "type='SGD', lr=0.1",
    "type='SGD', lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.1",
    "type='Adam', lr=0.01, weight_decay=0.1",
    "type='Adam', lr=0.01, amsgrad=True",
    "type='AdamW', lr=0.01, weight_decay=0.1",
    "type='AdamW', lr=0.01, amsgrad=True",
    "type='Adagrad', lr=0.1, weight_decay=0.1",
    "type='Adadelta', weight_decay=0.1",
    "type='RMSprop', lr=0.1, weight_decay=0.1",
    "type='RMSprop', lr=0.1, centered=True, momentum=0.5",
    "type='RAdam', lr=0.1, weight_decay=0.1",
    "type='NAdam', lr=0.1, weight_decay=0.1",
    "type='Adamax', lr=0.1, weight_decay=0.1",
    "type='ASGD', lr=0.1, weight_decay=0.1, t0=0.0",
    "type='Rprop', lr=0.1",
    "type='SophiaG', lr=0.1",
    "type='TorchAdafactor', lr=0.1, weight_decay=0.1",
];

/// Algorithms that only see the gradient's direction, where nothing is added to it: no eps, no coupled decay.
const SCALE_FREE: &[&str] = &[
    "dict(type='Adam', lr=0.01, eps=0)",
    "dict(type='Adam', lr=0.01, eps=0, amsgrad=True)",
    "dict(type='Adam', lr=0.01, eps=0, weight_decay=0.1, decoupled_weight_decay=True)",
    "dict(type='AdamW', lr=0.01, eps=0, weight_decay=0.1)",
    "Lion",
    "dict(type='Lion', lr=0.01, weight_decay=0.1)",
    "dict(type='LAMB', lr=0.01, eps=0, max_unorm=0.1)",
    "dict(type='FusedLamb', lr=0.01, eps=0, weight_decay=0.1)",
    "dict(type='Adagrad', lr=0.1, eps=0, lr_decay=0.1)",
    "dict(type='RMSprop', lr=0.1, eps=0)",
    "dict(type='RMSprop', lr=0.1, eps=0, centered=True, momentum=0.5)",
    "dict(type='NAdam', lr=0.1, eps=0, weight_decay=0.1, decoupled_weight_decay=True)",
    "dict(type='Adamax', lr=0.1, eps=0)",
    "Rprop",
    "dict(type='FusedAdam', lr=0.1, eps=0, weight_decay=0.1)",
    "dict(type='DeepSpeedCPUAdam', lr=0.1, eps=0, weight_decay=0.1)",
    "dict(type='bnb_Adam', lr=0.1, eps=0, weight_decay=0.1)",
    "dict(type='bnb_Adagrad', lr=0.1, eps=0)",
    "dict(type='bnb_RMSprop', lr=0.1, eps=0)",
    "dict(type='bnb_Lion', lr=0.1, weight_decay=0.1)",
    "dict(type='AdEMAMix', lr=0.1, eps=0, t_alpha=3)",
    // The scale of a block goes with its largest magnitude, so that the codes stay.
    "dict(type='Lion8bit', lr=0.1, weight_decay=0.1, min_8bit_size=0)",
    "dict(type='Lion', lr=0.01, weight_decay=0.1, state_format='q4')",
];

fn wild_tensor(elements: usize, steps: usize, seed: u64) -> Tensor {
    let mut random = Random(seed);
    let mut draw = || Buffer::new(Format::F32, &random.wilds(elements));
    Tensor::new("p", draw(), (0..steps).map(|_| Some(draw())).collect())
}

fn with_grads(tensor: &Tensor, change: impl Fn(f64) -> f64) -> Tensor {
    let changed = |grad: &Option<Buffer>| {
        let values: Vec<f64> = grad.as_ref().unwrap().values().into_iter().map(&change).collect();
        Some(Buffer::new(Format::F32, &values))
    };
    Tensor { grads: tensor.grads.iter().map(changed).collect(), ..tensor.clone() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn climbing_is_descending_the_negated_gradient(seed in any::<u64>(), steps in 1..5usize) {
        let tensor = wild_tensor(50, steps, seed);
        for options in CLIMBERS {
            let up = outcome_of(build(&format!("dict({options}, maximize=True)")), std::slice::from_ref(&tensor));
            let down = outcome_of(build(&format!("dict({options})")), &[with_grads(&tensor, |g| -g)]);
            prop_assert!(up == down, "{}", options);
        }
    }

    #[test]
    fn adamw_without_decay_is_adam(seed in any::<u64>(), amsgrad in any::<bool>(), steps in 1..5usize) {
        let tensor = wild_tensor(50, steps, seed);
        let amsgrad = if amsgrad { "True" } else { "False" };
        let text = |name: &str| format!("dict(type='{name}', lr=0.01, weight_decay=0.0, amsgrad={amsgrad})");
        let adam = outcome_of(build(&text("Adam")), std::slice::from_ref(&tensor));
        prop_assert!(adam == outcome_of(build(&text("AdamW")), &[tensor]));
    }

    #[test]
    fn scaling_gradients_by_a_power_of_two_changes_nothing(
        seed in any::<u64>(), k in -20..=20i32, steps in 1..5usize,
    ) {
        // |g| in [2^-11, 2^10]: with 2^k, g² · (1 - β₂) lies in 2^-72 … 2^60, far inside f32, and no g is 0
        // (0/0 without eps). Multiplying by a power of two is then exact throughout.
        let mut random = Random(seed);
        let mut draw = |spread: i32| {
            let one = |random: &mut Random| {
                let size = (0.5 + random.unit().abs() / 2.0) * f64::from(random.below(spread as usize) as i32 - 10).exp2();
                if random.below(2) == 0 { size } else { -size }
            };
            Buffer::new(Format::F32, &(0..50).map(|_| one(&mut random)).collect::<Vec<_>>())
        };
        let tensor = Tensor::new("p", draw(20), (0..steps).map(|_| Some(draw(20))).collect());
        let scaled = with_grads(&tensor, |g| g * f64::from(k).exp2());
        for text in SCALE_FREE {
            let plain = outcome_of(build(text), std::slice::from_ref(&tensor));
            prop_assert!(plain[0].1 == outcome_of(build(text), std::slice::from_ref(&scaled))[0].1, "{} 2^{}", text, k);
        }
    }

    #[test]
    fn adamw_at_rest_decays_exactly(seed in any::<u64>(), lr in 0.01..1.0f64, wd in 0.1..3.0f64) {
        let values = Random(seed).wilds(50);
        let keep = (1.0 - lr * wd) as f32;
        let mut tensor = Tensor::new("p", Buffer::new(Format::F32, &values), Vec::new());
        let expected: Vec<f64> =
            tensor.value.values().into_iter().map(|p| f64::from(keep * p as f32)).collect();
        tensor.grads = vec![Some(Buffer::F32(vec![0.0; 50]))];
        let text = format!("dict(type='AdamW', lr={lr:?}, weight_decay={wd:?})");
        prop_assert_eq!(&outcome_of(build(&text), &[tensor])[0].1, &crate::common::bits(&expected));
    }

    #[test]
    fn descent_on_a_convex_quadratic_is_monotone(
        seed in any::<u64>(), n in 1..20usize, share in 0.01..0.99f64,
    ) {
        // Each x becomes fl(x - fl(lr · fl(λx))) with lr·λ ≤ 2 · 0.99: the subtrahend is at most 2x even
        // with its two roundings, and rounding is monotone, so |x| never grows, not even in the last place.
        let mut random = Random(seed);
        let lambda: Vec<f64> = (0..n).map(|_| (3.0 * random.unit()).exp2()).collect();
        let steepest = lambda.iter().copied().fold(0.0, f64::max);
        let lr = share * 2.0 / steepest;
        let mut x = random.units(n);
        let loss = |x: &[f64]| x.iter().zip(&lambda).map(|(x, l)| 0.5 * l * x * x).sum::<f64>();
        let mut optimizer = build(&format!("dict(type='SGD', lr={lr:?})"));
        let start = loss(&x);
        let mut last = start;
        for _ in 0..60 {
            let grad: Vec<f64> = x.iter().zip(&lambda).map(|(x, l)| l * x).collect();
            optimizer.step(&mut [param("x", &mut x, &grad)]).unwrap();
            prop_assert!(loss(&x) <= last, "{} after {}", loss(&x), last);
            last = loss(&x);
        }
        // 0.02 ≤ lr·L ≤ 1.98: the steepest direction shrinks by at least 0.98 a step, 0.98^120 < 0.09.
        prop_assert!(last < start);
    }

    #[test]
    fn the_norm_is_that_of_a_plain_sum(
        lengths in proptest::collection::vec(0..6000usize, 1..4), seed in any::<u64>(), double in any::<bool>(),
    ) {
        let format = if double { Format::F64 } else { Format::F32 };
        let mut random = Random(seed);
        let tensors: Vec<Tensor> = lengths.iter().enumerate().map(|(i, &n)| {
            let mut draw = || Buffer::new(format, &random.units(n));
            Tensor::new(format!("t{i}"), draw(), vec![Some(draw())])
        }).collect();
        let squares: f64 =
            tensors.iter().flat_map(|t| t.grads[0].as_ref().unwrap().values()).map(|g| g * g).sum();
        let naive = squares.sqrt();
        let got = norms(&tensors, best());
        // All terms are positive, so errors are relative. A term is rounded once as a square, then passes
        // at most 2 additions in its step, 16 into its accumulator and 6 of the tree (core::sums): 25
        // roundings of half an epsilon of the compute type, which the root halves. Partial sums fold in
        // f64, and the naive sum here has an f64 rounding for each element, at most.
        let half = 0.5 * if double { f64::EPSILON } else { f64::from(f32::EPSILON) };
        let bound = naive * (12.5 * half * 1.01 + (lengths.iter().sum::<usize>() + 50) as f64 * f64::EPSILON);
        prop_assert!((got - naive).abs() <= bound, "{} is not {} within {}", got, naive, bound);
        for isa in isas() {
            prop_assert_eq!(norms(&tensors, cpu(isa, 1)).to_bits(), got.to_bits(), "{}", isa);
        }
    }
}

/// Returns the reported norm of the first step.
fn norms(tensors: &[Tensor], backend: std::sync::Arc<dyn fallline::Backend>) -> f64 {
    let mut optimizer = recipe("SGD").optimizer(backend).with_non_finite(NonFinitePolicy::Skip);
    let mut tensors = tensors.to_vec();
    optimizer.step(&mut bind(&mut tensors, 0)).unwrap().grad_norm().unwrap()
}

#[test]
fn the_norm_has_the_same_bits_for_any_number_of_threads() {
    let mut random = Random(3);
    let lengths = [100_001, 0, 1, 170_003, 4096];
    let tensors: Vec<Tensor> = lengths
        .iter()
        .enumerate()
        .map(|(i, &n)| Tensor::plain(&format!("t{i}"), n, 1, &mut random))
        .collect();
    let one = norms(&tensors, cpu(Isa::best(), 1));
    for threads in [2, 7] {
        assert_eq!(norms(&tensors, cpu(Isa::best(), threads)).to_bits(), one.to_bits(), "{threads} threads");
    }
    let mut backwards = tensors;
    backwards.reverse();
    assert_eq!(norms(&backwards, cpu(Isa::best(), 2)).to_bits(), one.to_bits(), "another order");
}

#[test]
fn nothing_moves_at_rest_without_decay() {
    // Skipped: decay moves at rest, and so does a constraint; eps=0 is 0/0; maximize makes -0 of the gradient, and
    // -0 - -0 is +0.
    let still = |text: &&&str| {
        let recipe = recipe(text);
        let number = |name| recipe.algorithm().get(name).and_then(|value| value.as_f64());
        let decays = ["weight_decay", "lambd"].iter().any(|name| number(name).is_some_and(|x| x != 0.0));
        let constrains = recipe.algorithm().get("constraint") == Some(Value::Bool(true));
        !decays && !constrains && number("eps") != Some(0.0) && !recipe.algorithm().maximize()
    };
    let tried: Vec<_> = CASES.iter().filter(still).collect();
    assert!(tried.len() >= 30, "{tried:?}");
    for text in tried {
        // The norm of wild numbers is infinite, and that times a step of 0 is not a number in the sources either.
        // So is the way from an infinite weight to one that is as large.
        let averages = text.contains("ScheduleFree");
        let (mut random, norms) = (Random(1), averages || crate::common::looks_at_whole_tensors(text));
        let numbers = if norms { random.units(200) } else { random.wilds(200) };
        let value = Buffer::new(Format::F32, &numbers);
        let zero = Some(Buffer::F32(vec![0.0; 200]));
        let tensor = Tensor::new("p", value, vec![zero.clone(), zero]);
        assert_eq!(
            outcome_of(build(text), std::slice::from_ref(&tensor))[0].1,
            tensor.value.bits(),
            "{text}"
        );
    }
}

#[test]
fn step_counts_go_past_what_small_types_hold() {
    for steps in [255i64, 256, 2047, 2048, 65_535, (1 << 24) - 1, 1 << 24, 1 << 31, 1 << 53] {
        let mut optimizer = build("dict(type='Adam', lr=0.01, betas=(0.9, 0.999999))");
        let (mut p, g) = ([1.0f64], [0.5f64]);
        optimizer.step(&mut [param("p", &mut p, &g)]).unwrap();
        let bytes = edited(&optimizer.save().unwrap(), |header, data| {
            entry_bytes(header, data, "step/p").copy_from_slice(&steps.to_le_bytes());
        });
        optimizer.load(&Checkpoint::from_bytes(&bytes).unwrap()).unwrap();
        let state = |optimizer: &fallline::Driver, name| optimizer.state("p", name).unwrap().unwrap()[0];
        let (m, v, old) = (state(&optimizer, "m"), state(&optimizer, "v"), p[0]);
        optimizer.step(&mut [param("p", &mut p, &g)]).unwrap();
        assert_eq!(optimizer.params()[0].steps, steps as u64 + 1);

        let t = (steps + 1) as f64;
        let (m, v) = (0.9 * m + (1.0 - 0.9) * g[0], 0.999999 * v + (1.0 - 0.999999) * g[0] * g[0]);
        // 1 - βᵗ without cancellation, through expm1(t ln β).
        let (c1, c2) = (-(t * 0.9f64.ln()).exp_m1(), -(t * 0.999999f64.ln()).exp_m1());
        let moved = 0.01 / c1 * m / ((v / c2).sqrt() + 1e-8);
        // βᵗ is near 1 at the smallest t (2.5e-4 off): the engine's 1 - βᵗ has lost up to 2^-53 / 2.5e-4
        // = 4.5e-13 of itself by then; ln and the other dozen operations add less than 1e-14. The
        // parameter rounds at 2^-53.
        let error = (old - p[0] - moved).abs();
        assert!(error <= 1e-12 * moved.abs() + 2.3e-16, "t={t}: moved {}, expected {moved}", old - p[0]);
        // The next checkpoint has it, too.
        assert_eq!(optimizer.save().unwrap().steps("p").unwrap(), steps as u64 + 1);
    }
}

#[test]
fn nan_propagates_by_default_as_in_torch() {
    let tensor = Tensor::new("p", Buffer::F32(vec![1.0, 2.0]), vec![Some(Buffer::F32(vec![f32::NAN, 0.0]))]);
    let got = outcome_of(build("Adam"), &[tensor]);
    assert_eq!(got[0].1, crate::common::bits(&[f64::NAN, 2.0]));
}
