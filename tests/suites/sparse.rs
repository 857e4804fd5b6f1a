//! Row-sparse gradients: what they touch, what they mean, and what is refused.

use crate::common::{Buffer, Random, backends, best, bits, build, cpu, recipe};
use fallline::optim::{Binding, Error, NonFinitePolicy, Start, frozen, param, rows};
use fallline::{Backend, Checkpoint, Compute, Driver, Format, Isa, Optimizer, Tensor};
use ndarray::{Array2, s};
use proptest::prelude::*;
use std::sync::Arc;

/// Algorithms that read and write the given rows alone.
const BY_ROW: &[&str] = &[
    "SparseAdam",
    "dict(type='SparseAdam', lr=0.01, betas=(0.5, 0.9), eps=1e-3, maximize=True)",
    "dict(type='SparseAdam', lr=0.01, state_format='bf16', seed=4)",
    "dict(type='SGD', lr=0.1)",
    "dict(type='SGD', lr=0.1, maximize=True)",
    "dict(type='Adagrad', lr=0.1, lr_decay=0.3, initial_accumulator_value=0.5)",
    "dict(type='DAdaptAdaGrad', d0=1e-3, momentum=0.5, weight_decay=0.1)",
    "dict(type='Adagrad', lr=0.1, state_format='f16')",
];
/// Algorithms for which the other rows have a gradient of zeros.
const AS_A_WHOLE: &[&str] =
    &["dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True)", "dict(type='Lion', lr=0.1)"];

/// A parameter with a gradient for each step: indices (none: dense) and values.
#[derive(Clone, Debug)]
struct Table {
    name: &'static str,
    shape: Vec<usize>,
    value: Buffer,
    grads: Vec<Option<(Option<Vec<i64>>, Buffer)>>,
}

impl Table {
    fn new(
        name: &'static str,
        shape: &[usize],
        formats: (Format, Format),
        steps: usize,
        random: &mut Random,
    ) -> Table {
        let elements = shape.iter().product();
        let width = elements / shape[0].max(1);
        let value = Buffer::new(formats.0, &random.units(elements));
        let mut draw = |t: usize| {
            if t == 2 {
                return None;
            }
            let count = if shape[0] == 0 { 0 } else { random.below(2 * shape[0] + 1) };
            let mut indices: Vec<i64> = (0..count).map(|_| random.below(shape[0]) as i64).collect();
            if t % 2 == 1 {
                indices.sort_unstable();
                indices.dedup();
            }
            let values = Buffer::new(formats.1, &random.units(indices.len() * width));
            Some((Some(indices), values))
        };
        let grads = (0..steps).map(&mut draw).collect();
        Table { name, shape: shape.to_vec(), value, grads }
    }

    fn bind(&mut self, t: usize) -> Binding<'_> {
        let value = self.value.param_from(0);
        match &self.grads[t] {
            None => frozen(self.name, value),
            Some((None, grad)) => param(self.name, value, grad.grad_from(0)),
            Some((Some(indices), grad)) => param(self.name, value, rows(indices, grad.grad_from(0))),
        }
        .shaped(&self.shape)
    }

    /// Returns the same with its gradients laid out in full, each element added up in the order given.
    fn dense(mut self, compute: Compute) -> Table {
        let (elements, width) = (self.shape.iter().product(), self.shape[1..].iter().product::<usize>());
        for (indices, values) in self.grads.iter_mut().flatten() {
            let Some(rows) = indices.take() else { continue };
            let mut sums = vec![-0.0f64; elements];
            for (i, x) in values.values().into_iter().enumerate() {
                let at = rows[i / width] as usize * width + i % width;
                let sum = sums[at] + x;
                sums[at] = if compute == Compute::F32 { f64::from(sum as f32) } else { sum };
            }
            let touched = |i: usize| rows.contains(&((i / width) as i64));
            for (i, sum) in sums.iter_mut().enumerate() {
                *sum = if touched(i) { *sum } else { 0.0 };
            }
            *values = Buffer::new(compute.format(), &sums);
        }
        self
    }
}

