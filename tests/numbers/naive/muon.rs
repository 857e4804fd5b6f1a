//! Muon (Jordan et al. 2024), as torch 2.15 has it but for its cast to bfloat16.

use super::{Grad, Reference};
use ndarray::{Array2, ArrayD, Ix2};

pub struct Muon {
    pub lr: f64,
    pub weight_decay: f64,
    pub momentum: f64,
    pub nesterov: bool,
    pub coefficients: (f64, f64, f64),
    pub eps: f64,
    pub steps: u64,
    pub adjust: Option<&'static str>,
    list: Vec<Option<Array2<f64>>>,
}

impl Muon {
    #[allow(clippy::too_many_arguments, reason = "the source's")]
    pub fn new(
        lr: f64,
        weight_decay: f64,
        momentum: f64,
        nesterov: bool,
        coefficients: (f64, f64, f64),
        eps: f64,
        steps: u64,
        adjust: Option<&'static str>,
    ) -> Muon {
        Muon { lr, weight_decay, momentum, nesterov, coefficients, eps, steps, adjust, list: Vec::new() }
    }
}

/// Returns the product, element by element.
fn product(a: &Array2<f64>, b: &Array2<f64>) -> Array2<f64> {
    let mut c = Array2::zeros((a.nrows(), b.ncols()));
    for i in 0..a.nrows() {
        for j in 0..b.ncols() {
            for k in 0..a.ncols() {
                c[[i, j]] += a[[i, k]] * b[[k, j]];
            }
        }
    }
    c
}

impl Muon {
    fn orthogonalised(&self, x: &Array2<f64>) -> Array2<f64> {
        let (a, b, c) = self.coefficients;
        let tall = x.nrows() > x.ncols();
        let mut x = if tall { x.t().to_owned() } else { x.clone() };
        let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt().max(self.eps);
        x /= norm;
        for _ in 0..self.steps {
            let gram = product(&x, &x.t().to_owned());
            let polynomial = b * &gram + c * product(&gram, &gram);
            x = a * &x + product(&polynomial, &x);
        }
        if tall { x.t().to_owned() } else { x }
    }
}

impl Reference for Muon {
    fn step(&mut self, params: &mut [ArrayD<f64>], grads: &[Option<Grad>]) {
        self.list.resize(params.len(), None);
        for i in 0..params.len() {
            let Some(grad) = &grads[i] else { continue };
            let g = grad.dense().clone().into_dimensionality::<Ix2>().unwrap();
            let mut buffer = self.list[i].take().unwrap_or_else(|| Array2::zeros(g.dim()));
            for (buffer, g) in buffer.iter_mut().zip(&g) {
                *buffer = self.momentum * *buffer + (1.0 - self.momentum) * g;
            }
            let mut update = buffer.clone();
            if self.nesterov {
                for (u, g) in update.iter_mut().zip(&g) {
                    *u = (1.0 - self.momentum) * g + self.momentum * *u;
                }
            }
            let update = self.orthogonalised(&update);
            let (rows, columns) = (g.nrows() as f64, g.ncols() as f64);
            let ratio = match self.adjust {
                Some("match_rms_adamw") => 0.2 * rows.max(columns).sqrt(),
                Some("spectral_unclamped") => (rows / columns).sqrt(),
                _ => (rows / columns).max(1.0).sqrt(),
            };
            for (p, u) in params[i].iter_mut().zip(&update) {
                *p = *p * (1.0 - self.lr * self.weight_decay) - self.lr * ratio * u;
            }
            self.list[i] = Some(buffer);
        }
    }
}
