//! The backend's own threads.

use core::ops::Range;

/// A pool of threads of this backend alone; never the global one.
#[derive(Debug)]
pub(crate) struct Pool {
    #[cfg(feature = "rayon")]
    pool: Option<rayon::ThreadPool>,
    threads: usize,
}

impl Pool {
    /// A pool of `threads`; one thread needs none beside the caller's.
    pub(crate) fn new(threads: usize) -> Result<Pool, String> {
        #[cfg(feature = "rayon")]
        {
            let build = || {
                let builder = rayon::ThreadPoolBuilder::new().num_threads(threads);
                let builder = builder.thread_name(|i| format!("fallline-{i}"));
                builder.build().map_err(|e| format!("no pool of {threads} threads: {e}"))
            };
            let pool = if threads > 1 { Some(build()?) } else { None };
            // Every thread has started, and allocated what it needs for that, before the first pass.
            if let Some(pool) = &pool {
                pool.broadcast(|_| ());
            }
            Ok(Pool { pool, threads: threads.max(1) })
        }
        #[cfg(not(feature = "rayon"))]
        {
            let _ = threads;
            Ok(Pool { threads: 1 })
        }
    }

    /// How many threads it has.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Calls `work` for every number of `range`, spread over the threads.
    pub(crate) fn for_each(&self, range: Range<usize>, work: impl Fn(usize) + Sync + Send) {
        #[cfg(feature = "rayon")]
        if let Some(pool) = &self.pool {
            use rayon::prelude::*;
            return pool.install(|| range.into_par_iter().with_max_len(1).for_each(work));
        }
        range.for_each(work);
    }
}
