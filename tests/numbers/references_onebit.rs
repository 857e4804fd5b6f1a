//! The 1-bit optimizers once more, literally and slowly, in `f64` on `ndarray`, with random options, gaps and tensors.

use crate::common::{Buffer, Random, Tensor, best, bind, recipe};
use fallline::Format;
use ndarray::Array1;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// What every one of them has, as DeepSpeed's constructors name it, and what only some have.
#[derive(Clone, Debug)]
struct Options {
    lr: f64,
    betas: (f64, f64),
    eps: f64,
    weight_decay: f64,
    freeze_step: u64,
    /// OnebitAdam.
    non_freeze: bool,
    /// OnebitLamb.
    coefficients: (f64, f64),
    coeff_beta: f64,
    factors: (f64, f64),
    threshold: f64,
    /// ZeroOneAdam.
    var_update_scaler: u64,
    local_step_scaler: u64,
    local_step_clipper: u64,
}

/// A parameter with all that is remembered for it.
#[derive(Clone, Debug)]
struct Parameter {
    p: Array1<f64>,
    step: u64,
    m: Array1<f64>,
    v: Array1<f64>,
    /// OnebitLamb's variance that goes on, ZeroOneAdam's collected steps.
    other: Array1<f64>,
    coefficient: f64,
    factor: f64,
    var: (u64, u64),
    local: (u64, u64),
    rates: f64,
}

/// A whole optimizer. Parameters are in the order of their names.
struct Reference {
    options: Options,
    params: BTreeMap<String, Parameter>,
    initialized: bool,
    frozen: bool,
}

type Grads = BTreeMap<String, Array1<f64>>;

fn norm(x: &Array1<f64>) -> f64 {
    x.mapv(|x| x * x).sum().sqrt()
}

impl Reference {
    fn onebit_adam(&mut self, grads: &Grads) {
        let o = self.options.clone();
        let mut last = 0;
        for (name, g) in grads {
            let s = self.params.get_mut(name).unwrap();
            s.step += 1;
            last = s.step;
            if self.initialized || o.non_freeze {
                s.m = &s.m * o.betas.0 + g * (1.0 - o.betas.0);
            }
            if (self.initialized && !self.frozen) || o.non_freeze {
                s.v = &s.v * o.betas.1 + &(g * g) * (1.0 - o.betas.1);
            }
            if self.initialized {
                let update = &s.m / &(s.v.mapv(f64::sqrt) + o.eps) + &s.p * o.weight_decay;
                s.p = &s.p - &(update * o.lr);
            }
        }
        self.frozen |= self.initialized && last >= o.freeze_step;
        self.initialized = true;
    }

    fn onebit_lamb(&mut self, grads: &Grads) {
        let o = self.options.clone();
        let mut last_step = 0;
        for (name, g) in grads {
            let s = self.params.get_mut(name).unwrap();
            s.step += 1;
            last_step = s.step;
            if !self.initialized {
                continue;
            }
            let last = s.m.clone();
            s.m = &s.m * o.betas.0 + g * (1.0 - o.betas.0);
            if self.frozen {
                let rebuilt = (&s.m - &(last * o.betas.0)) / (1.0 - o.betas.0);
                s.other = &s.other * o.betas.1 + &rebuilt * &rebuilt * (1.0 - o.betas.1);
            } else {
                s.v = &s.v * o.betas.1 + &(g * g) * (1.0 - o.betas.1);
                if s.step == o.freeze_step {
                    s.other = s.v.clone();
                }
            }
            let denominator = s.v.mapv(f64::sqrt) + o.eps;
            let direction = &s.m / &denominator;
            let update = &direction + &(&s.p * o.weight_decay);
            let coefficient = if self.frozen {
                let ratios = &denominator / &(s.other.mapv(f64::sqrt) + o.eps);
                let mut factor = ratios.fold(f64::NEG_INFINITY, |most, &x| most.max(x));
                if o.weight_decay > 0.0 {
                    let share = (norm(&direction) / norm(&update)).min(1.0);
                    factor = factor * share + (1.0 - share);
                }
                factor = factor.min(o.factors.1).max(o.factors.0);
                s.factor = factor.min(s.factor * (1.0 + o.threshold)).max(s.factor * (1.0 - o.threshold));
                s.coefficient * s.factor
            } else {
                let (of_p, of_update) = (norm(&s.p), norm(&update));
                let mut ratio = 1.0;
                if of_p != 0.0 && of_update != 0.0 {
                    ratio = (of_p / of_update).min(o.coefficients.1).max(o.coefficients.0);
                }
                if ratio != 1.0 {
                    s.coefficient = o.coeff_beta * s.coefficient + (1.0 - o.coeff_beta) * ratio;
                }
                ratio
            };
            s.p = &s.p - &(update * (o.lr * coefficient));
        }
        self.frozen |= self.initialized && last_step >= o.freeze_step;
        self.initialized = true;
    }

