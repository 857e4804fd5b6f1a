//! Optimizers that evaluate the loss themselves.

use crate::common::{build, search};
use fallline::optim::average::Average;
use fallline::optim::{Binding, Error, Objective, Result, param};
use fallline::{NonFinitePolicy, Optimizer};

/// Rosenbrock's function, its variables in two parameters; it may fail at one evaluation.
#[derive(Clone)]
struct Valley {
    params: [Vec<f64>; 2],
    grads: [Vec<f64>; 2],
    evaluations: usize,
    fails_at: usize,
    /// The evaluation that gives a NaN, and whether it is the loss.
    nan_at: (usize, bool),
}

impl Valley {
    fn new() -> Valley {
        Valley {
            params: [vec![-1.2], vec![1.0]],
            grads: [vec![0.0], vec![0.0]],
            evaluations: 0,
            fails_at: 0,
            nan_at: (0, false),
        }
    }

    fn at(&self) -> [f64; 2] {
        [self.params[0][0], self.params[1][0]]
    }
}

impl Objective for Valley {
    fn evaluate(&mut self) -> Result<f64> {
        self.evaluations += 1;
        if self.evaluations == self.fails_at {
            return Err(Error::Objective("out of data".into()));
        }
        let [x, y] = self.at();
        let (off, rest) = (y - x * x, 1.0 - x);
        self.grads = [vec![-400.0 * x * off - 2.0 * rest], vec![200.0 * off]];
        if self.evaluations == self.nan_at.0 {
            if self.nan_at.1 {
                return Ok(f64::NAN);
            }
            self.grads[1][0] = f64::NAN;
        }
        Ok(100.0 * off * off + rest * rest)
    }

    fn bindings(&mut self) -> Vec<Binding<'_>> {
        let names = ["x", "y"].into_iter().zip(self.params.iter_mut().zip(&self.grads));
        names.map(|(name, (value, grad))| param(name, value, grad)).collect()
    }
}

const WOLFE: &str = "dict(type='LBFGS', line_search_fn='strong_wolfe', max_iter=4, history_size=3)";

#[test]
fn the_minimum_is_found() {
    let (mut valley, mut optimizer) = (Valley::new(), search(WOLFE));
    let first = optimizer.step_with(&mut valley).unwrap();
    assert!((first - 24.2).abs() < 1e-12);
    for _ in 0..11 {
        optimizer.step_with(&mut valley).unwrap();
    }
    let [x, y] = valley.at();
    // It ends when the loss, (1 − x)² along the valley, changes by less than 1e-9.
    assert!((x - 1.0).abs() < 3e-5 && (y - 1.0).abs() < 6e-5, "{x} {y}");
}

#[test]
fn others_take_their_step_at_the_gradient() {
    let (mut valley, mut optimizer) = (Valley::new(), build("dict(type='SGD', lr=1e-3)"));
    optimizer.step_with(&mut valley).unwrap();
    assert_eq!(valley.evaluations, 1);
    // The gradient at the start is (-215.6, -88).
    let [x, y] = valley.at();
    assert!((x - (-1.2 + 0.2156)).abs() < 1e-12 && (y - 1.088).abs() < 1e-12, "{x} {y}");
}

#[test]
fn a_saved_search_goes_on_bit_for_bit() {
    for text in [WOLFE, "dict(type='LBFGS', max_iter=3, lr=0.05)"] {
        let (mut valley, mut optimizer) = (Valley::new(), search(text));
        for _ in 0..3 {
            optimizer.step_with(&mut valley).unwrap();
        }
        let bytes = optimizer.save().unwrap().to_bytes().unwrap();
        let mut other = valley.clone();
        let mut resumed = search(text);
        resumed.load(&fallline::Checkpoint::from_bytes(&bytes).unwrap()).unwrap();
        for _ in 0..3 {
            optimizer.step_with(&mut valley).unwrap();
            resumed.step_with(&mut other).unwrap();
        }
        assert_eq!(valley.at().map(f64::to_bits), other.at().map(f64::to_bits), "{text}");
        assert_eq!(
            resumed.save().unwrap().to_bytes().unwrap(),
            optimizer.save().unwrap().to_bytes().unwrap()
        );
    }
}

