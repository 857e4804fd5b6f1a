//! What bitsandbytes' optimizers have in common: states in 8 bits, for parameters that are large enough.

use crate::hyper::HyperError;
use crate::{BlockDefault, StorageDefaults};
use fallline_core::{Codes, Format};

/// Checks `optim_bits`, which has two values.
pub(super) fn check_bits(algorithm: &'static str, bits: i64) -> Result<(), HyperError> {
    if bits == 8 || bits == 32 {
        return Ok(());
    }
    let problem = format!("optim_bits must be 8 or 32, got {bits}");
    Err(HyperError::Combination { algorithm, problem })
}

/// Returns whether a parameter's states are in 8 bits.
pub(super) fn quantised(bits: i64, min_8bit_size: i64, elements: usize) -> bool {
    quantised_from(bits, min_8bit_size).is_some_and(|from| elements >= from)
}

/// Returns the least number of elements of a parameter whose states are in 8 bits.
fn quantised_from(bits: i64, min_8bit_size: i64) -> Option<usize> {
    (bits == 8).then(|| usize::try_from(min_8bit_size.max(0)).unwrap_or(usize::MAX))
}

/// Returns how states are stored: in the codes that bitsandbytes chooses on a CPU. Those of its optimizers with two
/// moments are unsigned for the second; those with one moment have signed codes even where it is never negative.
pub(super) fn storage(bits: i64, min_8bit_size: i64, non_negative: Codes) -> StorageDefaults {
    let block = |from| BlockDefault { format: Format::Q8Grid(Codes::Signed), from, non_negative };
    StorageDefaults { block: quantised_from(bits, min_8bit_size).map(block), ..StorageDefaults::AS_COMPUTED }
}
