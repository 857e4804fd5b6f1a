//! Launches and occupancy.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use super::{exported, give};
use crate::machine::fault::Status;
use crate::machine::stream::{Op, Work};
use crate::machine::{Machine, Outcome, device};

/// Checks a launch as the driver does, copies its arguments and gives it to the stream.
fn launch(
    m: &mut Machine,
    function: usize,
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: usize,
    params: *mut *mut c_void,
) -> Outcome {
    let function = m.functions.get(&function).ok_or(Status::INVALID_HANDLE)?.clone();
    let stream = m.stream(stream, device()?)?;
    if m.streams[&stream].device != function.device {
        return Err(Status::INVALID_HANDLE);
    }
    let kernel = function.kernel();
    let threads: u64 = block.iter().map(|n| u64::from(*n)).product();
    let limits = [(block, [1024, 1024, 64]), (grid, [0x7fff_ffff, 65_535, 65_535])];
    let outside =
        |(extent, most): &([u32; 3], [u32; 3])| (0..3).any(|i| extent[i] == 0 || extent[i] > most[i]);
    if limits.iter().any(outside) || threads > 1024 || kernel.required.is_some_and(|r| r != block) {
        return Err(Status::INVALID_VALUE);
    }
    if kernel.max_threads.is_some_and(|most| threads > u64::from(most)) {
        return Err(Status::OUT_OF_RESOURCES);
    }
    if shared as usize + kernel.shared > function.dynamic_shared_limit.max(49_152) {
        return Err(Status::INVALID_VALUE);
    }
    if params.is_null() && !kernel.params.is_empty() {
        return Err(Status::INVALID_VALUE);
    }
    let mut bytes = vec![0; kernel.param_bytes];
    for (i, param) in kernel.params.iter().enumerate() {
        // SAFETY: the caller gives a pointer for each parameter of the kernel, and behind it its bytes.
        let value = unsafe { std::slice::from_raw_parts((*params.add(i)).cast::<u8>(), param.size) };
        bytes[param.offset..][..param.size].copy_from_slice(value);
    }
    let work = Work { function, grid, block, dynamic_shared: shared as usize, params: bytes };
    m.push(stream, Op::Launch(Arc::new(work)))
}

/// The head of the driver's structure for a launch.
#[repr(C)]
pub struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    shared: u32,
    stream: usize,
    attributes: *mut c_void,
    count: u32,
}

/// Blocks of a multiprocessor by threads and shared memory.
fn resident(m: &Machine, function: usize, threads: c_int, dynamic: usize) -> Outcome<c_int> {
    let f = m.functions.get(&function).ok_or(Status::INVALID_HANDLE)?;
    if !(1..=1024).contains(&threads) {
        return Err(Status::INVALID_VALUE);
    }
    let shared = f.kernel().shared + dynamic;
    let by_shared = 233_472usize.checked_div(shared).unwrap_or(32);
    Ok((2048 / (threads as usize).next_multiple_of(32)).min(by_shared).min(32) as c_int)
}

/// A function that says how much shared memory a block of a size needs.
type SharedOf = Option<unsafe extern "C" fn(c_int) -> usize>;

fn best(
    m: &Machine,
    grid: *mut c_int,
    block: *mut c_int,
    f: usize,
    shared: SharedOf,
    fixed: usize,
    most: c_int,
) -> Outcome {
    let known = m.functions.get(&f).ok_or(Status::INVALID_HANDLE)?.kernel().max_threads.unwrap_or(1024);
    let size = if most > 0 { most.min(known as c_int) } else { known as c_int };
    // SAFETY: the caller's function takes a block size, as the driver's interface says.
    let dynamic = shared.map_or(fixed, |shared| unsafe { shared(size) });
    give(grid, 132 * resident(m, f, size, dynamic)?)?;
    give(block, size)
}

exported! {
    usual cuLaunchKernel(m, f: usize, gx: u32, gy: u32, gz: u32, bx: u32, by: u32, bz: u32, shared: u32, stream: usize, params: *mut *mut c_void, extra: *mut *mut c_void) {
        if !extra.is_null() {
            return Err(Status::NOT_SUPPORTED);
        }
        launch(m, f, [gx, gy, gz], [bx, by, bz], shared, stream, params)
    }
    usual cuLaunchKernelEx(m, config: *const Config, f: usize, params: *mut *mut c_void, extra: *mut *mut c_void) {
        // SAFETY: the caller gives a configuration or nothing.
        let config = unsafe { config.as_ref() }.ok_or(Status::INVALID_VALUE)?;
        if !extra.is_null() || config.count > 0 {
            return Err(Status::NOT_SUPPORTED);
        }
        launch(m, f, config.grid, config.block, config.shared, config.stream, params)
    }
    usual cuOccupancyMaxActiveBlocksPerMultiprocessor(m, to: *mut c_int, f: usize, threads: c_int, dynamic: usize) {
        give(to, resident(m, f, threads, dynamic)?)
    }
    usual cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(m, to: *mut c_int, f: usize, threads: c_int, dynamic: usize, _flags: u32) {
        give(to, resident(m, f, threads, dynamic)?)
    }
    usual cuOccupancyAvailableDynamicSMemPerBlock(m, to: *mut usize, f: usize, blocks: c_int, _threads: c_int) {
        let kernel = m.functions.get(&f).ok_or(Status::INVALID_HANDLE)?.kernel();
        give(to, (233_472 / blocks.max(1) as usize).min(232_448).saturating_sub(kernel.shared))
    }
    usual cuOccupancyMaxPotentialBlockSize(m, grid: *mut c_int, block: *mut c_int, f: usize, shared: SharedOf, fixed: usize, most: c_int) {
        best(m, grid, block, f, shared, fixed, most)
    }
    usual cuOccupancyMaxPotentialBlockSizeWithFlags(m, grid: *mut c_int, block: *mut c_int, f: usize, shared: SharedOf, fixed: usize, most: c_int, _flags: u32) {
        best(m, grid, block, f, shared, fixed, most)
    }
}
