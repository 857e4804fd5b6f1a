//! The copy baseline of benchmarks (as STREAM's): what a rule would cost if it did nothing but move its operands.
//!
//! Benchmarks divide by it, so it has to be the fastest way to move these streams that is known. There are several loops
//! ([`StreamLoop::ALL`]), none of which is the fastest on every machine: a benchmark takes the fastest of them. They are
//! apart from the executor, so that what the executor costs shows.

use crate::Cpu;
#[cfg(target_arch = "x86_64")]
use crate::isa::{Isa, multiversion};
use crate::prefetch::prefetch;
use std::sync::atomic::{AtomicU8, Ordering};

/// Bytes of a cache line.
const LINE: usize = 64;
/// Lines that are moved stream by stream before the next ones: those of 64 elements of four bytes.
const LINES: usize = 4;
/// Elements that these are. Streams of other elements move as many of theirs.
const STEP: usize = LINES * LINE / size_of::<f32>();
/// Elements of a chunk of the dynamic schedule.
const CHUNK: usize = 16 * 1024;
/// Bytes that are prefetched ahead.
const PREFETCH_BYTES: usize = 1024;

/// One operand of the copy baseline.
#[derive(Debug)]
pub enum StreamOperand<'a> {
    /// Read and written.
    Update(&'a mut [u8]),
    /// Only read.
    Read(&'a [u8]),
}

/// How the copy baseline walks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamLoop {
    /// Whether each stream moves one cache line at a time, not four.
    pub single_lines: bool,
    /// Whether it prefetches.
    pub prefetches: bool,
    /// Whether threads take chunks as they become free (OpenMP's dynamic schedule), not one stretch each.
    pub dynamic: bool,
}

impl StreamLoop {
    /// All loops.
    pub const ALL: [StreamLoop; 8] = {
        let mut all = [StreamLoop { single_lines: false, prefetches: false, dynamic: false }; 8];
        let mut i = 0;
        while i < 8 {
            all[i] = StreamLoop { single_lines: i & 1 > 0, prefetches: i & 2 > 0, dynamic: i & 4 > 0 };
            i += 1;
        }
        all
    };
}

/// A stream's first byte, and the bytes of an element.
#[derive(Clone, Copy)]
struct Raw {
    address: *mut u8,
    element: usize,
}

/// Addresses shared by threads that move different elements.
struct Shared {
    updates: Vec<Raw>,
    reads: Vec<Raw>,
}
// SAFETY: every element is moved by one thread.
unsafe impl Sync for Shared {}

/// A part of all streams.
#[derive(Clone, Copy)]
struct Part {
    /// Steps of [`STEP`] elements.
    first: usize,
    last: usize,
    key: u8,
}

