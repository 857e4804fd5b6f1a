//! `--ranks`: data-parallel ranks.

use super::Args;
use crate::error::{Error, Result};
use fallline::ranks::{Communicator, RankError, SelfComm, threads};
use fallline_mpi::Mpi;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// What `--ranks` may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ranks {
    /// This process alone.
    One,
    /// Threads of this process, so many.
    Threads(usize),
    /// The processes that `mpirun` has started.
    Mpi,
}

/// Reads `--ranks`.
pub fn parse(text: &str) -> Result<Ranks, String> {
    let count = |text: &str| text.parse().ok().filter(|count| (1..=256).contains(count));
    match text {
        "one" => Ok(Ranks::One),
        "mpi" => Ok(Ranks::Mpi),
        _ => text
            .strip_prefix("threads:")
            .and_then(count)
            .map(Ranks::Threads)
            .ok_or("expected one, mpi or threads:N with N from 1 to 256".into()),
    }
}

impl Ranks {
    /// Returns how many of this machine's threads a rank takes when nothing is said.
    pub fn threads_of_each(self) -> Option<usize> {
        match self {
            Ranks::One => None,
            Ranks::Threads(count) => {
                let all = thread::available_parallelism().map_or(1, usize::from);
                Some((all / count).max(1))
            }
            Ranks::Mpi => Some(1),
        }
    }
}

/// Does the work on every rank of this process, and returns what rank 0 made of it; `None` in a process without it.
pub fn on_each<T: Send>(
    args: &Args,
    work: impl Fn(Arc<dyn Communicator>) -> Result<T> + Sync,
) -> Result<Option<T>> {
    let limit = Duration::from_secs(args.rank_timeout);
    match args.ranks {
        Ranks::One => work(Arc::new(SelfComm)).map(Some),
        Ranks::Threads(count) => {
            let done: Vec<Result<T>> = thread::scope(|scope| {
                let start = |rank| scope.spawn(|| work(Arc::new(rank)));
                let started: Vec<_> = threads(count, limit).into_iter().map(start).collect();
                let ended = |rank| move |_| Err(Error::Other(format!("rank {rank} ended unexpectedly")));
                let join = |(rank, started): (usize, thread::ScopedJoinHandle<'_, Result<T>>)| {
                    started.join().unwrap_or_else(ended(rank))
                };
                started.into_iter().enumerate().map(join).collect()
            });
            first(done).map(Some)
        }
        Ranks::Mpi => {
            let ranks = Arc::new(Mpi::start(limit)?);
            let done = work(ranks.clone());
            // After any other failure the launcher is to end the ranks that wait: this one leaves without a word.
            if matches!(done, Ok(_) | Err(Error::Interrupted(_))) {
                ranks.finish().map_err(fallline::core::Error::from)?;
            }
            let first = ranks.rank() == 0;
            done.map(|done| first.then_some(done))
        }
    }
}

/// Returns what rank 0 has, or the failure that the others follow from.
fn first<T>(done: Vec<Result<T>>) -> Result<T> {
    let (mut kept, mut failures) = (None, Vec::new());
    for (rank, done) in done.into_iter().enumerate() {
        match done {
            Ok(done) if rank == 0 => kept = Some(done),
            Ok(_) => {}
            Err(error) => failures.push(error),
        }
    }
    let cause = failures.iter().position(|error| !follows(error)).unwrap_or(0);
    match (failures.is_empty(), kept) {
        (true, Some(kept)) => Ok(kept),
        (true, None) => Err(Error::Other("rank 0 is missing".into())),
        (false, _) => Err(failures.swap_remove(cause)),
    }
}

/// Returns whether a failure is only that another rank has failed.
fn follows(error: &Error) -> bool {
    let ranks = |error: &fallline::core::Error| {
        matches!(error, fallline::core::Error::Ranks(RankError::Lost { .. } | RankError::Broken { .. }))
    };
    match error {
        Error::Backend(error) | Error::Optim(fallline::optim::Error::Backend(error)) => ranks(error),
        _ => false,
    }
}

/// Returns the batch's loss from those of the ranks' parts, and whether any rank wants to stop.
pub fn sync_metrics(ranks: &dyn Communicator, loss: f32, share: f64, stops: bool) -> Result<(f32, bool)> {
    if ranks.world_size() == 1 {
        return Ok((loss, stops));
    }
    let own = [f64::from(loss) * share, f64::from(u8::from(stops))];
    let own: Vec<u8> = own.into_iter().flat_map(f64::to_le_bytes).collect();
    let mut all = vec![0; own.len() * ranks.world_size()];
    ranks.all_gather(&own, &mut all).map_err(fallline::core::Error::from)?;
    let numbers = |place: usize| {
        let parts = all.chunks_exact(8).skip(place).step_by(2);
        parts.map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap_or_default()))
    };
    Ok((numbers(0).sum::<f64>() as f32, numbers(1).any(|stops| stops > 0.0)))
}