type Outcome = Vec<(Vec<u64>, u64, Vec<(&'static str, Vec<u64>)>)>;

fn run(optimizer: &mut Driver, tables: &mut [Table], steps: core::ops::Range<usize>) {
    for t in steps {
        let mut bindings: Vec<Binding<'_>> = tables.iter_mut().map(|table| table.bind(t)).collect();
        optimizer.step(&mut bindings).unwrap();
    }
}

fn outcome(optimizer: &Driver, tables: &[Table]) -> Outcome {
    let known = optimizer.params();
    let of = |table: &Table| {
        let found = known.iter().find(|param| param.name == table.name);
        let (steps, states) = found.map_or((0, Vec::new()), |param| (param.steps, param.states.clone()));
        let state = |state| bits(&optimizer.state(table.name, state).unwrap().unwrap());
        (table.value.bits(), steps, states.into_iter().map(|name| (name, state(name))).collect())
    };
    tables.iter().map(of).collect()
}

fn on(backend: Arc<dyn Backend>, text: &str, tables: &[Table]) -> Outcome {
    let mut tables = tables.to_vec();
    let mut optimizer = recipe(text).optimizer(backend).with_compute(Compute::F32);
    let steps = tables[0].grads.len();
    run(&mut optimizer, &mut tables, 0..steps);
    outcome(&optimizer, &tables)
}

fn format() -> impl Strategy<Value = Format> {
    prop_oneof![Just(Format::F32), Just(Format::F64), Just(Format::Bf16), Just(Format::F16)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if env!("CARGO_CRATE_NAME") == "on_cuda" { 12 } else { 48 }))]

    #[test]
    fn every_backend_gives_the_scalar_bits(
        seed in any::<u64>(), case in 0..BY_ROW.len() + AS_A_WHOLE.len(), formats in (format(), format()),
        shapes in proptest::collection::vec(proptest::collection::vec(0..9usize, 1..4), 2),
    ) {
        let text = BY_ROW.iter().chain(AS_A_WHOLE).nth(case).unwrap();
        let mut random = Random(seed);
        let tables: Vec<Table> = ["a", "b"].into_iter().zip(&shapes)
            .map(|(name, shape)| Table::new(name, shape, formats, 5, &mut random)).collect();
        let expected = on(cpu(Isa::Scalar, 1), text, &tables);
        for backend in backends() {
            let described = backend.describe();
            prop_assert_eq!(&on(backend, text, &tables), &expected, "{} on {}", text, described);
        }
    }

    #[test]
    fn a_whole_gradient_is_one_with_zeros(seed in any::<u64>(), case in 0..AS_A_WHOLE.len()) {
        let mut random = Random(seed);
        let table = Table::new("p", &[7, 3], (Format::F32, Format::F32), 6, &mut random);
        let expected = on(best(), AS_A_WHOLE[case], &[table.clone().dense(Compute::F32)]);
        prop_assert_eq!(on(best(), AS_A_WHOLE[case], &[table]), expected);
    }

    /// Adagrad and SGD without decay: a row of zeros does not move, so that rows and the whole mean the same.
    #[test]
    fn rows_are_the_whole_where_zeros_change_nothing(seed in any::<u64>(), text in prop_oneof![
        Just("dict(type='SGD', lr=0.1)"), Just("dict(type='Adagrad', lr=0.1, lr_decay=0.1)")]) {
        let mut random = Random(seed);
        let table = Table::new("p", &[7, 3], (Format::F32, Format::F32), 6, &mut random);
        let expected = on(best(), text, &[table.clone().dense(Compute::F32)]);
        prop_assert_eq!(on(best(), text, &[table]), expected);
    }

    /// The random bits of an element are those of its place, wherever a run of rows begins. Of rows that do not begin with
    /// a four of elements they are the run's own.
    #[test]
    fn rows_are_rounded_as_the_whole_is(seed in any::<u64>(), (text, format) in prop_oneof![
        Just(("dict(type='Adagrad', lr=0.1, state_format='bf16')", Format::F32)),
        Just(("dict(type='SGD', lr=0.01, param_format='bf16_sr', seed=2)", Format::Bf16))]) {
        let mut random = Random(seed);
        let table = Table::new("p", &[7, 12], (format, Format::F32), 6, &mut random);
        let expected = on(best(), text, &[table.clone().dense(Compute::F32)]);
        prop_assert_eq!(on(best(), text, &[table]), expected);
    }
}

