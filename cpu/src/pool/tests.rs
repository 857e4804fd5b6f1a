//! Short passes, many of them, from several callers, with more threads than cores, and with panics.

use super::Pool;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The machine's own number of threads, one, and more than there are cores.
const THREADS: [usize; 5] = [1, 2, 3, 8, 67];

/// Passes for a count: all that a debug build has time for.
const PASSES: usize = if cfg!(debug_assertions) { 200 } else { 3000 };

/// Every number once, with values handed over through plain memory: each pass reads what the one before wrote.
fn follow(pool: &Pool, passes: usize, count: usize) {
    struct Cells(*mut u64);
    // SAFETY: each number's cell is written by the one thread that has it.
    unsafe impl Sync for Cells {}
    // SAFETY: as above.
    unsafe impl Send for Cells {}
    let (mut one, mut other) = (vec![0u64; count], vec![0u64; count]);
    for pass in 0..passes as u64 {
        let cells = Cells(other.as_mut_ptr());
        let (cells, read) = (&cells, &one);
        pool.for_each(0..count, |i| {
            // Neighbours belong to other threads.
            let value = read[(i + 1) % count];
            assert_eq!(value, pass);
            // SAFETY: within the vector, and `i` comes once.
            unsafe { *cells.0.add(i) += value + 1 - *cells.0.add(i) };
        });
        core::mem::swap(&mut one, &mut other);
        assert!(one.iter().all(|&value| value == pass + 1));
    }
}

#[test]
fn each_pass_sees_what_the_one_before_wrote() {
    for threads in THREADS {
        let pool = Pool::new(threads).unwrap();
        assert_eq!(pool.threads(), threads);
        for count in [1, 2, 3, 16, 1000] {
            follow(&pool, PASSES / threads.min(10), count);
        }
    }
}

#[test]
fn every_number_of_a_range_comes_once() {
    for threads in THREADS {
        let pool = Pool::new(threads).unwrap();
        for range in [0..0, 5..5, 7..8, 3..70, 100..100_100] {
            let seen: Vec<AtomicU32> = (0..range.end).map(|_| AtomicU32::new(0)).collect();
            pool.for_each(range.clone(), |i| {
                seen[i].fetch_add(1, Ordering::Relaxed);
            });
            let once =
                |(i, n): (usize, &AtomicU32)| n.load(Ordering::Relaxed) == u32::from(range.contains(&i));
            assert!(seen.iter().enumerate().all(once), "{threads} threads, {range:?}");
        }
    }
}

/// After pauses of all lengths, in which workers look, give their core away, go to sleep and sleep.
#[test]
fn passes_start_after_any_pause() {
    let pool = Pool::new(3).unwrap();
    for pause in (0..60).chain([100, 1000, 3000]).cycle().take(if cfg!(debug_assertions) { 63 } else { 630 })
    {
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(5 * pause) {
            core::hint::spin_loop();
        }
        follow(&pool, 2, 50);
    }
}

#[test]
fn callers_take_turns() {
    for threads in [2, 5] {
        let pool = Pool::new(threads).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| follow(&pool, PASSES / 4, 40));
            }
        });
    }
}

/// A pass from inside a pass runs on its own thread, whichever pool it is of. Two that waited for each other would do
/// so for ever.
#[test]
fn a_pass_inside_a_pass_is_not_made_to_wait() {
    let (one, other) = (Pool::new(3).unwrap(), Pool::new(2).unwrap());
    let count = AtomicUsize::new(0);
    for _ in 0..PASSES / 20 {
        std::thread::scope(|scope| {
            for (outer, inner) in [(&one, &other), (&other, &one), (&one, &one)] {
                let count = &count;
                scope.spawn(move || {
                    outer.for_each(0..6, |_| {
                        inner.for_each(0..5, |_| {
                            count.fetch_add(1, Ordering::Relaxed);
                        })
                    });
                });
            }
        });
    }
    assert_eq!(count.into_inner(), PASSES / 20 * 3 * 30);
}

#[test]
fn both_threads_work_at_the_same_time() {
    let pool = Pool::new(2).unwrap();
    for _ in 0..100 {
        // Nobody gets through alone.
        let both = Barrier::new(2);
        pool.for_each(0..2, |_| {
            both.wait();
        });
    }
}

#[test]
fn a_panic_is_the_callers_and_the_pool_goes_on() {
    for threads in [1, 2, 4] {
        let pool = Pool::new(threads).unwrap();
        for round in 0..PASSES / 20 {
            // By turns of the caller's numbers, and of the others'.
            let culprit = round % 16;
            let ran = catch_unwind(AssertUnwindSafe(|| {
                pool.for_each(0..16, |i| {
                    if i == culprit {
                        std::panic::resume_unwind(Box::new(culprit));
                    }
                });
            }));
            assert_eq!(ran.unwrap_err().downcast_ref(), Some(&culprit));
            follow(&pool, 1, 16);
        }
    }
}

/// What a pass borrows may be gone as soon as it ends, by a panic as well: no thread is inside any more.
#[test]
fn nobody_is_inside_after_a_panic() {
    let pool = Pool::new(4).unwrap();
    for _ in 0..PASSES / 20 {
        let ended = AtomicBool::new(false);
        let late = AtomicBool::new(false);
        let ran = catch_unwind(AssertUnwindSafe(|| {
            pool.for_each(0..64, |i| {
                if i == 0 {
                    std::panic::resume_unwind(Box::new(()));
                }
                std::thread::yield_now();
                late.fetch_or(ended.load(Ordering::SeqCst), Ordering::SeqCst);
            });
        }));
        ended.store(true, Ordering::SeqCst);
        assert!(ran.is_err());
        std::thread::yield_now();
        assert!(!late.load(Ordering::SeqCst));
    }
}

