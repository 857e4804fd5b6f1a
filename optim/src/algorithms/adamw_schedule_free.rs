//! AdamWScheduleFree: AdamW that averages its way instead of lowering its rate.

use super::prelude::*;
use crate::program::Advances;

hyperparameters! {
    /// AdamWScheduleFree: AdamW that averages its way instead of lowering its rate.
    ///
    /// ```text
    /// γₜ = γ min(1, t/T);  wₜ = tʳ max(γ₁ … γₜ)ᵖ;  c = wₜ / (w₁ + … + wₜ)
    /// vₜ = β₂ vₜ₋₁ + (1 − β₂) g²
    /// u  = g / (√(vₜ / (1 − β₂ᵗ)) + ε) + λ yₜ₋₁
    /// yₜ = (1 − c) yₜ₋₁ + c zₜ₋₁ − γₜ (1 − β₁ (1 − c)) u
    /// zₜ = zₜ₋₁ − γₜ u
    /// xₜ = yₜ/β₁ + (1 − 1/β₁) zₜ
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ε = `eps`, λ = `weight_decay`, T = `warmup_steps`, r = `r`,
    /// p = `weight_lr_power`. The parameters hold y, at which gradients are taken. The average of z weighted by w
    /// is x, which is what is tested and shipped. [`Driver::set_mode`](crate::Driver::set_mode) switches between
    /// them. The count t is of the steps of the group, whichever of its parameters had gradients. Each group keeps
    /// it, the sum of w and the largest rate so far (`k`, `weight_sum`, `lr_max`). One pass. State: 8 bytes a
    /// parameter in `f32` (`z`, `v`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::AdamWScheduleFree;
    /// let algorithm = AdamWScheduleFree { warmup_steps: 1000, weight_decay: 0.05, ..AdamWScheduleFree::default() };
    /// ```
    pub AdamWScheduleFree as "AdamWScheduleFree" {
        /// Learning rate γ.
        lr: f64 = 0.0025, Range::AtLeast(0.0);
        /// How much of y is x, β₁, above 0, and the decay rate β₂ of the running average of the gradient's square.
        betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// Weight decay λ at y, multiplied by `lr`.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Steps T over which the rate rises.
        warmup_steps: u64 = 0, Range::Any;
        /// The exponent r of the step count in the weights of the average.
        r: f64 = 0.0, Range::Any;
        /// The exponent p of the rate in the weights of the average.
        weight_lr_power: f64 = 2.0, Range::Any;
    }
    kept {
        /// Steps so far: counts itself.
        k: u64 = 0, Range::Any;
        /// The sum of the weights so far: adds up itself.
        weight_sum: f64 = 0.0, Range::AtLeast(0.0);
        /// The largest rate so far, below 0 before the first step: rises itself.
        lr_max: f64 = -1.0, Range::Any;
    }
    accepted { foreach: Option<bool> }
}

/// What a step adds to the average.
struct Weighed {
    /// γₜ.
    lr: f64,
    lr_max: f64,
    weight_sum: f64,
    /// c.
    share: f64,
}

impl AdamWScheduleFree {
    /// Returns the next step.
    fn next(&self) -> Weighed {
        let t = self.k + 1;
        let risen = if self.k < self.warmup_steps { t as f64 / self.warmup_steps as f64 } else { 1.0 };
        let lr = self.lr * risen;
        let lr_max = lr.max(self.lr_max);
        let weight = powf(t as f64, self.r) * powf(lr_max, self.weight_lr_power);
        let weight_sum = self.weight_sum + weight;
        let share = if weight_sum == 0.0 { 0.0 } else { weight / weight_sum };
        Weighed { lr, lr_max, weight_sum, share }
    }
}

impl Advances for AdamWScheduleFree {
    fn advance(&mut self) {
        let Weighed { lr_max, weight_sum, .. } = self.next();
        (self.k, self.lr_max, self.weight_sum) = (self.k + 1, lr_max, weight_sum);
    }
}

rule! {
    /// One step of [`AdamWScheduleFree`].
    pub AdamWScheduleFreeRule(h: AdamWScheduleFree, t) {
        let beta2 = h.betas.1;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let correction = 1.0 - pow(h.betas.1, h.k + 1);
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let share = h.next().share;
        let rest = 1.0 - h.next().share;
        let near = flag(h.next().share < 0.5);
        let lr = h.next().lr;
        let pull = h.next().lr * (h.betas.0 * (1.0 - h.next().share) - 1.0);
    }
    element(g: Grad) -> (p: Param, z: State, v: State) {
        v = beta2 * v + one_minus_beta2 * g * g;
        let u = g / ((v / correction).sqrt() + eps);
        let u = Vector::select_if(weight_decay, u + weight_decay * p, u);
        let way = z - p;
        let y = Vector::select_if(near, p + share * way, z - rest * way);
        p = y + pull * u;
        z = z - lr * u;
    }
}

rule! {
    /// From y to x.
    pub ScheduleFreeEvaluationRule(h: AdamWScheduleFree, t) {
        let share = 1.0 - 1.0 / h.betas.0;
        let rest = 1.0 / h.betas.0;
        let near = flag(1.0 / h.betas.0 < 1.5);
    }
    element(z: State) -> (p: Param) {
        p = Vector::select_if(near, p + share * (z - p), z - rest * (z - p));
    }
}

rule! {
    /// From x to y.
    pub ScheduleFreeTrainingRule(h: AdamWScheduleFree, t) {
        let share = 1.0 - h.betas.0;
        let rest = h.betas.0;
        let near = flag(h.betas.0 > 0.5);
    }
    element(z: State) -> (p: Param) {
        p = Vector::select_if(near, p + share * (z - p), z - rest * (z - p));
    }
}

impl Algorithm for AdamWScheduleFree {
    const INFO: Info = Info {
        summary: "AdamW that averages its way instead of lowering its rate: what is trained is not what is shipped.",
        family: "adaptive",
        source: "schedulefree",
        differences: "Optimizers begin in training mode. schedulefree checks no hyperparameter; here betas outside [0, 1), a \
            first one of 0, by which it divides, and a negative lr, eps or weight_decay are refused, and so is a step \
            whose weight would be infinite (weight_lr_power below 0 at an lr of 0), of which it raises.",
        references: &[
            Reference::new("Defazio et al. 2024, The Road Less Scheduled", "arXiv:2405.15682"),
            papers::ADAM,
            Reference::new("schedulefree.AdamWScheduleFree", "schedulefree 1.4.1"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::new("z").starts_as_param(), State::second_moment("v")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        if self.weight_lr_power < 0.0 && self.next().lr_max == 0.0 {
            return Err("weight_lr_power below 0 needs an lr above 0 in the first step".into());
        }
        let step = on.pass::<AdamWScheduleFreeRule>().advancing();
        Ok(step.with_modes::<ScheduleFreeEvaluationRule, ScheduleFreeTrainingRule>())
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        if self.betas.0 > 0.0 {
            return Ok(());
        }
        let problem = "the first of betas must be above 0: the weights are divided by it".to_owned();
        Err(HyperError::Combination { algorithm: Self::NAME, problem })
    }
}