/// Wherever in the search a NaN comes, the step is as if it had not been, or the NaN stays, as the policy says.
#[test]
fn a_nan_ends_the_step_where_it_began() {
    for text in
        [WOLFE, "dict(type='LBFGS', max_iter=4, lr=0.001)", "dict(type='LBFGS', max_iter=1, lr=0.001)"]
    {
        for (nan_at, loss) in (6..14).flat_map(|at| [(at, false), (at, true)]) {
            for policy in [NonFinitePolicy::Skip, NonFinitePolicy::Error] {
                let build =
                    || search(text).with_non_finite(policy).averaged(Average::exponential(0.5).unwrap());
                let (mut valley, mut optimizer) =
                    (Valley { nan_at: (nan_at, loss), ..Valley::new() }, build());
                let mut met = false;
                while valley.evaluations < 20 && !met {
                    let (before, saved) = (valley.at(), optimizer.save().unwrap());
                    let first = valley.evaluations + 1;
                    let found = optimizer.step_with(&mut valley);
                    met = (first..=valley.evaluations).contains(&nan_at);
                    if !met {
                        found.unwrap();
                        continue;
                    }
                    match (policy, found) {
                        (NonFinitePolicy::Skip, Ok(value)) => {
                            assert_eq!(value.is_nan(), loss && first == nan_at)
                        }
                        (NonFinitePolicy::Error, Err(Error::NonFiniteLoss { loss: value })) => {
                            assert!(loss && value.is_nan())
                        }
                        (NonFinitePolicy::Error, Err(Error::NonFinite { param, count })) => {
                            assert_eq!((loss, param.as_str(), count), (false, "y", 1));
                        }
                        (_, found) => panic!("{text} {nan_at} {policy:?}: {found:?}"),
                    }
                    assert_eq!(valley.at().map(f64::to_bits), before.map(f64::to_bits), "{text} {nan_at}");
                    assert_eq!(optimizer.save().unwrap(), saved, "{text} {nan_at} {policy:?}");
                }
                assert!(met, "{text} {nan_at}");
                optimizer.step_with(&mut valley).unwrap();
                assert!(valley.at().iter().all(|x| x.is_finite()));
            }
        }
    }
}

/// Where a search ends is averaged as any step is, saved and loaded with it.
#[test]
fn a_search_keeps_an_average() {
    let build = || search(WOLFE).averaged(Average::exponential(0.25).unwrap());
    let (mut valley, mut optimizer) = (Valley::new(), build());
    let mut expected = [0.0f64; 2];
    for t in 0..6 {
        let bytes = optimizer.save().unwrap().to_bytes().unwrap();
        let (mut resumed, mut other) = (build(), valley.clone());
        resumed.load(&fallline::Checkpoint::from_bytes(&bytes).unwrap()).unwrap();
        optimizer.step_with(&mut valley).unwrap();
        resumed.step_with(&mut other).unwrap();
        for (a, p) in expected.iter_mut().zip(valley.at()) {
            *a = if t == 0 { p } else { *a + 0.25 * (p - *a) };
        }
        for optimizer in [&optimizer, &resumed] {
            let got = ["x", "y"].map(|name| optimizer.average(name).unwrap().unwrap()[0]);
            assert_eq!(got.map(f64::to_bits), expected.map(f64::to_bits), "{t}");
        }
        assert_eq!(optimizer.save().unwrap(), resumed.save().unwrap());
    }
    // A search that fails leaves average and count as they were.
    let before = optimizer.average("x").unwrap();
    valley.fails_at = valley.evaluations + 1;
    assert!(optimizer.step_with(&mut valley).is_err());
    assert_eq!(optimizer.average("x").unwrap(), before);
    // Without averages nothing of them is loaded.
    let mut without = search(WOLFE);
    without.load(&optimizer.save().unwrap()).unwrap();
    assert_eq!(without.average("x").unwrap(), None);
}

