//! DAdaptAdaGrad: Adagrad that finds its learning rate, from how far the gradients say that the solution is.

use super::dadapt_adam::grow;
use super::learning_rate::needs_lr;
use super::prelude::*;

hyperparameters! {
    /// DAdaptAdaGrad: Adagrad that finds its learning rate, from how far the gradients say that the solution is.
    ///
    /// ```text
    /// δ  = d γ
    /// g  = g + λ θₜ₋₁                                   (L2 decay)
    /// αₜ = αₜ₋₁ + g²                                    (α₀ = 10⁻⁶)
    /// sₜ = sₜ₋₁ + δ g
    /// Q  = Q + δ² Σ g² / (√αₜ + ε)                      (sums over all elements of all parameters)
    /// d  = max(d, min((Σ sₜ² / (√αₜ + ε) − Q) / Σ |sₜ|, d q))
    /// θₜ = μ θₜ₋₁ + (1 − μ) (θ₀ − sₜ / (√αₜ + ε))
    /// ```
    ///
    /// with γ = `lr`, μ = `momentum`, ε = `eps`, λ = `weight_decay`, q = `growth_rate`. The parameter as it was at
    /// its first gradient is θ₀. The estimate d starts from `d0`, Q from 0. Shared scalars are d, Q and the sums of
    /// s. Parameters without a gradient keep their part in the sums. While all gradients have been 0, nothing
    /// moves.
    ///
    /// A row-sparse gradient ([`rows`](crate::rows)) touches only the rows that it names. They follow dadaptation's
    /// other rule: √(αₜ + ε) in place of √αₜ + ε, and neither decay nor momentum. The sums go over these rows, and
    /// the others keep their part in them. Dense and row-sparse parameters go together in one step, but one parameter
    /// keeps to one kind. Otherwise dadaptation's sums are wrong, and those here, which follow from the states,
    /// change with the rule.
    ///
    /// Two passes. State: 12 bytes a parameter in `f32` (`alphak`, `sk`, `x0`).
    ///
    /// ```
    /// # use fallline_optim::algorithms::DAdaptAdaGrad;
    /// let algorithm = DAdaptAdaGrad { growth_rate: 1.02, ..DAdaptAdaGrad::default() };
    /// ```
    pub DAdaptAdaGrad as "DAdaptAdaGrad" {
        /// Factor γ of the step size that is found: 1, or a schedule's; the first group's.
        lr: f64 = 1.0, Range::AtLeast(0.0);
        /// Momentum μ: how much of the last parameter is kept; the first group's.
        momentum: f64 = 0.0, Range::AtLeast(0.0);
        /// Weight decay λ: added to the gradient as λθ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Added to the denominator.
        eps: f64 = 1e-6, Range::Above(0.0);
        /// What d starts from; the first group's.
        d0: f64 = 1e-6, Range::Above(0.0);
        /// The largest factor q by which d grows in one step; the first group's.
        growth_rate: f64 = f64::INFINITY, Range::Above(0.0);
    }
    accepted { log_every: i64 }
}

rule! {
    /// The first pass of [`DAdaptAdaGrad`]: the sums of the gradients, and what d is estimated from.
    pub DAdaptAdaGradSumRule(h: DAdaptAdaGrad, t) {
        let weight_decay = h.weight_decay;
    }
    per_tensor(delta, decays, inside, outside) shared(d, dlr) {
        once(groups, at) {
            let d0 = groups[0].d0;
            let lr = groups[0].lr;
        }
        each(at) {
            let decays = flag(h.weight_decay > 0.0 && !at.by_row);
            let inside = if at.by_row { h.eps } else { 0.0 };
            let outside = if at.by_row { 0.0 } else { h.eps };
        }
        update {
            d = N::select(d.eq(N::splat(0.0)), d0, d);
            dlr = d * lr;
        }
        tensor {
            let delta = dlr;
        }
    }
    element(grad: Grad, p: Param) -> (alphak: State, sk: State) sum(grad2, old_s2, old_length, s2, length) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        old_s2 = sk * sk / ((alphak + inside).sqrt() + outside);
        old_length = sk.abs();
        alphak = alphak + g * g;
        let root = (alphak + inside).sqrt() + outside;
        grad2 = g * g / root;
        sk = sk + delta * g;
        s2 = sk * sk / root;
        length = sk.abs();
    }
    or
    /// The same where no group's gradient takes a decay: the parameter is not read.
    pub DAdaptAdaGradUndecayedRule
    element(g: Grad) -> (alphak: State, sk: State) sum(grad2, old_s2, old_length, s2, length) {
        old_s2 = sk * sk / ((alphak + inside).sqrt() + outside);
        old_length = sk.abs();
        alphak = alphak + g * g;
        let root = (alphak + inside).sqrt() + outside;
        grad2 = g * g / root;
        sk = sk + delta * g;
        s2 = sk * sk / root;
        length = sk.abs();
    }
}

