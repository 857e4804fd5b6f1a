//! ZeroOneAdam: Adam that adapts its variance ever more rarely, then freezes it and lets ranks step alone.

use super::onebit::{self, CommBackend, Phase};
use crate::hyper::Range;
use crate::stages::{Gathering, Groups, Stages};
use crate::{Algorithm, Info, Reference, Sparse, hyperparameters};
use fallline_core::math::flag;
use fallline_core::{Kernel, Lane, Link, rule};

hyperparameters! {
    /// ZeroOneAdam (0/1 Adam): Adam that adapts its variance ever more rarely, then freezes it and lets ranks step alone.
    ///
    /// ```text
    /// mₜ = β₁ mₜ₋₁ + (1 − β₁) g                 (while v is adapted, only at the steps at which it is)
    /// vₜ = β₂ vₜ₋₁ + (1 − β₂) g²                (at steps that the interval i divides; not at all once frozen)
    /// dₜ = γ (mₜ / (√vₜ + ε) + λ θₜ₋₁)
    /// θₜ = θₜ₋₁ − dₜ
    /// uₜ = uₜ₋₁ − dₜ,  Γ = Γ + γ                (once v is frozen)
    /// θₜ = θₜ − uₜ + c / (√v + ε),  mₜ = −c / Γ,  uₜ = 0,  Γ = 0
    ///                                           (then, at steps that the interval j divides: c = uₜ (√v + ε), which is
    ///                                           what ranks exchange, compressed)
    /// ```
    ///
    /// with γ = `lr`, β = `betas`, ε = `eps`, λ = `weight_decay`. i starts from 1 and doubles after every
    /// `var_update_scaler` adaptations; j starts from 1 and, once v is frozen, doubles after every `local_step_scaler`
    /// steps up to `local_step_clipper`. i, j, their counters and Γ are remembered for each parameter. State: 12 bytes a
    /// parameter in `f32` (`m`, `v`, `u`).
    ///
    /// Phases, one for all parameters together, as DeepSpeed has them: the first step only counts and moves nothing; v
    /// is adapted; v is frozen, after the step by which the first parameter (by name) of those with a gradient in it has
    /// been given more than `var_freeze_step` gradients, the first step's included.
    ///
    /// With one rank DeepSpeed neither compresses nor sends. While v is adapted, what it does at the steps in between is
    /// part of that: with one rank it **ignores the gradient** of those steps, and goes on along m. At the exchanges c is
    /// what it was, so that θ and m change by rounding, and m becomes the mean of the steps since the last. Its states
    /// `worker_error` and `server_error` stay 0, and are not kept here.
    ///
    /// ```
    /// # use fallline_optim::algorithms::ZeroOneAdam;
    /// let algorithm = ZeroOneAdam { var_freeze_step: 1000, local_step_scaler: 100, ..ZeroOneAdam::default() };
    /// ```
    pub ZeroOneAdam as "ZeroOneAdam" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Decay rates β₁, β₂ of the running averages of the gradient and of its square.
        betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Added to the denominator.
        eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// Weight decay λ: λθ is part of the direction.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// The last gradient that may adapt the variance, the first step's included; the first group's.
        var_freeze_step: u64 = 100_000, Range::AtLeast(0.0);
        /// Adaptations of the variance after which the interval between them doubles (κ of the paper); 0 for never.
        var_update_scaler: u64 = 16, Range::AtLeast(0.0);
        /// Steps after which the interval between exchanges doubles; 0 for never.
        local_step_scaler: u64 = 32_678, Range::AtLeast(0.0);
        /// The longest interval between exchanges (H of the paper).
        local_step_clipper: u64 = 16, Range::AtLeast(1.0);
    }
    accepted {
        deepspeed: (),
        bias_correction: bool = true, Range::Any,
        eps_inside_sqrt: bool,
        max_grad_norm: f64 = 0.0, Range::AtLeast(0.0),
        cuda_aware: bool,
        comm_backend_name: CommBackend = CommBackend::Nccl, Range::Any
    }
    fixed { amsgrad: bool = false, "0/1 Adam has no largest second moment" }
}

