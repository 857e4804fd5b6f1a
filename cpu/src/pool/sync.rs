//! What the pool's threads meet through. The tests under loom put loom's in this place (`cpu/loom`).

pub(super) use core::hint::spin_loop;
pub(super) use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
pub(super) use std::sync::{Arc, Condvar, Mutex, MutexGuard};
pub(super) use std::thread::{Builder, JoinHandle, yield_now};
pub(super) use std::thread_local;

/// Spins before a thread gives its core away: 20 to 60 µs, by what the processor's pause takes.
pub(super) const SPINS: usize = 1500;

/// Spins with the core given away in between, before a thread sleeps.
pub(super) const YIELDS: usize = 50;

/// A cell whose accesses are counted under loom.
pub(super) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub(super) fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell(core::cell::UnsafeCell::new(value))
    }

    /// Calls `f` with the address, for reading.
    pub(super) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    /// Calls `f` with the address, for writing.
    pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}
