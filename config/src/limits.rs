//! How much of a text is believed.

/// How deep values may nest. Reading recurses, and shall do with the 2 MiB of stack that a thread has.
pub(super) const MAX_DEPTH: usize = 64;
/// How long a text may be, in bytes.
pub(super) const MAX_BYTES: usize = 4 << 20;
/// How many files a configuration may be made of.
pub(super) const MAX_FILES: usize = 512;
