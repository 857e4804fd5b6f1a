//! Memory for tensors: one aligned arena for everything that is allocated together.

use bytemuck::Zeroable;
use fallline_core::host::{Slice, SliceMut};
use fallline_core::private::Sealed;
use fallline_core::{Device, Error, Format, Memory, Result, Storage};
use half::{bf16, f16};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A region of a page and more starts at a multiple of this: a cache line, and the widest register. Smaller
/// ones lie end to end, so that a pass can take them as one.
const ALIGNMENT: usize = 64;

/// Regions of a page and more start at page offsets that differ by this from one to the next (a multiple
/// of the alignment, a third of a page). A rule walks all its streams in step, and streams at the same
/// page offset cost up to a third of the speed of memory: loads wait for stores whose low address bits
/// they share, and rows of the same memory bank are opened in turn.
const SKEW: usize = 1344;
/// Regions of a page and more so far, over all arenas: parameters, gradients and states come from different
/// ones.
static REGIONS: AtomicUsize = AtomicUsize::new(1);
/// Bytes of a page.
const PAGE: usize = 4096;

/// Arenas from this size on ask for huge pages (2 MiB each).
#[cfg(target_os = "linux")]
const HUGE: usize = 8 << 20;

/// The arena's alignment as allocated. Beyond what `calloc` gives, zeroed memory would be cleared by
/// hand instead of being mapped when it is first used.
const ALLOCATED: usize = 16;

/// An allocation, freed with the last of its regions.
#[derive(Debug)]
struct Arena {
    start: *mut u8,
    layout: Layout,
}

// SAFETY: an arena is only an address; regions of it do not overlap.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: `start` was allocated with this layout, and every region is gone.
        unsafe { dealloc(self.start, self.layout) }
    }
}

/// A part of an arena that is one storage's own.
#[derive(Debug)]
struct Region {
    arena: Arc<Arena>,
    offset: usize,
    format: Format,
    len: usize,
}

impl Region {
    fn start(&self) -> *mut u8 {
        // SAFETY: the offset was laid out within the arena.
        unsafe { self.arena.start.add(self.offset) }
    }

    fn slice<T: Zeroable>(&self) -> &[T] {
        // SAFETY: the region holds `len` elements of its format, aligned and initialised (zero at first),
        // and no other region overlaps it; `T` is the element of the format by the match in the callers.
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

/// One zero-filled storage for each request, side by side in one arena.
pub(crate) fn allocate(device: Device, requests: &[(Format, usize)]) -> Result<Vec<Storage>> {
    let too_much = |bytes| Error::OutOfMemory { device, bytes };
    let mut offsets = Vec::with_capacity(requests.len());
    let mut end = 0usize;
    for &(format, len) in requests {
        let bytes = format.bytes().checked_mul(len).ok_or_else(|| too_much(usize::MAX))?;
        let start = if bytes >= PAGE {
            let wanted = REGIONS.fetch_add(1, Ordering::Relaxed).wrapping_mul(SKEW) % PAGE;
            end.checked_add((wanted + PAGE - end % PAGE) % PAGE)
        } else {
            end.checked_next_multiple_of(format.bytes())
        };
        offsets.push(start.ok_or_else(|| too_much(end))?);
        end = start.and_then(|start| start.checked_add(bytes)).ok_or_else(|| too_much(usize::MAX))?;
    }
    let bytes = end.checked_add(PAGE).ok_or_else(|| too_much(end))?;
    let layout = Layout::from_size_align(bytes, ALLOCATED).map_err(|_| too_much(bytes))?;
    // SAFETY: the layout is not empty.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        return Err(too_much(bytes));
    }
    prefer_huge_pages(start, bytes);
    let arena = Arc::new(Arena { start, layout });
    let first = if bytes > 4 * PAGE { start.align_offset(PAGE) } else { start.align_offset(ALIGNMENT) };
    let regions = requests.iter().zip(offsets).map(|(&(format, len), offset)| {
        let region = Region { arena: Arc::clone(&arena), offset: first + offset, format, len };
        Storage::new(format, len, Box::new(region))
    });
    Ok(regions.collect())
}
