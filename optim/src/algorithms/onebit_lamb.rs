//! OnebitLamb: LAMB whose variance and coefficients are frozen after a warm-up, so that its momentum can be sent as signs.

mod ops;

pub use ops::{LargestRatio, MomentaAllReduce};

use super::fused_lamb::{held, ratio_within};
use super::onebit::{self, COMPRESSED, CommBackend, Phase, SET_UP, WARM_UP};
use super::prelude::*;
use crate::{ErrorFeedback, MaskPolicy, Replicas};

hyperparameters! {
    /// OnebitLamb: LAMB whose variance and coefficients are frozen after a warm-up, so that its momentum can be sent as
    /// signs.
    ///
    /// ```text
    /// mₜ = β₁ mₜ₋₁ + (1 − β₁) g
    /// uₜ = mₜ / (√vₜ + ε) + λ θₜ₋₁              (no bias is corrected)
    /// θₜ = θₜ₋₁ − γ r uₜ
    ///
    /// warm-up:      vₜ = β₂ vₜ₋₁ + (1 − β₂) g²
    ///               r  = ‖θₜ₋₁‖ / ‖uₜ‖ within [c_min, c_max]    (1 where a norm is 0)
    ///               c  = β_c c + (1 − β_c) r                    (unless r is 1; from 0)
    /// compression:  v stays;  fₜ = β₂ fₜ₋₁ + (1 − β₂) ((mₜ − β₁ mₜ₋₁) / (1 − β₁))²     (from v)
    ///               q  = max (√v + ε) / (√fₜ + ε)               (over the elements of the tensor)
    ///               q  = w q + 1 − w,  w = min(1, ‖mₜ / (√v + ε)‖ / ‖uₜ‖)             (with λ)
    ///               q  within [q_min, q_max], then within (1 ± δ) times the last q     (from 1)
    ///               r  = c q
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ε = `eps`, λ = `weight_decay`, c_min, c_max = `min_coeff`, `max_coeff`,
    /// β_c = `coeff_beta`, q_min, q_max = `factor_min`, `factor_max`, δ = `factor_threshold`. The norms are those
    /// of one tensor. Each parameter keeps c and the last q. State: 12 bytes a parameter in `f32` (`m`, `v`, and f
    /// as `v_fresh`).
    ///
    /// [Compression](crate::compression) begins after the step in which the last parameter (by name) with a gradient
    /// reaches `freeze_step` gradients, the first step's included. A parameter's f starts from v at its own gradient
    /// number `freeze_step`; if warm-up ended before, from 0. With several ranks the m of all parameters are
    /// compressed in one piece. Each is multiplied before by what makes its root mean square that of the others, and
    /// divided by it afterwards.
    ///
    /// ```
    /// # use fallline_optim::algorithms::OnebitLamb;
    /// let algorithm = OnebitLamb { freeze_step: 1000, coeff_beta: 0.95, ..OnebitLamb::default() };
    /// ```
    pub OnebitLamb as "OnebitLamb" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Gradients of warm-up, the first step's included; the first group's.
        freeze_step: u64 = 100_000, Range::AtLeast(0.0);
        /// Decay rates β₁, β₂ of the running averages of the gradient and of its square.
        betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// Weight decay λ: λθ is part of the direction.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// The largest ratio of the norms.
        max_coeff: f64 = 10.0, Range::AtLeast(0.0);
        /// The smallest ratio of the norms.
        min_coeff: f64 = 0.01, Range::AtLeast(0.0);
        /// Decay rate β_c of the running average of the ratio.
        coeff_beta: f64 = 0.9, Range::Closed(0.0, 1.0);
        /// The largest factor q to the frozen ratio.
        factor_max: f64 = 4.0, Range::AtLeast(0.0);
        /// The smallest factor q to the frozen ratio.
        factor_min: f64 = 0.5, Range::AtLeast(0.0);
        /// By which part δ of itself the factor may change in a step.
        factor_threshold: f64 = 0.1, Range::AtLeast(0.0);
    }
    accepted {
        deepspeed: (),
        bias_correction: bool = true, Range::Any,
        eps_inside_sqrt: bool,
        max_grad_norm: f64 = 0.0, Range::AtLeast(0.0),
        cuda_aware: bool,
        comm_backend_name: CommBackend = CommBackend::Nccl, Range::Any
    }
    fixed { amsgrad: bool = false, "1-bit LAMB has no largest second moment" }
}

