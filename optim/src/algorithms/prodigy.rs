//! Prodigy: Adam that finds its learning rate from the distance that it has moved.

use super::prelude::*;
use crate::algorithms::dadapt_adam::{check_lr, common_lr, weighted};
use crate::algorithms::learning_rate::needs_lr;
use crate::op::{OpAt, TensorOp};
use fallline_core::backend::View;
use fallline_core::{Kernel, Result};

hyperparameters! {
    /// Prodigy: Adam that finds its learning rate from the distance that it has moved.
    ///
    /// ```text
    /// δ  = d γ √(1 − β₂ᵏ⁺¹) / (1 − β₁ᵏ⁺¹)            (without use_bias_correction: d γ)
    /// g  = g + λ θₜ₋₁                                (without decouple; with it θₜ₋₁ is multiplied by 1 − δλ)
    /// mₜ = β₁ mₜ₋₁ + d (1 − β₁) g
    /// vₜ = β₂ vₜ₋₁ + d² (1 − β₂) g²
    /// sₜ = β₃ sₜ₋₁ + d/d₀ δ g                        (safeguard_warmup: d/d₀ d g)
    /// N  = β₃ N + Σ d/d₀ δ g · (θ₀ − θₜ₋₁)           (sums over all elements of all parameters)
    /// d̂  = c N / Σ |sₜ|
    /// D  = max(D, d̂);  d = min(D, q d)               (as long as d is d₀: q max(d, d̂))
    /// θₜ = θₜ₋₁ − δ mₜ / (√vₜ + d ε)                 (with β₁ = 0: δ d g)
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, β₃ = `beta3` or √β₂, ε = `eps`, λ = `weight_decay`, d₀ = `d0`, c = `d_coef`,
    /// q = `growth_rate`. The last line has the new d, δ the old one. The estimates d and D start from d₀, N from
    /// 0, and k counts the steps. All four are shared scalars (`d`, `d_max`, `d_numerator`, `k`). While all
    /// gradients have been 0, or `lr` is, nothing moves. The parameter as it was at its first gradient is θ₀. Two
    /// passes. State: 16 bytes a parameter in `f32` (`m`, `v`, `s`, `p0`), without `m` for β₁ = 0. With a `slice_p`
    /// above 1 both sums are over the first of every so many elements, of which alone `s` and `p0` are kept.
    ///
    /// ```
    /// # use fallline_optim::algorithms::Prodigy;
    /// let algorithm = Prodigy { use_bias_correction: true, safeguard_warmup: true, ..Prodigy::default() };
    /// ```
    pub Prodigy as "Prodigy" {
        /// Factor γ of the step size that is found: 1, or a schedule's. In every group the same, or 0, which
        /// freezes the group's moments.
        lr: f64 = 1.0, Range::AtLeast(0.0);
        /// Decay rates β₁, β₂ of the running averages of the gradient and of its square; the first group's.
        betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Decay rate β₃ of what d is estimated from, or none for √β₂; the first group's.
        beta3: Option<f64> = None, Range::Closed(0.0, 1.0);
        /// Added to the denominator, in units of d.
        eps: f64 = 1e-8, Range::Above(0.0);
        /// Weight decay λ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Take the decay from the parameter, as AdamW does; the first group's.
        decouple: bool = true, Range::Any;
        /// Correct the bias that the averages have from starting at 0; the first group's.
        use_bias_correction: bool = false, Range::Any;
        /// Leave the schedule out of what d is divided by: for long warm-ups.
        safeguard_warmup: bool = false, Range::Any;
        /// What d starts from.
        d0: f64 = 1e-6, Range::Above(0.0);
        /// Factor c of the estimate of d; the first group's.
        d_coef: f64 = 1.0, Range::AtLeast(0.0);
        /// The largest factor q by which d grows in one step; the first group's.
        growth_rate: f64 = f64::INFINITY, Range::Above(0.0);
        /// Estimate d from one of every so many elements.
        slice_p: u64 = 1, Range::AtLeast(1.0);
    }
    accepted { fsdp_in_use: bool }
}

