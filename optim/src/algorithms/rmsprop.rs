//! RMSprop: gradients divided by their recent size.

use super::prelude::*;

hyperparameters! {
    /// RMSprop: gradients divided by their recent size.
    ///
    /// ```text
    /// g  = g + λ θₜ₋₁                           (L2 decay)
    /// vₜ = α vₜ₋₁ + (1 − α) g²
    /// aₜ = α aₜ₋₁ + (1 − α) g                   (centered; else a = 0)
    /// bₜ = μ bₜ₋₁ + g / (√(vₜ − aₜ²) + ε)       (momentum; else μ = 0)
    /// θₜ = θₜ₋₁ − γ bₜ
    /// ```
    ///
    /// with γ = `lr`, α = `alpha`, ε = `eps`, λ = `weight_decay`, μ = `momentum`. The state `mean` is a, the state
    /// `momentum` b. State: 4 bytes a parameter in `f32` (`v`), 4 more when centered, 4 more with momentum.
    ///
    /// ```
    /// # use fallline_optim::algorithms::RmsProp;
    /// let algorithm = RmsProp { alpha: 0.9, momentum: 0.9, centered: true, ..RmsProp::default() };
    /// ```
    pub RmsProp as "RMSprop" {
        /// Learning rate γ.
        lr: f64 = 1e-2, Range::AtLeast(0.0);
        /// Decay rate α of the running averages.
        alpha: f64 = 0.99, Range::AtLeast(0.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// Weight decay λ: added to the gradient as λθ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Momentum μ: how much of the last direction is kept; 0 keeps no state.
        momentum: f64 = 0.0, Range::AtLeast(0.0);
        /// Divide by the standard deviation of the gradient instead of its size.
        centered: bool = false, Range::Any;
        /// Maximize the objective.
        maximize: bool = false, Range::Any;
    }
    accepted { capturable: bool, foreach: Option<bool>, differentiable: bool }
}

rule! {
    /// One step of [`RmsProp`].
    pub RmsPropRule(h: RmsProp, t) {
        let lr = h.lr;
        let alpha = h.alpha;
        let one_minus_alpha = 1.0 - h.alpha;
        let eps = h.eps;
        let mu = h.momentum;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    element(grad: Grad) -> (p: Param, v: State) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        v = alpha * v + one_minus_alpha * g * g;
        p = p - lr * g / (v.sqrt() + eps);
    }
    or
    /// One step of [`RmsProp`] with momentum.
    pub RmsPropMomentumRule
    element(grad: Grad) -> (p: Param, v: State, momentum: State) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        v = alpha * v + one_minus_alpha * g * g;
        momentum = mu * momentum + g / (v.sqrt() + eps);
        p = p - lr * momentum;
    }
    or
    /// One step of [`RmsProp`], centered. The mean moves by a fraction of its distance, as in torch. Where all
    /// gradients are the same, the variance is then as small as it can be.
    pub RmsPropCenteredRule
    element(grad: Grad) -> (p: Param, v: State, mean: State) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        v = alpha * v + one_minus_alpha * g * g;
        mean = mean + one_minus_alpha * (g - mean);
        p = p - lr * g / ((v - mean * mean).sqrt() + eps);
    }
    or
    /// One step of [`RmsProp`], centered, with momentum.
    pub RmsPropCenteredMomentumRule
    element(grad: Grad) -> (p: Param, v: State, mean: State, momentum: State) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        v = alpha * v + one_minus_alpha * g * g;
        mean = mean + one_minus_alpha * (g - mean);
        momentum = mu * momentum + g / ((v - mean * mean).sqrt() + eps);
        p = p - lr * momentum;
    }
}

impl Algorithm for RmsProp {
    const INFO: Info = Info {
        summary: "Gradients divided by their recent size.",
        family: "adaptive",
        source: "torch.optim",
        differences: "None. As in torch, eps is added after the root, and the learning rate multiplies the \
            momentum; TensorFlow has both the other way round.",
        references: &[
            Reference::new(
                "Tieleman & Hinton 2012, Lecture 6.5: rmsprop",
                "Coursera, Neural Networks for Machine Learning",
            ),
            Reference::new(
                "Graves 2013, Generating Sequences With Recurrent Neural Networks (centered, momentum)",
                "arXiv:1308.0850",
            ),
            Reference::new("torch.optim.RMSprop", "torch 2.15.0"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v"), State::new("mean").slow()];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(match (self.centered, self.momentum > 0.0) {
            (false, false) => on.pass::<RmsPropRule>(),
            (false, true) => on.pass::<RmsPropMomentumRule>(),
            (true, false) => on.pass::<RmsPropCenteredRule>(),
            (true, true) => on.pass::<RmsPropCenteredMomentumRule>(),
        })
    }
}