rule! {
    /// The first pass of [`OnebitLamb`]: the moments, and the norms of the direction, of it without the decay, and of the
    /// parameter.
    pub OnebitLambMomentsRule(h: OnebitLamb, t) {
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    per_tensor(averages, adapts, refreshes, copies) {
        once(groups, at) {
            let phase = onebit::advance(at, onebit::last_reaches(at, groups[0].freeze_step));
            let freeze_step = groups[0].freeze_step as f64;
        }
        each(at) {
            let averages = flag(phase != SET_UP);
            let adapts = flag(phase == WARM_UP);
            let refreshes = flag(phase == COMPRESSED);
            let copies = flag(phase == WARM_UP && t as f64 == freeze_step);
        }
    }
    element(g: Grad, p: Param) -> (m: State, v: State, v_fresh: State) sum(update2, preliminary2, param2) {
        let last = m;
        m = Vector::select_if(averages, beta1 * m + one_minus_beta1 * g, m);
        v = Vector::select_if(adapts, beta2 * v + one_minus_beta2 * g * g, v);
        let rebuilt = (m - last * beta1) / one_minus_beta1;
        v_fresh = Vector::select_if(copies, v, v_fresh);
        v_fresh = Vector::select_if(refreshes, beta2 * v_fresh + one_minus_beta2 * rebuilt * rebuilt, v_fresh);
        let preliminary = m / (v.sqrt() + eps);
        let u = Vector::select_if(decays, preliminary + weight_decay * p, preliminary);
        update2 = u * u;
        preliminary2 = preliminary * preliminary;
        param2 = p * p;
    }
}

rule! {
    /// The first pass of [`OnebitLamb`] over several ranks: the moments, before the momentum is everybody's.
    pub OnebitLambOwnRule(h: OnebitLamb, t) {
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
    }
    per_tensor(averages, adapts, copies) {
        once(groups, at) {
            let phase = onebit::advance(at, onebit::last_reaches(at, groups[0].freeze_step));
            let freeze_step = groups[0].freeze_step as f64;
        }
        each(at) {
            let averages = flag(phase != SET_UP);
            let adapts = flag(phase == WARM_UP);
            let copies = flag(phase == WARM_UP && t as f64 == freeze_step);
        }
    }
    element(g: Grad) -> (m: State, v: State, v_fresh: State, last: Scratch) {
        last = m;
        m = Vector::select_if(averages, beta1 * m + one_minus_beta1 * g, m);
        v = Vector::select_if(adapts, beta2 * v + one_minus_beta2 * g * g, v);
        v_fresh = Vector::select_if(copies, v, v_fresh);
    }
}

rule! {
    /// The second: what follows from the momentum, and its own norm.
    pub OnebitLambSharedRule(h: OnebitLamb, t) {
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    per_tensor(refreshes) {
        each(at) {
            let refreshes = flag(at.shared[0] == COMPRESSED);
        }
    }
    element(p: Param, m: State, v: State, last: Scratch) -> (v_fresh: State) sum(update2, preliminary2, param2, m2) {
        let rebuilt = (m - last * beta1) / one_minus_beta1;
        v_fresh = Vector::select_if(refreshes, beta2 * v_fresh + one_minus_beta2 * rebuilt * rebuilt, v_fresh);
        let preliminary = m / (v.sqrt() + eps);
        let u = Vector::select_if(decays, preliminary + weight_decay * p, preliminary);
        update2 = u * u;
        preliminary2 = preliminary * preliminary;
        param2 = p * p;
        m2 = m * m;
    }
}

rule! {
    /// A momentum on its way to the piece that is sent, times its coefficient.
    pub OnebitLambScaleRule(h: (), t) {}
    per_tensor(coefficient)
    element(m: State) -> (x: Scratch) {
        x = m * coefficient;
    }
}

rule! {
    /// A momentum out of the piece that came back.
    pub OnebitLambUnscaleRule(h: (), t) {}
    per_tensor(coefficient)
    element(x: Scratch) -> (m: State) {
        m = x / coefficient;
    }
}

rule! {
    /// How much smaller [`OnebitLamb`]'s denominator would be by now, had it not been frozen.
    pub OnebitLambRatioRule(h: OnebitLamb, t) {
        let eps = h.eps;
    }
    element(v: State, v_fresh: State) -> (x: Scratch) {
        x = (v.sqrt() + eps) / (v_fresh.sqrt() + eps);
    }
}

rule! {
    /// The last pass of [`OnebitLamb`]: the parameter.
    pub OnebitLambRule(h: OnebitLamb, t) {
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    per_tensor(moves, step_size) reads OnebitLambMomentsRule(update2, preliminary2, param2)
    memory(lamb_coeff_freeze, last_factor, largest_ratio) {
        each(at) {
            let phase = at.shared[0];
            let elements = at.shape.elements() as f64;
            let moves = flag(phase != SET_UP);
            let lr = h.lr;
            let decay = h.weight_decay;
            let min_coeff = h.min_coeff;
            let max_coeff = h.max_coeff;
            let coeff_beta = h.coeff_beta;
            let factor_min = h.factor_min;
            let factor_max = h.factor_max;
            let factor_threshold = h.factor_threshold;
        }
        tensor {
            let update = update2.sqrt();
            let preliminary = preliminary2.sqrt();
            let warm_up = phase.eq(N::splat(WARM_UP));
            let ratio = ratio_within(param2.sqrt(), update, min_coeff, max_coeff);
            let averaged = coeff_beta * lamb_coeff_freeze + (1.0 - coeff_beta) * ratio;
            let averaged = N::select(ratio.eq(N::splat(1.0)), lamb_coeff_freeze, averaged);
            let share = (preliminary / update).min(N::splat(1.0));
            let factor = N::select_if(decay, largest_ratio * share + (1.0 - share), largest_ratio);
            let factor = held(factor, factor_min, factor_max);
            let least = last_factor * (1.0 - factor_threshold);
            let factor = held(factor, least, last_factor * (1.0 + factor_threshold));
            // The largest of several numbers does not say whether one is none; their norm does. A tensor without elements
            // has no ratios.
            let counts = preliminary.eq(preliminary);
            let compressed = N::select(counts, lamb_coeff_freeze * factor, preliminary);
            let compressed = N::select_if(elements, compressed, N::splat(0.0));
            let factor = N::select_if(elements, N::select(counts, factor, last_factor), last_factor);
            last_factor = N::select(phase.eq(N::splat(COMPRESSED)), factor, last_factor);
            lamb_coeff_freeze = N::select(warm_up, averaged, lamb_coeff_freeze);
            let coefficient = N::select(warm_up, ratio, N::select_if(moves, compressed, N::splat(0.0)));
            let step_size = lr * coefficient;
        }
    }
    element(m: State, v: State) -> (p: Param) {
        let direction = m / (v.sqrt() + eps);
        let u = Vector::select_if(decays, direction + weight_decay * p, direction);
        p = Vector::select_if(moves, p - step_size * u, p);
    }
    or
    /// The last pass of [`OnebitLamb`] over several ranks, which accumulates the size of the momentum.
    pub OnebitLambRanksRule
    per_tensor(moves, step_size) reads OnebitLambSharedRule(update2, preliminary2, param2, m2)
    memory(lamb_coeff_freeze, last_factor, largest_ratio, momentum) {
        each(at) {
            let phase = at.shared[0];
            let elements = at.shape.elements() as f64;
            let moves = flag(phase != SET_UP);
            let lr = h.lr;
            let decay = h.weight_decay;
            let min_coeff = h.min_coeff;
            let max_coeff = h.max_coeff;
            let coeff_beta = h.coeff_beta;
            let factor_min = h.factor_min;
            let factor_max = h.factor_max;
            let factor_threshold = h.factor_threshold;
        }
        tensor {
            let update = update2.sqrt();
            let preliminary = preliminary2.sqrt();
            let warm_up = phase.eq(N::splat(WARM_UP));
            let ratio = ratio_within(param2.sqrt(), update, min_coeff, max_coeff);
            let averaged = coeff_beta * lamb_coeff_freeze + (1.0 - coeff_beta) * ratio;
            let averaged = N::select(ratio.eq(N::splat(1.0)), lamb_coeff_freeze, averaged);
            let share = (preliminary / update).min(N::splat(1.0));
            let factor = N::select_if(decay, largest_ratio * share + (1.0 - share), largest_ratio);
            let factor = held(factor, factor_min, factor_max);
            let least = last_factor * (1.0 - factor_threshold);
            let factor = held(factor, least, last_factor * (1.0 + factor_threshold));
            // The largest of several numbers does not say whether one is none; their norm does. A tensor without elements
            // has no ratios.
            let counts = preliminary.eq(preliminary);
            let compressed = N::select(counts, lamb_coeff_freeze * factor, preliminary);
            let compressed = N::select_if(elements, compressed, N::splat(0.0));
            let factor = N::select_if(elements, N::select(counts, factor, last_factor), last_factor);
            last_factor = N::select(phase.eq(N::splat(COMPRESSED)), factor, last_factor);
            lamb_coeff_freeze = N::select(warm_up, averaged, lamb_coeff_freeze);
            let coefficient = N::select(warm_up, ratio, N::select_if(moves, compressed, N::splat(0.0)));
            let step_size = lr * coefficient;
            momentum = N::select(warm_up, m2.sqrt() / elements.max(N::splat(1.0)).sqrt(), momentum);
        }
    }
    element(m: State, v: State) -> (p: Param) {
        let direction = m / (v.sqrt() + eps);
        let u = Vector::select_if(decays, direction + weight_decay * p, direction);
        p = Vector::select_if(moves, p - step_size * u, p);
    }
}

impl Algorithm for OnebitLamb {
    const INFO: Info = Info {
        summary: "LAMB whose variance and coefficients are frozen after a warm-up, so that its momentum can be sent as \
            signs.",
        family: "communication",
        source: "DeepSpeed",
        differences: onebit::differences!(
            "There the last parameter of its list ends the warm-up, here the last by name. DeepSpeed fails where a \
             parameter has no gradient in the first step, is empty, or has a momentum of 0 when compression begins, and \
             moves parameters without a gradient in compression, along a momentum that it scaled by mistake; here they \
             are left as they are. On several ranks it fills the piece that is sent up with what came back in that place \
             the step before, here with zeros."
        ),
        references: &[
            Reference::new(
                "Li et al. 2021, 1-bit LAMB: Communication Efficient Large-Scale Large-Batch Training with LAMB's \
                    Convergence Speed",
                "arXiv:2104.06069",
            ),
            Reference::new("deepspeed.runtime.fp16.onebit.lamb.OnebitLamb", "deepspeed 0.14.4"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v"), State::second_moment("v_fresh")];

    const MEMORY: &'static [(&'static str, f64)] = &[
        ("lamb_coeff_freeze", 0.0),
        ("last_factor", 1.0),
        ("largest_ratio", 1.0),
        ("momentum", 0.0),
        ("scaling_coeff", 0.0),
    ];

    const SHARED: &'static [(&'static str, f64)] = onebit::PHASES;

    const REPLICAS: Replicas = Replicas {
        gradients_averaged: |shared| onebit::next_phase(shared) != Phase::Compressed,
        error_feedback: Some(ErrorFeedback::Fused),
        momentum_mask: MaskPolicy::Always,
        diverged: None,
    };

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> core::result::Result<Steps<Self, K>, String> {
        if !on.distributed {
            let moments = on.pass::<OnebitLambMomentsRule>();
            return Ok(moments.op::<LargestRatio>().pass::<OnebitLambRule>());
        }
        let moments = on.pass::<OnebitLambOwnRule>().collective::<MomentaAllReduce>();
        Ok(moments.pass::<OnebitLambSharedRule>().op::<LargestRatio>().pass::<OnebitLambRanksRule>())
    }
}
