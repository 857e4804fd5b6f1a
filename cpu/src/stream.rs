//! The copy baseline of benchmarks (as STREAM's): what a rule would cost if it did nothing but move its operands.
//!
//! Benchmarks divide by it. It is a separate loop, apart from the executor, so that what the executor costs shows.

use crate::Cpu;
#[cfg(target_arch = "x86_64")]
use crate::isa::{Isa, multiversion};

/// Elements that are moved stream by stream before the next ones: a cache line for every byte of an
/// element.
const STEP: usize = 64;

/// One operand of the copy baseline.
#[derive(Debug)]
pub enum StreamOperand<'a> {
    /// Read and written.
    Update(&'a mut [u8]),
    /// Only read.
    Read(&'a [u8]),
}

#[derive(Clone, Copy)]
struct Raw {
    address: *mut u8,
    element: usize,
    written: bool,
}

/// Addresses shared by threads that move different elements.
struct Shared(Vec<Raw>);
// SAFETY: every element is moved by one thread.
unsafe impl Sync for Shared {}

impl Cpu {
    /// Moves every stream once through registers, on this backend's threads and instruction set. Bytes are
    /// exclusive-ored with `key`, so that no access can be optimized away. With `key` 0 nothing changes. Returns the
    /// exclusive or of all bytes read, folded to one.
    ///
    /// `elements` is the number of elements of each stream; the bytes of the streams are a multiple of it. The last
    /// few elements that do not fill a cache line are skipped.
    pub fn stream_copy(&self, elements: usize, streams: &mut [StreamOperand<'_>], key: u8) -> u8 {
        let raw = streams.iter_mut().map(|stream| match stream {
            StreamOperand::Update(bytes) => {
                Raw { address: bytes.as_mut_ptr(), element: bytes.len() / elements.max(1), written: true }
            }
            StreamOperand::Read(bytes) => Raw {
                address: bytes.as_ptr().cast_mut(),
                element: bytes.len() / elements.max(1),
                written: false,
            },
        });
        let shared = Shared(raw.collect());
        let shared = &shared;
        let steps = elements / STEP;
        let bins = 8 * self.threads();
        let found = std::sync::atomic::AtomicU8::new(0);
        self.pool.for_each(0..bins, |bin| {
            let (first, last) = (steps * bin / bins, steps * (bin + 1) / bins);
            // SAFETY: the steps lie within every stream, written ones are borrowed mutably, bins do not
            // overlap, and the machine has the instruction set.
            let byte = unsafe {
                match self.isa {
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => avx512(&shared.0, first, last, key),
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => avx2(&shared.0, first, last, key),
                    _ => move_steps(&shared.0, first, last, key),
                }
            };
            found.fetch_xor(byte, std::sync::atomic::Ordering::Relaxed);
        });
        found.into_inner()
    }
}

#[cfg(target_arch = "x86_64")]
multiversion! { move_steps[](streams: &[Raw], first: usize, last: usize, key: u8) -> u8 }

/// # Safety
/// Every stream holds `last` steps; the written ones may be written in this range.
#[inline(always)]
unsafe fn move_steps(streams: &[Raw], first: usize, last: usize, key: u8) -> u8 {
    let key = u64::from_ne_bytes([key; 8]);
    let mut seen = [0u64; 8];
    for step in first..last {
        for stream in streams {
            for line in 0..stream.element {
                // SAFETY: within the step; lines need not be aligned.
                unsafe {
                    let at = stream.address.add(step * STEP * stream.element + line * 64).cast::<[u64; 8]>();
                    let mut words = at.read_unaligned();
                    for (word, seen) in words.iter_mut().zip(&mut seen) {
                        *seen ^= *word;
                        *word ^= key;
                    }
                    if stream.written {
                        at.write_unaligned(words);
                    }
                }
            }
        }
    }
    seen.iter().fold(0, |byte, word| word.to_ne_bytes().iter().fold(byte, |a, b| a ^ b))
}
