//! Ranks that are threads of one process.

use super::{Communicator, RankError, TimeLimit, chunk, known, same_length, shared_lengths};
use crate::Result;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Returns the ends of as many ranks in this process, in their order: one for each thread. An exchange that is not
/// finished within `limit` fails on every rank. Time in which the process is stopped does not count.
///
/// An end that is dropped is a rank that has ended: whoever waits for it, or will, gets [`RankError::Lost`].
///
/// # Panics
/// When `world` is 0.
pub fn threads(world: usize, limit: Duration) -> Vec<ThreadComm> {
    assert!(world > 0, "a world has at least one rank");
    let table =
        Table { calls: vec![None; world], posted: 0, taken: 0, gone: vec![false; world], broken: None };
    let meeting = Arc::new(Meeting { table: Mutex::new(table), changed: Condvar::new(), limit });
    let end = |rank| ThreadComm { rank, world, meeting: Arc::clone(&meeting), messages: Mutex::default() };
    (0..world).map(end).collect()
}

/// One thread's end, from [`threads`].
#[derive(Debug)]
pub struct ThreadComm {
    rank: usize,
    world: usize,
    meeting: Arc<Meeting>,
    /// Memory of messages, to be used again once everybody has taken them: new memory costs more than the copy.
    messages: Mutex<Vec<Arc<Vec<u8>>>>,
}

/// How many messages are kept: what the others may still be taking, and the next.
const MESSAGES: usize = 3;

/// How long a rank looks out for the others before it sleeps, and how often it looks.
const PATIENCE: Duration = Duration::from_micros(100);
const SPINS: usize = 200;

/// Where the ranks meet.
#[derive(Debug)]
struct Meeting {
    table: Mutex<Table>,
    changed: Condvar,
    limit: Duration,
}

/// One exchange after another: everybody puts a call on the table, then everybody takes from all.
#[derive(Debug)]
struct Table {
    /// What each rank has put there in the exchange at hand.
    calls: Vec<Option<Call>>,
    posted: usize,
    /// How many have taken; the last clears the table.
    taken: usize,
    /// The ranks that have ended.
    gone: Vec<bool>,
    /// The first failure.
    broken: Option<RankError>,
}

/// What a rank calls: the operation, its root if it has one, its bytes.
#[derive(Clone, Debug)]
struct Call {
    operation: &'static str,
    root: usize,
    /// How long the bytes must be, on all ranks.
    length: usize,
    bytes: Arc<Vec<u8>>,
}

impl Call {
    fn differs(&self, other: &Call) -> bool {
        (self.operation, self.root, self.length) != (other.operation, other.root, other.length)
    }

    fn text(&self) -> String {
        match self.operation {
            "barrier" => "barrier".to_owned(),
            "broadcast" => format!("broadcast of {} bytes from rank {}", self.length, self.root),
            operation => format!("{operation} of {} bytes", self.length),
        }
    }
}

impl ThreadComm {
    /// Puts a call on the table, waits for those of all, and hands them to `take`.
    fn meet(&self, call: Call, take: impl FnOnce(&[Arc<Vec<u8>>])) -> Result<(), RankError> {
        let operation = call.operation;
        let mut limit = TimeLimit::new(self.meeting.limit);
        let mut table = self.lock();
        // Those of the exchange before may still be taking.
        table = self.wait(table, operation, &mut limit, |table| table.calls[self.rank].is_none())?;
        if let Some((other, theirs)) =
            table.calls.iter().enumerate().find_map(|(i, c)| Some((i, c.as_ref()?)))
            && call.differs(theirs)
        {
            let (own, others) = (call.text(), theirs.text());
            return Err(self.break_off(table, RankError::Diverged { rank: self.rank, own, other, others }));
        }
        table.calls[self.rank] = Some(call);
        table.posted += 1;
        self.meeting.changed.notify_all();
        table = self.wait(table, operation, &mut limit, |table| table.posted == self.world)?;
        let bytes: Vec<_> = table.calls.iter().flatten().map(|call| Arc::clone(&call.bytes)).collect();
        table.taken += 1;
        if table.taken == self.world {
            table.calls.fill(None);
            (table.posted, table.taken) = (0, 0);
            self.meeting.changed.notify_all();
        }
        drop(table);
        take(&bytes);
        Ok(())
    }