#[test]
fn other_rows_are_neither_read_nor_written() {
    let width = 5;
    let indices = [6i64, 1, 2, 6];
    for text in BY_ROW {
        let mut random = Random(3);
        let values = random.units(indices.len() * width);
        let start = random.units(8 * width);
        let step = |start: &[f64]| {
            let mut optimizer = build(text);
            let mut p = start.to_vec();
            for _ in 0..3 {
                let grad = rows(&indices, &values);
                optimizer.step(&mut [param("p", &mut p, grad).shaped(&[8, width])]).unwrap();
            }
            (p, optimizer)
        };
        let (expected, _) = step(&start);
        let touched = |i: usize| indices.contains(&((i / width) as i64));
        let poisoned: Vec<f64> =
            start.iter().enumerate().map(|(i, &x)| if touched(i) { x } else { f64::NAN }).collect();
        let (got, optimizer) = step(&poisoned);
        for i in 0..8 * width {
            if touched(i) {
                assert_eq!(got[i].to_bits(), expected[i].to_bits(), "{text}: element {i}");
                assert_ne!(got[i].to_bits(), start[i].to_bits(), "{text}: element {i}");
            } else {
                assert!(got[i].is_nan(), "{text}: element {i}");
            }
        }
        for state in optimizer.params()[0].states.iter().filter(|state| **state != "x0") {
            let found = optimizer.state("p", state).unwrap().unwrap();
            let algorithm = recipe(text);
            for i in (0..8 * width).filter(|i| !touched(*i)) {
                // Some compute in f32 (tests/common).
                let Start::Value(initial) = algorithm.algorithm().state(state).start else { unreachable!() };
                assert!(found[i] == initial || found[i] == f64::from(initial as f32), "{text}: {state}[{i}]");
            }
        }
    }
}

#[test]
fn repeated_rows_add_up_in_the_order_given() {
    // 1e8 swallows what comes before it is gone, but not what comes after.
    for (values, sum) in [([1e8f32, 1.0, -1e8], 0.0f32), ([1e8, -1e8, 1.0], 1.0)] {
        let mut p = vec![0.0f32; 3];
        let indices = [1, 1, 1];
        build("dict(type='SGD', lr=1.0)").step(&mut [param("p", &mut p, rows(&indices, &values))]).unwrap();
        assert_eq!(p, [0.0, -sum, 0.0]);
    }
}

#[test]
fn no_rows_at_all_count_as_a_step() {
    for text in BY_ROW {
        let (mut p, none) = (vec![1.0f32; 6], Vec::<f32>::new());
        let mut optimizer = build(text);
        let report = optimizer.step(&mut [param("p", &mut p, rows(&[], &none)).shaped(&[3, 2])]).unwrap();
        assert_eq!((report.updated, optimizer.params()[0].steps, &p[..]), (1, 1, &[1.0; 6][..]), "{text}");
    }
    // And for SparseAdam the bias correction sees it.
    let step = |empty: bool| {
        let (mut p, g, none) = (vec![1.0f64; 2], vec![0.5f64; 2], Vec::<f64>::new());
        let mut optimizer = build("SparseAdam");
        if empty {
            optimizer.step(&mut [param("p", &mut p, rows(&[], &none))]).unwrap();
        }
        optimizer.step(&mut [param("p", &mut p, rows(&[0, 1], &g))]).unwrap();
        1.0 - p[0]
    };
    let expected = 1e-3 * (1.0 - 0.999f64.powi(2)).sqrt() / (1.0 - 0.9f64.powi(2)) * 0.1 * 0.5
        / ((0.001f64 * 0.25).sqrt() + 1e-8);
    // A dozen roundings, and that of the parameter near 1.
    assert!((step(true) - expected).abs() <= 1e-14 * expected + 1.2e-16, "{} {expected}", step(true));
    assert!((step(false) - step(true)).abs() > 1e-4);
}

