//! How much of a file is believed.

/// What a file may ask for. Whatever is above is refused by name; memory and time are bounded by these and by the
/// length of the file. The elements of all tensors together have at most 8 times the bytes of the storages that they
/// are views of, which is more than tied weights need, plus 16 MiB.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries of the archive.
    pub entries: usize,
    /// Bytes of the pickle, which holds no tensor's elements.
    pub pickle_bytes: usize,
    /// Values that the pickle makes, and values of the tree that it represents.
    pub values: usize,
    /// How deep values may be nested.
    pub depth: usize,
    /// Dimensions of a tensor.
    pub rank: usize,
}

impl Default for Limits {
    /// Returns room for the states of 100,000 parameters, at some twelve values a tensor.
    fn default() -> Self {
        Limits { entries: 1 << 20, pickle_bytes: 1 << 26, values: 1 << 22, depth: 100, rank: 64 }
    }
}
