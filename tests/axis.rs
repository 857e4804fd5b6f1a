//! Sums along an axis, and passes over broadcast operands, on every instruction set and on the CUDA device. The
//! device is emulated, under its checks and with lazy streams, or real with `FALLLINE_TEST_GPU=1`. This is a
//! separate process, since the emulator is one for all.

mod common;

use common::{Random, best, bits, cuda, on_gpu};
use fallline::core::backend::{AxisReduction, MatrixReduction, Pass, Plan, TensorPass, View, Views};
use fallline::core::host::SliceMut;
use fallline::core::{Compute, Element, Kernel, Link, rule};
use fallline::{Backend, Cpu, Format, Isa, Native, Tensor};
use fallline_cuda::Cuda;
use std::ops::{Add, Mul};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const MODES: [&str; 5] =
    ["unchecked,eager,seed=0", "checked,seed=1", "checked,seed=2", "checked,seed=3", "unchecked,lazy,seed=0"];

fn modes() -> &'static [&'static str] {
    if on_gpu() { &MODES[..1] } else { &MODES }
}

/// The emulator has one configuration: tests take turns.
fn mode(options: &str) -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if !on_gpu() {
        fallline_emulator::install().expect("the emulator").configure(options);
    }
    turn
}

fn no_fault(options: &str) {
    cuda().synchronise().unwrap();
    if !on_gpu() {
        assert_eq!(fallline_emulator::install().unwrap().last_fault(), None, "{options}");
    }
}

trait Number: Element + PartialEq + Default + Add<Output = Self> + Mul<Output = Self> {
    fn of(x: f64) -> Self;
    fn bits(self) -> u64;
}
impl Number for f32 {
    fn of(x: f64) -> f32 {
        x as f32
    }
    fn bits(self) -> u64 {
        self.to_bits().into()
    }
}
impl Number for f64 {
    fn of(x: f64) -> f64 {
        x
    }
    fn bits(self) -> u64 {
        self.to_bits()
    }
}

/// Returns numbers whose sums round, in every order to something else; and zeros below zero, of which a sum has none.
fn numbers<T: Number>(count: usize) -> Vec<T> {
    let number = |i: usize| match i % 13 {
        5 => -0.0,
        _ => ((i * 7919) % 1009) as f64 / 97.0 - 3.0 + 1e6 * f64::from(i % 11 == 3),
    };
    (0..count).map(|i| T::of(number(i))).collect()
}

/// Adds up in the order of additions, as [`AxisReduction`] says it.
fn in_order<T: Number>(terms: Vec<T>, inner: usize) -> T {
    if inner == 1 {
        let mut accumulators = [T::default(); 128];
        terms.iter().enumerate().for_each(|(i, &x)| accumulators[i % 128] = accumulators[i % 128] + x);
        for h in [64, 32, 16, 8, 4, 2, 1] {
            (0..h).for_each(|j| accumulators[j] = accumulators[j] + accumulators[j + h]);
        }
        return accumulators[0];
    }
    let one_after_another = |terms: &[T]| terms.iter().fold(T::default(), |sum, &x| sum + x);
    let mut sums: Vec<T> = terms.chunks(256).map(one_after_another).collect();
    while sums.len() > 1 {
        sums = sums.chunks(256).map(one_after_another).collect();
    }
    sums.first().copied().unwrap_or_default()
}

/// Around accumulators, strips, and strips of strips.
const COUNTS: [usize; 12] = [0, 1, 2, 3, 127, 128, 129, 255, 256, 257, 600, 70_000];
const INNERS: [usize; 7] = [1, 3, 9, 127, 128, 129, 1000];
const OUTERS: [usize; 3] = [1, 5, 1000];

