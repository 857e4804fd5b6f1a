//! FusedLamb, DeepSpeed's LAMB: Adam's direction at a length given by the parameter's norm.

use super::prelude::*;

hyperparameters! {
    /// FusedLamb, DeepSpeed's LAMB: Adam's direction at a length given by the parameter's norm.
    ///
    /// ```text
    /// g  = g / max(1, (‖g‖ + 10⁻⁶) / G)                 (with G; the norm is that of the group's gradients)
    /// mₜ = β₁ mₜ₋₁ + (1 − β₁) g
    /// vₜ = β₂ vₜ₋₁ + (1 − β₂) g²
    /// uₜ = mₜ / (√vₜ + ε) + λ θₜ₋₁                      (eps_inside_sqrt: √(vₜ + ε))
    /// r  = ‖θₜ₋₁‖ / ‖uₜ‖ within [r_min, r_max]          (1 where a norm is 0)
    /// θₜ = θₜ₋₁ − γ √(1 − β₂ᵗ) / (1 − β₁ᵗ) r uₜ         (without bias_correction: γ r uₜ)
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ε = `eps`, λ = `weight_decay`, G = `max_grad_norm`, r_min = `min_coeff`,
    /// r_max = `max_coeff`. The norms of r are those of one tensor. Two passes, with `max_grad_norm` one over the
    /// gradients before them. State: 8 bytes a parameter in `f32` (`m`, `v`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::FusedLamb;
    /// let algorithm = FusedLamb { weight_decay: 0.01, max_grad_norm: 1.0, ..FusedLamb::default() };
    /// ```
    pub FusedLamb as "FusedLamb" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Correct the bias that the averages have from starting at 0.
        bias_correction: bool = true, Range::Any;
        /// Decay rates β₁, β₂ of the running averages of the gradient and of its square.
        betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// Add `eps` under the root instead of to it.
        eps_inside_sqrt: bool = false, Range::Any;
        /// Weight decay λ: λθ is part of the direction.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// The largest norm G that the gradients of a group may have together; 0 leaves them as they are.
        max_grad_norm: f64 = 0.0, Range::AtLeast(0.0);
        /// The largest ratio of the norms.
        max_coeff: f64 = 10.0, Range::AtLeast(0.0);
        /// The smallest ratio of the norms.
        min_coeff: f64 = 0.01, Range::AtLeast(0.0);
    }
    fixed { amsgrad: bool = false, "FusedLamb has no largest second moment" }
}

rule! {
    /// The pass before the others of [`FusedLamb`] with `max_grad_norm`: the norm of the gradient.
    pub FusedLambNormRule(h: FusedLamb, t) {}
    element(g: Grad) -> () sum(grad2) {
        grad2 = g * g;
    }
}

rule! {
    /// The first pass of [`FusedLamb`]: the moments, and the norms of the direction and the parameter.
    pub FusedLambMomentsRule(h: FusedLamb, t) {
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let eps = h.eps;
        let inside = flag(h.eps_inside_sqrt);
        let weight_decay = h.weight_decay;
    }
    element(g: Grad, p: Param) -> (m: State, v: State) sum(update2, param2) {
        m = beta1 * m + one_minus_beta1 * g;
        v = beta2 * v + one_minus_beta2 * g * g;
        let u = m / Vector::select_if(inside, (v + eps).sqrt(), v.sqrt() + eps) + weight_decay * p;
        update2 = u * u;
        param2 = p * p;
    }
    or
    /// The same with `max_grad_norm`.
    pub FusedLambClippedRule
    per_tensor(clip) reads FusedLambNormRule(grad2) {
        each(at) {
            let max_grad_norm = h.max_grad_norm;
        }
        totals(Group) {
            group_grad2 = grad2;
        }
        tensor {
            let share = (group_grad2.sqrt() + 1e-6) / max_grad_norm;
            let clip = N::select(N::splat(1.0).lt(share), share, N::splat(1.0));
        }
    }
    element(grad: Grad, p: Param) -> (m: State, v: State) sum(update2, param2) {
        let g = grad / clip;
        m = beta1 * m + one_minus_beta1 * g;
        v = beta2 * v + one_minus_beta2 * g * g;
        let u = m / Vector::select_if(inside, (v + eps).sqrt(), v.sqrt() + eps) + weight_decay * p;
        update2 = u * u;
        param2 = p * p;
    }
}

rule! {
    /// The last pass of [`FusedLamb`]: the parameter.
    pub FusedLambRule(h: FusedLamb, t) {
        let eps = h.eps;
        let inside = flag(h.eps_inside_sqrt);
        let weight_decay = h.weight_decay;
    }
    per_tensor(step_size) reads FusedLambMomentsRule(update2, param2) {
        each(at) {
            let rate = h.lr * h.correction(t);
            let min_coeff = h.min_coeff;
            let max_coeff = h.max_coeff;
        }
        tensor {
            let step_size = rate * ratio_within(param2.sqrt(), update2.sqrt(), min_coeff, max_coeff);
        }
    }
    element(m: State, v: State) -> (p: Param) {
        let u = m / Vector::select_if(inside, (v + eps).sqrt(), v.sqrt() + eps) + weight_decay * p;
        p = p - step_size * u;
    }
}

impl FusedLamb {
    /// Returns what corrects the bias in step `t`.
    fn correction(&self, t: u64) -> f64 {
        match self.bias_correction {
            true => sqrt(1.0 - pow(self.betas.1, t)) / (1.0 - pow(self.betas.0, t)),
            false => 1.0,
        }
    }
}

/// Returns the ratio of two norms, at most `most` and, after that, at least `least`; 1 where a norm is 0.
pub(super) fn ratio_within<N: Number>(param: N, update: N, least: N, most: N) -> N
where
    f64: Literal<N>,
{
    let (zero, one) = (N::splat(0.0), N::splat(1.0));
    let ratio = held(param / update, least, most);
    N::select(param.eq(zero), one, N::select(update.eq(zero), one, ratio))
}

/// Returns `x`, but at most `most` and, after that, at least `least`.
pub(super) fn held<N: Number>(x: N, least: N, most: N) -> N
where
    f64: Literal<N>,
{
    let x = N::select(most.lt(x), most, x);
    N::select(x.lt(least), least, x)
}

impl Algorithm for FusedLamb {
    const INFO: Info = Info {
        summary: "Adam's direction at a length given by the parameter's norm.",
        family: "layer-wise",
        source: "DeepSpeed",
        differences: "DeepSpeed's kernel runs on CUDA only and computes in f32. It takes the norm for max_grad_norm \
            from its caller, for each group; here it is the norm of the gradients that the group's parameters have in \
            this step. Unlike in the paper the ratio of the norms is taken before the bias is corrected, and held \
            within min_coeff and max_coeff.",
        references: &[papers::LAMB, Reference::new("deepspeed.ops.lamb.FusedLamb", "deepspeed 0.19.8")],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        let moments = match self.max_grad_norm > 0.0 {
            true => on.pass::<FusedLambNormRule>().pass::<FusedLambClippedRule>(),
            false => on.pass::<FusedLambMomentsRule>(),
        };
        Ok(moments.pass::<FusedLambRule>())
    }
}
