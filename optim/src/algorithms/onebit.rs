//! What the 1-bit optimizers of DeepSpeed have in common: their phases and arguments.

use crate::hyper::{HyperType, Value};
use fallline_core::GlobalAt;

/// Where DeepSpeed's 1-bit optimizers carry their messages, by name. Changes no number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CommBackend {
    /// NVIDIA's collectives.
    #[default]
    Nccl,
    /// MPI.
    Mpi,
    /// Habana's collectives.
    Hccl,
    /// Any device's, with DeepSpeed's own packing of bits.
    Compressed,
}

impl CommBackend {
    const NAMES: [(CommBackend, &'static str); 4] = [
        (CommBackend::Nccl, "nccl"),
        (CommBackend::Mpi, "mpi"),
        (CommBackend::Hccl, "hccl"),
        (CommBackend::Compressed, "compressed"),
    ];
}

impl HyperType for CommBackend {
    const NAME: &'static str = "communication backend (nccl, mpi, hccl or compressed)";
    fn from_value(value: &Value) -> Option<Self> {
        let Value::Text(text) = value else { return None };
        Self::NAMES.iter().find(|(_, name)| name == text).map(|(backend, _)| *backend)
    }
    fn to_value(&self) -> Value {
        let name = Self::NAMES.iter().find(|(backend, _)| backend == self).map_or("nccl", |(_, name)| name);
        Value::Text(name.to_owned())
    }
}

/// The phases of a run, one for all parameters together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The first step, with which the sources set up their buffers: it moves nothing, but counts.
    SetUp,
    /// The first moment and the variance follow the gradient.
    WarmUp,
    /// The variance is frozen, and what is sent between ranks is compressed.
    Compressed,
}

/// The phases as numbers.
pub(super) const SET_UP: f64 = 0.0;
pub(super) const WARM_UP: f64 = 1.0;
pub(super) const COMPRESSED: f64 = 2.0;

/// What [`advance`] keeps, as [`Algorithm::SHARED`](crate::Algorithm::SHARED) has it: the phase of this step and of
/// the next, 0 for the first.
pub(super) const PHASES: &[(&str, f64)] = &[("phase", 0.0), ("next_phase", 0.0)];

/// Returns the phase of the step being taken.
pub(super) fn phase(shared: &[f64]) -> Phase {
    match shared[0] {
        SET_UP => Phase::SetUp,
        WARM_UP => Phase::WarmUp,
        _ => Phase::Compressed,
    }
}

/// Returns the phase of the next step.
pub(super) fn next_phase(shared: &[f64]) -> Phase {
    phase(&shared[1..])
}

/// In what all of them differ from their papers and from DeepSpeed, and then one of them alone.
macro_rules! differences {
    ($own:literal) => {
        concat!(
            "As in DeepSpeed the first step moves nothing, the bias is not corrected whatever bias_correction says, and \
             with one rank nothing is compressed. A run that resumes from a checkpoint resumes its phase, without \
             another first step, and with each rank's error-feedback residuals, where as many ranks resume (else \
             that begins from 0, as it always does in DeepSpeed). ",
            $own
        )
    };
}
pub(super) use differences;

/// Advances to this step's phase, and determines the next one's: warm-up ends after this step if `ends`. Returns the
/// phase.
pub(super) fn advance(at: &mut GlobalAt<'_>, ends: bool) -> f64 {
    at.shared[0] = at.shared[1];
    at.shared[1] = match phase(at.shared) {
        Phase::SetUp => WARM_UP,
        Phase::WarmUp if !ends => WARM_UP,
        _ => COMPRESSED,
    };
    at.shared[0]
}

/// Returns whether the last parameter by name has been given `freeze_step` gradients with this step.
pub(super) fn last_reaches(at: &GlobalAt<'_>, freeze_step: u64) -> bool {
    at.steps.last().is_some_and(|&t| t >= freeze_step)
}
