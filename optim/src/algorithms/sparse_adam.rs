//! SparseAdam: Adam on the rows that have a gradient.

use super::learning_rate::needs_lr;
use super::prelude::*;

hyperparameters! {
    /// SparseAdam: Adam on the rows that have a gradient.
    ///
    /// ```text
    /// mₜ = mₜ₋₁ + (1 − β₁) (g − mₜ₋₁)
    /// vₜ = vₜ₋₁ + (1 − β₂) (g² − vₜ₋₁)
    /// θₜ = θₜ₋₁ − γ √(1 − β₂ᵗ) / (1 − β₁ᵗ) · mₜ / (√vₜ + ε)
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ε = `eps`, for the rows that a row-sparse gradient ([`rows`](crate::rows))
    /// names. All others, of the parameter and of its states, are neither read nor written, so that a step costs
    /// what these rows cost. The count t is of the parameter's gradients, including those that do not name the row
    /// and those that name none. Dense gradients are refused. State: 8 bytes a parameter in `f32` (`m`, `v`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::SparseAdam;
    /// let algorithm = SparseAdam { lr: 0.01, ..SparseAdam::default() };
    /// ```
    pub SparseAdam as "SparseAdam" {
        /// Learning rate γ; above 0 at first, a schedule may end at 0.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Decay rates β₁ and β₂ of the averages, for each gradient that names the row.
        betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::Above(0.0);
        /// Maximize the objective.
        maximize: bool = false, Range::Any;
    }
}

rule! {
    /// One step of [`SparseAdam`].
    pub SparseAdamRule(h: SparseAdam, t) {
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let rate = h.lr * sqrt(1.0 - pow(h.betas.1, t)) / (1.0 - pow(h.betas.0, t));
        let eps = h.eps;
    }
    element(g: Grad) -> (p: Param, m: State, v: State) {
        m = m + one_minus_beta1 * (g - m);
        v = v + one_minus_beta2 * (g * g - v);
        p = p - rate * (m / (v.sqrt() + eps));
    }
}

impl Algorithm for SparseAdam {
    const INFO: Info = Info {
        summary: "Adam on the rows that have a gradient.",
        family: "adaptive",
        source: "torch.optim",
        differences: "None. The paper has no rule for sparse gradients.",
        references: &[papers::ADAM, Reference::new("torch.optim.SparseAdam", "torch 2.15.0")],
    };

    const STATES: &'static [State<Self>] = &[State::second_moment("v")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<SparseAdamRule>())
    }

    fn check(&mut self, first: bool) -> Result<(), HyperError> {
        if first { needs_lr(Self::NAME, self.lr) } else { Ok(()) }
    }

    fn sparse(&self) -> Sparse {
        Sparse::RowsOnly
    }
}
