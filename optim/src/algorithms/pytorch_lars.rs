//! PytorchLARS: torch's SGD whose step is clipped to a part of the parameter's norm.

use super::prelude::*;
use super::trust_ratio::shortened;

hyperparameters! {
    /// PytorchLARS: torch's SGD whose step is clipped to a part of the parameter's norm.
    ///
    /// ```text
    /// g  = g + λ θₜ₋₁                                   (L2 decay)
    /// bₜ = μ bₜ₋₁ + (1 − τ) g                           (b₁ = g)
    /// uₜ = bₜ                                           (Nesterov: g + μ bₜ; without momentum: g)
    /// s  = min(1, ρ ‖θₜ₋₁‖ / ‖uₜ‖)                      (1 without ρ)
    /// θₜ = θₜ₋₁ − γ s uₜ
    /// ```
    ///
    /// with γ = `lr`, μ = `momentum`, τ = `dampening`, λ = `weight_decay`, ρ = `max_unorm`. The state `momentum` is
    /// b, and the norms are those of one tensor. State: none without momentum, else 4 bytes a parameter in `f32`.
    ///
    /// ```
    /// # use fallline_optim::algorithms::PytorchLars;
    /// let algorithm = PytorchLars { lr: 0.1, momentum: 0.9, nesterov: true, ..PytorchLars::default() };
    /// ```
    pub PytorchLars as "PytorchLARS" {
        /// Learning rate γ.
        lr: f64 = 1e-2, Range::AtLeast(0.0);
        /// Momentum μ: how much of the last direction is kept; 0 keeps no state.
        momentum: f64 = 0.0, Range::AtLeast(0.0);
        /// Dampening τ: how much of the gradient the momentum leaves out, from the second step on.
        dampening: f64 = 0.0, Range::Any;
        /// Weight decay λ: added to the gradient as λθ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Nesterov's momentum: look ahead by one more step.
        nesterov: bool = false, Range::Any;
        /// The largest norm ρ that u may have, in units of the parameter's; 0 leaves it as it is.
        max_unorm: f64 = 0.02, Range::AtLeast(0.0);
    }
}

rule! {
    /// The first pass of [`PytorchLars`] without momentum: the norms of the update and the parameter.
    pub PytorchLarsNormsRule(h: PytorchLars, t) {
        let mu = h.momentum;
        let one_minus_tau = if t == 1 { 1.0 } else { 1.0 - h.dampening };
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
        let nesterov = flag(h.nesterov);
    }
    element(grad: Grad, p: Param) -> () sum(update2, param2) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        update2 = g * g;
        param2 = p * p;
    }
    or
    /// The first pass of [`PytorchLars`] with momentum.
    pub PytorchLarsMomentumRule
    element(grad: Grad, p: Param) -> (momentum: State) sum(update2, param2) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        momentum = mu * momentum + one_minus_tau * g;
        let u = Vector::select_if(nesterov, g + mu * momentum, momentum);
        update2 = u * u;
        param2 = p * p;
    }
}

rule! {
    /// The second pass of [`PytorchLars`] without momentum.
    pub PytorchLarsRule(h: PytorchLars, t) {
        let mu = h.momentum;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    per_tensor(step_size) reads PytorchLarsNormsRule(update2, param2) {
        each(at) {
            let lr = h.lr;
            let max_unorm = h.max_unorm;
        }
        tensor {
            let step_size = lr * shortened(update2.sqrt(), param2.sqrt(), max_unorm);
        }
    }
    element(grad: Grad) -> (p: Param) {
        p = p - step_size * Vector::select_if(decays, grad + weight_decay * p, grad);
    }
    or
    /// The second pass of [`PytorchLars`] with Nesterov's momentum.
    pub PytorchLarsNesterovRule
    element(grad: Grad, momentum: State) -> (p: Param) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        p = p - step_size * (g + mu * momentum);
    }
}

rule! {
    /// The second pass of [`PytorchLars`] with momentum.
    pub PytorchLarsStepRule(h: PytorchLars, t) {}
    per_tensor(step_size) reads PytorchLarsMomentumRule(update2, param2) {
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

impl Algorithm for PytorchLars {
    const INFO: Info = Info {
        summary: "torch's SGD whose step is clipped to a part of the parameter's norm.",
        family: "layer-wise",
        source: "bitsandbytes",
        differences: "bitsandbytes fails without momentum (its default) and on f64; here the step is then along the \
            gradient, and f64 works. Unlike in the paper the ratio of the norms only ever shortens the step.",
        references: &[papers::LARS, Reference::new("bitsandbytes.optim.PytorchLARS", "bitsandbytes 0.50.2")],
    };

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        if self.momentum <= 0.0 {
            return Ok(on.pass::<PytorchLarsNormsRule>().pass::<PytorchLarsRule>());
        }
        let moments = on.pass::<PytorchLarsMomentumRule>();
        Ok(match self.nesterov {
            true => moments.pass::<PytorchLarsNesterovRule>(),
            false => moments.pass::<PytorchLarsStepRule>(),
        })
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        if self.nesterov && (self.momentum <= 0.0 || self.dampening != 0.0) {
            let problem = format!(
                "nesterov needs a momentum and zero dampening, got momentum {} and dampening {}",
                self.momentum, self.dampening
            );
            return Err(HyperError::Combination { algorithm: Self::NAME, problem });
        }
        Ok(())
    }
}
