//! The same bits from every instruction set, number of threads, cut into tensors, order and alignment, and
//! from the recorded rule.

use crate::common::inputs::{INPUTS, Skip};
use crate::common::{
    Buffer, CASES, Random, Tensor, best, bits, cpu, first_difference, isas, outcome_of, recipe,
};
use fallline::core::{Arithmetic, GlobalAt, Groups, Kernel, Literal, Role, Scalar, TensorAt, Vector};
use fallline::optim::Program;
use fallline::optim::Start;
use fallline::optim::hyper::Value;
use fallline::{Compute, Format, Isa, Shape};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Lengths around every boundary: registers, blocks and steps of a sum (256), segments (4096), chunks (16384).
const EDGES: [usize; 22] =
    [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 255, 256, 257, 1023, 1024, 1025, 4097, 16383, 16384, 16385];

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![proptest::sample::select(&EDGES[..]), 0..=3000usize]
}

fn format() -> impl Strategy<Value = Format> {
    proptest::sample::select(&Format::ALL[..])
}

fn compute() -> impl Strategy<Value = Option<Compute>> {
    proptest::sample::select(&[None, Some(Compute::F32), Some(Compute::F64)][..])
}

fn case() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(CASES)
}

/// Tensors of any formats, lengths and alignments, with wild numbers and a gradient missing here and there.
fn tensors() -> impl Strategy<Value = Vec<Tensor>> {
    let one = (length(), format(), format(), 0..16usize);
    (proptest::collection::vec(one, 1..4), 1..4usize, any::<u64>()).prop_map(|(list, steps, seed)| {
        let mut random = Random(seed);
        let tensor = |(i, (length, of_param, of_grad, offset)): (usize, (usize, Format, Format, usize))| {
            let mut draw = |format| Buffer::new(format, &random.wilds(offset + length));
            let value = draw(of_param);
            let grads: Vec<_> = (0..steps).map(|t| (t != 1 || i != 0).then(|| draw(of_grad))).collect();
            Tensor { offset, ..Tensor::new(format!("tensor{i}"), value, grads) }
        };
        list.into_iter().enumerate().map(tensor).collect()
    })
}

fn on(isa: Isa, threads: usize, text: &str, compute: Option<Compute>) -> fallline::Driver {
    let optimizer = crate::common::build_on(cpu(isa, threads), text);
    match compute {
        Some(compute) => optimizer.with_compute(compute),
        None => optimizer,
    }
}

/// Returns enough for the pool to be woken: passes over fewer elements run on the calling thread.
fn many() -> [usize; 6] {
    [1, 16385, 200_001, 0, 4096, 70_003]
}

/// Returns the program of a vector.
fn flat_program(algorithm: &(dyn fallline::optim::AnyAlgorithm + '_)) -> Program {
    algorithm.program_of("", &Shape::from([5])).unwrap()
}

/// Rules that a name's options choose, each option tried alone.
fn rules(name: &str) -> BTreeSet<&'static str> {
    let entry = fallline::registry::names::find(name).unwrap();
    let all = |method: &fallline::Method| -> Vec<&'static str> {
        flat_program(method.algorithm().unwrap()).kernels().map(|kernel| kernel.name).collect()
    };
    let mut rules: BTreeSet<&str> = all(&entry.defaults()).into_iter().collect();
    for hyper in entry.defaults().table() {
        for value in [Value::Bool(true), Value::Float(0.5)] {
            if let Ok(method) = entry.with(&[(hyper.name, value)]) {
                rules.extend(all(&method));
            }
        }
    }
    rules
}

