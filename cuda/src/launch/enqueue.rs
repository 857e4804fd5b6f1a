//! The launches of a rule: its numbers, the gradient's factor, its kernels, and the reduction of its sums.

use super::load::{LoadedRule, Reduction};
use super::plan::{CudaPlan, Launch, Scaling};
use crate::context::{DriverResult, Failure};
use crate::kernels::{WARP, grid_of};
use crate::memory::managed;
use crate::state::State;
use core::ops::Range;
use cudarc::driver::{CudaStream, PushKernelArg};
use fallline_core::Kernel;
use std::sync::Arc;

/// Bytes of managed memory that are prefetched to the device at a time.
const PREFETCHED: usize = 64 << 20;

/// Chunks that are launched together.
struct LaunchSlice {
    chunks: Range<usize>,
    /// Addresses and bytes of what they touch in managed memory.
    ranges: Vec<(u64, usize)>,
}

impl LaunchSlice {
    fn prefetch(&self, stream: &CudaStream) -> DriverResult<()> {
        self.ranges.iter().try_for_each(|&(address, bytes)| managed::prefetch(stream, address, bytes))
    }
}

impl CudaPlan {
    /// Launches the kernel of the rule's numbers, and its own for each mix of formats. `launched` is set with the first.
    pub(super) fn launch_kernels(
        &self,
        state: &mut State,
        kernel: &'static Kernel,
        rule: &LoadedRule,
        launched: &mut bool,
    ) -> DriverResult<()> {
        let LoadedRule { functions, numbers, scale, at: [tables, rows, partials] } = rule;
        let (&tables, &rows, &partials) = (tables, rows, partials);
        if self.numbers.launches() {
            self.numbers.launch(state, kernel, numbers.as_ref(), rows)?;
            *launched = true;
        }
        let skip = self.skips(kernel).then(|| self.numbers.skip());
        let stream = Arc::clone(&state.ctx.compute);
        if let (Some(Scaling { scales, rows: count, bytes }), Some(scale)) = (self.scaling, scale) {
            let scales = rows + scales;
            let mut call = stream.launch_builder(scale);
            call.arg(&rows).arg(&scales).arg(&count).arg(&bytes);
            // SAFETY: the arguments are those of the kernel's interface; the factors were laid behind the rows.
            unsafe { call.launch(grid_of((count as usize).div_ceil(WARP as usize))) }
                .map_err(Failure::at("launching a kernel"))?;
            *launched = true;
        }
        let chunks_at = tables + size_of_val(&self.known.tensors[..]) as u64;
        let slices = self.slices(state, kernel);
        let functions = self.launches.iter().zip(functions);
        let function_of = |slice: &LaunchSlice| {
            let at = slice.chunks.start;
            functions.clone().find(|(launch, _)| (launch.first..launch.first + launch.count).contains(&at))
        };
        for (i, slice) in slices.iter().enumerate() {
            let Some((launch, function)) = function_of(slice) else { continue };
            if i == 0 {
                slice.prefetch(&stream)?;
            }
            if let Some(next) = slices.get(i + 1) {
                // Overlapped with the computation.
                next.prefetch(&state.ctx.copies)?;
            }
            let (chunks, count) = (chunks_at + 16 * slice.chunks.start as u64, slice.chunks.len() as u32);
            let mut call = stream.launch_builder(function);
            call.arg(&tables).arg(&chunks).arg(&rows).arg(&partials).arg(&count);
            let keys = rows + self.keys_at.unwrap_or(0);
            if launch.stored.iter().any(|stored| stored.stochastic) {
                call.arg(&keys);
            }
            if let Some(skip) = &skip {
                call.arg(skip);
            }
            state.ctx.running(kernel.name);
            // SAFETY: the arguments are those of the kernel's interface. The tables describe memory that the pass's
            // views borrow, and what they own is freed in the order of the stream.
            unsafe { call.launch(grid_of(slice.chunks.len())) }.map_err(Failure::at("launching a kernel"))?;
            *launched = true;
        }
        Ok(())
    }

