//! Adafactor (Shazeer & Stern 2018), as transformers 5.23 and as torch 2.15 have it.

use super::{Grad, Reference, norm, zeros_like};
use ndarray::{ArrayD, Axis};

#[derive(Default)]
struct State {
    t: i32,
    row: Option<ArrayD<f64>>,
    column: Option<ArrayD<f64>>,
    v: Option<ArrayD<f64>>,
    m: Option<ArrayD<f64>>,
}

fn rms(array: &ArrayD<f64>) -> f64 {
    norm(array) / (array.len() as f64).sqrt()
}

/// Returns the mean over an axis counted from the last.
fn mean(array: &ArrayD<f64>, from_last: usize) -> ArrayD<f64> {
    array.mean_axis(Axis(array.ndim() - from_last)).unwrap()
}

fn lerp(old: &mut ArrayD<f64>, new: &ArrayD<f64>, weight: f64) {
    for (old, new) in old.iter_mut().zip(new) {
        *old = (1.0 - weight) * *old + weight * new;
    }
}

/// Returns for each element of `like` the row's entry, the column's, and the mean of the rows of its matrix.
fn factors(
    like: &ArrayD<f64>,
    row: &ArrayD<f64>,
    column: &ArrayD<f64>,
    factor: impl Fn(f64, f64, f64) -> f64,
) -> ArrayD<f64> {
    let means = mean(row, 1);
    let mut out = ArrayD::zeros(like.shape());
    for (index, out) in out.indexed_iter_mut() {
        let n = like.ndim();
        let index: Vec<usize> = (0..n).map(|axis| index[axis]).collect();
        let batch = &index[..n - 2];
        let r = row[[batch, &index[n - 2..n - 1]].concat().as_slice()];
        let c = column[[batch, &index[n - 1..]].concat().as_slice()];
        *out = factor(r, c, means[batch]);
    }
    out
}

pub struct Adafactor {
    pub lr: Option<f64>,
    pub eps: (f64, f64),
    pub clip_threshold: f64,
    pub decay_rate: f64,
    pub beta1: Option<f64>,
    pub weight_decay: f64,
    pub scale_parameter: bool,
    pub warmup_init: bool,
    list: Vec<State>,
}

impl Adafactor {
    #[allow(clippy::too_many_arguments, reason = "the source's")]
    pub fn new(
        lr: Option<f64>,
        eps: (f64, f64),
        clip_threshold: f64,
        decay_rate: f64,
        beta1: Option<f64>,
        weight_decay: f64,
        scale_parameter: bool,
        warmup_init: bool,
    ) -> Adafactor {
        let list = Vec::new();
        Adafactor {
            lr,
            eps,
            clip_threshold,
            decay_rate,
            beta1,
            weight_decay,
            scale_parameter,
            warmup_init,
            list,
        }
    }
}

impl Reference for Adafactor {
    fn step(&mut self, params: &mut [ArrayD<f64>], grads: &[Option<Grad>]) {
        self.list.resize_with(params.len(), State::default);
        for ((p, grad), state) in params.iter_mut().zip(grads).zip(&mut self.list) {
            let Some(grad) = grad else { continue };
            let g = grad.dense();
            state.t += 1;
            let t = f64::from(state.t);
            let relative = (if self.warmup_init { 1e-6 * t } else { 1e-2 }).min(1.0 / t.sqrt());
            let mut lr = self.lr.unwrap_or(relative);
            if self.scale_parameter {
                lr *= self.eps.1.max(rms(p));
            }
            let weight = t.powf(self.decay_rate);
            let squares = g.mapv(|g| g * g + self.eps.0);
            let mut update = if g.ndim() >= 2 {
                let (row, column) = (mean(&squares, 1), mean(&squares, 2));
                lerp(zeros_like(&mut state.row, &row), &row, weight);
                lerp(zeros_like(&mut state.column, &column), &column, weight);
                let (row, column) = (state.row.as_ref().unwrap(), state.column.as_ref().unwrap());
                factors(p, row, column, |r, c, mean| 1.0 / (r / mean).sqrt() / c.sqrt()) * g
            } else {
                let v = zeros_like(&mut state.v, p);
                lerp(v, &squares, weight);
                g / v.mapv(f64::sqrt)
            };
            let clip = (rms(&update) / self.clip_threshold).max(1.0);
            update.mapv_inplace(|u| u / clip * lr);
            if let Some(beta1) = self.beta1 {
                let m = zeros_like(&mut state.m, p);
                lerp(m, &update, 1.0 - beta1);
                update = m.clone();
            }
            for (p, u) in p.iter_mut().zip(&update) {
                *p -= self.weight_decay * lr * *p;
                *p -= u;
            }
        }
    }
}

pub struct TorchAdafactor {
    pub lr: f64,
    pub beta2_decay: f64,
    pub eps: (f64, f64),
    pub d: f64,
    pub weight_decay: f64,
    pub maximize: bool,
    list: Vec<State>,
}

impl TorchAdafactor {
    pub fn new(
        lr: f64,
        beta2_decay: f64,
        eps: (f64, f64),
        d: f64,
        weight_decay: f64,
        maximize: bool,
    ) -> TorchAdafactor {
        TorchAdafactor { lr, beta2_decay, eps, d, weight_decay, maximize, list: Vec::new() }
    }
}

impl Reference for TorchAdafactor {
    fn step(&mut self, params: &mut [ArrayD<f64>], grads: &[Option<Grad>]) {
        self.list.resize_with(params.len(), State::default);
        for ((p, grad), state) in params.iter_mut().zip(grads).zip(&mut self.list) {
            let Some(grad) = grad else { continue };
            let g = if self.maximize { -grad.dense() } else { grad.dense().clone() };
            state.t += 1;
            let t = f64::from(state.t);
            let weight = t.powf(self.beta2_decay);
            let alpha = self.eps.1.max(rms(p)) * self.lr.min(1.0 / t.sqrt());
            p.mapv_inplace(|p| p * (1.0 - self.lr * self.weight_decay));
            let squares = g.mapv(|g| g * g);
            let estimate = if g.ndim() > 1 {
                let (row, column) = (mean(&squares, 1), mean(&squares, 2));
                lerp(zeros_like(&mut state.row, &row), &row, weight);
                lerp(zeros_like(&mut state.column, &column), &column, weight);
                let (row, column) = (state.row.as_ref().unwrap(), state.column.as_ref().unwrap());
                factors(p, row, column, |r, c, mean| r * c / mean.max(self.eps.0))
            } else {
                let v = zeros_like(&mut state.v, p);
                lerp(v, &squares, weight);
                v.clone()
            };
            let update = g / estimate.mapv(|v| v.max(self.eps.0 * self.eps.0).sqrt());
            let step = alpha / (rms(&update) / self.d).max(1.0);
            for (p, u) in p.iter_mut().zip(&update) {
                *p -= step * u;
            }
        }
    }
}