rule! {
    /// The first pass of [`Prodigy`]: the averages, and what d is estimated from.
    pub ProdigyMomentsRule(h: Prodigy, t) {
        let weight_decay = h.weight_decay;
    }
    per_tensor(active, decays, beta1, beta2, beta3, new_m, new_v, new_s) shared(d, d_max, k, dlr) {
        once(groups, at) {
            let first_d0 = groups[0].d0;
            let lr = common_lr(groups.iter().map(|group| group.lr));
            let corrects = flag(groups[0].use_bias_correction);
            let couples = flag(!groups[0].decouple);
            let beta1 = groups[0].betas.0;
            let beta2 = groups[0].betas.1;
            let beta3 = groups[0].third_beta();
        }
        each(at) {
            let active = flag(h.lr > 0.0);
            let decays = flag(h.weight_decay > 0.0) * couples;
            let d0 = h.d0;
            let safe = flag(h.safeguard_warmup);
        }
        update {
            d = N::select(d.eq(N::splat(0.0)), first_d0, d);
            d_max = N::select(d_max.eq(N::splat(0.0)), first_d0, d_max);
            let count = k + 1.0;
            let corrected = (1.0 - beta2.pow(count)).sqrt() / (1.0 - beta1.pow(count));
            dlr = d * lr * N::select_if(corrects, corrected, N::splat(1.0));
        }
        tensor {
            let new_m = d * (1.0 - beta1);
            let new_v = d * d * (1.0 - beta2);
            let new_s = d / d0 * N::select_if(safe, d, dlr);
        }
    }
    element(grad: Grad, p: Param, p0: State) -> (m: State, v: State, s: State) sum(dot, length) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        dot = g * (p0 - p);
        m = Vector::select_if(active, beta1 * m + new_m * g, m);
        v = Vector::select_if(active, beta2 * v + new_v * g * g, v);
        s = Vector::select_if(active, beta3 * s + new_s * g, s);
        length = s.abs();
    }
    or
    /// The same without a momentum.
    pub ProdigyMomentRule
    element(grad: Grad, p: Param, p0: State) -> (v: State, s: State) sum(dot, length) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        dot = g * (p0 - p);
        v = Vector::select_if(active, beta2 * v + new_v * g * g, v);
        s = Vector::select_if(active, beta3 * s + new_s * g, s);
        length = s.abs();
    }
    or
    /// The averages alone, where d is estimated from slices.
    pub ProdigyWholeMomentsRule
    element(grad: Grad, p: Param) -> (m: State, v: State) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        m = Vector::select_if(active, beta1 * m + new_m * g, m);
        v = Vector::select_if(active, beta2 * v + new_v * g * g, v);
    }
    or
    /// The same without a momentum.
    pub ProdigyWholeMomentRule
    element(grad: Grad, p: Param) -> (v: State) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        v = Vector::select_if(active, beta2 * v + new_v * g * g, v);
    }
}

rule! {
    /// What d is estimated from, on slices of [`Prodigy`]'s parameters.
    pub ProdigySliceRule(h: Prodigy, t) {
        let weight_decay = h.weight_decay;
    }
    per_tensor(active, decays, beta3, new_s) shared(d, dlr) {
        once(groups, at) {
            let couples = flag(!groups[0].decouple);
            let beta3 = groups[0].third_beta();
        }
        each(at) {
            let active = flag(h.lr > 0.0);
            let decays = flag(h.weight_decay > 0.0) * couples;
            let d0 = h.d0;
            let safe = flag(h.safeguard_warmup);
        }
        tensor {
            let new_s = d / d0 * N::select_if(safe, d, dlr);
        }
    }
    element(slice_g: Scratch, slice_p: Scratch, p0: State) -> (s: State) sum(dot, length) {
        let g = Vector::select_if(decays, slice_g + weight_decay * slice_p, slice_g);
        dot = g * (p0 - slice_p);
        s = Vector::select_if(active, beta3 * s + new_s * g, s);
        length = s.abs();
    }
}

rule! {
    /// The second pass of [`Prodigy`]: the parameter.
    pub ProdigyRule(h: Prodigy, t) {
        let weight_decay = h.weight_decay;
    }
    per_tensor(moves, decays, keep, step, least) reads ProdigyMomentsRule(dot, length)
        shared(d, d_max, d_numerator, k, dlr) {
        once(groups, at) {
            let last_d0 = groups[groups.count() - 1].d0;
            let averages = flag(groups[0].betas.0 > 0.0);
            let beta3 = groups[0].third_beta();
            let d_coef = groups[0].d_coef;
            let growth_rate = groups[0].growth_rate;
            let couples = flag(!groups[0].decouple);
        }
        each(at) {
            let active = flag(h.lr > 0.0);
            let d0 = h.d0;
            let eps = h.eps;
            let decays = flag(h.weight_decay > 0.0) * couples;
            let decay = h.weight_decay * (1.0 - couples);
        }
        totals(All) {
            all_dot = weighted(active * (d / d0 * dlr), dot);
            all_length = weighted(active, length);
        }
        update {
            let stands = all_length.eq(N::splat(0.0));
            let numerator = beta3 * d_numerator + all_dot;
            let estimate = d_coef * numerator / all_length;
            // Before d has moved, growth_rate does not hold it.
            let jumped = N::select(d.eq(last_d0), larger(d, estimate), d);
            let most = larger(d_max, estimate);
            let grown = jumped * growth_rate;
            d = N::select(stands, d, N::select(grown.lt(most), grown, most));
            d_max = N::select(stands, d_max, most);
            d_numerator = N::select(stands, d_numerator, numerator);
            k = N::select(stands, k, k + 1.0);
        }
        tensor {
            let moves = N::select(all_length.eq(N::splat(0.0)), N::splat(0.0), N::splat(1.0));
            let keep = 1.0 - decay * dlr;
            let step = N::select_if(averages, dlr, dlr * d);
            let least = d * eps;
        }
    }
    element(m: State, v: State) -> (p: Param) {
        p = Vector::select_if(moves, keep * p - step * m / (v.sqrt() + least), p);
    }
    or
    /// The same without a momentum.
    pub ProdigyGradRule
    element(grad: Grad, v: State) -> (p: Param) {
        let g = Vector::select_if(decays, grad + weight_decay * p, grad);
        p = Vector::select_if(moves, keep * p - step * g / (v.sqrt() + least), p);
    }
}