    fn zero_one_adam(&mut self, grads: &Grads) {
        let o = self.options.clone();
        for (name, g) in grads {
            let s = self.params.get_mut(name).unwrap();
            s.step += 1;
            if !self.initialized {
                continue;
            }
            let adapts = !self.frozen && s.step.is_multiple_of(s.var.0);
            if self.frozen || adapts {
                s.m = &s.m * o.betas.0 + g * (1.0 - o.betas.0);
            }
            if adapts {
                s.v = &s.v * o.betas.1 + &(g * g) * (1.0 - o.betas.1);
                s.var.1 += 1;
                if s.var.1 == o.var_update_scaler {
                    s.var = (2 * s.var.0, 0);
                }
            }
            let root = s.v.mapv(f64::sqrt) + o.eps;
            let d = (&s.m / &root + &s.p * o.weight_decay) * o.lr;
            s.p = &s.p - &d;
            if self.frozen {
                s.other = &s.other - &d;
                s.rates += o.lr;
                if s.step.is_multiple_of(s.local.0) {
                    s.p = &s.p - &s.other;
                    let sent = &s.other * &root;
                    s.m = -(&sent / s.rates);
                    s.p = &s.p + &(sent / &root);
                    s.other.fill(0.0);
                    s.rates = 0.0;
                }
                s.local.1 += 1;
                if s.local.1 == o.local_step_scaler {
                    s.local = ((2 * s.local.0).min(o.local_step_clipper), 0);
                }
            }
        }
        let first = grads.keys().next().map_or(0, |name| self.params[name].step);
        self.frozen |= self.initialized && first > o.freeze_step;
        self.initialized = true;
    }
}

fn options() -> impl Strategy<Value = Options> {
    let numbers = (
        1e-3..0.1,
        (0.0..0.95, 0.0..0.99),
        prop_oneof![Just(1e-8), 1e-3..0.5],
        prop_oneof![Just(0.0), 0.01..0.3],
    );
    let lamb = ((0.01..0.5, 0.6..20.0), 0.0..1.0, (0.2..1.2, 1.3..4.0), 0.01..0.5);
    let steps = (0..9u64, any::<bool>(), 0..4u64, 0..4u64, 1..5u64);
    (numbers, lamb, steps).prop_map(
        |((lr, betas, eps, weight_decay), (coefficients, coeff_beta, factors, threshold), steps)| {
            let (freeze_step, non_freeze, var_update_scaler, local_step_scaler, local_step_clipper) = steps;
            Options {
                lr,
                betas,
                eps,
                weight_decay,
                freeze_step,
                non_freeze,
                coefficients,
                coeff_beta,
                factors,
                threshold,
                var_update_scaler,
                local_step_scaler,
                local_step_clipper,
            }
        },
    )
}

