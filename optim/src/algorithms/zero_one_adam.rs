//! ZeroOneAdam: Adam that adapts its variance ever more rarely, then freezes it and lets ranks step alone.

use super::onebit::{self, CommBackend, Phase, WARM_UP};
use super::prelude::*;
use crate::compression::Compression;
use crate::op::{OpAt, TensorOp};
use crate::{ErrorFeedback, MaskPolicy, Replicas};
use fallline_core::{GlobalAt, Groups};

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
    /// with γ = `lr`, β = `betas`, ε = `eps`, λ = `weight_decay`. The interval i starts from 1 and doubles after
    /// every `var_update_scaler` adaptations. The interval j starts from 1 and, once v is frozen, doubles after
    /// every `local_step_scaler` steps up to `local_step_clipper`. Each parameter keeps i, j, their counters and Γ.
    /// State: 12 bytes a parameter in `f32` (`m`, `v`, `u`), on several ranks 16 (and `base`, the parameter at the
    /// last exchange).
    ///
    /// v is frozen after the step in which the first parameter (by name) with a gradient exceeds `var_freeze_step`
    /// gradients, the first step's included.
    ///
    /// With several ranks the gradients of steps at which v is adapted are averaged (whether the next ones are, the
    /// last parameter says). Of the others m takes the mean of the compressed ones. Once v is frozen, the ranks take
    /// local steps with diverged m, u and θ = base + u. At the next exchange of c, which is
    /// [compressed](crate::compression), all resume from the same values. In between
    /// [`Driver::has_diverged`](crate::Driver::has_diverged) is true, and a checkpoint has the values of each rank. As many
    /// ranks resume from it bit for bit after [`Driver::restore_params`](crate::Driver::restore_params); others
    /// resume from the mean of m, u and θ.
    ///
    /// With one rank DeepSpeed neither compresses nor sends. While v is adapted, that includes the steps in between:
    /// with one rank it **ignores the gradient** of those steps, and continues along m. At the exchanges c is what it
    /// was. So θ and m change by rounding, and m becomes the mean of the steps since the last.
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
    per_tensor(averages, adapts, moves, collects, joins, rates) shared(averaged, exchanges) {
        once(groups, at) {
            let phase = onebit::advance(at, first_exceeds(at, groups[0].var_freeze_step));
            let exchanging = any_exchanges(at);
            let next_averaged = next_averaged(groups, at);
        }
        each(at) {
            let kind = StepKind::of(at.shared, at.world, t, at.memory).number();
            let averages = flag(kind == ADAPT || kind >= COLLECT);
            let adapts = flag(kind == ADAPT);
            let moves = flag(kind != COUNT);
            let collects = flag(kind >= COLLECT);
            let joins = flag(kind == JOIN);
            let rates = h.counted(kind, at.memory);
        }
        update {
            exchanges = exchanging;
            averaged = N::select(phase.eq(N::splat(WARM_UP)), next_averaged, averaged);
        }
    }
    element(g: Grad) -> (p: Param, m: State, v: State, u: State) {
        m = Vector::select_if(averages, beta1 * m + one_minus_beta1 * g, m);
        v = Vector::select_if(adapts, beta2 * v + one_minus_beta2 * g * g, v);
        let root = v.sqrt() + eps;
        let direction = m / root;
        let d = lr * Vector::select_if(decays, direction + weight_decay * p, direction);
        p = Vector::select_if(moves, p - d, p);
        u = Vector::select_if(collects, u - d, u);
        let c = u * root;
        p = Vector::select_if(joins, p - u + c / root, p);
        m = Vector::select_if(joins, -(c / rates), m);
        u = Vector::select_if(joins, L::splat(0.0), u);
    }
}

