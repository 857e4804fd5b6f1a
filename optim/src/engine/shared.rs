//! What an algorithm remembers for all parameters together, on the host or where the numbers between passes are computed.

use crate::{AnyAlgorithm, Result};
use fallline_core::{Backend, Format, Storage};
use std::borrow::Cow;

/// The numbers of a family of groups, in the order of [`Algorithm::SHARED`](crate::Algorithm::SHARED).
#[derive(Default)]
pub(crate) struct Shared {
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
    pub(crate) fn new(values: Vec<f64>) -> Shared {
        Shared { values, ..Shared::default() }
    }

    /// What an algorithm begins with.
    pub(crate) fn of(algorithm: &dyn AnyAlgorithm) -> Shared {
        Shared::new(algorithm.spec().shared.iter().map(|(_, initial)| *initial).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// What they are. Where the device has changed them they are fetched.
    pub(crate) fn get(&self, backend: &dyn Backend) -> Result<Cow<'_, [f64]>> {
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
    pub(crate) fn known(&self) -> Option<&[f64]> {
        (self.latest != Latest::Device).then_some(&self.values[..])
    }

    /// The numbers for an algorithm that decides by them on the host, where they are then the latest ones.
    pub(crate) fn on_host(&self) -> &[f64] {
        &self.values
    }

    /// The same, to change.
    pub(crate) fn on_host_mut(&mut self) -> &mut [f64] {
        &mut self.values
    }

    /// Has the host know them too.
    pub(crate) fn fetch(&mut self, backend: &dyn Backend) -> fallline_core::Result<()> {
        if let (Some(storage), Latest::Device) = (&self.on_device, self.latest) {
            backend.read(storage, self.values.as_mut_slice().into())?;
            self.latest = Latest::Both;
        }
        Ok(())
    }

    /// Has the host know them, for a step that changes them there.
    pub(crate) fn bring_home(&mut self, backend: &dyn Backend) -> fallline_core::Result<()> {
        self.fetch(backend)?;
        self.latest = Latest::Host;
        Ok(())
    }

    /// Has the device know them, for a step that changes them there.
    pub(crate) fn send(&mut self, backend: &dyn Backend) -> fallline_core::Result<()> {
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
    pub(crate) fn changing(&mut self) {
        if self.latest != Latest::Host {
            self.latest = Latest::Device;
        }
    }

    /// Notes that a step is over in which they were.
    pub(crate) fn stepped(&mut self) {
        self.most += 1;
    }

    /// Where they are on the device, and what no number that counts steps is above.
    pub(crate) fn device(&mut self) -> (Option<&mut Storage>, u64) {
        (self.on_device.as_mut(), self.most)
    }
}
