//! What the scalars of an operation's rule may follow from.

use super::queue_of;
use core::cell::OnceCell;
use core::fmt;
use fallline_core::backend::Plan;
use fallline_core::{Backend, Error, Result, Shape, Storage};

/// What an operation multiplies a gradient by.
#[derive(Clone, Copy, Debug)]
pub struct GradScale<'a> {
    pub(crate) known: f64,
    /// What is multiplied by that on the device.
    pub(crate) factor: Option<(&'a Storage, usize)>,
    pub(crate) backend: &'a dyn Backend,
}

impl GradScale<'_> {
    /// Returns the number. Where gradients are clipped on a device this waits for it.
    ///
    /// # Errors
    /// When the device fails.
    pub fn get(&self) -> Result<f64> {
        Ok(self.known * self.factor()?)
    }

    /// Returns what of it the host knows: all of it, but for a factor on the device.
    pub fn known(&self) -> f64 {
        self.known
    }

    /// Returns what of it is on the device, fetched; 1 where nothing is.
    pub(super) fn factor(&self) -> Result<f64> {
        let Some((storage, place)) = self.factor else { return Ok(1.0) };
        let mut values = vec![0.0; storage.len()];
        self.backend.read(storage, values.as_mut_slice().into())?;
        Ok(values[place])
    }
}

/// What the scalars of an operation's rule may follow from.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    pub(crate) sums: Sums<'a>,
    pub(crate) scale: GradScale<'a>,
    pub(crate) shape: &'a Shape,
}

/// Sums of the last pass, by name.
#[derive(Clone, Copy)]
pub struct Sums<'a> {
    pub(crate) names: &'static [&'static str],
    /// Which of the pass's tensors they are of, and of how many.
    pub(crate) tensor: usize,
    pub(crate) of: usize,
    pub(crate) found: Found<'a>,
    pub(crate) backend: &'a dyn Backend,
    /// All tensors' sums, once they were fetched.
    pub(crate) fetched: &'a OnceCell<Vec<f64>>,
}

/// Where sums are.
#[derive(Clone, Copy)]
pub(crate) enum Found<'a> {
    /// On the host: a row for each tensor.
    Known(&'a [f64]),
    /// Where the pass, if there was one, has left them on its device.
    Kept(Option<&'a Plan>),
}

impl fmt::Debug for Sums<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sums").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Sums<'_> {
    /// Returns which of the sums has a name.
    pub(super) fn place(&self, name: &str) -> Result<usize> {
        let place = self.names.iter().position(|known| *known == name);
        place.ok_or_else(|| Error::Unavailable(format!("the pass before returns no sum {name:?}")))
    }

    /// Returns a sum. On a device that keeps them this waits for it: where a rule's own scalar follows from it,
    /// [`run_reading`](super::Runner::run_reading) does not.
    ///
    /// # Errors
    /// When the pass before returns none of this name, or the device fails.
    pub fn get(&self, name: &str) -> Result<f64> {
        let missing = || Error::Unavailable(format!("the pass before returns no sum {name:?}"));
        let width = self.names.len();
        let place = self.place(name)?;
        let all = match self.found {
            Found::Known(all) => all,
            Found::Kept(plan) => match self.fetched.get() {
                Some(all) => all,
                None => {
                    let mut all = vec![0.0; self.of * width];
                    queue_of(self.backend)?.sums(plan.ok_or_else(missing)?, &mut all)?;
                    self.fetched.get_or_init(|| all)
                }
            },
        };
        all.get(self.tensor * width + place).copied().ok_or_else(missing)
    }
}
