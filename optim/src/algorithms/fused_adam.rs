//! FusedAdam: Adam and AdamW as DeepSpeed's CUDA kernel computes them.

use super::prelude::*;
use crate::algorithms::adam::SPARSE_ADAM_DOES;

hyperparameters! {
    /// FusedAdam: Adam and AdamW as DeepSpeed's CUDA kernel computes them.
    ///
    /// ```text
    /// g  = g + λ θₜ₋₁                                       (without adam_w_mode)
    /// mₜ = β₁ mₜ₋₁ + (1 − β₁) g
    /// vₜ = β₂ vₜ₋₁ + (1 − β₂) g²
    /// u  = (mₜ / (1 − β₁ᵗ)) / (√(vₜ / (1 − β₂ᵗ)) + ε)        (without bias_correction: mₜ / (√vₜ + ε))
    /// θₜ = θₜ₋₁ − γ (u + λ θₜ₋₁)                            (without adam_w_mode: θₜ₋₁ − γ u)
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ε = `eps`, λ = `weight_decay`. State: 8 bytes a parameter in `f32`
    /// (`m`, `v`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::FusedAdam;
    /// let algorithm = FusedAdam { weight_decay: 0.1, ..FusedAdam::default() };
    /// ```
    pub FusedAdam as "FusedAdam" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Divide the moments by what they lack at the start.
        bias_correction: bool = true, Range::Any;
        /// Decay rates β₁, β₂ of the running averages of the gradient and of its square.
        betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// Take the decay from the parameter (AdamW), not from the gradient.
        adam_w_mode: bool = true, Range::Any;
        /// Weight decay λ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Must be off: DeepSpeed has no such form.
        amsgrad: bool = false, Range::Any;
    }
    accepted { set_grad_none: bool = true, Range::Any }
}

rule! {
    /// One step of [`FusedAdam`].
    pub FusedAdamRule(h: FusedAdam, t) {
        let lr = h.lr;
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let l2 = flag(h.weight_decay > 0.0 && !h.adam_w_mode);
        let decoupled = flag(h.weight_decay > 0.0 && h.adam_w_mode);
        let correction1 = if h.bias_correction { 1.0 - pow(h.betas.0, t) } else { 1.0 };
        let correction2 = if h.bias_correction { 1.0 - pow(h.betas.1, t) } else { 1.0 };
    }
    element(grad: Grad) -> (p: Param, m: State, v: State) {
        let g = Vector::select_if(l2, grad + weight_decay * p, grad);
        m = beta1 * m + one_minus_beta1 * g;
        v = beta2 * v + one_minus_beta2 * g * g;
        let update = (m / correction1) / ((v / correction2).sqrt() + eps);
        p = p - lr * Vector::select_if(decoupled, update + weight_decay * p, update);
    }
}

impl Algorithm for FusedAdam {
    const INFO: Info = Info {
        summary: "Adam and AdamW as DeepSpeed's CUDA kernel computes them.",
        family: "adaptive",
        source: "DeepSpeed",
        differences: "DeepSpeed corrects every parameter of a group by the step count of the last one that has a \
            gradient; here each has its own. DeepSpeed checks no range; here lr, betas, eps and weight_decay have \
            Adam's. Scalars are computed in f64, there in f32.",
        references: &[
            papers::ADAM,
            papers::ADAMW,
            Reference::new("deepspeed.ops.adam.FusedAdam", "DeepSpeed 0.19.8"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<FusedAdamRule>())
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        match self.amsgrad {
            false => Ok(()),
            true => Err(no_amsgrad(Self::NAME)),
        }
    }

    fn sparse(&self) -> Sparse {
        SPARSE_ADAM_DOES
    }
}

/// Returns what DeepSpeed's forms of Adam say to `amsgrad`.
pub(crate) fn no_amsgrad(algorithm: &'static str) -> HyperError {
    let problem = "amsgrad is not supported, as in DeepSpeed; Adam and AdamW have it".to_owned();
    HyperError::Combination { algorithm, problem }
}
