//! Passes whose numbers are computed where they run, so that nothing waits for them.

use crate::pass::{Pass, Plan};
use crate::private::Sealed;
use crate::{Kernel, Result, Storage};
use core::fmt;

/// A queue of passes that the host does not wait for: a capability that a backend may lack.
pub trait PassQueue: Sealed {
    /// Returns whether it computes what this rule's scalars follow from itself ([`run_queued`](PassQueue::run_queued)),
    /// because its sums would have to be waited for.
    fn computes(&self, kernel: &Kernel) -> bool;

    /// Queues a pass as [`Backend::run`](crate::Backend::run) runs it, without waiting for anything. The sums stay in
    /// the pass's plan, where the next pass's `queued` or [`sums`](PassQueue::sums) reads them. The device computes
    /// the tensors' scalars before it. `pass.sums` is empty, and where they are computed `pass.tensor_scalars` is.
    /// The same bits as on the host.
    ///
    /// # Errors
    /// As [`Backend::run`](crate::Backend::run); [`Error::Unavailable`](crate::Error::Unavailable) for a rule that it does
    /// not [compute](PassQueue::computes).
    fn run_queued(&self, pass: Pass<'_, '_>, queued: Queued<'_>) -> Result<()>;

    /// Fetches the sums that the last [queued](PassQueue::run_queued) pass of a plan has left, and waits for them.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) where there are not as many; when the device failed meanwhile.
    fn sums(&self, plan: &Plan, to: &mut [f64]) -> Result<()>;
}

/// A tensor's place in what is computed over all tensors of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Which of the pass's tensors it is.
    pub tensor: u32,
    /// The group whose totals it belongs to.
    pub group: u32,
}

/// What a pass takes in addition to its [`Pass`] where nothing of it comes back to the host
/// ([`PassQueue::run_queued`]).
#[derive(Default)]
pub struct Queued<'p> {
    /// How the tensors' own scalars are computed on the device, from sums that stay there; none where the pass gives them.
    pub computed: Option<Computed<'p>>,
    /// What gradients are multiplied by in addition to the factor in each row of scalars: the number at this place
    /// of a storage in `f64`.
    pub factor: Option<(&'p Storage, usize)>,
    /// How many consecutive tensors of the pass make up each tensor that has scalars and sums. Its sums are those
    /// of its parts, [folded](crate::reduction::tree_reduce). Empty where each is one.
    pub parts: &'p [usize],
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
    /// Where among a tensor's [`Views`](super::Views) that is which is remembered for it, in `f64` on the device, and the
    /// places of [`Declared::memory`](crate::between::Declared::memory) in it. It is read and changed in the order of passes.
    pub memory: usize,
    /// See [`memory`](Computed::memory).
    pub memory_places: &'p [usize],
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
    /// Returns where it is.
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
        let Queued { computed, factor, parts } = self;
        let mut all = f.debug_struct("Queued");
        all.field("computed", computed).field("factor", &factor.is_some()).field("parts", parts).finish()
    }
}
