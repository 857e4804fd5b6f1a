//! Lion as bitsandbytes has it, state in 32 bits.

use super::prelude::*;
use crate::algorithms::bnb;
use fallline_core::Codes;

hyperparameters! {
    /// Lion as bitsandbytes has it, state in 32 bits.
    ///
    /// ```text
    /// θₜ = (1 − γλ) θₜ₋₁ − γ sign(β₁ mₜ₋₁ + (1 − β₁) g)
    /// mₜ = β₂ mₜ₋₁ + (1 − β₂) g
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, λ = `weight_decay`. State: 4 bytes a parameter in `f32` (`m`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::BnbLion;
    /// let algorithm = BnbLion { weight_decay: 0.1, ..BnbLion::default() };
    /// ```
    pub BnbLion as "bnb_Lion" {
        /// Learning rate γ: the length of every step, for every element.
        lr: f64 = 1e-4, Range::AtLeast(0.0);
        /// β₁ of the direction and β₂ of the average that is kept.
        betas: (f64, f64) = (0.9, 0.99), Range::HalfOpen(0.0, 1.0);
        /// Weight decay λ, multiplied by `lr`.
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
        args: (),
    }
}

alias! {
    /// bitsandbytes' `Lion32bit`: [`BnbLion`] always in 32 bits.
    pub Lion32bit as "Lion32bit" is BnbLion,
        without { optim_bits },
        accepted { min_8bit_size: i64 = 4096, Range::Any }
}

alias! {
    /// bitsandbytes' `Lion8bit`: [`BnbLion`] with its state in 8 bits.
    pub Lion8bit as "Lion8bit" is BnbLion,
        with { optim_bits = 8 },
        without { optim_bits }
}

alias! {
    /// bitsandbytes' `PagedLion`: [`BnbLion`] with its state in a file.
    pub PagedLion as "PagedLion" is BnbLion,
        with { is_paged = true },
        without { is_paged }
}

alias! {
    /// bitsandbytes' `PagedLion8bit`: [`BnbLion`] with its state in 8 bits in a file.
    pub PagedLion8bit as "PagedLion8bit" is BnbLion,
        with { optim_bits = 8, is_paged = true },
        without { optim_bits, is_paged }
}

alias! {
    /// bitsandbytes' `PagedLion32bit`: [`BnbLion`] with its state in 32 bits in a file.
    pub PagedLion32bit as "PagedLion32bit" is BnbLion,
        with { is_paged = true },
        without { optim_bits, is_paged },
        accepted { min_8bit_size: i64 = 4096, Range::Any }
}

rule! {
    /// One step of [`BnbLion`].
    pub BnbLionRule(h: BnbLion, t) {
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let lr = h.lr;
        let keep = 1.0 - h.lr * h.weight_decay;
    }
    element(g: Grad) -> (p: Param, m: State) {
        p = keep * p - lr * (m * beta1 + one_minus_beta1 * g).sign();
        m = m * beta2 + one_minus_beta2 * g;
    }
}

impl Algorithm for BnbLion {
    const INFO: Info = Info {
        summary: "Steps of exactly the size lr, in the direction of a sign, as bitsandbytes has it.",
        family: "sign",
        source: "bitsandbytes",
        differences: "None: since 0.50 bitsandbytes decays the parameter, not the gradient.",
        references: &[
            papers::LION,
            Reference::new("bitsandbytes.optim: Lion, Lion32bit", "bitsandbytes 0.50.2"),
        ],
    };

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<BnbLionRule>())
    }

    fn storage(&self) -> StorageDefaults {
        StorageDefaults {
            paged: self.is_paged,
            ..bnb::storage(self.optim_bits, self.min_8bit_size, Codes::Signed)
        }
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        bnb::check_bits(Self::NAME, self.optim_bits)
    }
}
