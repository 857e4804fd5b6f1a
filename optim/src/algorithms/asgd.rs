//! ASGD: gradient descent with a falling rate, and the average of its path.

use super::prelude::*;

hyperparameters! {
    /// ASGD: gradient descent with a falling rate, and the average of its path.
    ///
    /// ```text
    /// g  = g + κ θₜ₋₁                           (L2 decay)
    /// ηₜ = γ / (1 + λ γ (t − 1))^α              (η₁ = γ)
    /// θₜ = (1 − λ ηₜ) θₜ₋₁ − ηₜ g
    /// aₜ = aₜ₋₁ + (θₜ − aₜ₋₁) / max(1, t − 1 − t₀)
    /// ```
    ///
    /// with γ = `lr`, λ = `lambd`, α = `alpha`, t₀ = `t0`, κ = `weight_decay`. The average is the state `ax`:
    /// the parameter itself until step t₀ + 2. State: 4 bytes a parameter in `f32`.
    ///
    /// ```
    /// # use fallline_optim::algorithms::Asgd;
    /// let algorithm = Asgd { lr: 0.1, t0: 1000.0, ..Asgd::default() };
    /// ```
    pub Asgd as "ASGD" {
        /// Learning rate γ of the first step.
        lr: f64 = 1e-2, Range::AtLeast(0.0);
        /// Decay λ, of the parameter and of the rate.
        lambd: f64 = 1e-4, Range::AtLeast(0.0);
        /// The power α with which the rate falls.
        alpha: f64 = 0.75, Range::AtLeast(0.0);
        /// The step t₀ from which on the path is averaged.
        t0: f64 = 1e6, Range::Any;
        /// Weight decay κ: added to the gradient as κθ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Maximize the objective.
        maximize: bool = false, Range::Any;
    }
    accepted { foreach: Option<bool>, differentiable: bool, capturable: bool }
}

rule! {
    /// One step of [`Asgd`].
    pub AsgdRule(h: Asgd, t) {
        // torch keeps both of these in f32.
        let eta = single(h.lr / powf(1.0 + h.lambd * h.lr * (t - 1) as f64, h.alpha));
        let mu = if t == 1 { 1.0 } else { single(1.0 / ((t - 1) as f64 - h.t0).max(1.0)) };
        let keep = 1.0 - h.lambd * eta;
        let averages = flag(mu < 1.0);
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    element(grad: Grad) -> (p: Param, ax: State) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        p = keep * p - eta * g;
        ax = Vector::select_if(averages, ax + (p - ax) * mu, p);
    }
}

impl Algorithm for Asgd {
    const INFO: Info = Info {
        summary: "Gradient descent with a falling rate, and the average of its path.",
        family: "averaging",
        source: "torch.optim",
        differences: "The rate of a step follows the lr of that step; torch computes it at the end of the step \
            before, so that a schedule acts one step later there. Rate and share are rounded to f32, as torch \
            keeps them.",
        references: &[
            Reference::new(
                "Polyak & Juditsky 1992, Acceleration of stochastic approximation by averaging",
                "doi:10.1137/0330046",
            ),
            Reference::new(
                "Bottou 2010, Large-Scale Machine Learning with Stochastic Gradient Descent",
                "COMPSTAT 2010",
            ),
            Reference::new("torch.optim.ASGD", "torch 2.15.0"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::new("ax").full_precision()];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<AsgdRule>())
    }
}