    /// Waits until `ready`, the end of the time, or a failure.
    fn wait<'a>(
        &'a self,
        mut table: MutexGuard<'a, Table>,
        operation: &'static str,
        limit: &mut TimeLimit,
        ready: impl Fn(&Table) -> bool,
    ) -> Result<MutexGuard<'a, Table>, RankError> {
        let rank = self.rank;
        // Whoever is about to come is not worth a sleep.
        let patience = Instant::now() + PATIENCE;
        loop {
            if let Some(cause) = &table.broken {
                let cause = cause.to_string();
                return Err(RankError::Broken { rank, operation, cause });
            }
            if ready(&table) {
                return Ok(table);
            }
            // Who has put a call there before it ended has done its part.
            let lost = (0..self.world).find(|&i| table.gone[i] && table.calls[i].is_none());
            if let Some(lost) = lost {
                return Err(self.break_off(table, RankError::Lost { rank, operation, lost }));
            }
            let Some(wait) = limit.wait() else {
                let missing = (0..self.world).filter(|&i| table.calls[i].is_none()).collect();
                let limit = self.meeting.limit;
                return Err(self.break_off(table, RankError::TimedOut { rank, operation, limit, missing }));
            };
            if Instant::now() < patience {
                drop(table);
                (0..SPINS).for_each(|_| core::hint::spin_loop());
                table = self.lock();
                continue;
            }
            let waited = self.meeting.changed.wait_timeout(table, wait);
            table = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Records a failure, so that all ranks return it.
    fn break_off(&self, mut table: MutexGuard<'_, Table>, error: RankError) -> RankError {
        table.broken.get_or_insert_with(|| error.clone());
        self.meeting.changed.notify_all();
        error
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.meeting.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, operation: &'static str, root: usize, length: usize, pieces: &[&[u8]]) -> Call {
        Call { operation, root, length, bytes: self.message(pieces) }
    }

    /// Returns a message of these pieces.
    fn message(&self, pieces: &[&[u8]]) -> Arc<Vec<u8>> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let free = messages.iter_mut().position(|message| Arc::get_mut(message).is_some());
        let mut message = free.map(|place| messages.swap_remove(place)).unwrap_or_default();
        if let Some(bytes) = Arc::get_mut(&mut message) {
            bytes.clear();
            pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        }
        messages.push(Arc::clone(&message));
        if messages.len() > MESSAGES {
            messages.remove(0);
        }
        message
    }
}

impl Drop for ThreadComm {
    fn drop(&mut self) {
        self.lock().gone[self.rank] = true;
        self.meeting.changed.notify_all();
    }
}

impl Communicator for ThreadComm {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world
    }

    fn describe(&self) -> String {
        format!("{} ranks, threads of one process", self.world)
    }

    fn all_to_all(&self, send: &[u8], receive: &mut [u8]) -> Result<(), RankError> {
        let operation = "all_to_all";
        same_length(operation, "the receive buffer", send.len(), receive.len())?;
        let piece = chunk(operation, send.len(), self.world)?;
        let (rank, call) = (self.rank, self.call(operation, 0, send.len(), &[send]));
        self.meet(call, |all| {
            for (from, all) in all.iter().enumerate() {
                receive[from * piece..][..piece].copy_from_slice(&all[rank * piece..][..piece]);
            }
        })
    }

    fn all_gather(&self, send: &[u8], receive: &mut [u8]) -> Result<(), RankError> {
        let operation = "all_gather";
        same_length(operation, "the receive buffer", send.len() * self.world, receive.len())?;
        let length = send.len();
        self.meet(self.call(operation, 0, length, &[send]), |all| {
            for (from, all) in all.iter().enumerate() {
                receive[from * length..][..length].copy_from_slice(all);
            }
        })
    }

    fn broadcast(&self, root: usize, bytes: &mut [u8]) -> Result<(), RankError> {
        known("broadcast", root, self.world)?;
        let own: &[&[u8]] = if root == self.rank { &[bytes] } else { &[] };
        let call = self.call("broadcast", root, bytes.len(), own);
        self.meet(call, |all| {
            if root != self.rank {
                bytes.copy_from_slice(&all[root]);
            }
        })
    }

    fn all_gather_v(
        &self,
        own: &[&[u8]],
        lengths: &[usize],
        take: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), RankError> {
        shared_lengths(self, own, lengths)?;
        self.meet(self.call("all_gather_v", 0, lengths.iter().sum(), own), |all| {
            let others = all.iter().enumerate().filter(|(from, _)| *from != self.rank);
            others.for_each(|(from, bytes)| take(from, bytes));
        })
    }

    fn barrier(&self) -> Result<(), RankError> {
        self.meet(self.call("barrier", 0, 0, &[]), |_| {})
    }
}
