//! The masks of groups, on the device of their parameters.

use super::Engine;
use crate::params::mask::DeviceMask;
use crate::{Binding, Error, Result};
use std::sync::Arc;

impl Engine {
    /// Uploads the masks of the bound parameters to the device, where they are missing.
    pub(crate) fn allocate_masks(&mut self, bindings: &[Binding<'_>]) -> Result<()> {
        let Engine { setup, slots, .. } = self;
        if !setup.masked {
            return Ok(());
        }
        for slot in slots.range(0..bindings.len()) {
            let wanted = setup.groups[slot.group].mask.as_ref();
            if slot.mask.as_ref().map(|own| Arc::as_ptr(&own.of)) == wanted.map(Arc::as_ptr) {
                continue;
            }
            slot.mask = None;
            if let Some(of) = wanted {
                let values = of.mask.values(&slot.shape);
                let values = values.map_err(|problem| Error::Masked { param: slot.name.clone(), problem })?;
                let request = (slot.compute.format(), values.len());
                let mut storage = setup.backend.allocate(&[request])?.remove(0);
                setup.backend.write(&mut storage, values.as_slice().into())?;
                slot.mask = Some(Box::new(DeviceMask { of: Arc::clone(of), storage }));
            }
        }
        Ok(())
    }
}
