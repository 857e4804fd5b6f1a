//! Ranks: several workers that hold the same parameters, and how they exchange numbers.
//!
//! A [`Communicator`] is one rank's end. The transports below it are those that exist: one process with threads
//! ([`threads`]), MPI (the crate `fallline-mpi`), NCCL (the crate `fallline-cuda`). A transport provides four
//! exchanges of bytes; sums are computed here, so that they are the same everywhere.
//!
//! # The order of sums
//! Element `i` of a reduction is `((x₀[i] + x₁[i]) + x₂[i]) + …` over the ranks from 0 on. It is computed in `f64`
//! and rounded to the values' format once. A mean is divided by the world size before it is rounded. Each element
//! is summed by one rank and handed to the others. So all ranks hold the same bits, whichever came first and
//! whatever the transport is. Of `n` bytes every rank receives `2 n (world - 1) / world`, as with any ring.
//!
//! # Faults
//! Every exchange ends within the communicator's time limit ([`TimeLimit`]). After a failure a communicator is broken:
//! what it is asked for next fails at once, since ranks may have gone different ways.

mod all_gather_v;
mod buffer;
mod counting;
pub(crate) mod error;
mod reduce;
mod single;
mod sum;
mod threads;
mod time_limit;

pub use all_gather_v::shared_lengths;
pub use buffer::Buffer;
pub use counting::{CountingComm, Traffic};
pub use error::RankError;
pub use single::SelfComm;
pub use sum::{RankAdd, RankFirst, RankMean, WorldSize};
pub use threads::{ThreadComm, threads};
pub use time_limit::{TimeLimit, receive};

use crate::host::{Slice, SliceMut};
use crate::{Backend, Result, Storage};
use core::fmt;

/// How the ranks' values become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reduction {
    /// Their sum.
    Sum,
    /// Their sum, divided by the number of ranks.
    Mean,
}

/// One rank's end of an exchange with all others.
///
/// Every method but [`rank`](Communicator::rank), [`world`](Communicator::world_size) and
/// [`describe`](Communicator::describe) is collective: all ranks call it, in the same order, with the same lengths and
/// formats. What can be seen to differ is an error that names the ranks.
///
/// ```
/// use fallline_core::ranks::{Communicator, Reduction, threads};
/// let ranks = threads(3, std::time::Duration::from_secs(10));
/// std::thread::scope(|scope| {
///     for rank in ranks {
///         scope.spawn(move || {
///             let mut values = [rank.rank() as f32, 1.0];
///             rank.all_reduce((&mut values[..]).into(), Reduction::Sum).unwrap();
///             assert_eq!(values, [3.0, 3.0]);
///         });
///     }
/// });
/// ```
pub trait Communicator: fmt::Debug + Send + Sync {
    /// Returns this rank's number, from 0.
    fn rank(&self) -> usize;

    /// Returns how many ranks there are, at least 1.
    fn world_size(&self) -> usize;

    /// Returns a human-readable line: the transport and the number of ranks.
    fn describe(&self) -> String;

    /// Sends piece `i` of `send` to rank `i`, and receives piece `i` of `receive` from rank `i`. All pieces of all
    /// ranks are equally long.
    ///
    /// # Errors
    /// [`RankError`], as all that follow.
    fn all_to_all(&self, send: &[u8], receive: &mut [u8]) -> Result<(), RankError>;

    /// Gathers the `send` of all ranks, equally long, in the order of the ranks.
    ///
    /// # Errors
    /// [`RankError`].
    fn all_gather(&self, send: &[u8], receive: &mut [u8]) -> Result<(), RankError>;

    /// Broadcasts what `root` has in `bytes` to all ranks.
    ///
    /// # Errors
    /// [`RankError`].
    fn broadcast(&self, root: usize, bytes: &mut [u8]) -> Result<(), RankError>;

    /// Gathers the bytes of all ranks, of which rank `i` has `lengths[i]`: `own` is this rank's, piece after piece.
    /// `take` receives what each other rank has, in their order, to put it where it belongs, without a copy that
    /// can be avoided.
    ///
    /// # Errors
    /// [`RankError`].
    fn all_gather_v(
        &self,
        own: &[&[u8]],
        lengths: &[usize],
        take: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), RankError> {
        all_gather_v::all_gather_v(self, own, lengths, take)
    }

    /// Waits for all ranks.
    ///
    /// # Errors
    /// [`RankError`].
    fn barrier(&self) -> Result<(), RankError>;

    /// Reduces the ranks' `values` element by element; everybody gets all of the result.
    ///
    /// # Errors
    /// [`RankError`].
    fn all_reduce(&self, values: SliceMut<'_>, how: Reduction) -> Result<(), RankError> {
        reduce::all_reduce(self, values, how)
    }

    /// Reduces the ranks' `values` element by element; rank `i` gets piece `i` of the result. `values` has as many
    /// elements as `own` times the world.
    ///
    /// # Errors
    /// [`RankError`].
    fn reduce_scatter(&self, values: Slice<'_>, own: SliceMut<'_>, how: Reduction) -> Result<(), RankError> {
        reduce::reduce_scatter(self, values, own, how)
    }

