//! What the pool's threads meet through, as loom has it.

pub(super) use core::hint::spin_loop;
pub(super) use loom::cell::UnsafeCell;
pub(super) use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
pub(super) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
pub(super) use loom::thread::{Builder, JoinHandle, yield_now};

/// A thread that spins runs through states that it has been in: it sleeps at once.
pub(super) const SPINS: usize = 0;
/// As above.
pub(super) const YIELDS: usize = 0;

/// loom's has no constant initializers.
macro_rules! const_thread_local {
    ($(#[$meta:meta])* static $name:ident: $type:ty = const { $value:expr };) => {
        loom::thread_local! { $(#[$meta])* static $name: $type = $value; }
    };
}
pub(super) use const_thread_local as thread_local;
