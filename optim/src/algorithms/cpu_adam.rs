//! DeepSpeedCPUAdam: Adam and AdamW as DeepSpeed's CPU op computes them.

use super::prelude::*;
use crate::algorithms::adam::SPARSE_ADAM_DOES;
use crate::algorithms::fused_adam::no_amsgrad;

hyperparameters! {
    /// DeepSpeedCPUAdam: Adam and AdamW as DeepSpeed's CPU op computes them.
    ///
    /// ```text
    /// g  = g + λ θₜ₋₁                                       (without adamw_mode)
    /// mₜ = β₁ mₜ₋₁ + (1 − β₁) g
    /// vₜ = β₂ vₜ₋₁ + (1 − β₂) g²
    /// θₜ = (1 − γλ) θₜ₋₁ − γ / c₁ · mₜ / (√vₜ c₂ + ε)        (without adamw_mode: θₜ₋₁ − …)
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ε = `eps`, λ = `weight_decay`, c₁ = 1 − β₁ᵗ and c₂ = 1 / √(1 − β₂ᵗ), both 1
    /// without `bias_correction`. State: 8 bytes a parameter in `f32` (`m`, `v`).
    ///
    /// Of parameters on another device a configuration has states on the host, with the parameters in `f32`
    /// ([`Driver::offload`](crate::Driver::offload)), unless it says `offload=None`.
    ///
    /// ```
    /// # use fallline_optim::algorithms::CpuAdam;
    /// let algorithm = CpuAdam { weight_decay: 0.1, adamw_mode: false, ..CpuAdam::default() };
    /// ```
    pub CpuAdam as "DeepSpeedCPUAdam" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Divide the moments by what they lack at the start.
        bias_correction: bool = true, Range::Any;
        /// Decay rates β₁, β₂ of the running averages of the gradient and of its square.
        betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// Weight decay λ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Must be off: DeepSpeed has no such form.
        amsgrad: bool = false, Range::Any;
        /// Take the decay from the parameter (AdamW), not from the gradient.
        adamw_mode: bool = true, Range::Any;
    }
    accepted { fp32_optimizer_states: bool = true, Range::Any }
}

rule! {
    /// One step of [`CpuAdam`].
    pub CpuAdamRule(h: CpuAdam, t) {
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let l2 = flag(h.weight_decay > 0.0 && !h.adamw_mode);
        let decoupled = flag(h.weight_decay > 0.0 && h.adamw_mode);
        let shrink = h.lr * h.weight_decay;
        let alpha = if h.bias_correction { h.lr / (1.0 - pow(h.betas.0, t)) } else { h.lr };
        let root = if h.bias_correction { 1.0 / sqrt(1.0 - pow(h.betas.1, t)) } else { 1.0 };
    }
    element(grad: Grad) -> (p: Param, m: State, v: State) {
        let g = Vector::select_if(l2, p * weight_decay + grad, grad);
        m = g * one_minus_beta1 + m * beta1;
        v = g * g * one_minus_beta2 + v * beta2;
        let kept = Vector::select_if(decoupled, p - shrink * p, p);
        p = kept - alpha * (m / (v.sqrt() * root + eps));
    }
}

impl Algorithm for CpuAdam {
    const INFO: Info = Info {
        summary: "Adam and AdamW as DeepSpeed's CPU op computes them.",
        family: "adaptive",
        source: "DeepSpeed",
        differences: "States are in the type of the arithmetic; fp32_optimizer_states=False, which has DeepSpeed \
            keep those of 16-bit parameters in 16 bits, changes nothing. DeepSpeed checks no range; here lr, \
            betas, eps and weight_decay have Adam's. Scalars are computed in f64, there in f32.",
        references: &[
            papers::ADAM,
            papers::ADAMW,
            Reference::new("deepspeed.ops.adam.DeepSpeedCPUAdam", "DeepSpeed 0.19.8"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<CpuAdamRule>())
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        match self.amsgrad {
            false => Ok(()),
            true => Err(no_amsgrad(Self::NAME)),
        }
    }

    fn storage(&self) -> StorageDefaults {
        StorageDefaults { offload: true, ..StorageDefaults::AS_COMPUTED }
    }

    fn sparse(&self) -> Sparse {
        SPARSE_ADAM_DOES
    }
}
