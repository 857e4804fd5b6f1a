//! AdEMAMix: AdamW with a second, much slower average of the gradient mixed in.

use super::prelude::*;
use crate::algorithms::bnb;
use fallline_core::Codes;

hyperparameters! {
    /// AdEMAMix: AdamW with a second, much slower average of the gradient mixed in.
    ///
    /// ```text
    /// mₜ = β₁ mₜ₋₁ + (1 − β₁) g
    /// nₜ = β₃ nₜ₋₁ + (1 − β₃) g
    /// vₜ = β₂ vₜ₋₁ + (1 − β₂) g²
    /// θₜ = (1 − γλ) θₜ₋₁ − γ (mₜ / (1 − β₁ᵗ) + α nₜ) / (√vₜ / √(1 − β₂ᵗ) + ε)
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, α = `alpha`, ε = `eps`, λ = `weight_decay`. The state `m_slow` is n. With
    /// `t_alpha`, α grows linearly over as many steps; with `t_beta3`, β₃ grows from β₁ over as many, its half life
    /// linearly. State: 12 bytes a parameter in `f32` (`m`, `m_slow`, `v`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::AdEmaMix;
    /// let algorithm = AdEmaMix { t_alpha: Some(10_000), t_beta3: Some(10_000), ..AdEmaMix::default() };
    /// ```
    pub AdEmaMix as "AdEMAMix" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Decay rates β₁, β₂, β₃ of the averages of the gradient, of its square, and of the slow one.
        betas: (f64, f64, f64) = (0.9, 0.999, 0.9999), Range::HalfOpen(0.0, 1.0);
        /// How much of the slow average is mixed in, α.
        alpha: f64 = 5.0, Range::Any;
        /// Steps over which α grows from 0; none or 0: it is constant.
        t_alpha: Option<i64> = None, Range::AtLeast(0.0);
        /// Steps over which β₃ grows from β₁; none or 0: it is constant.
        t_beta3: Option<i64> = None, Range::AtLeast(0.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// Decoupled weight decay λ, multiplied by `lr`.
        weight_decay: f64 = 1e-2, Range::AtLeast(0.0);
        /// 8 keeps states in 8 bits, blocks of 256 with bitsandbytes' dynamic codes; 32 in the compute type.
        optim_bits: i64 = 32, Range::Closed(8.0, 32.0);
        /// Parameters with fewer elements keep their states in the compute type, whatever `optim_bits` says.
        min_8bit_size: i64 = 4096, Range::Any;
        /// Keeps the states in a file that is mapped into memory, so that there can be more of them than memory. It is
        /// placement alone: the numbers are the same.
        is_paged: bool = false, Range::Any;
    }
}

alias! {
    /// bitsandbytes' `AdEMAMix32bit`: [`AdEmaMix`] always in 32 bits.
    pub AdEmaMix32bit as "AdEMAMix32bit" is AdEmaMix,
        without { optim_bits },
        accepted { min_8bit_size: i64 = 4096, Range::Any }
}

alias! {
    /// bitsandbytes' `AdEMAMix8bit`: [`AdEmaMix`] with states in 8 bits.
    pub AdEmaMix8bit as "AdEMAMix8bit" is AdEmaMix,
        with { optim_bits = 8 },
        without { optim_bits }
}

alias! {
    /// bitsandbytes' `PagedAdEMAMix`: [`AdEmaMix`] with states in a file.
    pub PagedAdEmaMix as "PagedAdEMAMix" is AdEmaMix,
        with { is_paged = true },
        without { is_paged }
}

alias! {
    /// bitsandbytes' `PagedAdEMAMix8bit`: [`AdEmaMix`] with states in 8 bits in a file.
    pub PagedAdEmaMix8bit as "PagedAdEMAMix8bit" is AdEmaMix,
        with { optim_bits = 8, is_paged = true },
        without { optim_bits, is_paged }
}

alias! {
    /// bitsandbytes' `PagedAdEMAMix32bit`: [`AdEmaMix`] with states in 32 bits in a file.
    pub PagedAdEmaMix32bit as "PagedAdEMAMix32bit" is AdEmaMix,
        with { is_paged = true },
        without { optim_bits, is_paged },
        accepted { min_8bit_size: i64 = 4096, Range::Any }
}

impl AdEmaMix {
    /// Returns α of step `t`.
    fn alpha_at(&self, t: u64) -> f64 {
        match self.t_alpha {
            None | Some(0) => self.alpha,
            Some(steps) => (t as f64 * self.alpha / steps as f64).min(self.alpha),
        }
    }

    /// Returns β₃ of step `t`.
    fn beta3_at(&self, t: u64) -> f64 {
        let (beta1, _, beta3) = self.betas;
        match self.t_beta3 {
            None | Some(0) => beta3,
            Some(steps) => {
                let (from, to, share) = (ln(beta1), ln(beta3), t as f64 / steps as f64);
                exp(from * to / ((1.0 - share) * to + share * from)).min(beta3)
            }
        }
    }
}

rule! {
    /// One step of [`AdEmaMix`].
    pub AdEmaMixRule(h: AdEmaMix, t) {
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let beta3 = h.beta3_at(t);
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let one_minus_beta3 = 1.0 - beta3;
        let alpha = h.alpha_at(t);
        let fast = 1.0 / (1.0 - pow(h.betas.0, t));
        let root = 1.0 / sqrt(1.0 - pow(h.betas.1, t));
        let lr = h.lr;
        let eps = h.eps;
        let keep = 1.0 - h.lr * h.weight_decay;
    }
    element(g: Grad) -> (p: Param, m: State, m_slow: State, v: State) {
        m = m * beta1 + one_minus_beta1 * g;
        m_slow = m_slow * beta3 + one_minus_beta3 * g;
        v = v * beta2 + one_minus_beta2 * g * g;
        p = keep * p - lr * ((m * fast + alpha * m_slow) / (v.sqrt() * root + eps));
    }
}

impl Algorithm for AdEmaMix {
    const INFO: Info = Info {
        summary: "AdamW with a second, much slower average of the gradient mixed in.",
        family: "adaptive",
        source: "bitsandbytes",
        differences: "bitsandbytes' CPU and Triton code decays before the update, and so does this; its CUDA \
            kernel after it, and the paper adds the decay to the update. bitsandbytes' AdEMAMix32bit has room for \
            one of the two averages only and no schedule (it fails on the CPU and reads past its state on CUDA): \
            here it is AdEMAMix with states in 32 bits, as its documentation has it.",
        references: &[
            Reference::new(
                "Pagliardini, Ablin & Grangier 2024, The AdEMAMix Optimizer: Better, Faster, Older",
                "arXiv:2409.03137",
            ),
            Reference::new("bitsandbytes.optim: AdEMAMix, AdEMAMix32bit", "bitsandbytes 0.50.2"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::new("m_slow").slow(), State::second_moment("v")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<AdEmaMixRule>())
    }

    fn storage(&self) -> StorageDefaults {
        StorageDefaults {
            paged: self.is_paged,
            ..bnb::storage(self.optim_bits, self.min_8bit_size, Codes::Unsigned)
        }
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        bnb::check_bits(Self::NAME, self.optim_bits)?;
        if self.t_beta3.unwrap_or(0) > 0 && (self.betas.0 == 0.0 || self.betas.2 == 0.0) {
            let problem = "t_beta3 needs betas above 0: it takes their logarithms".to_owned();
            return Err(HyperError::Combination { algorithm: Self::NAME, problem });
        }
        Ok(())
    }
}
