//! Adam and AdamW as bitsandbytes has them, states in 32 bits: both are AdamW.

use super::prelude::*;
use crate::algorithms::bnb;
use fallline_core::Codes;

hyperparameters! {
    /// Adam as bitsandbytes has it.
    ///
    /// ```text
    /// mₜ = β₁ mₜ₋₁ + (1 − β₁) g
    /// vₜ = β₂ vₜ₋₁ + (1 − β₂) g²
    /// θₜ = (1 − γλ) θₜ₋₁ − γ c₂ / c₁ · mₜ / (√vₜ + ε c₂)      with c₁ = 1 − β₁ᵗ, c₂ = √(1 − β₂ᵗ)
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ε = `eps`, λ = `weight_decay`. The decay is decoupled under every name, so that
    /// bitsandbytes' Adam and AdamW differ in its default only. State: 8 bytes a parameter in `f32` (`m`, `v`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::BnbAdam;
    /// let algorithm = BnbAdam { weight_decay: 0.1, ..BnbAdam::default() };
    /// ```
    pub BnbAdam as "bnb_Adam" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Decay rates β₁, β₂ of the running averages of the gradient and of its square.
        betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// Decoupled weight decay λ, multiplied by `lr`.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// 8 keeps states in 8 bits, blocks of 256 with bitsandbytes' dynamic codes; 32 in the compute type.
        optim_bits: i64 = 32, Range::Closed(8.0, 32.0);
        /// Parameters with fewer elements keep their states in the compute type, whatever `optim_bits` says.
        min_8bit_size: i64 = 4096, Range::Any;
        /// Keeps the states in a file that is mapped into memory, so that there can be more of them than memory. It is
        /// placement alone: the numbers are the same.
        is_paged: bool = false, Range::Any;
    }
    accepted {
        amsgrad: bool,
        args: (),
    }
}

alias! {
    /// AdamW as bitsandbytes has it, states in 32 bits: [`BnbAdam`] with another default decay.
    pub BnbAdamW as "bnb_AdamW" is BnbAdam, with { weight_decay = 1e-2 }
}

alias! {
    /// bitsandbytes' `Adam32bit`: [`BnbAdam`] always in 32 bits.
    pub Adam32bit as "Adam32bit" is BnbAdam,
        accepted { min_8bit_size: i64 = 4096, Range::Any },
        fixed { optim_bits: i64 = 32, "its states are always in 32 bits" }
}

alias! {
    /// bitsandbytes' `Adam8bit`: [`BnbAdam`] with states in 8 bits.
    pub Adam8bit as "Adam8bit" is BnbAdam,
        with { optim_bits = 8 },
        fixed { optim_bits: i64 = 32, "its states are always in 8 bits, and 32 is what bitsandbytes takes for compatibility"; amsgrad: bool = false, "bitsandbytes refuses it" }
}

alias! {
    /// bitsandbytes' `PagedAdam`: [`BnbAdam`] with states in a file.
    pub PagedAdam as "PagedAdam" is BnbAdam,
        with { is_paged = true },
        accepted { is_paged: bool = false, Range::Any }
}

alias! {
    /// bitsandbytes' `PagedAdam8bit`: [`BnbAdam`] with states in 8 bits in a file.
    pub PagedAdam8bit as "PagedAdam8bit" is BnbAdam,
        with { optim_bits = 8, is_paged = true },
        accepted { is_paged: bool = false, Range::Any },
        fixed { optim_bits: i64 = 32, "its states are always in 8 bits, and 32 is what bitsandbytes takes for compatibility"; amsgrad: bool = false, "bitsandbytes refuses it" }
}

alias! {
    /// bitsandbytes' `PagedAdam32bit`: [`BnbAdam`] with states in 32 bits in a file.
    pub PagedAdam32bit as "PagedAdam32bit" is BnbAdam,
        with { is_paged = true },
        accepted { is_paged: bool = false, Range::Any; min_8bit_size: i64 = 4096, Range::Any },
        fixed { optim_bits: i64 = 32, "its states are always in 32 bits" }
}

