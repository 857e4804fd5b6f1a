//! What a checkpoint has of an engine: states, step counts, hyperparameters.

use super::Engine;
use super::scalar_state::ScalarState;
use super::setup::{Ranks, Setup};
use crate::checkpoint::{Checkpoint, Entry, LoadOptions, OptimizerManifest, ParamManifest};
use crate::modifiers::LOOKAHEAD_STEPS;
use crate::params::MASTER;
use crate::params::residuals::Residuals;
use crate::params::slots::{RandomBits, Slot, Slots};
use crate::program::{Mode, Program};
use crate::{AnyAlgorithm, Error, ErrorFeedback, LoadReport, Result, ShapeMismatch};
use fallline_core::{Compute, Role, Shape};

/// What an engine restores from a checkpoint, once everything else of that is read too.
pub(crate) struct Section {
    pub(crate) slots: Slots,
    algorithms: Vec<Box<dyn AnyAlgorithm>>,
    shared: Vec<ScalarState>,
    lookahead_steps: u64,
    mode: Mode,
    /// Parameters that keep what they have.
    kept: Vec<String>,
}

/// Returns the shared scalar of an optimizer instance, under its name in the manifest.
fn shared_key(optimizer: usize, name: &str) -> String {
    if optimizer == 0 { name.to_owned() } else { format!("{optimizer}/{name}") }
}

