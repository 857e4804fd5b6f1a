//! Passes whose numbers are computed where they run, so that nothing waits for them.

use super::Plan;
use crate::Storage;
use core::fmt;

/// A tensor's place in what is computed over all tensors of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Which of the pass's tensors it is.
    pub tensor: u32,
    /// The group whose totals it belongs to.
    pub group: u32,
}

/// What a pass takes beside its [`Pass`](super::Pass) where nothing of it comes back to the host
/// ([`Backend::run_queued`](super::Backend::run_queued)).
#[derive(Default)]
pub struct Queued<'p> {
    /// How the tensors' own scalars are computed on the device, from sums that stay there; none where the pass gives them.
    pub computed: Option<Computed<'p>>,
    /// What gradients are multiplied by beside the factor in each row of scalars: the number at this place of a storage in
    /// `f64`.
    pub factor: Option<(&'p Storage, usize)>,
}

/// The numbers of a pass ([`Kernel::between`](crate::Kernel::between)) as a device computes them.
pub struct Computed<'p> {
    /// The pass before, if sums of it are read: the same tensors in the same order.
    pub before: Option<&'p Plan>,
    /// Which of that pass's tensors is the first of this one's; the others follow.
    pub first: usize,
    /// The places of [`Declared::reads`](crate::between::Declared::reads) among that pass's sums.
    pub reads: &'p [usize],
    /// The tensors in the order in which totals add them up, each once.
    pub order: &'p [Placed],
    /// How many groups there are.
    pub groups: usize,
    /// The numbers of [`Declared::once`](crate::between::Declared::once).
    pub once: &'p [f64],
    /// Those of [`Declared::each`](crate::between::Declared::each), a row for each tensor in `order`.
    pub each: &'p [f64],
    /// What is remembered for all parameters together, in `f64` on the device.
    pub shared: Option<SharedNumbers<'p>>,
    /// The places of [`Declared::shared`](crate::between::Declared::shared) in it.
    pub shared_places: &'p [usize],
    /// No number in `shared` that [counts steps](crate::between::Formulas::counts_steps) is above this.
    pub most: u64,
}

/// What is remembered for all parameters together. It is read and changed in the order of passes.
#[derive(Debug)]
pub enum SharedNumbers<'p> {
    /// To read alone.
    Read(&'p Storage),
    /// To read and to change.
    Change(&'p mut Storage),
}

impl SharedNumbers<'_> {
    /// Where it is.
    pub fn storage(&self) -> &Storage {
        match self {
            SharedNumbers::Read(storage) => storage,
            SharedNumbers::Change(storage) => storage,
        }
    }
}

impl fmt::Debug for Computed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Computed").field("tensors", &self.order.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Queued<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Queued { computed, factor } = self;
        f.debug_struct("Queued").field("computed", computed).field("factor", &factor.is_some()).finish()
    }
}
