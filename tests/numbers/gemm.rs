//! Matrix products behind the backend: against a naive product in `f64`, and the same bits on every instruction set and
//! number of threads.

use fallline::core::backend::{Gemm, Matrix};
use fallline::core::{Backend, Format, Tensor, bf16, f16};
use fallline::{Cpu, Isa};
use proptest::prelude::*;
use std::sync::Arc;

/// Returns numbers between -1 and 1 that depend on nothing but their place.
fn numbers(seed: u64, count: usize) -> Vec<f64> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn tensor(backend: &Arc<dyn Backend>, format: Format, values: &[f64]) -> Tensor {
    let mut tensor = Tensor::zeros(backend, format, [values.len()]).unwrap();
    backend.write(tensor.storage_mut(), values.into()).unwrap();
    tensor
}

/// Returns numbers as a format stores them.
fn rounded(format: Format, values: Vec<f64>) -> Vec<f64> {
    let round = |x: f64| match format {
        Format::F64 => x,
        Format::F32 => f64::from(x as f32),
        Format::Bf16 => bf16::from_f64(x).to_f64(),
        _ => f16::from_f64(x).to_f64(),
    };
    values.into_iter().map(round).collect()
}

/// Elements in front of each matrix, so that where one starts counts.
const OFFSET: usize = 3;

#[derive(Clone, Debug)]
struct Case {
    format: Format,
    dims: (usize, usize, usize),
    transposed: (bool, bool),
    alpha: f64,
    beta: f64,
    /// Whether another matrix is added, instead of the old result.
    adds: bool,
    /// The product of the left factor with its transpose, in place of another right factor.
    own_transpose: bool,
    /// Whether that is said to be symmetric.
    symmetric: bool,
}

impl Case {
    /// Returns a, b, what is added, and the old result, each behind its offset.
    fn operands(&self) -> [Vec<f64>; 4] {
        let (m, k, n) = self.dims;
        let sizes = [(1, m * k), (2, k * n), (3, m * n), (4, m * n)];
        let mut operands = sizes.map(|(seed, count)| rounded(self.format, numbers(seed, OFFSET + count)));
        if self.own_transpose {
            // What is added must be symmetric as well.
            for operand in &mut operands[2..] {
                for (i, j) in (0..m).flat_map(|i| (0..i).map(move |j| (i, j))) {
                    operand[OFFSET + j * n + i] = operand[OFFSET + i * n + j];
                }
            }
        }
        // With beta 0 nothing is read of it: not even a NaN shows.
        if self.beta == 0.0 {
            operands[2..].iter_mut().for_each(|operand| operand[OFFSET..].fill(f64::NAN));
        } else if self.adds {
            operands[3][OFFSET..].fill(f64::NAN);
        }
        operands
    }

    fn run_on(&self, backend: &Arc<dyn Backend>, [a, b, d, old]: &[Vec<f64>; 4]) -> Vec<f64> {
        let (m, k, n) = self.dims;
        let [a, b, d, mut c] = [a, b, d, old].map(|values| tensor(backend, self.format, values));
        // Rows and columns as they are stored.
        let matrix = |tensor, (rows, columns), transposed| match transposed {
            true => Matrix::new(tensor, columns, rows).transpose().at(OFFSET),
            false => Matrix::new(tensor, rows, columns).at(OFFSET),
        };
        let a = matrix(a.storage(), (m, k), self.transposed.0);
        let b = match self.own_transpose {
            true => a.transpose(),
            false => matrix(b.storage(), (k, n), self.transposed.1),
        };
        let add = self.adds.then(|| matrix(d.storage(), (m, n), false));
        let &Case { alpha, beta, symmetric, .. } = self;
        let c_storage = c.storage_mut();
        backend
            .linalg()
            .gemm(Gemm { alpha, a, b, beta, c_in: add, c: c_storage, c_start: OFFSET, symmetric })
            .unwrap();
        let c = c.to_vec::<f64>().unwrap();
        assert!(c[..OFFSET].iter().zip(old).all(|(now, old)| now.to_bits() == old.to_bits()));
        c[OFFSET..].to_vec()
    }

    fn run(&self, backend: &Arc<dyn Backend>) -> Vec<f64> {
        self.run_on(backend, &self.operands())
    }

