//! A device: context, streams, kernels, and what becomes of its failures.

use crate::gather::RowKernel;
use crate::graph::Capture;
use crate::launch::Buffer;
use crate::memory::managed::Managed;
use crate::ptx::{self, Stored, Target};
use crate::staging::Staging;
use crate::transfer::Transfer;
use cudarc::cublas::CudaBlas;
use cudarc::cublas::result::CublasError;
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, sys};
use cudarc::nvrtc::Ptx;
use fallline_core::{Compute, Device, Error, Kernel, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// A call of the driver that failed, and what it was for.
#[derive(Debug)]
pub(crate) struct Failure {
    what: &'static str,
    cause: DriverError,
}

impl Failure {
    /// For `map_err`.
    pub(crate) fn at(what: &'static str) -> impl FnOnce(DriverError) -> Failure {
        move |cause| Failure { what, cause }
    }

    /// Whether there was no memory left.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        self.cause.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY
    }
}

/// The result of calls of the driver.
pub(crate) type Lasting<T> = core::result::Result<T, Failure>;

/// Bytes of each of the two buffers of copies.
const STAGING: usize = 4 << 20;
/// Bytes of each buffer for tables, and how many steps may be under way before the host waits.
const TABLE: usize = 1 << 20;
const STEPS_AHEAD: usize = 4;

/// The compiled rules: which rule (by address), in which type, stored how, and whether it may be left out.
type Functions = HashMap<(usize, Compute, Vec<Stored>, bool), CudaFunction>;
/// The compiled numbers of rules: which rule, in which type, and where what it reads is and what is remembered.
type NumberFunctions = HashMap<(usize, Compute, Vec<usize>, Vec<usize>), CudaFunction>;

/// What belongs to a device, used by one thread at a time.
pub(crate) struct State {
    pub(crate) device: Device,
    pub(crate) context: Arc<CudaContext>,
    /// Everything that computes is in the order of this stream.
    pub(crate) compute: Arc<CudaStream>,
    /// Copies of tensors, beside it.
    pub(crate) copies: Arc<CudaStream>,
    /// Copies beside the host's work, in both directions, once there have been some.
    pub(crate) transfers: Option<Transfer>,
    pub(crate) staging: Staging,
    pub(crate) tables: Staging,
    pub(crate) blas: Option<CudaBlas>,
    target: Target,
    functions: Functions,
    numbers: NumberFunctions,
    fold: Option<CudaFunction>,
    scale: HashMap<Compute, CudaFunction>,
    rows: HashMap<RowKernel, CudaFunction>,
    /// Indices of rows.
    pub(crate) index: Buffer,
    /// Sums of strips along an axis.
    pub(crate) strips: Buffer,
    pub(crate) managed: Managed,
    /// Whether the device prefetches it, once that was asked.
    pub(crate) prefetches: Option<bool>,
    /// The kernels that may be running, each once: a fault shows in a later call.
    running: Vec<&'static str>,
    /// A capture or a replay that is under way.
    pub(crate) capture: Option<Capture>,
    /// Why nothing works any more.
    refuses: Option<String>,
}

/// What a missing driver is looked for as.
const LIBRARY: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so, libcuda.so.1" };

/// Whether there is a driver to talk to.
///
/// # Errors
/// [`Error::Unavailable`], with what was looked for.
pub(crate) fn driver(device: Device) -> Result<()> {
    // SAFETY: only looks for the library; cudarc panics where it is missing, so this comes first.
    if unsafe { sys::is_culib_present() } {
        return Ok(());
    }
    Err(Error::Unavailable(format!("{device}: there is no CUDA driver here (looked for {LIBRARY})")))
}

/// How many devices the driver finds. It calls it an error when there are none.
pub(crate) fn count() -> core::result::Result<usize, DriverError> {
    match CudaContext::device_count() {
        Err(cause) if cause.0 == CUresult::CUDA_ERROR_NO_DEVICE => Ok(0),
        counted => counted.map(|count| count as usize),
    }
}

