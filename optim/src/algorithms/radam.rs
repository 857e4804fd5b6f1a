//! RAdam: Adam that waits with adapting until its second moment is known well enough.

use super::prelude::*;
use crate::algorithms::adam::SPARSE_ADAM_DOES;

hyperparameters! {
    /// RAdam: Adam that waits with adapting until its second moment is known well enough.
    ///
    /// ```text
    /// g  = g + λ θₜ₋₁                                (L2 decay, unless decoupled)
    /// mₜ = β₁ mₜ₋₁ + (1 − β₁) g
    /// vₜ = β₂ vₜ₋₁ + (1 − β₂) g²
    /// ρ  = ρ∞ − 2 t β₂ᵗ / (1 − β₂ᵗ)                  with ρ∞ = 2 / (1 − β₂) − 1
    /// r  = √((ρ − 4)(ρ − 2) ρ∞ / ((ρ∞ − 4)(ρ∞ − 2) ρ))
    /// θₜ = θₜ₋₁ − γ m̂ r √(1 − β₂ᵗ) / (√vₜ + ε)       where ρ > 5, with m̂ = mₜ / (1 − β₁ᵗ)
    /// θₜ = θₜ₋₁ − γ m̂                                else
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ε = `eps`, λ = `weight_decay`. With `decoupled_weight_decay` θₜ₋₁ is first
    /// multiplied by 1 − γλ instead, as in AdamW. State: 8 bytes a parameter in `f32` (`m`, `v`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::RAdam;
    /// let algorithm = RAdam { weight_decay: 1e-2, decoupled_weight_decay: true, ..RAdam::default() };
    /// ```
    pub RAdam as "RAdam" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Decay rates β₁, β₂ of the running averages of the gradient and of its square.
        betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// Weight decay λ: added to the gradient as λθ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Take the decay from the parameter, as AdamW does.
        decoupled_weight_decay: bool = false, Range::Any;
        /// Maximize the objective.
        maximize: bool = false, Range::Any;
    }
    accepted { foreach: Option<bool>, capturable: bool, differentiable: bool }
}

rule! {
    /// One step of [`RAdam`].
    pub RAdamRule(h: RAdam, t) {
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0 && !h.decoupled_weight_decay);
        let keep = if h.decoupled_weight_decay { 1.0 - h.lr * h.weight_decay } else { 1.0 };
        let alpha = h.lr / (1.0 - pow(h.betas.0, t));
        let root = sqrt(1.0 - pow(h.betas.1, t));
        let most = 2.0 / (1.0 - h.betas.1) - 1.0;
        let rho = most - 2.0 * t as f64 * pow(h.betas.1, t) / (1.0 - pow(h.betas.1, t));
        let adapts = flag(rho > 5.0);
        let rectified = alpha * root
            * sqrt((rho - 4.0) * (rho - 2.0) * most / ((most - 4.0) * (most - 2.0) * rho));
    }
    element(grad: Grad) -> (p: Param, m: State, v: State) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        m = beta1 * m + one_minus_beta1 * g;
        v = beta2 * v + one_minus_beta2 * g * g;
        p = keep * p - Vector::select_if(adapts, rectified * m / (v.sqrt() + eps), alpha * m);
    }
}

impl Algorithm for RAdam {
    const INFO: Info = Info {
        summary: "Adam that waits with adapting until its second moment is known well enough.",
        family: "adaptive",
        source: "torch.optim",
        differences: "As in torch, eps is added before the bias of v is corrected, and the switch is at ρ > 5 \
            where the paper has ρ > 4.",
        references: &[
            Reference::new(
                "Liu et al. 2020, On the Variance of the Adaptive Learning Rate and Beyond",
                "arXiv:1908.03265",
            ),
            papers::ADAM,
            Reference::new("torch.optim.RAdam", "torch 2.15.0"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<RAdamRule>())
    }

    fn sparse(&self) -> Sparse {
        SPARSE_ADAM_DOES
    }
}
