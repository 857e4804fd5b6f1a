//! Steps in CUDA graphs: captured once, replayed with new scalars.

use crate::Cuda;
use crate::context::{Failure, State};
use crate::launch::Tables;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaFunction, CudaGraph, CudaSlice, CudaStream};
use fallline_core::{Error, Kernel, Result};
use std::fmt;
use std::sync::Arc;
use std::thread::{self, ThreadId};

/// What [`Cuda::capture`] recorded.
pub struct Captured {
    cuda: Arc<Cuda>,
    graph: CudaGraph,
    passes: Vec<Recorded>,
}

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
    fn name(&self) -> &'static str {
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

/// What is brought to the device: where to, and the bytes.
pub(crate) type Upload = (u64, Vec<u8>);

/// A capture or a replay that is under way.
pub(crate) struct Capture {
    thread: ThreadId,
    /// While capturing those recorded so far, in a replay those that are expected.
    pub(crate) passes: Vec<Recorded>,
    /// In a replay, how many have come.
    pub(crate) replayed: Option<usize>,
    /// Rows of scalars, and what else is uploaded before the graph's first launch.
    pub(crate) uploads: Vec<Upload>,
}

impl Capture {
    fn new(passes: Vec<Recorded>, replayed: Option<usize>) -> Capture {
        Capture { thread: thread::current().id(), passes, replayed, uploads: Vec::new() }
    }

    /// Whether it is this thread's.
    pub(crate) fn is_own(&self) -> bool {
        self.thread == thread::current().id()
    }
}

impl State {
    /// Notes work other than a pass, told by some numbers, in a step that is captured or replayed. Returns whether it is to
    /// be launched: a replay's is in the graph.
    pub(crate) fn launches(
        &mut self,
        what: &'static str,
        told: Vec<u64>,
        memory: Option<Arc<CudaSlice<u8>>>,
    ) -> Result<bool> {
        let Some(capture) = self.capture.as_mut().filter(|capture| capture.is_own()) else { return Ok(true) };
        let Some(replayed) = &mut capture.replayed else {
            capture.passes.push(Recorded::Call { what, told, memory });
            return Ok(true);
        };
        match capture.passes.get(*replayed) {
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

    /// Whether a step is being captured, in which nothing is allocated.
    pub(crate) fn is_capturing(&self) -> bool {
        self.capture.as_ref().is_some_and(|capture| capture.replayed.is_none())
    }
}

impl Cuda {
    /// Records what `work` queues as a CUDA graph, then launches it once: the step in it is taken, as if it had not been
    /// captured. [`Captured::replay`] takes further ones with one launch.
    ///
    /// `work` is given the stream, for kernels of the caller's own that are to be in the graph (those that compute the
    /// gradients, say). What they refer to must last as long as the graph is launched. Optimizers must have stepped the
    /// same tensors before, so that everything is allocated and loaded; their tensors must be on the device; and nothing
    /// may be asked for that the host must know in between, as a policy for NaN or a loss scale does.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use fallline_cuda::{Captured, Cuda};
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
    ) -> core::result::Result<(Captured, R), E> {
        let stream = {
            let mut state = self.state();
            state.enter("a capture")?;
            let begun = state.compute.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED);
            begun.map_err(|cause| state.error(Failure::at("beginning a capture")(cause), false))?;
            state.capture = Some(Capture::new(Vec::new(), None));
            Arc::clone(&state.compute)
        };
        let under_way = UnderWay(self);
        let done = work(&stream);
        // Ended also where the work failed, or panicked: the stream must be free again.
        let ended = under_way.end();
        let result = done?;
        let mut state = self.state();
        let (capture, graph) = ended.map_err(|failure| state.error(failure, true))?;
        let Some(graph) = graph else {
            return Err(Error::Unavailable(format!("{}: nothing was captured", state.device)).into());
        };
        for (address, bytes) in &capture.uploads {
            let stream = Arc::clone(&state.compute);
            // SAFETY: the buffer has room for them, and is used in the order of the stream alone.
            let uploaded = unsafe { state.tables.upload(&stream, *address, bytes) };
            uploaded.map_err(|failure| state.error(failure, true))?;
        }
        launch(&mut state, &graph, &capture.passes)?;
        drop(state);
        Ok((Captured { cuda: Arc::clone(self), graph, passes: capture.passes }, result))
    }
}

impl Captured {
    /// Takes the captured step again: `work` steps the same optimizers on the same tensors, which computes the step's
    /// scalars and checks everything as ever, but launches nothing; then the graph is launched, the caller's own kernels
    /// in it included.
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
            if state.capture.is_some() {
                return Err(Error::Unavailable(format!("{}: a replay within another", state.device)).into());
            }
            state.capture = Some(Capture::new(core::mem::take(&mut self.passes), Some(0)));
        }
        let cuda = Arc::clone(&self.cuda);
        let mut back = GivenBack { cuda: &cuda, captured: self };
        let done = work();
        let replayed = back.finish();
        drop(back);
        let result = done?;
        let mut state = cuda.state();
        let (expected, device) = (self.passes.len(), state.device);
        if replayed != expected {
            let problem = format!("{device}: {replayed} passes were replayed, and {expected} were captured");
            return Err(Error::Unavailable(problem).into());
        }
        launch(&mut state, &self.graph, &self.passes)?;
        Ok(result)
    }
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.passes.iter().map(Recorded::name).collect();
        f.debug_struct("Captured").field("passes", &names).finish_non_exhaustive()
    }
}

fn launch(state: &mut State, graph: &CudaGraph, passes: &[Recorded]) -> Result<()> {
    passes.iter().for_each(|pass| state.running(pass.name()));
    graph.launch().map_err(|cause| state.error(Failure::at("launching a graph")(cause), true))
}

/// A capture, until it is ended.
struct UnderWay<'a>(&'a Cuda);

impl UnderWay<'_> {
    fn end(self) -> core::result::Result<(Capture, Option<CudaGraph>), Failure> {
        let ended = self.close();
        core::mem::forget(self);
        ended
    }

    fn close(&self) -> core::result::Result<(Capture, Option<CudaGraph>), Failure> {
        let mut state = self.0.state();
        let capture = state.capture.take().unwrap_or_else(|| Capture::new(Vec::new(), None));
        let graph = state.compute.end_capture(CUgraphInstantiate_flags(0));
        Ok((capture, graph.map_err(Failure::at("ending a capture"))?))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        // Reached by a panic of the work alone.
        _ = self.close();
    }
}

/// A replay, whose expected passes go back to their owner.
struct GivenBack<'a> {
    cuda: &'a Cuda,
    captured: &'a mut Captured,
}

impl GivenBack<'_> {
    /// How many passes came.
    fn finish(&mut self) -> usize {
        let Some(capture) = self.cuda.state().capture.take() else { return 0 };
        self.captured.passes = capture.passes;
        capture.replayed.unwrap_or(0)
    }
}

impl Drop for GivenBack<'_> {
    fn drop(&mut self) {
        // Does nothing where it was finished.
        self.finish();
    }
}