impl Cpu {
    /// Moves every stream once through registers, on this backend's threads and instruction set. Bytes are
    /// exclusive-ored with `key`, so that no access can be optimized away. With `key` 0 nothing changes. Returns the
    /// exclusive or of all bytes read, folded to one.
    ///
    /// `elements` is the number of elements of each stream; the bytes of the streams are a multiple of it. The last
    /// few elements that do not fill a cache line are skipped.
    pub fn stream_copy(
        &self,
        elements: usize,
        streams: &mut [StreamOperand<'_>],
        key: u8,
        how: StreamLoop,
    ) -> u8 {
        let (mut updates, mut reads) = (Vec::new(), Vec::new());
        for stream in streams.iter_mut() {
            let (address, bytes, of_kind) = match stream {
                StreamOperand::Update(bytes) => (bytes.as_mut_ptr(), bytes.len(), &mut updates),
                StreamOperand::Read(bytes) => (bytes.as_ptr().cast_mut(), bytes.len(), &mut reads),
            };
            // Less than a byte an element, as a row's factor, moves nothing.
            if bytes >= elements.max(1) {
                of_kind.push(Raw { address, element: bytes / elements.max(1) });
            }
        }
        let shared = &Shared { updates, reads };
        let steps = elements / STEP;
        let bins = if how.dynamic { steps.div_ceil(CHUNK / STEP) } else { self.threads() };
        let found = AtomicU8::new(0);
        self.pool.for_each(0..bins, |bin| {
            let bound =
                |bin: usize| if how.dynamic { steps.min(bin * (CHUNK / STEP)) } else { steps * bin / bins };
            let part = Part { first: bound(bin), last: bound(bin + 1), key };
            // SAFETY: the steps lie within every stream, written ones are borrowed mutably, bins do not
            // overlap, and the machine has the instruction set.
            let byte = unsafe {
                match self.isa {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => avx512(shared, part, how),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => avx2(shared, part, how),
                    _ => move_part(shared, part, how),
                }
            };
            found.fetch_xor(byte, Ordering::Relaxed);
        });
        found.into_inner()
    }
}

#[cfg(target_arch = "x86_64")]
multiversion! { move_part[](shared: &Shared, part: Part, how: StreamLoop) -> u8 }

/// Moves a part by the loop that is written for its mix of streams, or by the one for any.
///
/// # Safety
/// Every stream holds the part, and nobody else works on what is written.
#[inline(always)]
unsafe fn move_part(shared: &Shared, part: Part, how: StreamLoop) -> u8 {
    let Shared { updates, reads } = shared;
    let uniform = updates.iter().chain(reads).all(|stream| stream.element == size_of::<f32>());
    let key = u64::from_ne_bytes([part.key; 8]);
    macro_rules! mixes {
        ($(($u:literal, $r:literal))*) => {
            match (updates.len(), reads.len(), how.single_lines, how.prefetches) {
                $(
                    ($u, $r, false, false) if uniform => lines::<$u, $r, LINES, false>(shared, part, key),
                    ($u, $r, false, true) if uniform => lines::<$u, $r, LINES, true>(shared, part, key),
                    ($u, $r, true, false) if uniform => lines::<$u, $r, 1, false>(shared, part, key),
                    ($u, $r, true, true) if uniform => lines::<$u, $r, 1, true>(shared, part, key),
                )*
                (_, _, _, false) => any_lines::<false>(shared, part, key),
                (_, _, _, true) => any_lines::<true>(shared, part, key),
            }
        };
    }
    // SAFETY: the caller's contract.
    let seen: [u64; 8] =
        unsafe { mixes!((0, 1)(0, 2)(1, 0)(1, 1)(1, 2)(1, 3)(2, 0)(2, 1)(2, 2)(3, 0)(3, 1)(3, 2)(4, 1)) };
    seen.iter().fold(0, |byte, word| word.to_ne_bytes().iter().fold(byte, |a, b| a ^ b))
}

/// Moves so many streams of four bytes an element, `N` cache lines of each at a time.
///
/// # Safety
/// As for [`move_part`]; there are as many streams.
#[inline(always)]
unsafe fn lines<const UPDATES: usize, const READS: usize, const N: usize, const PREFETCHES: bool>(
    shared: &Shared,
    part: Part,
    key: u64,
) -> [u64; 8] {
    let updates: [*mut u8; UPDATES] = core::array::from_fn(|k| shared.updates[k].address);
    let reads: [*mut u8; READS] = core::array::from_fn(|k| shared.reads[k].address);
    let mut seen = [0u64; 8];
    let mut at = part.first * LINES * LINE;
    let end = part.last * LINES * LINE;
    while at < end {
        if PREFETCHES {
            for stream in updates.iter().chain(&reads) {
                prefetch(stream.wrapping_add(at + PREFETCH_BYTES), N * LINE);
            }
        }
        for stream in reads {
            for line in 0..N {
                // SAFETY: within the part.
                unsafe { read(stream.add(at + line * LINE), &mut seen) };
            }
        }
        for stream in updates {
            for line in 0..N {
                // SAFETY: as above, and nobody else works on it.
                unsafe { update(stream.add(at + line * LINE), key, &mut seen) };
            }
        }
        at += N * LINE;
    }
    seen
}

/// Moves any streams, a step of elements of each at a time.
///
/// # Safety
/// As for [`move_part`].
#[inline(always)]
unsafe fn any_lines<const PREFETCHES: bool>(shared: &Shared, part: Part, key: u64) -> [u64; 8] {
    let mut seen = [0u64; 8];
    for step in part.first..part.last {
        for (place, stream) in shared.updates.iter().chain(&shared.reads).enumerate() {
            // A cache line for each byte of an element.
            for line in 0..stream.element {
                let at = (step * stream.element + line) * LINE;
                if PREFETCHES {
                    prefetch(stream.address.wrapping_add(at + PREFETCH_BYTES), LINE);
                }
                // SAFETY: within the part; what is written is nobody else's.
                unsafe {
                    if place < shared.updates.len() {
                        update(stream.address.add(at), key, &mut seen);
                    } else {
                        read(stream.address.add(at), &mut seen);
                    }
                }
            }
        }
    }
    seen
}

/// Reads a cache line, which need not be aligned.
///
/// # Safety
/// It is there.
#[inline(always)]
unsafe fn read(line: *const u8, seen: &mut [u64; 8]) {
    // SAFETY: the caller's contract.
    let words = unsafe { line.cast::<[u64; 8]>().read_unaligned() };
    words.iter().zip(seen).for_each(|(word, seen)| *seen ^= *word);
}

/// Reads and writes a cache line, which need not be aligned.
///
/// # Safety
/// It is there, and nobody else's.
#[inline(always)]
unsafe fn update(line: *mut u8, key: u64, seen: &mut [u64; 8]) {
    let at = line.cast::<[u64; 8]>();
    // SAFETY: the caller's contract.
    unsafe {
        let mut words = at.read_unaligned();
        for (word, seen) in words.iter_mut().zip(seen) {
            *seen ^= *word;
            *word ^= key;
        }
        at.write_unaligned(words);
    }
}