rule! {
    /// The first pass of [`ZeroOneAdam`] over several ranks: what a rank does alone, and what it has to send.
    pub ZeroOneAdamOwnRule(h: ZeroOneAdam, t) {
        let lr = h.lr;
        let beta1 = h.betas.0;
        let beta2 = h.betas.1;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    per_tensor(averages, adapts, moves, collects, parts) shared(exchanges) {
        once(groups, at) {
            let phase = onebit::advance(at, first_exceeds(at, groups[0].var_freeze_step));
            let exchanging = any_exchanges(at);
        }
        each(at) {
            let kind = StepKind::of(at.shared, at.world, t, at.memory).number();
            let averages = flag(kind == ADAPT || kind >= COLLECT);
            let adapts = flag(kind == ADAPT);
            let moves = flag(kind == ADAPT);
            let collects = flag(kind >= COLLECT);
            let parts = flag(kind >= COLLECT && at.memory[ALONE] == 0.0);
        }
        update {
            exchanges = exchanging;
        }
    }
    element(g: Grad) -> (p: Param, m: State, v: State, u: State, base: State, x: Scratch) {
        m = Vector::select_if(averages, beta1 * m + one_minus_beta1 * g, m);
        v = Vector::select_if(adapts, beta2 * v + one_minus_beta2 * g * g, v);
        let root = v.sqrt() + eps;
        let direction = m / root;
        let d = lr * Vector::select_if(decays, direction + weight_decay * p, direction);
        base = Vector::select_if(parts, p, base);
        u = Vector::select_if(collects, u - d, u);
        p = Vector::select_if(collects, base + u, Vector::select_if(moves, p - d, p));
        x = Vector::select_if(collects, u * root, g);
    }
}

rule! {
    /// The second: what follows from what all ranks have sent.
    pub ZeroOneAdamSharedRule(h: ZeroOneAdam, t) {
        let lr = h.lr;
        let beta1 = h.betas.0;
        let one_minus_beta1 = 1.0 - h.betas.0;
        let eps = h.eps;
        let weight_decay = h.weight_decay;
        let decays = flag(h.weight_decay > 0.0);
    }
    per_tensor(takes, joins, rates) shared(averaged, exchanges) {
        once(groups, at) {
            let phase = at.shared[0];
            let next_averaged = next_averaged(groups, at);
        }
        each(at) {
            let kind = StepKind::of(at.shared, at.world, t, at.memory).number();
            let takes = flag(kind == TAKE);
            let joins = flag(kind == JOIN);
            let rates = h.counted(kind, at.memory);
        }
        update {
            averaged = N::select(phase.eq(N::splat(WARM_UP)), next_averaged, averaged);
        }
        skip { N::select(exchanges.eq(N::splat(0.0)), N::splat(1.0), N::splat(0.0)) }
    }
    element(x: Scratch, v: State, base: State) -> (p: Param, m: State, u: State) {
        let root = v.sqrt() + eps;
        m = Vector::select_if(takes, beta1 * m + one_minus_beta1 * x, m);
        let direction = m / root;
        let d = lr * Vector::select_if(decays, direction + weight_decay * p, direction);
        p = Vector::select_if(takes, p - d, p);
        p = Vector::select_if(joins, base + x / root, p);
        m = Vector::select_if(joins, -(x / rates), m);
        u = Vector::select_if(joins, L::splat(0.0), u);
    }
}

rule! {
    /// A rank's own parameter from its states, or the common one where it is not known: after a run of one rank.
    pub ZeroOneAdamPartedRule(h: ZeroOneAdam, t) {}
    per_tensor(known)
    element(u: State) -> (p: Param, base: State) {
        base = Vector::select_if(known, base, p - u);
        p = base + u;
    }
}

/// Places in [`ZeroOneAdam::MEMORY`].
const VAR_INTERVAL: usize = 0;
const VAR_COUNTER: usize = 1;
const LOCAL_INTERVAL: usize = 2;
const LOCAL_COUNTER: usize = 3;
const RATES: usize = 4;
/// Steps since the last exchange.
const ALONE: usize = 5;
/// Whether what compressions leave out is that of steps: of gradients it does not count any more.
const OF_STEPS: usize = 6;

/// Places in [`ZeroOneAdam::SHARED`], behind the phases.
const AVERAGED: usize = 2;

/// Returns whether an interval divides step `t`.
fn divides(interval: f64, t: u64) -> bool {
    t.is_multiple_of((interval as u64).max(1))
}

/// What happens to a tensor in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StepKind {
    /// It is counted.
    Count,
    /// Both moments take an averaged gradient.
    Adapt,
    /// The momentum takes a gradient that was compressed on its way to the others.
    Take,
    /// The rank steps alone.
    Collect,
    /// The same, and its steps are exchanged.
    Join,
}

