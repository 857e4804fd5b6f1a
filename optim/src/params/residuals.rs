//! Error feedback: the residuals of compression, which are added the next time.

use fallline_core::{Backend, Compute, Result, Storage};

/// The error-feedback residuals of one rank's compressions of a parameter, as a worker and as the server of its part.
#[derive(Debug)]
pub struct Residuals {
    pub(crate) worker: Storage,
    pub(crate) server: Storage,
}

/// Returns how many elements `world` ranks compress for `n`: DeepSpeed pads to whole bytes for every rank, and
/// further.
pub(crate) fn padded(n: usize, world: usize) -> usize {
    let bytes = if world.is_multiple_of(8) { world } else { world * 8 / gcd(world, 8) };
    n.next_multiple_of(world * bytes)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Residuals {
    /// Creates residuals of 0, for a parameter of `n` elements.
    ///
    /// # Errors
    /// When there is no memory.
    pub(crate) fn new(backend: &dyn Backend, compute: Compute, n: usize, world: usize) -> Result<Residuals> {
        let padded = padded(n, world);
        let requests = [(compute.format(), padded), (compute.format(), padded / world)];
        let mut storages = backend.allocate(&requests)?.into_iter();
        match (storages.next(), storages.next()) {
            (Some(worker), Some(server)) => Ok(Residuals { worker, server }),
            _ => unreachable!("a backend allocates what it is asked for"),
        }
    }
}
