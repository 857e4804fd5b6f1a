//! What is fused with the rule of a step, in the same pass over memory. It averages what the rule writes, adds the
//! last gradient of an accumulation window, and clamps. The bits are those of separate passes.

use crate::common::{
    Buffer, CASES, MODIFIED, Random, Tensor, backends, best, bits, build_on, cpu, outcome, recipe, run,
};
use fallline::core::backend::{FusedRule, Pass, Position, TensorPass, View};
use fallline::core::{Link, rule};
use fallline::cpu::Native;
use fallline::optim::average::Average;
use fallline::optim::gradient_config::{Accumulate, Clip, GradientConfig};
use fallline::optim::{param, rows};
use fallline::prelude::*;
use fallline::{Compute, Format, Isa};

/// Configurations in addition to those of all suites: what is stored in other ways, and what works on matrices.
const OTHERS: &[&str] = &[
    "dict(type='AdamW', lr=0.01, param_format='master')",
    "dict(type='AdamW', lr=0.01, param_format='bf16_sr')",
    "dict(type='LAMB', lr=0.01, param_format='master')",
    "dict(type='Muon', lr=0.02, rest='AdamW')",
    "dict(type='Muon', lr=0.02, rest='AdamW', split=[5, 11], state_format='q8')",
    "dict(type='AdaMuon', lr=0.02, rest='AdamW')",
    "dict(type='MuonHyperball', lr=0.02, rest='AdamW')",
];

/// Parameters of every type, those that `text` takes, without a gradient now and then.
fn tensors(text: &str, steps: usize) -> Vec<Tensor> {
    let mut random = Random(7);
    let kinds = [
        ("head", 4500, Format::Bf16),
        ("body", 300, Format::F32),
        ("tail", 640, Format::F64),
        ("nothing", 0, Format::F32),
        ("half", 77, Format::F16),
    ];
    let takes = |format: Format| match text {
        text if text.contains("bf16_sr") => format == Format::Bf16,
        text if text.contains("master") => matches!(format, Format::Bf16 | Format::F16),
        _ => true,
    };
    let kinds = kinds.into_iter().filter(|(.., format)| takes(*format));
    let made = kinds.map(|(name, elements, format)| {
        let mut draw = || Buffer::new(format, &random.units(elements));
        let value = draw();
        let grads = (0..steps).map(|t| Some(draw()).filter(|_| name != "tail" || t % 4 != 1)).collect();
        let mut tensor = Tensor::new(name, value, grads);
        if text.contains("Muon") && name == "tail" {
            tensor.shape = Some(vec![16, 40]);
        }
        tensor
    });
    made.collect()
}

/// Computes `torch.lerp` in the type that a parameter is computed in.
fn lerp(a: f64, p: f64, share: f64, double: bool) -> f64 {
    if double {
        return if share < 0.5 { a + share * (p - a) } else { p - (p - a) * (1.0 - share) };
    }
    let (a, p, w, rest) = (a as f32, p as f32, share as f32, (1.0 - share) as f32);
    f64::from(if share < 0.5 { a + w * (p - a) } else { p - (p - a) * rest })
}

/// Returns what is averaged of a parameter: the one in single precision, where there is one.
fn trained(optimizer: &Driver, tensor: &Tensor) -> Vec<f64> {
    let master = optimizer.state(&tensor.name, "master").unwrap();
    master.unwrap_or_else(|| tensor.value.values())
}

/// Steps, and compares each average with one by hand.
fn averages(optimizer: Driver, share: f64, mut tensors: Vec<Tensor>, what: &str) {
    let steps = tensors[0].grads.len();
    let mut optimizer = optimizer.averaged(Average::exponential(share).unwrap());
    let mut expected: Vec<Vec<f64>> = Vec::new();
    for t in 0..steps {
        run(&mut optimizer, &mut tensors, t..t + 1);
        if t == 0 {
            expected = tensors.iter().map(|tensor| trained(&optimizer, tensor)).collect();
        }
        for (tensor, expected) in tensors.iter().zip(&mut expected) {
            if t > 0 {
                // What looks at all parameters together computes in single precision here.
                let double =
                    tensor.value.format() == Format::F64 && !crate::common::looks_at_all_together(what);
                for (a, p) in expected.iter_mut().zip(trained(&optimizer, tensor)) {
                    *a = lerp(*a, p, share, double);
                }
            } else if tensor.value.format() == Format::F64 && crate::common::looks_at_all_together(what) {
                expected.iter_mut().for_each(|x| *x = f64::from(*x as f32));
            }
            let got = optimizer.average(&tensor.name).unwrap().unwrap();
            assert_eq!(bits(&got), bits(expected), "{what}: {} after step {t}", tensor.name);
        }
    }
}