/// The kinds as numbers.
const COUNT: f64 = 0.0;
const ADAPT: f64 = 1.0;
const TAKE: f64 = 2.0;
const COLLECT: f64 = 3.0;
const JOIN: f64 = 4.0;

impl StepKind {
    fn number(self) -> f64 {
        match self {
            StepKind::Count => COUNT,
            StepKind::Adapt => ADAPT,
            StepKind::Take => TAKE,
            StepKind::Collect => COLLECT,
            StepKind::Join => JOIN,
        }
    }

    fn of(shared: &[f64], world: usize, t: u64, memory: &[f64]) -> StepKind {
        // A variance adapted to a rank's own gradient would be the rank's own.
        let adapts = || world == 1 || shared[AVERAGED] > 0.0;
        match onebit::phase(shared) {
            Phase::SetUp => StepKind::Count,
            Phase::WarmUp if divides(memory[VAR_INTERVAL], t) && adapts() => StepKind::Adapt,
            Phase::WarmUp => StepKind::Take,
            Phase::Compressed if divides(memory[LOCAL_INTERVAL], t) => StepKind::Join,
            Phase::Compressed => StepKind::Collect,
        }
    }

    fn exchanges(self) -> bool {
        matches!(self, StepKind::Take | StepKind::Join)
    }
}

impl ZeroOneAdam {
    /// Counts an adaptation of the variance.
    fn adapted(&self, memory: &mut [f64]) {
        memory[VAR_COUNTER] += 1.0;
        if memory[VAR_COUNTER] == self.var_update_scaler as f64 {
            memory[VAR_COUNTER] = 0.0;
            memory[VAR_INTERVAL] *= 2.0;
        }
    }

    /// Counts a step with a frozen variance; the sum of the rates up to it.
    fn collected(&self, joins: bool, memory: &mut [f64]) -> f64 {
        let rates = memory[RATES] + self.lr;
        memory[RATES] = if joins { 0.0 } else { rates };
        memory[ALONE] = if joins { 0.0 } else { memory[ALONE] + 1.0 };
        memory[LOCAL_COUNTER] += 1.0;
        if memory[LOCAL_COUNTER] == self.local_step_scaler as f64 {
            memory[LOCAL_COUNTER] = 0.0;
            let doubled = 2.0 * memory[LOCAL_INTERVAL];
            memory[LOCAL_INTERVAL] = doubled.min(self.local_step_clipper as f64);
        }
        rates
    }

    /// Counts a step of a kind. Returns the sum of the rates since the last exchange; 1 where none is collected.
    fn counted(&self, kind: f64, memory: &mut [f64]) -> f64 {
        if kind >= COLLECT {
            return self.collected(kind == JOIN, memory);
        }
        if kind == ADAPT {
            self.adapted(memory);
        }
        1.0
    }
}

/// Returns whether the first parameter by name has been given more than `var_freeze_step` gradients with this step.
fn first_exceeds(at: &GlobalAt<'_>, var_freeze_step: u64) -> bool {
    at.steps.first().is_some_and(|&t| t > var_freeze_step)
}

/// Returns whether any parameter is exchanged in this step.
fn any_exchanges(at: &GlobalAt<'_>) -> f64 {
    let kind = |t, memory| StepKind::of(at.shared, at.world, t, memory);
    flag(at.tensors().any(|(_, t, memory)| kind(t, memory).exchanges()))
}

