//! DAdaptAdam: Adam that finds its learning rate, from how far the gradients say that the solution is.

use super::learning_rate::needs_lr;
use super::prelude::*;

hyperparameters! {
    /// DAdaptAdam: Adam that finds its learning rate, from how far the gradients say that the solution is.
    ///
    /// ```text
    /// δ  = d γ √(1 − β₂ᵏ) / (1 − β₁ᵏ)                   (without use_bias_correction: d γ)
    /// g  = g + λ θₜ₋₁                                   (L2 decay; with decouple θₜ₋₁ is multiplied by 1 − δλ)
    /// n  = Σ r δ g · sₜ₋₁ / (√vₜ₋₁ + ε)                 (over all elements of all parameters)
    /// mₜ = β₁ mₜ₋₁ + r δ (1 − β₁) g
    /// vₜ = β₂ vₜ₋₁ + (1 − β₂) g²
    /// sₜ = √β₂ sₜ₋₁ + δ (1 − √β₂) g
    /// N  = √β₂ N + (1 − √β₂) n
    /// d  = max(d, min(N / ((1 − √β₂) Σ r |sₜ|), d q))
    /// θₜ = θₜ₋₁ − mₜ / (√vₜ + ε)
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ε = `eps`, λ = `weight_decay`, q = `growth_rate`, r = `layer_scale`. The
    /// estimate d starts from `d0`, N from 0, and k counts the steps. Shared scalars are d, N and k. While all
    /// gradients have been 0, nothing moves. Two passes. State: 12 bytes a parameter in `f32` (`m`, `v`, `s`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::DAdaptAdam;
    /// let algorithm = DAdaptAdam { decouple: true, weight_decay: 0.01, ..DAdaptAdam::default() };
    /// ```
    pub DAdaptAdam as "DAdaptAdam" {
        /// Factor γ of the step size that is found: 1, or a schedule's. In every group the same, or 0, which
        /// freezes the group's moments.
        lr: f64 = 1.0, Range::AtLeast(0.0);
        /// Decay rates β₁, β₂ of the running averages of the gradient and of its square; the first group's.
        betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::Above(0.0);
        /// Weight decay λ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Take the decay from the parameter, as AdamW does; the first group's.
        decouple: bool = false, Range::Any;
        /// Correct the bias that the averages have from starting at 0; the first group's.
        use_bias_correction: bool = false, Range::Any;
        /// What d starts from; the first group's.
        d0: f64 = 1e-6, Range::Above(0.0);
        /// The largest factor q by which d grows in one step; the first group's.
        growth_rate: f64 = f64::INFINITY, Range::Above(0.0);
        /// Scales a group's step size, relative to the other groups' (an option of groups in the source).
        layer_scale: f64 = 1.0, Range::AtLeast(0.0);
    }
    accepted { log_every: i64, fsdp_in_use: bool }
}

rule! {
    /// The first pass of [`DAdaptAdam`]: the averages, and what d is estimated from.
    pub DAdaptAdamMomentsRule(h: DAdaptAdam, t) {
        let eps = h.eps;
        let weight_decay = h.weight_decay;
    }
    per_tensor(active, decays, beta1, beta2, sqrt_beta2, new_m, new_v, new_s) shared(d, k, dlr) {
        once(groups, at) {
            let d0 = groups[0].d0;
            let lr = common_lr(groups.iter().map(|group| group.lr));
            let corrects = flag(groups[0].use_bias_correction);
            let decouple = flag(groups[0].decouple);
            let beta1 = groups[0].betas.0;
            let beta2 = groups[0].betas.1;
            let sqrt_beta2 = sqrt(groups[0].betas.1);
            let new_v = 1.0 - groups[0].betas.1;
        }
        each(at) {
            let active = flag(h.lr > 0.0);
            let decays = flag(h.weight_decay > 0.0 && decouple == 0.0);
            let layer_scale = h.layer_scale;
        }
        update {
            d = N::select(d.eq(N::splat(0.0)), d0, d);
            let count = k + 1.0;
            let corrected = (1.0 - beta2.pow(count)).sqrt() / (1.0 - beta1.pow(count));
            dlr = d * lr * N::select_if(corrects, corrected, N::splat(1.0));
        }
        tensor {
            let new_m = layer_scale * dlr * (1.0 - beta1);
            let new_s = dlr * (1.0 - sqrt_beta2);
        }
    }
    element(grad: Grad, p: Param) -> (m: State, v: State, s: State) sum(dot, length) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        dot = g * (s / (v.sqrt() + eps));
        m = Vector::select_if(active, beta1 * m + new_m * g, m);
        v = Vector::select_if(active, beta2 * v + new_v * g * g, v);
        s = Vector::select_if(active, sqrt_beta2 * s + new_s * g, s);
        length = s.abs();
    }
    or
    /// The same where no group's gradient takes a decay: the parameter is not read.
    pub DAdaptAdamUndecayedRule
    element(g: Grad) -> (m: State, v: State, s: State) sum(dot, length) {
        dot = g * (s / (v.sqrt() + eps));
        m = Vector::select_if(active, beta1 * m + new_m * g, m);
        v = Vector::select_if(active, beta2 * v + new_v * g * g, v);
        s = Vector::select_if(active, sqrt_beta2 * s + new_s * g, s);
        length = s.abs();
    }
}

