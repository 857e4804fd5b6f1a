//! Saving and loading: what is checked, in which order, before anything changes.

use super::Driver;
use crate::checkpoint::{Checkpoint, OptimizerManifest, ParamManifest};
use crate::slots::{Slot, Slots};
use crate::{AnyAlgorithm, Error, LoadReport, Result};
use fallline_core::Shape;

impl Driver {
    pub(super) fn to_checkpoint(&self) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::default();
        let mut manifest = OptimizerManifest::new(self.groups[0].algorithm.name());
        for group in &self.groups {
            manifest.push_group(&*group.algorithm);
        }
        for slot in self.slots.iter() {
            let param = ParamManifest::new(slot.shape.extents(), slot.group, slot.compute);
            manifest.params.insert(slot.name.clone(), param);
            checkpoint.insert_steps(&slot.name, slot.steps);
            for (state, storage) in &slot.states {
                checkpoint.insert_state(&*self.backend, &slot.name, state, &slot.shape, storage)?;
            }
        }
        checkpoint.manifest.optimizer = Some(manifest);
        Ok(checkpoint)
    }

    pub(super) fn restore(&mut self, checkpoint: &Checkpoint) -> Result<LoadReport> {
        let manifest = checkpoint
            .manifest
            .optimizer
            .as_ref()
            .ok_or_else(|| Error::Mismatch("it holds no optimizer state".into()))?;
        let algorithms = manifest.restore_groups(self.groups.iter().map(|group| &*group.algorithm))?;
        for slot in self.slots.iter() {
            if !manifest.params.contains_key(&slot.name) {
                return Err(Error::Mismatch(format!("parameter {:?} is missing", slot.name)));
            }
        }
        let mut loaded = Slots::default();
        for (name, param) in &manifest.params {
            if self.slots.len() > 0 && self.slots.get(name).is_none() {
                return Err(Error::Mismatch(format!("parameter {name:?} is not one of this optimizer's")));
            }
            let slot = self.load_slot(checkpoint, &algorithms, name, param)?;
            loaded.push(slot);
        }
        checkpoint.refuse_others(
            |param| loaded.get(param).is_some(),
            |param, state| {
                loaded.get(param).is_some_and(|slot| slot.states.iter().any(|(name, _)| *name == state))
            },
        )?;
        let report = LoadReport { matched: loaded.len() };
        self.slots = loaded;
        for (group, algorithm) in self.groups.iter_mut().zip(algorithms) {
            group.algorithm = algorithm;
        }
        self.poisoned = None;
        Ok(report)
    }

    /// A parameter's slot as a checkpoint has it, checked against the one that is there.
    fn load_slot(
        &self,
        checkpoint: &Checkpoint,
        algorithms: &[Box<dyn AnyAlgorithm>],
        name: &str,
        param: &ParamManifest,
    ) -> Result<Slot> {
        let mismatch = |problem: String| Error::Mismatch(format!("parameter {name:?} {problem}"));
        let shape = Shape::from(&param.shape[..]);
        let compute = param.compute().ok_or_else(|| mismatch("was computed in an unknown type".into()))?;
        if let Some(slot) = self.slots.get(name) {
            if slot.shape != shape {
                return Err(mismatch(format!("has shape {shape} in it, but {} here", slot.shape)));
            }
            if slot.compute != compute {
                return Err(mismatch(format!("was computed in {compute}, but here in {}", slot.compute)));
            }
        }
        if self.compute.is_some_and(|ours| ours != compute) {
            return Err(mismatch(format!("was computed in {compute}, which this optimizer does not")));
        }
        let algorithm = algorithms
            .get(param.group)
            .ok_or_else(|| mismatch(format!("is in group {}, which does not exist", param.group)))?;
        let steps = checkpoint.steps(name)?;
        let expected = algorithm.states().collect::<Vec<_>>();
        let mut states = Vec::new();
        if steps > 0 {
            let requests = vec![(compute.format(), shape.elements()); expected.len()];
            for (state, mut storage) in expected.iter().copied().zip(self.backend.allocate(&requests)?) {
                checkpoint.read_state(&*self.backend, name, state, &shape, &mut storage)?;
                states.push((state, storage));
            }
        }
        Ok(Slot {
            name: name.to_owned(),
            shape,
            group: param.group,
            compute,
            steps,
            kernel: (steps > 0).then(|| algorithm.kernel()),
            states,
            pass: None,
            row: 0,
        })
    }
}