#[test]
fn rows_come_from_any_memory() {
    let mut random = Random(8);
    let (start, given) = (random.units(12), random.units(9));
    let indices = [3i64, 0, 3];
    let text = "dict(type='SparseAdam', lr=0.1)";
    let mut expected = start.clone();
    build(text).step(&mut [param("p", &mut expected, rows(&indices, &given)).shaped(&[4, 3])]).unwrap();

    let backend = best();
    let mut optimizer = recipe(text).optimizer(Arc::clone(&backend));
    let mut tensor = Tensor::from_slice(&backend, &start, [4, 3]).unwrap();
    let values = Tensor::from_slice(&backend, &given, [3, 3]).unwrap();
    optimizer.step(&mut [param("p", &mut tensor, rows(&indices, &values))]).unwrap();
    assert_eq!(tensor.to_vec::<f64>().unwrap(), expected);

    let mut array = Array2::from_shape_vec((4, 3), start.clone()).unwrap();
    let values = Array2::from_shape_vec((3, 3), given.clone()).unwrap();
    build(text).step(&mut [param("p", &mut array, rows(&indices, &values))]).unwrap();
    assert_eq!(array.into_raw_vec_and_offset().0, expected);

    // Neither the parameter nor the values in one piece.
    let mut wide = Array2::from_elem((4, 6), 7.0);
    wide.slice_mut(s![.., ..;2]).assign(&Array2::from_shape_vec((4, 3), start).unwrap());
    let columns = values.t().as_standard_layout().to_owned();
    let mut view = wide.slice_mut(s![.., ..;2]);
    build(text).step(&mut [param("p", &mut view, rows(&indices, &columns.t()))]).unwrap();
    assert_eq!(wide.slice(s![.., ..;2]).iter().copied().collect::<Vec<f64>>(), expected);
    assert!(wide.slice(s![.., 1..;2]).iter().all(|&x| x == 7.0));

    let none: Option<&Vec<f64>> = None;
    let mut left = vec![1.0f64; 3];
    let report = build(text).step(&mut [param("p", &mut left, rows(&indices, none))]).unwrap();
    assert_eq!(report.without_grad, 1);
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let g = vec![1.0f32; 6];
    let refused = |text: &str, shape: &[usize], indices: &[i64], values: &[f32], part: &str| {
        let mut optimizer = build(text);
        let (mut p, mut other) = (vec![1.0f32; shape.iter().product()], vec![1.0f32; 6]);
        let error = optimizer
            .step(&mut [
                param("a", &mut other, rows(&[0, 1], &g)).shaped(&[2, 3]),
                param("p", &mut p, rows(indices, values)).shaped(shape),
            ])
            .unwrap_err();
        assert!(error.to_string().contains("\"p\"") && error.to_string().contains(part), "{text}: {error}");
        assert!(p.iter().chain(&other).all(|&x| x == 1.0), "{text}: {error}");
        assert!(optimizer.params().is_empty());
    };
    for text in BY_ROW.iter().chain(AS_A_WHOLE) {
        refused(text, &[4, 3], &[0, 4], &g, "names row 4, but there are rows 0 to 3");
        refused(text, &[4, 3], &[0, -1], &g, "names row -1");
        refused(text, &[4, 3], &[0], &g, "has values of shape [6], expected [1, 3]");
        refused(text, &[4, 3], &[0, i64::MIN], &g, "names row -9223372036854775808");
        refused(text, &[], &[0, 1], &g, "of no dimensions");
        refused(text, &[0, 3], &[0, 0], &g, "names row 0");
    }
    let refuse = |text: &str, part: &str| {
        let mut p = vec![1.0f32; 6];
        let error =
            build(text).step(&mut [param("p", &mut p, rows(&[0, 1], &g)).shaped(&[2, 3])]).unwrap_err();
        assert!(matches!(error, Error::GradKind { .. }) && error.to_string().contains(part), "{error}");
        assert_eq!(p, [1.0; 6]);
    };
    refuse("Adam", "SparseAdam does");
    refuse("dict(type='SGD', weight_decay=0.1)", "without weight_decay");
    refuse("dict(type='Adagrad', weight_decay=0.1)", "without weight_decay");

    let mut p = vec![1.0f32; 6];
    let error = build("SparseAdam").step(&mut [param("p", &mut p, &g)]).unwrap_err();
    let said = "parameter \"p\": SparseAdam does not support dense gradients, please consider Adam instead";
    assert_eq!(error.to_string(), said);
    let nested = rows(&[0], rows(&[0], &g));
    let error = build("SparseAdam").step(&mut [param("p", &mut p, nested)]).unwrap_err();
    assert!(error.to_string().contains("row-sparse themselves"), "{error}");
    let wrong = ndarray::ArrayView2::from_shape((3, 2), &g).unwrap();
    let error = build("SparseAdam")
        .step(&mut [param("p", &mut p, rows(&[0, 1], &wrong)).shaped(&[2, 3])])
        .unwrap_err();
    assert!(error.to_string().contains("has values of shape [3, 2], expected [2, 3]"), "{error}");
}

