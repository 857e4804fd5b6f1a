//! Lion: steps of exactly the size `lr`, in the direction of a sign.

use super::prelude::*;

hyperparameters! {
    /// Lion: steps of exactly the size `lr`, in the direction of a sign.
    ///
    /// ```text
    /// c  = β₁ mₜ₋₁ + (1 − β₁) g
    /// θₜ = (1 − γλ) θₜ₋₁ − γ sign(c)
    /// mₜ = β₂ mₜ₋₁ + (1 − β₂) g
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, λ = `weight_decay`. The sign of 0 and of NaN is 0: a NaN gradient
    /// leaves the parameter where it is and stays visible in `m`. State: 4 bytes a parameter in `f32`
    /// (`m`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::Lion;
    /// let algorithm = Lion { lr: 1e-4, weight_decay: 0.1, ..Lion::default() };
    /// ```
    pub Lion as "Lion" {
        /// Learning rate γ: the length of every step, for every element.
        lr: f64 = 1e-4, Range::AtLeast(0.0);
        /// β₁ of the direction and β₂ of the average that is kept.
        betas: (f64, f64) = (0.9, 0.99), Range::Closed(0.0, 1.0);
        /// Weight decay λ, multiplied by `lr`.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Decay by λ itself at the first learning rate: λ is divided by the `lr` that the optimizer was
        /// built with.
        decoupled_weight_decay: bool = false, Range::Any;
        /// The `lr` that the optimizer was built with, for `decoupled_weight_decay`; 0 means `lr`.
        initial_lr: f64 = 0.0, Range::AtLeast(0.0);
    }
    accepted { use_triton: bool }
}

impl Lion {
    /// Returns λ, to be multiplied by the current `lr`.
    fn decay(&self) -> f64 {
        // Not checked yet, it has not kept the first: see `check`.
        let first_lr = if self.initial_lr == 0.0 { self.lr } else { self.initial_lr };
        if self.decoupled_weight_decay { self.weight_decay / first_lr } else { self.weight_decay }
    }
}

rule! {
    /// One step of [`Lion`].
    pub LionRule(h: Lion, t) {
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let lr = h.lr;
        let keep = 1.0 - h.lr * h.decay();
    }
    element(g: Grad) -> (p: Param, m: State) {
        let c = beta1 * m + one_minus_beta1 * g;
        p = keep * p - lr * c.sign();
        m = beta2 * m + one_minus_beta2 * g;
    }
}

impl Algorithm for Lion {
    const INFO: Info = Info {
        summary: "Steps of exactly the size lr, in the direction of a sign.",
        family: "sign",
        source: "lion-pytorch",
        differences: "A negative weight_decay, which lion-pytorch ignores, is refused. With \
            decoupled_weight_decay, lion-pytorch divides by the lr of its constructor: initial_lr holds it here.",
        references: &[papers::LION, Reference::new("lion_pytorch.Lion", "lion-pytorch 0.2.5")],
    };

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<LionRule>())
    }

    fn check(&mut self, first: bool) -> Result<(), HyperError> {
        if first && self.lr == 0.0 {
            let problem = "lr must be above 0 at first; a schedule may end at 0".into();
            return Err(HyperError::Combination { algorithm: Self::NAME, problem });
        }
        if first && self.initial_lr == 0.0 {
            self.initial_lr = self.lr;
        }
        Ok(())
    }

    fn sparse(&self) -> Sparse {
        Sparse::AsDense
    }
}
