//! Which thread works on what: a list of chunks over all tensors, kept while shapes stay the same.

use core::ops::Range;
use fallline_core::sums;

/// Elements of a chunk: small enough to spread evenly, large enough to hide what a call costs. A multiple
/// of a segment, so that sums do not depend on it.
pub(crate) const CHUNK: usize = 4 * sums::SEGMENT;

/// Tasks of consecutive chunks for each thread: enough for one thread to make up for another's delay.
const TASKS_PER_THREAD: usize = 8;

/// A run of elements of one tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    pub(crate) tensor: usize,
    pub(crate) start: usize,
    pub(crate) elements: usize,
}

/// The chunks of tensors of these lengths.
pub(crate) fn chunks(lengths: impl Iterator<Item = usize>) -> impl Iterator<Item = Chunk> {
    lengths.enumerate().flat_map(|(tensor, length)| {
        let starts = (0..length).step_by(CHUNK);
        starts.map(move |start| Chunk { tensor, start, elements: CHUNK.min(length - start) })
    })
}

/// Chunks of a list of tensors, and which chunks go together.
#[derive(Debug, Default)]
pub(crate) struct Tiling {
    lengths: Vec<usize>,
    /// The number of threads that the tasks were made for.
    threads: usize,
    pub(crate) list: Vec<Chunk>,
    pub(crate) tasks: Vec<Range<usize>>,
    /// For each tensor the place of its first segment's partial sums.
    pub(crate) segments: Vec<usize>,
    pub(crate) total_segments: usize,
    pub(crate) total_elements: usize,
}

impl Tiling {
    /// Makes the plan for tensors of these lengths, unless it is the plan already.
    pub(crate) fn prepare(&mut self, lengths: impl ExactSizeIterator<Item = usize> + Clone, threads: usize) {
        let same = self.threads == threads
            && self.lengths.len() == lengths.len()
            && self.lengths.iter().copied().eq(lengths.clone());
        if same {
            return;
        }
        self.threads = threads;
        self.lengths.clear();
        self.lengths.extend(lengths);
        self.list.clear();
        self.segments.clear();
        self.total_segments = 0;
        self.total_elements = 0;
        for &length in &self.lengths {
            self.segments.push(self.total_segments);
            self.total_segments += sums::segments(length);
            self.total_elements += length;
        }
        self.list.extend(chunks(self.lengths.iter().copied()));
        self.tasks.clear();
        let fair = self.total_elements.div_ceil(threads * TASKS_PER_THREAD).max(1);
        let (mut first, mut elements) = (0, 0);
        for (i, chunk) in self.list.iter().enumerate() {
            elements += chunk.elements;
            if elements >= fair || i + 1 == self.list.len() {
                self.tasks.push(first..i + 1);
                (first, elements) = (i + 1, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_is_in_one_chunk_and_every_chunk_in_one_task() {
        let lengths = [0, 1, CHUNK, CHUNK + 1, 5 * CHUNK - 3, 7, 0];
        for threads in [1, 2, 7] {
            let mut chunks = Tiling::default();
            chunks.prepare(lengths.iter().copied(), threads);
            let mut covered = vec![0; lengths.len()];
            for chunk in &chunks.list {
                assert_eq!(chunk.start, covered[chunk.tensor]);
                assert_eq!(chunk.start % sums::SEGMENT, 0);
                covered[chunk.tensor] += chunk.elements;
            }
            assert_eq!(covered, lengths);
            let in_tasks: Vec<usize> = chunks.tasks.iter().cloned().flatten().collect();
            assert_eq!(in_tasks, (0..chunks.list.len()).collect::<Vec<_>>());
            assert!(chunks.tasks.len() <= threads * TASKS_PER_THREAD);
        }
    }
}