/// Compares sums of at most so many elements with the literal ones; returns how many.
fn sums_on<T: Number>(backend: &Arc<dyn Backend>, most: usize, options: &str) -> usize
where
    for<'a> SliceMut<'a>: From<&'a mut [T]>,
    for<'a> fallline::core::host::Slice<'a>: From<&'a [T]>,
{
    let values = numbers::<T>(most + 1);
    let source = Tensor::from_slice(backend, &values[..], [values.len()]).unwrap();
    let mut done = 0;
    for (outer, count, inner) in OUTERS
        .into_iter()
        .flat_map(|outer| COUNTS.map(|count| (outer, count)))
        .flat_map(|(outer, count)| INNERS.map(|inner| (outer, count, inner)))
    {
        let (sums, elements) = (outer * inner, outer * count * inner);
        if elements > most {
            continue;
        }
        for (start, squares) in [(0, false), (1, true), (1, false), (0, true)] {
            let from = &values[start..start + elements];
            let expected: Vec<u64> = (0..sums)
                .map(|sum| {
                    let (o, i) = (sum / inner, sum % inner);
                    let terms = (0..count).map(|k| from[(o * count + k) * inner + i]);
                    let terms = terms.map(|x| if squares { x * x } else { x }).collect();
                    in_order::<T>(terms, inner).bits()
                })
                .collect();
            let mut to = Tensor::from_slice(backend, &vec![T::of(7.0); sums][..], [sums]).unwrap();
            let from = View::read(source.storage()).slice(start, elements);
            let to_storage = to.storage_mut();
            backend
                .reductions()
                .reduce_axis(AxisReduction { from, squares, outer, count, inner, to: to_storage })
                .unwrap();
            let got: Vec<u64> = to.to_vec::<T>().unwrap().into_iter().map(T::bits).collect();
            assert!(got == expected, "{outer} {count} {inner} {start} {squares} {options}");
            done += 1;
        }
    }
    done
}

/// Returns the CPU with each instruction set that the machine has, on one thread and on two.
fn hosts() -> Vec<(String, Arc<dyn Backend>)> {
    let available = Isa::ALL.into_iter().filter(|isa| isa.available());
    let of = |isa: Isa| {
        [1, 2].map(|threads| (format!("{isa:?} {threads}"), Cpu::with_isa(isa, threads).unwrap().shared()))
    };
    available.flat_map(of).chain([("scalar".to_owned(), Cpu::scalar().shared())]).collect()
}

fn sums_are_in_order<T: Number>()
where
    for<'a> SliceMut<'a>: From<&'a mut [T]>,
    for<'a> fallline::core::host::Slice<'a>: From<&'a [T]>,
{
    for (options, host) in hosts() {
        assert!(sums_on::<T>(&host, 300_000, &options) >= 4 * 100);
    }
    for &options in modes() {
        let _turn = mode(options);
        // All three extents at their largest would be 70 thousand million elements; the checks make it some ten times
        // slower.
        let most = if options == MODES[0] { 700_000 } else { 30_000 };
        let done = sums_on::<T>(&cuda(), most, options);
        assert!(done >= 4 * 100, "{done} cases");
        no_fault(options);
    }
}

#[test]
fn sums_in_single_precision_are_in_order() {
    sums_are_in_order::<f32>();
}

#[test]
fn sums_in_double_precision_are_in_order() {
    sums_are_in_order::<f64>();
}

/// Few and many rows and columns, around strips, accumulators and what goes two rows at a time.
const BOTH: [[usize; 3]; 12] = [
    [0, 3, 4],
    [2, 0, 600],
    [3, 5, 9],
    [1, 300, 7],
    [5, 1, 1000],
    [4, 3, 512],
    [2, 257, 513],
    [3, 256, 640],
    [1, 1030, 700],
    [2, 300, 2048],
    [1, 513, 4096],
    [1, 515, 4229],
];

