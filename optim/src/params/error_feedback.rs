//! What compressions leave out, and add the next time.

use fallline_core::{Backend, Compute, Result, Storage};

/// What one rank's compressions of a parameter have left out, as a worker and as the server of its part.
#[derive(Debug)]
pub struct Errors {
    pub(crate) worker: Storage,
    pub(crate) server: Storage,
}

/// How many elements `world` ranks compress for `n`: DeepSpeed fills up to whole bytes for every rank, and further.
pub(crate) fn padded(n: usize, world: usize) -> usize {
    let bytes = if world.is_multiple_of(8) { world } else { world * 8 / gcd(world, 8) };
    n.next_multiple_of(world * bytes)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Errors {
    /// Errors of 0, for a parameter of `n` elements.
    ///
    /// # Errors
    /// When there is no memory.
    pub(crate) fn new(backend: &dyn Backend, compute: Compute, n: usize, world: usize) -> Result<Errors> {
        let padded = padded(n, world);
        let requests = [(compute.format(), padded), (compute.format(), padded / world)];
        let mut storages = backend.allocate(&requests)?.into_iter();
        match (storages.next(), storages.next()) {
            (Some(worker), Some(server)) => Ok(Errors { worker, server }),
            _ => unreachable!("a backend allocates what it is asked for"),
        }
    }
}
