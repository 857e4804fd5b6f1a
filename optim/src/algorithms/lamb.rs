//! LAMB as bitsandbytes has it: Adam whose update is clipped to a part of the parameter's norm.

use super::prelude::*;
use crate::algorithms::bnb;
use crate::algorithms::trust_ratio::shortened;
use fallline_core::{Codes, Shape};

hyperparameters! {
    /// LAMB as bitsandbytes has it: Adam whose update is clipped to a part of the parameter's norm.
    ///
    /// ```text
    /// mₜ = β₁ mₜ₋₁ + (1 − β₁) g
    /// vₜ = β₂ vₜ₋₁ + (1 − β₂) g²
    /// uₜ = mₜ / (√vₜ + ε c₂)                            c₁ = 1 − β₁ᵗ, c₂ = √(1 − β₂ᵗ)
    /// s  = min(1, ρ ‖θₜ₋₁‖ / ‖uₜ‖)                      (1 without ρ)
    /// θₜ = (1 − γλ) θₜ₋₁ − γ s c₂ / c₁ uₜ
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ε = `eps`, λ = `weight_decay`, ρ = `max_unorm`. The norms are those of one
    /// tensor. Two passes: the first moves g, θ, m and v and sums up the norms, the second computes u once more
    /// from m and v. State: 8 bytes a parameter in `f32` (`m`, `v`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::Lamb;
    /// let algorithm = Lamb { weight_decay: 0.01, max_unorm: 0.5, ..Lamb::default() };
    /// ```
    pub Lamb as "LAMB" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Decay rates β₁, β₂ of the running averages of the gradient and of its square.
        betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// Weight decay λ, multiplied by `lr`, taken from the parameter.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// The largest norm ρ that u may have, in units of the parameter's; 0 leaves it as it is.
        max_unorm: f64 = 1.0, Range::AtLeast(0.0);
        /// 8 keeps states in 8 bits, blocks of 256 with bitsandbytes' dynamic codes; 32 in the compute type.
        optim_bits: i64 = 32, Range::Closed(8.0, 32.0);
        /// Parameters with fewer elements keep their states in the compute type, whatever `optim_bits` says.
        min_8bit_size: i64 = 4096, Range::Any;
        /// Clip the update where states are in 8 bits too, as the paper has it; bitsandbytes does not.
        quantised_trust_ratio: bool = false, Range::Any;
        /// Take the norm of u with its bias corrected, as bitsandbytes does on CUDA but not on the CPU.
        bias_corrected_unorm: bool = false, Range::Any;
    }
    accepted { args: () }
    fixed {
        bias_correction: bool = true, "bitsandbytes corrects the bias whatever it says";
        amsgrad: bool = false, "bitsandbytes has no largest second moment, whatever it says";
        adam_w_mode: bool = true, "bitsandbytes takes the decay from the parameter, whatever it says";
    }
}

impl Lamb {
    /// Returns the corrections c₁, c₂ of step `t`.
    fn corrections(&self, t: u64) -> (f64, f64) {
        (1.0 - pow(self.betas.0, t), sqrt(1.0 - pow(self.betas.1, t)))
    }

    /// Returns what the norm of u is multiplied by before it is compared.
    fn unorm_factor(&self, t: u64) -> f64 {
        let (c1, c2) = self.corrections(t);
        if self.bias_corrected_unorm { c2 / c1 } else { 1.0 }
    }
}

rule! {
    /// The first pass of [`Lamb`]: the moments, and the norms of the update and the parameter.
    pub LambMomentsRule(h: Lamb, t) {
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let eps_hat = h.eps * sqrt(1.0 - pow(h.betas.1, t));
    }
    element(g: Grad, p: Param) -> (m: State, v: State) sum(update2, param2) {
        m = beta1 * m + one_minus_beta1 * g;
        v = beta2 * v + one_minus_beta2 * g * g;
        let u = m / (v.sqrt() + eps_hat);
        update2 = u * u;
        param2 = p * p;
    }
}

