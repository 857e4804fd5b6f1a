//! Rows gathered, added up and scattered by index; matrices mirrored.

use crate::context::{Failure, Lasting, State};
use crate::launch::config;
use crate::ptx::{self, Ptx, Target};
use crate::reduce::AxisKernel;
use cudarc::driver::{LaunchConfig, PushKernelArg};
use fallline_core::backend::{RowScatter, RowSums, View};
use fallline_core::{Compute, Error, Format, Result, Storage};
use std::sync::Arc;

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RowKernel {
    /// Sums of rows of a format, in a type.
    Sum(Format, Compute),
    /// Rows of elements of so many bytes.
    Gather(usize),
    Scatter(usize),
    /// A square matrix of elements of so many bytes made symmetric.
    Mirror(usize),
    /// Sums along an axis.
    Axis(AxisKernel),
}

impl RowKernel {
    pub(crate) fn text(self, target: Target) -> Ptx {
        match self {
            RowKernel::Sum(format, compute) => ptx::add_rows_kernel("add_rows", format, compute, target),
            RowKernel::Gather(bytes) => ptx::gather_rows_kernel("gather_rows", bytes, target),
            RowKernel::Scatter(bytes) => ptx::scatter_rows_kernel("scatter_rows", bytes, target),
            RowKernel::Mirror(bytes) => ptx::mirror_kernel("mirror", bytes, target),
            RowKernel::Axis(kernel) => kernel.text(target),
        }
    }
}

/// See [`Backend::sum_rows`](fallline_core::Backend::sum_rows).
pub(crate) fn sum(state: &mut State, rows: RowSums<'_>) -> Result<()> {
    state.enter("adding up rows")?;
    rows.check()?;
    let RowSums { from, width, order, ends, to } = rows;
    reachable(state, "sum_rows", &from, to)?;
    if ends.is_empty() || width == 0 {
        return Ok(());
    }
    let compute = if to.format() == Format::F64 { Compute::F64 } else { Compute::F32 };
    let lone = from.format() == to.format() && ends.iter().enumerate().all(|(i, &end)| end == i as u64 + 1);
    if lone {
        let limit = from.len() / width;
        let kernel = RowKernel::Gather(from.format().bytes());
        return copy(state, kernel, [from.address(), to.address()], width, order, limit);
    }
    let mut index = order.to_vec();
    index.push(0);
    index.extend_from_slice(ends);
    let (source, target) = (from.address() as u64, to.address() as u64);
    let (width, count) = (width as u64, ends.len() as u32);
    launch(state, RowKernel::Sum(from.format(), compute), &index, ends.len(), |call, index| {
        let ends = index + 8 * order.len() as u64;
        call([source, target, index, ends, width], count)
    })
}

/// See [`Backend::scatter_rows`](fallline_core::Backend::scatter_rows).
pub(crate) fn scatter(state: &mut State, rows: RowScatter<'_>) -> Result<()> {
    state.enter("scattering rows")?;
    rows.check()?;
    let RowScatter { from, width, index, to } = rows;
    reachable(state, "scatter_rows", &from, to)?;
    if index.is_empty() || width == 0 {
        return Ok(());
    }
    let kernel = RowKernel::Scatter(from.format().bytes());
    let limit = to.len() / width;
    copy(state, kernel, [from.address(), to.address()], width, index, limit)
}

fn reachable(state: &State, operation: &'static str, from: &View<'_>, to: &Storage) -> Result<()> {
    let wrong = |what: &str| Error::Unreachable { operation, what: what.into(), device: state.device };
    match (from.on_host(), to.on_host()) {
        (true, _) => Err(wrong("the rows")),
        (_, true) => Err(wrong("the target")),
        _ => Ok(()),
    }
}

/// Rows as they are, one for each number of the index.
fn copy(
    state: &mut State,
    kernel: RowKernel,
    [from, to]: [usize; 2],
    width: usize,
    index: &[u64],
    limit: usize,
) -> Result<()> {
    let (RowKernel::Gather(bytes) | RowKernel::Scatter(bytes)) = kernel else {
        unreachable!("sums are not copies")
    };
    let (row, count) = ((width * bytes) as u64, index.len() as u32);
    launch(state, kernel, index, index.len(), |call, index| {
        call([from as u64, to as u64, index, row, limit as u64], count)
    })
}

/// Uploads the index and launches, with a warp for each of `rows`; `arguments` hands the kernel's five words and its
/// count on, once it is told where the index is.
fn launch(
    state: &mut State,
    kernel: RowKernel,
    index: &[u64],
    rows: usize,
    arguments: impl FnOnce(&mut dyn FnMut([u64; 5], u32) -> Lasting<()>, u64) -> Lasting<()>,
) -> Result<()> {
    let mut launched = false;
    let mut buffer = core::mem::take(&mut state.index);
    let work = || {
        let function = state.row_kernel(kernel)?;
        let address = buffer.reserve(state, size_of_val(index))?;
        let stream = Arc::clone(&state.compute);
        // SAFETY: the buffer has room for the index; kernels that read what was in it come before in the order of the
        // stream.
        unsafe { state.tables.upload(&stream, address, bytemuck::cast_slice(index))? };
        state.running(function_name(kernel));
        arguments(
            &mut |words, count| {
                let mut call = stream.launch_builder(&function);
                for word in &words {
                    call.arg(word);
                }
                call.arg(&count);
                // SAFETY: the arguments are those of the kernel's interface; every row that they name was checked to
                // lie in memory that the caller borrows.
                unsafe { call.launch(config(rows)) }.map_err(Failure::at("launching a kernel"))?;
                launched = true;
                Ok(())
            },
            address,
        )
    };
    let done = work();
    state.index = buffer;
    done.map_err(|failure| state.error(failure, launched))
}

fn function_name(kernel: RowKernel) -> &'static str {
    match kernel {
        RowKernel::Sum(..) => "add_rows",
        RowKernel::Gather(_) => "gather_rows",
        RowKernel::Scatter(_) => "scatter_rows",
        RowKernel::Mirror(_) => "mirror",
        RowKernel::Axis(_) => "sum_axis",
    }
}

/// Copies the lower half of a square matrix of a format to the upper one.
///
/// # Safety
/// There are `size · size` elements at the address, in the device's memory, and until the kernel has run they are used
/// in the order of the compute stream alone.
pub(crate) unsafe fn mirror(state: &mut State, format: Format, address: u64, size: u32) -> Result<()> {
    let kernel = RowKernel::Mirror(format.bytes());
    let tiles = size.div_ceil(32);
    let launched = state.row_kernel(kernel).and_then(|function| {
        state.running(function_name(kernel));
        let config =
            LaunchConfig { grid_dim: (tiles * tiles, 1, 1), block_dim: (256, 1, 1), shared_mem_bytes: 0 };
        let stream = Arc::clone(&state.compute);
        let mut call = stream.launch_builder(&function);
        call.arg(&address).arg(&size);
        // SAFETY: the arguments are those of the kernel's interface; of the memory, the caller's contract.
        unsafe { call.launch(config) }.map_err(Failure::at("launching a kernel")).map(|_| ())
    });
    launched.map_err(|failure| state.error(failure, true))
}
