//! Passes over many small tensors: the threads begin with the first ones while the caller still walks over the others.
//!
//! The caller fills one table after another. A table that is full is published, and belongs to the thread that
//! takes it. The caller takes what is left when it has walked over all tensors. Which thread works on what changes
//! nothing but time, as these rules have no sums.

#[cfg(test)]
mod tests;

use super::constants::Constants;
use super::fused::run_chunk;
use super::state::PassState;
use super::table::Table;
use super::tiling::chunks;
use super::walk::{SMALL, Walk};
use crate::codec::Coded;
use crate::kernels::ComputeType;
use crate::pool::Pool;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use fallline_core::{Kernel, Result};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Tensors from which on the walk is worth it: some 20 µs, as it takes to wake a thread.
const MANY: usize = 256;

/// Looks at what is published before a thread gives its core away.
const SPINS: usize = 200;

/// Tables to be filled and published, kept between passes.
#[derive(Debug, Default)]
pub(super) struct Feed {
    tables: Vec<Mutex<Table>>,
}

/// How far tables are published and taken.
#[derive(Default)]
struct Progress {
    published: AtomicUsize,
    taken: AtomicUsize,
    /// Whether no more will be published.
    closed: AtomicBool,
}

/// Closes what is fed, after a panic of the caller's too: threads wait for it.
struct Close<'p>(&'p Progress);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// Makes as many tables as a pass like the last one fills, or none where it is not worth it. The last one had
    /// this many tensors, and this many elements in those smaller than [`SMALL`].
    pub(super) fn fit(&mut self, tensors: usize, elements: usize) {
        let worth = tensors >= MANY && elements >= 8 * SMALL;
        self.tables.resize_with(if worth { elements / SMALL + 1 } else { 0 }, Mutex::default);
    }

    /// Returns whether there is anything to fill.
    pub(super) fn is_worth(&self) -> bool {
        !self.tables.is_empty()
    }

    /// Walks over a pass's tensors, and runs its rules over the small ones meanwhile; others go to `table`. Returns whether
    /// anything may have been written, and how the walk ended.
    pub(super) fn run<T: ComputeType + Coded>(
        &self,
        pool: &Pool,
        pass: &PassState<'_, T>,
        scalars: &Constants<'_>,
        walk: &mut Walk<'_, '_>,
        table: &mut Table,
    ) -> (bool, Result<()>) {
        let progress = Progress::default();
        let mut walked = Ok(());
        pool.feed(
            || {
                let _close = Close(&progress);
                walked = self.fill(pass.rule.kernel, scalars, walk, table, &progress);
            },
            || self.drain(pass, &progress),
        );
        (progress.published.into_inner() > 0, walked)
    }

    fn fill(
        &self,
        kernel: &Kernel,
        scalars: &Constants<'_>,
        walk: &mut Walk<'_, '_>,
        table: &mut Table,
        progress: &Progress,
    ) -> Result<()> {
        let rows = scalars.count(kernel);
        let mut tables = self.tables.iter();
        let mut next = || {
            let mut table = lock(tables.next()?);
            table.clear();
            Some(table)
        };
        let (mut open, mut elements) = (next(), 0);
        while let Some(tensor) = walk.next()? {
            if tensor.constant_set >= rows {
                return Err(scalars.lacks(kernel, tensor.constant_set));
            }
            match &mut open {
                Some(open) if tensor.elements < SMALL => walk.add(open, tensor),
                _ => {
                    walk.add(table, tensor);
                    continue;
                }
            }
            elements += tensor.elements;
            // Where the next table begins, registers of flat buffers are as aligned as at their beginning.
            if elements >= SMALL && elements.is_multiple_of(16) || elements >= 2 * SMALL {
                drop(open.take());
                progress.published.fetch_add(1, Ordering::Release);
                (open, elements) = (next(), 0);
            }
        }
        drop(open);
        if elements > 0 {
            progress.published.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }

    /// Runs the rules over tables until there will be no more.
    fn drain<T: ComputeType + Coded>(&self, pass: &PassState<'_, T>, progress: &Progress) {
        let mut spins = 0;
        loop {
            // In this order: what was published before it closed is seen.
            let closed = progress.closed.load(Ordering::Acquire);
            let published = progress.published.load(Ordering::Acquire);
            let take = |taken: usize| (taken < published).then_some(taken + 1);
            match progress.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                Ok(taken) => {
                    let table = lock(&self.tables[taken]);
                    let pass = PassState { table: &table, ..*pass };
                    let lengths = table.tensors.iter().map(|&(elements, _)| elements);
                    chunks(lengths).for_each(|chunk| run_chunk(&pass, &chunk));
                    spins = 0;
                }
                Err(_) if closed => return,
                Err(_) => {
                    spins += 1;
                    if spins < SPINS { core::hint::spin_loop() } else { std::thread::yield_now() }
                }
            }
        }
    }
}
