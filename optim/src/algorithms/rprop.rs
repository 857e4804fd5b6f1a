//! Rprop: each element's step grows while its gradient keeps its sign, and shrinks when it turns.

use super::prelude::*;

hyperparameters! {
    /// Rprop: each element's step grows while its gradient keeps its sign, and shrinks when it turns.
    ///
    /// ```text
    /// s  = g hₜ₋₁
    /// Δₜ = clamp(Δₜ₋₁ · η, Δmin, Δmax)     with η = η⁺ where s > 0, η⁻ where s < 0, else 1; Δ₀ = γ
    /// hₜ = 0 where s < 0, else g
    /// θₜ = θₜ₋₁ − Δₜ sign(hₜ)
    /// ```
    ///
    /// with γ = `lr`, (η⁻, η⁺) = `etas`, (Δmin, Δmax) = `step_sizes`. The state `prev` is h, the state `step_size`
    /// Δ. State: 8 bytes a parameter in `f32`. For full batches: only the gradient's sign counts.
    ///
    /// ```
    /// # use fallline_optim::algorithms::Rprop;
    /// let algorithm = Rprop { lr: 0.1, step_sizes: (1e-8, 1.0), ..Rprop::default() };
    /// ```
    pub Rprop as "Rprop" {
        /// The first step size γ of each element. A later change has no effect on elements already stepped.
        lr: f64 = 1e-2, Range::AtLeast(0.0);
        /// Factors η⁻ (in (0, 1)) and η⁺ (above 1) of the step size.
        etas: (f64, f64) = (0.5, 1.2), Range::Above(0.0);
        /// The smallest and the largest step size.
        step_sizes: (f64, f64) = (1e-6, 50.0), Range::Any;
        /// Maximize the objective.
        maximize: bool = false, Range::Any;
    }
    accepted { capturable: bool, foreach: Option<bool>, differentiable: bool }
}

rule! {
    /// One step of [`Rprop`].
    pub RpropRule(h: Rprop, t) {
        let shrink = h.etas.0;
        let grow = h.etas.1;
        let least = h.step_sizes.0;
        let most = h.step_sizes.1;
    }
    element(g: Grad) -> (p: Param, prev: State, step_size: State) {
        let agreement = (g * prev).sign();
        let factor = Vector::select_if(agreement, grow, Vector::select_if(-agreement, shrink, L::splat(1.0)));
        step_size = (step_size * factor).max(least).min(most);
        prev = Vector::select_if(-agreement, L::splat(0.0), g);
        p = p - prev.sign() * step_size;
    }
}

impl Algorithm for Rprop {
    const INFO: Info = Info {
        summary: "Each element's step grows while its gradient keeps its sign, and shrinks when it turns.",
        family: "sign",
        source: "torch.optim",
        differences: "As in torch, a step that turned out too long is not taken back (iRprop-, without \
            weight backtracking).",
        references: &[
            Reference::new(
                "Riedmiller & Braun 1993, A direct adaptive method for faster backpropagation learning: the \
                    RPROP algorithm",
                "doi:10.1109/ICNN.1993.298623",
            ),
            Reference::new("torch.optim.Rprop", "torch 2.15.0"),
        ],
    };
    const STATES: &'static [State<Self>] =
        &[State::new("step_size").non_negative().starts_at(|h: &Self| h.lr)];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<RpropRule>())
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        let (shrink, grow) = self.etas;
        if shrink < 1.0 && 1.0 < grow {
            return Ok(());
        }
        let problem = format!("etas must be one below 1 and one above 1, got ({shrink:?}, {grow:?})");
        Err(HyperError::Combination { algorithm: Self::NAME, problem })
    }
}
