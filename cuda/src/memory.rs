//! Memory on the device: one arena for everything that is allocated together.

pub(crate) mod managed;

use crate::context::{Context, DriverResult, Failure};
use cudarc::driver::{CudaSlice, DevicePtr};
use fallline_core::host::{Blocks, BlocksMut, Slice, SliceMut};
use fallline_core::private::Sealed;
use fallline_core::{Device, Error, Format, Memory, Result, Storage};
use std::any::Any;
use std::fmt;
use std::sync::Arc;

/// Every region of a page and more starts at a multiple of this, as the driver's own allocations do. Smaller ones
/// start at a multiple of the widest access.
const ALIGNMENT: usize = 256;
const SMALL_ALIGNMENT: usize = 16;
const PAGE: usize = 4096;

/// A part of the device's memory that is one storage's own. It keeps what it lies in alive.
pub(crate) struct Region {
    device: Device,
    owner: Arc<dyn Any + Send + Sync>,
    address: u64,
    /// The first scale of a block format.
    scales: u64,
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let _ = &self.owner;
        write!(f, "Region({:#x})", self.address)
    }
}

impl Region {
    pub(crate) fn new(device: Device, owner: Arc<dyn Any + Send + Sync>, address: u64) -> Region {
        Region { device, owner, address, scales: 0 }
    }
}

impl Sealed for Region {}

impl Memory for Region {
    fn address(&self) -> usize {
        self.address as usize
    }

    fn scales(&self) -> usize {
        self.scales as usize
    }

    fn blocks(&self) -> Option<Blocks<'_>> {
        None
    }

    fn blocks_mut(&mut self) -> Option<BlocksMut<'_>> {
        None
    }

    fn host(&self) -> Option<Slice<'_>> {
        None
    }

    fn host_mut(&mut self) -> Option<SliceMut<'_>> {
        None
    }

    fn device(&self) -> Option<Device> {
        Some(self.device)
    }
}

/// Where a request's elements start, and its scales.
type Offsets = (usize, usize);

/// Returns where each request starts, and how many bytes they are in all.
pub(crate) fn lay_out(device: Device, requests: &[(Format, usize)]) -> Result<(Vec<Offsets>, usize)> {
    let mut end = 0usize;
    let mut place = |bytes: usize| {
        let alignment = if bytes >= PAGE { ALIGNMENT } else { SMALL_ALIGNMENT };
        let start = end.checked_next_multiple_of(alignment)?;
        end = start.checked_add(bytes)?;
        Some(start)
    };
    let mut offsets = Vec::with_capacity(requests.len());
    for &(format, len) in requests {
        let placed = format.bytes().checked_mul(len).and_then(|_| {
            let scales = size_of::<f32>() * format.scales(len);
            Some((place(format.size(len))?, if scales == 0 { 0 } else { place(scales)? }))
        });
        offsets.push(placed.ok_or(Error::OutOfMemory { device, bytes: usize::MAX })?);
    }
    // An allocation of nothing is an error of the driver.
    Ok((offsets, end.max(SMALL_ALIGNMENT)))
}

/// Returns the storages of an arena at an address, of which `owner` is what frees it, laid out for the requests.
pub(crate) fn divide(
    device: Device,
    owner: Arc<dyn Any + Send + Sync>,
    address: u64,
    requests: &[(Format, usize)],
    offsets: Vec<Offsets>,
) -> Vec<Storage> {
    let regions = requests.iter().zip(offsets).map(|(&(format, len), (elements, scales))| {
        let mut region = Region::new(device, Arc::clone(&owner), address + elements as u64);
        if format.block().is_some() {
            region.scales = address + scales as u64;
        }
        Storage::new(format, len, Box::new(region))
    });
    regions.collect()
}

/// Memory on the device that grows when it must.
#[derive(Default)]
pub(crate) struct Buffer(Option<Arc<CudaSlice<u8>>>);

impl Buffer {
    /// Returns the address of at least this many bytes. What was there before is not kept.
    pub(crate) fn reserve(&mut self, ctx: &Context, bytes: usize) -> DriverResult<u64> {
        let enough = self.0.as_ref().filter(|slice| slice.len() >= bytes);
        if let Some(slice) = enough {
            return Ok(address_of(slice));
        }
        // SAFETY: kernels read only what was written before.
        let slice = unsafe { ctx.compute.alloc::<u8>(bytes.next_power_of_two().max(256)) };
        let slice = slice.map_err(Failure::at("allocating tables"))?;
        Ok(address_of(self.0.insert(Arc::new(slice))))
    }

    /// Returns what keeps the memory.
    pub(crate) fn owner(&self) -> Option<Arc<CudaSlice<u8>>> {
        self.0.clone()
    }

    /// Returns the address, if as many bytes are there already.
    pub(crate) fn at(&self, bytes: usize) -> Option<u64> {
        self.0.as_ref().filter(|slice| slice.len() >= bytes).map(|slice| address_of(slice))
    }
}

/// Returns the address of a slice. Order between streams is this crate's own (event tracking is off).
pub(crate) fn address_of<T>(slice: &CudaSlice<T>) -> u64 {
    slice.device_ptr(slice.stream()).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_aligned_and_do_not_overlap() {
        let q4 = Format::Q4(fallline_core::Codes::Signed);
        let requests =
            [(Format::F32, 3), (Format::Bf16, 5000), (Format::F64, 0), (Format::F64, 1), (q4, 129)];
        let (offsets, bytes) = lay_out(Device::Cuda(0), &requests).unwrap();
        assert_eq!(offsets, [(0, 0), (256, 0), (10_256, 0), (10_256, 0), (10_272, 10_352)]);
        assert_eq!(bytes, 10_360);
        assert!(lay_out(Device::Cuda(0), &[(Format::F64, usize::MAX)]).is_err());
        assert_eq!(lay_out(Device::Cuda(0), &[(Format::F64, 0)]).unwrap().1, 16);
    }
}
