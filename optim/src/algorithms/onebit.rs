//! What the 1-bit optimizers of DeepSpeed have in common: their phases, and arguments of their own.

use crate::hyper::{HyperType, Value};
use crate::stages::Gathering;

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

/// What [`advance`] remembers, as [`Algorithm::SHARED`](crate::Algorithm::SHARED) has it: the phase of this step and of
/// the next, 0 for the first.
pub(super) const PHASES: &[(&str, f64)] = &[("phase", 0.0), ("next_phase", 0.0)];

/// The phase of the step being taken.
pub(super) fn phase(shared: &[f64]) -> Phase {
    match shared[0] {
        0.0 => Phase::SetUp,
        1.0 => Phase::WarmUp,
        _ => Phase::Compressed,
    }
}

/// The phase of the next step.
pub(super) fn next_phase(shared: &[f64]) -> Phase {
    phase(&shared[1..])
}

/// In what all of them differ from their papers and from DeepSpeed, and then one of them alone.
macro_rules! differences {
    ($own:literal) => {
        concat!(
            "As in DeepSpeed the first step moves nothing, the bias is not corrected whatever bias_correction says, and \
             with one rank nothing is compressed. A run that goes on from a checkpoint goes on with its phase, without \
             another first step, and with what each rank's compressions have left out, where as many ranks go on (else \
             that begins from 0, as it always does in DeepSpeed). ",
            $own
        )
    };
}
pub(super) use differences;

/// Goes on to this step's phase, and finds out the next one's: warm-up ends after a step for which `ends` says so.
pub(super) fn advance(at: &mut Gathering<'_>, ends: impl Fn(&Gathering<'_>) -> bool) -> Phase {
    at.shared[0] = at.shared[1];
    let phase = phase(at.shared);
    at.shared[1] = match phase {
        Phase::SetUp => 1.0,
        Phase::WarmUp if !ends(at) => 1.0,
        _ => 2.0,
    };
    phase
}

/// The formula lines about the phases.
pub(super) const FORMED_PHASES: &str = "the first step moves nothing; warm-up from the second to that in which the last tensor by name has had freeze_step gradients";
