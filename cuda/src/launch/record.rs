//! A pass of a step that a CUDA graph captures or replays.

use super::load::LoadedRule;
use super::plan::CudaPlan;
use crate::context::DriverResult;
use crate::kernels::LibraryKernel;
use crate::memory::Buffer;
use crate::recording::{Recorded, RecordedPass};
use crate::state::State;
use cudarc::driver::CudaFunction;
use fallline_core::{Compute, Error, Kernel, Result};

impl CudaPlan {
    /// A pass of a step that is captured: its launches are recorded, and its rows uploaded before the graph's first
    /// launch. Or one that is replayed: its rows are uploaded, and it must be the one that was recorded.
    pub(super) fn record(
        &mut self,
        state: &mut State,
        kernel: &'static Kernel,
        compute: Compute,
        queued: bool,
    ) -> Result<()> {
        let refused = |problem: &str| Err(Error::Unavailable(format!("{}: {problem}", kernel.name)));
        if !(queued || kernel.sums.is_empty()) {
            return refused("its sums come back to the host, so that its step cannot be captured");
        }
        if !self.wholes.is_empty() {
            return refused("it takes tensors in parts, as row-sparse gradients say in each step anew");
        }
        let replays = state.recording.as_ref().is_some_and(|recording| recording.replayed.is_some());
        let numbers = match replays {
            // Powers may need more memory by now.
            true => {
                let ready = self.numbers.ready(state, kernel, compute, &mut self.row_bytes);
                ready.map_err(|failure| state.ctx.error(failure, false))?;
                Some(())
            }
            false => self.numbers.ready_again(kernel, &mut self.row_bytes),
        };
        let partials = self.partials.at(self.new.partial_bytes(kernel));
        let sums = self.sums.at(self.rows_of.len() * kernel.sums.len() * size_of::<f64>());
        let sums = sums.or_else(|| kernel.sums.is_empty().then_some(0));
        let ready = (self.known_at, self.rows.at(self.row_bytes.len()), partials, sums, numbers);
        let (Some(tables), Some(rows), Some(partials), Some(sums), Some(())) = ready else {
            return refused(
                "step these tensors once before they are captured: it allocates memory and loads kernels",
            );
        };
        let [read, work] = self.numbers.told();
        let told = [read, work, sums];
        let Some(recording) = &mut state.recording else { unreachable!("asked for by a capture") };
        if let Some(replayed) = &mut recording.replayed {
            let expected = recording.passes.get(*replayed).and_then(Recorded::pass).filter(|expected| {
                let same = core::ptr::eq(expected.kernel, kernel) && expected.tables == self.new;
                same && (expected.tables_at, expected.rows_at) == (tables, rows)
                    && (expected.row_bytes, expected.told) == (self.row_bytes.len(), told)
            });
            if expected.is_none() {
                return refused("this is not the pass that was captured: capture the step again");
            }
            *replayed += 1;
            let uploaded = self.upload_tables(state, tables).and_then(|()| self.upload_rows(state, rows));
            // The graph's launch folds them again.
            self.kept = (!kernel.sums.is_empty()).then_some((self.rows_of.len(), kernel.sums.len()));
            return uploaded.map_err(|failure| state.ctx.error(failure, false));
        }
        if self.known != self.new {
            return refused("step these tensors once before they are captured");
        }
        let launched = self.launch_captured(state, (kernel, compute), [tables, rows, partials], sums);
        let mut functions = launched.map_err(|failure| state.ctx.error(failure, false))?;
        let memory = [&self.tables, &self.rows, &self.partials, &self.sums];
        let memory = memory.into_iter().filter_map(Buffer::owner).chain(self.numbers.memory());
        let recorded = RecordedPass {
            kernel,
            tables: self.new.clone(),
            tables_at: tables,
            rows_at: rows,
            row_bytes: self.row_bytes.len(),
            told,
            memory: memory.collect(),
            functions: core::mem::take(&mut functions),
        };
        if let Some(recording) = &mut state.recording {
            recording.passes.push(Recorded::Pass(recorded));
            recording.uploads.push((rows, self.row_bytes.clone()));
            recording.uploads.extend(self.numbers.uploads());
        }
        Ok(())
    }

    /// Launches everything of a pass that is captured. Returns what was launched.
    fn launch_captured(
        &mut self,
        state: &mut State,
        (kernel, compute): (&'static Kernel, Compute),
        at: [u64; 3],
        sums: u64,
    ) -> DriverResult<Vec<CudaFunction>> {
        let numbers = self.numbers.function(state, kernel, compute)?;
        let scale = self.scale(state, compute)?;
        let mut rule = LoadedRule { functions: self.functions(state, kernel, compute)?, numbers, scale, at };
        self.launch_kernels(state, kernel, &rule, &mut false)?;
        if self.rows_of.len() * kernel.sums.len() > 0 {
            let fold = (state.kernels.library(&state.ctx, LibraryKernel::FinalReduce)?, sums);
            self.launch_reduction(state, kernel, &fold)?;
            rule.functions.push(fold.0);
        }
        rule.functions.extend(rule.numbers.into_iter().chain(rule.scale));
        Ok(rule.functions)
    }
}
