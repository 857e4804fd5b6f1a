//! Threads that wait briefly for the next pass before they sleep.
//!
//! A step is many passes, one right after the other, and waking a thread takes as long as some passes do. So a worker
//! that has finished spins for the next pass for a while, then yields its core in between, and only then sleeps.
//! Between steps no core is busy.
//!
//! All shared state is in one atomic word: the number of the pass, whether it is open, and how many workers are in
//! it. A worker enters by counting itself in, which fails once the pass is closed. The caller closes it when nothing
//! is left to do, and waits for those inside alone. A worker that is late, since it sleeps or its core is taken, is
//! not waited for: the others do its share.

use super::sync::{
    Arc, AtomicU64, AtomicUsize, Builder, Condvar, JoinHandle, Mutex, MutexGuard, Ordering, SPINS,
    UnsafeCell, YIELDS, fence, spin_loop, thread_local, yield_now,
};
use core::any::Any;
use core::cell::Cell;
use core::fmt;
use core::ops::Range;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{PoisonError, TryLockError};

/// The caller may sleep until the last worker has left.
const JOINING: u64 = 1 << 1;
/// Workers may enter.
const OPEN: u64 = 1;
/// A worker in the pass, the first bit of 16.
const ACTIVE: u64 = 1 << 2;
const ALL_ACTIVE: u64 = 0xffff * ACTIVE;
/// The first bit of the pass's number.
const PASS: u64 = ACTIVE << 16;
/// There will be no more passes.
const SHUTDOWN: u64 = u64::MAX;

/// The most workers that the word can count.
const MAX_WORKERS: usize = 0xffff;

