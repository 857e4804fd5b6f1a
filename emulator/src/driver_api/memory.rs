//! Memory: allocation, filling, information.

use std::ffi::c_int;

use super::{exported, give};
use crate::machine::fault::Status;
use crate::machine::memory::Owner;
use crate::machine::stream::Op;
use crate::machine::{Machine, Outcome, device};

fn fill(m: &mut Machine, to: u64, pattern: u32, width: usize, count: usize, stream: usize) -> Outcome<usize> {
    let stream = m.stream(stream, device()?)?;
    if count > 0 {
        let bytes = count.checked_mul(width).ok_or(Status::INVALID_VALUE)?;
        if !to.is_multiple_of(width as u64) || m.table.find(to, bytes).is_err() {
            return Err(Status::INVALID_VALUE);
        }
        m.push(stream, Op::Fill { to, pattern, width, count })?;
    }
    Ok(stream)
}

fn fill_now(m: &mut Machine, to: u64, pattern: u32, width: usize, count: usize) -> Outcome {
    m.refuse_in_capture()?;
    let stream = fill(m, to, pattern, width, count, 0)?;
    m.drain(stream, u64::MAX)
}

exported! {
    usual cuMemAlloc_v2(m, to: *mut u64, bytes: usize) {
        let owner = Owner::Device(device()?);
        if bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        m.refuse_in_capture()?;
        let base = m.allocate(bytes, owner)?;
        give(to, base)
    }
    usual cuMemAllocAsync(m, to: *mut u64, bytes: usize, stream: usize) {
        let owner = Owner::Device(device()?);
        let stream = m.stream(stream, device()?)?;
        if m.streams[&stream].capture.is_some() {
            return Err(Status::CAPTURE_UNSUPPORTED);
        }
        if bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let base = m.allocate(bytes, owner)?;
        give(to, base)
    }
    usual cuMemAllocManaged(m, to: *mut u64, bytes: usize, _flags: u32) {
        device()?;
        if bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let base = m.allocate(bytes, Owner::Managed)?;
        give(to, base)
    }
    usual cuMemHostAlloc(m, to: *mut u64, bytes: usize, _flags: u32) {
        device()?;
        let base = m.allocate(bytes, Owner::Pinned)?;
        give(to, base)
    }
    /// Waits for all work, as the real one does. After a fault memory is freed all the same, so that what is left
    /// over is a leak of the program.
    always cuMemFree_v2(m, base: u64) {
        if base == 0 {
            return Ok(());
        }
        m.refuse_in_capture()?;
        let done = m.drain_all(None);
        m.free(base)?;
        done
    }
    always cuMemFreeHost(m, base: u64) {
        let done = m.drain_all(None);
        m.free(base)?;
        done
    }
    always cuMemFreeAsync(m, base: u64, stream: usize) {
        if base == 0 {
            return Ok(());
        }
        let stream = m.stream(stream, device()?)?;
        m.table.starts_at(base).ok_or(Status::INVALID_VALUE)?;
        if let Some(status) = m.fault.as_ref().map(|fault| fault.status) {
            m.free(base)?;
            return Err(status);
        }
        m.push(stream, Op::Free(base))
    }
    usual cuMemGetInfo_v2(m, free: *mut usize, total: *mut usize) {
        let used = m.used[device()? as usize];
        give(free, m.config.memory.saturating_sub(used))?;
        give(total, m.config.memory)
    }
    usual cuMemsetD8_v2(m, to: u64, value: u8, n: usize) { fill_now(m, to, value.into(), 1, n) }
    usual cuMemsetD16_v2(m, to: u64, value: u16, n: usize) { fill_now(m, to, value.into(), 2, n) }
    usual cuMemsetD32_v2(m, to: u64, value: u32, n: usize) { fill_now(m, to, value, 4, n) }
    usual cuMemsetD8Async(m, to: u64, value: u8, n: usize, stream: usize) {
        fill(m, to, value.into(), 1, n, stream).map(|_| ())
    }
    usual cuMemsetD16Async(m, to: u64, value: u16, n: usize, stream: usize) {
        fill(m, to, value.into(), 2, n, stream).map(|_| ())
    }
    usual cuMemsetD32Async(m, to: u64, value: u32, n: usize, stream: usize) {
        fill(m, to, value, 4, n, stream).map(|_| ())
    }
    /// Where managed memory is makes no difference here.
    usual cuMemPrefetchAsync_v2(m, at: u64, bytes: usize, _location: u64, _flags: u32, stream: usize) {
        m.stream(stream, device()?)?;
        m.table.find(at, bytes).map(|_| ()).map_err(|_| Status::INVALID_VALUE)
    }
    /// The same as drivers before 12.2 had it.
    usual cuMemPrefetchAsync(m, at: u64, bytes: usize, _device: c_int, stream: usize) {
        m.stream(stream, device()?)?;
        m.table.find(at, bytes).map(|_| ()).map_err(|_| Status::INVALID_VALUE)
    }
    usual cuMemAdvise_v2(m, at: u64, bytes: usize, _advice: c_int, _location: u64) {
        m.table.find(at, bytes).map(|_| ()).map_err(|_| Status::INVALID_VALUE)
    }
    usual cuStreamAttachMemAsync(m, stream: usize, at: u64, _bytes: usize, _flags: u32) {
        m.stream(stream, device()?)?;
        m.table.starts_at(at).map(|_| ()).ok_or(Status::INVALID_VALUE)
    }
}
