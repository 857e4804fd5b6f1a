//! What can go wrong between ranks.

use std::time::Duration;

/// A failure of an exchange.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RankError {
    /// Not all ranks came within the time limit.
    #[error("rank {rank}: {operation} was not finished within {} s{}", limit.as_secs_f64(), missing_ranks(missing))]
    TimedOut {
        /// Who waited.
        rank: usize,
        /// For what.
        operation: &'static str,
        /// The limit.
        limit: Duration,
        /// The ranks that did not come, where that is known.
        missing: Vec<usize>,
    },
    /// A rank has ended.
    #[error("rank {rank}: {operation} cannot be finished, rank {lost} has ended")]
    Lost {
        /// Who waited.
        rank: usize,
        /// For what.
        operation: &'static str,
        /// The rank that has ended.
        lost: usize,
    },
    /// An exchange before this one failed.
    #[error("rank {rank}: {operation} was not begun, since an exchange failed before: {cause}")]
    Broken {
        /// Who asked.
        rank: usize,
        /// For what.
        operation: &'static str,
        /// The failure.
        cause: String,
    },
    /// Ranks called different operations, or the same with different lengths.
    #[error("rank {rank} calls {own}, but rank {other} calls {others}")]
    Diverged {
        /// Who found it out.
        rank: usize,
        /// What it calls.
        own: String,
        /// The other.
        other: usize,
        /// What that one calls.
        others: String,
    },
    /// Ranks that must have the same have not.
    #[error("ranks 0 and {rank} differ in {what}: {first:?} on rank 0, {other:?} on rank {rank}")]
    Differs {
        /// In what.
        what: String,
        /// The first rank that differs from rank 0.
        rank: usize,
        /// The first line that differs, as rank 0 has it.
        first: String,
        /// The same as that rank has it.
        other: String,
    },
    /// A buffer has a wrong length.
    #[error("{operation}: {what} has {got} bytes or elements, expected {expected}")]
    Length {
        /// What was attempted.
        operation: &'static str,
        /// The buffer.
        what: &'static str,
        /// Its right length.
        expected: usize,
        /// Its length.
        got: usize,
    },
    /// There is no rank of this number.
    #[error("{operation}: there is no rank {rank}, there are {world}")]
    NoRank {
        /// What was attempted.
        operation: &'static str,
        /// The number.
        rank: usize,
        /// How many there are.
        world: usize,
    },
    /// The transport failed.
    #[error("rank {rank}: {problem}")]
    Failed {
        /// Where.
        rank: usize,
        /// What it says.
        problem: String,
    },
}

fn missing_ranks(missing: &[usize]) -> String {
    let list = missing.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    match missing.len() {
        0 => String::new(),
        1 => format!(": rank {list} did not come"),
        _ => format!(": ranks {list} did not come"),
    }
}
