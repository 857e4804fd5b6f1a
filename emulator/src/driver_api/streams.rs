//! Streams, events, captures and graphs.

use std::collections::BTreeSet;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

use super::{exported, give};
use crate::machine::fault::Status;
use crate::machine::stream::{Capture, Event, Op, Stream};
use crate::machine::{Machine, Outcome, device};

fn create(m: &mut Machine, to: *mut usize, flags: u32) -> Outcome {
    let stream = Stream::new(device()?, flags & 1 == 0);
    let handle = m.handle();
    m.streams.insert(handle, stream);
    give(to, handle)
}

fn record(m: &mut Machine, event: usize, stream: usize) -> Outcome {
    let stream = m.stream(stream, device()?)?;
    let capture = m.streams[&stream].capture;
    let next = m.sequence + 1;
    let e = m.events.get_mut(&event).ok_or(Status::INVALID_HANDLE)?;
    (e.capture, e.done) = (capture, None);
    if capture.is_some() {
        e.recorded = Some((stream, 0));
        return Ok(());
    }
    e.recorded = Some((stream, next));
    m.push(stream, Op::Record { event, sequence: next })
}

/// Lets a stream wait for the place of an event. A stream that waits for an event of a capture joins it.
fn wait(m: &mut Machine, stream: usize, event: usize) -> Outcome {
    let stream = m.stream(stream, device()?)?;
    let e = m.events.get(&event).ok_or(Status::INVALID_HANDLE)?;
    let Some((source, sequence)) = e.recorded else { return Ok(()) };
    let (theirs, ours) = (e.capture, m.streams[&stream].capture);
    match (theirs, ours) {
        (None, None) => m.push(stream, Op::Wait { stream: source, sequence }),
        (None, Some(_)) => Err(Status::CAPTURE_ISOLATION),
        (Some(theirs), ours) if ours.is_none_or(|ours| ours == theirs) => {
            let capture = m.captures.get_mut(&theirs).ok_or(Status::CAPTURED_EVENT)?;
            if stream == capture.origin {
                capture.unjoined.remove(&source);
            } else {
                capture.unjoined.insert(stream);
            }
            m.streams.get_mut(&stream).ok_or(Status::INVALID_HANDLE)?.capture = Some(theirs);
            Ok(())
        }
        _ => Err(Status::CAPTURE_ISOLATION),
    }
}

/// Refuses work in a capture.
fn free_of_capture(m: &mut Machine, stream: usize) -> Outcome {
    let Some(id) = m.streams[&stream].capture else { return Ok(()) };
    if let Some(capture) = m.captures.get_mut(&id) {
        capture.broken = true;
    }
    Err(Status::CAPTURE_UNSUPPORTED)
}