#[test]
fn averages_are_of_what_the_step_writes() {
    for (i, text) in CASES.iter().chain(OTHERS).chain(MODIFIED).enumerate() {
        let share = if i % 2 == 0 { 0.3 } else { 0.7 };
        averages(build_on(best(), text), share, tensors(text, 5), text);
    }
}

/// Over several chunks and threads, on every instruction set.
#[test]
fn averages_of_large_parameters_are_the_same_everywhere() {
    let mut random = Random(3);
    let large: Vec<Tensor> =
        ["one", "other"].iter().map(|name| Tensor::plain(name, 20_011, 3, &mut random)).collect();
    for text in ["AdamW", "LAMB", "dict(type='AdamW8bit', min_8bit_size=500)", "Adafactor"] {
        let more = if env!("CARGO_CRATE_NAME") == "on_cuda" { vec![] } else { vec![cpu(Isa::best(), 2)] };
        for backend in backends().into_iter().chain(more) {
            averages(recipe(text).optimizer(backend), 0.01, large.clone(), text);
        }
    }
}

/// Of a parameter whose gradient has rows the whole average moves.
#[test]
fn rows_that_take_no_part_are_averaged_too() {
    let mut optimizer = recipe("dict(type='Adagrad', lr=0.1)").optimizer(best());
    optimizer = optimizer.averaged(Average::exponential(0.25).unwrap());
    let (mut table, values) = (vec![1.0f32; 12], vec![0.5f32; 4]);
    let mut expected = Vec::new();
    for t in 0..4 {
        optimizer.step(&mut [param("table", &mut table, rows(&[2, 0], &values)).shaped(&[6, 2])]).unwrap();
        let now = table.iter().map(|x| f64::from(*x));
        match t {
            0 => expected = now.collect(),
            _ => expected.iter_mut().zip(now).for_each(|(a, p)| *a = lerp(*a, p, 0.25, false)),
        }
        assert_eq!(bits(&optimizer.average("table").unwrap().unwrap()), bits(&expected), "{t}");
        // Between steps the trainer may change what it likes.
        table.iter_mut().for_each(|x| *x += 0.125);
    }
}

/// Where nothing looks at gradients before the step, its passes form them; where something does, they are formed before.
#[test]
fn windows_are_formed_in_the_step_with_the_same_bits() {
    for (i, text) in CASES.iter().chain(OTHERS).chain(MODIFIED).enumerate() {
        let mut wrapper = GradientConfig::default();
        wrapper.accumulate = Accumulate { accumulation_steps: [3, 2, 1][i % 3], total: Some(7) };
        wrapper.clip = (i % 3 == 2 || i % 2 == 0).then_some(Clip::Value { clip_value: 0.3 });
        let of = |policy: NonFinitePolicy| {
            let optimizer = build_on(best(), text).with_gradients(wrapper.clone()).with_non_finite(policy);
            let mut optimizer = optimizer.averaged(Average::exponential(0.3).unwrap());
            let mut tensors = tensors(text, 7);
            run(&mut optimizer, &mut tensors, 0..7);
            let means: Vec<_> = tensors.iter().map(|t| optimizer.average(&t.name).unwrap()).collect();
            (outcome(&optimizer, &tensors), format!("{means:?}"))
        };
        let (formed, apart) = (of(NonFinitePolicy::Propagate), of(NonFinitePolicy::Error));
        if formed != apart {
            panic!("{text}: {}", crate::common::first_difference(&apart.0, &formed.0));
        }
    }
}

