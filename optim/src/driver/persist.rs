//! Saving and loading: what is checked, in which order, before anything changes.

use super::{Driver, class_of, first_of};
use crate::checkpoint::{Checkpoint, OptimizerManifest, ParamManifest};
use crate::lbfgs::History;
use crate::slots::{Slot, Slots};
use crate::{AnyAlgorithm, Error, LoadReport, Result};
use fallline_core::{Role, Shape};

/// What a family remembers for all its parameters, under its name in the manifest.
fn shared_key(family: usize, name: &str) -> String {
    if family == 0 { name.to_owned() } else { format!("{family}/{name}") }
}

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
                let shape = self.groups[slot.group].algorithm.state_shape(state, &slot.shape);
                checkpoint.insert_state(&*self.backend, &slot.name, state, &shape, storage)?;
            }
            let memory = self.groups[slot.group].algorithm.memory().iter().zip(&slot.memory);
            memory.for_each(|((name, _), value)| checkpoint.insert_scalar(&slot.name, name, *value));
        }
        if let Some(history) = &self.history {
            history.save(&*self.backend, &mut checkpoint, &mut manifest)?;
        }
        for (family, shared) in self.shared.iter().enumerate() {
            let shared = first_of(&self.groups, family).shared().iter().zip(shared);
            shared.for_each(|((name, _), value)| manifest.insert_shared(&shared_key(family, name), *value));
        }
        self.wrapped.save(&*self.backend, &mut checkpoint)?;
        if let Some(averages) = &self.averages {
            averages.save(self, &mut checkpoint)?;
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
        let shared = (0..self.shared.len()).map(|family| {
            let names = first_of(&self.groups, family).shared().iter();
            names.map(|(name, _)| manifest.shared(&shared_key(family, name))).collect()
        });
        let shared = shared.collect::<Result<Vec<Vec<f64>>>>()?;
        let algorithms = manifest.restore_groups(self.groups.iter().map(|group| &*group.algorithm))?;
        if algorithms[0].search().is_some() {
            let current = self.history.as_ref();
            let history = History::load(&*self.backend, checkpoint, manifest, current)?;
            let matched = history.as_ref().map_or(0, |history| history.params.len());
            self.history = history;
            self.adopt(algorithms);
            return Ok(LoadReport { matched });
        }
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
                loaded.get(param).is_some_and(|slot| {
                    let memory = algorithms[slot.group].memory();
                    let names = slot.states.iter().map(|(name, _)| name);
                    names.chain(memory.iter().map(|(name, _)| name)).any(|name| *name == state)
                })
            },
        )?;
        let wrapped = self.wrapped.loaded(self, checkpoint, &loaded)?;
        let averages = self.averages.as_ref().map(|averages| averages.loaded(self, checkpoint, &loaded));
        self.averages = averages.transpose()?;
        self.wrapped = wrapped;
        let report = LoadReport { matched: loaded.len() };
        self.slots = loaded;
        self.shared = shared;
        self.adopt(algorithms);
        Ok(report)
    }

    /// Takes the hyperparameters of a checkpoint, once everything else of it is there.
    fn adopt(&mut self, algorithms: Vec<Box<dyn AnyAlgorithm>>) {
        for (group, algorithm) in self.groups.iter_mut().zip(algorithms) {
            group.algorithm = algorithm;
        }
        self.poisoned = None;
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
        let class = class_of(&**algorithm, name, &shape)?;
        let expected = algorithm.stages(class).operands(Role::State);
        let mut states = Vec::new();
        if steps > 0 && !expected.is_empty() {
            let shapes: Vec<Shape> =
                expected.iter().map(|name| algorithm.state_shape(name, &shape)).collect();
            let requests: Vec<_> = shapes.iter().map(|shape| (compute.format(), shape.elements())).collect();
            let storages = self.backend.allocate(&requests)?.into_iter().zip(shapes);
            for (&state, (mut storage, shape)) in expected.iter().zip(storages) {
                checkpoint.read_state(&*self.backend, name, state, &shape, &mut storage)?;
                states.push((state, storage));
            }
        }
        let memory = algorithm.memory().iter().map(|(scalar, _)| checkpoint.scalar(name, scalar));
        Ok(Slot {
            name: name.to_owned(),
            shape,
            group: param.group,
            compute,
            steps,
            class,
            fits: None,
            states,
            scratch: Vec::new(),
            memory: memory.collect::<Result<_>>()?,
            mirror: None,
            run: None,
            row: 0,
        })
    }
}
