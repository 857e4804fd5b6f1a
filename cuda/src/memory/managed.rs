//! Managed memory: the driver migrates states between the host and the device as they are used. So there may be more
//! of them than the device has memory.

use crate::context::{Context, DriverResult, Failure};
use cudarc::driver::sys::{self, CUdevice_attribute, CUmemAttach_flags};
use cudarc::driver::{CudaStream, DriverError, result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Where managed memory is: its addresses and bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Managed {
    ranges: Arc<Mutex<BTreeMap<u64, u64>>>,
}

impl Managed {
    /// Returns whether an address is in it.
    pub(crate) fn has(&self, address: u64) -> bool {
        let ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        let below = ranges.range(..=address).next_back();
        below.is_some_and(|(start, bytes)| address - start < *bytes)
    }

    /// Returns whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn set(&self, address: u64, bytes: Option<u64>) {
        let mut ranges = self.ranges.lock().unwrap_or_else(PoisonError::into_inner);
        match bytes {
            Some(bytes) => ranges.insert(address, bytes),
            None => ranges.remove(&address),
        };
    }
}

/// One piece of it, freed with its last region.
pub(crate) struct Arena {
    address: u64,
    known: Managed,
    stream: Arc<CudaStream>,
}

impl Arena {
    /// Allocates so many bytes, zero at first, among what is `known`.
    pub(crate) fn new(ctx: &Context, known: &Managed, bytes: usize) -> DriverResult<Arena> {
        // SAFETY: it is filled with zeros before anything reads it, in the order of the stream.
        let address = unsafe { result::malloc_managed(bytes, CUmemAttach_flags::CU_MEM_ATTACH_GLOBAL) };
        let address = address.map_err(Failure::at("allocating memory"))?;
        let arena = Arena { address, known: known.clone(), stream: Arc::clone(&ctx.compute) };
        arena.known.set(address, Some(bytes as u64));
        // SAFETY: it has as many bytes.
        let filled = unsafe { result::memset_d8_async(address, 0, bytes, arena.stream.cu_stream()) };
        filled.map_err(Failure::at("allocating memory"))?;
        Ok(arena)
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.known.set(self.address, None);
        // A failure shows in the next call of the device.
        let _ = self.stream.context().bind_to_thread();
        let _ = self.stream.synchronize();
        // SAFETY: it was allocated so, and everything that used it is done.
        let _ = unsafe { result::memory_free(self.address) };
    }
}

/// Asks the CUDA driver to prefetch so many bytes to the device, in the order of a stream.
pub(crate) fn prefetch(stream: &CudaStream, address: u64, bytes: usize) -> DriverResult<()> {
    let failed = Failure::at("prefetching managed memory");
    let call = match prefetch_call() {
        Ok(call) => call,
        Err(cause) => return Err(failed(cause)),
    };
    let device = stream.context().cu_device();
    // SAFETY: only where memory is changes, not what is in it; a place that is none is an error.
    let asked = unsafe { call(address, bytes, device, stream.cu_stream()) };
    asked.result().map_err(failed)
}

type Prefetch = unsafe extern "C" fn(sys::CUdeviceptr, usize, sys::CUdevice, sys::CUstream) -> sys::CUresult;

/// Returns `cuMemPrefetchAsync` as CUDA 12.0 has it. CUDA 13's headers name another function so, and which ones the
/// bindings are of is not chosen here.
fn prefetch_call() -> core::result::Result<Prefetch, DriverError> {
    static CALL: OnceLock<Prefetch> = OnceLock::new();
    if let Some(call) = CALL.get() {
        return Ok(*call);
    }
    let (mut found, version) = (core::ptr::null_mut(), 12_000);
    let mut status = sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    // SAFETY: the name is a string, and both results are written to places of their own.
    let asked = unsafe {
        sys::cuGetProcAddress_v2(c"cuMemPrefetchAsync".as_ptr(), &mut found, version, 0, &mut status)
    };
    asked.result()?;
    if found.is_null() {
        return Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND));
    }
    // SAFETY: the driver has this function at the address, with the signature of that version.
    let call = unsafe { core::mem::transmute::<*mut core::ffi::c_void, Prefetch>(found) };
    Ok(*CALL.get_or_init(|| call))
}

/// Returns whether the device can be asked to: others move all of it with each launch.
pub(crate) fn prefetches(stream: &CudaStream) -> bool {
    let asked = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS;
    stream.context().attribute(asked).is_ok_and(|answer| answer == 1)
}
