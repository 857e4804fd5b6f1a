//! The CUDA backend: rules as PTX, printed from their recordings, and the driver to run them.
//!
//! Nothing is needed to build or load this crate but Rust; a machine needs NVIDIA's driver to make a [`Cuda`],
//! and cuBLAS for matrix products. There is no CUDA C++ in it and none is compiled at run time: [`ptx`] prints what
//! [`Graph`](fallline_core::Graph) recorded.
//!
//! An internal crate: depend on `fallline`, which re-exports it as `fallline::cuda` (feature `cuda`).

#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(unsafe_op_in_unsafe_fn)]
#![allow(unsafe_code)] // calls of the driver

mod context;
mod gather;
mod gemm;
mod graph;
mod kernels;
mod launch;
mod lend;
mod memory;
#[cfg(feature = "nccl")]
pub mod nccl;
pub mod ptx;
mod recording;
mod reduce;
mod staging;
mod state;
mod tables;
mod transfer;

pub use cudarc;
pub use graph::CapturedGraph;

use context::{Context, Failure, on_device};
use cudarc::driver::CudaStream;
use fallline_core::backend::{
    AsyncTransfer, AxisReduction, Backend, DeviceMemory, GatherSum, Gemm, Indexing, LinearAlgebra,
    MatrixReduction, PagedMemory, Pass, PassQueue, Plan, Queued, Reductions, Scatter,
};
use fallline_core::host::{Blocks, BlocksMut, Slice, SliceMut};
use fallline_core::transfer::Transfers;
use fallline_core::{Device, Error, Format, Kernel, Result, Storage, private};
use half::{bf16, f16};
use state::State;
use std::any::Any;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A CUDA device as a backend.
///
/// Work is queued in one stream; only reading results waits for it. Tensors are freed in the order of that stream.
///
/// ```
/// use fallline_cuda::Cuda;
/// match Cuda::new(0) {
///     Ok(cuda) => println!("{cuda:?}"),
///     Err(error) => println!("no GPU here: {error}"), // what was looked for
/// }
/// ```
pub struct Cuda {
    index: usize,
    description: String,
    state: Arc<Mutex<State>>,
}

impl Cuda {
    /// Returns the device with this index.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is no driver, no such device, or it is too old; it says what was looked for.
    pub fn new(index: usize) -> Result<Cuda> {
        Cuda::of(State::new(Context::open(index, None)?))
    }

    /// Returns the device of a stream, which works in the order of that stream: a framework's, so that neither waits for
    /// the other. Its memory is [lent](Cuda::lend_mut) or [adopted](Cuda::adopt).
    ///
    /// # Errors
    /// As [`new`](Cuda::new); [`Error::Unavailable`] when the stream is not in the device's primary context.
    pub fn on_stream(stream: Arc<CudaStream>) -> Result<Cuda> {
        Cuda::of(State::new(Context::open(stream.context().ordinal(), Some(stream))?))
    }

    fn of(state: State) -> Result<Cuda> {
        let index = state.ctx.cuda.ordinal();
        let name = state.ctx.cuda.name().unwrap_or_else(|_| "unknown device".into());
        let (major, minor) = state.ctx.cuda.compute_capability().unwrap_or_default();
        let description = format!("cuda:{index} ({name}, compute capability {major}.{minor})");
        Ok(Cuda { index, description, state: Arc::new(Mutex::new(state)) })
    }

    /// As what optimizers and tensors take.
    pub fn shared(self) -> Arc<dyn Backend> {
        Arc::new(self)
    }

    /// Returns the stream in which everything is queued, for the caller's own kernels and for waiting on them.
    pub fn stream(&self) -> Arc<CudaStream> {
        Arc::clone(&self.state().ctx.compute)
    }

    /// Returns how many devices there are.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is no driver.
    pub fn count() -> Result<usize> {
        context::driver(Device::Cuda(0))?;
        context::count().map_err(|cause| {
            Error::Unavailable(format!("counting CUDA devices: {}", context::explain(cause)))
        })
    }

