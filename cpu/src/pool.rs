//! The threads that a backend's passes run on.

mod process;
mod sync;
#[cfg(test)]
mod tests;
mod workers;

use core::ops::Range;
use process::Process;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use workers::WorkerPool;

/// Threads of this backend alone, those that the process's backends share, or a pool of rayon's.
///
/// A child that was forked has none of its parent's threads. There a pass runs on the calling thread, with the same
/// results.
#[derive(Debug)]
pub(crate) struct Pool {
    threads: Threads,
    started_in: Process,
}

#[derive(Debug)]
enum Threads {
    /// The calling thread.
    Caller,
    Workers(Arc<WorkerPool>),
    #[cfg(feature = "rayon")]
    Given(Arc<rayon::ThreadPool>),
    /// The pool that the calling thread is in, else rayon's global one.
    #[cfg(feature = "rayon")]
    Global,
}

/// The pool of all backends that have no threads of their own, while one of them is there.
static SHARED: Mutex<Option<(Process, Weak<WorkerPool>)>> = Mutex::new(None);

impl Pool {
    /// Creates a pool of `threads`, of which the caller's is one.
    pub(crate) fn new(threads: usize) -> Result<Pool, String> {
        if threads <= 1 {
            return Ok(Pool::caller());
        }
        Ok(Pool::from(Threads::Workers(Arc::new(start(threads)?))))
    }

    /// Takes the pool of `threads` that the process's backends share. The first of them starts it, and the last one to
    /// be dropped ends it.
    pub(crate) fn shared(threads: usize) -> Result<Pool, String> {
        if threads <= 1 {
            return Ok(Pool::caller());
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        // What a parent's threads did is not done in a forked child.
        let there = shared.as_ref().filter(|(process, _)| !process.is_forked());
        let there = there.and_then(|(_, workers)| workers.upgrade());
        if let Some(workers) = there.filter(|workers| workers.threads() == threads) {
            return Ok(Pool::from(Threads::Workers(workers)));
        }
        let workers = Arc::new(start(threads)?);
        *shared = Some((Process::current(), Arc::downgrade(&workers)));
        Ok(Pool::from(Threads::Workers(workers)))
    }

    /// Creates a pool of the calling thread alone.
    pub(crate) fn caller() -> Pool {
        Pool::from(Threads::Caller)
    }

    /// Takes the program's pool.
    #[cfg(feature = "rayon")]
    pub(crate) fn given(pool: Arc<rayon::ThreadPool>) -> Pool {
        Pool::from(Threads::Given(pool))
    }

    /// Takes rayon's global pool, which is started where it was not.
    #[cfg(feature = "rayon")]
    pub(crate) fn global() -> Result<Pool, String> {
        match rayon::ThreadPoolBuilder::new().build_global() {
            // Without a source it says that the pool is there.
            Err(error) if std::error::Error::source(&error).is_some() => {
                Err(format!("no global pool of rayon: {error}"))
            }
            _ => Ok(Pool::from(Threads::Global)),
        }
    }

    fn from(threads: Threads) -> Pool {
        Pool { threads, started_in: Process::current() }
    }

    /// Returns the threads that are there: in a forked child the calling one.
    fn present(&self) -> &Threads {
        if self.started_in.is_forked() { &Threads::Caller } else { &self.threads }
    }

    /// Returns how many threads it has.
    pub(crate) fn threads(&self) -> usize {
        match self.present() {
            Threads::Caller => 1,
            Threads::Workers(workers) => workers.threads(),
            #[cfg(feature = "rayon")]
            Threads::Given(pool) => pool.current_num_threads(),
            #[cfg(feature = "rayon")]
            Threads::Global => rayon::current_num_threads(),
        }
    }

    /// Calls `work` for every number of `range`, spread over the threads. A panic of `work` is the caller's.
    pub(crate) fn for_each(&self, range: Range<usize>, work: impl Fn(usize) + Sync + Send) {
        match self.present() {
            Threads::Caller => range.for_each(work),
            Threads::Workers(workers) => {
                let start = range.start;
                let work = |part: Range<usize>| part.for_each(|i| work(start + i));
                workers.run(range.len(), &mut || (), &work);
            }
            #[cfg(feature = "rayon")]
            Threads::Given(pool) => pool.install(|| for_each(range, work)),
            #[cfg(feature = "rayon")]
            Threads::Global => for_each(range, work),
        }
    }

    /// Returns whether [`feed`](Pool::feed) has others work meanwhile.
    pub(crate) fn feeds(&self) -> bool {
        matches!(self.present(), Threads::Workers(_))
    }

    /// Calls `first` on the calling thread and `work` on others meanwhile, and then on the calling one too. `work` goes on
    /// until `first` has ended, in a panic or not, and there is nothing left to do. A panic is the caller's.
    pub(crate) fn feed(&self, mut first: impl FnMut(), work: impl Fn() + Sync) {
        match self.present() {
            Threads::Workers(workers) => {
                workers.run(workers.threads(), &mut first, &|part: Range<usize>| part.for_each(|_| work()));
            }
            _ => {
                first();
                work();
            }
        }
    }
}

/// Starts a pool, of which the caller's thread is one.
fn start(threads: usize) -> Result<WorkerPool, String> {
    WorkerPool::new(threads).map_err(|e| format!("no pool of {threads} threads: {e}"))
}

#[cfg(feature = "rayon")]
fn for_each(range: Range<usize>, work: impl Fn(usize) + Sync + Send) {
    use rayon::prelude::*;
    range.into_par_iter().with_max_len(1).for_each(work);
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.started_in.is_forked() {
            // There is nobody to join, and what the threads held when the process was forked is held for ever.
            core::mem::forget(core::mem::replace(&mut self.threads, Threads::Caller));
        }
    }
}
