//! Slots out of a checkpoint, with their memory side by side as that of a first step.

#[cfg(test)]
mod tests;

use super::Engine;
use super::group::ParamInfo;
use super::prepare::variant_of;
use super::scalar_state::ScalarState;
use crate::checkpoint::{Checkpoint, LoadOptions, ParamManifest};
use crate::params::MASTER;
use crate::params::slots::{RandomBits, Slot, Slots};
use crate::program::Program;
use crate::{AnyAlgorithm, Error, LoadReport, ModuleKind, ParamPrecision, Result};
use fallline_core::{Format, Role, Shape};

/// A parameter of a checkpoint that was checked, and what is to be read of it.
struct Found<'c> {
    name: &'c str,
    slot: Slot,
    /// Its states, with the format that each was saved in and has here, and its shape.
    states: Vec<(&'static str, Format, Format, Shape)>,
    /// Whether it is read in single precision too.
    master: bool,
}

impl Engine {
    /// Returns parameters' slots as a checkpoint has them, each checked against the one that is there, which has
    /// its shape. All states have their memory in one arena, in the order in which parameters were bound last.
    ///
    /// # Errors
    /// What does not fit and the options do not allow.
    pub(super) fn load_slots<'c>(
        &self,
        (checkpoint, options): (&'c Checkpoint, &LoadOptions),
        algorithms: &[Box<dyn AnyAlgorithm>],
        params: impl Iterator<Item = (&'c str, &'c ParamManifest)>,
        report: &mut LoadReport,
    ) -> Result<Slots> {
        let mut found = Vec::new();
        for param in params {
            found.push(self.find_slot((checkpoint, options), algorithms, param, report)?);
        }
        let mut wanted: Vec<(usize, usize)> = Vec::new();
        for (i, found) in found.iter().enumerate() {
            wanted.extend((0..found.states.len()).map(|place| (place, i)));
        }
        let mut masters: Vec<usize> = (0..found.len()).filter(|&i| found[i].master).collect();
        if self.slots.any_bound() {
            let at = |i: usize| self.slots.place_of(found[i].name);
            wanted.sort_by_key(|&(place, i)| (place, at(i)));
            masters.sort_by_key(|&i| at(i));
        } else {
            wanted.sort();
        }
        let pages = |i: usize| {
            let slot = &found[i].slot;
            self.setup.spill_dir_of(&*algorithms[slot.group], slot.len)
        };
        let requests: Vec<_> = wanted
            .iter()
            .map(|&(place, i)| {
                let (_, _, format, shape) = &found[i].states[place];
                (*format, shape.elements())
            })
            .collect();
        for &(place, i) in &wanted {
            let Found { name, slot, states, .. } = &found[i];
            let (state, was, format, shape) = &states[place];
            if self.of_this_rank(checkpoint, &*algorithms[slot.group], name, state).is_none() {
                let converting = options.converting || was != format;
                checkpoint.check_state((name, state, *was), shape, *format, converting)?;
            }
        }
        for Found { name, slot, .. } in masters.iter().map(|&i| &found[i]) {
            checkpoint.check_state((name, MASTER, Format::F32), &slot.shape, Format::F32, false)?;
        }
        let storages = self.setup.allocate_in(&requests, wanted.iter().map(|&(_, i)| pages(i)))?;
        let requests: Vec<_> = masters.iter().map(|&i| (Format::F32, found[i].slot.len)).collect();
        let precise = self.setup.allocate_in(&requests, masters.iter().map(|&i| pages(i)))?;
        // First states come first, so that each parameter has its own in their order.
        for ((place, i), mut storage) in wanted.into_iter().zip(storages) {
            let Found { name, slot, states, .. } = &mut found[i];
            let (state, was, format, shape) = &states[place];
            let converting = options.converting || was != format;
            let algorithm = &*algorithms[slot.group];
            let converted = match self.of_this_rank(checkpoint, algorithm, name, state) {
                Some(own) => {
                    let key = format!("{name}/{state} of this rank");
                    own.load_to(&*self.setup.backend, &key, shape, &mut storage, converting)?
                }
                None => checkpoint.read_state(
                    &*self.setup.backend,
                    (name, state, *was),
                    shape,
                    &mut storage,
                    converting,
                )?,
            };
            report.converted += usize::from(converted);
            slot.states.push((state, self.setup.groups[slot.group].mark_rounding(state, storage)));
        }
        for (i, mut master) in masters.into_iter().zip(precise) {
            let Found { name, slot, .. } = &mut found[i];
            let key = (*name, MASTER, Format::F32);
            checkpoint.read_state(&*self.setup.backend, key, &slot.shape, &mut master, false)?;
            slot.master = Some(Box::new(master));
        }
        let mut slots = Slots::default();
        found.into_iter().for_each(|found| slots.push(found.slot));
        Ok(slots)
    }

