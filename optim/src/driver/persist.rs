//! Saving and loading: what is checked, in which order, before anything changes.

use super::{Driver, class_of};
use crate::checkpoint::{Checkpoint, Entry, OptimizerManifest, ParamManifest, Part};
use crate::compression::Errors;
use crate::lbfgs::History;
use crate::slots::{Slot, Slots};
use crate::{AnyAlgorithm, Error, LoadReport, Result};
use fallline_core::{Compute, Role, Shape};

impl Driver {
    pub(super) fn to_checkpoint(&self) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::default();
        let mut manifest = OptimizerManifest::new(self.groups[0].algorithm.name());
        for group in &self.groups {
            manifest.push_group(&*group.algorithm);
        }
        for slot in self.slots.iter().filter(|slot| !self.is_elsewhere(slot)) {
            let param = ParamManifest::new(slot.shape.extents(), slot.group, slot.compute);
            manifest.params.insert(slot.name.clone(), param);
            checkpoint.insert_steps(&slot.name, slot.steps);
            for (state, storage) in &slot.states {
                let shape = self.groups[slot.group].algorithm.state_shape(state, &slot.shape);
                checkpoint.insert_state(&*self.backend, &slot.name, state, &shape, storage)?;
            }
            if let (Some(errors), Some(world)) = (&slot.errors, &self.world) {
                let rank = world.ranks().rank();
                for (error, storage) in [("worker_error", &errors.worker), ("server_error", &errors.server)] {
                    let entry = Entry::from_storage(&*self.backend, storage, Shape::from([storage.len()]))?;
                    checkpoint.insert_of_rank(rank, &slot.name, error, entry);
                }
                checkpoint.manifest.ranks = Some(world.ranks().world());
            }
            let memory = self.groups[slot.group].algorithm.memory().iter().zip(&slot.memory);
            memory.for_each(|((name, _), value)| checkpoint.insert_scalar(&slot.name, name, *value));
        }
        if let Some(history) = &self.history {
            history.save(&*self.backend, &mut checkpoint, &mut manifest)?;
        }
        let shared = self.groups[0].algorithm.shared().iter().zip(&self.shared);
        shared.for_each(|((name, _), value)| manifest.insert_shared(name, *value));
        checkpoint.manifest.optimizer = Some(manifest);
        if let Some(world) = self.world.as_ref().filter(|world| world.sharded()) {
            let (rank, of) = (world.ranks().rank(), world.ranks().world());
            checkpoint.manifest.part = Some(Part { rank, of });
        }
        Ok(checkpoint)
    }

    pub(super) fn restore(&mut self, checkpoint: &Checkpoint) -> Result<LoadReport> {
        if let Some(Part { rank, of }) = checkpoint.manifest.part {
            let problem = format!("it is the part of rank {rank} of {of}: join the parts of all ranks first");
            return Err(Error::Mismatch(problem));
        }
        let manifest = checkpoint
            .manifest
            .optimizer
            .as_ref()
            .ok_or_else(|| Error::Mismatch("it holds no optimizer state".into()))?;
        let shared = self.groups[0].algorithm.shared().iter().map(|(name, _)| manifest.shared(name));
        let shared = shared.collect::<Result<Vec<f64>>>()?;
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

    /// What this rank's compressions have left out, where as many ranks have saved it.
    fn load_errors(
        &self,
        checkpoint: &Checkpoint,
        same_on_all_ranks: bool,
        name: &str,
        shape: &Shape,
        compute: Compute,
    ) -> Result<Option<Errors>> {
        let Some(world) = &self.world else { return Ok(None) };
        let (rank, of) = (world.ranks().rank(), world.ranks().world());
        if same_on_all_ranks || checkpoint.manifest.ranks != Some(of) {
            return Ok(None);
        }
        let found = ["worker_error", "server_error"].map(|error| checkpoint.of_rank(rank, name, error));
        let [Some(worker), Some(server)] = found else { return Ok(None) };
        let mut errors = Errors::new(&*self.backend, compute, shape.elements(), of)?;
        for (entry, storage) in [(worker, &mut errors.worker), (server, &mut errors.server)] {
            if entry.shape != Shape::from([storage.len()]) || entry.format != storage.format() {
                let problem = format!("the errors of {name:?} on rank {rank} have another length or type");
                return Err(Error::Mismatch(problem));
            }
            entry.copy_to(&*self.backend, storage)?;
        }
        Ok(Some(errors))
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
        let errors = self.load_errors(checkpoint, algorithm.same_on_all_ranks(), name, &shape, compute)?;
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
            owner: None,
            errors,
            run: None,
            row: 0,
        })
    }
}
