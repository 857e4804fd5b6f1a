//! What is around an optimizer, against MMEngine with torch (`tests/golden/toolkit.py`) and against itself: groups
//! by rule, wrappers, averages, incremental steps.

use crate::common::{
    Buffer, CASES, Random, Tensor, best, bits, build_on, looks_at_all_together, outcome, recipe, run,
};
use fallline::optim::StepReport;
use fallline::optim::average::Average;
use fallline::optim::gradient_config::{Accumulate, Clip, GradientConfig, LossScaler};
use fallline::optim::{ModuleKind, ParamInfo, frozen, param};
use fallline::prelude::*;
use fallline::{Format, Shape, registry};
use serde_json::Value;
use std::collections::BTreeMap;

fn golden(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Returns a number, or a string where it is not finite.
fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(number).collect()
}

#[test]
fn groups_are_those_of_mmengine() {
    let file = golden(include_str!("../golden/paramwise.json"));
    let params = file["params"].as_object().unwrap();
    for case in file["cases"].as_array().unwrap() {
        let [optimizer, rules] = ["optimizer", "paramwise_cfg"].map(|key| case[key].as_str().unwrap());
        let text = format!("optim_wrapper = dict(optimizer={optimizer}, paramwise_cfg={rules})\n");
        let driver = recipe(&text).optimizer(Cpu::scalar().shared());
        for (name, param) in params {
            let dims: Vec<usize> = serde_json::from_value(param["shape"].clone()).unwrap();
            let kind = ModuleKind::from_name(param["module"].as_str().unwrap()).unwrap();
            let group = driver.group_of(&ParamInfo { name, shape: &Shape::from(&dims[..]), kind });
            let got = ["lr", "weight_decay"].map(|name| driver.get(group, name).unwrap().as_f64().unwrap());
            // The same product of the same two numbers.
            assert_eq!(got.to_vec(), numbers(&case["expected"][name]), "{rules}: {name}");
        }
    }
}

/// The rule of guessing, on the same model: what a name and a shape tell is told.
#[test]
fn kinds_of_modules_are_guessed() {
    let file = golden(include_str!("../golden/paramwise.json"));
    // Of a one-dimensional convolution MMEngine does not ask whether it is depthwise; the bias of a convolution that is
    // not called so does not tell; nor does a `gamma` of the model itself.
    let differ = ["head.0.weight"];
    for (name, param) in file["params"].as_object().unwrap() {
        let dims: Vec<usize> = serde_json::from_value(param["shape"].clone()).unwrap();
        let guessed = ModuleKind::guess(name, &Shape::from(&dims[..]));
        let told = ModuleKind::from_name(param["module"].as_str().unwrap()).unwrap();
        let unknown = name.starts_with("backbone.layer2.1") && name.ends_with("bias");
        assert_eq!(guessed == told, !differ.contains(&&**name) && !unknown, "{name}: {guessed:?}, {told:?}");
    }
}

/// Parameters of a golden case.
struct Case {
    shapes: BTreeMap<String, Vec<usize>>,
    params: BTreeMap<String, Vec<f64>>,
    single: bool,
}

impl Case {
    /// Runs one iteration, with the gradients that the case has for it, times the loss scale.
    fn step(&mut self, driver: &mut Driver, step: &Value) -> StepReport {
        let scale = driver.loss_scale();
        let round = |x: f64| if self.single { f64::from(x as f32) } else { x };
        let grads: BTreeMap<&String, Vec<f64>> = step["grads"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, grad)| (name, numbers(grad).into_iter().map(|x| round(x * scale)).collect()))
            .collect();
        if self.single {
            let mut values: BTreeMap<&String, Vec<f32>> =
                self.params.iter().map(|(name, p)| (name, p.iter().map(|x| *x as f32).collect())).collect();
            let grads: BTreeMap<&String, Vec<f32>> =
                grads.iter().map(|(name, grad)| (*name, grad.iter().map(|x| *x as f32).collect())).collect();
            let bound = values.iter_mut().map(|(name, value)| match grads.get(*name) {
                Some(grad) => param(name, value, grad).shaped(&self.shapes[*name]),
                None => frozen(name, value).shaped(&self.shapes[*name]),
            });
            let report = driver.step(&mut bound.collect::<Vec<_>>()).unwrap();
            let back =
                values.into_iter().map(|(name, p)| (name.clone(), p.into_iter().map(f64::from).collect()));
            self.params = back.collect();
            report
        } else {
            let bound = self.params.iter_mut().map(|(name, value)| match grads.get(name) {
                Some(grad) => param(name, value, grad).shaped(&self.shapes[name]),
                None => frozen(name, value).shaped(&self.shapes[name]),
            });
            driver.step(&mut bound.collect::<Vec<_>>()).unwrap()
        }
    }

    fn new(file: &Value, case: &Value) -> Case {
        let start = case["start"].as_object().unwrap().iter();
        Case {
            shapes: serde_json::from_value(file["shapes"].clone()).unwrap(),
            params: start.map(|(name, values)| (name.clone(), numbers(values))).collect(),
            single: case["dtype"] == "f32",
        }
    }
}

