//! Memory for states: in which format, where, and what is in it at first.

use super::prepare::join;
use super::run::Run;
use super::{Driver, Group, fill, memory_of, mirror};
use crate::op::Slices;
use crate::program::Variant;
use crate::slots::Slot;
use crate::{AnyAlgorithm, Binding, Error, Extent, ParamFormat, Result, Start, StateFormats};
use fallline_core::backend::{Pass, TensorPass, View};
use fallline_core::{Format, Role, Storage};
use std::path::PathBuf;

/// Elements from which states are paged, as bitsandbytes has it: smaller ones are not worth a page.
const PAGED_FROM: usize = 100_000;

impl Driver {
    /// Stores a group's states in these formats, from its parameters' first step on. Groups added later have those of
    /// the first.
    ///
    /// # Errors
    /// [`Error::StateFormat`] when the algorithm has no such state, or needs its states as they are computed;
    /// [`Error::NoGroup`].
    pub fn set_state_formats(&mut self, group: usize, formats: StateFormats) -> Result<()> {
        let count = self.groups.len();
        let found = self.groups.get_mut(group).ok_or(Error::NoGroup { group, count })?;
        formats.check(&*found.algorithm)?;
        found.formats = formats;
        Ok(())
    }

    /// Stores a group's parameters of 16 bits so, from their first step on. Groups added later have the format of the
    /// first.
    ///
    /// # Errors
    /// [`Error::StateFormat`] for algorithms that work on whole matrices or evaluate the loss; [`Error::NoGroup`].
    pub fn set_param_format(&mut self, group: usize, format: ParamFormat) -> Result<()> {
        let count = self.groups.len();
        let found = self.groups.get_mut(group).ok_or(Error::NoGroup { group, count })?;
        if format != ParamFormat::Nearest {
            StateFormats::all(Format::F32).check(&*found.algorithm)?;
        }
        found.params = format;
        Ok(())
    }

    /// How a group's states are stored, where not as the algorithm has it.
    pub fn state_formats(&self, group: usize) -> Option<&StateFormats> {
        self.groups.get(group).map(|group| &group.formats)
    }

    /// How a group stores parameters of 16 bits.
    pub fn param_format(&self, group: usize) -> Option<ParamFormat> {
        self.groups.get(group).map(|group| group.params)
    }

    /// Keeps the states of parameters with at least a hundred thousand elements in files of this folder that are mapped
    /// into memory: of all groups, or of those whose algorithm is a paged one when there is none (then in the system's
    /// folder for temporary files).
    pub fn set_page_folder(&mut self, folder: Option<PathBuf>) {
        self.page_folder = folder;
    }

    /// Where the states of a parameter are paged to, if they are.
    pub(super) fn pages(&self, algorithm: &dyn AnyAlgorithm, elements: usize) -> Option<PathBuf> {
        let large = elements >= PAGED_FROM;
        let folder = self.page_folder.clone().or_else(|| algorithm.storage().paged.then(std::env::temp_dir));
        folder.filter(|_| large)
    }

