//! What belongs to a device: its context, the kernels that are loaded, and memory that is used again.

use crate::context::Context;
use crate::kernels::Kernels;
use crate::memory::Buffer;
use crate::memory::managed::Managed;
use crate::recording::{Recorded, Recording};
use crate::staging::Staging;
use cudarc::cublas::CudaBlas;
use cudarc::driver::CudaSlice;
use fallline_core::{Error, Result};
use std::sync::Arc;

/// Bytes of each of the two buffers of copies.
const STAGING: usize = 4 << 20;
/// Bytes of each buffer for tables, and how many steps may be under way before the host waits.
const TABLE: usize = 1 << 20;
const STEPS_AHEAD: usize = 4;

/// What belongs to a device, used by one thread at a time.
pub(crate) struct State {
    pub(crate) ctx: Context,
    pub(crate) staging: Staging,
    pub(crate) tables: Staging,
    pub(crate) blas: Option<CudaBlas>,
    pub(crate) kernels: Kernels,
    /// Indices of rows.
    pub(crate) index: Buffer,
    /// Sums of strips along an axis.
    pub(crate) strips: Buffer,
    pub(crate) managed: Managed,
    /// Whether the device prefetches it, once that was asked.
    pub(crate) prefetches: Option<bool>,
    /// A capture or a replay that is under way.
    pub(crate) recording: Option<Recording>,
}

impl State {
    pub(crate) fn new(ctx: Context) -> State {
        State {
            staging: Staging::new(Arc::clone(&ctx.cuda), 2, STAGING),
            tables: Staging::new(Arc::clone(&ctx.cuda), STEPS_AHEAD, TABLE),
            ctx,
            blas: None,
            kernels: Kernels::default(),
            index: Buffer::default(),
            strips: Buffer::default(),
            managed: Managed::default(),
            prefetches: None,
            recording: None,
        }
    }

    /// Makes the device this thread's for `what`, if it still works.
    ///
    /// # Errors
    /// Why it does not; that a step is being captured, of which `what` cannot be a part.
    pub(crate) fn enter(&mut self, what: &str) -> Result<()> {
        if self.is_capturing() {
            let device = self.ctx.device;
            return Err(Error::Unavailable(format!("{device}: {what} cannot be part of a captured step")));
        }
        self.enter_to_run()
    }

    /// As [`enter`](State::enter), for passes of rules, which can be captured.
    pub(crate) fn enter_to_run(&mut self) -> Result<()> {
        self.ctx.check_usable()?;
        if self.is_capturing() && !self.is_recording() {
            let problem = format!("{}: another thread is capturing a step", self.ctx.device);
            return Err(Error::Unavailable(problem));
        }
        self.ctx.bind()
    }

    /// Returns whether a step is being captured, in which nothing is allocated.
    pub(crate) fn is_capturing(&self) -> bool {
        self.recording.as_ref().is_some_and(|recording| recording.replayed.is_none())
    }

    /// Returns whether this thread captures or replays a step.
    pub(crate) fn is_recording(&self) -> bool {
        self.recording.as_ref().is_some_and(Recording::is_own)
    }

    /// Notes work other than a pass, told by some numbers, in a step that is captured or replayed. Returns whether it is to
    /// be launched: a replay's is in the graph.
    pub(crate) fn launches(
        &mut self,
        what: &'static str,
        told: Vec<u64>,
        memory: Option<Arc<CudaSlice<u8>>>,
    ) -> Result<bool> {
        let Some(recording) = self.recording.as_mut().filter(|recording| recording.is_own()) else {
            return Ok(true);
        };
        let Some(replayed) = &mut recording.replayed else {
            recording.passes.push(Recorded::Call { what, told, memory });
            return Ok(true);
        };
        match recording.passes.get(*replayed) {
            Some(Recorded::Call { what: expected, told: known, .. })
                if *expected == what && *known == told =>
            {
                *replayed += 1;
                Ok(false)
            }
            _ => {
                let problem = format!("{what}: this is not what was captured: capture the step again");
                Err(Error::Unavailable(problem))
            }
        }
    }
}
