//! What a launch needs: kernels loaded, memory reserved, tables and rows of scalars on the device.

use super::plan::{CudaPlan, Launch};
use crate::context::DriverResult;
use crate::kernels::LibraryKernel;
use crate::staging::Upload;
use crate::state::State;
use cudarc::driver::CudaFunction;
use fallline_core::{Compute, Kernel};
use std::sync::Arc;

/// What the launch of a rule needs that may be missing.
pub(super) struct LoadedRule {
    pub(super) functions: Vec<CudaFunction>,
    /// The kernel of its numbers, where they are computed on the device, and that of the gradient's factor.
    pub(super) numbers: Option<CudaFunction>,
    pub(super) scale: Option<CudaFunction>,
    /// Where its tables, rows of scalars and partial sums are.
    pub(super) at: [u64; 3],
}

/// The kernel that folds partial sums, and where the sums go.
pub(super) type Reduction = (CudaFunction, u64);

impl CudaPlan {
    /// Loads kernels and reserves memory for a launch.
    pub(super) fn load(
        &mut self,
        state: &mut State,
        kernel: &'static Kernel,
        compute: Compute,
    ) -> DriverResult<LoadedRule> {
        let functions = self.functions(state, kernel, compute)?;
        let numbers = self.numbers.ready(state, kernel, compute, &mut self.row_bytes)?;
        let scale = self.scale(state, compute)?;
        let tables = self.tables.reserve(&state.ctx, self.new.bytes().iter().sum())?;
        let rows = self.rows.reserve(&state.ctx, self.row_bytes.len())?;
        let partials = self.partials.reserve(&state.ctx, self.new.partial_bytes(kernel))?;
        Ok(LoadedRule { functions, numbers, scale, at: [tables, rows, partials] })
    }

    /// Returns the kernel of each launch.
    pub(super) fn functions(
        &self,
        state: &mut State,
        kernel: &'static Kernel,
        compute: Compute,
    ) -> DriverResult<Vec<CudaFunction>> {
        let skips = self.skips(kernel);
        let of =
            |launch: &Launch| state.kernels.elements(&state.ctx, kernel, compute, (&launch.stored, skips));
        self.launches.iter().map(of).collect()
    }

    /// Returns the kernel that multiplies the gradient's factor, if one on the device does.
    pub(super) fn scale(&self, state: &mut State, compute: Compute) -> DriverResult<Option<CudaFunction>> {
        let scale = LibraryKernel::ScaleRows(compute);
        self.scaling.map(|_| state.kernels.library(&state.ctx, scale)).transpose()
    }

    /// Returns whether a number on the device says if the pass is left out.
    pub(super) fn skips(&self, kernel: &Kernel) -> bool {
        kernel.between.declared.may_skip && self.numbers.launches()
    }

    /// Returns the kernel that folds the rule's sums, and memory for them, if it has any.
    pub(super) fn load_reduction(
        &mut self,
        state: &mut State,
        kernel: &Kernel,
    ) -> DriverResult<Option<Reduction>> {
        let (tensors, width) = (self.tensors(), kernel.sums.len());
        if tensors * width == 0 {
            return Ok(None);
        }
        let function = state.kernels.library(&state.ctx, LibraryKernel::FinalReduce)?;
        let bytes = |tensors: usize| tensors * width * size_of::<f64>();
        let mut sums = self.sums.reserve(&state.ctx, bytes(self.rows_of.len()))?;
        if !self.wholes.is_empty() {
            sums = self.whole_sums.reserve(&state.ctx, bytes(tensors))?;
        }
        Ok(Some((function, sums)))
    }

    /// Uploads what changed.
    pub(super) fn upload(&mut self, state: &mut State, rule: &LoadedRule) -> DriverResult<()> {
        let [tables, rows, _] = rule.at;
        self.upload_tables(state, tables)?;
        self.upload_rows(state, rows)
    }

    /// Uploads the tables, if they are not those that are there.
    pub(super) fn upload_tables(&mut self, state: &mut State, at: u64) -> DriverResult<()> {
        if self.known_at == Some(at) && self.known == self.new {
            return Ok(());
        }
        let stream = Arc::clone(&state.ctx.compute);
        self.known_at = None;
        let mut address = at;
        for table in self.new.in_order() {
            // SAFETY: the buffer has room for the three tables; kernels of earlier passes that read it come
            // before in the order of the stream.
            unsafe { state.tables.upload(&stream, address, bytemuck::cast_slice(table))? };
            address += size_of_val(table) as u64;
        }
        core::mem::swap(&mut self.known, &mut self.new);
        self.known_at = Some(at);
        Ok(())
    }

    /// Uploads the rows of scalars, and the powers that the device has not got yet.
    pub(super) fn upload_rows(&mut self, state: &mut State, at: u64) -> DriverResult<()> {
        let stream = Arc::clone(&state.ctx.compute);
        let new: Vec<Upload> = self.numbers.uploads().collect();
        for (address, bytes) in &new {
            // SAFETY: the table of powers has room for them, and is read in the order of the stream alone.
            unsafe { state.tables.upload(&stream, *address, bytes)? };
        }
        self.numbers.uploaded();
        // SAFETY: the buffer has room for the rows; kernels of earlier passes that read it come before in the
        // order of the stream.
        unsafe { state.tables.upload(&stream, at, &self.row_bytes) }
    }
}