impl State {
    pub(crate) fn new(index: usize) -> Result<State> {
        let device = Device::Cuda(index);
        driver(device)?;
        let unavailable = |what: &str, cause: DriverError| {
            Error::Unavailable(format!("{device}: {what}: {}", explain(cause)))
        };
        let count = count().map_err(|cause| unavailable("counting devices", cause))?;
        if index >= count {
            let found = match count {
                0 => "no CUDA device".to_owned(),
                1 => "1 CUDA device, cuda:0".to_owned(),
                _ => format!("{count} CUDA devices, cuda:0 to cuda:{}", count - 1),
            };
            return Err(Error::Unavailable(format!("there is no {device}: the driver finds {found}")));
        }
        let context = CudaContext::new(index).map_err(|cause| unavailable("opening the device", cause))?;
        // SAFETY: all order between streams is made here, with events of this crate's own.
        unsafe { context.disable_event_tracking() };
        let stream = || context.new_stream().map_err(|cause| unavailable("creating a stream", cause));
        let (compute, copies) = (stream()?, stream()?);
        let capability = context.compute_capability();
        let (major, minor) = capability.map_err(|cause| unavailable("asking for the capability", cause))?;
        let Some(target) = Target::of_device(major as u32, minor as u32) else {
            let problem =
                format!("{device}: its compute capability is {major}.{minor}, and 7.0 is the least");
            return Err(Error::Unavailable(problem));
        };
        Ok(State {
            device,
            staging: Staging::new(Arc::clone(&context), 2, STAGING),
            tables: Staging::new(Arc::clone(&context), STEPS_AHEAD, TABLE),
            context,
            compute,
            copies,
            transfers: None,
            blas: None,
            target,
            functions: Functions::new(),
            numbers: NumberFunctions::new(),
            fold: None,
            scale: HashMap::new(),
            rows: HashMap::new(),
            index: Buffer::default(),
            strips: Buffer::default(),
            managed: Managed::default(),
            prefetches: None,
            running: Vec::new(),
            capture: None,
            refuses: None,
        })
    }

    /// Makes the device this thread's for `what`, if it still works.
    ///
    /// # Errors
    /// Why it does not; that a step is being captured, of which `what` cannot be a part.
    pub(crate) fn enter(&mut self, what: &str) -> Result<()> {
        if self.capture.as_ref().is_some_and(|capture| capture.replayed.is_none()) {
            let device = self.device;
            return Err(Error::Unavailable(format!("{device}: {what} cannot be part of a captured step")));
        }
        self.enter_to_run()
    }

    /// As [`enter`](State::enter), for passes of rules, which can be captured.
    pub(crate) fn enter_to_run(&mut self) -> Result<()> {
        let device = self.device;
        if let Some(reason) = &self.refuses {
            let problem = format!("refuses further work: {reason}");
            return Err(Error::Failed { device, problem, written: false });
        }
        if self.capture.as_ref().is_some_and(|capture| capture.replayed.is_none() && !capture.is_own()) {
            let problem = format!("{device}: another thread is capturing a step");
            return Err(Error::Unavailable(problem));
        }
        let bound = self.context.bind_to_thread().map_err(Failure::at("making the device current"));
        bound.map_err(|failure| self.error(failure, false))
    }

    /// Remembers that a kernel may be running.
    pub(crate) fn running(&mut self, kernel: &'static str) {
        if !self.running.contains(&kernel) {
            self.running.push(kernel);
        }
    }

    /// Notes that everything queued so far is done.
    pub(crate) fn idle(&mut self) {
        self.running.clear();
    }

    /// The error that a failed call is; `written` if it may have left something half-done.
    pub(crate) fn error(&mut self, failure: Failure, written: bool) -> Error {
        let Failure { what, cause } = failure;
        let device = self.device;
        if !lasts(cause.0) {
            return Error::Failed { device, problem: format!("{what}: {}", explain(cause)), written };
        }
        // What a kernel did wrong shows in whatever is called next.
        let problem = match &self.running[..] {
            [] => format!("{what}: {}", explain(cause)),
            kernels => format!("kernel {} failed: {}", kernels.join(" or "), explain(cause)),
        };
        self.refuses = Some(problem.clone());
        Error::Failed { device, problem, written: true }
    }

