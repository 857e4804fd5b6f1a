//! Parameters of a training loop: into a checkpoint, and out of it.

use super::{Checkpoint, Entry, LoadOptions, param_key};
use crate::binding::lent;
use crate::{Binding, Error, LoadReport, ParamRef, Result, ShapeMismatch};
use fallline_core::Shape;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

impl Checkpoint {
    /// Adds the bound parameters, all or none. Gradients are not looked at: [`frozen`](crate::frozen) binds a parameter
    /// alone. [`Driver::save_with`](crate::Driver::save_with) does so for the optimizer's.
    ///
    /// ```
    /// use fallline_optim::{Checkpoint, frozen};
    /// let mut weight = [1.0f32, 2.0];
    /// let mut checkpoint = Checkpoint::default();
    /// checkpoint.insert_params(&[frozen("weight", &mut weight)])?;
    /// weight = [0.0; 2];
    /// checkpoint.load_params(&mut [frozen("weight", &mut weight)])?;
    /// assert_eq!(weight, [1.0, 2.0]);
    /// # Ok::<(), fallline_optim::Error>(())
    /// ```
    ///
    /// # Errors
    /// A name that is given twice, a shape that does not fit; when a device cannot be read.
    pub fn insert_params(&mut self, params: &[Binding<'_>]) -> Result<()> {
        let known = self.manifest.optimizer.as_ref().map(|optimizer| &optimizer.params);
        let mut entries = BTreeMap::new();
        for binding in params {
            binding.check_shaped()?;
            binding.check_not_lent()?;
            let name = || binding.name.to_owned();
            let dims = binding.param.dims();
            let shape = match known.and_then(|known| known.get(binding.name)).map(|param| param.shape()) {
                None => Shape::from(dims),
                Some(expected) if dims.fit(&expected) => expected,
                Some(expected) => {
                    return Err(Error::ParamShape { param: name(), expected, got: dims.into() });
                }
            };
            if entries.insert(name(), entry_of(binding, shape)?).is_some() {
                return Err(Error::Duplicate { param: name() });
            }
        }
        entries.into_iter().for_each(|(name, entry)| self.insert_param(&name, entry));
        Ok(())
    }

    /// Copies its parameters into those that are bound. All is checked before the first is written.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a parameter that it does not have, or has in another type; another shape, a name that is
    /// given twice. When a device cannot be written, some parameters may be.
    pub fn load_params(&self, params: &mut [Binding<'_>]) -> Result<()> {
        let fitting = self.check_bound(params, (&LoadOptions::default(), &mut LoadReport::default()))?;
        self.write_params(params, &fitting)
    }

    /// Returns the places of the bindings that it has a parameter for, which are all where the load is strict.
    ///
    /// # Errors
    /// What does not fit and the options do not allow.
    pub(crate) fn check_bound(
        &self,
        params: &[Binding<'_>],
        (options, report): (&LoadOptions, &mut LoadReport),
    ) -> Result<Vec<usize>> {
        let (mut names, mut fitting) = (HashSet::new(), Vec::new());
        for (place, binding) in params.iter().enumerate() {
            binding.check_shaped()?;
            binding.check_not_lent()?;
            let name = || binding.name.to_owned();
            if !names.insert(binding.name) {
                return Err(Error::Duplicate { param: name() });
            }
            let key = param_key(binding.name);
            let Some(entry) = self.tensors.get(&key) else {
                options.refuse(|| format!("{key} is missing"))?;
                if !report.missing.contains(&key) {
                    report.missing.push(key);
                }
                continue;
            };
            let (dims, format) = (binding.param.dims(), binding.param.format());
            if !dims.fit(&entry.shape) {
                let (expected, got) = (Shape::from(dims), entry.shape.clone());
                options.refuse(|| format!("{key} has shape {got}, expected {expected}"))?;
                report.shape.push(ShapeMismatch { param: key, expected, got });
                continue;
            }
            if entry.format.size(entry.shape.elements()) != entry.bytes.len() {
                let (got, shape) = (entry.bytes.len(), &entry.shape);
                return Err(Error::Mismatch(format!("{key} has {got} bytes, and shape {shape}")));
            }
            if entry.format != format {
                if !options.converting {
                    let got = entry.format;
                    return Err(Error::Mismatch(format!("{key} is stored as {got}, expected {format}")));
                }
                report.converted += 1;
            }
            fitting.push(place);
        }
        Ok(fitting)
    }

    /// Writes the parameters that were checked.
    ///
    /// # Errors
    /// When a device cannot be written.
    pub(crate) fn write_params(&self, params: &mut [Binding<'_>], fitting: &[usize]) -> Result<()> {
        for &place in fitting {
            let Binding { name, param, .. } = &mut params[place];
            let Some(entry) = self.param(name) else { continue };
            if let ParamRef::Tensor(tensor) = param {
                let backend = Arc::clone(tensor.backend());
                entry.copy_to(&*backend, tensor.storage_mut())?;
                continue;
            }
            param.gather();
            if let Some(slice) = param.host() {
                entry.copy_to_host(slice)?;
            }
            param.scatter();
        }
        Ok(())
    }
}

/// Copies a parameter.
fn entry_of(binding: &Binding<'_>, shape: Shape) -> Result<Entry> {
    match &binding.param {
        ParamRef::Host(slice, _) => Entry::from_slice(shape, slice.as_ref()),
        ParamRef::Tensor(tensor) if tensor.format().block().is_some() => {
            let (name, format) = (binding.name, tensor.format());
            Err(Error::Mismatch(format!("parameter {name:?} is stored as {format}, which no file has")))
        }
        ParamRef::Tensor(tensor) => Entry::from_storage(&**tensor.backend(), tensor.storage(), shape),
        ParamRef::Lent(_) => Err(lent(binding.name)),
        #[cfg(feature = "ndarray")]
        ParamRef::Strided(view) => view.with_copy(|values| Entry::from_slice(shape, values)),
    }
}