/// Compares both over the same gradients.
fn compare(
    name: &str,
    own: &str,
    o: &Options,
    lengths: &[usize],
    seed: u64,
    step: fn(&mut Reference, &Grads),
) {
    const STEPS: usize = 18;
    let Options { lr, betas, eps, weight_decay, .. } = o;
    let text = format!(
        "dict(type='{name}', lr={lr:?}, betas={betas:?}, eps={eps:?}, weight_decay={weight_decay:?}, {own})"
    );
    let mut random = Random(seed);
    let mut tensors: Vec<Tensor> = Vec::new();
    for (i, &n) in lengths.iter().enumerate() {
        let value = Buffer::new(Format::F64, &random.units(n));
        let grads =
            (0..STEPS).map(|_| (random.below(5) > 0).then(|| Buffer::new(Format::F64, &random.units(n))));
        tensors.push(Tensor::new(format!("t{i}"), value, grads.collect()));
    }
    let start = |tensor: &Tensor| {
        let zero = Array1::zeros(tensor.value.values().len());
        let parameter = Parameter {
            p: Array1::from(tensor.value.values()),
            step: 0,
            m: zero.clone(),
            v: zero.clone(),
            other: zero,
            coefficient: 0.0,
            factor: 1.0,
            var: (1, 0),
            local: (1, 0),
            rates: 0.0,
        };
        (tensor.name.clone(), parameter)
    };
    let params = tensors.iter().map(start).collect();
    let mut reference = Reference { options: o.clone(), params, initialized: false, frozen: false };
    let mut optimizer = recipe(&text).optimizer(best());
    let mut largest = 1.0f64;
    for t in 0..STEPS {
        let grads: Grads = tensors
            .iter()
            .filter_map(|tensor| {
                Some((tensor.name.clone(), Array1::from(tensor.grads[t].as_ref()?.values())))
            })
            .collect();
        optimizer.step(&mut bind(&mut tensors, t)).unwrap();
        if !grads.is_empty() {
            step(&mut reference, &grads);
        }
        for tensor in &tensors {
            let expected = &reference.params[&tensor.name];
            largest = expected.p.iter().chain(&expected.other).fold(largest, |most, x| most.max(x.abs()));
            // Each step rounds some twenty times at the size of its largest number: 18 · 20 · 1.1e-16 is 4e-14. What is
            // rebuilt from the momentum has that over 1 − β₁ ≥ 0.05, and with a small gradient over that: a thousandth
            // among some hundred numbers. 1e-9 is above all of it, and far below any mistake.
            for (i, (got, expected)) in tensor.value.values().iter().zip(&expected.p).enumerate() {
                let error = (got - expected).abs();
                assert!(
                    error <= 1e-9 * largest,
                    "{text}: {}[{i}] after step {t}: {got} is not {expected}",
                    tensor.name
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn onebit_adam_is_its_reference(
        o in options(), lengths in proptest::collection::vec(0..30usize, 1..4), seed in any::<u64>(),
    ) {
        let non_freeze = if o.non_freeze { "True" } else { "False" };
        let own = format!("freeze_step={}, non_freeze={non_freeze}", o.freeze_step);
        compare("OnebitAdam", &own, &o, &lengths, seed, Reference::onebit_adam);
    }

    #[test]
    fn onebit_lamb_is_its_reference(
        o in options(), lengths in proptest::collection::vec(1..120usize, 1..4), seed in any::<u64>(),
    ) {
        let own = format!(
            "freeze_step={}, min_coeff={:?}, max_coeff={:?}, coeff_beta={:?}, factor_min={:?}, factor_max={:?}, \
             factor_threshold={:?}",
            o.freeze_step, o.coefficients.0, o.coefficients.1, o.coeff_beta, o.factors.0, o.factors.1, o.threshold,
        );
        compare("OnebitLamb", &own, &o, &lengths, seed, Reference::onebit_lamb);
    }

    #[test]
    fn zero_one_adam_is_its_reference(
        o in options(), lengths in proptest::collection::vec(0..30usize, 1..4), seed in any::<u64>(),
    ) {
        let own = format!(
            "var_freeze_step={}, var_update_scaler={}, local_step_scaler={}, local_step_clipper={}",
            o.freeze_step, o.var_update_scaler, o.local_step_scaler, o.local_step_clipper,
        );
        compare("ZeroOneAdam", &own, &o, &lengths, seed, Reference::zero_one_adam);
    }
}
