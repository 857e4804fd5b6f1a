//! Memory of a device.

use crate::error::check_len;
use crate::host::{Slice, SliceMut};
use crate::private::Sealed;
use crate::{Error, Format, Result, Storage};
use std::path::Path;

/// Memory of a device: storages, and what goes into them and comes out of them.
pub trait DeviceMemory: Sealed {
    /// Allocates one zero-filled storage for each `(format, elements)` requested, side by side in one
    /// arena: many small states then read like one.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], with nothing allocated.
    fn allocate(&self, requests: &[(Format, usize)]) -> Result<Vec<Storage>>;

    /// Copies `values` into `storage`, rounding once where the formats differ.
    ///
    /// # Errors
    /// [`Error::Length`] when the lengths differ.
    fn write(&self, storage: &mut Storage, values: Slice<'_>) -> Result<()>;

    /// Copies `storage` into `values`, rounding once where the formats differ.
    ///
    /// # Errors
    /// [`Error::Length`] when the lengths differ.
    fn read(&self, storage: &Storage, values: SliceMut<'_>) -> Result<()>;

    /// Copies the codes and scales of a block format out, bit for bit.
    ///
    /// # Errors
    /// [`Error::Format`] for other formats, [`Error::Length`] when there are more or fewer of them.
    fn read_blocks(&self, storage: &Storage, codes: &mut [u8], scales: &mut [f32]) -> Result<()>;

    /// Copies the scales of a block format out.
    ///
    /// # Errors
    /// As [`read_blocks`](DeviceMemory::read_blocks).
    fn read_scales(&self, storage: &Storage, scales: &mut [f32]) -> Result<()>;

    /// Copies codes and scales of a block format in, bit for bit.
    ///
    /// # Errors
    /// As [`read_blocks`](DeviceMemory::read_blocks).
    fn write_blocks(&self, storage: &mut Storage, codes: &[u8], scales: &[f32]) -> Result<()>;

    /// Copies `from` to `to`, bit for bit.
    ///
    /// # Errors
    /// [`Error::Length`] or [`Error::Format`] when they differ in either.
    fn copy(&self, from: &Storage, to: &mut Storage) -> Result<()>;
}

/// Memory that a device keeps outside its own, for more than fits: a capability that a backend may lack.
pub trait PagedMemory: Sealed {
    /// Allocates as [`allocate`](DeviceMemory::allocate) does, in paged memory. On the host that is a memory-mapped
    /// file in a folder; it is removed with its last storage.
    ///
    /// # Errors
    /// [`Error::Unavailable`] names the folder, with nothing allocated.
    fn allocate_paged(&self, requests: &[(Format, usize)], folder: &Path) -> Result<Vec<Storage>>;
}

/// Checks that a storage can be copied to another. For backends.
///
/// # Errors
/// [`Error::Length`] or [`Error::Format`] when it cannot.
pub fn check_same_layout(from: &Storage, to: &Storage) -> Result<()> {
    let (operation, what) = ("copy", "the source");
    check_len(operation, what, to.len(), from.len())?;
    if from.format() != to.format() {
        let (expected, got) = (to.format().to_string(), from.format());
        return Err(Error::Format { operation, what: what.into(), expected, got });
    }
    Ok(())
}

/// Checks that so many codes and scales are those of a storage. For backends.
///
/// # Errors
/// [`Error::Format`] when it is not in blocks, [`Error::Length`] when there are more or fewer of them.
pub fn check_block_layout(
    operation: &'static str,
    storage: &Storage,
    codes: usize,
    scales: usize,
) -> Result<()> {
    let (format, len) = (storage.format(), storage.len());
    if format.block().is_none() {
        let (what, expected) = ("the storage".to_owned(), "a block format".to_owned());
        return Err(Error::Format { operation, what, expected, got: format });
    }
    check_len(operation, "the table of codes", format.size(len), codes)?;
    check_len(operation, "the table of scales", format.scales(len), scales)
}