/// A window whose step is refused is over, as it is where its gradients are formed before.
#[test]
fn a_refused_step_leaves_no_half_window() {
    let text = "optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.0), accumulative_counts=2)";
    let mut optimizer = recipe(text).optimizer(best());
    let (mut one, mut two, ones, wrong) =
        (vec![0.0f32; 4], vec![0.0f32; 2], vec![1.0f32; 4], vec![1.0f32; 3]);
    optimizer.step(&mut [param("one", &mut one, &ones)]).unwrap();
    let refused = optimizer.step(&mut [param("one", &mut one, &ones), param("two", &mut two, &wrong)]);
    assert!(refused.is_err());
    assert_eq!(one, [0.0; 4]);
    // It was refused before it counted: the window is as it was.
    optimizer.step(&mut [param("one", &mut one, &ones)]).unwrap();
    assert_eq!(one, [-1.0; 4]);
}

/// Norms of every order, in every type, against sums in f64. In f32 a share of the largest magnitude is off by half
/// an ulp. Its power (at most ten multiplications) is off by p times that and ten. A sum (at most 64 + 6 additions
/// one after another) is off by 70. The root divides all of it by p, and a norm of order 0.25 so multiplies it by
/// four. The norms of order 1 and 2 are sums alone.
#[test]
fn norms_of_every_order() {
    let large = if env!("CARGO_CRATE_NAME") == "on_cuda" { 20_000 } else { 1_000_000 };
    let mut random = Random(11);
    let kinds = [
        ("large", large, Format::F32),
        ("small", 5, Format::F32),
        ("half", 300, Format::Bf16),
        ("double", 77, Format::F64),
    ];
    let mut tensors: Vec<Tensor> = kinds
        .iter()
        .map(|&(name, elements, format)| {
            let mut draw = || Buffer::new(format, &random.units(elements));
            Tensor::new(name, draw(), vec![Some(draw())])
        })
        .collect();
    // A zero, and magnitudes whose powers leave the range of f32.
    if let Some(Some(Buffer::F32(grad))) = tensors[1].grads.first_mut() {
        grad.copy_from_slice(&[0.0, 1e-30, -1e-12, 3e4, -0.5]);
    }
    let values: Vec<f64> =
        tensors.iter().flat_map(|tensor| tensor.grads[0].as_ref().unwrap().values()).map(f64::abs).collect();
    for p in [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.25, 3.0, 7.0, 31.75, f64::INFINITY, 32.0, 2.2, 0.3] {
        let expected = match p {
            f64::INFINITY => values.iter().copied().fold(0.0, f64::max),
            // torch, as MMEngine uses it, takes the norm of the parameters' norms.
            0.0 => 4.0,
            p => values.iter().map(|x| x.powf(p)).sum::<f64>().powf(1.0 / p),
        };
        let mut wrapper = GradientConfig::default();
        wrapper.clip = Some(Clip::Norm { max_norm: 1.0, norm_type: p, error_if_nonfinite: false });
        for backend in backends() {
            let mut optimizer = recipe("SGD").optimizer(backend).with_gradients(wrapper.clone());
            let report = optimizer.step(&mut crate::common::bind(&mut tensors.clone(), 0)).unwrap();
            let got = report.grad_norm().unwrap();
            let exact = p == f64::INFINITY || p == 0.0;
            let bound = if exact { 0.0 } else { 90.0 * f64::from(f32::EPSILON) / p.min(1.0) };
            assert!((got - expected).abs() <= bound * expected, "norm of order {p}: {got}, not {expected}");
        }
    }
    // The least magnitude, without the zero and with it.
    let mut wrapper = GradientConfig::default();
    wrapper.clip =
        Some(Clip::Norm { max_norm: 1.0, norm_type: f64::NEG_INFINITY, error_if_nonfinite: false });
    for backend in backends() {
        let mut optimizer = recipe("SGD").optimizer(backend).with_gradients(wrapper.clone());
        let report = optimizer.step(&mut crate::common::bind(&mut tensors.clone(), 0)).unwrap();
        assert_eq!(report.grad_norm(), Some(0.0));
        let mut some = vec![tensors[0].clone(), tensors[2].clone(), tensors[3].clone()];
        let least = some.iter().flat_map(|t| t.grads[0].as_ref().unwrap().values()).map(f64::abs);
        let least = least.fold(f64::INFINITY, f64::min);
        assert_eq!(optimizer.step(&mut crate::common::bind(&mut some, 0)).unwrap().grad_norm(), Some(least));
    }
}

