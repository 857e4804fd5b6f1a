//! SGD with momentum as bitsandbytes has it, state in 32 bits.

use super::prelude::*;
use crate::algorithms::bnb;
use fallline_core::Codes;

hyperparameters! {
    /// SGD with momentum as bitsandbytes has it, state in 32 bits.
    ///
    /// ```text
    /// g  = g + λ θₜ₋₁                  (L2 decay)
    /// bₜ = μ bₜ₋₁ + g
    /// θₜ = θₜ₋₁ − γ bₜ
    /// ```
    ///
    /// with γ = `lr`, μ = `momentum`, λ = `weight_decay`. The state `momentum` is b. State: 4 bytes a parameter in
    /// `f32`.
    ///
    /// ```
    /// # use fallline_optim::algorithms::BnbSgd;
    /// let algorithm = BnbSgd { lr: 0.1, momentum: 0.9, ..BnbSgd::default() };
    /// ```
    pub BnbSgd as "bnb_SGD" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Momentum μ: how much of the last direction is kept; above 0.
        momentum: f64 = 0.9, Range::HalfOpen(0.0, 1.0);
        /// Weight decay λ: added to the gradient as λθ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// 8 keeps states in 8 bits, blocks of 256 with bitsandbytes' dynamic codes; 32 in the compute type.
        optim_bits: i64 = 32, Range::Closed(8.0, 32.0);
        /// Parameters with fewer elements keep their states in the compute type, whatever `optim_bits` says.
        min_8bit_size: i64 = 4096, Range::Any;
    }
    accepted {
        dampening: f64 = 0.0, Range::HalfOpen(0.0, 1.0),
        nesterov: bool,
        args: (),
    }
}

alias! {
    /// bitsandbytes' `SGD32bit`: [`BnbSgd`] always in 32 bits.
    pub Sgd32bit as "SGD32bit" is BnbSgd,
        without { optim_bits },
        accepted { min_8bit_size: i64 = 4096, Range::Any }
}

alias! {
    /// bitsandbytes' `SGD8bit`: [`BnbSgd`] with its state in 8 bits.
    pub Sgd8bit as "SGD8bit" is BnbSgd,
        with { optim_bits = 8 },
        without { optim_bits }
}

rule! {
    /// One step of [`BnbSgd`].
    pub BnbSgdRule(h: BnbSgd, t) {
        let lr = h.lr;
        let mu = h.momentum;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    element(grad: Grad) -> (p: Param, momentum: State) {
        let g = Vector::select_if(decays, grad + p * weight_decay, grad);
        momentum = momentum * mu + g;
        p = p - lr * momentum;
    }
}

impl Algorithm for BnbSgd {
    const INFO: Info = Info {
        summary: "Gradient descent with momentum, as bitsandbytes has it.",
        family: "momentum",
        source: "bitsandbytes",
        differences: "bitsandbytes has no default lr and refuses its default momentum, 0: here they are 1e-3 and \
            0.9, and a momentum of 0 is refused when it is given. dampening and nesterov are taken and ignored, as \
            there; SGD has them.",
        references: &[
            Reference::new(
                "Polyak 1964, Some methods of speeding up the convergence of iteration methods",
                "doi:10.1016/0041-5553(64)90137-5",
            ),
            Reference::new("bitsandbytes.optim: SGD, SGD32bit", "bitsandbytes 0.50.2"),
        ],
    };

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<BnbSgdRule>())
    }

    fn storage(&self) -> StorageDefaults {
        bnb::storage(self.optim_bits, self.min_8bit_size, Codes::Signed)
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        bnb::check_bits(Self::NAME, self.optim_bits)?;
        if self.momentum > 0.0 {
            return Ok(());
        }
        let problem = "momentum=0 is not supported; SGD has it".to_owned();
        Err(HyperError::Combination { algorithm: Self::NAME, problem })
    }
}
