//! What the pool's threads meet through, as loom has it.

pub(super) use core::hint::spin_loop;
pub(super) use loom::cell::UnsafeCell;
pub(super) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
pub(super) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
pub(super) use loom::thread::{Builder, JoinHandle, yield_now};
pub(super) use loom::thread_local;

/// A thread that spins runs through states that it has been in: it sleeps at once.
pub(super) const SPINS: usize = 0;
/// As above.
pub(super) const YIELDS: usize = 0;