    /// Returns whether a parameter is read in single precision, as its group keeps one next to it; that it was
    /// rounded as it is here.
    fn finds_master(
        &self,
        (checkpoint, options): (&Checkpoint, &LoadOptions),
        group: usize,
        (name, param): (&str, &ParamManifest),
        steps: u64,
    ) -> Result<bool> {
        let mismatch = |problem: &str| Error::Mismatch(format!("parameter {name:?} {problem}"));
        let group = &self.setup.groups[group];
        let wanted = group.params == ParamPrecision::MasterWeights
            || (self.setup.offload.is_some() && checkpoint.has_state(name, MASTER));
        match (group.params, param.seed) {
            _ if options.converting => {}
            (ParamPrecision::StochasticRounding { .. }, None) => {
                return Err(mismatch("was rounded to nearest, but here stochastically"));
            }
            (ParamPrecision::RoundToNearest | ParamPrecision::MasterWeights, Some(_)) => {
                return Err(mismatch("was rounded stochastically, but here to nearest"));
            }
            _ => {}
        }
        // The first step takes it from the parameter.
        let absent = !checkpoint.has_state(name, MASTER) && (options.lenient || options.converting);
        Ok(wanted && steps > 0 && !absent)
    }

    /// Returns a parameter's slot as a checkpoint has it, but for its memory.
    fn find_slot<'c>(
        &self,
        (checkpoint, options): (&'c Checkpoint, &LoadOptions),
        algorithms: &[Box<dyn AnyAlgorithm>],
        (name, param): (&'c str, &'c ParamManifest),
        report: &mut LoadReport,
    ) -> Result<Found<'c>> {
        let mismatch = |problem: String| Error::Mismatch(format!("parameter {name:?} {problem}"));
        let shape = param.shape();
        let here = self.slots.bound(name);
        let ours = here.map(|slot| slot.compute).or(self.setup.compute);
        let compute = param.compute_as(name, ours, options.converting)?;
        let saved = param.compute().unwrap_or(compute);
        if let Some(unknown) = param.unknown_kind() {
            options.refuse(|| format!("parameter {name:?} is of a module {unknown:?}, which is unknown"))?;
            report.unexpected.push(format!("the manifest's module {unknown:?} of {name:?}"));
        }
        // Where it is not noted, it is the one that is guessed.
        let kind = param.kind().unwrap_or_else(|| ModuleKind::guess(name, &shape));
        let group = match here {
            Some(slot) => slot.group,
            None => self.setup.group_of(&ParamInfo { name, shape: &shape, kind }),
        };
        if param.group != group && !options.state_only {
            let was = param.group;
            options.refuse(|| {
                let hint = "LoadOptions::state_only() keeps the optimizer's own groups";
                format!("parameter {name:?} was in group {was}, and is in group {group} here ({hint})")
            })?;
            report.unexpected.push(format!("the manifest's group {was} of {name:?}"));
        }
        let algorithm = &algorithms[group];
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
        // Without a step there are states where a Hessian was given before.
        let known =
            algorithm.hessian().is_some() && expected.iter().any(|state| checkpoint.has_state(name, state));
        if steps == 0 && !known {
            expected.clear();
        }
        let formats = &self.setup.groups[group].formats;
        let states = expected.into_iter().map(|state| {
            let format = formats.resolve(&**algorithm, state, shape.elements(), compute.format());
            let was = param.format(state, saved);
            let was = was.ok_or_else(|| mismatch(format!("has its state {state:?} in an unknown format")))?;
            if was != format && !options.converting && !formats.was_stored_as(state, was) {
                let problem = format!("has its state {state:?} as {was} in it, but here as {format}");
                return Err(mismatch(problem));
            }
            Ok((state, was, format, algorithm.state(state).shape(&shape)))
        });
        let states = states.collect::<Result<_>>()?;
        let master = self.finds_master((checkpoint, options), group, (name, param), steps)?;
        let memory = algorithm.spec().memory.iter().map(|(scalar, _)| checkpoint.scalar(name, scalar));
        let errors = self.load_errors(checkpoint, &**algorithm, name, &shape, compute)?;
        let bits = self.setup.groups[group].random_bits();
        let slot = Slot {
            group,
            steps,
            variant,
            is_half: master,
            // A resumed run keeps the seed that it began with.
            bits: RandomBits { seed: param.seed.or(param.state_seed).unwrap_or(bits.seed), ..bits },
            memory: ScalarState::memory(memory.collect::<Result<_>>()?),
            kind,
            residuals: errors.map(Box::new),
            unbound: here.is_none(),
            ..Slot::new(name, shape, compute)
        };
        Ok(Found { name, slot, states, master })
    }
}