fn begin(case: &Value) -> Driver {
    let mut driver = recipe(case["config"].as_str().unwrap()).optimizer(best());
    driver.set_iterations(case["total"].as_u64());
    driver
}

/// In f64 both round some ten operations a step. In f32 each step rounds the gradient (scale, window, clipping),
/// the state and the parameter. These are 16 half-ulps of the largest number, passed on over at most 12 steps. All
/// parameters are below 4.
#[test]
fn wrappers_follow_mmengine() {
    let file = golden(include_str!("../golden/wrappers.json"));
    for case in file["cases"].as_array().unwrap() {
        let name = &case["name"];
        let (mut driver, mut params) = (begin(case), Case::new(&file, case));
        let epsilon = if params.single { f64::from(f32::EPSILON) } else { f64::EPSILON };
        let tolerance = 12.0 * 16.0 * epsilon * 4.0;
        for (t, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            let report = params.step(&mut driver, step);
            assert_eq!(driver.loss_scale(), step["scale"].as_f64().unwrap(), "{name}: {t}: {report}");
            // torch keeps the norm in the type of the gradients, and sums in another order.
            if !step["norm"].is_null() {
                let (got, expected) = (report.grad_norm().unwrap(), number(&step["norm"]));
                let near = (got - expected).abs() <= 16.0 * epsilon * expected.abs();
                let same = bits(&[got]) == bits(&[expected]);
                assert!(near || same, "{name}: {t}: norm {got} instead of {expected}");
            }
            for (param, expected) in step["params"].as_object().unwrap() {
                for (got, expected) in params.params[param].iter().zip(numbers(expected)) {
                    let near = (got - expected).abs() <= tolerance;
                    let same = bits(&[*got]) == bits(&[expected]);
                    assert!(near || same, "{name}: {t}: {param} is {got} instead of {expected} ({report})");
                }
            }
        }
    }
}

/// Saved after any iteration, in the middle of a window too, a run resumes with the same bits.
#[test]
fn wrappers_are_resumed_half_way() {
    let file = golden(include_str!("../golden/wrappers.json"));
    for case in file["cases"].as_array().unwrap() {
        let steps = case["steps"].as_array().unwrap();
        let (mut driver, mut params) = (begin(case), Case::new(&file, case));
        for (t, step) in steps.iter().enumerate() {
            let saved = driver.save().unwrap().to_bytes().unwrap();
            let mut resumed = begin(case);
            resumed.load(&Checkpoint::from_bytes(&saved).unwrap()).unwrap();
            let mut again = Case { params: params.params.clone(), ..Case::new(&file, case) };
            let (one, other) = (params.step(&mut driver, step), again.step(&mut resumed, step));
            // A device's numbers are fetched; where it keeps them differs.
            let told = |report: &fallline::StepReport| {
                let counts = (report.updated, report.without_grad);
                format!("{:?} {counts:?} {:?} {:?}", report.skipped, report.grad_norm(), report.clip_factor())
            };
            assert_eq!(told(&one), told(&other), "{}: {t}", case["name"]);
            for (name, values) in &params.params {
                assert_eq!(bits(values), bits(&again.params[name]), "{}: {t}: {name}", case["name"]);
            }
            assert_eq!(driver.save().unwrap(), resumed.save().unwrap());
        }
    }
}

