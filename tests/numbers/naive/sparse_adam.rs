//! Adam on the rows that have a gradient, as torch 2.15's SparseAdam.

use super::dadapt::coalesced;
use super::{Grad, Reference};
use ndarray::{ArrayD, Axis};

pub struct SparseAdam {
    pub lr: f64,
    pub betas: (f64, f64),
    pub eps: f64,
    pub maximize: bool,
    list: Vec<(i32, ArrayD<f64>, ArrayD<f64>)>,
}

impl SparseAdam {
    pub fn new(lr: f64, betas: (f64, f64), eps: f64, maximize: bool) -> SparseAdam {
        SparseAdam { lr, betas, eps, maximize, list: Vec::new() }
    }
}

impl Reference for SparseAdam {
    fn step(&mut self, params: &mut [ArrayD<f64>], grads: &[Option<Grad>]) {
        if self.list.is_empty() {
            let state = |p: &ArrayD<f64>| (0, ArrayD::zeros(p.shape()), ArrayD::zeros(p.shape()));
            self.list = params.iter().map(state).collect();
        }
        for ((p, grad), (t, m, v)) in params.iter_mut().zip(grads).zip(&mut self.list) {
            let Some(grad) = grad else { continue };
            let Grad::Rows(indices, values) = grad else { panic!("SparseAdam takes no dense gradients") };
            *t += 1;
            let (c1, c2) = (1.0 - self.betas.0.powi(*t), 1.0 - self.betas.1.powi(*t));
            for (row, grad) in coalesced(indices, values) {
                let mut p = p.index_axis_mut(Axis(0), row);
                let mut m = m.index_axis_mut(Axis(0), row);
                let mut v = v.index_axis_mut(Axis(0), row);
                for (((p, m), v), g) in p.iter_mut().zip(m.iter_mut()).zip(v.iter_mut()).zip(&grad) {
                    let g = if self.maximize { -g } else { *g };
                    *m = self.betas.0 * *m + (1.0 - self.betas.0) * g;
                    *v = self.betas.1 * *v + (1.0 - self.betas.1) * g * g;
                    *p -= self.lr * c2.sqrt() / c1 * *m / (v.sqrt() + self.eps);
                }
            }
        }
    }
}
