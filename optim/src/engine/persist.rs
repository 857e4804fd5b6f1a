//! What a checkpoint has of an engine: states, step counts, hyperparameters.

use super::Engine;
use super::group::Member;
use super::prepare::variant_of;
use super::remembered::Remembered;
use crate::checkpoint::{Checkpoint, Entry, LoadOptions, OptimizerManifest, ParamManifest};
use crate::modifiers::LOOKAHEAD_STEPS;
use crate::params::MASTER;
use crate::params::error_feedback::Errors;
use crate::params::slots::{Slot, Slots};
use crate::program::{Mode, Program};
use crate::{AnyAlgorithm, Error, ErrorFeedback, LoadReport, ModuleKind, ParamFormat, Result, ShapeMismatch};
use fallline_core::{Compute, Format, Role, Shape, Storage};

/// What an engine takes over from a checkpoint, once everything else of that is read too.
pub(crate) struct Section {
    pub(crate) slots: Slots,
    algorithms: Vec<Box<dyn AnyAlgorithm>>,
    shared: Vec<Remembered>,
    lookahead_steps: u64,
    mode: Mode,
    /// Parameters that keep what they have.
    kept: Vec<String>,
}

/// What a family remembers for all its parameters, under its name in the manifest.
fn shared_key(family: usize, name: &str) -> String {
    if family == 0 { name.to_owned() } else { format!("{family}/{name}") }
}

