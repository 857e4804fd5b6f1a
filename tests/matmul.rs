//! Matrix products behind the backend: against a naive product in `f64`, and independent of threads.

use fallline::core::backend::{MatMul, Matrix};
use fallline::core::{Backend, Format, Tensor};
use fallline::{Cpu, Isa};
use proptest::prelude::*;
use std::sync::Arc;

/// Numbers between -1 and 1 that depend on nothing but their place.
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
    match format {
        Format::F32 => {
            let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
            Tensor::from_slice(backend, &values, [values.len()]).unwrap()
        }
        _ => Tensor::from_slice(backend, values, [values.len()]).unwrap(),
    }
}

struct Case {
    format: Format,
    extents: (usize, usize, usize),
    transposed: (bool, bool),
    alpha: f64,
    beta: f64,
}

impl Case {
    fn run(&self, backend: &Arc<dyn Backend>) -> Vec<f64> {
        let (m, k, n) = self.extents;
        let a = tensor(backend, self.format, &numbers(1, m * k));
        let b = tensor(backend, self.format, &numbers(2, k * n));
        // With beta 0 the old result is not read: not even a NaN shows.
        let old = if self.beta == 0.0 { vec![f64::NAN; m * n] } else { numbers(3, m * n) };
        let mut c = tensor(backend, self.format, &old);
        // Rows and columns as they are stored.
        let stored = |transposed: bool, rows: usize, columns: usize| {
            if transposed { (columns, rows) } else { (rows, columns) }
        };
        let ((ra, ca), (rb, cb)) = (stored(self.transposed.0, m, k), stored(self.transposed.1, k, n));
        backend
            .matmul(MatMul {
                alpha: self.alpha,
                a: Matrix { transposed: self.transposed.0, ..Matrix::new(a.storage(), ra, ca) },
                b: Matrix { transposed: self.transposed.1, ..Matrix::new(b.storage(), rb, cb) },
                beta: self.beta,
                c: c.storage_mut(),
                c_start: 0,
            })
            .unwrap();
        c.to_vec::<f64>().unwrap()
    }

    /// The product and, for each element, the sum of the magnitudes that went into it.
    fn naive(&self) -> Vec<(f64, f64)> {
        let (m, k, n) = self.extents;
        let round = |values: Vec<f64>| match self.format {
            Format::F32 => values.into_iter().map(|x| f64::from(x as f32)).collect(),
            _ => values,
        };
        let (a, b, c) = (round(numbers(1, m * k)), round(numbers(2, k * n)), round(numbers(3, m * n)));
        let mut out = Vec::new();
        for i in 0..m {
            for j in 0..n {
                let old = if self.beta == 0.0 { 0.0 } else { self.beta * c[i * n + j] };
                let terms = (0..k).map(|p| {
                    let x = if self.transposed.0 { a[p * m + i] } else { a[i * k + p] };
                    let y = if self.transposed.1 { b[j * k + p] } else { b[p * n + j] };
                    self.alpha * x * y
                });
                let (sum, magnitude) = terms.fold((0.0, 0.0), |(s, m): (f64, f64), t| (s + t, m + t.abs()));
                out.push((sum + old, magnitude + old.abs()));
            }
        }
        out
    }
}

fn cpu(threads: usize) -> Arc<dyn Backend> {
    Cpu::with_isa(Isa::best(), threads).unwrap().shared()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn products_are_right_and_independent_of_threads(
        m in 0usize..150, k in 0usize..60, n in 0usize..90,
        transposed in any::<(bool, bool)>(), double in any::<bool>(),
        alpha in prop::sample::select(vec![1.0, -0.5, 2.0]), beta in prop::sample::select(vec![0.0, 1.0, -0.25]),
    ) {
        let format = if double { Format::F64 } else { Format::F32 };
        let case = Case { format, extents: (m, k, n), transposed, alpha, beta };
        let got = case.run(&cpu(1));
        // k products, k additions, the scaling by alpha and beta and the last addition: each rounds by at most
        // half a unit of what was summed up so far, whatever the order.
        let unit = if double { f64::EPSILON } else { f64::from(f32::EPSILON) } / 2.0;
        for (x, (expected, magnitude)) in got.iter().zip(case.naive()) {
            prop_assert!((x - expected).abs() <= (2 * k + 4) as f64 * unit * magnitude * 1.01, "{x} {expected}");
        }
        for threads in [2, 7] {
            let same = case.run(&cpu(threads)).iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits());
            prop_assert!(same, "{threads} threads");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let backend = cpu(1);
    let (a, b) = (tensor(&backend, Format::F32, &[1.0; 6]), tensor(&backend, Format::F32, &[1.0; 6]));
    let double = tensor(&backend, Format::F64, &[1.0; 6]);
    let mut c = tensor(&backend, Format::F32, &[0.0; 4]);
    let mut product = |a: &Tensor, rows: usize, columns: usize| {
        let a = Matrix::new(a.storage(), rows, columns);
        let b = Matrix::new(b.storage(), 3, 2);
        backend.matmul(MatMul { alpha: 1.0, a, b, beta: 0.0, c: c.storage_mut(), c_start: 0 })
    };
    assert!(product(&a, 2, 3).is_ok());
    let error = product(&a, 3, 2).unwrap_err().to_string();
    assert_eq!(error, "matmul: the right factor's extent along the product has 3 elements, expected 2");
    let error = product(&a, 4, 3).unwrap_err().to_string();
    assert_eq!(error, "matmul: the left factor has 6 elements, expected 12");
    let error = product(&double, 2, 3).unwrap_err().to_string();
    assert!(error.contains("f32 or f64 throughout"), "{error}");
    assert_eq!(c.to_vec::<f64>().unwrap(), [3.0; 4]);
}
