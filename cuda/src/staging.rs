//! Pinned host memory through which everything passes on its way to the device and back.

use crate::device::{Failure, Lasting};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, PinnedHostSlice, result};
use std::sync::Arc;

/// Two or more pinned buffers, used in turn: while one is being copied, the next is filled.
pub(crate) struct Staging {
    context: Arc<CudaContext>,
    bytes: usize,
    buffers: Vec<Buffer>,
    count: usize,
    next: usize,
}

struct Buffer {
    memory: PinnedHostSlice<u8>,
    /// The end of the last copy out of or into it.
    done: CudaEvent,
}

impl Staging {
    /// `count` buffers of `bytes` each, allocated when they are first used.
    pub(crate) fn new(context: Arc<CudaContext>, count: usize, bytes: usize) -> Staging {
        Staging { context, bytes, buffers: Vec::new(), count, next: 0 }
    }

    /// The buffer whose turn it is, free of copies.
    fn turn(&mut self) -> Lasting<&mut Buffer> {
        let place = self.next % self.count;
        if place == self.buffers.len() {
            // SAFETY: the memory is only read where it was written before.
            // No flags: write-combined memory would be slow to read.
            let memory = unsafe { self.context.alloc_pinned_with_flags(self.bytes, 0) };
            let memory = memory.map_err(Failure::at("allocating pinned memory"))?;
            let done = self.context.new_event(None).map_err(Failure::at("creating an event"))?;
            self.buffers.push(Buffer { memory, done });
        }
        self.next = place + 1;
        let buffer = &mut self.buffers[place];
        buffer.done.synchronize().map_err(Failure::at("waiting for a copy"))?;
        Ok(buffer)
    }

    /// Copies `values` to the device's `address`, in the order of `stream`. The values may change as soon as
    /// this returns.
    ///
    /// # Safety
    /// As many bytes at the address are allocated, and nobody uses them but in the order of the stream.
    pub(crate) unsafe fn upload(&mut self, stream: &CudaStream, address: u64, values: &[u8]) -> Lasting<()> {
        let mut offset = 0;
        for part in values.chunks(self.bytes) {
            let buffer = self.turn()?;
            let memory = buffer.memory.as_mut_slice().map_err(Failure::at("reaching pinned memory"))?;
            memory[..part.len()].copy_from_slice(part);
            // SAFETY: the caller's contract; the buffer is not touched again before `done`.
            let copied = unsafe {
                result::memcpy_htod_async(address + offset, &memory[..part.len()], stream.cu_stream())
            };
            copied.map_err(Failure::at("copying to the device"))?;
            buffer.done.record(stream).map_err(Failure::at("recording an event"))?;
            offset += part.len() as u64;
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
    ) -> Lasting<()> {
        // Copies that are under way: which buffer, and where its bytes belong.
        let mut pending: Option<(usize, core::ops::Range<usize>)> = None;
        let (bytes, total) = (self.bytes, values.len());
        for start in (0..total).step_by(bytes) {
            let part = start..total.min(start + bytes);
            let buffer = self.turn()?;
            let memory = buffer.memory.as_mut_slice().map_err(Failure::at("reaching pinned memory"))?;
            // SAFETY: the caller's contract; the buffer is not read before `done`.
            let copied = unsafe {
                let from = address + part.start as u64;
                result::memcpy_dtoh_async(&mut memory[..part.len()], from, stream.cu_stream())
            };
            copied.map_err(Failure::at("copying from the device"))?;
            buffer.done.record(stream).map_err(Failure::at("recording an event"))?;
            if let Some((place, before)) = pending.replace((self.next - 1, part)) {
                self.finish(place, &mut values[before])?;
            }
        }
        match pending {
            Some((place, part)) => self.finish(place, &mut values[part]),
            None => Ok(()),
        }
    }

    fn finish(&self, place: usize, values: &mut [u8]) -> Lasting<()> {
        let buffer = &self.buffers[place];
        buffer.done.synchronize().map_err(Failure::at("waiting for a copy"))?;
        let memory = buffer.memory.as_slice().map_err(Failure::at("reaching pinned memory"))?;
        values.copy_from_slice(&memory[..values.len()]);
        Ok(())
    }
}
