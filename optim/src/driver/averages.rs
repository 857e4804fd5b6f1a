//! Averages of the weights, kept beside them.

use super::Driver;
use crate::average::{Average, Share};
use crate::checkpoint::{Checkpoint, Entry, LoadOptions};
use crate::slots::Slots;
use crate::{Binding, Error, Result};
use fallline_core::backend::{Pass, TensorPass, View};
use fallline_core::host::Slice;
use fallline_core::{Backend, Storage, Tensor};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Averages at work.
pub(super) struct Averages {
    spec: Average,
    /// Iterations so far.
    steps: u64,
    weights: BTreeMap<String, Tensor>,
    /// A copy of a parameter on a device that does not reach it.
    staging: BTreeMap<String, Storage>,
}

/// Averages in a checkpoint.
const AVERAGE: &str = "average/";

impl Driver {
    /// Keeps an average of the weights, which every [`step`](crate::Optimizer::step) updates when it is done, whether
    /// it changed them or not: an iteration counts, as in MMEngine's `EMAHook`. It is saved and loaded with the rest.
    pub fn averaged(mut self, average: Average) -> Driver {
        let (weights, staging) = Default::default();
        self.averages = Some(Averages { spec: average, steps: 0, weights, staging });
        self
    }

    /// The average of a parameter's weights, in row-major order; `None` where there is none (yet).
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn average(&self, param: &str) -> Result<Option<Vec<f64>>> {
        let tensor = self.averages.as_ref().and_then(|averages| averages.weights.get(param));
        let Some(tensor) = tensor else { return Ok(None) };
        let mut values = vec![0.0f64; tensor.shape().elements()];
        self.near().read(tensor.storage(), values.as_mut_slice().into())?;
        Ok(Some(values))
    }

    /// Takes the weights of bindings that are known into the average.
    pub(super) fn average_in(&mut self, bindings: &mut [Binding<'_>]) -> Result<()> {
        let Some(mut averages) = self.averages.take() else { return Ok(()) };
        let taken = averages.take_in(self, bindings);
        self.averages = Some(averages);
        taken
    }

    /// Counts an iteration.
    pub(super) fn count_average(&mut self) {
        if let Some(averages) = &mut self.averages {
            averages.steps += 1;
        }
    }
}

impl Averages {
    fn take_in(&mut self, driver: &Driver, bindings: &mut [Binding<'_>]) -> Result<()> {
        let Some(share) = self.spec.share(self.steps) else { return Ok(()) };
        for binding in bindings {
            let Some(slot) = driver.slots.get(binding.name) else { continue };
            #[cfg(feature = "ndarray")]
            if let crate::ParamRef::Strided(view) = &mut binding.param {
                view.gather();
            }
            let new = !self.weights.contains_key(binding.name);
            if new {
                let tensor = Tensor::zeros(driver.near(), slot.compute.format(), slot.shape.clone())?;
                self.weights.insert(binding.name.to_owned(), tensor);
            }
            let Some(weights) = self.weights.get_mut(binding.name) else { continue };
            let host = binding.param.host().filter(|_| !driver.near().reaches_host());
            let staged = match host {
                Some(slice) => Some(stage(driver, &mut self.staging, binding.name, slice.as_ref())?),
                None => None,
            };
            let algorithm = &driver.groups[slot.group].algorithm;
            // A copy is no arithmetic, so that an infinity is copied too.
            let kernel = if new { algorithm.param_copy() } else { algorithm.wrapping().lerp };
            let mut row = vec![1.0; 1 + kernel.scalars.len()];
            if !new {
                kernel.compute_scalars(&Share::of(&self.spec, share), 1, &mut row[1..]);
            }
            let elements = slot.shape.elements();
            let param = staged.map(View::read).unwrap_or_else(|| binding.param.view());
            let mut views = Some((View::write(weights.storage_mut()), param));
            driver.near().run(Pass {
                kernel,
                compute: slot.compute,
                tensors: &mut |places| {
                    let (average, param) = views.take()?;
                    // In both rules what is written comes first.
                    (places[0], places[1]) = (Some(average), Some(param));
                    Some(TensorPass { elements, row: 0 })
                },
                rows: &row,
                tensor_scalars: &[],
                plan: &mut driver.near().plan(),
                sums: &mut [],
            })?;
        }
        Ok(())
    }

    /// Brings them to another device.
    pub(super) fn move_to(&mut self, device: &Arc<dyn Backend>) -> Result<()> {
        self.staging.clear();
        self.weights.values_mut().try_for_each(|weights| {
            *weights = weights.to(device)?;
            Ok(())
        })
    }

    /// What they depend on, in a line.
    pub(super) fn write_settings(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "{:?} after {} iterations", self.spec, self.steps)
    }

    /// Adds them to a checkpoint.
    pub(super) fn save(&self, driver: &Driver, checkpoint: &mut Checkpoint) -> Result<()> {
        for (name, tensor) in &self.weights {
            if driver.slots.get(name).is_some_and(|slot| !driver.keeps(slot)) {
                continue;
            }
            let entry = Entry::from_storage(&**driver.near(), tensor.storage(), tensor.shape().clone())?;
            checkpoint.insert(format!("{AVERAGE}{name}"), entry);
        }
        checkpoint.manifest.average_steps = Some(self.steps);
        Ok(())
    }

    /// What they are after a load. A checkpoint without any begins them anew.
    pub(super) fn loaded(
        &self,
        driver: &Driver,
        checkpoint: &Checkpoint,
        slots: &Slots,
        options: &LoadOptions,
    ) -> Result<Averages> {
        let steps = checkpoint.manifest.average_steps.unwrap_or(0);
        let (weights, staging) = Default::default();
        let mut loaded = Averages { spec: self.spec, steps, weights, staging };
        for (name, entry) in checkpoint.below(AVERAGE) {
            let mismatch = |problem: String| Error::Mismatch(format!("{AVERAGE}{name} {problem}"));
            let Some(slot) = slots.get(name) else {
                if options.lenient {
                    continue;
                }
                return Err(mismatch("is of an unknown parameter".into()));
            };
            if entry.shape != slot.shape || entry.format != slot.compute.format() {
                let (got, expected) = (&entry.shape, &slot.shape);
                return Err(mismatch(format!(
                    "is {} of shape {got}, expected {} of {expected}",
                    entry.format,
                    slot.compute.format()
                )));
            }
            let mut tensor = Tensor::zeros(driver.near(), entry.format, entry.shape.clone())?;
            entry.copy_to(&**driver.near(), tensor.storage_mut())?;
            loaded.weights.insert(name.to_owned(), tensor);
        }
        Ok(loaded)
    }
}

/// Copies a parameter to the device.
fn stage<'s>(
    driver: &Driver,
    staging: &'s mut BTreeMap<String, Storage>,
    name: &str,
    slice: Slice<'_>,
) -> Result<&'s Storage> {
    let fits = |storage: &Storage| storage.format() == slice.format() && storage.len() == slice.len();
    if !staging.get(name).is_some_and(fits) {
        let mut storages = driver.near().allocate(&[(slice.format(), slice.len())])?;
        staging.insert(name.to_owned(), storages.remove(0));
    }
    let storage = staging.get_mut(name).expect("it was inserted a moment ago");
    driver.near().write(storage, slice)?;
    Ok(storage)
}
