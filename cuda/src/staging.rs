//! Pinned host memory through which everything passes on its way to the device and back.

use crate::context::{DriverResult, Failure};
use core::ptr::NonNull;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, PinnedHostSlice, result};
use std::sync::Arc;

/// Two or more pinned buffers, used alternately (double buffering): while one is being copied, the next is filled.
/// Small copies are side by side in a buffer. So the host waits only where all buffers are full of pending copies.
pub(crate) struct Staging {
    context: Arc<CudaContext>,
    bytes: usize,
    buffers: Vec<Buffer>,
    count: usize,
    /// The buffer that is being filled, and how far.
    current: usize,
    used: usize,
}

/// What is brought to the device: where to, and the bytes.
pub(crate) type Upload = (u64, Vec<u8>);

/// Parts of a buffer start at multiples of this.
const ALIGNMENT: usize = 16;

struct Buffer {
    /// Where its bytes are: the owner's own methods wait for an event of its.
    at: NonNull<u8>,
    _owner: PinnedHostSlice<u8>,
    /// The end of the last copy out of or into it.
    done: CudaEvent,
}

// SAFETY: the address is that of memory that the buffer owns.
unsafe impl Send for Buffer {}

impl Buffer {
    /// Returns `length` bytes from `start` on.
    ///
    /// # Safety
    /// The buffer has as many, and no copy of them is under way.
    unsafe fn part(&mut self, start: usize, length: usize) -> &mut [u8] {
        // SAFETY: the caller's contract; all bytes were written when the buffer was made.
        unsafe { core::slice::from_raw_parts_mut(self.at.as_ptr().add(start), length) }
    }
}

impl Staging {
    /// Makes `count` buffers of `bytes` each, allocated when they are first used.
    pub(crate) fn new(context: Arc<CudaContext>, count: usize, bytes: usize) -> Staging {
        Staging { context, bytes, buffers: Vec::new(), count, current: 0, used: bytes }
    }

    /// Returns room for some of `bytes`, free of copies: where it starts in the current buffer, and how much it is.
    fn room(&mut self, bytes: usize) -> DriverResult<(usize, usize)> {
        if self.used >= self.bytes {
            let place = if self.buffers.is_empty() { 0 } else { (self.current + 1) % self.count };
            if place == self.buffers.len() {
                // SAFETY: it is written at once, before anything reads it.
                // No flags: write-combined memory would be slow to read.
                let memory = unsafe { self.context.alloc_pinned_with_flags::<u8>(self.bytes, 0) };
                let mut memory = memory.map_err(Failure::at("allocating pinned memory"))?;
                let at = memory.as_mut_ptr().map_err(Failure::at("reaching pinned memory"))?;
                let at = NonNull::new(at).expect("the driver gives memory");
                // SAFETY: it has as many bytes.
                unsafe { at.write_bytes(0, self.bytes) };
                let done = self.context.new_event(None).map_err(Failure::at("creating an event"))?;
                self.buffers.push(Buffer { at, _owner: memory, done });
            } else {
                self.buffers[place].done.synchronize().map_err(Failure::at("waiting for a copy"))?;
            }
            (self.current, self.used) = (place, 0);
        }
        let start = self.used;
        let length = bytes.min(self.bytes - start);
        self.used = (start + length).next_multiple_of(ALIGNMENT);
        Ok((start, length))
    }

    /// Copies `values` to the device's `address`, in the order of `stream`. The values may change as soon as
    /// this returns.
    ///
    /// # Safety
    /// As many bytes at the address are allocated, and nobody uses them but in the order of the stream.
    pub(crate) unsafe fn upload(
        &mut self,
        stream: &CudaStream,
        address: u64,
        values: &[u8],
    ) -> DriverResult<()> {
        let mut offset = 0;
        while offset < values.len() {
            let (start, length) = self.room(values.len() - offset)?;
            let buffer = &mut self.buffers[self.current];
            // SAFETY: `room` gave this part.
            let part = unsafe { buffer.part(start, length) };
            part.copy_from_slice(&values[offset..offset + length]);
            // SAFETY: the caller's contract; this part of the buffer is not touched again before `done`.
            let copied =
                unsafe { result::memcpy_htod_async(address + offset as u64, part, stream.cu_stream()) };
            copied.map_err(Failure::at("copying to the device"))?;
            buffer.done.record(stream).map_err(Failure::at("recording an event"))?;
            offset += length;
        }
        Ok(())
    }

    /// Copies the device's `address` to `values`, in the order of `stream`, and waits for it.
    ///
    /// # Safety
    /// As many bytes at the address are allocated, and nobody writes them but in the order of the stream.
    pub(crate) unsafe fn download(
        &mut self,
        stream: &CudaStream,
        address: u64,
        values: &mut [u8],
    ) -> DriverResult<()> {
        // The copy that is under way: where it is, and where its bytes belong.
        let mut pending: Option<(usize, usize, core::ops::Range<usize>)> = None;
        let mut offset = 0;
        while offset < values.len() {
            let (start, length) = self.room(values.len() - offset)?;
            let buffer = &mut self.buffers[self.current];
            // SAFETY: `room` gave this part.
            let part = unsafe { buffer.part(start, length) };
            // SAFETY: the caller's contract; this part of the buffer is not read before `done`.
            let copied =
                unsafe { result::memcpy_dtoh_async(part, address + offset as u64, stream.cu_stream()) };
            copied.map_err(Failure::at("copying from the device"))?;
            buffer.done.record(stream).map_err(Failure::at("recording an event"))?;
            let next = (self.current, start, offset..offset + length);
            offset += length;
            if let Some((place, start, before)) = pending.replace(next) {
                self.finish(place, start, &mut values[before])?;
            }
        }
        match pending {
            Some((place, start, part)) => self.finish(place, start, &mut values[part]),
            None => Ok(()),
        }
    }

    fn finish(&mut self, place: usize, start: usize, values: &mut [u8]) -> DriverResult<()> {
        let buffer = &mut self.buffers[place];
        buffer.done.synchronize().map_err(Failure::at("waiting for a copy"))?;
        // SAFETY: `room` gave this part, and the copy into it is done.
        values.copy_from_slice(unsafe { buffer.part(start, values.len()) });
        Ok(())
    }
}