    /// Returns the product and, for each element, the sum of the magnitudes that went into it.
    fn naive(&self, [a, b, d, old]: &[Vec<f64>; 4]) -> Vec<(f64, f64)> {
        let (m, k, n) = self.dims;
        let [a, b, d, old] = [a, b, d, old].map(|values| &values[OFFSET..]);
        let left = |i: usize, p: usize| if self.transposed.0 { a[p * m + i] } else { a[i * k + p] };
        let right = |p: usize, j: usize| match (self.own_transpose, self.transposed.1) {
            (true, _) => left(j, p),
            (false, true) => b[j * k + p],
            (false, false) => b[p * n + j],
        };
        let mut out = Vec::new();
        for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let added = if self.adds { d } else { old };
            let old = if self.beta == 0.0 { 0.0 } else { self.beta * added[i * n + j] };
            let terms = (0..k).map(|p| self.alpha * left(i, p) * right(p, j));
            let (sum, magnitude) = terms.fold((0.0, 0.0), |(s, m): (f64, f64), t| (s + t, m + t.abs()));
            out.push((sum + old, magnitude + old.abs()));
        }
        out
    }

    /// Returns how far each element may be off, and what is right.
    fn bounds(&self, operands: &[Vec<f64>; 4]) -> Vec<(f64, f64)> {
        // k products, k additions, the scaling by alpha and beta and the last addition: each rounds by at most half a
        // unit of what was summed up so far, whatever the order. 16-bit results are rounded once more, below 2⁻¹⁴ (f16)
        // by up to half the smallest number, 2⁻²⁵.
        let (unit, last) = match self.format {
            Format::F64 => (f64::EPSILON / 2.0, 0.0),
            Format::F32 => (f64::from(f32::EPSILON) / 2.0, 0.0),
            Format::Bf16 => (f64::from(f32::EPSILON) / 2.0, 0.5f64.powi(8)),
            _ => (f64::from(f32::EPSILON) / 2.0, 0.5f64.powi(11)),
        };
        let of = |(expected, magnitude): (f64, f64)| {
            let error = (2 * self.dims.1 + 4) as f64 * unit * magnitude * 1.01;
            let smallest = if last > 0.0 { 0.5f64.powi(25) } else { 0.0 };
            (error + last * (expected.abs() + error) * 1.01 + smallest, expected)
        };
        self.naive(operands).into_iter().map(of).collect()
    }

    /// Compares with the naive product, and instruction sets and threads with each other.
    fn check(&self) -> Result<(), TestCaseError> {
        let (operands, reference) = (self.operands(), self.run(&cpu(Isa::Scalar, 1)));
        let bounds = self.bounds(&operands);
        let close = |isa: Isa, got: &[f64]| {
            for (i, (x, (error, expected))) in got.iter().zip(&bounds).enumerate() {
                prop_assert!((x - expected).abs() <= *error, "{isa} {i}: {x} {expected} {self:?}");
            }
            Ok(())
        };
        close(Isa::Scalar, &reference)?;
        if self.symmetric {
            let m = self.dims.0;
            let mirrored =
                (0..m * m).all(|at| bits_of(reference[at]) == bits_of(reference[at % m * m + at / m]));
            prop_assert!(mirrored, "not bitwise symmetric: {self:?}");
        }
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            // Scalar and SSE2 have one kernel: each has half of the threads.
            let threads = match isa {
                Isa::Scalar => &[7][..],
                Isa::Baseline => &[2],
                _ => &[1, 2, 7],
            };
            let runs: Vec<_> =
                threads.iter().map(|&threads| self.run_on(&cpu(isa, threads), &operands)).collect();
            // A unit of its own, where the processor has it.
            let expected =
                if self.format == Format::Bf16 && isa == Isa::Avx512 { &runs[0] } else { &reference };
            close(isa, &runs[0])?;
            for (got, threads) in runs.iter().zip(threads) {
                let differs = (0..got.len()).find(|&at| bits_of(got[at]) != bits_of(expected[at]));
                prop_assert!(differs.is_none(), "{isa}, {threads} threads: element {differs:?} of {self:?}");
            }
        }
        Ok(())
    }
}

/// Returns a number's bits, with every NaN the same.
fn bits_of(x: f64) -> u64 {
    if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() }
}

fn cpu(isa: Isa, threads: usize) -> Arc<dyn Backend> {
    Cpu::with_isa(isa, threads).unwrap().shared()
}

