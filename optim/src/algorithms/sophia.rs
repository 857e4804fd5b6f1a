//! SophiaG: momentum divided by an estimate of the curvature, and clipped.

use super::prelude::*;

hyperparameters! {
    /// SophiaG: momentum divided by an estimate of the curvature, and clipped.
    ///
    /// ```text
    /// mₜ = β₁ mₜ₋₁ + (1 − β₁) g
    /// θₜ = (1 − γλ) θₜ₋₁ − γ sign(mₜ) min(|mₜ| / (ρ B h + ε), 1)      with ε = 10⁻¹⁵
    /// ```
    ///
    /// and, every ten steps or so, with the gradient ĝ of a loss whose labels are drawn from the model
    /// ([`update_hessian`](crate::Optimizer::update_hessian), the Gauss-Newton-Bartlett estimate):
    ///
    /// ```text
    /// h  = β₂ h + (1 − β₂) ĝ²
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ρ = `rho`, λ = `weight_decay`, B = `bs`. The state `hessian` is h. Until h is
    /// told, every step is of the size γ. State: 8 bytes a parameter in `f32` (`m`, `hessian`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::SophiaG;
    /// let algorithm = SophiaG { lr: 2e-4, bs: 480.0 * 1024.0, ..SophiaG::default() };
    /// ```
    ///
    /// A training loop evaluates the gradient on its labels for [`step`](crate::Optimizer::step) and now and then on
    /// sampled ones:
    ///
    /// ```
    /// # use fallline_optim::{Optimizer, Result, param};
    /// # fn gradient(weight: &[f32], drawn: bool) -> Vec<f32> { vec![0.0; weight.len()] }
    /// fn train(optimizer: &mut dyn Optimizer, weight: &mut Vec<f32>) -> Result<()> {
    ///     for step in 0..1000 {
    ///         if step % 10 == 0 {
    ///             let drawn = gradient(weight, true);
    ///             optimizer.update_hessian(&mut [param("weight", &mut *weight, &drawn)])?;
    ///         }
    ///         let grad = gradient(weight, false);
    ///         optimizer.step(&mut [param("weight", &mut *weight, &grad)])?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub SophiaG as "SophiaG" {
        /// Learning rate γ: the length of the longest step.
        lr: f64 = 1e-4, Range::AtLeast(0.0);
        /// Decay rates β₁ of the momentum and β₂ of the curvature.
        betas: (f64, f64) = (0.965, 0.99), Range::HalfOpen(0.0, 1.0);
        /// The share ρ of the curvature: the larger, the fewer elements are clipped.
        rho: f64 = 0.04, Range::AtLeast(0.0);
        /// Weight decay λ, multiplied by `lr`.
        weight_decay: f64 = 1e-1, Range::AtLeast(0.0);
        /// Maximize the objective.
        maximize: bool = false, Range::Any;
        /// The batch size B (in tokens) by which the squares of mean gradients are scaled: an argument of
        /// `step` in sophia-opt.
        bs: f64 = 5120.0, Range::AtLeast(0.0);
    }
    accepted { capturable: bool }
}

rule! {
    /// One step of [`SophiaG`].
    pub SophiaGRule(h: SophiaG, t) {
        let lr = h.lr;
        let beta1 = h.betas.0;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let curvature = h.rho * h.bs;
        let keep = 1.0 - h.lr * h.weight_decay;
    }
    element(g: Grad) -> (p: Param, m: State, hessian: State) {
        m = beta1 * m + one_minus_beta1 * g;
        let ratio = m.abs() / (curvature * hessian + 1e-15);
        p = keep * p - lr * m.sign() * L::splat(1.0).min(ratio); // a NaN stays one
    }
    or
    /// Takes a gradient of labels drawn from the model into the curvature of [`SophiaG`].
    pub SophiaHessianRule
    element(g: Grad) -> (hessian: State) {
        hessian = beta2 * hessian + one_minus_beta2 * g * g;
    }
}

impl Algorithm for SophiaG {
    const INFO: Info = Info {
        summary: "Momentum divided by an estimate of the curvature, and clipped.",
        family: "second-order",
        source: "sophia-opt",
        differences: "As in sophia-opt, the denominator has 1e-15 added where the paper takes a maximum, and bs \
            scales the curvature; bs is an argument of step there.",
        references: &[
            Reference::new(
                "Liu et al. 2023, Sophia: A Scalable Stochastic Second-order Optimizer for Language Model \
                    Pre-training",
                "arXiv:2305.14342",
            ),
            Reference::new("sophia.SophiaG", "sophia-opt 0.2.2"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("hessian")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<SophiaGRule>().on_hessian::<SophiaHessianRule>())
    }
}
