//! Memory for tensors: one aligned arena for everything that is allocated together.

use bytemuck::Zeroable;
use fallline_core::host::{Blocks, BlocksMut, Slice, SliceMut};
use fallline_core::private::Sealed;
use fallline_core::{Device, Error, Format, Memory, Result, Storage};
use half::{bf16, f16};
use memmap2::MmapMut;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A region of a page and more starts at a multiple of this: a cache line, and the widest register. Smaller
/// ones lie end to end, so that a pass can take them as one.
const ALIGNMENT: usize = 64;

/// The skew of page offsets from one region to the next, for regions of a page and more. It is a multiple of the
/// alignment, about a third of a page. A rule walks all its streams in step, and streams at the same page offset
/// cost up to a third of the memory bandwidth. Loads wait for stores whose low address bits they share, and rows of
/// the same memory bank are opened alternately.
const SKEW: usize = 1344;
/// Regions of a page and more so far, over all arenas: parameters, gradients and states come from different
/// ones.
static REGIONS: AtomicUsize = AtomicUsize::new(1);
/// Bytes of a page.
const PAGE: usize = 4096;

/// Arenas of more bytes than this start with a page. Smaller ones would consist of little else than the room for that.
const PAGED: usize = 3 * PAGE;

/// Arenas from this size on ask for huge pages (2 MiB each).
#[cfg(target_os = "linux")]
const HUGE: usize = 2 << 20;

/// The arena's alignment as allocated. Beyond what `calloc` gives, zeroed memory would be cleared by
/// hand instead of being mapped when it is first used.
const ALLOCATED: usize = 16;

/// An allocation or a mapped file, freed with the last of its regions.
#[derive(Debug)]
struct Arena {
    start: *mut u8,
    owner: Owner,
}

/// What memory an arena has.
#[derive(Debug)]
enum Owner {
    Allocated(Layout),
    /// A file without a name.
    Mapped {
        _map: MmapMut,
    },
}

// SAFETY: an arena is only an address; regions of it do not overlap.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Owner::Allocated(layout) = self.owner {
            // SAFETY: `start` was allocated with this layout, and every region is gone.
            unsafe { dealloc(self.start, layout) }
        }
    }
}

/// A part of an arena that is one storage's own.
#[derive(Debug)]
struct Region {
    arena: Arc<Arena>,
    offset: usize,
    /// Where the scales of a block format are.
    scales: usize,
    format: Format,
    len: usize,
}

impl Region {
    fn start(&self) -> *mut u8 {
        // SAFETY: the offset was laid out within the arena.
        unsafe { self.arena.start.add(self.offset) }
    }

    fn scales_start(&self) -> *mut f32 {
        // SAFETY: the offset was laid out within the arena.
        unsafe { self.arena.start.add(self.scales) }.cast()
    }

    fn slice<T: Zeroable>(&self) -> &[T] {
        // SAFETY: the region holds `len` elements of its format, aligned and initialised (zero at first), and no
        // other region overlaps it. `T` is the element of the format by the match in the callers.
        unsafe { std::slice::from_raw_parts(self.start().cast(), self.len) }
    }

    fn slice_mut<T: Zeroable>(&mut self) -> &mut [T] {
        // SAFETY: as in `slice`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start().cast(), self.len) }
    }
}

impl Sealed for Region {}

impl Memory for Region {
    fn address(&self) -> usize {
        self.start().expose_provenance()
    }

    fn scales(&self) -> usize {
        match self.format.block() {
            Some(_) => self.scales_start().expose_provenance(),
            None => 0,
        }
    }

