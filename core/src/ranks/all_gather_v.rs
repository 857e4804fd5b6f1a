//! Exchanges of as many bytes as each rank has.

use super::{Communicator, RankError, same_length};

/// Checks the lengths of a [`share`](Communicator::all_gather_v). For communicators.
///
/// # Errors
/// [`RankError::Length`].
pub fn shared_lengths(
    ranks: &(impl Communicator + ?Sized),
    own: &[&[u8]],
    lengths: &[usize],
) -> Result<(), RankError> {
    let operation = "all_gather_v";
    same_length(operation, "the list of lengths", ranks.world_size(), lengths.len())?;
    let given = own.iter().map(|piece| piece.len()).sum();
    same_length(operation, "what this rank gives", lengths[ranks.rank()], given)
}

/// Gathers for a transport that cannot. It does one all-gather where all ranks have equally many bytes, else one
/// broadcast for each rank that has any.
pub(super) fn all_gather_v<C: Communicator + ?Sized>(
    ranks: &C,
    own: &[&[u8]],
    lengths: &[usize],
    take: &mut dyn FnMut(usize, &[u8]),
) -> Result<(), RankError> {
    shared_lengths(ranks, own, lengths)?;
    let (rank, own) = (ranks.rank(), own.concat());
    if lengths.iter().all(|length| *length == own.len()) {
        if own.is_empty() {
            return Ok(());
        }
        let mut all = vec![0; own.len() * ranks.world_size()];
        ranks.all_gather(&own, &mut all)?;
        let others = all.chunks_exact(own.len()).enumerate().filter(|(from, _)| *from != rank);
        others.for_each(|(from, bytes)| take(from, bytes));
        return Ok(());
    }
    let mut bytes = Vec::new();
    for (root, &length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
        bytes.clear();
        if root == rank {
            bytes.extend_from_slice(&own);
        }
        bytes.resize(length, 0);
        ranks.broadcast(root, &mut bytes)?;
        if root != rank {
            take(root, &bytes);
        }
    }
    Ok(())
}
