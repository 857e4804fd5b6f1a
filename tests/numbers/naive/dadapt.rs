//! D-Adaptation (Defazio & Mishchenko 2023), as dadaptation 3.2 has it.

use super::{Grad, Reference, zeros_like};
use ndarray::{ArrayD, Axis};

#[derive(Default)]
struct State {
    m: Option<ArrayD<f64>>,
    v: Option<ArrayD<f64>>,
    s: Option<ArrayD<f64>>,
    x0: Option<ArrayD<f64>>,
}

pub struct Adam {
    pub lr: f64,
    pub betas: (f64, f64),
    pub eps: f64,
    pub weight_decay: f64,
    pub decouple: bool,
    pub use_bias_correction: bool,
    pub d: f64,
    pub growth_rate: f64,
    k: i32,
    numerator: f64,
    list: Vec<State>,
}

impl Adam {
    #[allow(clippy::too_many_arguments, reason = "the source's")]
    pub fn new(
        lr: f64,
        betas: (f64, f64),
        eps: f64,
        weight_decay: f64,
        decouple: bool,
        use_bias_correction: bool,
        d: f64,
        growth_rate: f64,
    ) -> Adam {
        let (k, numerator, list) = (0, 0.0, Vec::new());
        Adam {
            lr,
            betas,
            eps,
            weight_decay,
            decouple,
            use_bias_correction,
            d,
            growth_rate,
            k,
            numerator,
            list,
        }
    }
}

impl Reference for Adam {
    fn step(&mut self, params: &mut [ArrayD<f64>], grads: &[Option<Grad>]) {
        self.list.resize_with(params.len(), State::default);
        let (beta1, beta2) = self.betas;
        let t = self.k + 1;
        let correction =
            if self.use_bias_correction { (1.0 - beta2.powi(t)).sqrt() / (1.0 - beta1.powi(t)) } else { 1.0 };
        let dlr = self.d * self.lr * correction;
        let root = beta2.sqrt();
        let (mut numerator, mut length) = (0.0, 0.0);
        for ((p, grad), state) in params.iter().zip(grads).zip(&mut self.list) {
            let Some(grad) = grad else { continue };
            let m = zeros_like(&mut state.m, p);
            let v = zeros_like(&mut state.v, p);
            let s = zeros_like(&mut state.s, p);
            for ((((m, v), s), g), p) in
                m.iter_mut().zip(v.iter_mut()).zip(s.iter_mut()).zip(grad.dense()).zip(p)
            {
                let g = if self.decouple { *g } else { g + self.weight_decay * p };
                numerator += dlr * g * *s / (v.sqrt() + self.eps);
                *m = beta1 * *m + dlr * (1.0 - beta1) * g;
                *v = beta2 * *v + (1.0 - beta2) * g * g;
                *s = root * *s + dlr * (1.0 - root) * g;
                length += s.abs();
            }
        }
        if length == 0.0 {
            return;
        }
        self.numerator = root * self.numerator + (1.0 - root) * numerator;
        if self.lr > 0.0 {
            let estimate = self.numerator / ((1.0 - root) * length);
            self.d = self.d.max(estimate.min(self.d * self.growth_rate));
        }
        self.k += 1;
        for ((p, grad), state) in params.iter_mut().zip(grads).zip(&mut self.list) {
            if grad.is_none() {
                continue;
            }
            let (m, v) = (state.m.as_ref().unwrap(), state.v.as_ref().unwrap());
            for ((p, m), v) in p.iter_mut().zip(m).zip(v) {
                if self.decouple {
                    *p -= *p * self.weight_decay * dlr;
                }
                *p -= m / (v.sqrt() + self.eps);
            }
        }
    }
}

pub struct Sgd {
    pub lr: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    pub d: f64,
    pub growth_rate: f64,
    first_norm: Option<f64>,
    numerator: f64,
    list: Vec<State>,
}

impl Sgd {
    pub fn new(lr: f64, momentum: f64, weight_decay: f64, d: f64, growth_rate: f64) -> Sgd {
        let (first_norm, numerator, list) = (None, 0.0, Vec::new());
        Sgd { lr, momentum, weight_decay, d, growth_rate, first_norm, numerator, list }
    }
}

impl Reference for Sgd {
    fn step(&mut self, params: &mut [ArrayD<f64>], grads: &[Option<Grad>]) {
        self.list.resize_with(params.len(), State::default);
        // dadaptation divides by the norm of all gradients, which is 0 without any.
        if grads.iter().all(Option::is_none) {
            return;
        }
        let mut squares = 0.0;
        for g in grads.iter().flatten().flat_map(Grad::dense) {
            squares += g * g;
        }
        // The first gradients without decay: dadaptation computes it and throws it away.
        let first_norm = *self.first_norm.get_or_insert(squares.sqrt());
        let dlr = self.d * self.lr / first_norm;
        let mut s2 = 0.0;
        for ((p, grad), state) in params.iter().zip(grads).zip(&mut self.list) {
            let Some(grad) = grad else { continue };
            state.x0.get_or_insert_with(|| p.clone());
            let s = zeros_like(&mut state.s, p);
            for ((s, g), p) in s.iter_mut().zip(grad.dense()).zip(p) {
                let g = g + self.weight_decay * p;
                self.numerator += dlr * g * *s;
                *s += dlr * g;
                s2 += *s * *s;
            }
        }
        let estimate = 2.0 * self.numerator / s2.sqrt();
        self.d = self.d.max(estimate.min(self.d * self.growth_rate));
        for ((p, grad), state) in params.iter_mut().zip(grads).zip(&mut self.list) {
            if grad.is_none() {
                continue;
            }
            let (x0, s) = (state.x0.as_ref().unwrap(), state.s.as_ref().unwrap());
            for ((p, x0), s) in p.iter_mut().zip(x0).zip(s) {
                *p = self.momentum * *p + (1.0 - self.momentum) * (x0 - s);
            }
        }
    }
}

