//! The process that a pool's threads are in.

use core::sync::atomic::{AtomicUsize, Ordering};

/// How often this process's line of ancestors was forked since the first pool.
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// A process, told from the children that are forked from it.
#[derive(Debug)]
pub(super) struct Process(usize);

impl Process {
    /// Returns the process that this is.
    pub(super) fn current() -> Process {
        watch();
        Process(FORKS.load(Ordering::Relaxed))
    }

    /// Returns whether this is a child that was forked from it.
    pub(super) fn is_forked(&self) -> bool {
        FORKS.load(Ordering::Relaxed) != self.0
    }
}

/// Has every fork counted in the child. A look at the counter costs a pass nothing, where asking for the process's
/// number is a system call.
#[cfg(unix)]
fn watch() {
    extern "C" fn count() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
    static WATCH: std::sync::Once = std::sync::Once::new();
    WATCH.call_once(|| {
        // SAFETY: the function is there as long as the process, and adds to an atomic, which a child may do. On an
        // error, for lack of memory, forks go unseen.
        unsafe { libc::pthread_atfork(None, None, Some(count)) };
    });
}

#[cfg(not(unix))]
fn watch() {}