impl Setup {
    /// Returns whether a checkpoint of this rank has what belongs to a parameter. Those that have no owner yet are
    /// the first rank's.
    pub(crate) fn saves_state_of(&self, slot: &Slot) -> bool {
        let keeps = |ranks: &Ranks| !ranks.sharded || slot.owner.unwrap_or(0) == ranks.comm.rank();
        self.ranks.as_ref().is_none_or(keeps)
    }
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
        for slot in slots.iter().filter(|slot| setup.saves_state_of(slot)) {
            let mut param = ParamManifest::new(slot.shape.dims(), slot.group, slot.compute);
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
                    checkpoint.manifest.ranks = Some(ranks.comm.world_size());
                }
            }
            // In full precision it would be the parameter once more.
            if let Some(master) = slot.master.as_ref().filter(|_| slot.is_half) {
                checkpoint.insert_state(&*setup.backend, &slot.name, MASTER, &slot.shape, master)?;
            }
            let RandomBits { seed, of_param } = slot.bits;
            param.seed = of_param.then_some(seed);
            let of_states = slot.states.iter().any(|(_, storage)| storage.rounds_stochastically());
            param.state_seed = (of_states && !of_param).then_some(seed);
            param.set_kind(slot.kind, &slot.name);
            manifest.params.insert(slot.name.clone(), param);
            if let (Some(errors), Some(ranks)) = (&slot.residuals, &setup.ranks) {
                let rank = ranks.comm.rank();
                for (error, storage) in [("worker_error", &errors.worker), ("server_error", &errors.server)] {
                    let entry = Entry::from_storage(&*setup.backend, storage, Shape::from([storage.len()]))?;
                    checkpoint.insert_of_rank(rank, &slot.name, error, entry);
                }
                checkpoint.manifest.ranks = Some(ranks.comm.world_size());
            }
            if let Some(scalars) = &slot.memory {
                let values = scalars.get(&*setup.backend)?;
                let memory = setup.groups[slot.group].algorithm.spec().memory.iter().zip(&*values);
                memory.for_each(|((name, _), value)| checkpoint.insert_scalar(&slot.name, name, *value));
            }
        }
        for (optimizer, shared) in shared.iter().enumerate() {
            let values = shared.get(&*setup.backend)?;
            let shared = setup.optimizer(optimizer).spec().shared.iter().zip(&*values);
            shared
                .for_each(|((name, _), value)| manifest.insert_shared(&shared_key(optimizer, name), *value));
        }
        if self.lookahead().is_some() {
            manifest.insert_shared(LOOKAHEAD_STEPS, self.lookahead_steps as f64);
        }
        checkpoint.manifest.optimizer = Some(manifest);
        checkpoint.manifest.set_mode(self.mode);
        Ok(())
    }

    /// Reads what it would restore from a checkpoint, and changes nothing.
    ///
    /// # Errors
    /// What does not fit and the options do not allow.
    pub(crate) fn read(
        &self,
        checkpoint: &Checkpoint,
        options: &LoadOptions,
    ) -> Result<(Section, LoadReport)> {
        let Engine { setup, slots, .. } = self;
        let manifest = checkpoint.manifest.whole_optimizer()?;
        manifest.refuse_other_than(setup.name())?;
        let shared = (0..self.shared.len()).map(|optimizer| {
            let names = setup.optimizer(optimizer).spec().shared.iter();
            names.map(|(name, _)| manifest.shared(&shared_key(optimizer, name))).collect()
        });
        let shared = shared.collect::<Result<Vec<Vec<f64>>>>()?;
        let lookahead_steps = match self.lookahead() {
            None => 0.0,
            Some(_) if options.lenient => manifest.shared(LOOKAHEAD_STEPS).unwrap_or(0.0),
            Some(_) => manifest.shared(LOOKAHEAD_STEPS)?,
        };
        let current = setup.groups.iter().map(|group| &*group.algorithm);
        let mut report = self.compare(manifest);
        let mode = checkpoint.manifest.mode()?;
        if !options.lenient
            && let Some(complaint) = report.complaint()
        {
            return Err(Error::Mismatch(complaint));
        }
        let kept: Vec<String> =
            report.missing.iter().chain(report.shape.iter().map(|other| &other.param)).cloned().collect();
        let algorithms = match options.state_only {
            true => manifest.restore_kept(current, (options, &mut report))?,
            false => manifest.restore_groups(current, (options, &mut report))?,
        };
        checkpoint.check_params(manifest, (options, &mut report))?;
        let steps_some = slots.any_bound();
        let fits = |name: &str, param: &ParamManifest| {
            let known = |slot: &Slot| slot.unbound || slot.shape == param.shape();
            slots.get(name).map_or(!steps_some, known)
        };
        let params = manifest.params.iter().filter(|(name, param)| fits(name, param));
        let params = params.map(|(name, param)| (name.as_str(), param));
        let loaded = self.load_slots((checkpoint, options), &algorithms, params, &mut report)?;
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
                    // What several ranks have saved may resume with one, who needs less.
                    let program = || algorithm.program_on(slot.variant, true).unwrap_or(Program::EMPTY);
                    let others = || program().operands(Role::State);
                    master
                        || (slot.steps > 0 && others().contains(&state))
                        || names.chain(memory.iter().map(|(name, _)| name)).any(|name| *name == state)
                });
                expected || passed(param)
            },
        );
        let of_ranks = checkpoint.below("rank/").next().filter(|_| checkpoint.manifest.ranks.is_none());
        let of_ranks = of_ranks.map(|_| ("rank/", "is there, but its manifest has no \"ranks\""));
        for (what, problem) in others.chain(of_ranks) {
            if !options.lenient {
                return Err(Error::Mismatch(format!("{what:?} {problem}")));
            }
            report.unexpected.push(what.to_owned());
        }
        let shared = shared.into_iter().map(ScalarState::new).collect();
        let lookahead_steps = lookahead_steps as u64;
        Ok((Section { slots: loaded, algorithms, shared, lookahead_steps, mode, kept }, report))
    }

    /// Restores what was read.
    pub(crate) fn take_over(&mut self, section: Section) {
        let Section { slots, algorithms, shared, lookahead_steps, mode, kept } = section;
        let mut before = core::mem::replace(&mut self.slots, slots);
        kept.iter().for_each(|name| self.slots.move_from(&mut before, name));
        self.slots.iter_mut().for_each(|slot| slot.progress = Default::default());
        for (group, algorithm) in self.setup.groups.iter_mut().zip(algorithms) {
            group.algorithm = algorithm;
        }
        (self.shared, self.lookahead_steps, self.mode) = (shared, lookahead_steps, mode);
    }

    /// Returns which parameters fit a checkpoint's. Of those that no step has bound the next step tells.
    fn compare(&self, manifest: &OptimizerManifest) -> LoadReport {
        let mut report = LoadReport::default();
        let bound = || self.slots.iter().filter(|slot| !slot.unbound);
        let absent = bound().filter(|slot| !manifest.params.contains_key(&slot.name));
        report.missing.extend(absent.map(|slot| slot.name.clone()));
        report.missing.sort();
        let steps_some = self.slots.any_bound();
        for (name, param) in &manifest.params {
            match self.slots.get(name) {
                Some(slot) if !slot.unbound && slot.shape != param.shape() => {
                    let (expected, got) = (slot.shape.clone(), param.shape());
                    report.shape.push(ShapeMismatch { param: name.clone(), expected, got });
                }
                None if steps_some => report.unexpected.push(name.clone()),
                _ => {}
            }
        }
        report
    }

    /// Returns what this rank's compressions have left out, where as many ranks have saved it.
    pub(super) fn load_errors(
        &self,
        checkpoint: &Checkpoint,
        algorithm: &dyn AnyAlgorithm,
        name: &str,
        shape: &Shape,
        compute: Compute,
    ) -> Result<Option<Residuals>> {
        let Some(ranks) = &self.setup.ranks else { return Ok(None) };
        let (rank, of) = (ranks.comm.rank(), ranks.comm.world_size());
        let feedback = algorithm.spec().replicas.error_feedback;
        let Some(feedback) = feedback.filter(|_| checkpoint.manifest.ranks == Some(of)) else {
            return Ok(None);
        };
        let found = ["worker_error", "server_error"].map(|error| checkpoint.of_rank(rank, name, error));
        let (worker, server) = match found {
            [None, None] => return Ok(None),
            [Some(worker), Some(server)] => (worker, server),
            _ => {
                let problem = format!("one of the two errors of {name:?} on rank {rank} is missing");
                return Err(Error::Mismatch(problem));
            }
        };
        // Those of all parameters in one piece have a length that the first alone does not tell; the next step does.
        let elements = match feedback {
            ErrorFeedback::Fused => worker.shape.elements(),
            ErrorFeedback::PerParameter => shape.elements(),
        };
        let mut errors = Residuals::new(&*self.setup.backend, compute, elements, of)?;
        for (entry, storage) in [(worker, &mut errors.worker), (server, &mut errors.server)] {
            if entry.shape != Shape::from([storage.len()]) || entry.format != storage.format() {
                let problem = format!("the errors of {name:?} on rank {rank} have another length or type");
                return Err(Error::Mismatch(problem));
            }
            entry.copy_to(&*self.setup.backend, storage)?;
        }
        Ok(Some(errors))
    }

    /// Returns a state that this rank has saved for itself, where as many ranks have.
    pub(super) fn of_this_rank<'c>(
        &self,
        checkpoint: &'c Checkpoint,
        algorithm: &dyn AnyAlgorithm,
        name: &str,
        state: &str,
    ) -> Option<&'c Entry> {
        let ranks = &self.setup.ranks.as_ref()?.comm;
        let saved = checkpoint.manifest.ranks == Some(ranks.world_size());
        let own = saved && algorithm.state(state).rank_local;
        own.then(|| checkpoint.of_rank(ranks.rank(), name, state))?
    }
}
