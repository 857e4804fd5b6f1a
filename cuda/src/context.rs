//! A device of the CUDA driver API: its context and streams, and what becomes of its failures.

use crate::ptx::{Ptx, Target};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError};
use cudarc::nvrtc;
use fallline_core::{Device, Error, Result, Storage};
use std::sync::Arc;

/// A call of the driver that failed, and what it was for.
#[derive(Debug)]
pub(crate) struct Failure {
    what: &'static str,
    cause: DriverError,
}

impl Failure {
    /// Returns what `map_err` takes.
    pub(crate) fn at(what: &'static str) -> impl FnOnce(DriverError) -> Failure {
        move |cause| Failure { what, cause }
    }

    /// Returns whether there was no memory left.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        self.cause.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY
    }
}

/// The result of calls of the driver.
pub(crate) type DriverResult<T> = core::result::Result<T, Failure>;

/// A device, open.
pub(crate) struct Context {
    pub(crate) device: Device,
    pub(crate) cuda: Arc<CudaContext>,
    /// Everything that computes is in the order of this stream.
    pub(crate) compute: Arc<CudaStream>,
    /// Copies of tensors, concurrent with it.
    pub(crate) copies: Arc<CudaStream>,
    /// Asynchronous copies, once there have been some.
    transfers: Option<TransferStreams>,
    /// What kernels are printed for.
    pub(crate) target: Target,
    /// The kernels that may be running, each once: a fault shows in a later call.
    running: Vec<&'static str>,
    /// Why nothing works any more.
    sticky_error: Option<String>,
}

/// The streams of asynchronous copies, one for each direction.
#[derive(Clone)]
pub(crate) struct TransferStreams {
    pub(crate) down: Arc<CudaStream>,
    pub(crate) up: Arc<CudaStream>,
}

/// The name under which the driver's library is searched.
const LIBRARY: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so, libcuda.so.1" };

/// Checks that there is a driver to talk to.
///
/// # Errors
/// [`Error::Unavailable`], with what was looked for.
pub(crate) fn driver(device: Device) -> Result<()> {
    // cudarc panics where it is missing, so this comes first.
    if driver_is_present() {
        return Ok(());
    }
    Err(Error::Unavailable(format!("{device}: there is no CUDA driver here (searched: {LIBRARY})")))
}

/// Returns whether the driver's library is there, which cudarc loads at run time.
fn driver_is_present() -> bool {
    /// Stands in where cudarc links the library, as candle has it: then it is there, or the program does not start.
    #[allow(dead_code, reason = "cudarc's own shadows it where it loads the library")]
    unsafe fn is_culib_present() -> bool {
        true
    }
    {
        #[allow(unused_imports, reason = "as above")]
        use cudarc::driver::sys::*;
        // SAFETY: only looks for the library.
        unsafe { is_culib_present() }
    }
}

/// Returns how many devices the driver finds. It calls it an error when there are none.
pub(crate) fn count() -> core::result::Result<usize, DriverError> {
    match CudaContext::device_count() {
        Err(cause) if cause.0 == CUresult::CUDA_ERROR_NO_DEVICE => Ok(0),
        counted => counted.map(|count| count as usize),
    }
}

impl Context {
    /// Opens the device with this index. Everything computes in the order of `stream`, if one is given.
    pub(crate) fn open(index: usize, stream: Option<Arc<CudaStream>>) -> Result<Context> {
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
        let cuda = CudaContext::new(index).map_err(|cause| unavailable("opening the device", cause))?;
        // SAFETY: all order between streams is made here, with events of this crate's own.
        unsafe { cuda.disable_event_tracking() };
        let new = || cuda.new_stream().map_err(|cause| unavailable("creating a stream", cause));
        let compute = match stream {
            Some(stream) if stream.context().cu_ctx() == cuda.cu_ctx() => stream,
            Some(_) => {
                let problem = format!("{device}: the stream is not in the device's primary context");
                return Err(Error::Unavailable(problem));
            }
            None => new()?,
        };
        let copies = new()?;
        let capability = cuda.compute_capability();
        let (major, minor) = capability.map_err(|cause| unavailable("asking for the capability", cause))?;
        let Some(target) = Target::of_device(major as u32, minor as u32) else {
            let problem =
                format!("{device}: its compute capability is {major}.{minor}, and 7.0 is the least");
            return Err(Error::Unavailable(problem));
        };
        Ok(Context {
            device,
            cuda,
            compute,
            copies,
            transfers: None,
            target,
            running: Vec::new(),
            sticky_error: None,
        })
    }

