//! RMSprop as bitsandbytes has it, state in 32 bits.

use super::prelude::*;
use crate::algorithms::bnb;
use fallline_core::Codes;

hyperparameters! {
    /// RMSprop as bitsandbytes has it, state in 32 bits.
    ///
    /// ```text
    /// g  = g + λ θₜ₋₁                       (L2 decay)
    /// vₜ = α vₜ₋₁ + (1 − α) g²
    /// θₜ = θₜ₋₁ − γ g / (√vₜ + ε)
    /// ```
    ///
    /// with γ = `lr`, α = `alpha`, ε = `eps`, λ = `weight_decay`. State: 4 bytes a parameter in `f32` (`v`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::BnbRmsProp;
    /// let algorithm = BnbRmsProp { alpha: 0.9, ..BnbRmsProp::default() };
    /// ```
    pub BnbRmsProp as "bnb_RMSprop" {
        /// Learning rate γ.
        lr: f64 = 1e-2, Range::AtLeast(0.0);
        /// Decay rate α of the running average of squares; above 0.
        alpha: f64 = 0.99, Range::HalfOpen(0.0, 1.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// Weight decay λ: added to the gradient as λθ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Must be off: bitsandbytes has no centered form.
        centered: bool = false, Range::Any;
        /// 8 keeps states in 8 bits, blocks of 256 with bitsandbytes' dynamic codes; 32 in the compute type.
        optim_bits: i64 = 32, Range::Closed(8.0, 32.0);
        /// Parameters with fewer elements keep their states in the compute type, whatever `optim_bits` says.
        min_8bit_size: i64 = 4096, Range::Any;
    }
    accepted {
        momentum: f64 = 0.0, Range::HalfOpen(0.0, 1.0),
        args: (),
    }
}

alias! {
    /// bitsandbytes' `RMSprop32bit`: [`BnbRmsProp`] always in 32 bits.
    pub RmsProp32bit as "RMSprop32bit" is BnbRmsProp,
        without { optim_bits },
        accepted { min_8bit_size: i64 = 4096, Range::Any }
}

alias! {
    /// bitsandbytes' `RMSprop8bit`: [`BnbRmsProp`] with its state in 8 bits.
    pub RmsProp8bit as "RMSprop8bit" is BnbRmsProp,
        with { optim_bits = 8 },
        without { optim_bits }
}

rule! {
    /// One step of [`BnbRmsProp`].
    pub BnbRmsPropRule(h: BnbRmsProp, t) {
        let lr = h.lr;
        let alpha = h.alpha;
        let one_minus_alpha = 1.0 - h.alpha;
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    element(grad: Grad) -> (p: Param, v: State) {
        let g = Vector::select_if(decays, grad + p * weight_decay, grad);
        v = v * alpha + one_minus_alpha * g * g;
        p = p - lr * (g / (v.sqrt() + eps));
    }
}

impl Algorithm for BnbRmsProp {
    const INFO: Info = Info {
        summary: "Gradients divided by their recent size, as bitsandbytes has it.",
        family: "adaptive",
        source: "bitsandbytes",
        differences: "momentum is taken, checked and ignored, as in bitsandbytes; RMSprop has it. The CUDA kernel \
            of bitsandbytes divides approximately.",
        references: &[
            Reference::new(
                "Tieleman & Hinton 2012, Lecture 6.5: rmsprop",
                "Coursera, Neural Networks for Machine Learning",
            ),
            Reference::new("bitsandbytes.optim: RMSprop, RMSprop32bit", "bitsandbytes 0.50.2"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<BnbRmsPropRule>())
    }

    fn storage(&self) -> StorageDefaults {
        bnb::storage(self.optim_bits, self.min_8bit_size, Codes::Signed)
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        bnb::check_bits(Self::NAME, self.optim_bits)?;
        let problem = match (self.alpha > 0.0, self.centered) {
            (true, false) => return Ok(()),
            (false, _) => "alpha=0 is not supported",
            (_, true) => "centered is not supported; RMSprop has it",
        };
        Err(HyperError::Combination { algorithm: Self::NAME, problem: problem.to_owned() })
    }
}
