//! LARS as bitsandbytes has it: momentum whose step is clipped to a part of the parameter's norm.

use super::bnb;
use super::prelude::*;
use super::trust_ratio::shortened;
use fallline_core::{Codes, Shape};

hyperparameters! {
    /// LARS as bitsandbytes has it: momentum whose step is clipped to a part of the parameter's norm.
    ///
    /// ```text
    /// g  = g + λ θₜ₋₁                                   (L2 decay)
    /// bₜ = μ bₜ₋₁ + g
    /// s  = min(1, ρ ‖θₜ₋₁‖ / ‖bₜ‖)                      (1 without ρ)
    /// θₜ = θₜ₋₁ − γ s bₜ
    /// ```
    ///
    /// with γ = `lr`, μ = `momentum`, λ = `weight_decay`, ρ = `max_unorm`. The state `momentum` is b, and the norms
    /// are those of one tensor. Two passes: the first moves g, θ and b and sums up the norms, the second b and θ.
    /// State: 4 bytes a parameter in `f32`.
    ///
    /// ```
    /// # use fallline_optim::algorithms::Lars;
    /// let algorithm = Lars { lr: 0.1, weight_decay: 1e-4, ..Lars::default() };
    /// ```
    pub Lars as "LARS" {
        /// Learning rate γ. bitsandbytes has no default for it.
        lr: f64 = 1e-2, Range::AtLeast(0.0);
        /// Momentum μ: how much of the last direction is kept. bitsandbytes' default, 0, is one that it refuses.
        momentum: f64 = 0.9, Range::HalfOpen(0.0, 1.0);
        /// Weight decay λ: added to the gradient as λθ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// The largest norm ρ that b may have, in units of the parameter's; 0 leaves it as it is.
        max_unorm: f64 = 0.02, Range::AtLeast(0.0);
        /// 8 keeps the state in 8 bits, blocks of 256 with bitsandbytes' dynamic codes; 32 in the compute type.
        optim_bits: i64 = 32, Range::Closed(8.0, 32.0);
        /// Parameters with fewer elements keep their state in the compute type, whatever `optim_bits` says.
        min_8bit_size: i64 = 4096, Range::Any;
        /// Clip the step where the state is in 8 bits too, as the paper has it; bitsandbytes does not.
        quantised_trust_ratio: bool = false, Range::Any;
    }
    accepted { args: () }
    fixed {
        dampening: f64 = 0.0, "bitsandbytes does not dampen, whatever it says; PytorchLARS does";
        nesterov: bool = false, "bitsandbytes does not look ahead, whatever it says; PytorchLARS does";
    }
}

rule! {
    /// The first pass of [`Lars`]: the momentum, its norm and the parameter's.
    pub LarsMomentumRule(h: Lars, t) {
        let mu = h.momentum;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    element(grad: Grad, p: Param) -> (momentum: State) sum(update2, param2) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        momentum = mu * momentum + g;
        update2 = momentum * momentum;
        param2 = p * p;
    }
}

rule! {
    /// The second pass of [`Lars`]: the parameter.
    pub LarsRule(h: Lars, t) {}
    per_tensor(step_size) reads LarsMomentumRule(update2, param2) {
        each(at) {
            let lr = h.lr;
            let max_unorm = h.max_unorm;
        }
        tensor {
            let step_size = lr * shortened(update2.sqrt(), param2.sqrt(), max_unorm);
        }
    }
    element(momentum: State) -> (p: Param) {
        p = p - step_size * momentum;
    }
}

rule! {
    /// One step of [`Lars`] with its state in 8 bits as bitsandbytes takes it: momentum's.
    pub LarsQuantisedRule(h: Lars, t) {
        let lr = h.lr;
        let mu = h.momentum;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    element(grad: Grad) -> (p: Param, momentum: State) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        momentum = mu * momentum + g;
        p = p - lr * momentum;
    }
}

/// Parameters whose state is in 8 bits.
const QUANTISED: Variant = Variant(1);

impl Algorithm for Lars {
    const INFO: Info = Info {
        summary: "Momentum whose step is clipped to a part of the parameter's norm.",
        family: "layer-wise",
        source: "bitsandbytes",
        differences: "Unlike in the paper the ratio of the norms only ever shortens the step. The norm is that of the \
            momentum with the decay in it, as in bitsandbytes on the CPU; on CUDA it leaves out the decay of the last \
            step. bitsandbytes refuses its own default momentum, 0; here 0.9 is the default. dampening and nesterov, \
            which it ignores, are refused. A state in 8 bits has no clipping, as in bitsandbytes, whose code for it is \
            not given max_unorm (quantised_trust_ratio=True clips).",
        references: &[papers::LARS, Reference::new("bitsandbytes.optim.LARS", "bitsandbytes 0.50.2")],
    };

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        if on.variant == QUANTISED && !self.quantised_trust_ratio {
            return Ok(on.pass::<LarsQuantisedRule>());
        }
        Ok(on.pass::<LarsMomentumRule>().pass::<LarsRule>())
    }

    fn variant(&self, _name: &str, shape: &Shape) -> Result<Variant, String> {
        let quantised = bnb::quantised(self.optim_bits, self.min_8bit_size, shape.elements());
        Ok(if quantised { QUANTISED } else { Variant::ONLY })
    }

    fn storage(&self) -> StorageDefaults {
        bnb::storage(self.optim_bits, self.min_8bit_size, Codes::Signed)
    }

    fn check(&mut self, first: bool) -> Result<(), HyperError> {
        if first && self.momentum <= 0.0 {
            let problem = "LARS without momentum is not supported; PytorchLARS is".to_owned();
            return Err(HyperError::Combination { algorithm: Self::NAME, problem });
        }
        bnb::check_bits(Self::NAME, self.optim_bits)
    }
}

alias! {
    /// [`Lars`] by the name under which bitsandbytes always keeps its state in 32 bits.
    ///
    /// ```
    /// # use fallline_optim::algorithms::{Lars, Lars32bit};
    /// let algorithm = Lars32bit(Lars { lr: 0.1, ..Lars::default() });
    /// ```
    pub Lars32bit as "LARS32bit" is Lars,
        without { optim_bits, quantised_trust_ratio },
        accepted { min_8bit_size: i64 = 4096, Range::Any }
}

alias! {
    /// [`Lars`] with its state in 8 bits.
    pub Lars8bit as "LARS8bit" is Lars, with { optim_bits = 8 }, without { optim_bits }
}
