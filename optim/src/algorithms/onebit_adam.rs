//! OnebitAdam: Adam whose variance is frozen after a warm-up, so that its momentum can be sent as signs.

use super::onebit::{self, CommBackend, Phase, SET_UP, WARM_UP};
use super::prelude::*;
use crate::compression::Compression;
use crate::op::{OpAt, TensorOp};
use crate::{ErrorFeedback, MaskPolicy, Replicas};

hyperparameters! {
    /// OnebitAdam: Adam whose variance is frozen after a warm-up, so that its momentum can be sent as signs.
    ///
    /// ```text
    /// mₜ = β₁ mₜ₋₁ + (1 − β₁) g
    /// vₜ = β₂ vₜ₋₁ + (1 − β₂) g²                (in warm-up; then it stays as it is)
    /// θₜ = θₜ₋₁ − γ (mₜ / (√vₜ + ε) + λ θₜ₋₁)   (no bias is corrected)
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ε = `eps`, λ = `weight_decay`. State: 8 bytes a parameter in `f32` (`m`, `v`).
    ///
    /// [Compression](crate::compression) begins after the step in which the last parameter (by name) with a gradient
    /// reaches `freeze_step` gradients, the first step's included. A parameter whose first gradient comes then has v
    /// = 0, and moves by γ m / ε. With several ranks m is what is compressed.
    ///
    /// ```
    /// # use fallline_optim::algorithms::OnebitAdam;
    /// let algorithm = OnebitAdam { freeze_step: 1000, ..OnebitAdam::default() };
    /// ```
    pub OnebitAdam as "OnebitAdam" {
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
        /// Keep both moments of a group up to date in every phase (an option of groups in the source).
        non_freeze: bool = false, Range::Any;
    }
    accepted {
        deepspeed: (),
        bias_correction: bool = true, Range::Any,
        eps_inside_sqrt: bool,
        max_grad_norm: f64 = 0.0, Range::AtLeast(0.0),
        cuda_aware: bool,
        comm_backend_name: CommBackend = CommBackend::Nccl, Range::Any
    }
    fixed { amsgrad: bool = false, "1-bit Adam has no largest second moment" }
}

rule! {
    /// One step of [`OnebitAdam`].
    pub OnebitAdamRule(h: OnebitAdam, t) {
        let lr = h.lr;
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    per_tensor(averages, adapts, moves) {
        once(groups, at) {
            let phase = onebit::advance(at, onebit::last_reaches(at, groups[0].freeze_step));
        }
        each(at) {
            let averages = flag(phase != SET_UP || h.non_freeze);
            let adapts = flag(phase == WARM_UP || h.non_freeze);
            let moves = flag(phase != SET_UP);
        }
    }
    element(g: Grad) -> (p: Param, m: State, v: State) {
        m = Vector::select_if(averages, beta1 * m + one_minus_beta1 * g, m);
        v = Vector::select_if(adapts, beta2 * v + one_minus_beta2 * g * g, v);
        let u = m / (v.sqrt() + eps);
        p = Vector::select_if(moves, p - lr * Vector::select_if(decays, u + weight_decay * p, u), p);
    }
    or
    /// The first pass of [`OnebitAdam`] over several ranks: the moments. The parameter waits for everybody's momentum.
    pub OnebitAdamMomentsRule
    per_tensor(averages, adapts, moves) {
        once(groups, at) {
            let phase = onebit::advance(at, onebit::last_reaches(at, groups[0].freeze_step));
        }
        each(at) {
            let averages = flag(phase != SET_UP || h.non_freeze);
            let adapts = flag(phase == WARM_UP || h.non_freeze);
            let moves = 0.0;
        }
    }
    element(g: Grad) -> (p: Param, m: State, v: State) {
        m = Vector::select_if(averages, beta1 * m + one_minus_beta1 * g, m);
        v = Vector::select_if(adapts, beta2 * v + one_minus_beta2 * g * g, v);
        let u = m / (v.sqrt() + eps);
        p = Vector::select_if(moves, p - lr * Vector::select_if(decays, u + weight_decay * p, u), p);
    }
    or
    /// The second: the parameter, by the momentum that is everybody's.
    pub OnebitAdamUpdateRule
    per_tensor(averages, adapts, moves) {
        once(groups, at) {
            let phase = at.shared[0];
        }
        each(at) {
            let averages = 0.0;
            let adapts = 0.0;
            let moves = flag(phase != SET_UP);
        }
    }
    element(g: Grad) -> (p: Param, m: State, v: State) {
        m = Vector::select_if(averages, beta1 * m + one_minus_beta1 * g, m);
        v = Vector::select_if(adapts, beta2 * v + one_minus_beta2 * g * g, v);
        let u = m / (v.sqrt() + eps);
        p = Vector::select_if(moves, p - lr * Vector::select_if(decays, u + weight_decay * p, u), p);
    }
}

/// The mean of the ranks' momenta, compressed.
pub struct MomentumAllReduce;

impl TensorOp for MomentumAllReduce {
    type Hyper = OnebitAdam;
    const NAME: &'static str = "MomentumAllReduce";
    const FORMULAS: &'static [&'static str] =
        &["in compression: m ← the mean of all ranks' m, sent as signs"];

    fn run<K: Link>(h: &OnebitAdam, at: &mut OpAt<'_>) -> fallline_core::Result<()> {
        if onebit::phase(at.shared) != Phase::Compressed || h.non_freeze {
            return Ok(());
        }
        let x = at.states.get_mut("m")?;
        Compression::new::<K>().all_reduce(at.on, &mut at.peers, at.workspace, x)
    }
}

impl Algorithm for OnebitAdam {
    const INFO: Info = Info {
        summary: "Adam whose variance is frozen after a warm-up, so that its momentum can be sent as signs.",
        family: "communication",
        source: "DeepSpeed",
        differences: onebit::differences!(
            "There the last parameter of its list ends the warm-up, here the last by name."
        ),
        references: &[
            Reference::new(
                "Tang et al. 2021, 1-bit Adam: Communication Efficient Large-Scale Training with Adam's \
                    Convergence Speed",
                "arXiv:2102.02888",
            ),
            Reference::new("deepspeed.runtime.fp16.onebit.adam.OnebitAdam", "deepspeed 0.14.4"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v")];

    const SHARED: &'static [(&'static str, f64)] = onebit::PHASES;

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        if !on.distributed {
            return Ok(on.pass::<OnebitAdamRule>());
        }
        if self.non_freeze {
            return Err(
                "non_freeze needs averaged gradients in compression, when ranks have their own only".into()
            );
        }
        Ok(on.pass::<OnebitAdamMomentsRule>().op::<MomentumAllReduce>().pass::<OnebitAdamUpdateRule>())
    }

    const REPLICAS: Replicas = Replicas {
        gradients_averaged: |shared| onebit::next_phase(shared) != Phase::Compressed,
        error_feedback: Some(ErrorFeedback::PerParameter),
        momentum_mask: MaskPolicy::Always,
        diverged: None,
    };
}
