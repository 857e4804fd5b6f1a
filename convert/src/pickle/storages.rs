//! The storages that come with a pickle.

use crate::Result;

/// Where a pickle's storages come from.
pub trait Storages<'a> {
    /// Returns the bytes of a storage.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    fn find(&mut self, key: &str) -> Result<&'a [u8]>;
}
