//! Steps in CUDA graphs: captured once, replayed with new scalars.

use crate::Cuda;
use crate::context::Failure;
use crate::recording::{Recorded, Recording};
use crate::state::State;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream};
use fallline_core::{Error, Result};
use std::fmt;
use std::sync::Arc;

/// What [`Cuda::capture`] recorded.
pub struct CapturedGraph {
    cuda: Arc<Cuda>,
    graph: CudaGraph,
    passes: Vec<Recorded>,
}

impl Cuda {
    /// Records what `work` queues as a CUDA graph, then launches it once: the step in it is taken, as if it had not been
    /// captured. [`CapturedGraph::replay`] takes further ones with one launch.
    ///
    /// `work` is given the stream, for kernels of the caller's own that are to be in the graph (those that compute
    /// the gradients, say). What they refer to must last as long as the graph is launched. Optimizers must have
    /// stepped the same tensors before, so that everything is allocated and loaded. Their tensors must be on the
    /// device. Nothing may need the host in between, as a policy for NaN or a loss scale does.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use fallline_cuda::{CapturedGraph, Cuda};
    /// # fn train(cuda: &Arc<Cuda>, mut step: impl FnMut() -> fallline_core::Result<()>) -> fallline_core::Result<()> {
    /// step()?; // optimizer.step(&mut bindings)
    /// let (mut captured, ()) = cuda.capture(|_stream| step())?;
    /// for _ in 0..100 {
    ///     captured.replay(|| step())?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// What `work` fails with; [`Error::Unavailable`] for what cannot be captured. Nothing is launched then.
    pub fn capture<R, E: From<Error>>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<CudaStream>) -> core::result::Result<R, E>,
    ) -> core::result::Result<(CapturedGraph, R), E> {
        let stream = {
            let mut state = self.state();
            state.enter("a capture")?;
            let begun = state.ctx.compute.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED);
            begun.map_err(|cause| state.ctx.error(Failure::at("beginning a capture")(cause), false))?;
            state.recording = Some(Recording::capture());
            Arc::clone(&state.ctx.compute)
        };
        let under_way = CaptureGuard(self);
        let done = work(&stream);
        // Ended also where the work failed, or panicked: the stream must be free again.
        let ended = under_way.end();
        let result = done?;
        let mut state = self.state();
        let (capture, graph) = ended.map_err(|failure| state.ctx.error(failure, true))?;
        let Some(graph) = graph else {
            return Err(Error::Unavailable(format!("{}: nothing was captured", state.ctx.device)).into());
        };
        for (address, bytes) in &capture.uploads {
            let stream = Arc::clone(&state.ctx.compute);
            // SAFETY: the buffer has room for them, and is used in the order of the stream alone.
            let uploaded = unsafe { state.tables.upload(&stream, *address, bytes) };
            uploaded.map_err(|failure| state.ctx.error(failure, true))?;
        }
        launch(&mut state, &graph, &capture.passes)?;
        drop(state);
        Ok((CapturedGraph { cuda: Arc::clone(self), graph, passes: capture.passes }, result))
    }
}

impl CapturedGraph {
    /// Replays the captured step. `work` steps the same optimizers on the same tensors, which computes the step's
    /// scalars and checks everything, but launches nothing. Then the graph is launched, including the caller's
    /// kernels.
    ///
    /// # Errors
    /// What `work` fails with; [`Error::Unavailable`] when a pass is not the one that was captured. Nothing is launched
    /// then, but an optimizer whose own step went well has counted it: load it again, as after any failure of a device.
    pub fn replay<R, E: From<Error>>(
        &mut self,
        work: impl FnOnce() -> core::result::Result<R, E>,
    ) -> core::result::Result<R, E> {
        {
            let mut state = self.cuda.state();
            state.enter("a replay")?;
            if state.recording.is_some() {
                return Err(
                    Error::Unavailable(format!("{}: a replay within another", state.ctx.device)).into()
                );
            }
            state.recording = Some(Recording::replay(core::mem::take(&mut self.passes)));
        }
        let cuda = Arc::clone(&self.cuda);
        let mut back = ReplayGuard { cuda: &cuda, captured: self };
        let done = work();
        let replayed = back.finish();
        drop(back);
        let result = done?;
        let mut state = cuda.state();
        let (expected, device) = (self.passes.len(), state.ctx.device);
        if replayed != expected {
            let problem = format!("{device}: {replayed} passes were replayed, and {expected} were captured");
            return Err(Error::Unavailable(problem).into());
        }
        launch(&mut state, &self.graph, &self.passes)?;
        Ok(result)
    }
}

impl fmt::Debug for CapturedGraph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.passes.iter().map(Recorded::name).collect();
        f.debug_struct("CapturedGraph").field("passes", &names).finish_non_exhaustive()
    }
}

fn launch(state: &mut State, graph: &CudaGraph, passes: &[Recorded]) -> Result<()> {
    passes.iter().for_each(|pass| state.ctx.running(pass.name()));
    graph.launch().map_err(|cause| state.ctx.error(Failure::at("launching a graph")(cause), true))
}

/// A capture, until it is ended.
struct CaptureGuard<'a>(&'a Cuda);

impl CaptureGuard<'_> {
    fn end(self) -> core::result::Result<(Recording, Option<CudaGraph>), Failure> {
        let ended = self.close();
        core::mem::forget(self);
        ended
    }

    fn close(&self) -> core::result::Result<(Recording, Option<CudaGraph>), Failure> {
        let mut state = self.0.state();
        let capture = state.recording.take().unwrap_or_else(Recording::capture);
        let graph = state.ctx.compute.end_capture(CUgraphInstantiate_flags(0));
        Ok((capture, graph.map_err(Failure::at("ending a capture"))?))
    }
}

impl Drop for CaptureGuard<'_> {
    fn drop(&mut self) {
        // Reached by a panic of the work alone.
        _ = self.close();
    }
}

/// A replay, whose expected passes go back to their owner.
struct ReplayGuard<'a> {
    cuda: &'a Cuda,
    captured: &'a mut CapturedGraph,
}

impl ReplayGuard<'_> {
    /// Returns how many passes came.
    fn finish(&mut self) -> usize {
        let Some(capture) = self.cuda.state().recording.take() else { return 0 };
        self.captured.passes = capture.passes;
        capture.replayed.unwrap_or(0)
    }
}

impl Drop for ReplayGuard<'_> {
    fn drop(&mut self) {
        // Does nothing where it was finished.
        self.finish();
    }
}
