//! NAdam: Adam with Nesterov's momentum.

use super::prelude::*;
use crate::algorithms::adam::SPARSE_ADAM_DOES;

hyperparameters! {
    /// NAdam: Adam with Nesterov's momentum.
    ///
    /// ```text
    /// g  = g + λ θₜ₋₁                                       (L2 decay, unless decoupled)
    /// μₜ = β₁ (1 − 0.96^(tψ) / 2),   Πₜ = μ₁ μ₂ ⋯ μₜ
    /// mₜ = β₁ mₜ₋₁ + (1 − β₁) g
    /// vₜ = β₂ vₜ₋₁ + (1 − β₂) g²
    /// m̂  = μₜ₊₁ mₜ / (1 − Πₜ₊₁) + (1 − μₜ) g / (1 − Πₜ)
    /// θₜ = θₜ₋₁ − γ m̂ / (√(vₜ / (1 − β₂ᵗ)) + ε)
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ψ = `momentum_decay`, ε = `eps`, λ = `weight_decay`. With
    /// `decoupled_weight_decay` θₜ₋₁ is first multiplied by 1 − γλ instead, as in AdamW. State: 8 bytes a
    /// parameter in `f32` (`m`, `v`).
    ///
    /// torch keeps Πₜ with the parameter, in `f32`; here it is computed from t, rounded as there. The two
    /// part when `betas` or `momentum_decay` change between steps.
    ///
    /// ```
    /// # use fallline_optim::algorithms::NAdam;
    /// let algorithm = NAdam { momentum_decay: 1e-2, ..NAdam::default() };
    /// ```
    pub NAdam as "NAdam" {
        /// Learning rate γ.
        lr: f64 = 2e-3, Range::AtLeast(0.0);
        /// Decay rates β₁, β₂ of the running averages of the gradient and of its square.
        betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// Weight decay λ: added to the gradient as λθ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// How fast the momentum grows from β₁/2 to β₁, ψ.
        momentum_decay: f64 = 4e-3, Range::AtLeast(0.0);
        /// Take the decay from the parameter, as AdamW does.
        decoupled_weight_decay: bool = false, Range::Any;
        /// Maximize the objective.
        maximize: bool = false, Range::Any;
    }
    accepted { foreach: Option<bool>, capturable: bool, differentiable: bool }
}

impl NAdam {
    /// Returns Πₜ, each product rounded to `f32` as in torch. Below half an ULP of 1 it changes nothing any more.
    /// So the loop is as long as β₁ᵗ is large: some 360 factors for 0.9.
    pub fn product(&self, t: u64) -> f64 {
        let mut product = 1.0;
        for s in 1..=t {
            let mu = self.betas.0 * (1.0 - 0.5 * powf(0.96, s as f64 * self.momentum_decay));
            product = single(product * single(mu));
            if product < 0.25 * f64::EPSILON {
                return 0.0;
            }
        }
        product
    }
}

rule! {
    /// One step of [`NAdam`].
    pub NAdamRule(h: NAdam, t) {
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0 && !h.decoupled_weight_decay);
        let keep = if h.decoupled_weight_decay { 1.0 - h.lr * h.weight_decay } else { 1.0 };
        let mu = h.betas.0 * (1.0 - 0.5 * powf(0.96, t as f64 * h.momentum_decay));
        let mu_next = h.betas.0 * (1.0 - 0.5 * powf(0.96, (t + 1) as f64 * h.momentum_decay));
        let product = h.product(t);
        let of_grad = h.lr * (1.0 - mu) / (1.0 - product);
        let of_mean = h.lr * mu_next / (1.0 - product * mu_next);
        let root = 1.0 / sqrt(1.0 - pow(h.betas.1, t));
    }
    element(grad: Grad) -> (p: Param, m: State, v: State) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        m = beta1 * m + one_minus_beta1 * g;
        v = beta2 * v + one_minus_beta2 * g * g;
        p = keep * p - (of_grad * g + of_mean * m) / (v.sqrt() * root + eps);
    }
}

impl Algorithm for NAdam {
    const INFO: Info = Info {
        summary: "Adam with Nesterov's momentum.",
        family: "adaptive",
        source: "torch.optim",
        differences: "The product of the momenta is computed from the step count (rounded to f32 as in torch), \
            not kept with the parameter: betas and momentum_decay that change between steps change it from \
            the start.",
        references: &[
            Reference::new("Dozat 2016, Incorporating Nesterov Momentum into Adam", "ICLR 2016 workshop"),
            papers::ADAM,
            Reference::new("torch.optim.NAdam", "torch 2.15.0"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<NAdamRule>())
    }

    fn sparse(&self) -> Sparse {
        SPARSE_ADAM_DOES
    }
}