rule! {
    /// The second pass of [`Lamb`]: the parameter.
    pub LambRule(h: Lamb, t) {
        let eps_hat = h.eps * sqrt(1.0 - pow(h.betas.1, t));
        let keep = 1.0 - h.lr * h.weight_decay;
    }
    per_tensor(step_size) reads LambMomentsRule(update2, param2) {
        each(at) {
            let rate = h.lr * sqrt(1.0 - pow(h.betas.1, t)) / (1.0 - pow(h.betas.0, t));
            let factor = h.unorm_factor(t);
            let max_unorm = h.max_unorm;
        }
        tensor {
            let step_size = rate * shortened(update2.sqrt() * factor, param2.sqrt(), max_unorm);
        }
    }
    element(m: State, v: State) -> (p: Param) {
        p = keep * p - step_size * (m / (v.sqrt() + eps_hat));
    }
}

rule! {
    /// One step of [`Lamb`] with states in 8 bits as bitsandbytes takes it: Adam's.
    pub LambQuantisedRule(h: Lamb, t) {
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let keep = 1.0 - h.lr * h.weight_decay;
        let eps_hat = h.eps * h.corrections(t).1;
        let step_size = h.lr * h.corrections(t).1 / h.corrections(t).0;
    }
    element(g: Grad) -> (p: Param, m: State, v: State) {
        m = beta1 * m + one_minus_beta1 * g;
        v = beta2 * v + one_minus_beta2 * g * g;
        p = keep * p - step_size * (m / (v.sqrt() + eps_hat));
    }
}

/// Parameters whose states are in 8 bits.
const QUANTISED: Variant = Variant(1);

impl Algorithm for Lamb {
    const INFO: Info = Info {
        summary: "Adam whose update is clipped to a part of the parameter's norm.",
        family: "layer-wise",
        source: "bitsandbytes",
        differences: "Unlike in the paper the ratio of the norms only ever shortens the update, and decay is not part \
            of it. The norm is that of the update before its bias is corrected, as in bitsandbytes on the CPU; on \
            CUDA it takes the corrected one (bias_corrected_unorm). bias_correction, amsgrad and adam_w_mode, which \
            bitsandbytes ignores, are refused where they ask for something else. States in 8 bits have no clipping, as \
            in bitsandbytes, whose code for them is not given max_unorm (quantised_trust_ratio=True clips).",
        references: &[papers::LAMB, Reference::new("bitsandbytes.optim.LAMB", "bitsandbytes 0.50.2")],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        if on.variant == QUANTISED && !self.quantised_trust_ratio {
            return Ok(on.pass::<LambQuantisedRule>());
        }
        Ok(on.pass::<LambMomentsRule>().pass::<LambRule>())
    }

    fn variant(&self, _name: &str, shape: &Shape) -> Result<Variant, String> {
        let quantised = bnb::quantised(self.optim_bits, self.min_8bit_size, shape.elements());
        Ok(if quantised { QUANTISED } else { Variant::ONLY })
    }

    fn storage(&self) -> StorageDefaults {
        bnb::storage(self.optim_bits, self.min_8bit_size, Codes::Unsigned)
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        bnb::check_bits(Self::NAME, self.optim_bits)
    }
}

alias! {
    /// [`Lamb`] by the name under which bitsandbytes always keeps its states in 32 bits.
    ///
    /// ```
    /// # use fallline_optim::algorithms::{Lamb, Lamb32bit};
    /// let algorithm = Lamb32bit(Lamb { lr: 1e-2, ..Lamb::default() });
    /// ```
    pub Lamb32bit as "LAMB32bit" is Lamb,
        without { optim_bits, quantised_trust_ratio },
        accepted { min_8bit_size: i64 = 4096, Range::Any }
}

alias! {
    /// [`Lamb`] with states in 8 bits.
    pub Lamb8bit as "LAMB8bit" is Lamb, with { optim_bits = 8 }, without { optim_bits }
}
