//! The tables that a kernel reads, in the words of its interface.

use fallline_core::Kernel;

/// Tables of a launch.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Tables {
    /// For each tensor: its operands' addresses (each with that of its scales or copy, or how it is repeated), elements,
    /// first segment and row.
    pub(crate) tensors: Vec<u64>,
    /// For each chunk: its first element, then its elements (upper half) and its tensor.
    pub(crate) chunks: Vec<u64>,
    /// For each tensor its first segment, and how many it has.
    pub(crate) segments: Vec<u64>,
    /// Where tensors are taken in parts: for each whole one its first part, and how many it has.
    pub(crate) parts: Vec<u64>,
}

impl Tables {
    /// Returns the tables one after another, as they lie on the device.
    pub(crate) fn in_order(&self) -> [&[u64]; 4] {
        [&self.tensors, &self.chunks, &self.segments, &self.parts]
    }

    /// Returns the bytes of each.
    pub(crate) fn bytes(&self) -> [usize; 4] {
        self.in_order().map(size_of_val)
    }

    /// Returns the bytes of a rule's partial sums: one number for each segment of all tensors and each sum.
    pub(crate) fn partial_bytes(&self, kernel: &Kernel) -> usize {
        let segments = self.segments.chunks_exact(2).map(|pair| pair[1]).sum::<u64>() as usize;
        segments * kernel.sums.len() * size_of::<f64>()
    }
}
