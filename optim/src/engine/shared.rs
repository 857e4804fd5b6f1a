//! What an algorithm remembers for all parameters together, on the host or where the numbers between passes are computed.

use super::Driver;
use super::together::first_of;
use crate::Result;
use crate::modifiers::LOOKAHEAD_STEPS;
use fallline_core::{Backend, Format, Storage};
use std::borrow::Cow;

/// The numbers of a family of groups, in the order of [`Algorithm::SHARED`](crate::Algorithm::SHARED).
#[derive(Default)]
pub(super) struct Shared {
    /// What the host knows of them.
    values: Vec<f64>,
    on_device: Option<Storage>,
    latest: Latest,
    /// No number that counts steps is above this.
    most: u64,
}

/// Where the latest numbers are.
#[derive(Clone, Copy, Default, PartialEq)]
enum Latest {
    #[default]
    Host,
    Both,
    Device,
}

impl Shared {
    pub(super) fn new(values: Vec<f64>) -> Shared {
        Shared { values, ..Shared::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// What they are. Where the device has changed them they are fetched.
    pub(super) fn get(&self, backend: &dyn Backend) -> Result<Cow<'_, [f64]>> {
        match (&self.on_device, self.latest) {
            (Some(storage), Latest::Device) => {
                let mut values = vec![0.0; self.values.len()];
                backend.read(storage, values.as_mut_slice().into())?;
                Ok(values.into())
            }
            _ => Ok(self.values[..].into()),
        }
    }

    /// What they are, as far as nothing has to be waited for.
    pub(super) fn known(&self) -> Option<&[f64]> {
        (self.latest != Latest::Device).then_some(&self.values[..])
    }

    /// The numbers for an algorithm that decides by them on the host, where they are then the latest ones.
    pub(super) fn on_host(&self) -> &[f64] {
        &self.values
    }

    /// The same, to change.
    pub(super) fn on_host_mut(&mut self) -> &mut [f64] {
        &mut self.values
    }

    /// Has the host know them too.
    pub(super) fn fetch(&mut self, backend: &dyn Backend) -> fallline_core::Result<()> {
        if let (Some(storage), Latest::Device) = (&self.on_device, self.latest) {
            backend.read(storage, self.values.as_mut_slice().into())?;
            self.latest = Latest::Both;
        }
        Ok(())
    }

    /// Has the host know them, for a step that changes them there.
    pub(super) fn bring_home(&mut self, backend: &dyn Backend) -> fallline_core::Result<()> {
        self.fetch(backend)?;
        self.latest = Latest::Host;
        Ok(())
    }

    /// Has the device know them, for a step that changes them there.
    pub(super) fn send(&mut self, backend: &dyn Backend) -> fallline_core::Result<()> {
        if self.values.is_empty() || self.latest != Latest::Host {
            return Ok(());
        }
        if self.on_device.is_none() {
            self.on_device = backend.allocate(&[(Format::F64, self.values.len())])?.pop();
        }
        if let Some(storage) = &mut self.on_device {
            backend.write(storage, self.values.as_slice().into())?;
            self.latest = Latest::Both;
        }
        // A count of steps is none of the numbers that are larger than any.
        let counts = self.values.iter().filter(|value| (0.0..1e15).contains(*value));
        self.most = counts.fold(0.0, |most: f64, &value| most.max(value)) as u64;
        Ok(())
    }

    /// Notes that a step changes them on the device.
    pub(super) fn changing(&mut self) {
        if self.latest != Latest::Host {
            self.latest = Latest::Device;
        }
    }

    /// Notes that a step is over in which they were.
    pub(super) fn stepped(&mut self) {
        self.most += 1;
    }

    /// Where they are on the device, and what no number that counts steps is above.
    pub(super) fn device(&mut self) -> (Option<&mut Storage>, u64) {
        (self.on_device.as_mut(), self.most)
    }
}

impl Driver {
    /// What the algorithm remembers for all parameters together ([`Algorithm::SHARED`](crate::Algorithm::SHARED)),
    /// by name: the `d` of D-Adaptation, say. With [`Lookahead`](crate::Lookahead) `lookahead_steps` too. On a device that computes it this waits for the steps so far; where the
    /// device failed there is none.
    pub fn shared(&self, name: &str) -> Option<f64> {
        if name == LOOKAHEAD_STEPS && self.lookahead().is_some() {
            return Some(self.lookahead_steps as f64);
        }
        let names = first_of(&self.groups, 0).spec().shared;
        let place = names.iter().position(|(known, _)| *known == name)?;
        self.shared[0].get(&*self.backend).ok().map(|values| values[place])
    }
}