    /// Allocates the states and scratch that the groups' stages need and the bound parameters have not, in one
    /// arena: all first states side by side, then all second ones, so that a pass over many parameters walks
    /// each kind in one stream. Then these parameters have their runs too.
    pub(super) fn allocate_states(&mut self, bindings: &mut [Binding<'_>]) -> Result<()> {
        let mut runs = core::mem::take(&mut self.runs);
        let mut places = core::mem::take(&mut self.places);
        let mut slots = core::mem::take(&mut self.slots);
        let done = self.allocate_for(slots.range(0..bindings.len()), bindings, &mut runs, &mut places);
        (self.slots, self.runs, self.places) = (slots, runs, places);
        done
    }

    fn allocate_for(
        &self,
        slots: &mut [Slot],
        bindings: &mut [Binding<'_>],
        runs: &mut Vec<Run>,
        places: &mut [[Option<usize>; 2 * Variant::COUNT]],
    ) -> Result<()> {
        let lacking = |i: &usize| {
            let slot = &slots[*i];
            slot.run.is_none() && !bindings[*i].grad.is_none() && !self.is_elsewhere(slot)
        };
        let lacks: Vec<usize> = (0..slots.len()).filter(lacking).collect();
        let mut wanted: Vec<(Role, usize, usize, &'static str)> = Vec::new();
        for &i in &lacks {
            let program = self.program_of(&slots[i])?;
            for role in [Role::State, Role::Scratch] {
                let has = |name: &&str| memory_of(&slots[i], role).iter().any(|(known, _)| known == name);
                let all = program.operands(role).into_iter().enumerate();
                let missing = all.filter(|(_, name)| !has(name));
                wanted.extend(missing.map(|(place, name)| (role, place, i, name)));
            }
        }
        wanted.sort_by_key(|&(role, place, i, _)| (role == Role::Scratch, place, i));
        let request = |&(role, _, i, name): &(Role, usize, usize, &'static str)| {
            let slot = &slots[i];
            let computed = slot.compute.format();
            let Group { algorithm, formats, .. } = &self.groups[slot.group];
            let elements = algorithm.state(name).shape(&slot.shape).elements();
            match role {
                Role::State => {
                    (formats.choose(&**algorithm, name, slot.shape.elements(), computed), elements)
                }
                _ => (computed, elements),
            }
        };
        let requests: Vec<(Format, usize)> = wanted.iter().map(request).collect();
        let folders = wanted.iter().map(|&(role, _, i, _)| {
            let slot = &slots[i];
            let pages = || self.pages(&*self.groups[slot.group].algorithm, slot.shape.elements());
            if role == Role::State { pages() } else { None }
        });
        let mut storages = self.allocate_in(&requests, folders)?;
        let masters: Vec<usize> = lacks.iter().copied().filter(|&i| self.lacks_master(&slots[i])).collect();
        let requests: Vec<(Format, usize)> =
            masters.iter().map(|&i| (slots[i].compute.format(), slots[i].shape.elements())).collect();
        let folders = requests
            .iter()
            .zip(&masters)
            .map(|(&(_, len), &i)| self.pages(&*self.groups[slots[i].group].algorithm, len));
        let new = self.allocate_in(&requests, folders)?;
        for (i, mut master) in masters.into_iter().zip(new) {
            self.copy_param(&mut bindings[i], &mut master, &mut slots[i], Extent::Param)?;
            slots[i].master = Some(master);
        }
        for (&(role, _, i, name), storage) in wanted.iter().zip(&mut storages) {
            let spec = self.groups[slots[i].group].algorithm.state(name);
            match spec.start {
                Start::Param if role == Role::State => {
                    self.copy_param(&mut bindings[i], storage, &mut slots[i], spec.extent)?;
                }
                Start::Value(initial) if initial != 0.0 => fill(&*self.backend, storage, initial)?,
                // Memory is zero at first.
                Start::Param | Start::Value(_) => {}
            }
        }
        for ((role, _, i, name), storage) in wanted.into_iter().zip(storages) {
            match role {
                Role::State => slots[i].states.push((name, storage)),
                _ => slots[i].scratch.push((name, storage)),
            }
        }
        for i in lacks {
            let slot = &mut slots[i];
            let place = self.run_of(runs, places, slot)?;
            for (role, memory) in [(Role::State, &mut slot.states), (Role::Scratch, &mut slot.scratch)] {
                let order = runs[place].program.operands(role);
                memory.retain(|(name, _)| order.contains(name));
                memory.sort_by_key(|(name, _)| order.iter().position(|known| known == name));
            }
            slot.fits = Some(place);
            join(&self.groups, &mut runs[place], slot, place);
        }
        Ok(())
    }

    /// Storages for requests, each in its folder or in memory.
    pub(super) fn allocate_in(
        &self,
        requests: &[(Format, usize)],
        folders: impl Iterator<Item = Option<PathBuf>>,
    ) -> Result<Vec<Storage>> {
        let folders: Vec<Option<PathBuf>> = folders.collect();
        let mut storages: Vec<Option<Storage>> = requests.iter().map(|_| None).collect();
        for kind in [false, true] {
            let mine = || (0..requests.len()).filter(|&i| folders[i].is_some() == kind);
            let wanted: Vec<(Format, usize)> = mine().map(|i| requests[i]).collect();
            let folder = mine().find_map(|i| folders[i].as_ref());
            // A device that has no paged memory gives ordinary memory.
            let new = match folder.zip(self.backend.paged_memory()) {
                _ if wanted.is_empty() => Vec::new(),
                Some((folder, paged)) => paged.allocate_paged(&wanted, folder)?,
                None => self.backend.allocate(&wanted)?,
            };
            mine().zip(new).for_each(|(i, storage)| storages[i] = Some(storage));
        }
        Ok(storages.into_iter().flatten().collect())
    }

    fn lacks_master(&self, slot: &Slot) -> bool {
        let wanted = self.groups[slot.group].params == ParamFormat::Master || self.is_away();
        wanted && slot.master.is_none()
    }

    /// A state's first values: the parameter's, as far as it has elements for them.
    fn copy_param(
        &self,
        binding: &mut Binding<'_>,
        storage: &mut Storage,
        slot: &mut Slot,
        extent: Extent,
    ) -> Result<()> {
        if self.is_away() {
            return self.bring(binding, storage);
        }
        let elements = storage.len();
        let mut param = mirror::views(binding, &mut slot.mirror, None).0;
        let mut slice = None;
        if let Extent::Every(every) = extent
            && let Some(whole) = param.take()
        {
            let mut taken = self.backend.allocate(&[(slot.compute.format(), elements)])?.remove(0);
            Slices::default().take(&*self.backend, whole, every, &mut taken)?;
            param = Some(View::read(slice.insert(taken)));
        }
        let mut views = Some((View::write(storage), param));
        self.backend.run(Pass {
            kernel: self.builtins.param_copy(),
            compute: slot.compute,
            tensors: &mut |operands| {
                let (copy, param) = views.take()?;
                (operands[0], operands[1]) = (Some(copy), param);
                Some(TensorPass { elements, row: 0 })
            },
            rows: &[1.0],
            tensor_scalars: &[],
            plan: &mut self.backend.plan(),
            sums: &mut [],
            beside: &[],
        })?;
        Ok(())
    }
}