/// The same numbers by hand: `a + w (p - a)` in f64 with at most three roundings a step and numbers below 16.
#[test]
fn averages_follow_mmengine() {
    let file = golden(include_str!("../golden/wrappers.json"));
    for case in file["averages"].as_array().unwrap() {
        let text = case["average"].as_str().unwrap();
        let average = registry::average(&registry::config::parse_inline(text).unwrap()).unwrap();
        let build = || recipe("dict(type='SGD', lr=0.0)").optimizer(best()).averaged(average);
        let mut driver = build();
        for (t, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            for pass in 0..2 {
                // Once more from a checkpoint of the step before.
                let mut resumed = build();
                resumed.load(&driver.save().unwrap()).unwrap();
                let stepped = if pass == 0 { &mut resumed } else { &mut driver };
                let mut params: BTreeMap<String, Vec<f64>> = step["params"]
                    .as_object()
                    .unwrap()
                    .iter()
                    .map(|(name, values)| (name.clone(), numbers(values)))
                    .collect();
                let zeros = [0.0; 6];
                let bound = params.iter_mut().map(|(name, p)| match p.len() {
                    2 => frozen(name, p),
                    len => param(name, p, &zeros[..len]),
                });
                stepped.step(&mut bound.collect::<Vec<_>>()).unwrap();
                for (name, expected) in step["average"].as_object().unwrap() {
                    let got = stepped.average(name).unwrap().unwrap();
                    for (got, expected) in got.iter().zip(numbers(expected)) {
                        assert!(
                            (got - expected).abs() <= 12.0 * 3.0 * f64::EPSILON * 16.0,
                            "{text}: {t}: {name}"
                        );
                    }
                }
            }
        }
    }
    assert!(
        Average::exponential(0.0).is_err()
            && Average::exponential(1.0).is_err()
            && Average::equal(0).is_err()
    );
}

fn tensors(random: &mut Random) -> Vec<Tensor> {
    let sizes =
        [("encoder.weight", 300), ("encoder.bias", 7), ("head.weight", 5000), ("scalar", 1), ("empty", 0)];
    sizes.map(|(name, elements)| Tensor::plain(name, elements, 6, random)).into()
}

/// Parameter after parameter is the same as all at once, or refused with the reason.
#[test]
fn a_step_in_pieces_has_the_same_bits() {
    let mut in_pieces = 0;
    for text in CASES {
        let mut whole = tensors(&mut Random(1));
        let mut pieces = whole.clone();
        let (mut one, mut other) = (build_on(best(), text), build_on(best(), text));
        if let Err(error) = other.begin().map(|_| ()) {
            assert!(looks_at_all_together(text), "{text}: {error}");
            assert!(error.to_string().contains("looks at all parameters together"), "{error}");
            continue;
        }
        in_pieces += 1;
        run(&mut one, &mut whole, 0..6);
        for t in 0..6 {
            // In the same order, and in another one.
            pieces.rotate_left(t % 2);
            let mut step = other.begin().unwrap();
            let mut bindings = crate::common::bind(&mut pieces, t);
            if t < 3 {
                bindings.into_iter().for_each(|binding| step.apply(binding).unwrap());
            } else {
                bindings.chunks_mut(t - 1).for_each(|part| step.apply_all(part).unwrap());
            }
            assert_eq!(step.finish().unwrap().updated, 5);
        }
        assert_eq!(outcome(&one, &whole), outcome(&other, &pieces), "{text}");
    }
    assert!(in_pieces > 60, "{in_pieces}");
}

