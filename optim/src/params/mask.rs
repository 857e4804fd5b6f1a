//! The masks of groups, and of their parameters on the device.

use crate::mask::MomentumMask;
use fallline_core::Storage;
use std::sync::Arc;

/// A group's mask, and what all ranks compare of it.
#[derive(Debug)]
pub(crate) struct GroupMask {
    pub(crate) mask: MomentumMask,
    pub(crate) text: String,
}

/// A parameter's mask on the device, and whose it is.
#[derive(Debug)]
pub(crate) struct DeviceMask {
    pub(crate) of: Arc<GroupMask>,
    pub(crate) storage: Storage,
}