thread_local! {
    /// Whether this thread is in a pass of some pool, and must not wait for another one.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// What a pass does for a range of its numbers.
type Work<'w> = dyn Fn(Range<usize>) + Sync + 'w;

/// The numbers of one thread that nobody has taken: the first in the upper half, the end in the lower one. On cache
/// lines of its own, so that threads do not wait for each other's.
#[derive(Debug)]
#[repr(align(128))]
struct RangeQueue(AtomicU64);

impl RangeQueue {
    fn push_range(&self, range: Range<usize>) {
        self.0.store(((range.start as u64) << 32) | range.end as u64, Ordering::Relaxed);
    }

    /// Takes some numbers from the front or the end, if any are left: one at a time, of very many more.
    fn take(&self, front: bool) -> Option<Range<usize>> {
        let mut taken = None;
        let left = |word: u64| {
            let (start, end) = (word >> 32, word & 0xffff_ffff);
            let count = end.saturating_sub(start);
            let some = (count / 16).max(1).min(count);
            let (from, left) = match front {
                true => (start..start + some, ((start + some) << 32) | end),
                false => (end - some..end, (start << 32) | (end - some)),
            };
            taken = Some(from.start as usize..from.end as usize);
            (some > 0).then_some(left)
        };
        // Who takes what is all that is decided here; what `work` writes is handed over with the word of the pass.
        let done = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        done.ok().and(taken)
    }
}

/// What the threads share.
struct Shared {
    /// Held by the caller of the pass that runs.
    turn: Mutex<()>,
    word: AtomicU64,
    /// The pass's work, while it is open or somebody is inside.
    work: UnsafeCell<*const Work<'static>>,
    queues: Box<[RangeQueue]>,
    /// What the first worker that panicked in this pass has said.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// For those who sleep: workers until a pass opens, the caller until the last one has left.
    asleep: Mutex<()>,
    opened: Condvar,
    left: Condvar,
    sleepers: AtomicUsize,
    started: AtomicUsize,
    /// How often a thread spins before it sleeps: in a loop, and giving its core away.
    spin_budget: (usize, usize),
}

// SAFETY: `work` is written only by the caller that holds `turn`, before it opens a pass and while nobody is inside.
// It is read only by workers inside, who have seen the word that was stored after it. What it points to is `Sync`.
// All else is `Sync` by itself.
unsafe impl Sync for Shared {}
// SAFETY: as for `Sync`; the address in `work` is used during a pass only, by whatever thread.
unsafe impl Send for Shared {}

/// A pool whose caller is its first thread.
pub(crate) struct WorkerPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl fmt::Debug for WorkerPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerPool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl WorkerPool {
    /// Creates a pool of `threads`: so many less one are started.
    pub(crate) fn new(threads: usize) -> io::Result<WorkerPool> {
        if threads - 1 > MAX_WORKERS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("at most {}", MAX_WORKERS + 1)));
        }
        // Where there are more threads than cores, one that looks keeps another from working.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spin_budget = if threads <= cores { (SPINS, YIELDS) } else { (0, 1) };
        let nothing: &Work<'static> = &|_| ();
        let shared = Shared {
            turn: Mutex::default(),
            word: AtomicU64::new(0),
            work: UnsafeCell::new(nothing),
            queues: (0..threads).map(|_| RangeQueue(AtomicU64::new(0))).collect(),
            panic: Mutex::default(),
            asleep: Mutex::default(),
            opened: Condvar::new(),
            left: Condvar::new(),
            sleepers: AtomicUsize::new(0),
            started: AtomicUsize::new(0),
            spin_budget,
        };
        let mut own = WorkerPool { shared: Arc::new(shared), workers: Vec::with_capacity(threads - 1) };
        for index in 1..threads {
            let shared = Arc::clone(&own.shared);
            let builder = Builder::new().name(format!("fallline-{index}"));
            // On an error those that run already are sent home with `own`.
            own.workers.push(builder.spawn(move || shared.worker_loop(index))?);
        }
        // Every thread has started, and allocated what it needs for that, before the first pass.
        while own.shared.started.load(Ordering::Acquire) < own.workers.len() {
            yield_now();
        }
        Ok(own)
    }

    pub(crate) fn threads(&self) -> usize {
        self.shared.queues.len()
    }

    /// Calls `first` on this thread, and `work` for ranges that make up `0..count`, and returns when all is done.
    /// The ranges run on the threads that have time and, after `first`, on this one. The threads' shares are the
    /// same for the same count, from one pass to the next. They are processed in opposite directions, so that a
    /// thread meets first what it has in its cache.
    ///
    /// Callers take turns. A call from inside a pass does not wait, but works alone.
    pub(crate) fn run(&self, count: usize, first: &mut dyn FnMut(), work: &Work<'_>) {
        let shared = &*self.shared;
        let turn = match shared.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if BUSY.with(Cell::get) => None,
            Err(TryLockError::WouldBlock) => Some(lock(&shared.turn)),
        };
        match turn {
            Some(turn) if count > 1 && u32::try_from(count).is_ok() => shared.pass(turn, count, first, work),
            _ => {
                first();
                work(0..count);
            }
        }
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        // No pass runs: it would borrow this.
        self.shared.word.store(SHUTDOWN, Ordering::Release);
        drop(lock(&self.shared.asleep));
        self.shared.opened.notify_all();
        for worker in self.workers.drain(..) {
            // Panics of a pass were the caller's; there are no others.
            let _ = worker.join();
        }
    }
}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Runs a pass from its opening until the last worker has left.
    fn pass(&self, turn: MutexGuard<'_, ()>, count: usize, first: &mut dyn FnMut(), work: &Work<'_>) {
        let threads = self.queues.len();
        for (thread, queue) in self.queues.iter().enumerate() {
            queue.push_range(count * thread / threads..count * (thread + 1) / threads);
        }
        // SAFETY: only the lifetime is given up. The address is used by threads inside the pass, and this function
        // returns, or unwinds, after the last of them has left.
        let address = unsafe { core::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
        // SAFETY: `turn` is held, the last pass is closed, and nobody is inside.
        self.work.with_mut(|place| unsafe { *place = address });
        let number = (self.word.load(Ordering::Relaxed) / PASS).wrapping_add(1);
        // The last number is that of `SHUTDOWN`.
        let number = if number >= SHUTDOWN / PASS { 1 } else { number };
        // Before `sleepers` is read, as a worker is counted there before it reads the word.
        self.word.store((number * PASS) | OPEN, Ordering::Release);
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            drop(lock(&self.asleep));
            self.opened.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(|| {
            let _busy = OnDrop(BUSY.with(|busy| busy.replace(true)));
            first();
            self.drain(0, number, work);
        }));
        let word = self.word.fetch_and(!OPEN, Ordering::Acquire);
        if word & ALL_ACTIVE != 0 {
            self.await_workers();
        }
        let others = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(turn);
        if let Some(panic) = own.err().or(others) {
            resume_unwind(panic);
        }
    }

    /// Waits until nobody is inside the pass, which is closed.
    fn await_workers(&self) {
        let empty = |word: u64| word & ALL_ACTIVE == 0;
        if self.spin_until(empty).is_some() {
            return;
        }
        let mut guard = lock(&self.asleep);
        let mut word = self.word.fetch_or(JOINING, Ordering::Acquire);
        while !empty(word) {
            guard = self.left.wait(guard).unwrap_or_else(PoisonError::into_inner);
            word = self.word.load(Ordering::Acquire);
        }
    }

    /// Spins until the word is as wished, or the budget is spent.
    fn spin_until(&self, wished: impl Fn(u64) -> bool) -> Option<u64> {
        let (spins, yields) = self.spin_budget;
        for turn in 0..spins + yields {
            let word = self.word.load(Ordering::Acquire);
            if wished(word) {
                return Some(word);
            }
            if turn < spins { spin_loop() } else { yield_now() }
        }
        None
    }

    /// Runs a worker: it waits for passes and takes part in them.
    fn worker_loop(&self, index: usize) {
        self.started.fetch_add(1, Ordering::Release);
        let mut last = 0;
        loop {
            let word = self.next(last);
            if word == SHUTDOWN {
                return;
            }
            last = word / PASS;
            let enter = |now: u64| (now / PASS == last && now & OPEN != 0).then(|| now + ACTIVE);
            if self.word.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).is_err() {
                continue;
            }
            // SAFETY: this thread is inside. The pass's work was written before its word, which has been seen. The
            // caller neither returns nor writes another before this thread has left.
            let work = self.work.with(|place| unsafe { &**place });
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.drain(index, last, work))) {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
            }
            let word = self.word.fetch_sub(ACTIVE, Ordering::Release);
            if word & ALL_ACTIVE == ACTIVE && word & JOINING != 0 {
                drop(lock(&self.asleep));
                self.left.notify_all();
            }
        }
    }

    /// Returns the word of a pass that is open and not the `last` that the worker was in, or [`SHUTDOWN`].
    fn next(&self, last: u64) -> u64 {
        let news = |word: u64| word == SHUTDOWN || (word / PASS != last && word & OPEN != 0);
        if let Some(word) = self.spin_until(news) {
            return word;
        }
        let mut guard = lock(&self.asleep);
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let word = loop {
            let word = self.word.load(Ordering::Acquire);
            if news(word) {
                break word;
            }
            guard = self.opened.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        word
    }

    /// Drains the thread's own queue, and then steals what is left of the others', from the end that they come to last.
    fn drain(&self, index: usize, number: u64, work: &Work<'_>) {
        let _busy = OnDrop(BUSY.with(|busy| busy.replace(true)));
        let front = number.is_multiple_of(2);
        let count = self.queues.len();
        for other in 0..count {
            let queue = &self.queues[(index + other) % count];
            while let Some(range) = queue.take(front == (other == 0)) {
                work(range);
            }
        }
    }
}

/// Puts [`BUSY`] back, after a panic too.
struct OnDrop(bool);

impl Drop for OnDrop {
    fn drop(&mut self) {
        BUSY.with(|busy| busy.set(self.0));
    }
}
