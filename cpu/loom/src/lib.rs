//! The thread pool of `fallline-cpu` under [loom], which runs a program in every order that its threads can take, as far as
//! memory orderings allow, up to a number of preemptions.
//!
//! The pool's source is compiled here a second time, with loom's atomics, locks and threads in the place of the
//! standard library's. So no flag is needed, and `cargo test` runs the models.

#![allow(unsafe_code)]
#![cfg(test)]

#[path = "."]
mod pool {
    pub(super) mod sync;
    #[path = "../../src/pool/workers.rs"]
    pub(super) mod workers;
}

use loom::model::Builder;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use pool::workers::WorkerPool;

/// Runs a model with at most two preemptions: bugs that need more are rare. All such orders of two threads are run. Of
/// three there are too many: loom ends at the first multiple of 20,000 from this limit on.
fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_permutations = Some(10_000);
    builder.check(model);
}

/// Runs a pass in which each number is written once, without an atomic, and returns what was written.
fn pass(pool: &WorkerPool, count: usize) -> Vec<usize> {
    let cells: Vec<loom::cell::UnsafeCell<usize>> =
        (0..count).map(|_| loom::cell::UnsafeCell::new(0)).collect();
    struct Cells<'c>(&'c [loom::cell::UnsafeCell<usize>]);
    // SAFETY: loom checks that no cell is accessed by two threads at a time.
    unsafe impl Sync for Cells<'_> {}
    let shared = &Cells(&cells);
    pool.run(count, &mut || (), &move |range: core::ops::Range<usize>| {
        for i in range {
            // SAFETY: as above.
            shared.0[i].with_mut(|place| unsafe { *place += i + 1 });
        }
    });
    // SAFETY: as above.
    cells.iter().map(|cell| cell.with(|place| unsafe { *place })).collect()
}

/// What the threads write is there when a pass ends, of each number once, and the pool ends with its threads.
#[test]
fn a_pass_is_whole_when_it_ends() {
    explore(|| {
        let pool = WorkerPool::new(2).unwrap();
        assert_eq!(pass(&pool, 2), [1, 2]);
    });
}

/// A worker that comes late to one pass takes no part in it, nor misses the next.
#[test]
fn passes_follow_each_other() {
    explore(|| {
        let pool = WorkerPool::new(2).unwrap();
        assert_eq!(pass(&pool, 2), [1, 2]);
        assert_eq!(pass(&pool, 2), [1, 2]);
    });
}

#[test]
fn two_workers_share_a_pass() {
    explore(|| {
        let pool = WorkerPool::new(3).unwrap();
        assert_eq!(pass(&pool, 3), [1, 2, 3]);
    });
}

/// Two callers take turns.
#[test]
fn callers_take_turns() {
    explore(|| {
        let pool = Arc::new(WorkerPool::new(2).unwrap());
        let ended = Arc::new(AtomicUsize::new(0));
        let other = {
            let (pool, ended) = (Arc::clone(&pool), Arc::clone(&ended));
            loom::thread::spawn(move || {
                assert_eq!(pass(&pool, 2), [1, 2]);
                ended.fetch_add(1, Ordering::Relaxed);
            })
        };
        assert_eq!(pass(&pool, 2), [1, 2]);
        other.join().unwrap();
        assert_eq!(ended.load(Ordering::Relaxed), 1);
    });
}

/// A panic in a worker is the caller's, and the pool serves another pass.
#[test]
fn a_panic_reaches_the_caller() {
    explore(|| {
        let pool = WorkerPool::new(2).unwrap();
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(2, &mut || (), &|range: core::ops::Range<usize>| {
                if range.contains(&1) {
                    std::panic::resume_unwind(Box::new("of the work"));
                }
            });
        }));
        assert_eq!(ran.unwrap_err().downcast_ref(), Some(&"of the work"));
        assert_eq!(pass(&pool, 2), [1, 2]);
    });
}
