//! Asynchronous copies (CPU offload): two streams, one for each direction, and pinned memory.

use crate::context::{Failure, TransferStreams};
use crate::state::State;
use core::fmt;
use core::ptr::NonNull;
use cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result};
use fallline_core::backend::View;
use fallline_core::host::{Blocks, BlocksMut, Slice, SliceMut};
use fallline_core::private::Sealed;
use fallline_core::transfer::{AsyncCopy, Transfers, fit};
use fallline_core::{Element, Error, Format, Memory, Result, Storage, bf16, f16};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Pinned memory that a storage lies in.
struct Pinned {
    at: NonNull<u8>,
    format: Format,
    len: usize,
    _owner: PinnedHostSlice<u8>,
}

// SAFETY: the address is that of memory which the storage owns and hands out as any owner does.
unsafe impl Send for Pinned {}
// SAFETY: as above; shared, it is only read.
unsafe impl Sync for Pinned {}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({:?}, {} of {})", self.at, self.len, self.format)
    }
}

impl Pinned {
    fn slice<T: Element>(&self) -> &[T] {
        // SAFETY: it has as many elements, which any bytes are, and pages are aligned for them.
        unsafe { core::slice::from_raw_parts(self.at.as_ptr().cast(), self.len) }
    }

    fn slice_mut<T: Element>(&mut self) -> &mut [T] {
        // SAFETY: as above; the memory is borrowed mutably.
        unsafe { core::slice::from_raw_parts_mut(self.at.as_ptr().cast(), self.len) }
    }
}

impl Sealed for Pinned {}

impl Memory for Pinned {
    fn address(&self) -> usize {
        self.at.as_ptr().expose_provenance()
    }

    fn scales(&self) -> usize {
        0
    }

    fn host(&self) -> Option<Slice<'_>> {
        Some(match self.format {
            Format::F64 => Slice::F64(self.slice()),
            Format::F32 => Slice::F32(self.slice()),
            Format::Bf16 => Slice::Bf16(self.slice::<bf16>()),
            Format::F16 => Slice::F16(self.slice::<f16>()),
            _ => return None,
        })
    }

    fn host_mut(&mut self) -> Option<SliceMut<'_>> {
        Some(match self.format {
            Format::F64 => SliceMut::F64(self.slice_mut()),
            Format::F32 => SliceMut::F32(self.slice_mut()),
            Format::Bf16 => SliceMut::Bf16(self.slice_mut::<bf16>()),
            Format::F16 => SliceMut::F16(self.slice_mut::<f16>()),
            _ => return None,
        })
    }

    fn blocks(&self) -> Option<Blocks<'_>> {
        None
    }

    fn blocks_mut(&mut self) -> Option<BlocksMut<'_>> {
        None
    }
}

/// Allocates pinned memory of zeros.
pub(crate) fn allocate(state: &mut State, format: Format, len: usize) -> Result<Storage> {
    state.enter("an allocation")?;
    let device = state.ctx.device;
    if format.block().is_some() {
        let (what, expected) = ("memory for transfers".to_owned(), "f64, f32, bf16 or f16".to_owned());
        return Err(Error::Format { operation: "allocate", what, expected, got: format });
    }
    let bytes = format.bytes().checked_mul(len).filter(|&bytes| bytes < isize::MAX as usize);
    let bytes = bytes.ok_or(Error::OutOfMemory { device, bytes: usize::MAX })?.max(1);
    // SAFETY: it is written at once, before anything reads it. No flags: write-combined memory would be slow to read.
    let memory = unsafe { state.ctx.cuda.alloc_pinned_with_flags::<u8>(bytes, 0) };
    let mut memory = match memory {
        Ok(memory) => memory,
        Err(cause) if cause.0 == cudarc::driver::sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
            return Err(Error::OutOfMemory { device, bytes });
        }
        Err(cause) => return Err(state.ctx.error(Failure::at("allocating pinned memory")(cause), false)),
    };
    let at = memory.as_mut_ptr().map_err(Failure::at("reaching pinned memory"));
    let at = NonNull::new(at.map_err(|failure| state.ctx.error(failure, false))?)
        .expect("the driver gives memory");
    // SAFETY: it has as many bytes.
    unsafe { at.write_bytes(0, bytes) };
    Ok(Storage::new(format, len, Box::new(Pinned { at, format, len, _owner: memory })))
}

/// A copy, with the host's memory.
struct PendingCopy {
    state: Arc<Mutex<State>>,
    done: CudaEvent,
    storage: Option<Storage>,
}

impl fmt::Debug for PendingCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PendingCopy({:?})", self.storage)
    }
}