/// Compares sums of matrices of at most so many elements with those of rows and of columns alone; returns how many.
fn both_on<T: Number>(backend: &Arc<dyn Backend>, most: usize, options: &str) -> usize
where
    for<'a> SliceMut<'a>: From<&'a mut [T]>,
    for<'a> fallline::core::host::Slice<'a>: From<&'a [T]>,
{
    let values = numbers::<T>(most + 1);
    let source = Tensor::from_slice(backend, &values[..], [values.len()]).unwrap();
    let fresh = |sums: usize| Tensor::from_slice(backend, &vec![T::of(7.0); sums][..], [sums]).unwrap();
    let bits = |of: &Tensor| of.to_vec::<T>().unwrap().into_iter().map(T::bits).collect::<Vec<_>>();
    let mut done = 0;
    for [matrices, rows, columns] in BOTH.into_iter().filter(|dims| dims.iter().product::<usize>() <= most) {
        for (start, squares) in [(0, false), (1, true)] {
            let from = || View::read(source.storage()).slice(start, matrices * rows * columns);
            let along = |[outer, count, inner]: [usize; 3]| {
                let mut to = fresh(outer * inner);
                let sums = AxisReduction { from: from(), squares, outer, count, inner, to: to.storage_mut() };
                backend.reductions().reduce_axis(sums).unwrap();
                bits(&to)
            };
            let (mut by_row, mut by_column) = (fresh(matrices * rows), fresh(matrices * columns));
            backend
                .reductions()
                .reduce_rows_and_columns(MatrixReduction {
                    from: from(),
                    squares,
                    matrices,
                    rows,
                    columns,
                    by_row: by_row.storage_mut(),
                    by_column: by_column.storage_mut(),
                })
                .unwrap();
            let case = format!("{matrices} {rows} {columns} {start} {squares} {options}");
            assert!(bits(&by_row) == along([matrices * rows, columns, 1]), "rows {case}");
            assert!(bits(&by_column) == along([matrices, rows, columns]), "columns {case}");
            done += 1;
        }
    }
    done
}

#[test]
fn rows_and_columns_at_once_are_rows_and_columns() {
    for (options, host) in hosts() {
        let all = both_on::<f32>(&host, 2_200_000, &options) + both_on::<f64>(&host, 2_200_000, &options);
        assert_eq!(all, 4 * BOTH.len());
    }
    for &options in modes() {
        let _turn = mode(options);
        let most = if options == MODES[0] { 300_000 } else { 10_000 };
        assert!(both_on::<f32>(&cuda(), most, options) + both_on::<f64>(&cuda(), most, options) >= 4 * 6);
        no_fault(options);
    }
}

#[test]
fn rows_and_columns_that_cannot_be_added_up_are_named_and_nothing_written() {
    let _turn = mode(MODES[1]);
    for backend in [best(), cuda()] {
        let elsewhere = if backend.device() == best().device() { cuda() } else { best() };
        let of = |backend: &Arc<dyn Backend>, format, n: usize| {
            let mut tensor = Tensor::zeros(backend, format, [n]).unwrap();
            tensor.write(&vec![7.0f64; n]).unwrap();
            tensor
        };
        let source = of(&backend, Format::F32, 12);
        let (mut rows, mut short) = (of(&backend, Format::F32, 3), of(&backend, Format::F32, 2));
        let (mut wide, mut away) = (of(&backend, Format::F64, 4), of(&elsewhere, Format::F32, 4));
        for (columns, expected) in [
            (&mut short, "reduce_rows_and_columns: the sums of columns has 2 elements, expected 4"),
            (&mut wide, "reduce_rows_and_columns: the sums of columns is stored as f64, expected f32"),
            (&mut away, "reduce_rows_and_columns: the sums"),
        ] {
            let error = backend.reductions().reduce_rows_and_columns(MatrixReduction {
                from: View::read(source.storage()),
                squares: true,
                matrices: 1,
                rows: 3,
                columns: 4,
                by_row: rows.storage_mut(),
                by_column: columns.storage_mut(),
            });
            let error = error.unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
            assert_eq!(rows.to_vec::<f64>().unwrap(), [7.0; 3], "{error}");
        }
    }
    no_fault(MODES[1]);
}

