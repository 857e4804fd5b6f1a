//! Adam: steps of the size `lr`, scaled by running moments of the gradient.

use super::prelude::*;

hyperparameters! {
    /// Adam: steps of about the size `lr`, scaled by running moments of the gradient.
    ///
    /// ```text
    /// g  = g + λ θₜ₋₁                          (L2 decay, unless decoupled)
    /// mₜ = β₁ mₜ₋₁ + (1 − β₁) g
    /// vₜ = β₂ vₜ₋₁ + (1 − β₂) g²
    /// θₜ = θₜ₋₁ − γ / (1 − β₁ᵗ) · mₜ / (√vₜ / √(1 − β₂ᵗ) + ε)
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ε = `eps`, λ = `weight_decay`. With `amsgrad` the root is taken of the largest `v`
    /// so far. With `decoupled_weight_decay` θₜ₋₁ is first multiplied by 1 − γλ instead, as in AdamW. State: 8 bytes
    /// a parameter in `f32` (`m`, `v`), 12 with `amsgrad` (`v_max`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::Adam;
    /// let algorithm = Adam { betas: (0.9, 0.95), ..Adam::default() };
    /// ```
    pub Adam as "Adam" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Decay rates β₁, β₂ of the running averages of the gradient and of its square.
        betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// Weight decay λ: added to the gradient as λθ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Divide by the largest second moment so far.
        amsgrad: bool = false, Range::Any;
        /// Maximize the objective.
        maximize: bool = false, Range::Any;
        /// Take the decay from the parameter, as AdamW does.
        decoupled_weight_decay: bool = false, Range::Any;
    }
    accepted { foreach: Option<bool>, capturable: bool, differentiable: bool, fused: Option<bool> }
}

rule! {
    /// One step of [`Adam`].
    pub AdamRule(h: Adam, t) {
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0 && !h.decoupled_weight_decay);
        let keep = if h.decoupled_weight_decay { 1.0 - h.lr * h.weight_decay } else { 1.0 };
        let alpha = h.lr / (1.0 - pow(h.betas.0, t));
        let root = 1.0 / sqrt(1.0 - pow(h.betas.1, t));
    }
    element(grad: Grad) -> (p: Param, m: State, v: State) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        m = beta1 * m + one_minus_beta1 * g;
        v = beta2 * v + one_minus_beta2 * g * g;
        p = keep * p - alpha * m / (v.sqrt() * root + eps);
    }
    or
    /// One step of [`Adam`] with `amsgrad`.
    pub AdamMaxRule
    element(grad: Grad) -> (p: Param, m: State, v: State, v_max: State) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        m = beta1 * m + one_minus_beta1 * g;
        v = beta2 * v + one_minus_beta2 * g * g;
        v_max = v_max.max(v);
        p = keep * p - alpha * m / (v_max.sqrt() * root + eps);
    }
}

/// What the forms of Adam make of row-sparse gradients.
pub(crate) const SPARSE_ADAM_DOES: Sparse =
    Sparse::RefusedFor("does not take row-sparse gradients; SparseAdam does");

impl Algorithm for Adam {
    const INFO: Info = Info {
        summary: "Steps of about the size lr, scaled by running moments of the gradient.",
        family: "adaptive",
        source: "torch.optim",
        differences: "With amsgrad the largest v is taken before the bias correction, as in torch.",
        references: &[papers::ADAM, papers::AMSGRAD, Reference::new("torch.optim.Adam", "torch 2.15.0")],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v"), State::new("v_max").non_negative()];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(if self.amsgrad { on.pass::<AdamMaxRule>() } else { on.pass::<AdamRule>() })
    }

    fn sparse(&self) -> Sparse {
        SPARSE_ADAM_DOES
    }
}