#[test]
fn the_cases_hold_every_rule() {
    let of =
        |text: &&str| flat_program(recipe(text).algorithm()).kernels().map(|k| k.name).collect::<Vec<_>>();
    let covered: BTreeSet<&str> = CASES.iter().flat_map(of).collect();
    for inputs in INPUTS.iter().filter(|inputs| inputs.is_flat()) {
        let missing: Vec<&str> =
            rules(inputs.name).into_iter().filter(|rule| !covered.contains(rule)).collect();
        let place = "the good inputs in tests/common/inputs/table.rs";
        assert!(missing.is_empty(), "{}: {place} do not choose {missing:?}", inputs.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn every_instruction_set_gives_the_scalar_bits(text in case(), tensors in tensors(), compute in compute()) {
        let reference = outcome_of(on(Isa::Scalar, 1, text, compute), &tensors);
        for isa in isas() {
            let got = outcome_of(on(isa, 1, text, compute), &tensors);
            prop_assert!(got == reference, "{} on {}: {}", text, isa, first_difference(&reference, &got));
        }
    }

    #[test]
    fn cutting_a_tensor_changes_nothing(
        text in case(),
        lengths in proptest::collection::vec(length(), 1..5),
        formats in (format(), format()),
        seed in any::<u64>(),
    ) {
        let mut random = Random(seed);
        prop_assume!(!crate::common::looks_at_whole_tensors(text) && !stored_otherwise(text));
        let total = lengths.iter().sum();
        let value = random.wilds(total);
        let grads = [random.wilds(total), random.wilds(total)];
        let part = |name: String, range: core::ops::Range<usize>| {
            let grads = grads.iter().map(|grad| Some(Buffer::new(formats.1, &grad[range.clone()])));
            Tensor::new(name, Buffer::new(formats.0, &value[range.clone()]), grads.collect())
        };
        let whole = outcome_of(on(Isa::best(), 1, text, None), &[part("whole".into(), 0..total)]);
        let mut start = 0;
        let parts: Vec<Tensor> = lengths.iter().enumerate().map(|(i, length)| {
            start += length;
            part(format!("part{i}"), start - length..start)
        }).collect();
        let parts = outcome_of(on(Isa::best(), 1, text, None), &parts);
        prop_assert_eq!(&whole[0].1, &parts.iter().flat_map(|part| part.1.clone()).collect::<Vec<_>>());
        for (s, (name, state)) in whole[0].3.iter().enumerate() {
            let joined: Vec<u64> = parts.iter().flat_map(|part| part.3[s].1.clone()).collect();
            prop_assert_eq!(state, &joined, "{}", name);
        }
    }

    #[test]
    fn the_recorded_rule_gives_the_same_bits(text in case(), seed in any::<u64>(), double in any::<bool>()) {
        match double {
            true => recorded_is_the_rule::<f64>(text, seed, Format::F64, |x| x, Scalar),
            false => recorded_is_the_rule::<f32>(text, seed, Format::F32, f64::from, |x| Scalar(x as f32)),
        }
    }
}

/// Returns whether states are stored in another format than they are computed in, in which what a block holds
/// matters.
fn stored_otherwise(text: &str) -> bool {
    let recipe = recipe(text);
    let states = flat_program(recipe.algorithm()).operands(Role::State);
    states.into_iter().any(|state| recipe.state_format(state, 1 << 20) != Format::F32)
}

/// What is known of the only tensor between two passes.
struct Between<'a> {
    algorithm: &'a dyn fallline::optim::AnyAlgorithm,
    t: u64,
    compute: Compute,
    shape: &'a Shape,
}

impl Between<'_> {
    /// Computes a rule's tensor scalars from its recorded formulas, and what is remembered; false where the pass is
    /// left out.
    fn recorded_numbers(
        &self,
        kernel: &Kernel,
        sums: &[(&str, f64)],
        (memory, shared): (&mut [f64], &mut [f64]),
        out: &mut [f64],
    ) -> bool {
        let (between, formulas) = (&kernel.between, kernel.between.record());
        let declared = &between.declared;
        let named = |names: &[&str], table: &[(&str, f64)], values: &[f64]| -> Vec<usize> {
            assert_eq!(table.len(), values.len());
            names.iter().map(|name| table.iter().position(|(known, _)| known == name).unwrap()).collect()
        };
        let reads = named(declared.reads, sums, &vec![0.0; sums.len()]);
        let sums: Vec<f64> = reads.iter().map(|&place| sums[place].1).collect();
        let at_memory = named(declared.memory, self.algorithm.spec().memory, memory);
        let at_shared = named(declared.shared, self.algorithm.spec().shared, shared);
        let pick = |from: &[f64], places: &[usize]| places.iter().map(|&i| from[i]).collect::<Vec<f64>>();
        let mut once = vec![0.0; declared.once.len()];
        if between.is_global() {
            let before = memory.to_vec();
            let (steps, groups) = (&[self.t][..], &[0][..]);
            let mut at = GlobalAt { steps, groups, memory: &before, shared: &mut *shared, world: 1 };
            between.once(&Groups::new(1, &|_| self.algorithm.hyper()), &mut at, &mut once);
        }
        let mut each = vec![0.0; declared.each.len()];
        let (t, compute, shape) = (self.t, self.compute, self.shape);
        let mut at = TensorAt { t, compute, shape, by_row: false, memory: &mut *memory, shared, world: 1 };
        between.each(self.algorithm.hyper(), &mut at, &once, &mut each);
        let inputs = |totals: &[f64], shared: &[f64], memory: &[f64]| {
            [&once[..], &each, &sums, totals, &pick(shared, &at_shared), &pick(memory, &at_memory)].concat()
        };
        let none = vec![0.0; declared.totals.len()];
        let totals = formulas.terms.evaluate(&inputs(&none, shared, memory));
        // A total folds from +0.
        let totals: Vec<f64> = totals.into_iter().map(|term| 0.0 + term).collect();
        let updated = formulas.update.evaluate(&inputs(&totals, shared, memory));
        at_shared.iter().zip(updated).for_each(|(&place, value)| shared[place] = value);
        let runs = formulas.skips.evaluate(&inputs(&totals, shared, memory))[0] <= 0.0;
        let found = formulas.tensor.evaluate(&inputs(&totals, shared, memory));
        let (scalars, remembered) = found.split_at(out.len());
        out.copy_from_slice(scalars);
        at_memory.iter().zip(remembered).for_each(|(&place, &value)| memory[place] = value);
        runs
    }
}