#[test]
fn what_cannot_be_added_up_is_named_and_nothing_written() {
    let _turn = mode(MODES[1]);
    let cuda = Arc::new(Cuda::new(0).unwrap());
    let backend: Arc<dyn Backend> = cuda.clone();
    let of = |format, n: usize| {
        let mut tensor = Tensor::zeros(&backend, format, [n]).unwrap();
        tensor.write(&vec![7.0f64; n]).unwrap();
        tensor
    };
    let (source, half) = (of(Format::F32, 12), of(Format::Bf16, 12));
    let host = Tensor::zeros(&best(), Format::F32, [12]).unwrap();
    let refused = |from: View<'_>, [outer, count, inner]: [usize; 3], mut to: Tensor| {
        let before = to.to_vec::<f64>().unwrap();
        let sums = AxisReduction { from, squares: true, outer, count, inner, to: to.storage_mut() };
        let error = backend.reductions().reduce_axis(sums).unwrap_err().to_string();
        assert_eq!(to.to_vec::<f64>().unwrap(), before, "{error}");
        error
    };
    let read = |tensor| View::read(Tensor::storage(tensor));
    for (error, expected) in [
        (
            refused(read(&source), [2, 3, 3], of(Format::F32, 6)),
            "what is added up has 12 elements, expected 18",
        ),
        (refused(read(&source), [2, 3, 2], of(Format::F32, 3)), "the sums has 3 elements, expected 4"),
        (refused(read(&source), [usize::MAX, 3, 2], of(Format::F32, 4)), "expected 18446744073709551615"),
        (refused(read(&source), [2, 3, 2], of(Format::F64, 4)), "the sums is stored as f64, expected f32"),
        (
            refused(read(&half), [2, 3, 2], of(Format::F32, 4)),
            "what is added up is stored as bf16, expected f32 or f64",
        ),
        (
            refused(read(&source).broadcast(1, 2), [2, 6, 2], of(Format::F32, 4)),
            "what is added up is repeated",
        ),
        (
            refused(read(&host), [2, 3, 2], of(Format::F32, 4)),
            "what is added up on the host is not in memory",
        ),
        (
            refused(read(&source), [2, 3, 2], Tensor::zeros(&best(), Format::F32, [4]).unwrap()),
            "the sums on the host is not in memory",
        ),
    ] {
        assert!(error.starts_with("reduce_axis: ") && error.contains(expected), "{error}");
    }
    let mut to = of(Format::F32, 4);
    let error = cuda.capture(|_| {
        let from = read(&source);
        backend.reductions().reduce_axis(AxisReduction {
            from,
            squares: false,
            outer: 2,
            count: 3,
            inner: 2,
            to: to.storage_mut(),
        })
    });
    let error = error.unwrap_err().to_string();
    assert_eq!(error, "reduce_axis: step these tensors once before they are captured");
    assert_eq!(to.to_vec::<f32>().unwrap(), [7.0; 4]);
}

rule! {
    /// A parameter that moves by its gradient, scaled by the product of two factors.
    pub Scaled(h: (), t) { let lr = 0.1; }
    element(g: Grad, r: State, c: State) -> (p: Param) {
        p = p - lr * (g / ((r * c).abs().sqrt() + L::splat(1.0)));
    }
}

rule! {
    /// As many operands as are taken in two parts, with a sum.
    pub Many(h: (), t) { let lr = 0.1; }
    element(g: Grad, a: State, r: State, c: State) -> (p: Param, m: State, v: State) sum(total) {
        let x = r * c + a;
        m = m + g * x;
        v = v - c * lr;
        p = p - m * r;
        total = x;
    }
}

rule! {
    /// Nothing but repeated operands, and nothing written.
    pub Total(h: (), t) {}
    element(r: State, c: State) -> () sum(total) { total = r * c; }
}

/// Matrices one behind the other, with a factor for each row and each column.
#[derive(Clone, Copy)]
struct Matrices {
    count: usize,
    rows: usize,
    columns: usize,
    /// Elements in front of them.
    start: usize,
    /// Whether factors are repeated, or written out.
    repeated: bool,
}

impl Matrices {
    const fn new(count: usize, rows: usize, columns: usize) -> Matrices {
        Matrices { count, rows, columns, start: 0, repeated: true }
    }

    fn elements(&self) -> usize {
        self.count * self.rows * self.columns
    }