alias! {
    /// bitsandbytes' `AdamW32bit`: [`BnbAdam`] always in 32 bits and with another default decay.
    pub AdamW32bit as "AdamW32bit" is BnbAdam,
        with { weight_decay = 1e-2 },
        accepted { min_8bit_size: i64 = 4096, Range::Any },
        fixed { optim_bits: i64 = 32, "its states are always in 32 bits" }
}

alias! {
    /// bitsandbytes' `AdamW8bit`: [`BnbAdam`] with states in 8 bits.
    pub AdamW8bit as "AdamW8bit" is BnbAdam,
        with { weight_decay = 1e-2, optim_bits = 8 },
        fixed { optim_bits: i64 = 32, "its states are always in 8 bits, and 32 is what bitsandbytes takes for compatibility"; amsgrad: bool = false, "bitsandbytes refuses it" }
}

alias! {
    /// bitsandbytes' `PagedAdamW`: [`BnbAdam`] with states in a file.
    pub PagedAdamW as "PagedAdamW" is BnbAdam,
        with { weight_decay = 1e-2, is_paged = true },
        without { is_paged }
}

alias! {
    /// bitsandbytes' `PagedAdamW8bit`: [`BnbAdam`] with states in 8 bits in a file.
    pub PagedAdamW8bit as "PagedAdamW8bit" is BnbAdam,
        with { weight_decay = 1e-2, optim_bits = 8, is_paged = true },
        without { is_paged },
        fixed { optim_bits: i64 = 32, "its states are always in 8 bits, and 32 is what bitsandbytes takes for compatibility"; amsgrad: bool = false, "bitsandbytes refuses it" }
}

alias! {
    /// bitsandbytes' `PagedAdamW32bit`: [`BnbAdam`] with states in 32 bits in a file.
    pub PagedAdamW32bit as "PagedAdamW32bit" is BnbAdam,
        with { weight_decay = 1e-2, is_paged = true },
        without { is_paged },
        accepted { min_8bit_size: i64 = 4096, Range::Any },
        fixed { optim_bits: i64 = 32, "its states are always in 32 bits" }
}

rule! {
    /// One step of [`BnbAdam`].
    pub BnbAdamRule(h: BnbAdam, t) {
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let keep = 1.0 - h.lr * h.weight_decay;
        let root = sqrt(1.0 - pow(h.betas.1, t));
        let alpha = h.lr * root / (1.0 - pow(h.betas.0, t));
        let eps = h.eps * root;
    }
    element(g: Grad) -> (p: Param, m: State, v: State) {
        m = m * beta1 + one_minus_beta1 * g;
        v = v * beta2 + one_minus_beta2 * g * g;
        p = keep * p - alpha * (m / (v.sqrt() + eps));
    }
}

impl Algorithm for BnbAdam {
    const INFO: Info = Info {
        summary: "Adam with decoupled decay, as bitsandbytes has it.",
        family: "adaptive",
        source: "bitsandbytes",
        differences: "amsgrad is ignored, as in bitsandbytes, or refused, as by its 8bit names. Its Adam and AdamW are one \
            (decoupled) rule. Its CPU and Triton code decays before the update, and so does this; its CUDA kernel after it, \
            which differs by the update times lr * weight_decay. The 32bit names take optim_bits=32 only, where \
            bitsandbytes ignores the value.",
        references: &[
            papers::ADAM,
            papers::ADAMW,
            Reference::new("bitsandbytes.optim: Adam, AdamW, Adam32bit, AdamW32bit", "bitsandbytes 0.50.2"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<BnbAdamRule>())
    }

    fn storage(&self) -> StorageDefaults {
        StorageDefaults {
            paged: self.is_paged,
            ..bnb::storage(self.optim_bits, self.min_8bit_size, Codes::Unsigned)
        }
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        bnb::check_bits(Self::NAME, self.optim_bits)
    }
}
