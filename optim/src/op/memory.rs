//! Storages by name, memory that operations borrow, and what is remembered for a parameter.

use super::slices::Slices;
use crate::engine::scalar_state::ScalarState;
use core::fmt;
use fallline_core::backend::View;
use fallline_core::{Backend, Error, Format, Result, Storage};

/// Storages by name.
#[derive(Debug)]
pub struct Named<'a>(pub(crate) &'a mut [(&'static str, Storage)]);

impl Named<'_> {
    /// Returns the storage of a name.
    ///
    /// # Errors
    /// When the program has none of this name.
    pub fn get(&self, name: &str) -> Result<&Storage> {
        self.0
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, storage)| storage)
            .ok_or_else(|| missing(name))
    }

    /// Returns the same, to write.
    ///
    /// # Errors
    /// As [`get`](Named::get).
    pub fn get_mut(&mut self, name: &str) -> Result<&mut Storage> {
        let found = self.0.iter_mut().find(|(known, _)| *known == name);
        found.map(|(_, storage)| storage).ok_or_else(|| missing(name))
    }

    /// Returns two of them, to write.
    ///
    /// # Errors
    /// As [`get`](Named::get); when both are the same.
    pub fn two(&mut self, names: [&str; 2]) -> Result<[&mut Storage; 2]> {
        let place =
            |name: &str| self.0.iter().position(|(known, _)| *known == name).ok_or_else(|| missing(name));
        let places = [place(names[0])?, place(names[1])?];
        let both = self.0.get_disjoint_mut(places).map_err(|_| missing(names[1]))?;
        Ok(both.map(|(_, storage)| storage))
    }
}

fn missing(name: &str) -> Error {
    Error::Unavailable(format!("the program of this algorithm has no state or scratch {name:?}"))
}

/// What is remembered for a parameter, in the order of [`Algorithm::MEMORY`](crate::Algorithm::MEMORY). It is on
/// the host, or, of what a rule's formulas name `memory(…)`, on a device that computes them.
pub struct Memory<'a> {
    pub(crate) numbers: Option<&'a mut ScalarState>,
    pub(crate) backend: &'a dyn Backend,
}

impl Memory<'_> {
    /// Returns what the host knows: the latest numbers, but for those on the device.
    pub fn on_host(&self) -> &[f64] {
        self.numbers.as_deref().map_or(&[], ScalarState::on_host)
    }

    /// Returns the number at a place. Where it is on the device this waits for it.
    ///
    /// # Errors
    /// When nothing is remembered at this place, or the device fails.
    pub fn get(&mut self, place: usize) -> Result<f64> {
        if let Some(numbers) = self.numbers.as_deref_mut().filter(|numbers| numbers.is_on_device(place)) {
            numbers.fetch(self.backend)?;
        }
        self.on_host().get(place).copied().ok_or_else(|| forgotten(place))
    }

    /// Remembers a number at a place. Where that is on the device this waits for it.
    ///
    /// # Errors
    /// As [`get`](Memory::get).
    pub fn set(&mut self, place: usize, value: f64) -> Result<()> {
        let there = place < self.on_host().len();
        let numbers = self.numbers.as_deref_mut().filter(|_| there);
        numbers.ok_or_else(|| forgotten(place))?.set(self.backend, place, value)
    }

    /// Returns where on the device a number is to be put, if it is there.
    pub(super) fn on_device(&mut self, place: usize) -> Option<View<'_>> {
        let numbers = self.numbers.as_deref_mut().filter(|numbers| numbers.is_on_device(place))?;
        numbers.changing();
        Some(View::write(numbers.device().0?).slice(place, 1))
    }
}

impl fmt::Debug for Memory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("numbers", &self.numbers).finish_non_exhaustive()
    }
}

fn forgotten(place: usize) -> Error {
    Error::Unavailable(format!("the algorithm remembers nothing for a parameter at place {place}"))
}

/// Memory that operations borrow, kept between steps.
#[derive(Debug, Default)]
pub struct Workspace {
    free: Vec<Storage>,
    pub(crate) slices: Slices,
}

impl Workspace {
    /// Returns memory of this many elements, with anything in it.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn acquire(&mut self, backend: &dyn Backend, format: Format, elements: usize) -> Result<Storage> {
        let fits = |storage: &Storage| storage.len() == elements && storage.format() == format;
        // Always the same one, so that a step finds its memory where the one before had it.
        let fitting = (0..self.free.len()).filter(|&place| fits(&self.free[place]));
        match fitting.min_by_key(|&place| self.free[place].address()) {
            Some(place) => Ok(self.free.swap_remove(place)),
            None => Ok(backend.allocate(&[(format, elements)])?.remove(0)),
        }
    }

    /// Gives memory back for the next who takes some.
    pub fn release(&mut self, storages: impl IntoIterator<Item = Storage>) {
        self.free.extend(storages);
    }
}
