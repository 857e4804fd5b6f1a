//! What is recorded of a step that a CUDA graph captures, and expected of it in a replay.

use crate::staging::Upload;
use crate::tables::Tables;
use cudarc::driver::{CudaFunction, CudaSlice};
use fallline_core::Kernel;
use std::sync::Arc;
use std::thread::{self, ThreadId};

/// What a captured step consists of.
pub(crate) enum Recorded {
    Pass(RecordedPass),
    /// Other work, with what it was told and what its launches refer to.
    Call {
        what: &'static str,
        told: Vec<u64>,
        #[expect(dead_code, reason = "what the graph's launches refer to must stay")]
        memory: Option<Arc<CudaSlice<u8>>>,
    },
}

impl Recorded {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Recorded::Pass(pass) => pass.kernel.name,
            Recorded::Call { what, .. } => what,
        }
    }

    pub(crate) fn pass(&self) -> Option<&RecordedPass> {
        match self {
            Recorded::Pass(pass) => Some(pass),
            Recorded::Call { .. } => None,
        }
    }
}

/// A pass of a captured step, with what its launches refer to.
pub(crate) struct RecordedPass {
    pub(crate) kernel: &'static Kernel,
    pub(crate) tables: Tables,
    pub(crate) tables_at: u64,
    pub(crate) rows_at: u64,
    pub(crate) row_bytes: usize,
    /// Where sums are that it reads and leaves, and what its numbers work on.
    pub(crate) told: [u64; 3],
    #[expect(dead_code, reason = "what the graph's launches refer to must stay")]
    pub(crate) memory: Vec<Arc<CudaSlice<u8>>>,
    #[expect(dead_code, reason = "as above")]
    pub(crate) functions: Vec<CudaFunction>,
}

/// A capture or a replay that is under way.
pub(crate) struct Recording {
    thread: ThreadId,
    /// While capturing those recorded so far, in a replay those that are expected.
    pub(crate) passes: Vec<Recorded>,
    /// In a replay, how many have come.
    pub(crate) replayed: Option<usize>,
    /// Rows of scalars, and what else is uploaded before the graph's first launch.
    pub(crate) uploads: Vec<Upload>,
}

impl Recording {
    /// Begins a capture by this thread.
    pub(crate) fn capture() -> Recording {
        Recording { thread: thread::current().id(), passes: Vec::new(), replayed: None, uploads: Vec::new() }
    }

    /// Begins a replay by this thread, in which these passes are expected.
    pub(crate) fn replay(passes: Vec<Recorded>) -> Recording {
        Recording { passes, replayed: Some(0), ..Recording::capture() }
    }

    /// Returns whether it is this thread's.
    pub(crate) fn is_own(&self) -> bool {
        self.thread == thread::current().id()
    }
}
