//! Sums along one axis.

use crate::context::{DriverResult, Failure, on_device};
use crate::kernels::{Along, LibraryKernel, WARP, grid_of};
use crate::state::State;
use cudarc::driver::{CudaFunction, PushKernelArg};
use fallline_core::backend::{AxisReduction, MatrixReduction};
use fallline_core::{Compute, Error, Format, Result};
use std::sync::Arc;

const OPERATION: &str = "reduce_axis";
/// The most rows, and sums, that kernels count: a block of 256 threads more would not fit into 32 bits.
const COUNTED: usize = u32::MAX as usize - 255;
/// The most elements of a row.
const LONGEST: usize = i32::MAX as usize - AxisReduction::ACCUMULATORS + 1;

/// A launch: what the kernel is told, and the warps that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    dims: Vec<u32>,
    warps: usize,
    /// How many sums it leaves behind.
    sums: usize,
}

/// Returns the launches that add up, one on the result of the other.
fn steps(outer: usize, count: usize, inner: usize) -> Result<(Along, Vec<Step>)> {
    let counted = |what: &str, extent: usize, most: usize| match extent <= most {
        true => Ok(extent as u32),
        false => {
            let problem = format!("{OPERATION}: {extent} {what} are more than a kernel counts ({most})");
            Err(Error::Unavailable(problem))
        }
    };
    if inner == 1 {
        let dims = vec![counted("rows", outer, COUNTED)?, counted("elements of a row", count, LONGEST)?];
        let of_lane = AxisReduction::ACCUMULATORS / WARP as usize;
        let lanes = count.div_ceil(of_lane).next_power_of_two().min(WARP as usize);
        let warps = outer.div_ceil(WARP as usize / lanes);
        return Ok((Along::Rows(lanes), vec![Step { dims, warps, sums: outer }]));
    }
    let mut steps = Vec::new();
    let mut rows = count;
    loop {
        // Without rows there is a strip of none.
        let strips = rows.div_ceil(AxisReduction::STRIP).max(1);
        let sums = outer.saturating_mul(strips).saturating_mul(inner);
        counted("sums of strips", sums, COUNTED)?;
        let dims = vec![outer as u32, counted("rows", rows, COUNTED)?, inner as u32];
        steps.push(Step { dims, warps: sums.div_ceil(WARP as usize), sums });
        if strips == 1 {
            return Ok((Along::Columns, steps));
        }
        rows = strips;
    }
}

/// Reduces an axis: see [`Reductions::reduce_axis`](fallline_core::backend::Reductions::reduce_axis).
pub(crate) fn sum(state: &mut State, sums: AxisReduction<'_>) -> Result<()> {
    state.enter_to_run()?;
    sums.check()?;
    let AxisReduction { from, squares, outer, count, inner, to } = sums;
    if from.on_host() {
        let what = "what is added up on the host".into();
        return Err(Error::Unreachable { operation: OPERATION, what, device: state.ctx.device });
    }
    on_device(state.ctx.device, OPERATION, "the sums", to)?;
    if to.is_empty() {
        return Ok(());
    }
    let (along, steps) = steps(outer, count, inner)?;
    let compute = if to.format() == Format::F64 { Compute::F64 } else { Compute::F32 };
    let mut launched = false;
    let size = |step: &Step| to.format().size(step.sums);
    let room = steps[..steps.len() - 1].iter().map(size).sum();
    let strips = match state.is_capturing() {
        true => state.strips.at(room).ok_or_else(|| {
            Error::Unavailable(format!("{OPERATION}: step these tensors once before they are captured"))
        })?,
        false => {
            let at = state.strips.reserve(&state.ctx, room);
            at.map_err(|failure| state.ctx.error(failure, false))?
        }
    };
    let dims = [outer, count, inner, usize::from(squares)].map(|x| x as u64);
    let told = [from.address() as u64, to.address() as u64, strips].into_iter().chain(dims).collect();
    if !state.launches(OPERATION, told, state.strips.owner())? {
        return Ok(());
    }
    let mut work = || {
        // Only what is added up first is squared.
        let kernel = |squares| LibraryKernel::SumAxis { along, compute, squares };
        let kernels = [Some(kernel(squares)), (steps.len() > 1).then_some(kernel(false))];
        let functions: Vec<CudaFunction> = (kernels.into_iter().flatten())
            .map(|kernel| state.kernels.library(&state.ctx, kernel))
            .collect::<DriverResult<_>>()?;
        let (last, before) = steps.split_last().expect("one launch at least");
        let mut free = strips;
        let stream = Arc::clone(&state.ctx.compute);
        state.ctx.running(OPERATION);
        let mut source = from.address() as u64;
        for (i, step) in steps.iter().enumerate() {
            let target = if i < before.len() { free } else { to.address() as u64 };
            let mut call = stream.launch_builder(&functions[i.min(1)]);
            call.arg(&source).arg(&target);
            step.dims.iter().for_each(|extent| _ = call.arg(extent));
            // SAFETY: the arguments are those of the kernel's interface. What it reads and writes was checked to be
            // in memory that the caller borrows, and the buffer has room for the sums of all strips.
            unsafe { call.launch(grid_of(step.warps)) }.map_err(Failure::at("launching a kernel"))?;
            launched = true;
            free += size(step) as u64;
            source = target;
        }
        debug_assert_eq!(last.sums, to.len());
        Ok(())
    };
    work().map_err(|failure| state.ctx.error(failure, launched))
}