/// What the host knows of a gradient's scale.
pub struct KnownScale(f64);

rule! {
    /// A slice of a gradient, multiplied as the gradient is.
    pub ProdigyScaleRule(h: KnownScale, t) {}
    per_tensor(grad_scale) shared(factor) {
        each(at) {
            let known = h.0;
        }
        tensor {
            let grad_scale = known * factor;
        }
    }
    element() -> (x: Scratch) {
        x = x * grad_scale;
    }
}

/// Slices of a parameter and of its gradient.
pub struct TakeSlices;

impl TensorOp for TakeSlices {
    type Hyper = Prodigy;
    const NAME: &'static str = "TakeSlices";
    const FORMULAS: &'static [&'static str] =
        &["slice_g, slice_p = the first of every so many elements of the gradient and of the parameter"];

    fn rules<K: Link>() -> Vec<&'static Kernel> {
        vec![K::kernel::<ProdigyScaleRule>()]
    }

    fn run<K: Link>(h: &Prodigy, at: &mut OpAt<'_>) -> Result<()> {
        let every = usize::try_from(h.slice_p).unwrap_or(usize::MAX);
        at.take_slices(every, ["slice_p", "slice_g"])?;
        let (known, reading) = (KnownScale(at.grad_scale.known()), at.reading());
        let views = &mut [Some(View::write(at.scratch.get_mut("slice_g")?))];
        at.on.run_reading(reading, K::kernel::<ProdigyScaleRule>(), &known, views)
    }
}

/// Returns the larger of two numbers; the first one where the other is none.
fn larger<N: Number>(x: N, other: N) -> N
where
    f64: Literal<N>,
{
    N::select(x.lt(other), other, x)
}

impl Algorithm for Prodigy {
    const INFO: Info = Info {
        summary: "Adam that finds its learning rate from the way that it has come.",
        family: "learning-rate-free",
        source: "prodigyopt",
        differences: "What prodigyopt reads from its first group only (betas, beta3, d_coef, use_bias_correction, \
            growth_rate, decouple) is read from the first group here, too. A parameter of zeros keeps its p0 in full, as \
            others do. The gradient, to which prodigyopt adds the decay in place, is not changed. A negative weight_decay \
            or d_coef, a growth_rate of 0 or less and a beta3 outside [0, 1] are refused.",
        references: &[
            Reference::new(
                "Mishchenko & Defazio 2024, Prodigy: An Expeditiously Adaptive Parameter-Free Learner",
                "arXiv:2306.06101",
            ),
            Reference::new("prodigyopt.Prodigy", "prodigyopt 1.1.2"),
        ],
    };
    const STATES: &'static [State<Self>] = &[
        State::second_moment("v"),
        State::new("s").slow().every(|h| h.slice_p),
        State::new("p0").starts_as_param().every(|h| h.slice_p),
        State::new("slice_g").every(|h| h.slice_p),
        State::new("slice_p").every(|h| h.slice_p),
    ];
    const SHARED: &'static [(&'static str, f64)] =
        &[("d", 0.0), ("d_max", 0.0), ("d_numerator", 0.0), ("k", 0.0), ("dlr", 0.0)];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        check_lr(on.groups.iter().map(|group| group.lr))?;
        let averages = on.groups[0].betas.0 > 0.0;
        let moments = match (on.groups.iter().any(|group| group.slice_p > 1), averages) {
            (false, true) => on.pass::<ProdigyMomentsRule>(),
            (false, false) => on.pass::<ProdigyMomentRule>(),
            (true, true) => {
                on.pass::<ProdigyWholeMomentsRule>().op::<TakeSlices>().pass::<ProdigySliceRule>()
            }
            (true, false) => {
                on.pass::<ProdigyWholeMomentRule>().op::<TakeSlices>().pass::<ProdigySliceRule>()
            }
        };
        Ok(if averages { moments.pass::<ProdigyRule>() } else { moments.pass::<ProdigyGradRule>() })
    }

    fn check(&mut self, first: bool) -> Result<(), HyperError> {
        if first { needs_lr(Self::NAME, self.lr) } else { Ok(()) }
    }
}

impl Prodigy {
    /// Returns β₃.
    fn third_beta(&self) -> f64 {
        self.beta3.unwrap_or_else(|| sqrt(self.betas.1))
    }
}