    /// The kernel of a rule for operands that are stored so, which a number may leave out, printed and loaded when it is first
    /// asked for.
    pub(crate) fn function(
        &mut self,
        kernel: &'static Kernel,
        compute: Compute,
        (stored, skips): (&[Stored], bool),
    ) -> Lasting<CudaFunction> {
        let key = (core::ptr::from_ref(kernel).addr(), compute, stored.to_vec(), skips);
        if let Some(function) = self.functions.get(&key) {
            return Ok(function.clone());
        }
        let graph = kernel.record();
        let text = match skips {
            true => ptx::skippable_kernel(&graph, kernel.name, compute, stored, self.target),
            false => ptx::element_kernel(&graph, kernel.name, compute, stored, self.target),
        };
        let function = self.load(&text)?;
        self.functions.insert(key, function.clone());
        Ok(function)
    }

    /// The kernel of a rule's numbers.
    pub(crate) fn numbers(
        &mut self,
        kernel: &'static Kernel,
        compute: Compute,
        (reads, shared): (&[usize], &[usize]),
    ) -> Lasting<CudaFunction> {
        let key = (core::ptr::from_ref(kernel).addr(), compute, reads.to_vec(), shared.to_vec());
        if let Some(function) = self.numbers.get(&key) {
            return Ok(function.clone());
        }
        let name = format!("{}_numbers", kernel.name);
        let text = ptx::numbers_kernel(kernel, &name, compute, (reads, shared), self.target);
        let function = self.load(&text)?;
        self.numbers.insert(key, function.clone());
        Ok(function)
    }

    /// The kernel that folds partial sums.
    pub(crate) fn fold(&mut self) -> Lasting<CudaFunction> {
        if let Some(function) = &self.fold {
            return Ok(function.clone());
        }
        let function = self.load(&ptx::fold_kernel("fold", self.target))?;
        self.fold = Some(function.clone());
        Ok(function)
    }

    /// The kernel that multiplies the gradient's factor in rows of scalars.
    pub(crate) fn scale(&mut self, compute: Compute) -> Lasting<CudaFunction> {
        if let Some(function) = self.scale.get(&compute) {
            return Ok(function.clone());
        }
        let function = self.load(&ptx::scale_kernel("scale_rows", compute, self.target))?;
        self.scale.insert(compute, function.clone());
        Ok(function)
    }

    /// A kernel that works on rows, or along an axis.
    pub(crate) fn row_kernel(&mut self, kernel: RowKernel) -> Lasting<CudaFunction> {
        if let Some(function) = self.rows.get(&kernel) {
            return Ok(function.clone());
        }
        let function = self.load(&kernel.text(self.target))?;
        self.rows.insert(kernel, function.clone());
        Ok(function)
    }

    fn load(&self, text: &ptx::Ptx) -> Lasting<CudaFunction> {
        let module = self.context.load_module(Ptx::from_src(&text.text));
        let module: Arc<CudaModule> = module.map_err(Failure::at("loading a kernel"))?;
        module.load_function(&text.entry).map_err(Failure::at("finding a kernel in its module"))
    }
}

/// The driver's own words, with the name of the error.
pub(crate) fn explain(cause: DriverError) -> String {
    let name = cause.error_name().map_or("unknown error".into(), |name| name.to_string_lossy().into_owned());
    match cause.error_string() {
        Ok(text) => format!("{} ({name})", text.to_string_lossy()),
        Err(_) => name,
    }
}

/// What cuBLAS says.
pub(crate) fn explain_blas(device: Device, what: &str, cause: &CublasError) -> Error {
    Error::Failed { device, problem: format!("{what}: {:?}", cause.0), written: false }
}

/// Whether the context is lost with this error: every later call will give it too.
fn lasts(cause: CUresult) -> bool {
    matches!(
        cause,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUresult::CUDA_ERROR_DEINITIALIZED
    )
}
