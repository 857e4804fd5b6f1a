//! Averages of the weights in the place of the parameters, for evaluation, and back.

use super::WeightAveraging;
use crate::engine::Engine;
use crate::params::slots::Slot;
use crate::{Binding, Error, ParamRef, Result};
use fallline_core::host::Slice;
use fallline_core::{Backend, Storage, fallible};
use std::collections::HashSet;

/// A swap of weights that was checked.
pub(crate) enum Swap {
    /// Averages go to the parameters at these places, whose weights were copied.
    In(Vec<usize>, Vec<Storage>),
    /// The weights come back: for each binding which of them, if any.
    Back(Vec<Option<usize>>),
}

impl WeightAveraging {
    /// Returns whether the parameters hold averages.
    pub(crate) fn is_swapped(&self) -> bool {
        !self.aside.is_empty()
    }

    /// Checks a swap: averages into the bound parameters, or the weights that are trained back.
    ///
    /// # Errors
    /// [`Error::Groups`] where none has begun, or a parameter that has one is not bound; what a binding is refused for.
    pub(crate) fn check_swap(&self, engine: &mut Engine, params: &mut [Binding<'_>]) -> Result<Swap> {
        let bound = names(params)?;
        params.iter().try_for_each(Binding::check_not_lent)?;
        if self.is_swapped() { self.check_back(engine, params, &bound) } else { check_in(engine, params) }
    }

    fn check_back(&self, engine: &mut Engine, params: &[Binding<'_>], bound: &HashSet<&str>) -> Result<Swap> {
        if let Some((name, _)) = self.aside.iter().find(|(name, _)| !bound.contains(&**name)) {
            return Err(refused(engine, format!("{name:?} holds its average, but is not bound")));
        }
        let kept = |name: &str| self.aside.iter().position(|(known, _)| known == name);
        let places: Vec<_> = params.iter().map(|binding| kept(binding.name)).collect();
        for (binding, place) in params.iter().zip(&places) {
            let (Some(place), Some(slot)) = (place, engine.slots.get_mut(binding.name)) else { continue };
            engine.setup.check_binding(binding, slot)?;
            if self.aside[*place].1.format() != binding.param.format() {
                let (param, got) = (binding.name.to_owned(), binding.param.format());
                return Err(Error::ParamFormat { param, got });
            }
        }
        Ok(Swap::Back(places))
    }

    /// Swaps the weights.
    ///
    /// # Errors
    /// When a device fails: some parameters then hold other weights than the others.
    pub(crate) fn swap(&mut self, engine: &Engine, params: &mut [Binding<'_>], swap: Swap) -> Result<()> {
        let near = engine.setup.param_backend();
        match swap {
            Swap::In(places, copies) => {
                let names = places.iter().map(|&place| params[place].name.to_owned());
                self.aside = names.zip(copies).collect();
                for place in places {
                    let Binding { name, param, .. } = &mut params[place];
                    let average = engine.slots.get(name).and_then(average);
                    average.map_or(Ok(()), |average| put(&**near, average, param))?;
                }
            }
            Swap::Back(places) => {
                for (binding, place) in params.iter_mut().zip(places) {
                    let copy = place.map(|place| &self.aside[place].1);
                    copy.map_or(Ok(()), |copy| put(&**near, copy, &mut binding.param))?;
                }
                self.aside.clear();
            }
        }
        Ok(())
    }
}

/// Checks that averages fit the bound parameters, and copies the weights of these.
fn check_in(engine: &mut Engine, params: &mut [Binding<'_>]) -> Result<Swap> {
    let bound = names(params)?;
    let averaged = || engine.slots.iter().filter(|slot| average(slot).is_some());
    if averaged().next().is_none() {
        return Err(refused(engine, "there is no average of the weights before the first step".into()));
    }
    if let Some(slot) = averaged().find(|slot| !bound.contains(&*slot.name)) {
        return Err(refused(engine, format!("{:?} has an average, but is not bound", slot.name)));
    }
    let (mut places, mut requests) = (Vec::new(), Vec::new());
    for (place, binding) in params.iter().enumerate() {
        let Some(slot) = engine.slots.get_mut(binding.name) else { continue };
        if average(slot).is_some() {
            engine.setup.check_binding(binding, slot)?;
            places.push(place);
            requests.push((binding.param.format(), binding.param.len()));
        }
    }
    let near = engine.setup.param_backend();
    let mut copies = near.allocate(&requests)?;
    for (&place, copy) in places.iter().zip(&mut copies) {
        let param = &mut params[place].param;
        param.gather();
        match param {
            ParamRef::Tensor(tensor) => near.copy(tensor.storage(), copy)?,
            param => {
                let slice = param.host();
                slice.map_or(Ok(()), |slice| near.write(copy, slice.as_ref()))?;
            }
        }
    }
    Ok(Swap::In(places, copies))
}

fn refused(engine: &Engine, problem: String) -> Error {
    Error::Groups { algorithm: engine.setup.name(), problem }
}

/// Returns the average of a parameter, if it has begun.
fn average(slot: &Slot) -> Option<&Storage> {
    slot.averaged.as_deref().filter(|averaged| averaged.begun).map(|averaged| &averaged.storage)
}

/// Returns the names that are bound.
///
/// # Errors
/// [`Error::Duplicate`].
fn names<'p>(params: &[Binding<'p>]) -> Result<HashSet<&'p str>> {
    let mut names = HashSet::new();
    match params.iter().find(|binding| !names.insert(binding.name)) {
        Some(twice) => Err(Error::Duplicate { param: twice.name.to_owned() }),
        None => Ok(names),
    }
}

/// Copies memory of the parameters' device into a parameter, rounded once where that is of another format.
fn put(near: &dyn Backend, from: &Storage, param: &mut ParamRef<'_>) -> Result<()> {
    match param {
        ParamRef::Tensor(tensor) if tensor.format() == from.format() => {
            near.copy(from, tensor.storage_mut())?;
        }
        ParamRef::Tensor(tensor) => {
            let mut values = fallible::zeroed::<f64>(from.len(), "a copy of an average")?;
            near.read(from, values.as_mut_slice().into())?;
            near.write(tensor.storage_mut(), Slice::from(&values))?;
        }
        param => {
            param.gather();
            if let Some(slice) = param.host() {
                near.read(from, slice)?;
            }
            param.scatter();
        }
    }
    Ok(())
}