    /// As [`all_reduce`](Communicator::all_reduce), of a backend's memory. What the host does not reach is copied
    /// there and back, unless the transport knows the device.
    ///
    /// # Errors
    /// [`RankError`], and the backend's own.
    fn all_reduce_storage(&self, backend: &dyn Backend, storage: &mut Storage, how: Reduction) -> Result<()> {
        reduce::on_host(backend, storage, |values| self.all_reduce(values, how))
    }

    /// As [`broadcast`](Communicator::broadcast), of a backend's memory.
    ///
    /// # Errors
    /// [`RankError`], and the backend's own.
    fn broadcast_storage(&self, backend: &dyn Backend, root: usize, storage: &mut Storage) -> Result<()> {
        reduce::on_host(backend, storage, |mut values| self.broadcast(root, values.bytes_mut()))
    }

    /// As [`all_gather`](Communicator::all_gather), from one storage to another of `world` times its length.
    ///
    /// # Errors
    /// [`RankError`], and the backend's own.
    fn all_gather_storage(&self, backend: &dyn Backend, own: &Storage, all: &mut Storage) -> Result<()> {
        reduce::between(backend, own, all, |own, mut all| self.all_gather(own.bytes(), all.bytes_mut()))
    }

    /// As [`all_to_all`](Communicator::all_to_all), from one storage to another of the same length.
    ///
    /// # Errors
    /// [`RankError`], and the backend's own.
    fn all_to_all_storage(&self, backend: &dyn Backend, send: &Storage, receive: &mut Storage) -> Result<()> {
        reduce::between(backend, send, receive, |send, mut receive| {
            self.all_to_all(send.bytes(), receive.bytes_mut())
        })
    }

    /// As [`reduce_scatter`](Communicator::reduce_scatter), from one storage to another.
    ///
    /// # Errors
    /// [`RankError`], and the backend's own.
    fn reduce_scatter_storage(
        &self,
        backend: &dyn Backend,
        values: &Storage,
        own: &mut Storage,
        how: Reduction,
    ) -> Result<()> {
        reduce::between(backend, values, own, |values, own| self.reduce_scatter(values, own, how))
    }
}

/// Checks that a buffer divides into a piece for each rank, and returns a piece's length. For communicators.
///
/// # Errors
/// [`RankError::Length`].
pub fn chunk(operation: &'static str, buffer: usize, world: usize) -> Result<usize, RankError> {
    match buffer.is_multiple_of(world) {
        true => Ok(buffer / world),
        false => Err(RankError::Length {
            operation,
            what: "the buffer",
            expected: buffer / world * world,
            got: buffer,
        }),
    }
}

/// Checks the length of a buffer that must have one. For communicators.
///
/// # Errors
/// [`RankError::Length`].
pub fn same_length(
    operation: &'static str,
    what: &'static str,
    expected: usize,
    got: usize,
) -> Result<(), RankError> {
    if expected == got { Ok(()) } else { Err(RankError::Length { operation, what, expected, got }) }
}

/// Checks that there is a rank of this number. For communicators.
///
/// # Errors
/// [`RankError::NoRank`].
pub fn known(operation: &'static str, rank: usize, world: usize) -> Result<(), RankError> {
    if rank < world { Ok(()) } else { Err(RankError::NoRank { operation, rank, world }) }
}

/// Checks that all ranks have the same lines of text: names and shapes, a configuration.
///
/// Otherwise every rank gets the same error. It names the first rank that differs from rank 0, and the first line in
/// which it does.
///
/// # Errors
/// [`RankError::Differs`], and those of the exchange.
pub fn check_equal(ranks: &dyn Communicator, what: &str, lines: &[String]) -> Result<(), RankError> {
    if ranks.world_size() == 1 {
        return Ok(());
    }
    let text = lines.join("\n").into_bytes();
    let mut own = [0; 16];
    own[..8].copy_from_slice(&fingerprint(&text).to_le_bytes());
    own[8..].copy_from_slice(&(text.len() as u64).to_le_bytes());
    let mut all = vec![0; 16 * ranks.world_size()];
    ranks.all_gather(&own, &mut all)?;
    if all.chunks_exact(16).all(|of| of == own) {
        return Ok(());
    }
    let length = |of: &[u8]| u64::from_le_bytes(of[8..].try_into().unwrap_or_default()) as usize;
    let longest = all.chunks_exact(16).map(length).max().unwrap_or(0);
    let (mut padded, mut texts) = (text.clone(), vec![0; longest * ranks.world_size()]);
    padded.resize(longest, 0);
    ranks.all_gather(&padded, &mut texts)?;
    let text_of = |rank: usize| {
        let bytes = &texts[rank * longest..][..length(&all[16 * rank..][..16])];
        String::from_utf8_lossy(bytes).into_owned()
    };
    let first = text_of(0);
    let other = (1..ranks.world_size()).map(|rank| (rank, text_of(rank))).find(|(_, text)| *text != first);
    let Some((rank, text)) = other else { return Ok(()) };
    let (mut ours, mut theirs) = (first.lines(), text.lines());
    loop {
        let lines = (ours.next(), theirs.next());
        if lines.0 != lines.1 || lines == (None, None) {
            let [first, other] = [lines.0, lines.1].map(|line| line.unwrap_or("nothing").to_owned());
            return Err(RankError::Differs { what: what.to_owned(), rank, first, other });
        }
    }
}

/// Returns the FNV-1a hash, which distinguishes bytes without sending them.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}
