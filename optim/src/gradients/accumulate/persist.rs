//! What a checkpoint has of a window.

use super::{Sum, Window};
use crate::checkpoint::{Checkpoint, Entry, LoadOptions};
use crate::engine::Engine;
use crate::gradient_config::loss_scaler::persist::SavedGradientConfig;
use crate::gradient_config::{GradientConfig, LossScaler};
use crate::params::slots::Slots;
use crate::{Error, LoadReport, Result};
use fallline_core::{Backend, Tensor};
use std::sync::Arc;

/// Gradients of a window in a checkpoint.
const WINDOW: &str = "window/";

impl Window {
    /// Adds what a checkpoint keeps of it.
    pub(crate) fn save(
        &self,
        config: &GradientConfig,
        engine: &Engine,
        checkpoint: &mut Checkpoint,
    ) -> Result<()> {
        if config.is_plain() {
            return Ok(());
        }
        for (name, sum) in self.sums.iter().filter(|(_, sum)| sum.has_value) {
            if engine.slots.get(name).is_some_and(|slot| !engine.setup.saves_state_of(slot)) {
                continue;
            }
            let entry = Entry::from_storage(
                &**engine.setup.param_backend(),
                sum.tensor.storage(),
                sum.tensor.shape().clone(),
            )?;
            checkpoint.insert(format!("{WINDOW}{name}"), entry);
            if let Some(param) = checkpoint.manifest.param_mut(name) {
                param.accumulated = true;
            }
        }
        let scaler = config.scaler.as_ref().map(|scaler| scaler.save());
        checkpoint.manifest.wrapper = Some(SavedGradientConfig { done: self.done, scaler });
        Ok(())
    }

    /// Returns what it is after a load, with the slots of the checkpoint.
    pub(crate) fn load(
        config: &GradientConfig,
        backend: &Arc<dyn Backend>,
        checkpoint: &Checkpoint,
        slots: &Slots,
        (options, report): (&LoadOptions, &mut LoadReport),
    ) -> Result<(Window, Option<LossScaler>)> {
        let (mut loaded, mut scaler) = (Window::default(), config.scaler.clone());
        let missing = missing(config, checkpoint);
        if let Some(what) = missing.first().filter(|_| !options.lenient) {
            return Err(Error::Mismatch(format!("{what} is missing")));
        }
        report.missing.extend(missing);
        let Some(saved) = &checkpoint.manifest.wrapper else { return Ok((loaded, scaler)) };
        loaded.done = saved.done;
        if let (Some(scaler), Some(saved)) = (&mut scaler, &saved.scaler) {
            scaler.load(saved).map_err(Error::Mismatch)?;
        }
        for (name, entry) in checkpoint.below(WINDOW) {
            let slot = slots.get(name).filter(|_| config.buffers());
            let Some(slot) = slot else {
                if options.lenient {
                    report.unexpected.push(format!("{WINDOW}{name}"));
                    continue;
                }
                let problem = match config.buffers() {
                    true => "is of an unknown parameter",
                    false => "is of a window of accumulation, and this optimizer has none",
                };
                return Err(Error::Mismatch(format!("{WINDOW}{name} {problem}")));
            };
            let (key, fits) = (format!("{WINDOW}{name}"), (slot.compute.format(), &slot.shape));
            let (storage, converted) = entry.load(&**backend, &key, fits, options.converting)?;
            report.converted += usize::from(converted);
            let tensor = Tensor::from_storage(backend, storage, slot.shape.clone())?;
            loaded
                .sums
                .insert(name.to_owned(), Sum { tensor, has_value: true, is_empty: false, staging: None });
        }
        Ok((loaded, scaler))
    }

    /// Removes the gradient of a parameter.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Sum> {
        self.sums.remove(name)
    }

    /// Puts back what [`remove`](Window::remove) gave.
    pub(crate) fn insert(&mut self, name: &str, sum: Option<Sum>) {
        self.sums.remove(name);
        self.sums.extend(sum.map(|sum| (name.to_owned(), sum)));
    }
}

/// Returns what a checkpoint lacks of a window and a loss scale, by its manifest and the configuration. One that was
/// converted has never had them.
fn missing(config: &GradientConfig, checkpoint: &Checkpoint) -> Vec<String> {
    let manifest = &checkpoint.manifest;
    let known = manifest.optimizer.iter().flat_map(|optimizer| &optimizer.params);
    let mut missing: Vec<String> = Vec::new();
    let stepped = known.clone().next().is_some() && manifest.origin.is_none();
    let kept = config.scaler.is_some() || config.accumulate.accumulation_steps > 1;
    let has_window = checkpoint.below(WINDOW).next().is_some();
    match &manifest.wrapper {
        None if (stepped && kept) || has_window => missing.push("the manifest's \"wrapper\"".into()),
        Some(saved) if config.scaler.is_some() && saved.scaler.is_none() => {
            missing.push("the manifest's \"scaler\"".into());
        }
        _ => {}
    }
    let accumulated = known.filter(|(_, param)| param.accumulated).map(|(name, _)| format!("{WINDOW}{name}"));
    missing.extend(
        accumulated.filter(|key| checkpoint.below(key).next().is_none_or(|(rest, _)| !rest.is_empty())),
    );
    missing
}
