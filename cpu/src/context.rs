//! Where linear algebra and reductions run.

use crate::isa::Isa;
use crate::pool::Pool;
use crate::workspace::Workspace;
use fallline_core::Device;

/// Where a product, or what else needs buffers, is computed.
#[derive(Clone, Copy)]
pub(crate) struct ExecContext<'p> {
    pub(crate) device: Device,
    pub(crate) isa: Isa,
    pub(crate) pool: &'p Pool,
    pub(crate) workspace: &'p Workspace,
}

impl ExecContext<'_> {
    /// Calls `work` for every number below `count`, on the pool's threads where `operations` are worth waking them.
    pub(crate) fn for_each(&self, count: usize, operations: usize, work: impl Fn(usize) + Sync + Send) {
        if operations < WORTH_THREADS {
            return (0..count).for_each(work);
        }
        self.pool.for_each(0..count, work);
    }
}

/// Multiplications from which on other threads are woken: some 20 µs of one thread.
const WORTH_THREADS: usize = 1 << 20;