/// Three steps of the driver on the scalar reference, and of the graphs that were recorded of its rules, with
/// what is between them.
fn recorded_is_the_rule<T: Copy>(
    text: &str,
    seed: u64,
    format: Format,
    widen: impl Fn(T) -> f64 + Copy,
    scalar: impl Fn(f64) -> Scalar<T> + Copy,
) where
    Scalar<T>: Vector + Arithmetic,
    f64: Literal<Scalar<T>>,
{
    const N: usize = 33;
    let mut random = Random(seed);
    let value = Buffer::new(format, &random.wilds(N));
    let grads: Vec<Buffer> = (0..3).map(|_| Buffer::new(format, &random.wilds(N))).collect();
    let recipe = recipe(text);
    let algorithm = recipe.algorithm().boxed();
    let algorithm: &dyn fallline::optim::AnyAlgorithm = &*algorithm;
    let sign = scalar(if algorithm.maximize() { -1.0 } else { 1.0 });
    let (shape, compute) =
        (Shape::from([N]), if format == Format::F64 { Compute::F64 } else { Compute::F32 });
    let stages = algorithm.program_of("", &shape).unwrap();
    // What a group remembers goes on between steps, in an engine alone: tests/suites/golden.rs compares it with its source.
    if algorithm.table().iter().any(|hyper| hyper.kept) {
        return;
    }
    // A graph has no codecs: tests/suites/conformance.rs compares these over devices, tests/suites/quantised.rs with a naive one.
    if stored_otherwise(text) {
        return;
    }
    // A stage that is not element by element has no graph (OnebitLamb's largest ratio): tests/suites/conformance.rs compares it
    // over devices, and tests/numbers/references_onebit.rs with a naive one.
    if stages.iter().any(|stage| stage.kernel().is_none()) {
        return;
    }

    // Rounded once to the type of the states, as a driver does.
    let start = |state: &str| match algorithm.state(state).start {
        Start::Param => value.values(),
        Start::Value(initial) => Buffer::new(format, &[initial; N]).values(),
    };
    let mut states: Vec<(&str, Vec<f64>)> =
        stages.operands(Role::State).into_iter().map(|state| (state, start(state))).collect();
    let mut params = value.values();
    let mut shared: Vec<f64> = algorithm.spec().shared.iter().map(|(_, initial)| *initial).collect();
    let mut memory: Vec<f64> = algorithm.spec().memory.iter().map(|(_, initial)| *initial).collect();
    for (t, grad) in grads.iter().enumerate() {
        let (t, grad) = (t as u64 + 1, grad.values());
        let mut sums: Vec<(&str, f64)> = Vec::new();
        for stage in stages.iter() {
            let kernel: &Kernel = stage.kernel().unwrap();
            let mut scalars = vec![0.0; kernel.scalars.len() + kernel.tensor_scalars.len()];
            let (row, own) = scalars.split_at_mut(kernel.scalars.len());
            kernel.compute_scalars(algorithm.hyper(), t, row);
            let at = Between { algorithm, t, compute, shape: &shape };
            if !at.recorded_numbers(kernel, &sums, (&mut memory, &mut shared), own) {
                sums = kernel.sums.iter().map(|name| (*name, 0.0)).collect();
                continue;
            }
            let scalars: Vec<Scalar<T>> = scalars.iter().map(|&x| scalar(x)).collect();
            let graph = kernel.record();
            // 33 elements: one to each accumulator of a sum, and none folded on the way (core::sums).
            let mut terms = vec![[scalar(0.0); 64]; kernel.sums.len()];
            for i in 0..N {
                let at = |operand: &fallline::core::Operand| match operand.role {
                    Role::Grad => scalar(grad[i]),
                    Role::Param => scalar(params[i]),
                    _ => scalar(states.iter().find(|(name, _)| *name == operand.name).unwrap().1[i]),
                };
                let mut element: Vec<Scalar<T>> = kernel.operands.iter().map(at).collect();
                let mut found = vec![scalar(0.0); kernel.sums.len()];
                graph.evaluate(sign, &scalars, &mut element, &mut found);
                terms.iter_mut().zip(found).for_each(|(terms, x)| terms[i] = scalar(0.0) + ((x + 0.0) + 0.0));
                for (operand, x) in kernel.operands.iter().zip(element).filter(|(operand, _)| operand.written)
                {
                    match operand.role {
                        Role::Param => params[i] = widen(x.0),
                        _ => {
                            let state = states.iter_mut().find(|(name, _)| *name == operand.name);
                            state.unwrap().1[i] = widen(x.0);
                        }
                    }
                }
            }
            sums = terms
                .into_iter()
                .zip(kernel.sums)
                .map(|(mut acc, name)| {
                    for half in [32, 16, 8, 4, 2, 1] {
                        (0..half).for_each(|j| acc[j] = acc[j] + acc[j + half]);
                    }
                    (*name, widen(acc[0].0))
                })
                .collect();
        }
    }

    let tensor = Tensor::new("p", value, grads.into_iter().map(Some).collect());
    let got = outcome_of(recipe.optimizer(cpu(Isa::Scalar, 1)), &[tensor]);
    assert_eq!(bits(&params), got[0].1, "{text}");
    assert_eq!(states.len(), got[0].3.len());
    for ((name, expected), (other, state)) in states.iter().zip(&got[0].3) {
        assert_eq!(name, other);
        assert_eq!(&bits(expected), state, "{text}: {name}");
    }
}