/// Reduces rows and columns: see
/// [`Reductions::reduce_rows_and_columns`](fallline_core::backend::Reductions::reduce_rows_and_columns).
pub(crate) fn sum_both(state: &mut State, mut sums: MatrixReduction<'_>) -> Result<()> {
    sums.check()?;
    for to in [&*sums.by_row, &*sums.by_column] {
        on_device(state.ctx.device, "reduce_rows_and_columns", "the sums", to)?;
    }
    let parts = sums.parts();
    parts.iter().try_for_each(|sums| steps(sums.outer, sums.count, sums.inner).map(drop))?;
    parts.into_iter().try_for_each(|part| sum(state, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_as_many_lanes_as_they_need() {
        let lanes = |count| match steps(1000, count, 1).unwrap() {
            (Along::Rows(lanes), steps) => (lanes, steps[0].warps),
            other => panic!("{other:?}"),
        };
        assert_eq!([0, 1, 4].map(lanes), [(1, 32); 3]);
        assert_eq!([5, 8, 9].map(lanes), [(2, 63), (2, 63), (4, 125)]);
        assert_eq!(
            [64, 65, 127, 128, 129].map(lanes),
            [(16, 500), (32, 1000), (32, 1000), (32, 1000), (32, 1000)]
        );
    }

    #[test]
    fn strips_are_added_up_until_there_is_one() {
        let (along, steps) = steps(5, 70_000, 3).unwrap();
        assert_eq!(along, Along::Columns);
        // 274 strips, then 2, then 1.
        assert_eq!(steps.iter().map(|step| step.sums).collect::<Vec<_>>(), [5 * 274 * 3, 5 * 2 * 3, 5 * 3]);
        assert_eq!(steps[1].dims, [5, 274, 3]);
        assert_eq!(steps[1].warps, 1);
        assert_eq!(super::steps(7, 0, 2).unwrap().1[0].sums, 14);
    }

    #[test]
    fn what_a_kernel_does_not_count_is_refused() {
        let refused = |outer, count, inner| steps(outer, count, inner).unwrap_err().to_string();
        let counts = |outer, count, inner| steps(outer, count, inner).is_ok();
        assert!(counts(COUNTED, 1, 1) && counts(1, LONGEST, 1) && counts(1, COUNTED, 2));
        assert!(counts(1, 1, COUNTED) && counts(COUNTED / 2, 256, 2));
        assert!(refused(COUNTED + 1, 1, 1).contains("4294967041 rows are more"));
        assert!(refused(1, LONGEST + 1, 1).contains("2147483521 elements of a row"));
        assert!(refused(1, COUNTED + 1, 2).contains("4294967041 rows"));
        assert!(refused(COUNTED / 2, 257, 2).contains("8589934080 sums of strips"));
        assert!(refused(1, 1, COUNTED + 1).contains("sums of strips"));
        assert!(refused(usize::MAX, usize::MAX, 2).contains("sums of strips"));
    }
}