    fn check(&self, operation: &'static str, what: &str, storage: &Storage, got: usize) -> Result<()> {
        on_device(self.device(), operation, what, storage)?;
        if storage.len() != got {
            return Err(Error::Length { operation, what: "the slice".into(), expected: storage.len(), got });
        }
        Ok(())
    }

    /// Storages for the requests in memory that `memory` allocates, and its address.
    fn allocate_as(
        &self,
        requests: &[(Format, usize)],
        memory: impl FnOnce(&State, usize) -> context::DriverResult<(Arc<dyn Any + Send + Sync>, u64)>,
    ) -> Result<Vec<Storage>> {
        let device = self.device();
        let (offsets, bytes) = memory::lay_out(device, requests)?;
        let mut state = self.state();
        state.enter("an allocation")?;
        match memory(&state, bytes) {
            Ok((owner, address)) => Ok(memory::divide(device, owner, address, requests, offsets)),
            Err(failure) if failure.is_out_of_memory() => Err(Error::OutOfMemory { device, bytes }),
            Err(failure) => Err(state.ctx.error(failure, false)),
        }
    }

    /// Returns the state, whatever happened to a thread that held it: every call leaves it whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies during the computation, in order with it on both sides.
    fn copy(&self, work: impl FnOnce(&mut State) -> context::DriverResult<()>, writes: bool) -> Result<()> {
        let mut state = self.state();
        state.enter("a copy")?;
        let state = &mut *state;
        let before = state.ctx.copies.join(&state.ctx.compute).map_err(Failure::at("ordering streams"));
        let done = before.and_then(|()| work(state)).and_then(|()| {
            state.ctx.compute.join(&state.ctx.copies).map_err(Failure::at("ordering streams"))
        });
        done.map_err(|failure| state.ctx.error(failure, writes))?;
        // What was read came after everything that was queued before.
        if !writes {
            state.ctx.idle();
        }
        Ok(())
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

impl private::Sealed for Cuda {}

impl Backend for Cuda {
    fn device(&self) -> Device {
        Device::Cuda(self.index)
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn is_host_accessible(&self) -> bool {
        false
    }

    fn plan(&self) -> Plan {
        Box::new(launch::CudaPlan::default())
    }

    fn run(&self, pass: Pass<'_, '_>) -> Result<()> {
        launch::run(&mut self.state(), pass, None)
    }

    fn synchronise(&self) -> Result<()> {
        let mut state = self.state();
        state.enter("waiting for the device")?;
        let done = state.ctx.copies.synchronize().and_then(|()| state.ctx.compute.synchronize());
        let done = done.and_then(|()| state.ctx.cuda.check_err());
        done.map_err(|cause| state.ctx.error(Failure::at("waiting for the device")(cause), false))?;
        state.ctx.idle();
        Ok(())
    }

    fn linalg(&self) -> &dyn LinearAlgebra {
        self
    }

    fn indexing(&self) -> &dyn Indexing {
        self
    }

    fn reductions(&self) -> &dyn Reductions {
        self
    }

    fn queue(&self) -> Option<&dyn PassQueue> {
        Some(self)
    }

    fn transfers(&self) -> Option<&dyn AsyncTransfer> {
        Some(self)
    }

    fn paged_memory(&self) -> Option<&dyn PagedMemory> {
        Some(self)
    }
}

impl DeviceMemory for Cuda {
    fn allocate(&self, requests: &[(Format, usize)]) -> Result<Vec<Storage>> {
        self.allocate_as(requests, |state, bytes| {
            let arena =
                state.ctx.compute.alloc_zeros::<u8>(bytes).map_err(Failure::at("allocating memory"))?;
            let address = memory::address_of(&arena);
            Ok((Arc::new(arena) as _, address))
        })
    }

    fn write(&self, storage: &mut Storage, values: Slice<'_>) -> Result<()> {
        self.check("write", "the storage", storage, values.len())?;
        if storage.format().block().is_some() {
            let (format, len) = (storage.format(), storage.len());
            let (mut codes, mut scales) = (vec![0; format.size(len)], vec![0.0; format.scales(len)]);
            BlocksMut { format, len, codes: &mut codes, scales: &mut scales }.encode(values);
            return self.write_blocks(storage, &codes, &scales);
        }
        let converted;
        let bytes = if values.format() == storage.format() {
            values.bytes()
        } else {
            converted = convert(values, storage.format());
            &converted
        };
        let address = storage.address() as u64;
        // SAFETY: the storage is as long as the values, is borrowed mutably, and all work on it is in the order of the
        // streams.
        self.copy(|state| unsafe { state.staging.upload(&state.ctx.copies, address, bytes) }, true)
    }

    fn read(&self, storage: &Storage, mut values: SliceMut<'_>) -> Result<()> {
        self.check("read", "the storage", storage, values.len())?;
        if storage.format().block().is_some() {
            let (format, len) = (storage.format(), storage.len());
            let (mut codes, mut scales) = (vec![0; format.size(len)], vec![0.0; format.scales(len)]);
            self.read_blocks(storage, &mut codes, &mut scales)?;
            Blocks { format, len, codes: &codes, scales: &scales }.decode(values);
            return Ok(());
        }
        let address = storage.address() as u64;
        let copy = |bytes: &mut [u8]| {
            // SAFETY: the storage is as long as the values, and all work on it is in the order of the streams.
            self.copy(|state| unsafe { state.staging.download(&state.ctx.copies, address, bytes) }, false)
        };
        if values.format() == storage.format() {
            return copy(values.bytes_mut());
        }
        macro_rules! converted {
            ($t:ty) => {{
                let mut stored = vec![<$t>::default(); storage.len()];
                copy(SliceMut::from(&mut stored[..]).bytes_mut())?;
                values.copy_from(Slice::from(&stored));
            }};
        }
        match storage.format() {
            Format::F64 => converted!(f64),
            Format::F32 => converted!(f32),
            Format::Bf16 => converted!(bf16),
            Format::F16 => converted!(f16),
            other => unreachable!("no memory is stored as {other}"),
        }
        Ok(())
    }

    fn read_blocks(&self, storage: &Storage, codes: &mut [u8], scales: &mut [f32]) -> Result<()> {
        fallline_core::backend::check_block_layout("read", storage, codes.len(), scales.len())?;
        self.check("read", "the storage", storage, storage.len())?;
        for (address, bytes) in
            [(storage.address(), codes), (storage.scales(), bytemuck::cast_slice_mut(scales))]
        {
            let download = |state: &mut State| {
                // SAFETY: the storage has as many codes and scales, and all work on it is in the order of the streams.
                unsafe { state.staging.download(&state.ctx.copies, address as u64, bytes) }
            };
            self.copy(download, false)?;
        }
        Ok(())
    }

    fn read_scales(&self, storage: &Storage, scales: &mut [f32]) -> Result<()> {
        let codes = storage.format().size(storage.len());
        fallline_core::backend::check_block_layout("read", storage, codes, scales.len())?;
        self.check("read", "the storage", storage, storage.len())?;
        let (address, bytes) = (storage.scales() as u64, bytemuck::cast_slice_mut(scales));
        // SAFETY: the storage has as many scales, and all work on it is in the order of the streams.
        self.copy(|state| unsafe { state.staging.download(&state.ctx.copies, address, bytes) }, false)
    }

    fn write_blocks(&self, storage: &mut Storage, codes: &[u8], scales: &[f32]) -> Result<()> {
        fallline_core::backend::check_block_layout("write", storage, codes.len(), scales.len())?;
        self.check("write", "the storage", storage, storage.len())?;
        for (address, bytes) in [(storage.address(), codes), (storage.scales(), bytemuck::cast_slice(scales))]
        {
            let upload = |state: &mut State| {
                // SAFETY: the storage has as many codes and scales and is borrowed mutably, and all work on it is in the
                // order of the streams.
                unsafe { state.staging.upload(&state.ctx.copies, address as u64, bytes) }
            };
            self.copy(upload, true)?;
        }
        Ok(())
    }

    fn copy(&self, from: &Storage, to: &mut Storage) -> Result<()> {
        fallline_core::backend::check_same_layout(from, to)?;
        self.check("copy", "the source", from, to.len())?;
        self.check("copy", "the target", to, from.len())?;
        let mut state = self.state();
        state.enter("a copy")?;
        let (format, len) = (from.format(), from.len());
        let scales = size_of::<f32>() * format.scales(len);
        for (source, target, bytes) in
            [(from.address(), to.address(), format.size(len)), (from.scales(), to.scales(), scales)]
        {
            if bytes == 0 {
                continue;
            }
            let stream = state.ctx.compute.cu_stream();
            let (source, target) = (source as u64, target as u64);
            // SAFETY: both storages have this many bytes, one of them borrowed mutably; all work is in the stream's order.
            let copied = unsafe { cudarc::driver::result::memcpy_dtod_async(target, source, bytes, stream) };
            copied.map_err(|cause| state.ctx.error(Failure::at("copying")(cause), true))?;
        }
        Ok(())
    }
}

impl PagedMemory for Cuda {
    fn allocate_paged(&self, requests: &[(Format, usize)], _folder: &Path) -> Result<Vec<Storage>> {
        self.allocate_as(requests, |state, bytes| {
            let arena = memory::managed::Arena::new(&state.ctx, &state.managed, bytes)?;
            let address = arena.address();
            Ok((Arc::new(arena) as _, address))
        })
    }
}

impl PassQueue for Cuda {
    fn computes(&self, kernel: &Kernel) -> bool {
        launch::can_compute(kernel)
    }

    fn run_queued(&self, pass: Pass<'_, '_>, queued: Queued<'_>) -> Result<()> {
        launch::run(&mut self.state(), pass, Some(queued))
    }

    fn sums(&self, plan: &Plan, to: &mut [f64]) -> Result<()> {
        launch::sums(&mut self.state(), plan, to)
    }
}

impl LinearAlgebra for Cuda {
    fn gemm(&self, product: Gemm<'_>) -> Result<()> {
        gemm::gemm(&mut self.state(), product)
    }
}

impl Indexing for Cuda {
    fn gather_sum(&self, rows: GatherSum<'_>) -> Result<()> {
        gather::sum(&mut self.state(), rows)
    }

    fn scatter(&self, rows: Scatter<'_>) -> Result<()> {
        gather::scatter(&mut self.state(), rows)
    }
}

impl Reductions for Cuda {
    fn reduce_axis(&self, sums: AxisReduction<'_>) -> Result<()> {
        reduce::sum(&mut self.state(), sums)
    }

    fn reduce_rows_and_columns(&self, sums: MatrixReduction<'_>) -> Result<()> {
        reduce::sum_both(&mut self.state(), sums)
    }
}

impl AsyncTransfer for Cuda {
    fn allocate_pinned(&self, format: Format, len: usize) -> Result<Storage> {
        transfer::allocate(&mut self.state(), format, len)
    }

    fn transfer<'s>(&self, work: &mut dyn FnMut(&mut dyn Transfers<'s>) -> Result<()>) -> Result<()> {
        transfer::run(&self.state, work)
    }
}

/// Returns the values as bytes of another format, each rounded once.
fn convert(values: Slice<'_>, format: Format) -> Vec<u8> {
    macro_rules! converted {
        ($t:ty) => {{
            let mut stored = vec![<$t>::default(); values.len()];
            SliceMut::from(&mut stored[..]).copy_from(values);
            Slice::from(&stored).bytes().to_vec()
        }};
    }
    match format {
        Format::F64 => converted!(f64),
        Format::F32 => converted!(f32),
        Format::Bf16 => converted!(bf16),
        Format::F16 => converted!(f16),
        other => unreachable!("no memory is stored as {other}"),
    }
}