    /// Checks that the device still works.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn check_usable(&self) -> Result<()> {
        let device = self.device;
        if let Some(reason) = &self.sticky_error {
            let problem = format!("refuses further work: {reason}");
            return Err(Error::Failed { device, problem, written: false });
        }
        Ok(())
    }

    /// Makes the device this thread's.
    pub(crate) fn bind(&mut self) -> Result<()> {
        let bound = self.cuda.bind_to_thread().map_err(Failure::at("making the device current"));
        bound.map_err(|failure| self.error(failure, false))
    }

    /// Records that a kernel may be running.
    pub(crate) fn running(&mut self, kernel: &'static str) {
        if !self.running.contains(&kernel) {
            self.running.push(kernel);
        }
    }

    /// Notes that everything queued so far is done.
    pub(crate) fn idle(&mut self) {
        self.running.clear();
    }

    /// Returns the error that a failed call is; `written` if it may have left something half-done.
    pub(crate) fn error(&mut self, failure: Failure, written: bool) -> Error {
        let Failure { what, cause } = failure;
        let device = self.device;
        if !is_sticky(cause.0) {
            return Error::Failed { device, problem: format!("{what}: {}", explain(cause)), written };
        }
        // What a kernel did wrong shows in whatever is called next.
        let problem = match &self.running[..] {
            [] => format!("{what}: {}", explain(cause)),
            kernels => format!("kernel {} failed: {}", kernels.join(" or "), explain(cause)),
        };
        self.sticky_error = Some(problem.clone());
        Error::Failed { device, problem, written: true }
    }

    /// Returns the streams of transfers, behind what is queued so far.
    pub(crate) fn begin_transfer(&mut self) -> DriverResult<TransferStreams> {
        let streams = match &self.transfers {
            Some(streams) => streams.clone(),
            None => {
                let stream = || self.cuda.new_stream().map_err(Failure::at("creating a stream"));
                let streams = TransferStreams { down: stream()?, up: stream()? };
                self.transfers.insert(streams).clone()
            }
        };
        for stream in [&streams.down, &streams.up] {
            stream.join(&self.compute).map_err(Failure::at("ordering streams"))?;
        }
        Ok(streams)
    }

    /// Loads a kernel.
    pub(crate) fn load(&self, ptx: &Ptx) -> DriverResult<CudaFunction> {
        let module = self.cuda.load_module(nvrtc::Ptx::from_src(&ptx.text));
        let module: Arc<CudaModule> = module.map_err(Failure::at("loading a kernel"))?;
        module.load_function(&ptx.entry).map_err(Failure::at("finding a kernel in its module"))
    }
}

/// Checks that a storage is the device's own.
pub(crate) fn on_device(
    device: Device,
    operation: &'static str,
    what: &str,
    storage: &Storage,
) -> Result<()> {
    match storage.device() {
        Some(its) if its == device => Ok(()),
        Some(its) => Err(Error::Unreachable { operation, what: format!("{what} on {its}"), device }),
        None => Err(Error::Unreachable { operation, what: format!("{what} on the host"), device }),
    }
}

/// Returns the driver's own words, with the name of the error.
pub(crate) fn explain(cause: DriverError) -> String {
    let name = cause.error_name().map_or("unknown error".into(), |name| name.to_string_lossy().into_owned());
    match cause.error_string() {
        Ok(text) => format!("{} ({name})", text.to_string_lossy()),
        Err(_) => name,
    }
}

/// Returns whether the error is sticky: the context is lost, and every later call gives it too.
fn is_sticky(cause: CUresult) -> bool {
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
