//! States by name, as they are in memory.

use super::Engine;
use super::setup::Setup;
use crate::Result;
use crate::params::MASTER;
use crate::params::slots::Slot;
use core::fmt;
use fallline_core::host::{Blocks, SliceMut};
use fallline_core::{Backend, Element, Format, Shape, Storage, fallible};

/// A state of a parameter, without a copy of it.
#[derive(Clone)]
pub struct StateView<'a> {
    param: &'a str,
    state: &'static str,
    shape: Shape,
    storage: &'a Storage,
    backend: &'a dyn Backend,
}

impl<'a> StateView<'a> {
    fn new(setup: &'a Setup, slot: &'a Slot, state: &'static str, storage: &'a Storage) -> StateView<'a> {
        let shape = match state {
            MASTER => slot.shape.clone(),
            state => setup.algorithm(slot).state(state).shape(&slot.shape),
        };
        StateView { param: &slot.name, state, shape, storage, backend: &*setup.backend }
    }

    /// Returns the parameter's name.
    pub fn param(&self) -> &'a str {
        self.param
    }

    /// Returns the state's name.
    pub fn name(&self) -> &'static str {
        self.state
    }

    /// Returns both names: `<parameter>/<state>`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.param, self.state)
    }

    /// Returns its shape: mostly the parameter's.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Returns how it is stored.
    pub fn format(&self) -> Format {
        self.storage.format()
    }

    /// Returns its elements in row-major order, where they are in the host's memory and are `T`.
    pub fn as_slice<T: Element>(&self) -> Option<&'a [T]> {
        self.storage.memory().host()?.as_slice()
    }

    /// Returns its codes and scales, where it is quantized and in the host's memory.
    pub fn blocks(&self) -> Option<Blocks<'a>> {
        self.storage.memory().blocks()
    }

    /// Returns a copy of its elements, rounded to `T` if they are stored otherwise.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>>
    where
        for<'s> SliceMut<'s>: From<&'s mut [T]>,
    {
        let mut values = fallible::zeroed::<T>(self.storage.len(), "a copy of a state")?;
        self.backend.read(self.storage, values.as_mut_slice().into())?;
        Ok(values)
    }
}

impl fmt::Debug for StateView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} of shape {})", self.key(), self.format(), self.shape)
    }
}

impl Engine {
    pub(crate) fn state_dict(&self) -> impl Iterator<Item = StateView<'_>> {
        self.slots.iter().flat_map(|slot| {
            states(slot).map(|(state, storage)| StateView::new(&self.setup, slot, state, storage))
        })
    }

    pub(crate) fn state_view(&self, param: &str, state: &str) -> Option<StateView<'_>> {
        let slot = self.slots.get(param)?;
        let (state, storage) = states(slot).find(|(known, _)| *known == state)?;
        Some(StateView::new(&self.setup, slot, state, storage))
    }
}

fn states(slot: &Slot) -> impl Iterator<Item = (&'static str, &Storage)> {
    let master = slot.master.as_deref().map(|storage| (MASTER, storage));
    slot.states.iter().map(|(name, storage)| (*name, storage)).chain(master)
}
