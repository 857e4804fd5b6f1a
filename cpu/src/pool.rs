//! The threads that a backend's passes run on.

#[cfg(test)]
mod tests;
mod workers;

use core::ops::Range;
use workers::WorkerPool;

/// Threads of this backend alone, or a pool that the caller has; never the global one.
#[derive(Debug)]
pub(crate) enum Pool {
    /// The calling thread.
    Caller,
    Workers(WorkerPool),
    #[cfg(feature = "rayon")]
    Given(std::sync::Arc<rayon::ThreadPool>),
}

impl Pool {
    /// A pool of `threads`, of which the caller's is one.
    pub(crate) fn new(threads: usize) -> Result<Pool, String> {
        if threads <= 1 {
            return Ok(Pool::Caller);
        }
        let workers = WorkerPool::new(threads).map_err(|e| format!("no pool of {threads} threads: {e}"))?;
        Ok(Pool::Workers(workers))
    }

    /// How many threads it has.
    pub(crate) fn threads(&self) -> usize {
        match self {
            Pool::Caller => 1,
            Pool::Workers(workers) => workers.threads(),
            #[cfg(feature = "rayon")]
            Pool::Given(pool) => pool.current_num_threads(),
        }
    }

    /// Calls `work` for every number of `range`, spread over the threads. A panic of `work` is the caller's.
    pub(crate) fn for_each(&self, range: Range<usize>, work: impl Fn(usize) + Sync + Send) {
        match self {
            Pool::Caller => range.for_each(work),
            Pool::Workers(workers) => {
                let start = range.start;
                let work = |part: Range<usize>| part.for_each(|i| work(start + i));
                workers.run(range.len(), &mut || (), &work);
            }
            #[cfg(feature = "rayon")]
            Pool::Given(pool) => {
                use rayon::prelude::*;
                pool.install(|| range.into_par_iter().with_max_len(1).for_each(work));
            }
        }
    }

    /// Whether [`feed`](Pool::feed) has others work meanwhile.
    pub(crate) fn feeds(&self) -> bool {
        matches!(self, Pool::Workers(_))
    }

    /// Calls `first` on the calling thread and `work` on others meanwhile, and then on the calling one too. `work` goes on
    /// until `first` has ended, in a panic or not, and there is nothing left to do. A panic is the caller's.
    pub(crate) fn feed(&self, mut first: impl FnMut(), work: impl Fn() + Sync) {
        match self {
            Pool::Workers(workers) => {
                workers.run(workers.threads(), &mut first, &|part: Range<usize>| part.for_each(|_| work()));
            }
            _ => {
                first();
                work();
            }
        }
    }
}
