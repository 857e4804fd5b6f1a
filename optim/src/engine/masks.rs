//! The masks of groups, brought to their parameters.

use super::Driver;
use crate::mask::MomentumMask;
use crate::{Binding, Error, Result};
use fallline_core::Storage;
use std::sync::Arc;

/// A group's mask, and what all ranks compare of it.
#[derive(Debug)]
pub(crate) struct GroupMask {
    mask: MomentumMask,
    pub(super) text: String,
}

/// A parameter's mask on the device, and whose it is.
#[derive(Debug)]
pub(crate) struct OwnMask {
    of: Arc<GroupMask>,
    pub(super) storage: Storage,
}

impl Driver {
    /// Sets which elements of a group's parameters have a momentum, from the next step on; [`None`] for all. Groups that
    /// are added later have that of the first.
    ///
    /// # Errors
    /// [`Error::Groups`] for an algorithm that takes no mask; [`Error::NoGroup`]. Whether it fits its parameters the next
    /// step says.
    pub fn set_momentum_mask(&mut self, group: usize, mask: Option<MomentumMask>) -> Result<()> {
        let count = self.groups.len();
        let found = self.groups.get_mut(group).ok_or(Error::NoGroup { group, count })?;
        if mask.is_some() {
            MomentumMask::check(&*found.algorithm)?;
        }
        found.mask = mask.map(|mask| Arc::new(GroupMask { text: mask.text(), mask }));
        self.masked |= found.mask.is_some();
        Ok(())
    }

    /// Which elements of a group's parameters have a momentum, where not all.
    pub fn momentum_mask(&self, group: usize) -> Option<&MomentumMask> {
        self.groups.get(group)?.mask.as_ref().map(|mask| &mask.mask)
    }

    /// Brings the masks of the bound parameters to the device, where they are not there yet.
    pub(super) fn make_masks(&mut self, bindings: &[Binding<'_>]) -> Result<()> {
        if !self.masked {
            return Ok(());
        }
        for slot in self.slots.range(0..bindings.len()) {
            let wanted = self.groups[slot.group].mask.as_ref();
            if slot.mask.as_ref().map(|own| Arc::as_ptr(&own.of)) == wanted.map(Arc::as_ptr) {
                continue;
            }
            slot.mask = None;
            if let Some(of) = wanted {
                let values = of.mask.values(&slot.shape);
                let values = values.map_err(|problem| Error::Masked { param: slot.name.clone(), problem })?;
                let request = (slot.compute.format(), values.len());
                let mut storage = self.backend.allocate(&[request])?.remove(0);
                self.backend.write(&mut storage, values.as_slice().into())?;
                slot.mask = Some(OwnMask { of: Arc::clone(of), storage });
            }
        }
        Ok(())
    }
}