rule! {
    /// One step of [`ZeroOneAdam`].
    pub ZeroOneAdamRule(h: ZeroOneAdam, t) {
        let lr = h.lr;
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    per_tensor(averages, adapts, moves, collects, exchanges, rates)
    element(g: Grad) -> (p: Param, m: State, v: State, u: State) {
        m = Lane::when(averages, beta1 * m + one_minus_beta1 * g, m);
        v = Lane::when(adapts, beta2 * v + one_minus_beta2 * g * g, v);
        let root = v.sqrt() + eps;
        let direction = m / root;
        let d = lr * Lane::when(decays, direction + weight_decay * p, direction);
        p = Lane::when(moves, p - d, p);
        u = Lane::when(collects, u - d, u);
        let c = u * root;
        p = Lane::when(exchanges, p - u + c / root, p);
        m = Lane::when(exchanges, -(c / rates), m);
        u = Lane::when(exchanges, L::lit(0.0), u);
    }
}

/// Places in [`ZeroOneAdam::MEMORY`].
const VAR_INTERVAL: usize = 0;
const VAR_COUNTER: usize = 1;
const LOCAL_INTERVAL: usize = 2;
const LOCAL_COUNTER: usize = 3;
const RATES: usize = 4;

/// Whether an interval divides step `t`.
fn divides(interval: f64, t: u64) -> bool {
    t.is_multiple_of((interval as u64).max(1))
}

impl ZeroOneAdam {
    /// The scalars of a tensor's step while the variance is adapted, and its interval afterwards.
    fn adapt(&self, t: u64, memory: &mut [f64]) -> [f64; 6] {
        let adapts = divides(memory[VAR_INTERVAL], t);
        if adapts {
            memory[VAR_COUNTER] += 1.0;
            if memory[VAR_COUNTER] == self.var_update_scaler as f64 {
                memory[VAR_COUNTER] = 0.0;
                memory[VAR_INTERVAL] *= 2.0;
            }
        }
        [flag(adapts), flag(adapts), 1.0, 0.0, 0.0, 1.0]
    }

    /// The scalars of a tensor's step once the variance is frozen, and its interval afterwards.
    fn collect(&self, t: u64, memory: &mut [f64]) -> [f64; 6] {
        let exchanges = divides(memory[LOCAL_INTERVAL], t);
        let rates = memory[RATES] + self.lr;
        memory[RATES] = if exchanges { 0.0 } else { rates };
        memory[LOCAL_COUNTER] += 1.0;
        if memory[LOCAL_COUNTER] == self.local_step_scaler as f64 {
            memory[LOCAL_COUNTER] = 0.0;
            let doubled = 2.0 * memory[LOCAL_INTERVAL];
            memory[LOCAL_INTERVAL] = doubled.min(self.local_step_clipper as f64);
        }
        [1.0, 0.0, 1.0, 1.0, flag(exchanges), rates]
    }
}

impl Algorithm for ZeroOneAdam {
    const INFO: Info = Info {
        summary: "Adam that adapts its variance ever more rarely, then freezes it and lets ranks step alone.",
        family: "communication",
        source: "DeepSpeed",
        differences: "As in DeepSpeed the first step moves nothing, the bias is not corrected whatever bias_correction \
            says, and with one rank nothing is compressed and the gradients of steps at which the variance is not \
            adapted change nothing. There the first parameter of its list freezes the variance, here the first by name. \
            A run that goes on from a checkpoint goes on with its phase and policies, without another first step; \
            DeepSpeed forgets u, the counters and the intervals there. Its exp_avg_mask is not there.",
        references: &[
            Reference {
                text: "Lu et al. 2022, Maximizing Communication Efficiency for Large-scale Training via 0/1 Adam",
                at: "arXiv:2202.06009",
            },
            Reference { text: "deepspeed.runtime.fp16.onebit.zoadam.ZeroOneAdam", at: "deepspeed 0.14.4" },
        ],
    };

    const MEMORY: &'static [(&'static str, f64)] = &[
        ("var_interval", 1.0),
        ("var_counter", 0.0),
        ("local_step_interval", 1.0),
        ("local_step_counter", 0.0),
        ("lrs", 0.0),
    ];

    fn across_ranks(&self) -> Result<(), &'static str> {
        Err(onebit::ONE_RANK)
    }

    const SAME_ON_ALL_RANKS: bool = false;

    const SHARED: &'static [(&'static str, f64)] = onebit::PHASES;

    fn kernel<K: Link>(&self) -> &'static Kernel {
        K::kernel::<ZeroOneAdamRule>()
    }

    fn stages<K: Link>(&self, _class: u8) -> Stages {
        Stages::gathered(self.kernel::<K>())
    }

    fn gather(groups: &Groups<'_, '_, Self>, _stage: usize, at: &mut Gathering<'_>) -> Result<(), String> {
        let last = groups[0].var_freeze_step;
        let phase = onebit::advance(at, |at| at.steps.first().is_some_and(|&t| t > last));
        let memory = at.memory.chunks_exact_mut(Self::MEMORY.len());
        let rows = at.scalars.chunks_exact_mut(6).zip(memory);
        for ((row, memory), (&group, &t)) in rows.zip(at.groups.iter().zip(at.steps)) {
            let hyper = &groups[group];
            row.copy_from_slice(&match phase {
                Phase::SetUp => [0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
                Phase::WarmUp => hyper.adapt(t, memory),
                Phase::Compressed => hyper.collect(t, memory),
            });
        }
        Ok(())
    }

    fn formed(&self, _stage: usize) -> &'static [&'static str] {
        &[
            "the first step moves nothing; the variance is frozen once the first tensor by name has had more than \
                var_freeze_step gradients",
            "adapts: t is a multiple of var_interval; averages: the same, and always once frozen",
            "collects: once frozen; exchanges: then, when t is a multiple of local_step_interval",
            "rates = the sum of lr since the last exchange (lrs)",
        ]
    }

    fn sparse(&self) -> Result<Sparse, &'static str> {
        Err("ZeroOneAdam does not take row-sparse gradients")
    }
}
