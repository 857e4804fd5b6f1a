//! The scalars that an algorithm keeps, and how the replicas of several ranks relate.

/// What is the same for all hyperparameters of an algorithm.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// As [`Algorithm::MEMORY`](crate::Algorithm::MEMORY).
    pub memory: &'static [(&'static str, f64)],
    /// As [`Algorithm::SHARED`](crate::Algorithm::SHARED).
    pub shared: &'static [(&'static str, f64)],
    /// As [`Algorithm::REPLICAS`](crate::Algorithm::REPLICAS).
    pub replicas: Replicas,
}

/// How the replicas of a parameter and of its states on several ranks relate.
///
/// ```
/// use fallline_optim::{ErrorFeedback, Replicas};
/// const COMPRESSED: Replicas = Replicas {
///     gradients_averaged: |shared| shared[0] == 0.0,
///     error_feedback: Some(ErrorFeedback::PerParameter),
///     ..Replicas::IDENTICAL
/// };
/// assert!((COMPRESSED.gradients_averaged)(&[0.0]) && !COMPRESSED.have_diverged(&[]));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Replicas {
    /// Whether the next step takes gradients that are averaged over the ranks, asked with what is remembered for all
    /// parameters together. Where not, the algorithm exchanges what it needs itself.
    pub gradients_averaged: fn(shared: &[f64]) -> bool,
    /// What each rank keeps of what compression leaves out, for algorithms that compress what they exchange.
    pub error_feedback: Option<ErrorFeedback>,
    /// When it applies a [mask](crate::mask) of momenta.
    pub momentum_mask: MaskPolicy,
    /// For algorithms with local steps between two exchanges: whether the replicas of a parameter have diverged,
    /// given its scalars. Which states are the rank's own then, the [table of states](crate::State::rank_local) says.
    pub diverged: Option<fn(memory: &[f64]) -> bool>,
}

/// What compression leaves out, of which the next exchange takes account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorFeedback {
    /// Of each parameter for itself.
    PerParameter,
    /// Of all parameters in one piece.
    Fused,
}

/// When an algorithm applies a [`MomentumMask`](crate::mask::MomentumMask).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskPolicy {
    /// It takes none.
    Never,
    /// To what ranks exchange: with one rank it changes nothing.
    OnExchange,
    /// With one rank too, whose stages are those of several then.
    Always,
}

impl Replicas {
    /// All ranks take averaged gradients and always hold the same.
    pub const IDENTICAL: Replicas = Replicas {
        gradients_averaged: |_| true,
        error_feedback: None,
        momentum_mask: MaskPolicy::Never,
        diverged: None,
    };

    /// Returns whether the replicas of a parameter have diverged.
    pub fn have_diverged(&self, memory: &[f64]) -> bool {
        self.diverged.is_some_and(|diverged| diverged(memory))
    }
}