rule! {
    /// The second pass of [`DAdaptAdaGrad`]: the parameter.
    pub DAdaptAdaGradRule(h: DAdaptAdaGrad, t) {}
    per_tensor(moves, mu, one_minus_mu, inside, outside)
    reads DAdaptAdaGradSumRule(grad2, old_s2, old_length, s2, length)
    shared(d, gsq_weighted, sksq_weighted, skl1, k, dlr) {
        once(groups, at) {
            let lr = groups[0].lr;
            let momentum = groups[0].momentum;
            let growth_rate = groups[0].growth_rate;
        }
        each(at) {
            let mu = if at.by_row { 0.0 } else { momentum };
            let one_minus_mu = 1.0 - mu;
            let inside = if at.by_row { h.eps } else { 0.0 };
            let outside = if at.by_row { 0.0 } else { h.eps };
        }
        totals(All) {
            all_grad2 = grad2;
            all_old_s2 = old_s2;
            all_old_length = old_length;
            all_s2 = s2;
            all_length = length;
        }
        update {
            sksq_weighted = sksq_weighted + (all_s2 - all_old_s2);
            skl1 = skl1 + (all_length - all_old_length);
            let stands = skl1.eq(N::splat(0.0));
            gsq_weighted = N::select(stands, gsq_weighted, gsq_weighted + dlr * dlr * all_grad2);
            let estimate = (sksq_weighted - gsq_weighted) / skl1;
            d = N::select(stands, d, N::select_if(lr, grow(d, estimate, growth_rate), d));
            k = N::select(stands, k, k + 1.0);
        }
        tensor {
            let moves = N::select(skl1.eq(N::splat(0.0)), N::splat(0.0), N::splat(1.0));
        }
    }
    element(alphak: State, sk: State, x0: State) -> (p: Param) {
        let z = x0 - sk / ((alphak + inside).sqrt() + outside);
        p = Vector::select_if(moves, Vector::select_if(mu, mu * p + one_minus_mu * z, z), p);
    }
}

impl Algorithm for DAdaptAdaGrad {
    const INFO: Info = Info {
        summary: "Adagrad that finds its learning rate, from how far the gradients say that the solution is.",
        family: "learning-rate-free",
        source: "dadaptation",
        differences: "What dadaptation reads from its first group only (lr, momentum, d0, growth_rate) is read from the \
            first group here, too. The gradient, to which dadaptation adds the decay in place, is not changed. What it \
            keeps in a separate state for row-sparse gradients (weighted_sk) follows from the others here. A negative \
            weight_decay is refused.",
        references: &[papers::DADAPT, Reference::new("dadaptation.DAdaptAdaGrad", "dadaptation 3.2")],
    };
    const STATES: &'static [State<Self>] = &[
        State::second_moment("alphak").starts_at(|_| 1e-6),
        State::new("sk").slow(),
        State::new("x0").starts_as_param(),
    ];

    const SHARED: &'static [(&'static str, f64)] =
        &[("d", 0.0), ("gsq_weighted", 0.0), ("sksq_weighted", 0.0), ("skl1", 0.0), ("k", 0.0), ("dlr", 0.0)];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        let sums = match on.distributed || on.groups.iter().any(|group| group.weight_decay > 0.0) {
            true => on.pass::<DAdaptAdaGradSumRule>(),
            false => on.pass::<DAdaptAdaGradUndecayedRule>(),
        };
        Ok(sums.pass::<DAdaptAdaGradRule>())
    }

    fn check(&mut self, first: bool) -> Result<(), HyperError> {
        if first { needs_lr(Self::NAME, self.lr) } else { Ok(()) }
    }

    fn sparse(&self) -> Sparse {
        Sparse::Rows
    }
}
