//! AdamW: Adam with weight decay taken from the parameter, not from the gradient.

use super::prelude::*;
use crate::algorithms::adam::SPARSE_ADAM_DOES;

hyperparameters! {
    /// AdamW: Adam with weight decay taken from the parameter, not from the gradient.
    ///
    /// ```text
    /// mₜ = β₁ mₜ₋₁ + (1 − β₁) g
    /// vₜ = β₂ vₜ₋₁ + (1 − β₂) g²
    /// θₜ = (1 − γλ) θₜ₋₁ − γ / (1 − β₁ᵗ) · mₜ / (√vₜ / √(1 − β₂ᵗ) + ε)
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ε = `eps`, λ = `weight_decay`. With `amsgrad` the root is taken of the
    /// largest `v` so far. State: 8 bytes a parameter in `f32` (`m`, `v`), 12 with `amsgrad` (`v_max`).
    ///
    /// ```
    /// # use fallline_optim::{Linked, algorithms::AdamW};
    /// let algorithm = AdamW { lr: 3e-4, weight_decay: 0.1, ..AdamW::default() };
    /// ```
    pub AdamW as "AdamW" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Decay rates β₁, β₂ of the running averages of the gradient and of its square.
        betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// Decoupled weight decay λ, multiplied by `lr`.
        weight_decay: f64 = 1e-2, Range::AtLeast(0.0);
        /// Divide by the largest second moment so far.
        amsgrad: bool = false, Range::Any;
        /// Maximize the objective.
        maximize: bool = false, Range::Any;
    }
    accepted { foreach: Option<bool>, capturable: bool, differentiable: bool, fused: Option<bool> }
}

rule! {
    /// One step of [`AdamW`].
    pub AdamWRule(h: AdamW, t) {
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let eps = h.eps;
        let keep = 1.0 - h.lr * h.weight_decay;
        let alpha = h.lr / (1.0 - pow(h.betas.0, t));
        let root = 1.0 / sqrt(1.0 - pow(h.betas.1, t));
    }
    element(g: Grad) -> (p: Param, m: State, v: State) {
        m = beta1 * m + one_minus_beta1 * g;
        v = beta2 * v + one_minus_beta2 * g * g;
        p = keep * p - alpha * m / (v.sqrt() * root + eps);
    }
    or
    /// One step of [`AdamW`] with `amsgrad`.
    pub AdamWMaxRule
    element(g: Grad) -> (p: Param, m: State, v: State, v_max: State) {
        m = beta1 * m + one_minus_beta1 * g;
        v = beta2 * v + one_minus_beta2 * g * g;
        v_max = v_max.max(v);
        p = keep * p - alpha * m / (v_max.sqrt() * root + eps);
    }
}

impl Algorithm for AdamW {
    const INFO: Info = Info {
        summary: "Adam with weight decay taken from the parameter, not from the gradient.",
        family: "adaptive",
        source: "torch.optim",
        differences: "The paper scales the decay by the schedule alone; torch, followed here, by lr.",
        references: &[
            papers::ADAMW,
            papers::ADAM,
            papers::AMSGRAD,
            Reference::new("torch.optim.AdamW", "torch 2.15.0"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v"), State::new("v_max").non_negative()];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(if self.amsgrad { on.pass::<AdamWMaxRule>() } else { on.pass::<AdamWRule>() })
    }

    fn sparse(&self) -> Sparse {
        SPARSE_ADAM_DOES
    }
}