/// Returns what becomes of the next gradients, of all parameters, in warm-up: whether they are averaged. The last
/// parameter by name says so.
fn next_averaged(groups: &Groups<'_, '_, ZeroOneAdam>, at: &GlobalAt<'_>) -> f64 {
    let Some((group, t, memory)) = at.tensors().next_back() else { return at.shared[AVERAGED] };
    let mut after = [0.0; ZeroOneAdam::MEMORY.len()];
    after.copy_from_slice(memory);
    if StepKind::of(at.shared, at.world, t, memory) == StepKind::Adapt {
        groups[group].adapted(&mut after);
    }
    flag(divides(after[VAR_INTERVAL], t + 1))
}

/// The mean of the ranks' gradients, or of their steps, compressed.
pub struct StepAllReduce;

impl TensorOp for StepAllReduce {
    type Hyper = ZeroOneAdam;
    const NAME: &'static str = "StepAllReduce";
    const FORMULAS: &'static [&'static str] =
        &["where a tensor is exchanged: x ← the mean of all ranks' x, sent as signs"];

    fn run<K: Link>(_: &ZeroOneAdam, at: &mut OpAt<'_>) -> fallline_core::Result<()> {
        let Some(ranks) = at.peers.ranks else { return Ok(()) };
        let kind = StepKind::of(at.shared, ranks.world_size(), at.on.t, at.memory.on_host());
        if !kind.exchanges() {
            return Ok(());
        }
        if kind == StepKind::Join && at.memory.get(OF_STEPS)? == 0.0 {
            at.memory.set(OF_STEPS, 1.0)?;
            *at.peers.residuals = None;
        }
        let x = at.scratch.get_mut("x")?;
        Compression::new::<K>().all_reduce(at.on, &mut at.peers, at.workspace, x)
    }
}

impl Algorithm for ZeroOneAdam {
    const INFO: Info = Info {
        summary: "Adam that adapts its variance ever more rarely, then freezes it and lets ranks step alone.",
        family: "communication",
        source: "DeepSpeed",
        differences: onebit::differences!(
            "With one rank the gradients of steps at which the variance is not adapted change nothing. There the first \
            parameter of its list freezes the variance, here the first by name. Ranks begin anew from the same parameter \
            after an exchange, so that they hold the same bits: DeepSpeed takes the steps of each back from its own, \
            which rounds. It forgets u, the counters and the intervals with a checkpoint. Where parameters have had \
            different numbers of gradients, its ranks may adapt the variance to local gradients and diverge for good: \
            here such a gradient is compressed."
        ),
        references: &[
            Reference::new(
                "Lu et al. 2022, Maximizing Communication Efficiency for Large-scale Training via 0/1 Adam",
                "arXiv:2202.06009",
            ),
            Reference::new("deepspeed.runtime.fp16.onebit.zoadam.ZeroOneAdam", "deepspeed 0.14.4"),
        ],
    };

    const STATES: &'static [State<Self>] =
        &[State::new("m").rank_local(), State::second_moment("v"), State::new("u").rank_local()];

    const MEMORY: &'static [(&'static str, f64)] = &[
        ("var_interval", 1.0),
        ("var_counter", 0.0),
        ("local_step_interval", 1.0),
        ("local_step_counter", 0.0),
        ("lrs", 0.0),
        ("steps_alone", 0.0),
        ("errors_of_steps", 0.0),
    ];

    const SHARED: &'static [(&'static str, f64)] =
        &[onebit::PHASES[0], onebit::PHASES[1], ("averaged", 1.0), ("exchanges", 0.0)];

    const REPLICAS: Replicas = Replicas {
        gradients_averaged: |shared| {
            onebit::next_phase(shared) != Phase::Compressed && shared[AVERAGED] > 0.0
        },
        error_feedback: Some(ErrorFeedback::PerParameter),
        momentum_mask: MaskPolicy::OnExchange,
        diverged: Some(|memory| memory[ALONE] > 0.0),
    };

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        let program = match on.distributed {
            false => on.pass::<ZeroOneAdamRule>(),
            true => on.pass::<ZeroOneAdamOwnRule>().op::<StepAllReduce>().pass::<ZeroOneAdamSharedRule>(),
        };
        Ok(program.restored_by::<ZeroOneAdamPartedRule>())
    }
}