#[test]
fn threads_change_no_bit() {
    let mut random = Random(7);
    assert!(many().iter().sum::<usize>() > 256 * 1024);
    for (i, text) in CASES.iter().enumerate() {
        // Formats that are decoded block by block in every third case.
        let format = if i % 3 == 0 { Format::Bf16 } else { Format::F32 };
        let tensors: Vec<Tensor> = many()
            .iter()
            .enumerate()
            .map(|(i, &length)| {
                let mut draw = |format| Buffer::new(format, &random.units(length));
                Tensor::new(format!("t{i}"), draw(format), vec![Some(draw(Format::F32))])
            })
            .collect();
        let reference = outcome_of(on(Isa::best(), 1, text, None), &tensors);
        for threads in [2, 7] {
            let got = outcome_of(on(Isa::best(), threads, text, None), &tensors);
            assert!(got == reference, "{text}, {threads} threads: {}", first_difference(&reference, &got));
        }
    }
}

/// What looks at matrices: products and sums over rows, with 0, 1, few and many rows, and enough for several threads.
#[test]
fn matrices_have_the_scalar_bits() {
    const SHAPES: [[usize; 2]; 6] = [[30, 130], [131, 29], [60, 60], [1, 40], [40, 1], [0, 3]];
    let mut random = Random(11);
    let tensors: Vec<Tensor> = SHAPES
        .iter()
        .enumerate()
        .map(|(i, shape)| {
            let plain = Tensor::plain(&format!("matrix{i}"), shape.iter().product(), 2, &mut random);
            Tensor { shape: Some(shape.to_vec()), ..plain }
        })
        .collect();
    let texts =
        INPUTS.iter().filter(|inputs| inputs.skips(Skip::Products) || inputs.name.contains("Adafactor"));
    let mut seen = BTreeSet::new();
    for text in texts.flat_map(|inputs| inputs.good) {
        seen.insert(crate::common::name_of(text));
        let reference = outcome_of(on(Isa::Scalar, 1, text, None), &tensors);
        // AVX-512 may have a unit of its own for products of bf16: its bits are those of any number of threads.
        let unit = text.contains("ns_dtype='bf16'");
        let own = unit.then(|| outcome_of(on(Isa::best(), 1, text, None), &tensors));
        for isa in isas() {
            let reference = own.as_ref().filter(|_| isa == Isa::Avx512).unwrap_or(&reference);
            let threads = if isa == Isa::Baseline { 2 } else { 3 };
            let got = outcome_of(on(isa, threads, text, None), &tensors);
            assert!(got == *reference, "{text} on {isa}: {}", first_difference(reference, &got));
        }
    }
    assert!(["Muon", "NorMuon", "Adafactor"].iter().all(|name| seen.contains(name)), "{seen:?}");
}

#[test]
fn nothing_beside_a_slice_is_written() {
    // A slice in the middle of an array, at every alignment: its neighbours keep their bits.
    for format in Format::ALL {
        for start in 0..16 {
            let mut value = Buffer::new(format, &[1.0; 80]);
            let grad = Buffer::new(Format::F32, &[1.0; 40]);
            let mut optimizer = recipe("dict(type='SGD', lr=0.5)").optimizer(best());
            let binding = match &mut value {
                Buffer::F64(v) => fallline::optim::param("p", &mut v[start..start + 40], grad.grad_from(0)),
                Buffer::F32(v) => fallline::optim::param("p", &mut v[start..start + 40], grad.grad_from(0)),
                Buffer::Bf16(v) => fallline::optim::param("p", &mut v[start..start + 40], grad.grad_from(0)),
                Buffer::F16(v) => fallline::optim::param("p", &mut v[start..start + 40], grad.grad_from(0)),
            };
            fallline::Optimizer::step(&mut optimizer, &mut [binding]).unwrap();
            let mut expected = vec![1.0; 80];
            expected[start..start + 40].fill(0.5);
            assert_eq!(value.values(), expected, "{format} from {start}");
        }
    }
}