/// What needs all gradients first is taken in two rounds: the same bits, reports and averages.
#[test]
fn a_step_in_two_rounds_has_the_same_bits() {
    let clip = |max_norm, norm_type| Some(Clip::Norm { max_norm, norm_type, error_if_nonfinite: false });
    let with = |change: &dyn Fn(&mut GradientConfig)| {
        let mut wrapper = GradientConfig::default();
        change(&mut wrapper);
        wrapper
    };
    let accumulate = Accumulate { accumulation_steps: 3, total: Some(8) };
    let wrappers = [
        with(&|_| {}),
        with(&|w| w.clip = clip(0.5, 2.0)),
        with(&|w| w.clip = clip(0.5, 1.0)),
        with(&|w| w.clip = clip(0.1, f64::INFINITY)),
        with(&|w| w.clip = clip(0.1, f64::NEG_INFINITY)),
        with(&|w| w.clip = clip(0.5, 0.0)),
        with(&|w| w.clip = Some(Clip::Value { clip_value: 0.01 })),
        with(&|w| w.accumulate = accumulate),
        with(&|w| (w.accumulate, w.clip) = (accumulate, clip(0.5, 2.0))),
        with(&|w| (w.accumulate, w.clip) = (accumulate, Some(Clip::Value { clip_value: 0.01 }))),
        with(&|w| w.scaler = Some(LossScaler::default())),
        with(&|w| {
            (w.scaler, w.accumulate, w.clip) = (Some(LossScaler::default()), accumulate, clip(0.5, 1.0))
        }),
    ];
    let policies = [NonFinitePolicy::Propagate, NonFinitePolicy::Skip, NonFinitePolicy::Error];
    for text in ["AdamW", "dict(type='LAMB', lr=0.1)", "dict(type='AdamW8bit')"] {
        for (wrapper, policy) in wrappers.iter().flat_map(|w| policies.map(|policy| (w, policy))) {
            let about = format!("{text}, {wrapper:?}, {policy:?}");
            let build = || {
                let built = build_on(best(), text).with_gradients(wrapper.clone()).with_non_finite(policy);
                built.averaged(Average::exponential(0.25).unwrap())
            };
            let (mut whole, mut rounds) = (build(), build());
            // One gradient is infinite in one step, and one is missing in others.
            let mut random = Random(3);
            let sizes = [("encoder.weight", 300), ("encoder.bias", 7), ("head.weight", 5000), ("empty", 0)];
            let mut ones: Vec<Tensor> =
                sizes.map(|(name, elements)| Tensor::plain(name, elements, 8, &mut random)).into();
            let mut values = random.units(5000);
            values[17] = f64::INFINITY;
            ones[2].grads[5] = Some(Buffer::new(Format::F32, &values));
            [1, 4, 7].into_iter().for_each(|t| ones[1].grads[t] = None);
            let mut others = ones.clone();
            for t in 0..8 {
                let expected = whole.step(&mut crate::common::bind(&mut ones, t));
                others.rotate_left(1);
                let got = rounds.begin().and_then(|mut step| {
                    if step.needs_inspection() {
                        crate::common::bind(&mut others, t)
                            .into_iter()
                            .try_for_each(|binding| step.inspect(binding))?;
                    }
                    crate::common::bind(&mut others, t)
                        .into_iter()
                        .try_for_each(|binding| step.apply(binding))?;
                    step.finish()
                });
                match (expected, got) {
                    (Ok(expected), Ok(got)) => {
                        let numbers = |report: &StepReport| {
                            let StepReport {
                                skipped,
                                updated,
                                without_grad,
                                corrupt_state,
                                loss_scale,
                                accumulated,
                                ..
                            } = report.clone();
                            let (norm, factor) = (report.grad_norm(), report.clip_factor());
                            let norms = [norm, factor].map(|x| x.map(f64::to_bits));
                            (skipped, updated, without_grad, corrupt_state, loss_scale, accumulated, norms)
                        };
                        assert_eq!(numbers(&got), numbers(&expected), "{about}: {t}");
                    }
                    (Err(expected), Err(got)) => assert_eq!(got.to_string(), expected.to_string(), "{about}"),
                    (expected, got) => panic!("{about}: {t}: {got:?} where {expected:?}"),
                }
                assert!(outcome(&rounds, &others) == outcome(&whole, &ones), "{about}: {t}");
                for Tensor { name, .. } in &ones {
                    let averages =
                        [&whole, &rounds].map(|of| of.average(name).unwrap().map(|all| bits(&all)));
                    assert!(averages[0] == averages[1], "{about}: {t}: {name}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_inspected_is_not_applied() {
    let clipped = |norm_type| Clip::Norm { max_norm: 1.0, norm_type, error_if_nonfinite: false };
    let with = |clip: Clip| {
        let mut wrapper = GradientConfig::default();
        wrapper.clip = Some(clip);
        crate::common::build("SGD").with_gradients(wrapper)
    };
    let mut driver = with(clipped(3.0));
    let error = driver.begin().map(drop).unwrap_err().to_string();
    assert!(error.contains("a norm of order 3"), "{error}");
    let mut driver = with(clipped(2.0));
    let (mut one, mut other, grad) = (vec![1.0f32; 3], vec![1.0f32; 3], vec![1.0f32; 3]);
    let mut step = driver.begin().unwrap();
    step.inspect(param("w", &mut one, &grad)).unwrap();
    assert!(step.inspect(param("w", &mut one, &grad)).is_err(), "twice");
    let error = step.apply(param("v", &mut other, &grad)).unwrap_err().to_string();
    assert!(
        error.contains(r#"the gradient of "v" must be inspected first (IncrementalStep::inspect): clipping"#),
        "{error}"
    );
    step.apply(param("w", &mut one, &grad)).unwrap();
    let error = step.inspect(param("v", &mut other, &grad)).unwrap_err().to_string();
    assert!(error.contains(r#""v" is inspected after a parameter was applied"#), "{error}");
    assert_eq!(step.finish().unwrap().updated, 1);
    // A gradient that was accumulated, and an iteration that was left: half of it would be lost, or counted twice.
    let mut wrapper = GradientConfig::default();
    wrapper.accumulate = Accumulate { accumulation_steps: 2, total: None };
    let mut driver = crate::common::build("SGD").with_gradients(wrapper);
    let mut step = driver.begin().unwrap();
    step.inspect(param("w", &mut one, &grad)).unwrap();
    drop(step);
    let error = driver.step(&mut [param("w", &mut one, &grad)]).unwrap_err().to_string();
    assert!(
        error.contains(r#"parameter "w" has accumulated a gradient, and the others have not"#),
        "{error}"
    );
    let mut driver = crate::common::build("SGD");
    let (mut one, grad) = (vec![1.0f32; 3], vec![1.0f32; 3]);
    let mut step = driver.begin().unwrap();
    step.apply(param("w", &mut one, &grad)).unwrap();
    assert!(step.apply(param("w", &mut one, &grad)).is_err(), "twice in one step");
    let wrong = vec![1.0f32; 2];
    let mut other = vec![1.0f32; 3];
    assert!(step.apply(param("v", &mut other, &wrong)).is_err());
    assert_eq!(step.finish().unwrap().updated, 1);
    assert_eq!(driver.params().len(), 1, "what was refused is forgotten");
}

/// A step that is left in the middle, by whatever way, is said at the next one, with the parameters that have taken it.
#[test]
fn a_step_that_is_half_taken_says_so() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let grad = vec![1.0f32; 3];
    let whole = |driver: &mut Driver, values: &mut [Vec<f32>]| {
        let bound = values.iter_mut().zip(names).map(|(value, name)| param(name, value, &grad));
        driver.step(&mut bound.collect::<Vec<_>>()).map(drop)
    };
    type Leave = fn(fallline::optim::IncrementalStep<'_>);
    let leave: [(&str, Leave); 3] = [
        ("dropped", |step| drop(step)),
        ("forgotten", |step| std::mem::forget(step)),
        ("in a panic", |step| {
            let left = AssertUnwindSafe(step);
            let fault = catch_unwind(move || {
                let _step = left;
                std::panic::resume_unwind(Box::new("the trainer's"));
            });
            assert!(fault.is_err());
        }),
    ];
    for (way, leave) in leave {
        let mut driver = crate::common::build("AdamW");
        let mut values: Vec<Vec<f32>> = names.iter().map(|_| vec![1.0f32; 3]).collect();
        whole(&mut driver, &mut values).unwrap();
        let (saved, before) = (driver.save().unwrap(), values.clone());
        // Nothing was applied: nothing is half.
        leave(driver.begin().unwrap());
        whole(&mut driver, &mut values).unwrap();
        driver.load(&saved).unwrap();
        values.clone_from(&before);
        let mut step = driver.begin().unwrap();
        for (value, name) in values.iter_mut().zip(names).rev().take(6) {
            let bound = if name == "f" { frozen(name, value) } else { param(name, value, &grad) };
            step.apply(bound).unwrap();
        }
        assert!(step.apply(param("b", &mut [1.0f32; 3], &grad)).is_err(), "twice");
        leave(step);
        for _ in 0..2 {
            let text = whole(&mut driver, &mut values).unwrap_err().to_string();
            let expected = r#"parameters "b", "c", "d", "e", "g" have stepped, and the others have not"#;
            assert!(text.contains(expected), "{way}: {text}");
            assert!(
                matches!(driver.begin().map(drop), Err(fallline::optim::Error::HalfStep { params, stepped: true }) if params.len() == 5)
            );
            assert!(driver.update_hessian(&mut []).is_err());
        }
        // A checkpoint goes on from there.
        driver.load(&saved).unwrap();
        let mut fresh = crate::common::build("AdamW");
        fresh.load(&saved).unwrap();
        let mut again = before.clone();
        values.clone_from(&before);
        whole(&mut driver, &mut values).unwrap();
        whole(&mut fresh, &mut again).unwrap();
        assert_eq!(values, again, "{way}");
    }
}

const MIXED: &str = "optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.1),
    paramwise_cfg=dict(bias_decay_mult=0.0, custom_keys={
        'hidden': dict(optimizer=dict(type='Muon', lr=0.02, weight_decay=0.1), lr_mult=0.5),
        'hidden.bias': dict(lr_mult=2.0, betas=(0.5, 0.9)),
        'head': dict(lr_mult=3.0),
    }))\n";

/// Several optimizers in one: each parameter takes the steps that it takes alone, and all are saved and loaded as one.
#[test]
fn optimizers_by_rule_step_as_one() {
    let mixed = recipe(MIXED);
    let parts: [(&str, &[usize], &str); 4] = [
        ("hidden.weight", &[24, 16], "dict(type='Muon', lr=0.01, weight_decay=0.1)"),
        ("hidden.bias", &[24], "dict(type='AdamW', lr=0.02, weight_decay=0.1, betas=(0.5, 0.9))"),
        ("head.weight", &[10, 24], "dict(type='AdamW', lr=0.03, weight_decay=0.1)"),
        ("other.bias", &[10], "dict(type='AdamW', lr=0.01, weight_decay=0.0)"),
    ];
    let mut random = Random(5);
    let mut draw = |elements: usize| random.units(elements).iter().map(|x| *x as f32).collect::<Vec<f32>>();
    let starts: Vec<Vec<f32>> = parts.iter().map(|(_, shape, _)| draw(shape.iter().product())).collect();
    let grads: Vec<Vec<Vec<f32>>> =
        (0..6).map(|_| parts.iter().map(|(_, shape, _)| draw(shape.iter().product())).collect()).collect();
    let step = |driver: &mut Driver, values: &mut [Vec<f32>], t: usize| {
        let bound = values.iter_mut().zip(&parts).zip(&grads[t]);
        let bound = bound.map(|((value, (name, shape, _)), grad)| param(name, value, grad).shaped(shape));
        driver.step(&mut bound.collect::<Vec<_>>()).unwrap()
    };
    let mut values = starts.clone();
    let mut driver = mixed.optimizer(best());
    for t in 0..6 {
        // From a file half-way.
        if t == 3 {
            let saved = Checkpoint::from_bytes(&driver.save().unwrap().to_bytes().unwrap()).unwrap();
            driver = mixed.optimizer(best());
            assert_eq!(driver.load(&saved).unwrap().matched, 4);
            // Another optimizer in its place does not take it.
            let other = recipe(&MIXED.replace("'Muon', lr=0.02, weight_decay=0.1", "'SGD', lr=0.1"));
            let error = other.optimizer(best()).load(&saved).unwrap_err().to_string();
            assert!(error.contains("it is of Muon, expected SGD"), "{error}");
        }
        assert_eq!(step(&mut driver, &mut values, t).updated, 4);
    }
    for (place, (name, shape, alone)) in parts.iter().enumerate() {
        let (mut value, mut driver) = (starts[place].clone(), recipe(alone).optimizer(best()));
        for grads in &grads {
            driver.step(&mut [param(name, &mut value, &grads[place]).shaped(shape)]).unwrap();
        }
        let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same(&value, &values[place]), "{name}");
    }
}

/// What an algorithm knows of all parameters together it knows of those of one optimizer: two estimates side by side.
#[test]
fn optimizers_that_look_at_all_parameters_look_at_their_own() {
    for (name, options) in
        [("DAdaptAdam", "d0=1e-3"), ("FusedLamb", "max_grad_norm=0.5"), ("DAdaptSGD", "d0=1e-3")]
    {
        let one = format!("dict(type='{name}', {options}, weight_decay=0.1)");
        let other = format!("dict(type='{name}', {options}, weight_decay=0.1, lr=0.5)");
        let text = format!(
            "optim_wrapper = dict(optimizer={one}, paramwise_cfg=dict(custom_keys=dict(head=dict(optimizer={other}))))\n"
        );
        let mut all = tensors(&mut Random(3));
        let mut driver = recipe(&text).optimizer(best());
        run(&mut driver, &mut all, 0..3);
        let saved = Checkpoint::from_bytes(&driver.save().unwrap().to_bytes().unwrap()).unwrap();
        let mut resumed = recipe(&text).optimizer(best());
        resumed.load(&saved).unwrap();
        run(&mut resumed, &mut all, 3..6);
        let head = |tensor: &Tensor| tensor.name.starts_with("head");
        for (text, own) in [(&one, false), (&other, true)] {
            let mut part: Vec<Tensor> =
                tensors(&mut Random(3)).into_iter().filter(|tensor| head(tensor) == own).collect();
            run(&mut recipe(text).optimizer(best()), &mut part, 0..6);
            for tensor in part {
                let together = all.iter().find(|other| other.name == tensor.name).unwrap();
                assert_eq!(together.value.bits(), tensor.value.bits(), "{name}: {}", tensor.name);
            }
        }
    }
}

#[test]
fn keys_that_match_nothing_are_told() {
    let text = "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1),\n\
                paramwise_cfg=dict(custom_keys=dict(encoder=dict(lr_mult=2), decoder=dict(lr_mult=3))))\n";
    let mut all = tensors(&mut Random(2));
    let mut driver = recipe(text).optimizer(best());
    let error = driver.step(&mut crate::common::bind(&mut all, 0)).unwrap_err().to_string();
    assert_eq!(error, "line 2, column 62: paramwise_cfg.custom_keys[\"decoder\"] matches no parameter");
    assert!(driver.params().is_empty());
    assert_eq!(all[0].value.bits(), tensors(&mut Random(2))[0].value.bits());
    let names = ["encoder.weight"];
    assert_eq!(recipe(text).unmatched(names.into_iter()).len(), 1);
    let mut driver = recipe(text).allow_unmatched(true).optimizer(best());
    assert_eq!(driver.step(&mut crate::common::bind(&mut all, 0)).unwrap().updated, 5);
    // A key whose parameters all come under a longer one does match.
    let nested = text.replace("decoder=", "encode=");
    assert!(recipe(&nested).optimizer(best()).step(&mut crate::common::bind(&mut all, 0)).is_ok());
}

#[test]
fn what_is_wrong_around_an_optimizer_is_named() {
    let sgd = "optimizer=dict(type='SGD', lr=0.1)";
    let cases = [
        (
            format!("{sgd}, acumulative_counts=2"),
            "an OptimWrapper has no \"acumulative_counts\" (did you mean \"accumulative_counts\"?)",
        ),
        (
            format!("{sgd}, accumulative_counts=0"),
            "accumulative_counts must be an integer of at least 1, got 0",
        ),
        (format!("{sgd}, loss_scale=2.0"), "an OptimWrapper has no \"loss_scale\""),
        (
            format!("{sgd}, type='ApexOptimizer'"),
            "type=\"ApexOptimizer\" in an optim_wrapper is not supported",
        ),
        (
            format!("{sgd}, constructor='LayerDecay'"),
            "constructor=\"LayerDecay\" in an optim_wrapper is not supported",
        ),
        (format!("{sgd}, clip_grad=dict(norm_type=2)"), "clip_grad needs a \"max_norm\""),
        (
            format!("{sgd}, clip_grad=dict(type='value', max_norm=2)"),
            "clip_grad of type \"value\" has no \"max_norm\"",
        ),
        (format!("{sgd}, clip_grad=dict(max_norm=-1)"), "max_norm must be 0 or more, got -1"),
        (
            format!("{sgd}, type='AmpOptimWrapper', loss_scale='static'"),
            "loss_scale must be \"dynamic\", a number or a dict",
        ),
        (format!("{sgd}, type='AmpOptimWrapper', loss_scale=-1.0"), "a loss scale must be above 0"),
        (
            format!("{sgd}, type='AmpOptimWrapper', loss_scale=dict(growth_factor=1)"),
            "growth_factor must be above 1, got 1",
        ),
        (format!("{sgd}, type='AmpOptimWrapper', dtype='int8'"), "dtype must be one of float16"),
        (
            format!("{sgd}, paramwise_cfg=dict(norm_decay_mul=0)"),
            "paramwise_cfg has no \"norm_decay_mul\" (did you mean \"norm_decay_mult\"?)",
        ),
        (
            format!("{sgd}, paramwise_cfg=dict(norm_decay_mult=0)"),
            "norm_decay_mult must be left out, or SGD given a weight_decay",
        ),
        (
            format!("{sgd}, paramwise_cfg=dict(custom_keys=dict(a=dict(decay_mult=0)))"),
            "decay_mult must be left out, or SGD given a weight_decay",
        ),
        (
            format!("{sgd}, paramwise_cfg=dict(custom_keys=dict(a=dict(lr_mul=0)))"),
            "custom_keys[\"a\"] has no \"lr_mul\" (did you mean \"lr_mult\"?)",
        ),
        (
            format!("{sgd}, paramwise_cfg=dict(custom_keys=dict(a=dict(lr_mult=-1)))"),
            "lr must be ≥ 0, got -0.1",
        ),
        (
            format!("{sgd}, paramwise_cfg=dict(custom_keys=dict(a=dict(optimizer=dict(type='AdmW'))))"),
            "did you mean \"AdamW\"?",
        ),
        (
            format!("{sgd}, paramwise_cfg=dict(custom_keys=dict(a=dict(optimizer=dict(type='LBFGS'))))"),
            "evaluates the loss itself",
        ),
        (
            format!("{sgd}, paramwise_cfg=dict(custom_keys=dict(a=3))"),
            "custom_keys[\"a\"] must be a dict, got an int",
        ),
    ];
    for (inside, message) in cases {
        let error = Recipe::from_text(&format!("optim_wrapper = dict({inside})\n")).unwrap_err().to_string();
        assert!(error.contains(message), "{inside}: {error}");
    }
}

/// Wrappers leave alone what they must: a parameter that is not bound when its window closes, a window of another run.
#[test]
fn windows_do_not_lose_gradients_in_silence() {
    let build = || {
        let mut wrapper = GradientConfig::default();
        wrapper.accumulate.accumulation_steps = 2;
        crate::common::build("dict(type='SGD', lr=1.0)").with_gradients(wrapper)
    };
    let mut driver = build();
    let (mut a, mut b, grad) = (vec![1.0f32; 2], vec![1.0f32; 2], vec![0.5f32; 2]);
    let report = driver.step(&mut [param("a", &mut a, &grad), param("b", &mut b, &grad)]).unwrap();
    assert_eq!((report.accumulated, report.updated), (Some((1, 2)), 0));
    assert_eq!(report.to_string(), "gradient 1 of 2 accumulated");
    let error = driver.step(&mut [param("a", &mut a, &grad)]).unwrap_err().to_string();
    assert_eq!(
        error,
        "parameter \"b\" has accumulated gradients, but is not bound in the step that applies them"
    );
    let saved = driver.save().unwrap();
    let error = crate::common::build("dict(type='SGD', lr=1.0)").load(&saved).unwrap_err().to_string();
    assert!(error.contains("window/a is of a window of accumulation"), "{error}");
    // b has no gradient in the second iteration: half of the first is its mean over the window.
    let report = driver.step(&mut [param("a", &mut a, &grad), frozen("b", &mut b)]).unwrap();
    assert_eq!((report.updated, &a[..], &b[..]), (2, &[0.5f32; 2][..], &[0.75f32; 2][..]));
}