    /// Returns the elements of an operand, how long its runs are, and how often each is there.
    fn factor(&self, operand: &str) -> Option<(usize, usize, usize)> {
        match operand {
            "r" => Some((self.count * self.rows, 1, self.columns)),
            "c" => Some((self.count * self.columns, self.columns, self.rows)),
            _ => None,
        }
    }
}

/// No size is a multiple of a step; whole steps, aligned or not; runs and times of 1.
const MATRICES: [Matrices; 12] = [
    Matrices::new(1, 1, 1),
    Matrices::new(1, 7, 5),
    Matrices::new(3, 5, 9),
    Matrices { start: 1, ..Matrices::new(2, 300, 7) },
    Matrices::new(1, 3, 257),
    Matrices { repeated: false, ..Matrices::new(2, 33, 19) },
    Matrices::new(1, 1, 2049),
    Matrices { start: 3, ..Matrices::new(1, 4099, 1) },
    Matrices::new(4, 64, 64),
    Matrices::new(1, 0, 5),
    Matrices::new(0, 3, 4),
    Matrices::new(70, 3, 3),
];

/// The operands of the matrices' factors and of the rest in their formats.
#[derive(Clone, Copy, Debug)]
struct Stored {
    compute: Compute,
    plain: Format,
    rows: Format,
    columns: Format,
}

/// An operand of some matrices: where it begins, and its run and times where it is repeated.
type Operated = (Tensor, usize, Option<(usize, usize)>);

/// Returns the operands of each of the matrices, with the same numbers for every backend.
fn operands(
    backend: &Arc<dyn Backend>,
    kernel: &Kernel,
    stored: Stored,
    all: &[Matrices],
    write_out: bool,
) -> Vec<Vec<Operated>> {
    let mut random = Random(11);
    let mut operand = |matrices: &Matrices, name: &str| {
        let format = match name {
            "r" => stored.rows,
            "c" => stored.columns,
            _ => stored.plain,
        };
        let (mut values, mut start, mut repeat) = (Vec::new(), matrices.start, None);
        if let Some((len, run, times)) = matrices.factor(name) {
            let factors = random.units(len);
            if write_out || !matrices.repeated {
                values = vec![0.0; start];
                // Each run as often as it is to stand there.
                (0..len.checked_div(run).unwrap_or(0)).for_each(|place| {
                    (0..times).for_each(|_| values.extend(&factors[place * run..][..run]));
                });
            } else {
                (values, start, repeat) = (factors, 0, Some((run, times)));
            }
        } else {
            values.extend(random.units(start + matrices.elements()));
        }
        let mut tensor = Tensor::zeros(backend, format, [values.len()]).unwrap();
        tensor.write(&values).unwrap();
        (tensor, start, repeat)
    };
    let of = |matrices: &Matrices| kernel.operands.iter().map(|o| operand(matrices, o.name)).collect();
    all.iter().map(of).collect()
}

/// Runs one pass, with a step of `lr`.
fn pass(
    backend: &Arc<dyn Backend>,
    plan: &mut Plan,
    kernel: &'static Kernel,
    compute: Compute,
    lr: f64,
    all: &[Matrices],
    operands: &mut [Vec<Operated>],
) -> fallline::core::Result<Vec<f64>> {
    let mut sums = vec![7.0; all.len() * kernel.sums.len()];
    let mut left = all.iter().zip(operands);
    backend.run(Pass {
        kernel,
        compute,
        tensors: &mut |views: &mut Views<'_>| {
            let (matrices, operands) = left.next()?;
            for ((view, operand), (tensor, start, repeat)) in
                views.iter_mut().zip(kernel.operands).zip(operands)
            {
                let whole = match operand.written {
                    true => View::write(tensor.storage_mut()),
                    false => View::read(tensor.storage()),
                };
                let len = whole.len() - *start;
                let part = whole.slice(*start, len);
                *view = Some(match *repeat {
                    Some((run, times)) => part.broadcast(run, times),
                    None => part,
                });
            }
            Some(TensorPass { elements: matrices.elements(), constant_set: 0 })
        },
        constants: &[&[1.0, lr][..=kernel.scalars.len()]].concat(),
        tensor_scalars: &[],
        plan,
        fused: &[],
        sums: &mut sums,
        checked: false,
    })?;
    Ok(sums)
}