impl AsyncCopy for PendingCopy {
    fn wait(mut self: Box<Self>) -> Result<Storage> {
        if let Err(cause) = self.done.synchronize() {
            return Err(lock(&self.state).ctx.error(Failure::at("waiting for a copy")(cause), true));
        }
        Ok(self.storage.take().expect("it is finished once"))
    }
}

impl Drop for PendingCopy {
    fn drop(&mut self) {
        if self.storage.is_some() && self.done.synchronize().is_err() {
            // Nobody knows what becomes of the copy: its memory is not given back.
            core::mem::forget(self.storage.take());
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// See [`Transfers`]. When it ends, the device's other work comes after its copies.
struct Session<'c> {
    state: &'c Arc<Mutex<State>>,
    streams: TransferStreams,
    ended: bool,
}

/// Lets `work` copy.
pub(crate) fn run<'s>(
    state: &Arc<Mutex<State>>,
    work: &mut dyn FnMut(&mut dyn Transfers<'s>) -> Result<()>,
) -> Result<()> {
    let streams = {
        let mut state = lock(state);
        state.enter("a transfer")?;
        let streams = state.ctx.begin_transfer();
        streams.map_err(|failure| state.ctx.error(failure, false))?
    };
    let mut session = Session { state, streams, ended: false };
    let worked = work(&mut session);
    let ended = session.end();
    worked.and(ended)
}

impl Session<'_> {
    fn end(&mut self) -> Result<()> {
        self.ended = true;
        let mut state = lock(self.state);
        state.enter("the end of a transfer")?;
        for stream in [&self.streams.down, &self.streams.up] {
            let joined = state.ctx.compute.join(stream).map_err(Failure::at("ordering streams"));
            joined.map_err(|failure| state.ctx.error(failure, true))?;
        }
        Ok(())
    }

    /// Queues a copy for each view, and what tells their end.
    fn queue(
        &mut self,
        stream: &Arc<CudaStream>,
        views: Vec<View<'_>>,
        mut storage: Storage,
        copy: impl Fn(&mut [u8], u64) -> core::result::Result<(), cudarc::driver::DriverError>,
        write: bool,
    ) -> Result<Box<dyn AsyncCopy>> {
        let operation = if write { "send" } else { "fetch" };
        fit(operation, &views, &storage, write)?;
        let mut state = lock(self.state);
        let device = state.ctx.device;
        if let Some(view) = views.iter().find(|view| view.on_host()) {
            let what = format!("a view of {} elements on the host", view.len());
            return Err(Error::Unreachable { operation, what, device });
        }
        state.enter("a copy")?;
        let done = state.ctx.cuda.new_event(None).map_err(Failure::at("creating an event"));
        let done = done.map_err(|failure| state.ctx.error(failure, false))?;
        let Some(mut values) = storage.memory_mut().host_mut() else {
            return Err(Error::Unreachable { operation, what: "the memory of the host".into(), device });
        };
        let (bytes, mut start, mut queued) = (values.bytes_mut(), 0, Ok(()));
        for view in views.iter().filter(|view| !view.is_empty()) {
            let length = view.format().bytes() * view.len();
            queued = queued.and_then(|()| copy(&mut bytes[start..start + length], view.address() as u64));
            start += length;
        }
        let queued = queued.and_then(|()| done.record(stream)).map_err(Failure::at("copying"));
        if let Err(failure) = queued {
            // Some may be under way: their memory is not given back before they are done.
            if stream.synchronize().is_err() {
                core::mem::forget(storage);
            }
            return Err(state.ctx.error(failure, write));
        }
        drop(state);
        Ok(Box::new(PendingCopy { state: Arc::clone(self.state), done, storage: Some(storage) }))
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // `work` panicked. What is lost is told by whatever is called next.
            self.end().ok();
        }
    }
}

impl<'s> Transfers<'s> for Session<'_> {
    fn d2h(&mut self, from: Vec<View<'s>>, to: Storage) -> Result<Box<dyn AsyncCopy>> {
        let stream = Arc::clone(&self.streams.down);
        let handle = stream.cu_stream();
        // SAFETY: the view is as long and borrowed for longer than the session, at whose end all other work waits for
        // the copy. The host's memory belongs to the copy until it is done.
        let copy = |bytes: &mut [u8], address| unsafe { result::memcpy_dtoh_async(bytes, address, handle) };
        self.queue(&stream, from, to, copy, false)
    }

    fn h2d(&mut self, from: Storage, to: Vec<View<'s>>) -> Result<Box<dyn AsyncCopy>> {
        let stream = Arc::clone(&self.streams.up);
        let handle = stream.cu_stream();
        // SAFETY: as above; the view is borrowed mutably.
        let copy = |bytes: &mut [u8], address| unsafe { result::memcpy_htod_async(address, bytes, handle) };
        self.queue(&stream, to, from, copy, true)
    }
}