    fn blocks(&self) -> Option<Blocks<'_>> {
        let Region { format, len, .. } = *self;
        format.block()?;
        // SAFETY: the region holds the codes and scales of `len` elements, aligned and initialised (zero at first), and
        // no other region overlaps it.
        let (codes, scales) = unsafe {
            (
                std::slice::from_raw_parts(self.start(), format.size(len)),
                std::slice::from_raw_parts(self.scales_start(), format.scales(len)),
            )
        };
        Some(Blocks { format, len, codes, scales })
    }

    fn blocks_mut(&mut self) -> Option<BlocksMut<'_>> {
        let Region { format, len, .. } = *self;
        format.block()?;
        // SAFETY: as in `blocks`, and `self` is borrowed mutably; codes and scales do not overlap.
        let (codes, scales) = unsafe {
            (
                std::slice::from_raw_parts_mut(self.start(), format.size(len)),
                std::slice::from_raw_parts_mut(self.scales_start(), format.scales(len)),
            )
        };
        Some(BlocksMut { format, len, codes, scales })
    }

    fn host(&self) -> Option<Slice<'_>> {
        Some(match self.format {
            Format::F64 => self.slice::<f64>().into(),
            Format::F32 => self.slice::<f32>().into(),
            Format::Bf16 => self.slice::<bf16>().into(),
            Format::F16 => self.slice::<f16>().into(),
            _ => return None,
        })
    }

    fn host_mut(&mut self) -> Option<SliceMut<'_>> {
        Some(match self.format {
            Format::F64 => self.slice_mut::<f64>().into(),
            Format::F32 => self.slice_mut::<f32>().into(),
            Format::Bf16 => self.slice_mut::<bf16>().into(),
            Format::F16 => self.slice_mut::<f16>().into(),
            _ => return None,
        })
    }
}

/// Asks for huge pages where the system gives them on request: fewer address translations to wait for.
/// Whether it does changes nothing but speed.
fn prefer_huge_pages(start: *mut u8, bytes: usize) {
    #[cfg(target_os = "linux")]
    if bytes >= HUGE {
        let first = start.align_offset(PAGE);
        // SAFETY: whole pages within a fresh allocation; the advice changes no contents.
        unsafe { libc::madvise(start.add(first).cast(), (bytes - first) / PAGE * PAGE, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

/// Returns where the next region of so many bytes starts, with elements of a size; `end` moves behind it.
fn place(end: &mut usize, bytes: Option<usize>, size: usize) -> Option<usize> {
    let bytes = bytes?;
    let start = if bytes >= PAGE {
        let wanted = REGIONS.fetch_add(1, Ordering::Relaxed).wrapping_mul(SKEW) % PAGE;
        end.checked_add((wanted + PAGE - *end % PAGE) % PAGE)?
    } else {
        end.checked_next_multiple_of(size)?
    };
    *end = start.checked_add(bytes)?;
    Some(start)
}

/// Returns where the elements of each request start, and behind them all the scales of each, in the same order. What
/// is contiguous in one is so in both. With the bytes in all.
fn lay_out(requests: &[(Format, usize)]) -> Option<(Vec<usize>, Vec<usize>, usize)> {
    let mut end = 0usize;
    let bytes = |format: Format, len: usize| format.bytes().checked_mul(len).map(|_| format.size(len));
    let codes = requests.iter().map(|&(format, len)| place(&mut end, bytes(format, len), format.bytes()));
    let codes = codes.collect::<Option<Vec<usize>>>()?;
    let scales = requests.iter().map(|&(format, len)| {
        let bytes = size_of::<f32>() * format.scales(len);
        if bytes == 0 { Some(0) } else { place(&mut end, Some(bytes), size_of::<f32>()) }
    });
    let scales = scales.collect::<Option<Vec<usize>>>()?;
    Some((codes, scales, end.checked_add(if end > PAGED { PAGE } else { ALIGNMENT })?))
}

/// Allocates one zero-filled storage for each request, side by side in one arena.
pub(crate) fn allocate(device: Device, requests: &[(Format, usize)]) -> Result<Vec<Storage>> {
    let too_much = |bytes| Error::OutOfMemory { device, bytes };
    let (codes, scales, bytes) = lay_out(requests).ok_or_else(|| too_much(usize::MAX))?;
    let layout = Layout::from_size_align(bytes, ALLOCATED).map_err(|_| too_much(bytes))?;
    // SAFETY: the layout is not empty.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        return Err(too_much(bytes));
    }
    prefer_huge_pages(start, bytes);
    Ok(divide(Arena { start, owner: Owner::Allocated(layout) }, bytes, requests, codes, scales))
}

/// Returns the same in a file of a folder, mapped into memory, that has no name and goes with the last storage.
pub(crate) fn allocate_paged(
    device: Device,
    requests: &[(Format, usize)],
    folder: &Path,
) -> Result<Vec<Storage>> {
    let too_much = |bytes| Error::OutOfMemory { device, bytes };
    let (codes, scales, bytes) = lay_out(requests).ok_or_else(|| too_much(usize::MAX))?;
    let failed = |what: &str, cause: std::io::Error| {
        Error::Unavailable(format!("{}: {what} for {bytes} bytes of states: {cause}", folder.display()))
    };
    let file = tempfile::tempfile_in(folder).map_err(|cause| failed("no file", cause))?;
    reserve(&file, bytes as u64).map_err(|cause| failed("no room", cause))?;
    // SAFETY: the file has no name, so that nobody else changes it or makes it shorter.
    let mut map = unsafe { MmapMut::map_mut(&file) }.map_err(|cause| failed("no mapping", cause))?;
    let start = map.as_mut_ptr();
    Ok(divide(Arena { start, owner: Owner::Mapped { _map: map } }, bytes, requests, codes, scales))
}

/// Makes a file so long, with its room on the disk reserved where the system can. A page that finds none later would
/// end the process.
fn reserve(file: &File, bytes: u64) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor is that of an open file.
        match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) } {
            0 => return Ok(()),
            // A file system that cannot.
            libc::EINVAL | libc::EOPNOTSUPP => {}
            code => return Err(std::io::Error::from_raw_os_error(code)),
        }
    }
    file.set_len(bytes)
}

