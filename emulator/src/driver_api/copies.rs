//! Copies. From and to page-locked memory they happen when the stream reaches them. Pageable memory is read at the
//! call, and written before the call returns.

use std::sync::Arc;

use super::exported;
use crate::machine::fault::Status;
use crate::machine::memory::Owner;
use crate::machine::stream::Op;
use crate::machine::{Machine, Outcome, device};

/// Returns whether the driver knows this memory of the host.
fn pinned(m: &Machine, address: u64) -> bool {
    m.table.containing(address).is_some_and(|a| matches!(a.owner, Owner::Pinned | Owner::Managed))
}

fn whole(m: &mut Machine, address: u64, n: usize) -> Outcome {
    m.table.find(address, n).map(|_| ()).map_err(|_| Status::INVALID_VALUE)
}

fn up(m: &mut Machine, to: u64, from: u64, n: usize, stream: usize) -> Outcome<usize> {
    let stream = m.stream(stream, device()?)?;
    if n == 0 {
        return Ok(stream);
    }
    whole(m, to, n)?;
    if pinned(m, from) {
        whole(m, from, n)?;
        m.push(stream, Op::Copy { to, from, len: n })?;
    } else if m.streams[&stream].capture.is_some() {
        return Err(Status::CAPTURE_UNSUPPORTED);
    } else if from == 0 {
        return Err(Status::INVALID_VALUE);
    } else {
        // SAFETY: the caller promises `n` bytes of the host there.
        let bytes = unsafe { std::slice::from_raw_parts(from as *const u8, n) }.to_vec();
        m.push(stream, Op::Write { to, bytes: Arc::new(bytes) })?;
    }
    Ok(stream)
}

fn down(m: &mut Machine, to: u64, from: u64, n: usize, stream: usize) -> Outcome<usize> {
    let stream = m.stream(stream, device()?)?;
    if n == 0 {
        return Ok(stream);
    }
    whole(m, from, n)?;
    if pinned(m, to) {
        whole(m, to, n)?;
        m.push(stream, Op::Copy { to, from, len: n })?;
        return Ok(stream);
    }
    if m.streams[&stream].capture.is_some() {
        return Err(Status::CAPTURE_UNSUPPORTED);
    }
    if to == 0 {
        return Err(Status::INVALID_VALUE);
    }
    if stream == device()? as usize {
        // The default stream waits for the others even if nothing is queued on it.
        m.push(stream, Op::Fill { to: from, pattern: 0, width: 1, count: 0 })?;
    }
    m.drain(stream, u64::MAX)?;
    let bytes = m.table.read(from, n).map_err(|fault| m.keep(fault))?;
    // SAFETY: the caller promises `n` bytes of the host there, and `bytes` has as many.
    unsafe { (to as *mut u8).copy_from(bytes.as_ptr(), n) };
    Ok(stream)
}

fn across(m: &mut Machine, to: u64, from: u64, n: usize, stream: usize) -> Outcome<usize> {
    let stream = m.stream(stream, device()?)?;
    if n > 0 {
        whole(m, to, n)?;
        whole(m, from, n)?;
        m.push(stream, Op::Copy { to, from, len: n })?;
    }
    Ok(stream)
}

fn now(m: &mut Machine, stream: Outcome<usize>) -> Outcome {
    m.drain(stream?, u64::MAX)
}

exported! {
    usual cuMemcpyHtoD_v2(m, to: u64, from: u64, n: usize) {
        m.refuse_in_capture()?;
        let stream = up(m, to, from, n, 0);
        now(m, stream)
    }
    usual cuMemcpyHtoDAsync_v2(m, to: u64, from: u64, n: usize, stream: usize) { up(m, to, from, n, stream).map(|_| ()) }
    usual cuMemcpyDtoH_v2(m, to: u64, from: u64, n: usize) {
        m.refuse_in_capture()?;
        let stream = down(m, to, from, n, 0);
        now(m, stream)
    }
    usual cuMemcpyDtoHAsync_v2(m, to: u64, from: u64, n: usize, stream: usize) {
        down(m, to, from, n, stream).map(|_| ())
    }
    usual cuMemcpyDtoD_v2(m, to: u64, from: u64, n: usize) {
        m.refuse_in_capture()?;
        let stream = across(m, to, from, n, 0);
        now(m, stream)
    }
    usual cuMemcpyDtoDAsync_v2(m, to: u64, from: u64, n: usize, stream: usize) {
        across(m, to, from, n, stream).map(|_| ())
    }
    usual cuMemcpyAsync(m, to: u64, from: u64, n: usize, stream: usize) {
        across(m, to, from, n, stream).map(|_| ())
    }
    usual cuMemcpyPeerAsync(m, to: u64, _target: usize, from: u64, _source: usize, n: usize, stream: usize) {
        across(m, to, from, n, stream).map(|_| ())
    }
}