rule! {
    /// Doubles.
    pub Double(h: (), t) {}
    element(g: Grad) -> (p: Param) {
        p = p + p + g;
    }
}

rule! {
    /// Counts what it sees.
    pub Follow(h: (), t) {}
    element(p: Param) -> (a: State) {
        a = a + p;
    }
}

rule! {
    /// Has a sum, and cannot be fused.
    pub Summed(h: (), t) {}
    element(p: Param) -> () sum(total) {
        total = p;
    }
}

/// The mechanism itself: what is skipped, and what is refused before anything is written.
#[test]
fn rules_beside_a_pass() {
    for backend in backends() {
        let run = |fused: &[FusedRule<'_>], elements: [usize; 2]| {
            let mut memory = backend.allocate(&[(Format::F32, elements[0]); 4]).unwrap();
            let mut means = backend.allocate(&[(Format::F32, elements[1])]).unwrap();
            let ones = vec![1.0f32; elements[0]];
            memory.iter_mut().for_each(|storage| backend.write(storage, ones.as_slice().into()).unwrap());
            let [one, two, three, grad] = &mut memory[..] else { unreachable!() };
            let mut left = vec![(one, Some(&mut means[0])), (two, None), (three, None)].into_iter();
            let ran = backend.run(Pass {
                kernel: Native::kernel::<Double>(),
                compute: Compute::F32,
                tensors: &mut |views| {
                    let (p, mean) = left.next()?;
                    (views[0], views[1]) = (Some(View::write(p)), Some(View::read(grad)));
                    views[2] = mean.map(View::write);
                    Some(TensorPass { elements: elements[0], constant_set: 0 })
                },
                constants: &[1.0],
                tensor_scalars: &[],
                plan: &mut backend.plan(),
                sums: &mut [],
                fused,
                checked: false,
            });
            let mut values = [vec![0.0f32; elements[0]], vec![0.0; elements[1]]];
            backend.read(&memory[0], values[0].as_mut_slice().into()).unwrap();
            backend.read(&means[0], values[1].as_mut_slice().into()).unwrap();
            (ran, values)
        };
        let follow = |operands, first| {
            let kernel = Native::kernel::<Follow>();
            FusedRule {
                kernel,
                operands,
                constants: &[1.0],
                position: if first { Position::Prologue } else { Position::Epilogue },
            }
        };
        let (ran, [params, means]) = run(&[follow(&[2, 0], true), follow(&[2, 0], false)], [5000; 2]);
        ran.unwrap();
        // 1 before, 3 after; the other two have no average.
        assert!(params.iter().all(|x| *x == 3.0) && means.iter().all(|x| *x == 4.0), "{backend:?}");

        let summed = FusedRule {
            kernel: Native::kernel::<Summed>(),
            operands: &[0],
            constants: &[1.0],
            position: Position::Epilogue,
        };
        let short = FusedRule { constants: &[], ..follow(&[2, 0], false) };
        for (fused, elements, problem) in [
            (vec![follow(&[2, 2], false)], [8, 8], "cannot be fused"),
            (vec![follow(&[2, 99], false)], [8, 8], "cannot be fused"),
            (vec![follow(&[2], false)], [8, 8], "cannot be fused"),
            (vec![summed], [8, 8], "cannot be fused"),
            (vec![follow(&[2, 0], false); 6], [8, 8], "cannot be fused"),
            (vec![short], [8, 8], "the table of scalars"),
            (vec![follow(&[2, 0], false)], [8, 7], "operand a of tensor 0"),
            // A gradient is only lent.
            (vec![follow(&[1, 2], false)], [8, 8], "operand a of tensor 0"),
        ] {
            let (ran, [params, means]) = run(&fused, elements);
            let error = ran.expect_err(problem).to_string();
            assert!(error.contains(problem), "{error}");
            assert!(params.iter().all(|x| *x == 1.0) && means.iter().all(|x| *x == 0.0), "{problem}");
        }
    }
}
