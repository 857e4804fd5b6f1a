//! Storages by name, and memory that operations borrow.

use super::slices::Slices;
use fallline_core::{Backend, Error, Format, Result, Storage};

/// Storages by name.
#[derive(Debug)]
pub struct Named<'a>(pub(crate) &'a mut [(&'static str, Storage)]);

impl Named<'_> {
    /// The storage of a name.
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

    /// The same, to write.
    ///
    /// # Errors
    /// As [`get`](Named::get).
    pub fn get_mut(&mut self, name: &str) -> Result<&mut Storage> {
        let found = self.0.iter_mut().find(|(known, _)| *known == name);
        found.map(|(_, storage)| storage).ok_or_else(|| missing(name))
    }

    /// Two of them, to write.
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

/// Memory that operations borrow, kept between steps.
#[derive(Debug, Default)]
pub struct Workspace {
    free: Vec<Storage>,
    pub(crate) slices: Slices,
}

impl Workspace {
    /// Memory of this many elements, with anything in it.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn take(&mut self, backend: &dyn Backend, format: Format, elements: usize) -> Result<Storage> {
        let fits = |storage: &Storage| storage.len() == elements && storage.format() == format;
        // Always the same one, so that a step finds its memory where the one before had it.
        let fitting = (0..self.free.len()).filter(|&place| fits(&self.free[place]));
        match fitting.min_by_key(|&place| self.free[place].address()) {
            Some(place) => Ok(self.free.swap_remove(place)),
            None => Ok(backend.allocate(&[(format, elements)])?.remove(0)),
        }
    }

    /// Gives memory back for the next who takes some.
    pub fn give(&mut self, storages: impl IntoIterator<Item = Storage>) {
        self.free.extend(storages);
    }
}
