//! How states are stored unless a configuration says otherwise.

use fallline_core::{Codes, Format};

/// How an algorithm's states are stored unless a configuration says otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StorageDefaults {
    /// In blocks, where a parameter is large enough.
    pub block: Option<BlockDefault>,
    /// In a file that is mapped into memory.
    pub paged: bool,
    /// On the host, where parameters are on another device.
    pub offload: bool,
}

/// The format that states are stored in, of parameters with enough elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockDefault {
    /// The format.
    pub format: Format,
    /// The least number of elements of a parameter whose states are stored so.
    pub from: usize,
    /// The codes of states that are [never negative](crate::State::non_negative); the others have those of `format`.
    pub non_negative: Codes,
}

impl StorageDefaults {
    /// In the type of the arithmetic, in memory, where the parameters are.
    pub const AS_COMPUTED: StorageDefaults = StorageDefaults { block: None, paged: false, offload: false };
}

impl BlockDefault {
    /// Returns the format of a state.
    pub fn format(&self, non_negative: bool) -> Format {
        if non_negative { self.format.with_codes(self.non_negative) } else { self.format }
    }
}
