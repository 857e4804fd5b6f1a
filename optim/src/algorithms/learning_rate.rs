//! What learning rates must be.

use crate::hyper::HyperError;

/// Returns the error of an `lr` of 0 at first.
pub(super) fn needs_lr(algorithm: &'static str, lr: f64) -> Result<(), HyperError> {
    if lr > 0.0 {
        return Ok(());
    }
    let problem = "lr must be above 0 at first; a schedule may go to 0".to_owned();
    Err(HyperError::Combination { algorithm, problem })
}
