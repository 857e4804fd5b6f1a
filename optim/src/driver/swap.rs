//! Averages of the weights in the place of the parameters, for evaluation, and back.

use super::Driver;
use crate::checkpoint::check_not_lent;
use crate::params::slots::Slot;
use crate::{Binding, Error, ParamRef, Result};
use fallline_core::host::Slice;
use fallline_core::{Backend, Storage, fallible};
use std::collections::HashSet;

/// The weights that are trained, by the parameters' names, while the parameters hold averages.
#[derive(Default)]
pub(crate) struct SetAside(Vec<(String, Storage)>);

impl SetAside {
    /// Refuses what needs the weights that are trained.
    ///
    /// # Errors
    /// [`Error::Averaged`].
    pub(crate) fn check(&self, operation: &'static str) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Averaged { operation }) }
    }

    /// Forgets them: a load has brought others.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}

impl Driver {
    /// Puts the averages of the weights into the bound parameters, and the next time the weights that are trained back.
    /// After both the parameters have the same bits as before. An average is rounded to the parameter's type.
    ///
    /// Every parameter that has an average must be bound, with or without a gradient. Until the weights are back a copy
    /// of them takes memory, and steps and saving are errors. Loading forgets the copy.
    ///
    /// ```
    /// # use fallline_optim::{Driver, Result, frozen};
    /// # fn evaluate(_: &[f32]) {}
    /// # fn with(mut optimizer: Driver, mut weight: Vec<f32>) -> Result<()> {
    /// optimizer.swap_average(&mut [frozen("weight", &mut weight)])?;
    /// evaluate(&weight);
    /// optimizer.swap_average(&mut [frozen("weight", &mut weight)])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Groups`] where no average is kept, none has begun, or a parameter that has one is not bound. Another
    /// error where a binding has another shape or type; when a device fails.
    pub fn swap_average(&mut self, params: &mut [Binding<'_>]) -> Result<()> {
        self.poison.check()?;
        match self.aside.0.is_empty() {
            true => self.swap_in(params),
            false => self.swap_back(params),
        }
    }

    /// Returns whether the parameters hold averages: [`swap_average`](Driver::swap_average) was called once.
    pub fn holds_average(&self) -> bool {
        !self.aside.0.is_empty()
    }

    fn swap_in(&mut self, params: &mut [Binding<'_>]) -> Result<()> {
        self.check_ready()?;
        self.engine.check_training()?;
        if self.averaging.is_none() {
            return self.refused("it keeps no average of the weights (Driver::averaged)".into());
        }
        let bound = names(params)?;
        params.iter().try_for_each(check_not_lent)?;
        let averaged = || self.engine.slots.iter().filter(|slot| average(slot).is_some());
        if averaged().next().is_none() {
            return self.refused("there is no average of the weights before the first step".into());
        }
        if let Some(slot) = averaged().find(|slot| !bound.contains(&*slot.name)) {
            return self.refused(format!("{:?} has an average, but is not bound", slot.name));
        }
        let engine = &mut self.engine;
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
        let written = places.iter().try_for_each(|&place| {
            let Binding { name, param, .. } = &mut params[place];
            let slot = engine.slots.get(name);
            slot.and_then(average).map_or(Ok(()), |average| put(&**near, average, param))
        });
        let aside = places.iter().map(|&place| params[place].name.to_owned()).zip(copies);
        self.aside.0 = aside.collect();
        self.poison.guard_written(|| written)
    }

    fn swap_back(&mut self, params: &mut [Binding<'_>]) -> Result<()> {
        let bound = names(params)?;
        params.iter().try_for_each(check_not_lent)?;
        if let Some((name, _)) = self.aside.0.iter().find(|(name, _)| !bound.contains(&**name)) {
            return self.refused(format!("{name:?} holds its average, but is not bound"));
        }
        let kept = |name: &str| self.aside.0.iter().position(|(known, _)| known == name);
        let places: Vec<_> = params.iter().map(|binding| kept(binding.name)).collect();
        let (aside, engine) = (&self.aside.0, &mut self.engine);
        for (binding, place) in params.iter().zip(&places) {
            let (Some(place), Some(slot)) = (place, engine.slots.get_mut(binding.name)) else { continue };
            engine.setup.check_binding(binding, slot)?;
            if aside[*place].1.format() != binding.param.format() {
                let (param, got) = (binding.name.to_owned(), binding.param.format());
                return Err(Error::ParamFormat { param, got });
            }
        }
        let near = engine.setup.param_backend();
        self.poison.guard_written(|| {
            for (binding, place) in params.iter_mut().zip(places) {
                let copy = place.map(|place| &aside[place].1);
                copy.map_or(Ok(()), |copy| put(&**near, copy, &mut binding.param))?;
            }
            Ok(())
        })?;
        self.aside.forget();
        Ok(())
    }

    fn refused(&self, problem: String) -> Result<()> {
        Err(Error::Groups { algorithm: self.engine.setup.name(), problem })
    }
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