#[test]
fn threads_end_with_the_pool() {
    for pause in 0..50 {
        let pool = Pool::new(4).unwrap();
        follow(&pool, 1, 10);
        // While workers look, and while they sleep.
        std::thread::sleep(Duration::from_micros(20 * pause));
        drop(pool);
    }
}

/// Between steps no core is busy. Read from the kernel's own account of this process's named threads.
#[cfg(target_os = "linux")]
#[test]
fn workers_sleep_between_steps() {
    let pool = Pool::new(2).unwrap();
    let ids = std::sync::Mutex::new(Vec::new());
    let both = Barrier::new(2);
    pool.for_each(0..2, |_| {
        both.wait();
        let own = std::fs::read_link("/proc/thread-self").unwrap();
        ids.lock().unwrap().push((own, std::thread::current().name().map(str::to_owned)));
    });
    let ids = ids.into_inner().unwrap();
    let (worker, _) = ids.iter().find(|(_, name)| name.as_deref() == Some("fallline-1")).expect("a worker");
    let status = || std::fs::read_to_string(std::path::Path::new("/proc").join(worker).join("stat")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    // The state follows the name in parentheses.
    while !status().rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S')) {
        assert!(Instant::now() < deadline, "it is still awake: {}", status());
        std::thread::sleep(Duration::from_millis(1));
    }
    follow(&pool, 3, 10);
}

#[test]
fn too_many_threads_are_refused() {
    let problem = Pool::new(1 << 20).unwrap_err();
    assert!(problem.starts_with("no pool of 1048576 threads: "), "{problem}");
}

#[cfg(feature = "rayon")]
#[test]
fn a_given_pool_does_the_same() {
    let given = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let pool = Pool::given(given.into());
    assert_eq!(pool.threads(), 3);
    follow(&pool, PASSES / 20, 40);
}

/// What a process does that is forked from this one, and whether it came through within a while. It ends without
/// unwinding: nothing of the test runner's is its own.
#[cfg(unix)]
fn forked(child: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child does what a forked child of a program with threads may do under glibc and musl: allocate,
    // compute, and leave by `_exit`.
    let id = unsafe { libc::fork() };
    if id == 0 {
        let fine = catch_unwind(AssertUnwindSafe(child)).unwrap_or(false);
        // SAFETY: it ends this process, which no other thread is in.
        unsafe { libc::_exit(if fine { 0 } else { 1 }) }
    }
    assert!(id > 0, "{}", std::io::Error::last_os_error());
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut status = 0;
        // SAFETY: `id` is a child of this process, and `status` a place for a number.
        if unsafe { libc::waitpid(id, &mut status, libc::WNOHANG) } == id {
            return status == 0;
        }
        if Instant::now() > deadline {
            // SAFETY: as above.
            unsafe { libc::kill(id, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(id, &mut status, 0) };
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(unix)]
fn sums_in_a_child(pool: &Pool) -> bool {
    let sum = AtomicUsize::new(0);
    let add = |i| {
        sum.fetch_add(i, Ordering::Relaxed);
    };
    pool.for_each(0..1000, add);
    pool.feed(|| add(500), || ());
    sum.into_inner() == 1000 * 1000 / 2
}

#[cfg(unix)]
#[test]
fn a_forked_child_works_alone() {
    let pool = Pool::new(4).unwrap();
    follow(&pool, 1, 10);
    assert!(forked(|| pool.threads() == 1 && sums_in_a_child(&pool) && !pool.feeds()));
    let mut dropped = Some(Pool::new(4).unwrap());
    assert!(forked(|| {
        drop(dropped.take());
        // Its own threads are those of a pool that it starts.
        let own = Pool::new(3).unwrap();
        own.threads() == 3 && sums_in_a_child(&own)
    }));
    assert_eq!(pool.threads(), 4);
    follow(&pool, 3, 10);
}

#[cfg(unix)]
#[test]
fn a_child_that_is_forked_during_a_pass_does_not_wait_for_it() {
    let pool = Pool::new(4).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                follow(&pool, 1, 1000);
            }
        });
        let passed = (0..40).filter(|&pause| {
            std::thread::sleep(Duration::from_micros(200 + 37 * pause));
            forked(|| sums_in_a_child(&pool))
        });
        let passed = passed.count();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(passed, 40);
    });
}

#[cfg(unix)]
#[test]
fn a_forked_child_has_a_shared_pool_of_its_own() {
    let (first, second) = (Pool::shared(3).unwrap(), Pool::shared(3).unwrap());
    assert!(forked(|| {
        let own = Pool::shared(3).unwrap();
        let works = own.threads() == 3 && own.feeds() && sums_in_a_child(&own);
        drop(own);
        works && first.threads() == 1 && sums_in_a_child(&second)
    }));
    follow(&first, 2, 40);
    drop(first);
    follow(&second, 2, 40);
}

#[cfg(all(unix, feature = "rayon"))]
#[test]
fn rayons_global_pool_does_the_same() {
    let global = Pool::global().unwrap();
    assert_eq!((global.threads(), global.feeds()), (rayon::current_num_threads(), false));
    follow(&global, 2, 40);
    // In another pool a pass runs there, and again when the global one was started before.
    let other = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let again = Pool::global().unwrap();
    other.install(|| {
        assert_eq!(again.threads(), 3);
        follow(&again, 2, 40);
    });
    assert!(forked(|| global.threads() == 1 && sums_in_a_child(&global)));
}

#[cfg(all(unix, feature = "rayon"))]
#[test]
fn a_given_pool_is_left_alone_in_a_forked_child() {
    let given = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let pool = Pool::given(given.into());
    assert!(forked(|| pool.threads() == 1 && sums_in_a_child(&pool)));
    follow(&pool, 2, 40);
}
