//! Properties of single algorithms, with their preconditions.

use crate::common::{Random, best, build, recipe, search};
use fallline::optim::hyper::Value;
use fallline::optim::{Binding, Error, Objective, param};
use fallline::{NonFinitePolicy, Optimizer};
use proptest::prelude::*;

/// Of D-Adaptation, with options under which d can move.
const D_ADAPTATION: &[&str] = &[
    "dict(type='DAdaptAdam', d0=1e-3)",
    "dict(type='DAdaptAdam', d0=1e-2, decouple=True, weight_decay=0.1, use_bias_correction=True)",
    "dict(type='DAdaptSGD', d0=1e-3, momentum=0.9)",
    "dict(type='DAdaptAdaGrad', d0=1e-3)",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if env!("CARGO_CRATE_NAME") == "on_cuda" { 8 } else { 64 }))]

    /// Whatever the gradients: here they point back and forth at random, which makes the estimate negative now and then.
    #[test]
    fn d_never_decreases(seed in any::<u64>(), case in 0..D_ADAPTATION.len(), turns in 0..4usize) {
        let mut random = Random(seed);
        let mut optimizer = build(D_ADAPTATION[case]);
        let direction = random.units(20);
        let mut p = random.units(20);
        let mut last = 0.0;
        for t in 0..12 {
            let sign = if turns > 0 && (t / turns) % 2 == 1 { -1.0 } else { 1.0 };
            let g: Vec<f64> = direction.iter().map(|d| sign * d + 0.3 * random.unit()).collect();
            optimizer.step(&mut [param("p", &mut p, &g)]).unwrap();
            let d = optimizer.shared("d").unwrap();
            prop_assert!(d.is_finite() && d >= last, "{}: d went from {} to {}", D_ADAPTATION[case], last, d);
            last = d;
        }
        prop_assert!(p.iter().all(|x| x.is_finite()));
    }

    /// Where a group decays all take the rule that reads parameters, else the one that does not: the bits are the same.
    /// A parameter of 0 has nothing to decay, until it has moved.
    #[test]
    fn a_group_that_decays_changes_no_other(seed in any::<u64>(), case in 0..D_ADAPTATION.len()) {
        let mut random = Random(seed);
        let (start, grads) = (random.units(20), random.units(20));
        let mut plain = build(D_ADAPTATION[case]);
        let mut mixed = build(D_ADAPTATION[case]);
        mixed.add_group(|name| name == "q", &[("weight_decay", Value::Float(0.5))]).unwrap();
        let run = |optimizer: &mut dyn Optimizer, steps: usize, (p, q): (&mut [f64], &mut [f64])| {
            for _ in 0..steps {
                optimizer.step(&mut [param("p", &mut *p, &grads), param("q", &mut *q, &grads)]).unwrap();
            }
        };
        let (mut p, mut q) = (start.clone(), vec![0.0; 20]);
        let (mut other_p, mut other_q) = (start.clone(), vec![0.0; 20]);
        run(&mut plain, 1, (&mut p, &mut q));
        run(&mut mixed, 1, (&mut other_p, &mut other_q));
        prop_assert_eq!((&p, &q, plain.shared("d")), (&other_p, &other_q, mixed.shared("d")));
        // A decay that comes later is a decay; of DAdaptSGD it is the first group's.
        plain.set(0, &[("weight_decay", Value::Float(0.5))]).unwrap();
        let (mut late, mut late_q) = (p.clone(), q.clone());
        run(&mut plain, 2, (&mut late, &mut late_q));
        run(&mut mixed, 2, (&mut other_p, &mut other_q));
        prop_assert!(late != other_p);
    }

    /// Where it is asked for: a NaN would stay in the sums for ever.
    #[test]
    fn d_adaptation_refuses_nan(seed in any::<u64>(), case in 0..D_ADAPTATION.len(), place in 0..20usize) {
        let mut random = Random(seed);
        for policy in [NonFinitePolicy::Skip, NonFinitePolicy::Error] {
            let mut optimizer = recipe(D_ADAPTATION[case]).optimizer(best()).with_non_finite(policy);
            let (mut p, mut g) = (random.units(20), random.units(20));
            optimizer.step(&mut [param("p", &mut p, &g)]).unwrap();
            let (before, d) = (p.clone(), optimizer.shared("d"));
            g[place] = f64::NAN;
            match optimizer.step(&mut [param("p", &mut p, &g)]) {
                Ok(report) => prop_assert!(policy == NonFinitePolicy::Skip && report.skipped()),
                Err(error) => prop_assert!(matches!(error, Error::NonFinite { .. }), "{}", error),
            }
            prop_assert_eq!((&p, optimizer.shared("d"), optimizer.params()[0].steps), (&before, d, 1));
        }
    }

    /// Its update has no scale, but for ε, the least norm that it divides by: norms are far above that here. A power of
    /// two goes through every product exactly; the sums of a matrix product are the same sums, scaled. What is left is
    /// rounding of numbers below the smallest normal one, of which there are none.
    #[test]
    fn muon_has_no_scale(
        rows in 1..9usize, columns in 1..9usize, seed in any::<u64>(), k in -20..20i32, nesterov in any::<bool>(),
    ) {
        let mut random = Random(seed);
        let nesterov = if nesterov { "True" } else { "False" };
        let text = format!("dict(type='Muon', lr=0.1, nesterov={nesterov}, eps=1e-30)");
        let start = random.units(rows * columns);
        let grads: Vec<Vec<f64>> = (0..4).map(|_| random.units(rows * columns)).collect();
        let run = |scale: f64| {
            let (mut optimizer, mut p) = (build(&text), start.clone());
            for g in &grads {
                let g: Vec<f64> = g.iter().map(|g| g * scale).collect();
                optimizer.step(&mut [param("p", &mut p, &g).shaped(&[rows, columns])]).unwrap();
            }
            p
        };
        // Newton-Schulz amplifies what is there in a direction that is all but missing by up to 3.45⁵ a step.
        for (x, y) in run(1.0).iter().zip(&run(f64::from(k).exp2())) {
            prop_assert!((x - y).abs() <= 1e-12, "{x:e} {y:e}");
        }
    }

    /// Each step that the search accepts decreases the loss by a part of what the slope promises. It leaves a part
    /// of the slope at most. That holds on convex functions, with evaluations to spare, and far from where rounding
    /// is all that is left of a decrease.
    #[test]
    fn accepted_steps_satisfy_the_strong_wolfe_conditions(
        n in 1..8usize, seed in any::<u64>(), lr in 0.05..20.0f64, quartic in 0.0..2.0f64,
    ) {
        let mut random = Random(seed);
        let mut bowl = Bowl {
            curvature: (0..n).map(|_| 10f64.powf(1.5 * random.unit())).collect(),
            quartic,
            x: random.units(n).iter().map(|x| 3.0 * x).collect(),
            gradient: vec![0.0; n],
        };
        let text = format!("dict(type='LBFGS', lr={lr:?}, max_iter=1, max_eval=200, line_search_fn='strong_wolfe')");
        let mut optimizer = search(&text);
        for _ in 0..6 {
            let (old, old_gradient) = bowl.at(&bowl.x);
            let before = bowl.x.clone();
            optimizer.step_with(&mut bowl).unwrap();
            let (new, new_gradient) = bowl.at(&bowl.x);
            let moved: Vec<f64> = bowl.x.iter().zip(&before).map(|(x, y)| x - y).collect();
            let along = |gradient: &[f64]| gradient.iter().zip(&moved).map(|(g, m)| g * m).sum::<f64>();
            let (slope, left) = (along(&old_gradient), along(&new_gradient));
            if slope.abs() < 1e-10 {
                break;
            }
            prop_assert!(new <= old + 1e-4 * slope + 1e-15 * old.abs(), "{old:e} {new:e} {slope:e}");
            prop_assert!(left.abs() <= 0.9 * slope.abs() * (1.0 + 1e-9), "{slope:e} {left:e}");
        }
    }
}

/// A convex function.
struct Bowl {
    curvature: Vec<f64>,
    quartic: f64,
    x: Vec<f64>,
    gradient: Vec<f64>,
}

impl Bowl {
    fn at(&self, x: &[f64]) -> (f64, Vec<f64>) {
        let terms = x.iter().zip(&self.curvature);
        let loss = terms.clone().map(|(x, c)| 0.5 * c * x * x + self.quartic * x.powi(4)).sum();
        (loss, terms.map(|(x, c)| c * x + 4.0 * self.quartic * x.powi(3)).collect())
    }
}

impl Objective for Bowl {
    fn evaluate(&mut self) -> fallline::optim::Result<f64> {
        let (loss, gradient) = self.at(&self.x);
        self.gradient = gradient;
        Ok(loss)
    }

    fn bindings(&mut self) -> Vec<Binding<'_>> {
        vec![param("x", &mut self.x, &self.gradient)]
    }
}