rule! {
    /// The second pass of [`DAdaptAdam`]: the parameter.
    pub DAdaptAdamRule(h: DAdaptAdam, t) {
        let eps = h.eps;
    }
    per_tensor(moves, keep) reads DAdaptAdamMomentsRule(dot, length) shared(d, numerator_weighted, k, dlr) {
        once(groups, at) {
            let sqrt_beta2 = sqrt(groups[0].betas.1);
            let growth_rate = groups[0].growth_rate;
            let decouple = flag(groups[0].decouple);
        }
        each(at) {
            let weight = flag(h.lr > 0.0) * h.layer_scale;
            let decay = if decouple > 0.0 { h.weight_decay } else { 0.0 };
        }
        totals(All) {
            all_dot = weighted(weight * dlr, dot);
            all_length = weighted(weight, length);
        }
        update {
            let stands = all_length.eq(N::splat(0.0));
            let numerator = sqrt_beta2 * numerator_weighted + (1.0 - sqrt_beta2) * all_dot;
            let estimate = numerator / ((1.0 - sqrt_beta2) * all_length);
            numerator_weighted = N::select(stands, numerator_weighted, numerator);
            d = N::select(stands, d, grow(d, estimate, growth_rate));
            k = N::select(stands, k, k + 1.0);
        }
        tensor {
            let moves = N::select(all_length.eq(N::splat(0.0)), N::splat(0.0), N::splat(1.0));
            let keep = 1.0 - decay * dlr;
        }
    }
    element(m: State, v: State) -> (p: Param) {
        p = Vector::select_if(moves, keep * p - m / (v.sqrt() + eps), p);
    }
}

/// Returns the next d: an estimate, held below `growth` times the last d and never below that itself.
pub(super) fn grow<N: Number>(d: N, estimate: N, growth: N) -> N
where
    f64: Literal<N>,
{
    let most = d * growth;
    N::select(most.lt(estimate), most, estimate).max(d)
}

/// Returns a sum times a weight; nothing where that is 0, whatever the sum is.
pub(super) fn weighted<N: Number>(weight: N, sum: N) -> N
where
    f64: Literal<N>,
{
    N::select(weight.eq(N::splat(0.0)), N::splat(0.0), weight * sum)
}

/// Returns the learning rate that all groups have but those that have 0.
pub(super) fn common_lr(rates: impl Iterator<Item = f64>) -> f64 {
    rates.fold(0.0, f64::max)
}

/// Checks that there is a [`common_lr`].
pub(super) fn check_lr(rates: impl Iterator<Item = f64> + Clone) -> Result<(), String> {
    let lr = common_lr(rates.clone());
    match rates.enumerate().find(|(_, other)| *other != lr && *other != 0.0) {
        None => Ok(()),
        Some((group, other)) => {
            Err(format!("lr must be {lr} or 0 in every group, but it is {other} in group {group}"))
        }
    }
}

impl Algorithm for DAdaptAdam {
    const INFO: Info = Info {
        summary: "Adam that finds its learning rate, from how far the gradients say that the solution is.",
        family: "learning-rate-free",
        source: "dadaptation",
        differences: "What dadaptation reads from its first group only (betas, decouple, use_bias_correction, d0, \
            growth_rate) is read from the first group here, too. layer_scale, an option of its groups, is among the \
            hyperparameters. The gradient, to which dadaptation adds the decay in place, is not changed. A negative \
            weight_decay is refused.",
        references: &[papers::DADAPT, Reference::new("dadaptation.DAdaptAdam", "dadaptation 3.2")],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v"), State::new("s").slow()];

    const SHARED: &'static [(&'static str, f64)] =
        &[("d", 0.0), ("numerator_weighted", 0.0), ("k", 0.0), ("dlr", 0.0)];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        check_lr(on.groups.iter().map(|group| group.lr))?;
        let decays = !on.groups[0].decouple && on.groups.iter().any(|group| group.weight_decay > 0.0);
        let moments = match on.distributed || decays {
            true => on.pass::<DAdaptAdamMomentsRule>(),
            false => on.pass::<DAdaptAdamUndecayedRule>(),
        };
        Ok(moments.pass::<DAdaptAdamRule>())
    }

    fn check(&mut self, first: bool) -> Result<(), HyperError> {
        if first { needs_lr(Self::NAME, self.lr) } else { Ok(()) }
    }
}