/// Here with dadaptation's own state for row-sparse gradients, `weighted_sk`.
pub struct AdaGrad {
    pub lr: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    pub eps: f64,
    pub d: f64,
    pub growth_rate: f64,
    gsq_weighted: f64,
    sksq_weighted: f64,
    skl1: f64,
    list: Vec<AdaGradState>,
}

struct AdaGradState {
    alphak: ArrayD<f64>,
    sk: ArrayD<f64>,
    x0: ArrayD<f64>,
    weighted_sk: ArrayD<f64>,
}

impl AdaGrad {
    pub fn new(lr: f64, momentum: f64, weight_decay: f64, eps: f64, d: f64, growth_rate: f64) -> AdaGrad {
        let (gsq_weighted, sksq_weighted, skl1, list) = (0.0, 0.0, 0.0, Vec::new());
        AdaGrad { lr, momentum, weight_decay, eps, d, growth_rate, gsq_weighted, sksq_weighted, skl1, list }
    }
}

/// Returns the rows of a gradient, each once, repeated ones added up in their order.
pub fn coalesced(indices: &[i64], values: &ArrayD<f64>) -> Vec<(usize, ArrayD<f64>)> {
    let mut rows: Vec<(usize, ArrayD<f64>)> = Vec::new();
    for (i, &index) in indices.iter().enumerate() {
        let value = values.index_axis(Axis(0), i).to_owned();
        match rows.iter_mut().find(|(row, _)| *row == index as usize) {
            Some((_, sum)) => *sum += &value,
            None => rows.push((index as usize, value)),
        }
    }
    rows.sort_by_key(|(row, _)| *row);
    rows
}

impl Reference for AdaGrad {
    fn step(&mut self, params: &mut [ArrayD<f64>], grads: &[Option<Grad>]) {
        if self.list.is_empty() {
            let state = |p: &ArrayD<f64>| AdaGradState {
                alphak: ArrayD::from_elem(p.shape(), 1e-6),
                sk: ArrayD::zeros(p.shape()),
                x0: p.clone(),
                weighted_sk: ArrayD::zeros(p.shape()),
            };
            self.list = params.iter().map(state).collect();
        }
        let dlr = self.d * self.lr;
        let (mut g_sq, mut s2_change, mut l1_change) = (0.0, 0.0, 0.0);
        for ((p, grad), state) in params.iter().zip(grads).zip(&mut self.list) {
            match grad {
                None => {}
                Some(Grad::Dense(grad)) => {
                    let all = state.alphak.iter_mut().zip(state.sk.iter_mut()).zip(grad).zip(p);
                    for (((alphak, sk), g), p) in all {
                        let g = g + self.weight_decay * p;
                        s2_change -= *sk * *sk / (alphak.sqrt() + self.eps);
                        l1_change -= sk.abs();
                        *alphak += g * g;
                        g_sq += g * g / (alphak.sqrt() + self.eps);
                        *sk += dlr * g;
                        s2_change += *sk * *sk / (alphak.sqrt() + self.eps);
                        l1_change += sk.abs();
                    }
                }
                Some(Grad::Rows(indices, values)) => {
                    for (row, grad) in coalesced(indices, values) {
                        let mut alphak = state.alphak.index_axis_mut(Axis(0), row);
                        let mut sk = state.sk.index_axis_mut(Axis(0), row);
                        let mut weighted = state.weighted_sk.index_axis_mut(Axis(0), row);
                        let all = alphak.iter_mut().zip(sk.iter_mut()).zip(weighted.iter_mut()).zip(&grad);
                        for (((alphak, sk), weighted), g) in all {
                            l1_change -= sk.abs();
                            *sk += dlr * g;
                            *alphak += g * g;
                            let denominator = (*alphak + self.eps).sqrt();
                            g_sq += g * g / denominator;
                            let new = *sk * *sk / denominator;
                            s2_change += new - *weighted;
                            *weighted = new;
                            l1_change += sk.abs();
                        }
                    }
                }
            }
        }
        self.sksq_weighted += s2_change;
        self.skl1 += l1_change;
        if self.skl1 == 0.0 {
            return;
        }
        self.gsq_weighted += dlr * dlr * g_sq;
        let estimate = (self.sksq_weighted - self.gsq_weighted) / self.skl1;
        self.d = self.d.max(estimate.min(self.d * self.growth_rate));
        for ((p, grad), state) in params.iter_mut().zip(grads).zip(&self.list) {
            match grad {
                None => {}
                Some(Grad::Dense(_)) => {
                    for (((p, x0), sk), alphak) in
                        p.iter_mut().zip(&state.x0).zip(&state.sk).zip(&state.alphak)
                    {
                        let z = x0 - sk / (alphak.sqrt() + self.eps);
                        *p = self.momentum * *p + (1.0 - self.momentum) * z;
                    }
                }
                Some(Grad::Rows(indices, values)) => {
                    for (row, _) in coalesced(indices, values) {
                        let at = |array: &ArrayD<f64>| array.index_axis(Axis(0), row).to_owned();
                        let (x0, sk, alphak) = (at(&state.x0), at(&state.sk), at(&state.alphak));
                        let mut p = p.index_axis_mut(Axis(0), row);
                        for (((p, x0), sk), alphak) in p.iter_mut().zip(&x0).zip(&sk).zip(&alphak) {
                            *p = x0 - sk / (alphak + self.eps).sqrt();
                        }
                    }
                }
            }
        }
    }
}