    /// Returns what is launched at a time: all chunks that are stored alike. Where some of it is in managed memory,
    /// as much of them as is prefetched to the device while the slice before is processed.
    fn slices(&self, state: &mut State, kernel: &Kernel) -> Vec<LaunchSlice> {
        let whole = |launch: &Launch| launch.first..launch.first + launch.count;
        let with_work = self.launches.iter().filter(|launch| launch.count > 0).map(whole);
        // Nothing is prefetched in a step that is captured.
        let prefetches = self.managed.contains(&true) && state.recording.is_none() && {
            let compute = &state.ctx.compute;
            *state.prefetches.get_or_insert_with(|| managed::prefetches(compute))
        };
        if !prefetches {
            return with_work.map(|chunks| LaunchSlice { chunks, ranges: Vec::new() }).collect();
        }
        let operands = kernel.operands.len();
        let mut slices = Vec::new();
        for chunks in with_work {
            let (mut first, mut bytes) = (chunks.start, 0);
            let mut ranges: Vec<(u64, usize)> = Vec::new();
            for chunk in chunks.clone() {
                let [begin, at] = [0, 1].map(|word| self.known.chunks[2 * chunk + word]);
                let (tensor, begin, count) = (at as u32 as usize, begin as usize, (at >> 32) as usize);
                let record = &self.known.tensors[tensor * (2 * operands + 2)..];
                // What is repeated is small, and other than the chunk says: it comes when it is read.
                let brought = |k: &usize| {
                    let place = tensor * operands + k;
                    self.managed[place] && !self.stored[place].repeated
                };
                for k in (0..operands).filter(brought) {
                    let format = self.stored[tensor * operands + k].format;
                    let start = record[2 * k] + format.size(begin) as u64;
                    let length = format.size(count);
                    bytes += length;
                    match ranges.iter_mut().find(|(at, before)| at + *before as u64 == start) {
                        Some((_, before)) => *before += length,
                        None => ranges.push((start, length)),
                    }
                }
                if bytes >= PREFETCHED || chunk + 1 == chunks.end {
                    slices
                        .push(LaunchSlice { chunks: first..chunk + 1, ranges: core::mem::take(&mut ranges) });
                    (first, bytes) = (chunk + 1, 0);
                }
            }
        }
        slices
    }

    /// Folds the partial sums that a launch has left.
    pub(super) fn launch_reduction(
        &mut self,
        state: &mut State,
        kernel: &Kernel,
        (fold, found): &Reduction,
    ) -> DriverResult<()> {
        let stream = Arc::clone(&state.ctx.compute);
        let [tensors, chunks, segments, _] = self.known.bytes().map(|bytes| bytes as u64);
        let partials = self.partials.at(self.known.partial_bytes(kernel)).unwrap_or(0);
        let segments_at = self.known_at.unwrap_or(0) + tensors + chunks;
        let width = kernel.sums.len() as u32;
        let launch = |ranges: u64, from: u64, to: u64, tensors: usize| {
            let (tensors, config) = (tensors as u32, grid_of(tensors * width as usize));
            let mut call = stream.launch_builder(fold);
            call.arg(&ranges).arg(&from).arg(&to).arg(&tensors).arg(&width);
            // SAFETY: as above; the kernel writes one number for each tensor and sum.
            unsafe { call.launch(config) }.map_err(Failure::at("launching a kernel"))
        };
        if self.wholes.is_empty() {
            launch(segments_at, partials, *found, self.rows_of.len())?;
        } else {
            // Sums of parts fold as those of segments do.
            let parts = self.sums.at(self.rows_of.len() * kernel.sums.len() * size_of::<f64>()).unwrap_or(0);
            if !self.rows_of.is_empty() {
                launch(segments_at, partials, parts, self.rows_of.len())?;
            }
            launch(segments_at + segments, parts, *found, self.wholes.len())?;
        }
        self.kept = Some((self.tensors(), kernel.sums.len()));
        Ok(())
    }

    /// Waits for the sums.
    pub(super) fn download(&mut self, state: &mut State, found: u64, sums: &mut [f64]) -> DriverResult<()> {
        let stream = Arc::clone(&state.ctx.compute);
        self.sum_bytes.resize(size_of_val(sums), 0);
        // SAFETY: the buffer holds the sums, written before in the order of the stream.
        unsafe { state.staging.download(&stream, found, &mut self.sum_bytes)? };
        for (sum, bytes) in sums.iter_mut().zip(self.sum_bytes.as_chunks().0) {
            *sum = f64::from_le_bytes(*bytes);
        }
        // The sums came after everything else.
        state.ctx.idle();
        Ok(())
    }
}
