//! Streams, events and graphs: what work waits for what.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::fault::{Fault, Status};
use super::{Function, Machine, Outcome};
use crate::exec::gemm::Gemm;
use crate::exec::{self, Launch};

/// Work on a stream.
#[derive(Clone)]
pub enum Op {
    Launch(Arc<Work>),
    Copy {
        to: u64,
        from: u64,
        len: usize,
    },
    Write {
        to: u64,
        bytes: Arc<Vec<u8>>,
    },
    Fill {
        to: u64,
        pattern: u32,
        width: usize,
        count: usize,
    },
    Free(u64),
    Record {
        event: usize,
        sequence: u64,
    },
    /// Wait until `stream` has done what it was given up to `sequence`.
    Wait {
        stream: usize,
        sequence: u64,
    },
    /// A function of the host and its argument.
    Host(unsafe extern "C" fn(*mut std::ffi::c_void), usize),
    Gemm(Arc<Gemm>),
    Graph(Arc<Vec<Op>>),
}

/// A kernel with its arguments.
pub struct Work {
    pub function: Function,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: usize,
    pub params: Vec<u8>,
}

/// A stream.
pub struct Stream {
    pub device: u32,
    /// Whether it waits for the default stream, and that for it.
    pub blocking: bool,
    queue: VecDeque<(u64, Op)>,
    pub capture: Option<usize>,
}

impl Stream {
    pub fn new(device: u32, blocking: bool) -> Stream {
        Stream { device, blocking, queue: VecDeque::new(), capture: None }
    }

    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    pub fn clear(&mut self) {
        self.queue.clear();
        self.capture = None;
    }
}

/// An event: the place in a stream where it was last recorded.
#[derive(Default)]
pub struct Event {
    pub recorded: Option<(usize, u64)>,
    pub done: Option<Instant>,
    pub capture: Option<usize>,
}

/// A capture: work in the order in which it was given, which respects all its dependencies.
pub struct Capture {
    pub origin: usize,
    pub relaxed: bool,
    pub ops: Vec<Op>,
    /// Streams whose work the origin does not wait for yet.
    pub unjoined: BTreeSet<usize>,
    pub broken: bool,
}

impl Machine {
    /// Returns the key of a stream: small handles are the default stream of the device.
    pub fn stream(&self, handle: usize, device: u32) -> Outcome<usize> {
        match handle {
            0..=2 => Ok(device as usize),
            _ if self.streams.contains_key(&handle) => Ok(handle),
            _ => Err(Status::INVALID_HANDLE),
        }
    }

    /// Gives work to a stream.
    pub fn push(&mut self, stream: usize, op: Op) -> Outcome {
        let Some(s) = self.streams.get_mut(&stream) else { return Err(Status::INVALID_HANDLE) };
        if let Some(id) = s.capture {
            let capture = self.captures.get_mut(&id).ok_or(Status::ILLEGAL_STATE)?;
            if matches!(op, Op::Free(_)) {
                capture.broken = true;
                return Err(Status::CAPTURE_UNSUPPORTED);
            }
            if stream != capture.origin {
                capture.unjoined.insert(stream);
            }
            capture.ops.push(op);
            return Ok(());
        }
        self.sequence += 1;
        s.queue.push_back((self.sequence, op));
        if self.config.lazy { Ok(()) } else { self.drain(stream, u64::MAX) }
    }

    /// Runs what `stream` was given up to `upto`, and what that depends on.
    pub fn drain(&mut self, stream: usize, upto: u64) -> Outcome {
        loop {
            if let Some(fault) = &self.fault {
                return Err(fault.status);
            }
            let Some(s) = self.streams.get_mut(&stream) else { return Ok(()) };
            if s.queue.front().is_none_or(|(sequence, _)| *sequence > upto) {
                return Ok(());
            }
            let (device, blocking) = (s.device, s.blocking);
            let (sequence, op) = s.queue.pop_front().expect("it has a front");
            // Numbers only fall along a dependency, so this ends.
            if stream == device as usize {
                let others =
                    self.streams.iter().filter(|(k, s)| s.blocking && s.device == device && **k != stream);
                let mut others: Vec<usize> = others.map(|(key, _)| *key).collect();
                others.sort_unstable();
                for other in others {
                    self.drain(other, sequence)?;
                }
            } else if blocking {
                self.drain(device as usize, sequence)?;
            }
            self.perform(device, op)?;
        }
    }

    /// Runs everything, of one device or of all.
    pub fn drain_all(&mut self, device: Option<u32>) -> Outcome {
        let wanted = self.streams.iter().filter(|(_, s)| device.is_none_or(|d| d == s.device));
        let mut keys: Vec<usize> = wanted.map(|(key, _)| *key).collect();
        keys.sort_unstable();
        // Independent streams may run in any order.
        let mut random = self.config.seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
        exec::shuffle(&mut keys, &mut random);
        keys.into_iter().try_for_each(|key| self.drain(key, u64::MAX))
    }

    fn perform(&mut self, device: u32, op: Op) -> Outcome {
        let done = match op {
            Op::Launch(work) => self.launch(device, &work),
            Op::Copy { to, from, len } => self.table.copy(to, from, len),
            Op::Write { to, bytes } => self.table.write(to, &bytes),
            Op::Fill { to, pattern, width, count } => {
                let bytes = pattern.to_le_bytes()[..width].repeat(count);
                self.table.write(to, &bytes)
            }
            Op::Free(base) => return self.free(base),
            Op::Record { event, sequence } => {
                // An event that was recorded again since is not done yet.
                if let Some(event) = self.events.get_mut(&event)
                    && event.recorded.is_some_and(|(_, last)| last == sequence)
                {
                    event.done = Some(Instant::now());
                }
                Ok(())
            }
            Op::Wait { stream, sequence } => return self.drain(stream, sequence),
            Op::Host(function, data) => {
                call(function, data);
                Ok(())
            }
            Op::Gemm(gemm) => gemm.run(&mut self.table),
            Op::Graph(ops) => return ops.iter().try_for_each(|op| self.perform(device, op.clone())),
        };
        done.map_err(|fault| self.keep(fault))
    }

    fn launch(&mut self, device: u32, work: &Work) -> Result<(), Fault> {
        self.launches += 1;
        let launch = Launch {
            kernel: work.function.kernel(),
            image: work.function.image,
            grid: work.grid,
            block: work.block,
            dynamic_shared: work.dynamic_shared,
            params: &work.params,
            device,
            peers: self.config.peers,
            checked: self.config.checked,
            serial: self.launches,
            seed: self.config.seed,
            budget: self.config.steps,
        };
        exec::run(&mut self.table, &launch)
    }

    /// Returns whether a call that may not happen in a capture must be refused; the capture is lost with it.
    pub fn refuse_in_capture(&mut self) -> Outcome {
        let mut refused = Ok(());
        for capture in self.captures.values_mut().filter(|capture| !capture.relaxed) {
            capture.broken = true;
            refused = Err(Status::CAPTURE_UNSUPPORTED);
        }
        refused
    }
}

/// Calls back into the host. The machine is locked meanwhile: such a function may not call the driver, as CUDA says.
#[allow(unsafe_code)]
fn call(function: unsafe extern "C" fn(*mut std::ffi::c_void), data: usize) {
    // SAFETY: who enqueued the function promised that it can be called with this argument.
    unsafe { function(data as *mut std::ffi::c_void) }
}
