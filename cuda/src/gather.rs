//! Rows gathered, added up and scattered by index.

use crate::context::{DriverResult, Failure};
use crate::kernels::{LibraryKernel, grid_of};
use crate::state::State;
use cudarc::driver::PushKernelArg;
use fallline_core::backend::{GatherSum, Scatter, View};
use fallline_core::{Compute, Error, Format, Result, Storage};

/// Adds up rows: see [`Indexing::gather_sum`](fallline_core::backend::Indexing::gather_sum).
pub(crate) fn sum(state: &mut State, rows: GatherSum<'_>) -> Result<()> {
    state.enter("adding up rows")?;
    rows.check()?;
    let GatherSum { from, width, order, ends, to } = rows;
    reachable(state, "gather_sum", &from, to)?;
    if ends.is_empty() || width == 0 {
        return Ok(());
    }
    let compute = if to.format() == Format::F64 { Compute::F64 } else { Compute::F32 };
    let lone = from.format() == to.format() && ends.iter().enumerate().all(|(i, &end)| end == i as u64 + 1);
    if lone {
        let limit = from.len() / width;
        let kernel = LibraryKernel::GatherRows(from.format().bytes());
        return copy(state, kernel, [from.address(), to.address()], width, order, limit);
    }
    let mut index = order.to_vec();
    index.push(0);
    index.extend_from_slice(ends);
    let (source, target) = (from.address() as u64, to.address() as u64);
    let (width, count) = (width as u64, ends.len() as u32);
    launch(state, LibraryKernel::AddRows(from.format(), compute), &index, ends.len(), |call, index| {
        let ends = index + 8 * order.len() as u64;
        call([source, target, index, ends, width], count)
    })
}

/// Scatters rows: see [`Indexing::scatter`](fallline_core::backend::Indexing::scatter).
pub(crate) fn scatter(state: &mut State, rows: Scatter<'_>) -> Result<()> {
    state.enter("scattering rows")?;
    rows.check()?;
    let Scatter { from, width, index, to } = rows;
    reachable(state, "scatter", &from, to)?;
    if index.is_empty() || width == 0 {
        return Ok(());
    }
    let kernel = LibraryKernel::ScatterRows(from.format().bytes());
    let limit = to.len() / width;
    copy(state, kernel, [from.address(), to.address()], width, index, limit)
}

fn reachable(state: &State, operation: &'static str, from: &View<'_>, to: &Storage) -> Result<()> {
    let wrong = |what: &str| Error::Unreachable { operation, what: what.into(), device: state.ctx.device };
    match (from.on_host(), to.on_host()) {
        (true, _) => Err(wrong("the rows")),
        (_, true) => Err(wrong("the target")),
        _ => Ok(()),
    }
}

/// Copies rows as they are, one for each number of the index.
fn copy(
    state: &mut State,
    kernel: LibraryKernel,
    [from, to]: [usize; 2],
    width: usize,
    index: &[u64],
    limit: usize,
) -> Result<()> {
    let (LibraryKernel::GatherRows(bytes) | LibraryKernel::ScatterRows(bytes)) = kernel else {
        unreachable!("sums are not copies")
    };
    let (row, count) = ((width * bytes) as u64, index.len() as u32);
    launch(state, kernel, index, index.len(), |call, index| {
        call([from as u64, to as u64, index, row, limit as u64], count)
    })
}

/// Uploads the index and launches, with a warp for each of `rows`. `arguments` hands the kernel's five words and its
/// count on, once it is told where the index is.
fn launch(
    state: &mut State,
    kernel: LibraryKernel,
    index: &[u64],
    rows: usize,
    arguments: impl FnOnce(&mut dyn FnMut([u64; 5], u32) -> DriverResult<()>, u64) -> DriverResult<()>,
) -> Result<()> {
    let mut launched = false;
    let work = || {
        let function = state.kernels.library(&state.ctx, kernel)?;
        let address = state.index.reserve(&state.ctx, size_of_val(index))?;
        // SAFETY: the buffer has room for the index; kernels that read what was in it come before in the order of the
        // stream.
        unsafe { state.tables.upload(&state.ctx.compute, address, bytemuck::cast_slice(index))? };
        state.ctx.running(kernel.name());
        let stream = &state.ctx.compute;
        arguments(
            &mut |words, count| {
                let mut call = stream.launch_builder(&function);
                for word in &words {
                    call.arg(word);
                }
                call.arg(&count);
                // SAFETY: the arguments are those of the kernel's interface; every row that they name was checked to
                // lie in memory that the caller borrows.
                unsafe { call.launch(grid_of(rows)) }.map_err(Failure::at("launching a kernel"))?;
                launched = true;
                Ok(())
            },
            address,
        )
    };
    let done = work();
    done.map_err(|failure| state.ctx.error(failure, launched))
}