const FORMATS: [Format; 4] = [Format::F64, Format::F32, Format::Bf16, Format::F16];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn products_are_right_and_the_same_everywhere(
        (m, k, n) in (0usize..150, 0usize..60, 0usize..90), thin in 0..8,
        transposed in any::<(bool, bool)>(), format in prop::sample::select(&FORMATS),
        alpha in prop::sample::select(vec![1.0, -0.5, 2.0]), beta in prop::sample::select(vec![0.0, 1.0, -0.25]),
        adds in any::<bool>(), own_transpose in any::<bool>(), symmetric in any::<bool>(),
    ) {
        // Vectors too: each extent is 1 in an eighth of the cases.
        let (m, k, n) = match thin { 0 => (1, k, n), 1 => (m, 1, n), 2 => (m, k, 1), _ => (m, k, n) };
        let n = if own_transpose { m } else { n };
        let symmetric = symmetric && own_transpose;
        let dims = (m, k, n);
        Case { format, dims, transposed, alpha, beta, adds, own_transpose, symmetric }.check()?;
    }
}

/// The smallest product, rounded to 16 bits once it is scaled and added to what is there.
#[test]
fn a_product_of_single_numbers_is_right() {
    for format in FORMATS {
        let (dims, transposed) = ((1, 1, 1), (false, false));
        let (alpha, beta, adds, own_transpose, symmetric) = (2.0, -0.25, false, false, false);
        Case { format, dims, transposed, alpha, beta, adds, own_transpose, symmetric }.check().unwrap();
    }
}

/// Extents that take several blocks, several visits to each, and threads.
#[test]
fn large_products_are_right_and_the_same_everywhere() {
    // Emulated arithmetic is slow in a debug build.
    let shapes =
        [(110, 70, 101), (49, 1100, 26), (33, 90, 200), (1, 3000, 700), (700, 3000, 1), (900, 1, 1200)];
    for (number, dims) in shapes.into_iter().enumerate() {
        for format in FORMATS {
            let transposed = (number % 2 == 1, number % 3 == 1);
            let (alpha, beta, adds) = (0.5, if number % 2 == 0 { 0.0 } else { -1.5 }, number % 4 == 1);
            let case = |dims, own| Case {
                format,
                dims,
                transposed,
                alpha,
                beta,
                adds,
                own_transpose: own,
                symmetric: own,
            };
            case(dims, false).check().unwrap();
            let (m, k, _) = dims;
            case((m.min(60), k.min(700), m.min(60)), true).check().unwrap();
        }
    }
}

/// Numbers from the whole range of their type: sums overflow, lose all of their digits, and come to zeros of both signs.
#[test]
fn the_ends_of_the_range_are_the_same_everywhere() {
    for (format, most) in [(Format::F32, 128), (Format::F64, 1024)] {
        let (m, k, n) = (27, 70, 31);
        let case = Case {
            format,
            dims: (m, k, n),
            transposed: (false, true),
            alpha: 1.0,
            beta: 0.0,
            adds: false,
            own_transpose: false,
            symmetric: false,
        };
        let mut operands = case.operands();
        for (side, operand) in operands[..2].iter_mut().enumerate() {
            let exponents = numbers(7 + side as u64, operand.len());
            for (i, x) in operand.iter_mut().enumerate() {
                // A row of the left factor and one of the right one together decide on what comes out.
                let row = (i.max(OFFSET) - OFFSET) / k;
                let middle = f64::from(most) * ((row % 9) as f64 / 8.0 - 0.5);
                let zero = i % 13 == row % 13;
                // Row 3 is of zeros, row 5 of the largest numbers on the left and of ones on the right, and row 7 of an
                // infinity on the left.
                if row == 5 || (row == 7 && side == 0) {
                    *x = match (side, row) {
                        (0, 5) => f64::from(most - 1).exp2(),
                        (0, _) => f64::INFINITY,
                        _ => 1.0,
                    };
                    continue;
                }
                *x *= if zero || row == 3 {
                    -0.0
                } else {
                    (middle + 30.0 * exponents[i]).clamp(-1080.0, 1023.0).exp2()
                };
            }
            *operand = rounded(format, std::mem::take(operand));
        }
        let reference = case.run_on(&cpu(Isa::Scalar, 1), &operands);
        // Element by element, by the processor or the system's library.
        let (a, b) = (&operands[0][OFFSET..], &operands[1][OFFSET..]);
        let kinds: [fn(f64) -> bool; 4] = [f64::is_nan, f64::is_infinite, |x| x == 0.0, |x| x.abs() > 0.0];
        let counts = kinds.map(|kind| reference.iter().filter(|x| kind(**x)).count());
        assert!(counts.iter().all(|&count| count > 0), "{format}: {counts:?}");
        for (at, got) in reference.iter().enumerate() {
            let terms = (0..k).map(|p| (a[at / n * k + p], b[at % n * k + p]));
            let expected = match format {
                Format::F32 => f64::from(terms.fold(0.0f32, |s, (x, y)| (x as f32).mul_add(y as f32, s))),
                _ => terms.fold(0.0f64, |s, (x, y)| x.mul_add(y, s)),
            };
            assert_eq!(bits_of(*got), bits_of(expected), "{format} {at}: {got:e} {expected:e}");
        }
        for isa in Isa::ALL.into_iter().filter(|isa| isa.available()) {
            let got = case.run_on(&cpu(isa, 2), &operands);
            let same = got.iter().zip(&reference).all(|(x, y)| bits_of(*x) == bits_of(*y));
            assert!(same, "{format} on {isa}");
        }
    }
}

