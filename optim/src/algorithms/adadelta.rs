//! Adadelta: steps as large as recent steps were, for gradients as large as recent gradients were.

use super::prelude::*;

hyperparameters! {
    /// Adadelta: steps as large as recent steps were, for gradients as large as recent gradients were.
    ///
    /// ```text
    /// g  = g + λ θₜ₋₁                       (L2 decay)
    /// vₜ = ρ vₜ₋₁ + (1 − ρ) g²
    /// Δ  = √(uₜ₋₁ + ε) / √(vₜ + ε) · g
    /// uₜ = ρ uₜ₋₁ + (1 − ρ) Δ²
    /// θₜ = θₜ₋₁ − γ Δ
    /// ```
    ///
    /// with γ = `lr`, ρ = `rho`, ε = `eps`, λ = `weight_decay`. State: 8 bytes a parameter in `f32`
    /// (`v` of the gradients, `u` of the steps).
    ///
    /// ```
    /// # use fallline_optim::algorithms::Adadelta;
    /// let algorithm = Adadelta { rho: 0.95, ..Adadelta::default() };
    /// ```
    pub Adadelta as "Adadelta" {
        /// Learning rate γ; the paper's is 1.
        lr: f64 = 1.0, Range::AtLeast(0.0);
        /// Decay rate ρ of both running averages.
        rho: f64 = 0.9, Range::Closed(0.0, 1.0);
        /// Added under both roots.
        eps: f64 = 1e-6, Range::AtLeast(0.0);
        /// Weight decay λ: added to the gradient as λθ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Maximize the objective.
        maximize: bool = false, Range::Any;
    }
    accepted { foreach: Option<bool>, capturable: bool, differentiable: bool }
}

rule! {
    /// One step of [`Adadelta`].
    pub AdadeltaRule(h: Adadelta, t) {
        let lr = h.lr;
        let rho = h.rho;
        let one_minus_rho = 1.0 - h.rho;
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    element(grad: Grad) -> (p: Param, v: State, u: State) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        v = rho * v + one_minus_rho * g * g;
        let delta = (u + eps).sqrt() / (v + eps).sqrt() * g;
        u = rho * u + one_minus_rho * delta * delta;
        p = p - lr * delta;
    }
}

impl Algorithm for Adadelta {
    const INFO: Info = Info {
        summary: "Steps as large as recent steps were, for gradients as large as recent gradients were.",
        family: "adaptive",
        source: "torch.optim",
        differences: "None. The paper has no learning rate: with lr=1 it is the paper's.",
        references: &[
            Reference::new("Zeiler 2012, ADADELTA: An Adaptive Learning Rate Method", "arXiv:1212.5701"),
            Reference::new("torch.optim.Adadelta", "torch 2.15.0"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v"), State::second_moment("u")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<AdadeltaRule>())
    }
}
