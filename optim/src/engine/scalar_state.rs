//! Numbers that an algorithm remembers, on the host or where the numbers between passes are computed.

use crate::{AnyAlgorithm, Result};
use fallline_core::{Backend, Format, Storage};
use std::borrow::Cow;

/// What is remembered for a family of groups, in the order of [`Algorithm::SHARED`](crate::Algorithm::SHARED), or for a
/// parameter, in that of [`Algorithm::MEMORY`](crate::Algorithm::MEMORY).
#[derive(Debug, Default)]
pub(crate) struct ScalarState {
    /// What the host knows of them.
    values: Vec<f64>,
    on_device: Option<Storage>,
    /// The places of those that the device changes, where it has them.
    changes: Vec<usize>,
    latest: Latest,
    /// No number that counts steps is above this.
    most: u64,
}

/// Where the latest numbers are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Latest {
    #[default]
    Host,
    Both,
    Device,
}

impl ScalarState {
    pub(crate) fn new(values: Vec<f64>) -> ScalarState {
        ScalarState { values, ..ScalarState::default() }
    }

    /// Returns what an algorithm begins with for all parameters together.
    pub(crate) fn shared(algorithm: &dyn AnyAlgorithm) -> ScalarState {
        ScalarState::new(algorithm.spec().shared.iter().map(|(_, initial)| *initial).collect())
    }

    /// Returns what is remembered for a parameter, if anything is.
    pub(crate) fn memory(values: Vec<f64>) -> Option<Box<ScalarState>> {
        (!values.is_empty()).then(|| Box::new(ScalarState::new(values)))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Returns what they are. Where the device has changed them they are fetched.
    pub(crate) fn get(&self, backend: &dyn Backend) -> Result<Cow<'_, [f64]>> {
        let mut values = Cow::from(&self.values[..]);
        if self.latest == Latest::Device {
            self.read(backend, values.to_mut())?;
        }
        Ok(values)
    }

    /// Returns what they are, as far as nothing has to be waited for.
    pub(crate) fn known(&self) -> Option<&[f64]> {
        (self.latest != Latest::Device).then_some(&self.values[..])
    }

    /// Returns the numbers for an algorithm that decides by them on the host, where they are then the latest ones.
    pub(crate) fn on_host(&self) -> &[f64] {
        &self.values
    }

    /// Returns the same, to change.
    pub(crate) fn on_host_mut(&mut self) -> &mut [f64] {
        &mut self.values
    }

    /// Returns the same, where the device has none of them; else nothing.
    pub(crate) fn host_only(&self) -> &[f64] {
        if self.latest == Latest::Host { &self.values } else { &[] }
    }

    /// Returns the same, to change.
    pub(crate) fn host_only_mut(&mut self) -> &mut [f64] {
        if self.latest == Latest::Host { &mut self.values } else { &mut [] }
    }

    /// Returns whether the device changes the number at a place.
    pub(crate) fn is_on_device(&self, place: usize) -> bool {
        self.latest != Latest::Host && self.changes.contains(&place)
    }

    /// Sets a number, wherever it is.
    pub(crate) fn set(
        &mut self,
        backend: &dyn Backend,
        place: usize,
        value: f64,
    ) -> fallline_core::Result<()> {
        let on_device = self.is_on_device(place);
        if on_device {
            self.fetch(backend)?;
        }
        self.values[place] = value;
        if let (Some(storage), true) = (&mut self.on_device, on_device) {
            backend.write(storage, self.values.as_slice().into())?;
        }
        Ok(())
    }

    /// Reads those that the device changes.
    fn read(&self, backend: &dyn Backend, values: &mut [f64]) -> fallline_core::Result<()> {
        let Some(storage) = &self.on_device else { return Ok(()) };
        let mut read = vec![0.0; storage.len()];
        backend.read(storage, read.as_mut_slice().into())?;
        self.changes.iter().for_each(|&place| values[place] = read[place]);
        Ok(())
    }

    /// Has the host know them too.
    pub(crate) fn fetch(&mut self, backend: &dyn Backend) -> fallline_core::Result<()> {
        if self.latest == Latest::Device {
            let mut values = core::mem::take(&mut self.values);
            let read = self.read(backend, &mut values);
            self.values = values;
            read?;
            self.latest = Latest::Both;
        }
        Ok(())
    }

    /// Has the host know them, for a step that changes them there.
    pub(crate) fn move_to_host(&mut self, backend: &dyn Backend) -> fallline_core::Result<()> {
        self.fetch(backend)?;
        self.latest = Latest::Host;
        Ok(())
    }

    /// Returns how many numbers the device has no room for.
    pub(crate) fn lacks(&self) -> Option<usize> {
        self.on_device.is_none().then_some(self.values.len())
    }

    /// Gives them room on the device.
    pub(crate) fn give(&mut self, room: Storage) {
        self.on_device = Some(room);
    }

    /// Has the device know them, for a step that changes those at some places there.
    pub(crate) fn send(&mut self, backend: &dyn Backend, changes: &[usize]) -> fallline_core::Result<()> {
        if self.values.is_empty() || (self.latest != Latest::Host && self.changes == changes) {
            return Ok(());
        }
        self.move_to_host(backend)?;
        if self.changes != changes {
            self.changes = changes.to_vec();
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

    /// Returns where they are on the device, and what no number that counts steps is above.
    pub(crate) fn device(&mut self) -> (Option<&mut Storage>, u64) {
        (self.on_device.as_mut().filter(|_| self.latest != Latest::Host), self.most)
    }
}