/// A NaN or an infinity reaches the row and the column that it takes part in. It reaches nothing else, not even
/// through the padding of packed factors.
#[test]
fn what_is_not_finite_stays_in_its_row_and_column() {
    for (isa, format) in Isa::ALL.into_iter().flat_map(|isa| FORMATS.map(|format| (isa, format))) {
        if !isa.available() {
            continue;
        }
        for symmetric in [false, true] {
            let case = Case {
                format,
                dims: (61, 35, 61),
                transposed: (false, false),
                alpha: 1.0,
                beta: 0.0,
                adds: false,
                own_transpose: symmetric,
                symmetric,
            };
            let clean = case.run(&cpu(isa, 2));
            for special in [f64::NAN, f64::INFINITY] {
                let mut operands = case.operands();
                let (row, along) = (58, 34);
                operands[0][OFFSET + row * 35 + along] = special;
                let got = case.run_on(&cpu(isa, 2), &operands);
                for (at, (x, clean)) in got.iter().zip(&clean).enumerate() {
                    let met = at / 61 == row || (symmetric && at % 61 == row);
                    assert_eq!(!x.is_finite(), met, "{isa} {format} {special} {at}");
                    assert!(met || x.to_bits() == clean.to_bits(), "{isa} {format} {at}");
                }
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let backend = cpu(Isa::best(), 1);
    let (a, b) = (tensor(&backend, Format::F32, &[1.0; 6]), tensor(&backend, Format::F32, &[1.0; 6]));
    let double = tensor(&backend, Format::F64, &[1.0; 6]);
    let mut c = tensor(&backend, Format::F32, &[0.0; 4]);
    let mut product = |a: &Tensor, rows: usize, columns: usize| {
        let a = Matrix::new(a.storage(), rows, columns);
        let b = Matrix::new(b.storage(), 3, 2);
        backend.linalg().gemm(Gemm::new(a, b, c.storage_mut()))
    };
    assert!(product(&a, 2, 3).is_ok());
    let error = product(&a, 3, 2).unwrap_err().to_string();
    assert_eq!(error, "gemm: the right factor's extent along the product has 3 elements, expected 2");
    let error = product(&a, 4, 3).unwrap_err().to_string();
    assert_eq!(error, "gemm: the left factor has 6 elements, expected 12");
    let error = product(&double, 2, 3).unwrap_err().to_string();
    assert_eq!(error, "gemm: the left factor is stored as f64, expected f32");
    let (a, b) = (Matrix::new(a.storage(), 2, 3), Matrix::new(b.storage(), 3, 2));
    let mut with = |beta: f64, add| {
        let product = Gemm { beta, c_in: Some(add), ..Gemm::new(a, b, c.storage_mut()) };
        backend.linalg().gemm(product).map_err(|error| error.to_string())
    };
    let error = with(0.0, Matrix::new(a.storage, 3, 2)).unwrap_err();
    assert_eq!(error, "gemm: what is added has 6 elements, expected 4");
    let error = with(0.0, Matrix::new(a.storage, 2, 2).at(3)).unwrap_err();
    assert_eq!(error, "gemm: what is added has 6 elements, expected 7");
    let error = with(1.0, Matrix::new(double.storage(), 2, 2)).unwrap_err();
    assert_eq!(error, "gemm: what is added is stored as f64, expected f32");
    let uneven = Matrix::new(b.storage, 3, 1);
    let error =
        backend.linalg().gemm(Gemm { symmetric: true, ..Gemm::new(a, uneven, c.storage_mut()) }).unwrap_err();
    assert_eq!(error.to_string(), "gemm: the symmetric result's row has 1 elements, expected 2");
    assert_eq!(c.to_vec::<f64>().unwrap(), [3.0; 4]);
}
