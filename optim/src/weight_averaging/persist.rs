//! What a checkpoint keeps of the averages.

use super::WeightAveraging;
use crate::checkpoint::{Checkpoint, Entry, LoadOptions};
use crate::params::averaged::AveragedParam;
use crate::params::slots::{Slot, Slots};
use crate::{Error, LoadReport, Result};
use fallline_core::Backend;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Averages in a checkpoint.
const AVERAGE: &str = "average/";

impl WeightAveraging {
    /// Adds them to a checkpoint.
    pub(crate) fn save<'s>(
        &self,
        near: &dyn Backend,
        slots: impl Iterator<Item = &'s Slot>,
        checkpoint: &mut Checkpoint,
    ) -> Result<()> {
        for slot in slots {
            if let Some(averaged) = slot.averaged.as_ref().filter(|averaged| averaged.begun) {
                let entry = Entry::from_storage(near, &averaged.storage, slot.shape.clone())?;
                checkpoint.insert(format!("{AVERAGE}{}", slot.name), entry);
            } else if let Some(param) = checkpoint.manifest.param_mut(&slot.name) {
                param.unaveraged = true;
            }
        }
        checkpoint.manifest.average_steps = Some(self.steps);
        Ok(())
    }

    /// Returns what they are after a load, in the slots of the checkpoint. A checkpoint without any begins them anew.
    pub(crate) fn loaded(
        &self,
        near: &Arc<dyn Backend>,
        checkpoint: &Checkpoint,
        slots: &mut Slots,
        (options, report): (&LoadOptions, &mut LoadReport),
    ) -> Result<WeightAveraging> {
        let missing = missing(checkpoint);
        if let Some(what) = missing.first().filter(|_| !options.lenient) {
            return Err(Error::Mismatch(format!("{what} is missing")));
        }
        report.missing.extend(missing);
        let mut known = Vec::new();
        for (name, entry) in checkpoint.below(AVERAGE) {
            match slots.get(name) {
                Some(slot) => known.push((name, entry, (slot.compute.format(), slot.shape.clone()))),
                None if options.lenient => report.unexpected.push(format!("{AVERAGE}{name}")),
                None => return Err(Error::Mismatch(format!("{AVERAGE}{name} is of an unknown parameter"))),
            }
        }
        // Side by side, as those of a first step.
        let requests: Vec<_> =
            known.iter().map(|(_, _, (format, shape))| (*format, shape.elements())).collect();
        let storages = if requests.is_empty() { Vec::new() } else { near.allocate(&requests)? };
        for ((name, entry, (_, shape)), mut storage) in known.into_iter().zip(storages) {
            let key = format!("{AVERAGE}{name}");
            let converted = entry.load_to(&**near, &key, &shape, &mut storage, options.converting)?;
            report.converted += usize::from(converted);
            if let Some(slot) = slots.get_mut(name) {
                slot.averaged = Some(Box::new(AveragedParam::new(storage, true)));
            }
        }
        let steps = checkpoint.manifest.average_steps.unwrap_or(0);
        Ok(WeightAveraging {
            spec: self.spec,
            steps,
            row: Vec::new(),
            plans: BTreeMap::new(),
            aside: Vec::new(),
        })
    }
}

/// Returns what a checkpoint that has averages lacks of them, by its manifest.
fn missing(checkpoint: &Checkpoint) -> Vec<String> {
    let averaged: BTreeSet<&str> = checkpoint.below(AVERAGE).map(|(name, _)| name).collect();
    match checkpoint.manifest.average_steps {
        None | Some(0) if !averaged.is_empty() => vec!["the manifest's \"average_steps\"".into()],
        None | Some(0) => Vec::new(),
        Some(_) => {
            let known = checkpoint.manifest.optimizer.iter().flat_map(|optimizer| &optimizer.params);
            let lacks = known.filter(|(name, param)| !param.unaveraged && !averaged.contains(&***name));
            lacks.map(|(name, _)| format!("{AVERAGE}{name}")).collect()
        }
    }
}
