//! What a device must be able to do.
//!
//! A [`Backend`] is a device with its memory that runs passes. Everything else that is asked of a device is a capability: a
//! trait of its own, behind an accessor.
//!
//! | accessor | capability | for |
//! |---|---|---|
//! | | [`DeviceMemory`] | storages: allocated, read, written, copied |
//! | [`linalg`](Backend::linalg) | [`LinearAlgebra`] | matrix products |
//! | [`indexing`](Backend::indexing) | [`Indexing`] | gathers and scatters of rows |
//! | [`reductions`](Backend::reductions) | [`Reductions`] | sums along an axis |
//! | [`queue`](Backend::queue) | [`PassQueue`], or none | passes that the host does not wait for |
//! | [`transfers`](Backend::transfers) | [`AsyncTransfer`], or none | copies while the host computes |
//! | [`paged_memory`](Backend::paged_memory) | [`PagedMemory`], or none | more than fits into memory |
//!
//! Programs use linear algebra, indexing and reductions in the middle of a step. By then something is written and the
//! step can no longer be refused, so every backend has them. A capability that is asked for before anything is
//! written may be absent. Its accessor says so unless a backend overrides it, so that a new one changes no backend.

mod indexing;
mod into;
mod linalg;
mod memory;
mod queue;
mod reductions;
pub mod transfer;

pub use crate::device::Device;
pub use crate::pass::{
    FusedRule, MAX_FUSED, MAX_OPERANDS, MAX_VIEWS, Pass, Plan, Position, TensorPass, Views,
};
pub use crate::view::{Broadcast, View};
pub use indexing::{GatherSum, Indexing, Scatter};
pub use into::IntoBackend;
pub use linalg::{Gemm, LinearAlgebra, Matrix};
pub use memory::{DeviceMemory, PagedMemory, check_block_layout, check_same_layout};
pub use queue::{Computed, PassQueue, Placed, Queued, SharedNumbers};
pub use reductions::{AxisReduction, MatrixReduction, Reductions};
pub use transfer::AsyncTransfer;

use crate::{Error, Result, private::Sealed};
use core::fmt;

/// A device with its memory. Object-safe, small, and not a tensor library.
pub trait Backend: DeviceMemory + fmt::Debug + Send + Sync + Sealed {
    /// Returns which device it is.
    fn device(&self) -> Device;

    /// Returns one line for people: device, instruction set, threads.
    fn describe(&self) -> String;

    /// Returns whether passes reach the host's own memory. Where they do not, drivers copy host-to-device and back.
    fn is_host_accessible(&self) -> bool {
        true
    }

    /// Returns about how many elements of a rule's operands stay in cache from one pass to the next, if the device
    /// has such a cache. Consecutive passes over a batch of this length read memory once. Results never depend on it.
    fn cache_batch_len(&self) -> Option<usize> {
        None
    }

    /// Makes memory for [`run`](Backend::run) to keep between passes: tables and chunk lists, valid until the
    /// shapes change. One for each place that runs passes; empty at first.
    fn plan(&self) -> Plan;

    /// Runs a rule over all elements of many tensors, in one pass over memory.
    ///
    /// The sums that the rule declares are written to `pass.sums`, a row of them for each tensor, in the
    /// order of [`sums`](crate::reduction).
    ///
    /// # Errors
    /// Everything that can be found wrong is found before the first write.
    fn run(&self, pass: Pass<'_, '_>) -> Result<()>;

    /// Waits until all work given so far is done.
    ///
    /// # Errors
    /// When the device failed meanwhile.
    fn synchronise(&self) -> Result<()>;

    /// Returns its linear algebra.
    fn linalg(&self) -> &dyn LinearAlgebra;

    /// Returns its indexing.
    fn indexing(&self) -> &dyn Indexing;

    /// Returns its reductions.
    fn reductions(&self) -> &dyn Reductions;

    /// Returns its queue, if it is a device that works while the host continues.
    fn queue(&self) -> Option<&dyn PassQueue> {
        None
    }

    /// Returns its asynchronous copies to and from the host, if it is not the host.
    fn transfers(&self) -> Option<&dyn AsyncTransfer> {
        None
    }

    /// Returns its paged memory, if it has some.
    fn paged_memory(&self) -> Option<&dyn PagedMemory> {
        None
    }
}

impl dyn Backend + '_ {
    /// Returns a capability of this backend that an operation cannot do without.
    ///
    /// ```
    /// # use fallline_core::{Backend, Result, backend::Queued, backend::Pass};
    /// # fn run(backend: &dyn Backend, pass: Pass<'_, '_>) -> Result<()> {
    /// backend.require("a queued pass", backend.queue())?.run_queued(pass, Queued::default())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unsupported`], which names the operation and the device.
    pub fn require<'c, C: ?Sized>(
        &self,
        operation: &'static str,
        capability: Option<&'c C>,
    ) -> Result<&'c C> {
        capability.ok_or(Error::Unsupported { operation, device: self.device() })
    }
}
