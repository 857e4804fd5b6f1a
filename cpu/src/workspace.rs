//! Memory for packed factors and partial sums, kept between calls: fresh pages would cost as much as the packing.

use fallline_core::{Device, Format, Result, Storage};
use std::sync::{Mutex, MutexGuard, TryLockError};

/// Buffers that wait for the next call. Nobody waits for them: a thread that finds them locked does without, as does a
/// child that was forked while they were.
#[derive(Debug, Default)]
pub(crate) struct Workspace(Mutex<Vec<Storage>>);

impl Workspace {
    /// Returns a buffer of at least this many bytes, with anything in it.
    pub(crate) fn acquire(&self, bytes: usize) -> Result<Storage> {
        let elements = bytes.div_ceil(4).max(1024);
        if let Some(mut free) = self.free() {
            let fitting = (0..free.len()).filter(|&i| free[i].len() >= elements);
            if let Some(best) = fitting.min_by_key(|&i| free[i].len()) {
                return Ok(free.swap_remove(best));
            }
            // The one that is too small for this is too small for what comes as well.
            let smallest = (0..free.len()).min_by_key(|&i| free[i].len());
            drop(smallest.map(|i| free.swap_remove(i)));
        }
        Ok(crate::memory::allocate(Device::Cpu, &[(Format::F32, elements)])?.remove(0))
    }

    /// Keeps a buffer for the next who takes one.
    pub(crate) fn release(&self, buffer: Storage) {
        if let Some(mut free) = self.free() {
            free.push(buffer);
        }
    }

    fn free(&self) -> Option<MutexGuard<'_, Vec<Storage>>> {
        match self.0.try_lock() {
            Ok(free) => Some(free),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Returns the address of a buffer's first byte, aligned to a cache line.
pub(crate) fn address<T>(buffer: &mut Storage) -> *mut T {
    core::ptr::with_exposed_provenance_mut(buffer.address())
}