impl Engine {
    /// Adds what it has to a checkpoint.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub(crate) fn save(&self, checkpoint: &mut Checkpoint) -> Result<()> {
        let Engine { setup, slots, shared, .. } = self;
        let mut manifest = OptimizerManifest::new(setup.groups[0].algorithm.name());
        for group in &setup.groups {
            manifest.push_group(&*group.algorithm);
        }
        for slot in slots.iter().filter(|slot| setup.keeps(slot)) {
            let mut param = ParamManifest::new(slot.shape.extents(), slot.group, slot.compute);
            checkpoint.insert_steps(&slot.name, slot.steps);
            for (state, storage) in &slot.states {
                param.insert_format(state, storage.format());
                let algorithm = &setup.groups[slot.group].algorithm;
                let spec = algorithm.state(state);
                let shape = spec.shape(&slot.shape);
                checkpoint.insert_state(&*setup.backend, &slot.name, state, &shape, storage)?;
                if let Some(ranks) = setup.ranks.as_ref().filter(|_| setup.has_diverged(slot))
                    && spec.rank_local
                {
                    let entry = Entry::from_storage(&*setup.backend, storage, shape)?;
                    checkpoint.insert_of_rank(ranks.comm.rank(), &slot.name, state, entry);
                    checkpoint.manifest.ranks = Some(ranks.comm.world());
                }
            }
            // In full precision it would be the parameter once more.
            if let Some(master) = slot.master.as_ref().filter(|_| slot.narrow) {
                checkpoint.insert_state(&*setup.backend, &slot.name, MASTER, &slot.shape, master)?;
            }
            param.seed = slot.seed;
            param.set_kind(slot.kind, &slot.name);
            manifest.params.insert(slot.name.clone(), param);
            if let (Some(errors), Some(ranks)) = (&slot.errors, &setup.ranks) {
                let rank = ranks.comm.rank();
                for (error, storage) in [("worker_error", &errors.worker), ("server_error", &errors.server)] {
                    let entry = Entry::from_storage(&*setup.backend, storage, Shape::from([storage.len()]))?;
                    checkpoint.insert_of_rank(rank, &slot.name, error, entry);
                }
                checkpoint.manifest.ranks = Some(ranks.comm.world());
            }
            if let Some(remembered) = &slot.memory {
                let values = remembered.get(&*setup.backend)?;
                let memory = setup.groups[slot.group].algorithm.spec().memory.iter().zip(&*values);
                memory.for_each(|((name, _), value)| checkpoint.insert_scalar(&slot.name, name, *value));
            }
        }
        for (family, shared) in shared.iter().enumerate() {
            let values = shared.get(&*setup.backend)?;
            let shared = setup.family(family).spec().shared.iter().zip(&*values);
            shared.for_each(|((name, _), value)| manifest.insert_shared(&shared_key(family, name), *value));
        }
        if self.lookahead().is_some() {
            manifest.insert_shared(LOOKAHEAD_STEPS, self.lookahead_steps as f64);
        }
        checkpoint.manifest.optimizer = Some(manifest);
        checkpoint.manifest.set_mode(self.mode);
        Ok(())
    }

    /// Reads what it would take over from a checkpoint, and changes nothing.
    ///
    /// # Errors
    /// What does not fit and the options do not let pass.
    pub(crate) fn read(
        &self,
        checkpoint: &Checkpoint,
        options: &LoadOptions,
    ) -> Result<(Section, LoadReport)> {
        let Engine { setup, slots, .. } = self;
        let manifest = checkpoint.manifest.whole_optimizer()?;
        manifest.refuse_other_than(setup.name())?;
        let shared = (0..self.shared.len()).map(|family| {
            let names = setup.family(family).spec().shared.iter();
            names.map(|(name, _)| manifest.shared(&shared_key(family, name))).collect()
        });
        let shared = shared.collect::<Result<Vec<Vec<f64>>>>()?;
        let lookahead_steps = match self.lookahead() {
            None => 0.0,
            Some(_) if options.lenient => manifest.shared(LOOKAHEAD_STEPS).unwrap_or(0.0),
            Some(_) => manifest.shared(LOOKAHEAD_STEPS)?,
        };
        let current = setup.groups.iter().map(|group| &*group.algorithm);
        let algorithms = match options.state_only {
            true => manifest.restore_kept(current)?,
            false => manifest.restore_groups(current)?,
        };
        let mode = checkpoint.manifest.mode()?;
        let mut report = self.compare(manifest);
        if !options.lenient
            && let Some(complaint) = report.complaint()
        {
            return Err(Error::Mismatch(complaint));
        }
        let kept: Vec<String> =
            report.missing.iter().chain(report.shape.iter().map(|other| &other.param)).cloned().collect();
        let mut loaded = Slots::default();
        for (name, param) in &manifest.params {
            let fits = |slot: &Slot| slot.shape == param.shape();
            if slots.get(name).map_or(slots.len() == 0, fits) {
                let slot = self.load_slot((checkpoint, options), &algorithms, (name, param), &mut report)?;
                loaded.push(slot);
            }
        }
        report.matched = loaded.len();
        let passed = |param: &str| {
            options.lenient && loaded.get(param).is_none() && manifest.params.contains_key(param)
        };
        let others = checkpoint.others(
            |param| loaded.get(param).is_some() || passed(param),
            |param, state| {
                let expected = loaded.get(param).is_some_and(|slot| {
                    let algorithm = &algorithms[slot.group];
                    let memory = algorithm.spec().memory;
                    let names = slot.states.iter().map(|(name, _)| name);
                    let master = slot.master.is_some() && state == MASTER;
                    // What several ranks have saved may go on with one, who needs less.
                    let program = || algorithm.program_on(slot.variant, true).unwrap_or(Program::EMPTY);
                    let others = || program().operands(Role::State);
                    master
                        || (slot.steps > 0 && others().contains(&state))
                        || names.chain(memory.iter().map(|(name, _)| name)).any(|name| *name == state)
                });
                expected || passed(param)
            },
        );
        for (what, problem) in others {
            if !options.lenient {
                return Err(Error::Mismatch(format!("{what:?} {problem}")));
            }
            report.unexpected.push(what.to_owned());
        }
        let shared = shared.into_iter().map(Remembered::new).collect();
        let lookahead_steps = lookahead_steps as u64;
        Ok((Section { slots: loaded, algorithms, shared, lookahead_steps, mode, kept }, report))
    }

    /// Takes over what was read.
    pub(crate) fn take_over(&mut self, section: Section) {
        let Section { slots, algorithms, shared, lookahead_steps, mode, kept } = section;
        let mut before = core::mem::replace(&mut self.slots, slots);
        kept.iter().for_each(|name| self.slots.adopt(&mut before, name));
        self.slots.iter_mut().for_each(|slot| slot.progress = Default::default());
        for (group, algorithm) in self.setup.groups.iter_mut().zip(algorithms) {
            group.algorithm = algorithm;
        }
        (self.shared, self.lookahead_steps, self.mode) = (shared, lookahead_steps, mode);
    }

    /// Which parameters fit a checkpoint's. An optimizer that has not stepped yet takes any.
    fn compare(&self, manifest: &OptimizerManifest) -> LoadReport {
        let mut report = LoadReport::default();
        let absent = self.slots.iter().filter(|slot| !manifest.params.contains_key(&slot.name));
        report.missing.extend(absent.map(|slot| slot.name.clone()));
        report.missing.sort();
        for (name, param) in &manifest.params {
            match self.slots.get(name) {
                Some(slot) if slot.shape != param.shape() => {
                    let (expected, got) = (slot.shape.clone(), param.shape());
                    report.shape.push(ShapeMismatch { param: name.clone(), expected, got });
                }
                None if self.slots.len() > 0 => report.unexpected.push(name.clone()),
                _ => {}
            }
        }
        report
    }

    /// What this rank's compressions have left out, where as many ranks have saved it.
    fn load_errors(
        &self,
        checkpoint: &Checkpoint,
        algorithm: &dyn AnyAlgorithm,
        name: &str,
        shape: &Shape,
        compute: Compute,
    ) -> Result<Option<Errors>> {
        let Some(ranks) = &self.setup.ranks else { return Ok(None) };
        let (rank, of) = (ranks.comm.rank(), ranks.comm.world());
        let feedback = algorithm.spec().replicas.error_feedback;
        let Some(feedback) = feedback.filter(|_| checkpoint.manifest.ranks == Some(of)) else {
            return Ok(None);
        };
        let found = ["worker_error", "server_error"].map(|error| checkpoint.of_rank(rank, name, error));
        let [Some(worker), Some(server)] = found else { return Ok(None) };
        // Those of all parameters in one piece have a length that the first alone does not tell; the next step does.
        let elements = match feedback {
            ErrorFeedback::Fused => worker.shape.elements(),
            ErrorFeedback::PerParameter => shape.elements(),
        };
        let mut errors = Errors::new(&*self.setup.backend, compute, elements, of)?;
        for (entry, storage) in [(worker, &mut errors.worker), (server, &mut errors.server)] {
            if entry.shape != Shape::from([storage.len()]) || entry.format != storage.format() {
                let problem = format!("the errors of {name:?} on rank {rank} have another length or type");
                return Err(Error::Mismatch(problem));
            }
            entry.copy_to(&*self.setup.backend, storage)?;
        }
        Ok(Some(errors))
    }

    /// A state that this rank has saved for itself, where as many ranks have.
    fn of_this_rank<'c>(
        &self,
        checkpoint: &'c Checkpoint,
        algorithm: &dyn AnyAlgorithm,
        name: &str,
        state: &str,
    ) -> Option<&'c Entry> {
        let ranks = &self.setup.ranks.as_ref()?.comm;
        let saved = checkpoint.manifest.ranks == Some(ranks.world());
        let own = saved && algorithm.state(state).rank_local;
        own.then(|| checkpoint.of_rank(ranks.rank(), name, state))?
    }

    /// A parameter in single precision, where its group keeps one beside it; that it was rounded as it is here.
    fn load_master(
        &self,
        (checkpoint, options): (&Checkpoint, &LoadOptions),
        group: usize,
        (name, param): (&str, &ParamManifest),
        steps: u64,
    ) -> Result<Option<Storage>> {
        let mismatch = |problem: &str| Error::Mismatch(format!("parameter {name:?} {problem}"));
        let group = &self.setup.groups[group];
        let wanted = group.params == ParamFormat::Master
            || (self.setup.offload.is_some() && checkpoint.has_state(name, MASTER));
        match (group.params, param.seed) {
            _ if options.converting => {}
            (ParamFormat::Stochastic { .. }, None) => {
                return Err(mismatch("was rounded to nearest, but here stochastically"));
            }
            (ParamFormat::Nearest | ParamFormat::Master, Some(_)) => {
                return Err(mismatch("was rounded stochastically, but here to nearest"));
            }
            _ => {}
        }
        // The first step takes it from the parameter.
        let absent = !checkpoint.has_state(name, MASTER) && (options.lenient || options.converting);
        if !wanted || steps == 0 || absent {
            return Ok(None);
        }
        let shape = param.shape();
        let folder = self.setup.pages(&*group.algorithm, shape.elements());
        let requests = [(Format::F32, shape.elements())];
        let mut master = None;
        for mut storage in self.setup.allocate_in(&requests, [folder].into_iter())? {
            checkpoint.read_state(
                &*self.setup.backend,
                (name, MASTER, Format::F32),
                &shape,
                &mut storage,
                false,
            )?;
            master = Some(storage);
        }
        Ok(master)
    }

    /// A parameter's slot as a checkpoint has it, checked against the one that is there, which has its shape.
    fn load_slot(
        &self,
        (checkpoint, options): (&Checkpoint, &LoadOptions),
        algorithms: &[Box<dyn AnyAlgorithm>],
        (name, param): (&str, &ParamManifest),
        report: &mut LoadReport,
    ) -> Result<Slot> {
        let mismatch = |problem: String| Error::Mismatch(format!("parameter {name:?} {problem}"));
        let shape = param.shape();
        let ours = self.slots.get(name).map(|slot| slot.compute).or(self.setup.compute);
        let compute = param.compute_as(name, ours, options.converting)?;
        let saved = param.compute().unwrap_or(compute);
        // Of a version that did not say it.
        let kind = param.kind().unwrap_or_else(|| ModuleKind::guess(name, &shape));
        let group = match options.state_only {
            true => match self.slots.get(name) {
                Some(slot) => slot.group,
                None => self.setup.group_of(&Member { name, shape: &shape, kind }),
            },
            false => param.group,
        };
        let algorithm = algorithms
            .get(group)
            .ok_or_else(|| mismatch(format!("is in group {group}, which does not exist")))?;
        let steps = checkpoint.steps(name)?;
        let variant = variant_of(&**algorithm, name, &shape)?;
        let mut expected = algorithm.program(variant).operands(Role::State);
        if self.setup.ranks.is_some() {
            let program = algorithm.program_on(variant, true).unwrap_or(Program::EMPTY);
            let more = program.operands(Role::State).into_iter();
            let more = more.filter(|state| !expected.contains(state) && checkpoint.has_state(name, state));
            let more: Vec<_> = more.collect();
            expected.extend(more);
        }
        if options.lenient {
            let absent = |state: &&str| !checkpoint.has_state(name, state) && steps > 0;
            report
                .missing
                .extend(expected.extract_if(.., |state| absent(&*state)).map(|s| format!("{name}/{s}")));
        }
        let mut states = Vec::new();
        // Without a step there are states where a Hessian was given before.
        let known =
            algorithm.hessian().is_some() && expected.iter().any(|state| checkpoint.has_state(name, state));
        if (steps > 0 || known) && !expected.is_empty() {
            let shapes: Vec<Shape> =
                expected.iter().map(|name| algorithm.state(name).shape(&shape)).collect();
            let formats = &self.setup.groups[group].formats;
            let chosen = expected.iter().map(|state| {
                let format = formats.choose(&**algorithm, state, shape.elements(), compute.format());
                let was = param.format(state, saved);
                let was =
                    was.ok_or_else(|| mismatch(format!("has its state {state:?} in an unknown format")))?;
                if was != format && !options.converting {
                    let problem = format!("has its state {state:?} as {was} in it, but here as {format}");
                    return Err(mismatch(problem));
                }
                Ok((was, format))
            });
            let chosen = chosen.collect::<Result<Vec<_>>>()?;
            let requests: Vec<_> =
                chosen.iter().zip(&shapes).map(|((_, format), shape)| (*format, shape.elements())).collect();
            let folder = self.setup.pages(&**algorithm, shape.elements());
            let folders = requests.iter().map(|_| folder.clone());
            let storages = self.setup.allocate_in(&requests, folders)?.into_iter().zip(shapes);
            for ((&state, (was, _)), (mut storage, shape)) in expected.iter().zip(&chosen).zip(storages) {
                let converting = options.converting;
                let own = self.of_this_rank(checkpoint, &**algorithm, name, state);
                let converted = match own {
                    Some(own) => {
                        let key = format!("{name}/{state} of this rank");
                        let wanted = (storage.format(), &shape);
                        let (own, converted) = own.load(&*self.setup.backend, &key, wanted, converting)?;
                        storage = own;
                        converted
                    }
                    None => {
                        let key = (name, state, *was);
                        checkpoint.read_state(&*self.setup.backend, key, &shape, &mut storage, converting)?
                    }
                };
                report.converted += usize::from(converted);
                states.push((state, storage));
            }
        }
        let master = self.load_master((checkpoint, options), group, (name, param), steps)?;
        let memory = algorithm.spec().memory.iter().map(|(scalar, _)| checkpoint.scalar(name, scalar));
        let errors = self.load_errors(checkpoint, &**algorithm, name, &shape, compute)?;
        Ok(Slot {
            group,
            steps,
            variant,
            states,
            narrow: master.is_some(),
            master: master.map(Box::new),
            // A resumed run keeps the seed that it began with.
            seed: self.setup.groups[group].params.seed().map(|own| param.seed.unwrap_or(own)),
            memory: Remembered::memory(memory.collect::<Result<_>>()?),
            kind,
            errors: errors.map(Box::new),
            ..Slot::new(name, shape, compute)
        })
    }
}