/// Returns what the operands are, in bits.
fn stored_bits(operands: &[Vec<Operated>]) -> Vec<Vec<u64>> {
    let written = |(tensor, _, repeat): &Operated| match repeat {
        Some(_) => Vec::new(),
        None => bits(&tensor.to_vec::<f64>().unwrap()),
    };
    operands.iter().flatten().map(written).collect()
}

/// Compares passes over repeated operands with such over the same written out.
fn repeated_on(backend: &Arc<dyn Backend>, all: &[Matrices], options: &str) {
    use Format::{Bf16, F16, F32, F64};
    let of = |compute, plain, rows, columns| Stored { compute, plain, rows, columns };
    let mixes = [
        of(Compute::F32, F32, F32, F32),
        of(Compute::F64, F64, F64, F64),
        of(Compute::F32, Bf16, Bf16, Bf16),
        of(Compute::F32, F32, F16, Bf16),
        of(Compute::F64, F32, F64, F16),
        of(Compute::F32, F16, F64, F32),
    ];
    let kernels = [Native::kernel::<Scaled>(), Native::kernel::<Many>(), Native::kernel::<Total>()];
    for (kernel, stored) in kernels.iter().flat_map(|kernel| mixes.map(|stored| (*kernel, stored))) {
        let run = |backend: &Arc<dyn Backend>, write_out| {
            let mut operands = operands(backend, kernel, stored, all, write_out);
            let mut plan = backend.plan();
            let sums = pass(backend, &mut plan, kernel, stored.compute, 0.1, all, &mut operands);
            (stored_bits(&operands), bits(&sums.unwrap()))
        };
        let ((expected, expected_sums), (got, sums)) = (run(&best(), true), run(backend, false));
        assert_eq!(sums, expected_sums, "{} {stored:?} {options}", kernel.name);
        for (i, (expected, got)) in expected.iter().zip(&got).enumerate() {
            let case = &all[i / kernel.operands.len()];
            let (rows, columns) = (case.rows, case.columns);
            let factor = case.factor(kernel.operands[i % kernel.operands.len()].name).is_some();
            assert!(factor || got == expected, "{} {stored:?} {rows} {columns} {options}", kernel.name);
        }
    }
}

#[test]
fn repeated_operands_are_what_is_written_out() {
    for &options in modes() {
        let _turn = mode(options);
        repeated_on(&cuda(), &MATRICES, options);
        no_fault(options);
    }
}

/// Rows beyond what the CPU takes at a time, and chunks that begin within one.
#[test]
fn repeated_operands_are_what_is_written_out_on_every_instruction_set() {
    let large = [Matrices::new(2, 40, 3001), Matrices::new(1, 5000, 30), Matrices::new(1, 3, 131_072)];
    let all = [&MATRICES[..], &large].concat();
    for (options, host) in hosts() {
        repeated_on(&host, &all, &options);
    }
}

/// Before anything is written: a repeated operand that is to be written, or one of more elements than are counted.
#[test]
fn what_cannot_be_repeated_is_named() {
    let _turn = mode(MODES[1]);
    let backend = cuda();
    let stored =
        Stored { compute: Compute::F32, plain: Format::F32, rows: Format::F32, columns: Format::F32 };
    let matrices = [Matrices::new(1, 4, 2)];
    let refused = |kernel: &'static Kernel, matrices: &[Matrices], operand: usize, repeat| {
        let mut operands = operands(&backend, kernel, stored, &[Matrices::new(1, 1, 1)], false);
        operands[0].iter_mut().for_each(|operand| operand.2 = Some((1, matrices[0].elements())));
        operands[0][operand].2 = Some(repeat);
        let before = stored_bits(&operands);
        let mut plan = backend.plan();
        let refused = pass(&backend, &mut plan, kernel, Compute::F32, 0.1, matrices, &mut operands);
        assert_eq!(stored_bits(&operands), before);
        refused.unwrap_err().to_string()
    };
    let error = refused(Native::kernel::<Scaled>(), &matrices, 0, (1, 8));
    assert_eq!(error, "Scaled: operand p of tensor 0 is not in memory that cuda:0 can reach");
    let error = refused(Native::kernel::<Total>(), &matrices, 1, (1, 7));
    assert_eq!(error, "Total: operand c of tensor 0 has 7 elements, expected 8");
    let many = [Matrices::new(1, 1 << 16, 1 << 16)];
    let error = refused(Native::kernel::<Total>(), &many, 0, (1, 1 << 32));
    assert_eq!(error, "Total: operand r of tensor 0 is repeated in 4294967296 elements, 2^32 or more");
    no_fault(MODES[1]);
}

