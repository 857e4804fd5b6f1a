//! Adamax: Adam with the largest recent gradient in place of the root mean square.

use super::prelude::*;
use crate::algorithms::adam::SPARSE_ADAM_DOES;

hyperparameters! {
    /// Adamax: Adam with the largest recent gradient in place of the root mean square.
    ///
    /// ```text
    /// g  = g + λ θₜ₋₁                        (L2 decay)
    /// mₜ = β₁ mₜ₋₁ + (1 − β₁) g
    /// uₜ = max(β₂ uₜ₋₁, |g| + ε)
    /// θₜ = θₜ₋₁ − γ / (1 − β₁ᵗ) · mₜ / uₜ
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ε = `eps`, λ = `weight_decay`. State: 8 bytes a parameter in `f32`
    /// (`m`, `u`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::Adamax;
    /// let algorithm = Adamax { betas: (0.9, 0.99), ..Adamax::default() };
    /// ```
    pub Adamax as "Adamax" {
        /// Learning rate γ.
        lr: f64 = 2e-3, Range::AtLeast(0.0);
        /// Decay rates β₁ of the average gradient, β₂ of its largest size.
        betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Added to the size of each gradient.
        eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// Weight decay λ: added to the gradient as λθ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Maximize the objective.
        maximize: bool = false, Range::Any;
    }
    accepted { foreach: Option<bool>, differentiable: bool, capturable: bool }
}

rule! {
    /// One step of [`Adamax`].
    pub AdamaxRule(h: Adamax, t) {
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
        let alpha = h.lr / (1.0 - pow(h.betas.0, t));
    }
    element(grad: Grad) -> (p: Param, m: State, u: State) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        m = beta1 * m + one_minus_beta1 * g;
        u = (beta2 * u).max(g.abs() + eps);
        p = p - alpha * m / u;
    }
}

impl Algorithm for Adamax {
    const INFO: Info = Info {
        summary: "Adam with the largest recent gradient in place of the root mean square.",
        family: "adaptive",
        source: "torch.optim",
        differences: "As in torch, eps is added to each gradient's size; the paper has none. After a NaN \
            gradient torch's u stays NaN; here it is that of the next gradient (m and the parameter stay NaN).",
        references: &[
            Reference::new("Kingma & Ba 2015, section 7.1", "arXiv:1412.6980"),
            papers::ADAM,
            Reference::new("torch.optim.Adamax", "torch 2.15.0"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("u")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<AdamaxRule>())
    }

    fn sparse(&self) -> Sparse {
        SPARSE_ADAM_DOES
    }
}
