//! A communicator that counts what goes through another.

use super::{Communicator, RankError};
use crate::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What one rank has exchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Exchanges.
    pub exchanges: u64,
    /// Bytes that this rank received from others. Over all ranks as many are sent, so that it is also what a rank
    /// sends in the mean, however the transport routes them.
    pub bytes: u64,
}

/// Counts the exchanges of another communicator.
///
/// ```
/// use fallline_core::ranks::{Communicator, CountingComm, SelfComm};
/// let counting = CountingComm::new(std::sync::Arc::new(SelfComm));
/// counting.barrier()?;
/// assert_eq!(counting.traffic().exchanges, 1);
/// # Ok::<(), fallline_core::ranks::RankError>(())
/// ```
#[derive(Debug)]
pub struct CountingComm {
    inner: Arc<dyn Communicator>,
    exchanges: AtomicU64,
    bytes: AtomicU64,
}

impl CountingComm {
    /// Counts from now on.
    pub fn new(inner: Arc<dyn Communicator>) -> CountingComm {
        CountingComm { inner, exchanges: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// Returns what was counted so far.
    pub fn traffic(&self) -> Traffic {
        let [exchanges, bytes] = [&self.exchanges, &self.bytes].map(|count| count.load(Ordering::Relaxed));
        Traffic { exchanges, bytes }
    }

    fn count(&self, bytes: usize) {
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns how much of a buffer with a piece for each rank comes from others.
    fn others(&self, buffer: usize) -> usize {
        buffer / self.world_size() * (self.world_size() - 1)
    }
}

impl Communicator for CountingComm {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn world_size(&self) -> usize {
        self.inner.world_size()
    }

    fn describe(&self) -> String {
        format!("{}, counted", self.inner.describe())
    }

    fn all_to_all(&self, send: &[u8], receive: &mut [u8]) -> Result<(), RankError> {
        self.count(self.others(receive.len()));
        self.inner.all_to_all(send, receive)
    }

    fn all_gather(&self, send: &[u8], receive: &mut [u8]) -> Result<(), RankError> {
        self.count(self.others(receive.len()));
        self.inner.all_gather(send, receive)
    }

    fn broadcast(&self, root: usize, bytes: &mut [u8]) -> Result<(), RankError> {
        self.count(if root == self.rank() { 0 } else { bytes.len() });
        self.inner.broadcast(root, bytes)
    }

    fn all_gather_v(
        &self,
        own: &[&[u8]],
        lengths: &[usize],
        take: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), RankError> {
        let others = lengths.iter().enumerate().filter(|(rank, _)| *rank != self.rank());
        self.count(others.map(|(_, length)| length).sum());
        self.inner.all_gather_v(own, lengths, take)
    }

    fn barrier(&self) -> Result<(), RankError> {
        self.count(0);
        self.inner.barrier()
    }
}
