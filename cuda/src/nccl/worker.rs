//! The thread that calls NCCL, on the backend's stream.

use super::ffi::{Comm, NcclId, check};
use crate::Cuda;
use crate::context::explain;
use core::ffi::c_void;
use cudarc::nccl::sys::{self, ncclComm_t, ncclDataType_t, ncclResult_t};
use fallline_core::ranks::{RankError, receive};
use fallline_core::{Error, Result};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The thread of one rank, and what it is asked through.
pub(super) struct Worker {
    rank: usize,
    limit: Duration,
    jobs: Mutex<Jobs>,
    comm: Comm,
}

struct Jobs {
    to: Sender<(Job, Sender<Result<(), String>>)>,
    /// Why no more are taken.
    broken: Option<String>,
}

/// What the thread is asked to do: addresses of the device, and bytes.
pub(super) enum Job {
    AllToAll { from: u64, to: u64, piece: usize },
    AllGather { from: u64, to: u64, bytes: usize },
    Broadcast { at: u64, bytes: usize, root: usize },
}

impl Worker {
    /// Joins the world of an id, in a separate thread.
    pub(super) fn start(
        backend: &Arc<Cuda>,
        id: NcclId,
        (rank, world): (usize, usize),
        limit: Duration,
    ) -> Result<Worker> {
        let (to, jobs) = channel();
        let (started, start) = channel();
        let device = Arc::clone(backend);
        let work = move || {
            let begun = begin(&device, id, rank, world);
            let comm = begun.as_ref().ok().copied();
            if started.send(begun).is_ok()
                && let Some(comm) = comm
            {
                serve(&device, comm, world, &jobs);
            }
        };
        let spawned = thread::Builder::new().name("nccl".into()).spawn(work);
        spawned.map_err(|error| Error::Unavailable(format!("no thread for NCCL: {error}")))?;
        match receive(&start, limit) {
            Ok(Ok(comm)) => {
                let jobs = Mutex::new(Jobs { to, broken: None });
                Ok(Worker { rank, limit, jobs, comm })
            }
            Ok(Err(problem)) => Err(Error::Unavailable(problem)),
            Err(_) => {
                let (operation, missing) = ("starting NCCL", Vec::new());
                Err(RankError::TimedOut { rank, operation, limit, missing }.into())
            }
        }
    }

    /// Has a job done, and waits for it no longer than the limit.
    pub(super) fn ask(&self, operation: &'static str, job: Job) -> Result<(), RankError> {
        let rank = self.rank;
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cause) = &jobs.broken {
            return Err(RankError::Broken { rank, operation, cause: cause.clone() });
        }
        let (to, answer) = channel();
        let ended = || RankError::Failed { rank, problem: "the thread that calls NCCL has ended".into() };
        let error = match jobs.to.send((job, to)) {
            Err(_) => ended(),
            Ok(()) => match receive(&answer, self.limit) {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(problem)) => RankError::Failed { rank, problem },
                Err(RecvTimeoutError::Disconnected) => ended(),
                Err(RecvTimeoutError::Timeout) => {
                    // SAFETY: the communicator is alive; breaking off is what other threads may do.
                    unsafe { sys::ncclCommAbort(self.comm.0) };
                    // The memory is somebody else's again when this returns: not before the thread is done with it.
                    answer.recv().ok();
                    RankError::TimedOut { rank, operation, limit: self.limit, missing: Vec::new() }
                }
            },
        };
        jobs.broken = Some(error.to_string());
        Err(error)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // After a failure the communicator is abandoned: taking it apart would wait for the other ranks.
        let jobs = self.jobs.get_mut().unwrap_or_else(PoisonError::into_inner);
        if jobs.broken.is_none() {
            // SAFETY: the thread is idle, since every exchange was waited for.
            unsafe { sys::ncclCommDestroy(self.comm.0) };
        }
    }
}

/// Joins the world, on this thread.
fn begin(backend: &Cuda, id: NcclId, rank: usize, world: usize) -> Result<Comm, String> {
    let bound = backend.state().ctx.cuda.bind_to_thread();
    bound.map_err(explain)?;
    let id = sys::ncclUniqueId { internal: id.bytes().map(|byte| byte as core::ffi::c_char) };
    let mut comm: ncclComm_t = core::ptr::null_mut();
    // SAFETY: a place for the communicator; the device is this thread's.
    check(unsafe { sys::ncclCommInitRank(&mut comm, world as i32, id, rank as i32) })?;
    Ok(Comm(comm))
}

/// Does what is asked until the end.
fn serve(backend: &Cuda, comm: Comm, world: usize, jobs: &Receiver<(Job, Sender<Result<(), String>>)>) {
    while let Ok((job, answer)) = jobs.recv() {
        let done = exchange(backend, comm, world, &job);
        let failed = done.is_err();
        if answer.send(done).is_err() || failed {
            return;
        }
    }
}

/// Runs an exchange in the order of the backend's stream, waited for.
fn exchange(backend: &Cuda, comm: Comm, world: usize, job: &Job) -> Result<(), String> {
    let stream = backend.stream();
    let on = stream.cu_stream().cast();
    let byte = ncclDataType_t::ncclUint8;
    let pointer = |address: u64| address as usize as *mut c_void;
    match *job {
        Job::AllToAll { from, to, piece } => {
            // SAFETY: addresses of the device with a piece for each rank, which whoever asks keeps alive until the answer.
            unsafe {
                check(sys::ncclGroupStart())?;
                for rank in 0..world {
                    let at = (rank * piece) as u64;
                    check(sys::ncclSend(pointer(from + at), piece, byte, rank as i32, comm.0, on))?;
                    check(sys::ncclRecv(pointer(to + at), piece, byte, rank as i32, comm.0, on))?;
                }
                check(sys::ncclGroupEnd())?;
            }
        }
        Job::AllGather { from, to, bytes } => {
            // SAFETY: as above.
            check(unsafe { sys::ncclAllGather(pointer(from), pointer(to), bytes, byte, comm.0, on) })?;
        }
        Job::Broadcast { at, bytes, root } => {
            let at = pointer(at);
            // SAFETY: as above.
            check(unsafe { sys::ncclBroadcast(at, at, bytes, byte, root as i32, comm.0, on) })?;
        }
    }
    stream.synchronize().map_err(explain)?;
    let mut found = ncclResult_t::ncclSuccess;
    // SAFETY: a place for the result.
    check(unsafe { sys::ncclCommGetAsyncError(comm.0, &mut found) })?;
    check(found)
}