#[test]
fn what_it_cannot_do_is_an_error() {
    let mut optimizer = search("LBFGS");
    let (mut value, grad) = ([1.0f32], [1.0f32]);
    let error = optimizer.step(&mut [param("x", &mut value, &grad)]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "LBFGS evaluates the loss itself: give it an Objective (Optimizer::step_with) instead of gradients"
    );
    let mut valley = Valley { fails_at: 3, ..Valley::new() };
    let error = optimizer.step_with(&mut valley).unwrap_err();
    assert_eq!(error.to_string(), "the objective: out of data");
    optimizer.step_with(&mut valley).unwrap();

    struct Other(Valley);
    impl Objective for Other {
        fn evaluate(&mut self) -> Result<f64> {
            self.0.evaluate()
        }
        fn bindings(&mut self) -> Vec<Binding<'_>> {
            self.0.bindings().into_iter().take(1).collect()
        }
    }
    let before = optimizer.save().unwrap();
    let error = optimizer.step_with(&mut Other(valley)).unwrap_err();
    assert!(error.to_string().contains("other parameters than before"), "{error}");
    assert_eq!(optimizer.save().unwrap(), before);
}

/// What a search keeps is of all parameters together, and can be read parameter by parameter.
#[test]
fn what_it_remembers_can_be_read() {
    let (mut valley, mut optimizer) = (Valley::new(), search(WOLFE));
    assert!(optimizer.params().is_empty());
    optimizer.step_with(&mut valley).unwrap();
    let params = optimizer.params();
    assert_eq!(params.iter().map(|param| param.name.as_str()).collect::<Vec<_>>(), ["x", "y"]);
    // Five evaluations are spent after three iterations: a direction, a gradient and two pairs, of one f64 each.
    assert_eq!((params[0].steps, params[0].state_bytes), (3, 48));
    let saved = optimizer.save().unwrap();
    for state in ["direction", "gradient", "s.0", "y.1"] {
        let expected = saved.state("y", state).unwrap().values::<f64>();
        assert_eq!(optimizer.state("y", state).unwrap(), Some(expected), "{state}");
    }
    assert_eq!(optimizer.state("y", "s.2").unwrap(), None);
    assert_eq!(optimizer.state("z", "direction").unwrap(), None);
}

/// What there is for optimizers that step on gradients a search refuses, by name.
#[test]
fn what_it_does_not_take_is_refused_when_it_is_read() {
    let cases = [
        (
            "dict(type='LBFGS')",
            "LBFGS evaluates the loss itself: give it an Objective (Optimizer::step_with) instead",
        ),
        (
            "dict(type='LBFGS', state_format='q8')",
            "LBFGS: state_format: it works on whole matrices or on all states together, which must be",
        ),
        (
            "dict(type='LBFGS', param_format='master')",
            "LBFGS: param_format: it evaluates the loss at parameters in the compute type",
        ),
        ("dict(type='LBFGS', offload='cpu')", "LBFGS cannot be offloaded: it evaluates the loss itself"),
        ("dict(type='LBFGS', exp_avg_mask=3)", "it takes no exp_avg_mask: it does not compress momenta"),
        (
            "optim_wrapper = dict(optimizer=dict(type='LBFGS'), clip_grad=dict(max_norm=1.0))\n",
            "LBFGS: accumulation, clipping and loss scales do not go with a search",
        ),
        (
            "optim_wrapper = dict(optimizer=dict(type='LBFGS'), paramwise_cfg=dict(norm_decay_mult=0.0))\n",
            "paramwise_cfg with an algorithm that evaluates the loss itself is not supported",
        ),
    ];
    for (text, expected) in cases {
        let error = fallline::Recipe::from_text(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
