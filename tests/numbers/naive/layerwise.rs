//! LAMB, LARS and PytorchLARS as bitsandbytes 0.50.2 has them (its CPU kernels), and DeepSpeed's FusedLamb
//! (csrc/lamb/fused_lamb_cuda_kernel.cu).

use super::{Grad, Reference, norm, zeros_like};
use ndarray::ArrayD;

#[derive(Default)]
struct State {
    t: i32,
    m: Option<ArrayD<f64>>,
    v: Option<ArrayD<f64>>,
}

fn states(list: &mut Vec<State>, count: usize) {
    list.resize_with(count, State::default);
}

/// Returns by what an update is shortened so that its norm is at most `most` times the parameter's.
fn shortened(update: &ArrayD<f64>, param: &ArrayD<f64>, most: f64) -> f64 {
    let (u, p) = (norm(update), norm(param));
    if most > 0.0 && u > most * p { most * p / u } else { 1.0 }
}

pub struct Lamb {
    pub lr: f64,
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
    pub max_unorm: f64,
    list: Vec<State>,
}

impl Lamb {
    pub fn new(lr: f64, betas: (f64, f64), eps: f64, weight_decay: f64, max_unorm: f64) -> Lamb {
        Lamb { lr, betas, eps, weight_decay, max_unorm, list: Vec::new() }
    }
}

impl Reference for Lamb {
    fn step(&mut self, params: &mut [ArrayD<f64>], grads: &[Option<Grad>]) {
        states(&mut self.list, params.len());
        for ((p, grad), state) in params.iter_mut().zip(grads).zip(&mut self.list) {
            let Some(grad) = grad else { continue };
            let g = grad.dense();
            state.t += 1;
            let (c1, c2) = (1.0 - self.betas.0.powi(state.t), (1.0 - self.betas.1.powi(state.t)).sqrt());
            let m = zeros_like(&mut state.m, p);
            let v = zeros_like(&mut state.v, p);
            let mut update = ArrayD::zeros(p.shape());
            for (((m, v), u), g) in m.iter_mut().zip(v.iter_mut()).zip(update.iter_mut()).zip(g) {
                *m = self.betas.0 * *m + (1.0 - self.betas.0) * g;
                *v = self.betas.1 * *v + (1.0 - self.betas.1) * g * g;
                *u = *m / (v.sqrt() + self.eps * c2);
            }
            let step = self.lr * c2 / c1 * shortened(&update, p, self.max_unorm);
            for (p, u) in p.iter_mut().zip(&update) {
                *p = *p * (1.0 - self.lr * self.weight_decay) - step * u;
            }
        }
    }
}

pub struct Lars {
    pub lr: f64,
    pub momentum: f64,
    /// Of `PytorchLARS` alone.
    pub dampening: f64,
    pub nesterov: bool,
    pub weight_decay: f64,
    pub max_unorm: f64,
    list: Vec<State>,
}

impl Lars {
    pub fn new(
        lr: f64,
        momentum: f64,
        dampening: f64,
        nesterov: bool,
        weight_decay: f64,
        max_unorm: f64,
    ) -> Lars {
        Lars { lr, momentum, dampening, nesterov, weight_decay, max_unorm, list: Vec::new() }
    }
}

impl Reference for Lars {
    fn step(&mut self, params: &mut [ArrayD<f64>], grads: &[Option<Grad>]) {
        states(&mut self.list, params.len());
        for ((p, grad), state) in params.iter_mut().zip(grads).zip(&mut self.list) {
            let Some(grad) = grad else { continue };
            let mut update = grad.dense().clone();
            for (g, p) in update.iter_mut().zip(p.iter()) {
                *g += self.weight_decay * p;
            }
            if self.momentum != 0.0 {
                let first = state.m.is_none();
                let buffer = zeros_like(&mut state.m, p);
                for (buffer, g) in buffer.iter_mut().zip(update.iter_mut()) {
                    *buffer = if first { *g } else { self.momentum * *buffer + (1.0 - self.dampening) * *g };
                    *g = if self.nesterov { *g + self.momentum * *buffer } else { *buffer };
                }
            }
            let step = self.lr * shortened(&update, p, self.max_unorm);
            for (p, u) in p.iter_mut().zip(&update) {
                *p -= step * u;
            }
        }
    }
}

pub struct FusedLamb {
    pub lr: f64,
    pub bias_correction: bool,
    pub betas: (f64, f64),
    pub eps: f64,
    pub eps_inside_sqrt: bool,
    pub weight_decay: f64,
    pub max_grad_norm: f64,
    pub max_coeff: f64,
    pub min_coeff: f64,
    list: Vec<State>,
}

impl FusedLamb {
    #[allow(clippy::too_many_arguments, reason = "the source's")]
    pub fn new(
        lr: f64,
        bias_correction: bool,
        betas: (f64, f64),
        eps: f64,
        eps_inside_sqrt: bool,
        weight_decay: f64,
        max_grad_norm: f64,
        (max_coeff, min_coeff): (f64, f64),
    ) -> FusedLamb {
        let list = Vec::new();
        FusedLamb {
            lr,
            bias_correction,
            betas,
            eps,
            eps_inside_sqrt,
            weight_decay,
            max_grad_norm,
            max_coeff,
            min_coeff,
            list,
        }
    }
}

impl Reference for FusedLamb {
    fn step(&mut self, params: &mut [ArrayD<f64>], grads: &[Option<Grad>]) {
        states(&mut self.list, params.len());
        let mut scale = 1.0;
        if self.max_grad_norm > 0.0 {
            let mut squares = 0.0;
            for grad in grads.iter().flatten() {
                squares += norm(grad.dense()).powi(2);
            }
            let clip = (squares.sqrt() + 1e-6) / self.max_grad_norm;
            if clip > 1.0 {
                scale = clip;
            }
        }
        for ((p, grad), state) in params.iter_mut().zip(grads).zip(&mut self.list) {
            let Some(grad) = grad else { continue };
            state.t += 1;
            let m = zeros_like(&mut state.m, p);
            let v = zeros_like(&mut state.v, p);
            let mut update = ArrayD::zeros(p.shape());
            let all = m.iter_mut().zip(v.iter_mut()).zip(update.iter_mut()).zip(grad.dense()).zip(p.iter());
            for ((((m, v), u), g), p) in all {
                let g = g / scale;
                *m = self.betas.0 * *m + (1.0 - self.betas.0) * g;
                *v = self.betas.1 * *v + (1.0 - self.betas.1) * g * g;
                let root = if self.eps_inside_sqrt { (*v + self.eps).sqrt() } else { v.sqrt() + self.eps };
                *u = *m / root + self.weight_decay * p;
            }
            let (w, u) = (norm(p), norm(&update));
            let coeff =
                if w != 0.0 && u != 0.0 { (w / u).min(self.max_coeff).max(self.min_coeff) } else { 1.0 };
            let mut step = self.lr;
            if self.bias_correction {
                step *= (1.0 - self.betas.1.powi(state.t)).sqrt() / (1.0 - self.betas.0.powi(state.t));
            }
            for (p, u) in p.iter_mut().zip(&update) {
                *p -= step * coeff * u;
            }
        }
    }
}
