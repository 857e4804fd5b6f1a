//! Adagrad: each element's steps shrink with the gradients that it has seen.

use super::prelude::*;

hyperparameters! {
    /// Adagrad: each element's steps shrink with the gradients that it has seen.
    ///
    /// ```text
    /// g  = g + λ θₜ₋₁                            (L2 decay)
    /// sₜ = sₜ₋₁ + g²                             (s₀ = τ)
    /// θₜ = θₜ₋₁ − γ / (1 + (t − 1) η) · g / (√sₜ + ε)
    /// ```
    ///
    /// with γ = `lr`, η = `lr_decay`, λ = `weight_decay`, τ = `initial_accumulator_value`, ε = `eps`. The state
    /// `sum` is s. State: 4 bytes a parameter in `f32`.
    ///
    /// ```
    /// # use fallline_optim::algorithms::Adagrad;
    /// let algorithm = Adagrad { initial_accumulator_value: 0.1, ..Adagrad::default() };
    /// ```
    pub Adagrad as "Adagrad" {
        /// Learning rate γ.
        lr: f64 = 1e-2, Range::AtLeast(0.0);
        /// How fast the learning rate itself decays, η.
        lr_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Weight decay λ: added to the gradient as λθ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// What the sum of squares starts from, τ.
        initial_accumulator_value: f64 = 0.0, Range::AtLeast(0.0);
        /// Added to the denominator.
        eps: f64 = 1e-10, Range::AtLeast(0.0);
        /// Maximize the objective.
        maximize: bool = false, Range::Any;
    }
    accepted { foreach: Option<bool>, differentiable: bool, fused: Option<bool> }
}

rule! {
    /// One step of [`Adagrad`].
    pub AdagradRule(h: Adagrad, t) {
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
        let rate = h.lr / (1.0 + (t - 1) as f64 * h.lr_decay);
        let eps = h.eps;
    }
    element(grad: Grad) -> (p: Param, sum: State) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        sum = sum + g * g;
        p = p - rate * g / (sum.sqrt() + eps);
    }
}

impl Algorithm for Adagrad {
    const INFO: Info = Info {
        summary: "Each element's steps shrink with the gradients that it has seen.",
        family: "adaptive",
        source: "torch.optim",
        differences: "None. The paper has neither lr_decay nor a start value of the sum.",
        references: &[
            Reference::new(
                "Duchi, Hazan & Singer 2011, Adaptive Subgradient Methods for Online Learning and \
                    Stochastic Optimization",
                "JMLR 12:2121-2159",
            ),
            Reference::new("torch.optim.Adagrad", "torch 2.15.0"),
        ],
    };
    const STATES: &'static [State<Self>] =
        &[State::second_moment("sum").starts_at(|h: &Self| h.initial_accumulator_value)];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<AdagradRule>())
    }

    fn sparse(&self) -> Sparse {
        match self.weight_decay > 0.0 {
            true => Sparse::RefusedFor("takes row-sparse gradients only without weight_decay"),
            false => Sparse::Rows,
        }
    }
}