/// Returns the storages of an arena that was laid out for the requests.
fn divide(
    arena: Arena,
    bytes: usize,
    requests: &[(Format, usize)],
    codes: Vec<usize>,
    scales: Vec<usize>,
) -> Vec<Storage> {
    let start = arena.start;
    let arena = Arc::new(arena);
    let first = if bytes > PAGED + PAGE { start.align_offset(PAGE) } else { start.align_offset(ALIGNMENT) };
    let offsets = codes.into_iter().zip(scales);
    let regions = requests.iter().zip(offsets).map(|(&(format, len), (offset, scales))| {
        let (offset, scales) = (first + offset, first + scales);
        let region = Region { arena: Arc::clone(&arena), offset, scales, format, len };
        Storage::new(format, len, Box::new(region))
    });
    regions.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_arena_is_small() {
        let bytes = |requests: &[(Format, usize)]| lay_out(requests).map(|(_, _, bytes)| bytes);
        assert_eq!(bytes(&[(Format::F32, 1)]), Some(4 + ALIGNMENT));
        assert_eq!(bytes(&[(Format::F64, 3), (Format::Bf16, 1)]), Some(26 + ALIGNMENT));
        assert!(bytes(&[(Format::F32, PAGE)]).is_some_and(|bytes| bytes > 5 * PAGE));
        assert_eq!(bytes(&[(Format::F64, usize::MAX / 2)]), None);
    }

    #[test]
    fn regions_of_arenas_of_any_size_lie_within_them() {
        for len in [1, 15, 1000, 1024, 3000, 3070, 3072, 3080, 4096, 5000, 100_000] {
            let mut storages = allocate(Device::Cpu, &[(Format::F32, len), (Format::F32, 7)]).unwrap();
            for storage in &mut storages {
                // The sanitizer of the fuzz targets sees what is outside.
                storage.memory_mut().host_mut().unwrap().fill(1.0);
                assert!(storage.address().is_multiple_of(size_of::<f32>()));
            }
            assert_eq!(storages[1].memory().host().unwrap().get(6), 1.0);
        }
    }
}
