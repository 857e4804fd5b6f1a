//! DAdaptSGD: SGD that finds its learning rate, from how far the gradients say that the solution is.

use super::dadapt_adam::{check_lr, common_lr, grow, weighted};
use super::learning_rate::needs_lr;
use super::prelude::*;

hyperparameters! {
    /// DAdaptSGD: SGD that finds its learning rate, from how far the gradients say that the solution is.
    ///
    /// ```text
    /// G  = ‖g‖ of all parameters in the first step      (without decay)
    /// δ  = d γ / G
    /// g  = g + λ θₜ₋₁                                   (L2 decay)
    /// N  = N + δ Σ g · sₜ₋₁                             (over all elements of all parameters)
    /// sₜ = sₜ₋₁ + δ g
    /// d  = max(d, min(2 N / ‖sₜ‖, d q))
    /// θₜ = μ θₜ₋₁ + (1 − μ) (θ₀ − sₜ)
    /// ```
    ///
    /// with γ = `lr`, μ = `momentum`, λ = `weight_decay`, q = `growth_rate`. The parameter as it was at its first
    /// gradient is θ₀. The estimate d starts from `d0`, N from 0. Shared scalars are d, N and G. While all
    /// gradients have been 0, nothing moves. Two passes, in the first step one over the gradients before them.
    /// State: 8 bytes a parameter in `f32` (`s`, `x0`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::DAdaptSgd;
    /// let algorithm = DAdaptSgd { momentum: 0.9, ..DAdaptSgd::default() };
    /// ```
    pub DAdaptSgd as "DAdaptSGD" {
        /// Factor γ of the step size that is found: 1, or a schedule's. In every group the same, or 0, which
        /// freezes the group's sums.
        lr: f64 = 1.0, Range::AtLeast(0.0);
        /// Momentum μ: how much of the last parameter is kept; the first group's.
        momentum: f64 = 0.0, Range::HalfOpen(0.0, 1.0);
        /// Weight decay λ: added to the gradient as λθ; the first group's.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// What d starts from; the first group's.
        d0: f64 = 1e-6, Range::Above(0.0);
        /// The largest factor q by which d grows in one step; the first group's.
        growth_rate: f64 = f64::INFINITY, Range::Above(0.0);
    }
    accepted { log_every: i64, fsdp_in_use: bool }
}

rule! {
    /// The pass before the others in the first step of [`DAdaptSgd`]: the norm of the gradient.
    pub DAdaptSgdNormRule(h: DAdaptSgd, t) {}
    per_tensor() shared(k) {
        skip { k }
    }
    element(g: Grad) -> () sum(grad2) {
        grad2 = g * g;
    }
}

rule! {
    /// The first pass of [`DAdaptSgd`]: the sum of the gradients, and what d is estimated from.
    pub DAdaptSgdSumRule(h: DAdaptSgd, t) {}
    per_tensor(active, decays, weight_decay, delta) reads DAdaptSgdNormRule(grad2) shared(d, k, g0_norm, dlr) {
        once(groups, at) {
            let d0 = groups[0].d0;
            let lr = common_lr(groups.iter().map(|group| group.lr));
            let weight_decay = groups[0].weight_decay;
            let decays = flag(groups[0].weight_decay > 0.0);
        }
        each(at) {
            let trains = flag(h.lr > 0.0);
        }
        totals(All) {
            all_grad2 = weighted(trains, grad2);
        }
        update {
            let zero = N::splat(0.0);
            d = N::select(d.eq(zero), d0, d);
            g0_norm = N::select(k.eq(zero), all_grad2.sqrt(), g0_norm);
            dlr = N::select(g0_norm.eq(zero), zero, d * lr / g0_norm);
        }
        tensor {
            let active = N::select(g0_norm.eq(N::splat(0.0)), N::splat(0.0), trains);
            let delta = dlr;
        }
    }
    element(grad: Grad, p: Param) -> (s: State) sum(dot, s2) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        dot = g * s;
        s = Vector::select_if(active, s + delta * g, s);
        s2 = s * s;
    }
    or
    /// The same without a decay: the parameter is not read.
    pub DAdaptSgdUndecayedRule
    element(g: Grad) -> (s: State) sum(dot, s2) {
        dot = g * s;
        s = Vector::select_if(active, s + delta * g, s);
        s2 = s * s;
    }
}

rule! {
    /// The second pass of [`DAdaptSgd`]: the parameter.
    pub DAdaptSgdRule(h: DAdaptSgd, t) {}
    per_tensor(moves, mu, one_minus_mu) reads DAdaptSgdSumRule(dot, s2) shared(d, numerator_weighted, k, dlr) {
        once(groups, at) {
            let growth_rate = groups[0].growth_rate;
            let one_minus_mu = 1.0 - groups[0].momentum;
            let mu = 1.0 - one_minus_mu;
        }
        each(at) {
            let trains = flag(h.lr > 0.0);
        }
        totals(All) {
            all_dot = weighted(trains, dot);
            all_s2 = weighted(trains, s2);
        }
        update {
            let stands = all_s2.eq(N::splat(0.0));
            numerator_weighted = N::select(stands, numerator_weighted, numerator_weighted + dlr * all_dot);
            let estimate = 2.0 * numerator_weighted / all_s2.sqrt();
            d = N::select(stands, d, grow(d, estimate, growth_rate));
            k = N::select(stands, k, k + 1.0);
        }
        tensor {
            let moves = N::select(all_s2.eq(N::splat(0.0)), N::splat(0.0), N::splat(1.0));
        }
    }
    element(s: State, x0: State) -> (p: Param) {
        p = Vector::select_if(moves, mu * p + one_minus_mu * (x0 - s), p);
    }
}

impl Algorithm for DAdaptSgd {
    const INFO: Info = Info {
        summary: "SGD that finds its learning rate, from how far the gradients say that the solution is.",
        family: "learning-rate-free",
        source: "dadaptation",
        differences: "What dadaptation reads from its first group only (momentum, weight_decay, d0, growth_rate) is read \
            from the first group here, too. Where all gradients of the first step are 0, dadaptation divides by 0; here \
            nothing happens. Its state z, which is x0 − s, is not kept, and the gradient, to which it adds the decay in \
            place, is not changed. A negative weight_decay and a momentum out of range are refused.",
        references: &[papers::DADAPT, Reference::new("dadaptation.DAdaptSGD", "dadaptation 3.2")],
    };

    const STATES: &'static [State<Self>] = &[State::new("s").slow(), State::new("x0").starts_as_param()];

    const SHARED: &'static [(&'static str, f64)] =
        &[("d", 0.0), ("numerator_weighted", 0.0), ("k", 0.0), ("g0_norm", 0.0), ("dlr", 0.0)];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        check_lr(on.groups.iter().map(|group| group.lr))?;
        let norm = on.pass::<DAdaptSgdNormRule>();
        let sum = match on.distributed || on.groups[0].weight_decay > 0.0 {
            true => norm.pass::<DAdaptSgdSumRule>(),
            false => norm.pass::<DAdaptSgdUndecayedRule>(),
        };
        Ok(sum.pass::<DAdaptSgdRule>())
    }

    fn check(&mut self, first: bool) -> Result<(), HyperError> {
        if first { needs_lr(Self::NAME, self.lr) } else { Ok(()) }
    }
}