#[test]
fn dense_and_sparse_go_together_and_may_change() {
    for text in [&BY_ROW[3..], AS_A_WHOLE].concat() {
        let mut random = Random(11);
        let mut tables: Vec<Table> = ["a", "b", "c"]
            .map(|name| Table::new(name, &[5, 3], (Format::F32, Format::F32), 6, &mut random))
            .to_vec();
        tables[1] = tables[1].clone().dense(Compute::F32);
        if !text.contains("DAdapt") {
            // Now dense, now not.
            let dense = tables[2].clone().dense(Compute::F32);
            for t in [1, 4] {
                tables[2].grads[t] = dense.grads[t].clone();
            }
        }
        let expected = on(cpu(Isa::Scalar, 1), text, &tables);
        assert_eq!(on(best(), text, &tables), expected, "{text}");
    }
}

#[test]
fn a_run_goes_on_bit_for_bit_from_any_step() {
    for text in BY_ROW.iter().chain(AS_A_WHOLE) {
        let mut random = Random(5);
        let fresh: Vec<Table> = ["a", "b"]
            .map(|name| Table::new(name, &[6, 4], (Format::F32, Format::F32), 6, &mut random))
            .to_vec();
        let mut whole = fresh.clone();
        let mut straight = build(text);
        run(&mut straight, &mut whole, 0..6);
        for stop in 0..=6 {
            let (mut parts, mut first) = (fresh.clone(), build(text));
            run(&mut first, &mut parts, 0..stop);
            let saved = Checkpoint::from_bytes(&first.save().unwrap().to_bytes().unwrap()).unwrap();
            let mut second = build(text);
            second.load(&saved).unwrap();
            run(&mut second, &mut parts, stop..6);
            assert_eq!(outcome(&second, &parts), outcome(&straight, &whole), "{text} at {stop}");
        }
    }
}

#[test]
fn nan_in_the_rows_is_seen_and_the_norm_is_that_of_their_sums() {
    let mut p = vec![1.0f32; 12];
    let mut values = vec![1.0f32; 9];
    let indices = [2i64, 0, 2];
    for text in ["SparseAdam", "Lion"] {
        let mut optimizer = recipe(text).optimizer(best()).with_non_finite(NonFinitePolicy::Skip);
        let report =
            optimizer.step(&mut [param("p", &mut p, rows(&indices, &values)).shaped(&[4, 3])]).unwrap();
        // Row 0 is three ones, row 2 three twos.
        assert_eq!(report.grad_norm(), Some(15f64.sqrt()), "{text}");
        values[7] = f32::NAN;
        let before = p.clone();
        let report =
            optimizer.step(&mut [param("p", &mut p, rows(&indices, &values)).shaped(&[4, 3])]).unwrap();
        assert!(report.skipped() && report.to_string().contains("1 elements"), "{report}");
        assert_eq!((&p, optimizer.params()[0].steps), (&before, 1));
        values[7] = 1.0;
    }
}

#[test]
fn threads_change_no_bit() {
    let mut random = Random(2);
    let (count, width) = (60_000, 24);
    let indices: Vec<i64> = (0..count).map(|_| random.below(40_000) as i64).collect();
    let values = Buffer::new(Format::F32, &random.units(count * width));
    let value = Buffer::new(Format::F32, &random.units(40_000 * width));
    let grads = vec![Some((Some(indices), values)); 2];
    let table = Table { name: "p", shape: vec![40_000, width], value, grads };
    for text in [BY_ROW[0], BY_ROW[5], AS_A_WHOLE[0]] {
        let expected = on(cpu(Isa::best(), 1), text, std::slice::from_ref(&table));
        assert!(on(cpu(Isa::best(), 3), text, std::slice::from_ref(&table)) == expected, "{text}");
    }
}
