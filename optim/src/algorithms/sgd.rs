//! SGD: gradient descent, with momentum.

use super::prelude::*;

hyperparameters! {
    /// SGD: gradient descent, with momentum.
    ///
    /// ```text
    /// g  = g + λ θₜ₋₁                  (L2 decay)
    /// bₜ = μ bₜ₋₁ + (1 − τ) g          (b₁ = g)
    /// θₜ = θₜ₋₁ − γ bₜ                 (Nesterov: g + μ bₜ instead of bₜ; without momentum: g)
    /// ```
    ///
    /// with γ = `lr`, μ = `momentum`, τ = `dampening`, λ = `weight_decay`. The state `momentum` is b. State: none
    /// without momentum, else 4 bytes a parameter in `f32`.
    ///
    /// ```
    /// # use fallline_optim::algorithms::Sgd;
    /// let algorithm = Sgd { lr: 0.1, momentum: 0.9, nesterov: true, ..Sgd::default() };
    /// ```
    pub Sgd as "SGD" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Momentum μ: how much of the last direction is kept; 0 keeps no state.
        momentum: f64 = 0.0, Range::AtLeast(0.0);
        /// Dampening τ: how much of the gradient the momentum leaves out, from the second step on.
        dampening: f64 = 0.0, Range::Any;
        /// Weight decay λ: added to the gradient as λθ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Nesterov's momentum: look ahead by one more step.
        nesterov: bool = false, Range::Any;
        /// Maximize the objective.
        maximize: bool = false, Range::Any;
    }
    accepted { foreach: Option<bool>, differentiable: bool, fused: Option<bool> }
}

rule! {
    /// One step of [`Sgd`] without momentum.
    pub SgdRule(h: Sgd, t) {
        let lr = h.lr;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    element(grad: Grad) -> (p: Param) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        p = p - lr * g;
    }
}

rule! {
    /// One step of [`Sgd`] with momentum.
    pub SgdMomentumRule(h: Sgd, t) {
        let lr = h.lr;
        let mu = h.momentum;
        let one_minus_tau = if t == 1 { 1.0 } else { 1.0 - h.dampening };
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
        let nesterov = flag(h.nesterov);
    }
    element(grad: Grad) -> (p: Param, momentum: State) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        momentum = mu * momentum + one_minus_tau * g;
        p = p - lr * Vector::select_if(nesterov, g + mu * momentum, momentum);
    }
}

impl Algorithm for Sgd {
    const INFO: Info = Info {
        summary: "Gradient descent, with momentum.",
        family: "momentum",
        source: "torch.optim",
        differences: "The learning rate multiplies the momentum, not the gradient in it, as in torch and unlike \
            Sutskever et al.; the first gradient enters the momentum undampened.",
        references: &[
            Reference::new(
                "Polyak 1964, Some methods of speeding up the convergence of iteration methods",
                "doi:10.1016/0041-5553(64)90137-5",
            ),
            Reference::new(
                "Sutskever et al. 2013, On the importance of initialization and momentum in deep learning",
                "ICML 2013",
            ),
            Reference::new("torch.optim.SGD", "torch 2.15.0"),
        ],
    };

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(if self.momentum > 0.0 { on.pass::<SgdMomentumRule>() } else { on.pass::<SgdRule>() })
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

    fn sparse(&self) -> Sparse {
        match (self.weight_decay > 0.0, self.momentum > 0.0) {
            (true, _) => Sparse::RefusedFor("takes row-sparse gradients only without weight_decay"),
            // The momentum of the other rows continues.
            (false, true) => Sparse::AsDense,
            (false, false) => Sparse::Rows,
        }
    }
}
