//! Adagrad as bitsandbytes has it, state in 32 bits.

use super::prelude::*;
use crate::algorithms::bnb;
use fallline_core::Codes;

hyperparameters! {
    /// Adagrad as bitsandbytes has it, state in 32 bits.
    ///
    /// ```text
    /// g  = g + λ θₜ₋₁                  (L2 decay)
    /// sₜ = sₜ₋₁ + g²
    /// θₜ = θₜ₋₁ − γ g / (√sₜ + ε)
    /// ```
    ///
    /// with γ = `lr`, λ = `weight_decay`, ε = `eps`. The state `sum` is s. State: 4 bytes a parameter in `f32`.
    ///
    /// ```
    /// # use fallline_optim::algorithms::BnbAdagrad;
    /// let algorithm = BnbAdagrad { lr: 0.1, ..BnbAdagrad::default() };
    /// ```
    pub BnbAdagrad as "bnb_Adagrad" {
        /// Learning rate γ.
        lr: f64 = 1e-2, Range::AtLeast(0.0);
        /// Weight decay λ: added to the gradient as λθ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Added to the denominator.
        eps: f64 = 1e-10, Range::AtLeast(0.0);
        /// 8 keeps states in 8 bits, blocks of 256 with bitsandbytes' dynamic codes; 32 in the compute type.
        optim_bits: i64 = 32, Range::Closed(8.0, 32.0);
        /// Parameters with fewer elements keep their states in the compute type, whatever `optim_bits` says.
        min_8bit_size: i64 = 4096, Range::Any;
    }
    accepted {
        lr_decay: f64 = 0.0, Range::Closed(0.0, 0.0),
        initial_accumulator_value: f64 = 0.0, Range::Closed(0.0, 0.0),
        args: (),
    }
}

alias! {
    /// bitsandbytes' `Adagrad32bit`: [`BnbAdagrad`] always in 32 bits.
    pub Adagrad32bit as "Adagrad32bit" is BnbAdagrad,
        accepted { min_8bit_size: i64 = 4096, Range::Any },
        fixed { optim_bits: i64 = 32, "its states are always in 32 bits" }
}

alias! {
    /// bitsandbytes' `Adagrad8bit`: [`BnbAdagrad`] with its state in 8 bits.
    pub Adagrad8bit as "Adagrad8bit" is BnbAdagrad,
        with { optim_bits = 8 },
        fixed { optim_bits: i64 = 8, "its states are always in 8 bits" }
}

rule! {
    /// One step of [`BnbAdagrad`].
    pub BnbAdagradRule(h: BnbAdagrad, t) {
        let lr = h.lr;
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    element(grad: Grad) -> (p: Param, sum: State) {
        let g = Vector::select_if(decays, grad + p * weight_decay, grad);
        sum = sum + g * g;
        p = p - lr * (g / (sum.sqrt() + eps));
    }
}

impl Algorithm for BnbAdagrad {
    const INFO: Info = Info {
        summary: "Each element's steps shrink with the gradients that it has seen, as bitsandbytes has it.",
        family: "adaptive",
        source: "bitsandbytes",
        differences: "lr_decay and initial_accumulator_value must be 0, as in bitsandbytes. Adagrad32bit takes \
            optim_bits=32 only, where bitsandbytes ignores the value; its CUDA kernel divides approximately.",
        references: &[
            Reference::new(
                "Duchi, Hazan & Singer 2011, Adaptive Subgradient Methods for Online Learning and \
                    Stochastic Optimization",
                "JMLR 12:2121-2159",
            ),
            Reference::new("bitsandbytes.optim: Adagrad, Adagrad32bit", "bitsandbytes 0.50.2"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("sum")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<BnbAdagradRule>())
    }

    fn storage(&self) -> StorageDefaults {
        bnb::storage(self.optim_bits, self.min_8bit_size, Codes::Signed)
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        bnb::check_bits(Self::NAME, self.optim_bits)
    }
}