/// A factor in managed memory is far smaller than the chunks that it is part of: nothing beyond it may be asked for.
#[test]
fn repeated_operands_may_be_in_managed_memory() {
    let kernel = Native::kernel::<Scaled>();
    let stored =
        Stored { compute: Compute::F32, plain: Format::F32, rows: Format::F32, columns: Format::F32 };
    let matrices = [Matrices::new(1, 3, 50_001)];
    for options in ["unchecked,eager,seed=0", "unchecked,lazy,seed=0"] {
        let _turn = mode(options);
        let run = |backend: Arc<dyn Backend>, paged: bool, write_out| {
            let mut operands = operands(&backend, kernel, stored, &matrices, write_out);
            if paged {
                for (tensor, ..) in operands.iter_mut().flatten() {
                    let request = [(Format::F32, tensor.storage().len())];
                    let mut storage = backend
                        .paged_memory()
                        .unwrap()
                        .allocate_paged(&request, &std::env::temp_dir())
                        .unwrap();
                    let mut storage = storage.pop().unwrap();
                    backend.copy(tensor.storage(), &mut storage).unwrap();
                    *tensor = Tensor::from_storage(&backend, storage, [request[0].1]).unwrap();
                }
            }
            let mut plan = backend.plan();
            pass(&backend, &mut plan, kernel, Compute::F32, 0.1, &matrices, &mut operands).unwrap();
            bits(&operands[0][0].0.to_vec::<f64>().unwrap())
        };
        assert!(run(cuda(), true, false) == run(best(), false, true), "{options}");
        no_fault(options);
    }
}

#[test]
fn a_captured_pass_may_have_repeated_operands() {
    let kernel = Native::kernel::<Scaled>();
    let stored =
        Stored { compute: Compute::F32, plain: Format::F32, rows: Format::F32, columns: Format::F32 };
    let matrices = [Matrices::new(2, 30, 17)];
    for &options in modes() {
        let _turn = mode(options);
        let cuda = Arc::new(Cuda::new(0).unwrap());
        let backend: Arc<dyn Backend> = cuda.clone();
        let run = |backend: &Arc<dyn Backend>, operands: &mut [Vec<Operated>], plan: &mut Plan, lr| {
            pass(backend, plan, kernel, Compute::F32, lr, &matrices, operands)
        };
        let host = best();
        let mut expected = operands(&host, kernel, stored, &matrices, true);
        let mut plan = host.plan();
        for lr in [0.1, 0.2, 0.3, 0.4] {
            run(&host, &mut expected, &mut plan, lr).unwrap();
        }
        let mut got = operands(&backend, kernel, stored, &matrices, false);
        let mut plan = backend.plan();
        run(&backend, &mut got, &mut plan, 0.1).unwrap();
        let (mut captured, _) = cuda.capture(|_| run(&backend, &mut got, &mut plan, 0.2)).unwrap();
        for lr in [0.3, 0.4] {
            captured.replay(|| run(&backend, &mut got, &mut plan, lr)).unwrap();
        }
        assert!(stored_bits(&got)[0] == stored_bits(&expected)[0], "{options}");
        // Another repetition is another pass.
        got[0][2].2 = Some((2, 17));
        got[0][2].1 = 0;
        let error = captured.replay(|| run(&backend, &mut got, &mut plan, 0.4)).unwrap_err().to_string();
        assert_eq!(error, "Scaled: this is not the pass that was captured: capture the step again");
    }
}
