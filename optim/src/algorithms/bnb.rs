//! What bitsandbytes' optimizers have in common: states in 8 bits, for parameters that are large enough.

use crate::hyper::HyperError;
use fallline_core::{Codes, Format};

/// `optim_bits` has two values.
pub(super) fn check_bits(algorithm: &'static str, bits: i64) -> Result<(), HyperError> {
    if bits == 8 || bits == 32 {
        return Ok(());
    }
    let problem = format!("optim_bits must be 8 or 32, got {bits}");
    Err(HyperError::Combination { algorithm, problem })
}

/// Whether a parameter's states are in 8 bits.
pub(super) fn quantised(bits: i64, min_8bit_size: i64, elements: usize) -> bool {
    bits == 8 && i64::try_from(elements).is_ok_and(|elements| elements >= min_8bit_size)
}

/// The format of a state, if it is not kept as it is computed: in the codes that bitsandbytes chooses on a CPU.
pub(super) fn format(bits: i64, min_8bit_size: i64, elements: usize, codes: Codes) -> Option<Format> {
    quantised(bits, min_8bit_size, elements).then_some(Format::Q8Grid(codes))
}