exported! {
    usual cuStreamCreate(m, to: *mut usize, flags: u32) { create(m, to, flags) }
    usual cuStreamCreateWithPriority(m, to: *mut usize, flags: u32, _priority: c_int) { create(m, to, flags) }
    /// Its work is still done.
    usual cuStreamDestroy_v2(m, stream: usize) {
        if stream <= 2 {
            return Err(Status::INVALID_HANDLE);
        }
        let key = m.stream(stream, 0)?;
        let done = m.drain(key, u64::MAX);
        m.streams.remove(&key);
        done
    }
    usual cuStreamSynchronize(m, stream: usize) {
        let stream = m.stream(stream, device()?)?;
        free_of_capture(m, stream)?;
        m.drain(stream, u64::MAX)
    }
    /// Nothing runs unasked where streams are lazy, so that a loop around this call must move it.
    usual cuStreamQuery(m, stream: usize) {
        let stream = m.stream(stream, device()?)?;
        free_of_capture(m, stream)?;
        if m.streams[&stream].is_idle() {
            return Ok(());
        }
        m.drain(stream, u64::MAX)?;
        Err(Status::NOT_READY)
    }
    usual cuStreamWaitEvent(m, stream: usize, event: usize, _flags: u32) { wait(m, stream, event) }
    usual cuLaunchHostFunc(m, stream: usize, function: Option<unsafe extern "C" fn(*mut c_void)>, data: usize) {
        let stream = m.stream(stream, device()?)?;
        let function = function.ok_or(Status::INVALID_VALUE)?;
        m.push(stream, Op::Host(function, data))
    }
    usual cuEventCreate(m, to: *mut usize, _flags: u32) {
        device()?;
        let handle = m.handle();
        m.events.insert(handle, Event::default());
        give(to, handle)
    }
    usual cuEventDestroy_v2(m, event: usize) { m.events.remove(&event).map(|_| ()).ok_or(Status::INVALID_HANDLE) }
    usual cuEventRecord(m, event: usize, stream: usize) { record(m, event, stream) }
    usual cuEventRecordWithFlags(m, event: usize, stream: usize, _flags: u32) { record(m, event, stream) }
    usual cuEventSynchronize(m, event: usize) {
        let e = m.events.get(&event).ok_or(Status::INVALID_HANDLE)?;
        match (e.capture, e.recorded) {
            (Some(_), _) => Err(Status::CAPTURED_EVENT),
            (None, None) => Ok(()),
            (None, Some((stream, sequence))) => m.drain(stream, sequence),
        }
    }
    usual cuEventQuery(m, event: usize) {
        let e = m.events.get(&event).ok_or(Status::INVALID_HANDLE)?;
        match (e.capture, e.recorded, e.done) {
            (Some(_), ..) => Err(Status::CAPTURED_EVENT),
            (None, None, _) | (None, _, Some(_)) => Ok(()),
            (None, Some((stream, sequence)), None) => {
                m.drain(stream, sequence)?;
                Err(Status::NOT_READY)
            }
        }
    }
    usual cuEventElapsedTime_v2(m, ms: *mut f32, start: usize, end: usize) { elapsed(m, ms, start, end) }
    usual cuEventElapsedTime(m, ms: *mut f32, start: usize, end: usize) { elapsed(m, ms, start, end) }
    usual cuStreamBeginCapture_v2(m, stream: usize, mode: c_int) {
        let stream = m.stream(stream, device()?)?;
        if stream == device()? as usize {
            return Err(Status::CAPTURE_UNSUPPORTED);
        }
        if m.streams[&stream].capture.is_some() {
            return Err(Status::ILLEGAL_STATE);
        }
        let id = m.handle();
        let capture =
            Capture { origin: stream, relaxed: mode == 2, ops: vec![], unjoined: BTreeSet::new(), broken: false };
        m.captures.insert(id, capture);
        m.streams.get_mut(&stream).ok_or(Status::INVALID_HANDLE)?.capture = Some(id);
        Ok(())
    }
    usual cuStreamEndCapture(m, stream: usize, to: *mut usize) {
        let stream = m.stream(stream, device()?)?;
        let id = m.streams[&stream].capture.ok_or(Status::ILLEGAL_STATE)?;
        if m.captures.get(&id).is_some_and(|c| c.origin != stream) {
            return Err(Status::CAPTURE_UNJOINED);
        }
        let capture = m.captures.remove(&id).ok_or(Status::ILLEGAL_STATE)?;
        for stream in m.streams.values_mut().filter(|s| s.capture == Some(id)) {
            stream.capture = None;
        }
        if capture.broken {
            give(to, 0)?;
            return Err(Status::CAPTURE_INVALIDATED);
        }
        if !capture.unjoined.is_empty() {
            give(to, 0)?;
            return Err(Status::CAPTURE_UNJOINED);
        }
        let handle = m.handle();
        m.graphs.insert(handle, Arc::new(capture.ops));
        give(to, handle)
    }
    usual cuStreamIsCapturing(m, stream: usize, to: *mut c_int) {
        let stream = m.stream(stream, device()?)?;
        give(to, match m.streams[&stream].capture.map(|id| m.captures.get(&id).is_some_and(|c| c.broken)) {
            None => 0,
            Some(false) => 1,
            Some(true) => 2,
        })
    }
    usual cuGraphInstantiateWithFlags(m, to: *mut usize, graph: usize, _flags: u64) {
        let ops = m.graphs.get(&graph).ok_or(Status::INVALID_HANDLE)?.clone();
        let handle = m.handle();
        m.graphs.insert(handle, ops);
        give(to, handle)
    }
    usual cuGraphUpload(m, graph: usize, stream: usize) {
        m.stream(stream, device()?)?;
        m.graphs.get(&graph).map(|_| ()).ok_or(Status::INVALID_HANDLE)
    }
    usual cuGraphLaunch(m, graph: usize, stream: usize) {
        let stream = m.stream(stream, device()?)?;
        let ops = m.graphs.get(&graph).ok_or(Status::INVALID_HANDLE)?.clone();
        m.push(stream, Op::Graph(ops))
    }
    usual cuGraphExecDestroy(m, graph: usize) { m.graphs.remove(&graph).map(|_| ()).ok_or(Status::INVALID_HANDLE) }
    usual cuGraphDestroy(m, graph: usize) { m.graphs.remove(&graph).map(|_| ()).ok_or(Status::INVALID_HANDLE) }
}

fn elapsed(m: &mut Machine, ms: *mut f32, start: usize, end: usize) -> Outcome {
    let time = |event| m.events.get(&event).ok_or(Status::INVALID_HANDLE).map(|e| e.done);
    match (time(start)?, time(end)?) {
        (Some(start), Some(end)) => give(ms, end.saturating_duration_since(start).as_secs_f32() * 1e3),
        _ => Err(Status::NOT_READY),
    }
}
