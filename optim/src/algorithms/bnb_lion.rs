//! Lion as bitsandbytes has it, state in 32 bits.

use crate::hyper::Range;
use crate::{Algorithm, Info, Reference, hyperparameters, renamed};
use fallline_core::{Kernel, Link, rule};

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
        /// Weight decay λ, in units of `lr`.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
    }
    accepted {
        optim_bits: i64 = 32, Range::Closed(32.0, 32.0),
        args: (),
        min_8bit_size: i64 = 4096, Range::Any,
        is_paged: bool,
    }
}

renamed! {
    /// bitsandbytes' `Lion32bit`: [`BnbLion`].
    pub Lion32bit as "Lion32bit" is BnbLion, without { optim_bits }
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
            Reference {
                text: "Chen et al. 2023, Symbolic Discovery of Optimization Algorithms",
                at: "arXiv:2302.06675",
            },
            Reference { text: "bitsandbytes.optim: Lion, Lion32bit", at: "bitsandbytes 0.50.2" },
        ],
    };

    fn kernel<K: Link>(&self) -> &'static Kernel {
        K::kernel::<BnbLionRule>()
    }
}
