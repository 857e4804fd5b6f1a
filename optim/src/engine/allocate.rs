//! Memory for states: in which format, where, and what is in it at first.

use super::Engine;
use super::group::Group;
use super::setup::Setup;
use crate::op::Slices;
use crate::order::sort_places;
use crate::params::slots::Slot;
use crate::params::staging;
use crate::{AnyAlgorithm, Binding, Extent, ParamPrecision, Result, Start};
use fallline_core::backend::{Pass, TensorPass, View};
use fallline_core::{Backend, Format, Role, Storage, fallible};
use std::path::PathBuf;

/// Elements from which states are paged, as bitsandbytes has it: smaller ones are not worth a page.
const PAGED_FROM: usize = 100_000;

/// Bytes of a page of memory.
const PAGE: usize = 4096;

impl Engine {
    /// Allocates the states and scratch that the groups' stages need and the bound parameters have not, in one arena.
    /// All first states are side by side, then all second ones. So a pass over many parameters walks each kind in one
    /// stream. Small states that were loaded before the order of the bindings was known go there too. Then these
    /// parameters have their launch groups too.
    pub(crate) fn allocate_states(&mut self, bindings: &mut [Binding<'_>]) -> Result<()> {
        let Engine { setup, slots, launches, .. } = self;
        let slots = slots.range(0..bindings.len());
        let lacking = |i: &usize| {
            let slot = &slots[*i];
            slot.launch.is_none() && !bindings[*i].grad.is_none() && !setup.is_owned_by_other_rank(slot)
        };
        let lacks: Vec<usize> = (0..slots.len()).filter(lacking).collect();
        let moves = is_out_of_order(slots, &lacks);
        let mut wanted: Vec<(Role, usize, usize, &'static str)> = Vec::new();
        for &i in &lacks {
            let program = setup.program_of(&slots[i])?;
            for role in [Role::State, Role::Scratch] {
                let stays = |storage: &Storage| !(moves && role == Role::State && lies_end_to_end(storage));
                let has = |name: &&str| named(memory_of(&slots[i], role), name).is_some_and(stays);
                let operands = program.operands(role);
                let missing = operands.iter().copied().enumerate().filter(|(_, name)| !has(name));
                wanted.extend(missing.map(|(place, name)| (role, place, i, name)));
            }
        }
        let key = |i: usize| {
            let (role, place, slot, _) = wanted[i];
            (role == Role::Scratch, place, slot)
        };
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        sort_places(&mut order, &mut |one, other| key(one).cmp(&key(other)));
        let wanted: Vec<_> = order.into_iter().map(|i| wanted[i]).collect();
        let request = |&(role, _, i, name): &(Role, usize, usize, &'static str)| {
            let slot = &slots[i];
            if let Some(loaded) = named(memory_of(slot, role), name) {
                return (loaded.format(), loaded.len());
            }
            let computed = slot.compute.format();
            let Group { algorithm, formats, .. } = &setup.groups[slot.group];
            let elements = algorithm.state(name).shape(&slot.shape).elements();
            match role {
                Role::State => {
                    (formats.resolve(&**algorithm, name, slot.shape.elements(), computed), elements)
                }
                _ => (computed, elements),
            }
        };
        let requests: Vec<(Format, usize)> = wanted.iter().map(request).collect();
        let folders = wanted.iter().map(|&(role, _, i, _)| {
            let slot = &slots[i];
            let pages = || setup.spill_dir_of(&*setup.groups[slot.group].algorithm, slot.shape.elements());
            if role == Role::State { pages() } else { None }
        });
        let mut storages = setup.allocate_in(&requests, folders)?;
        let masters: Vec<usize> = lacks.iter().copied().filter(|&i| setup.lacks_master(&slots[i])).collect();
        let requests: Vec<(Format, usize)> =
            masters.iter().map(|&i| (slots[i].compute.format(), slots[i].shape.elements())).collect();
        let folders = requests
            .iter()
            .zip(&masters)
            .map(|(&(_, len), &i)| setup.spill_dir_of(&*setup.groups[slots[i].group].algorithm, len));
        let new = setup.allocate_in(&requests, folders)?;
        for (i, mut master) in masters.into_iter().zip(new) {
            setup.copy_param(&mut bindings[i], &mut master, &mut slots[i], Extent::Param)?;
            slots[i].master = Some(Box::new(master));
        }
        for (&(role, _, i, name), storage) in wanted.iter().zip(&mut storages) {
            if let Some(loaded) = named(memory_of(&slots[i], role), name) {
                setup.backend.copy(loaded, storage)?;
                continue;
            }
            let spec = setup.groups[slots[i].group].algorithm.state(name);
            match spec.start {
                Start::Param if role == Role::State => {
                    setup.copy_param(&mut bindings[i], storage, &mut slots[i], spec.extent)?;
                }
                Start::Value(initial) if initial != 0.0 => fill(&*setup.backend, storage, initial)?,
                // Memory is zero at first.
                Start::Param | Start::Value(_) => {}
            }
        }
        for ((role, _, i, name), storage) in wanted.into_iter().zip(storages) {
            let storage = match role {
                Role::State => setup.groups[slots[i].group].mark_rounding(name, storage),
                _ => storage,
            };
            let memory = memory_of_mut(&mut slots[i], role);
            match memory.iter_mut().find(|(known, _)| *known == name) {
                Some((_, loaded)) => *loaded = storage,
                None if role == Role::State => slots[i].states.push((name, storage)),
                None => slots[i].scratch.push((name, storage)),
            }
        }
        for i in lacks {
            let slot = &mut slots[i];
            let place = launches.launch_index(setup, slot)?;
            let program = launches.program(place);
            slot.states.retain(|(name, _)| program.operands(Role::State).contains(name));
            slot.scratch.retain(|(name, _)| program.operands(Role::Scratch).contains(name));
            for role in [Role::State, Role::Scratch] {
                let (memory, mut next) = (memory_of_mut(slot, role), 0);
                for name in program.operands(role) {
                    let left = memory[next..].iter().position(|(known, _)| *known == name);
                    if let Some(found) = left {
                        memory.swap(next, next + found);
                        next += 1;
                    }
                }
            }
            slot.layout_for = Some(place as u32);
            launches.assign(setup, slot, place);
        }
        Ok(())
    }
}

impl Setup {
    /// Returns where the states of a parameter are paged to, if they are.
    pub(super) fn spill_dir_of(&self, algorithm: &dyn AnyAlgorithm, elements: usize) -> Option<PathBuf> {
        let large = elements >= PAGED_FROM;
        let folder = self.spill_dir.clone().or_else(|| algorithm.storage().paged.then(std::env::temp_dir));
        folder.filter(|_| large)
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
        let wanted = self.groups[slot.group].params == ParamPrecision::MasterWeights || self.is_offloaded();
        wanted && slot.master.is_none()
    }

    /// Copies a state's first values: the parameter's, as far as it has elements for them.
    fn copy_param(
        &self,
        binding: &mut Binding<'_>,
        storage: &mut Storage,
        slot: &mut Slot,
        extent: Extent,
    ) -> Result<()> {
        if self.is_offloaded() {
            return self.fetch_param(binding, storage);
        }
        let elements = storage.len();
        let mut param = staging::views(binding, &mut slot.staging, None).0;
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
                Some(TensorPass { elements, constant_set: 0 })
            },
            constants: &[1.0],
            tensor_scalars: &[],
            plan: &mut self.backend.plan(),
            sums: &mut [],
            fused: &[],
            checked: false,
        })?;
        Ok(())
    }
}

/// Returns the memory that a rule's operand of this role is in.
fn memory_of(slot: &Slot, role: Role) -> &[(&'static str, Storage)] {
    if role == Role::State { &slot.states } else { &slot.scratch }
}

fn memory_of_mut(slot: &mut Slot, role: Role) -> &mut [(&'static str, Storage)] {
    if role == Role::State { &mut slot.states } else { &mut slot.scratch }
}

/// Returns the memory of this name.
fn named<'s>(memory: &'s [(&'static str, Storage)], name: &str) -> Option<&'s Storage> {
    memory.iter().find(|(known, _)| *known == name).map(|(_, storage)| storage)
}

/// Returns whether memory is so small that arenas put it right behind that of its neighbour, for passes to take both
/// as one.
fn lies_end_to_end(storage: &Storage) -> bool {
    storage.bytes() < PAGE
}

/// Returns whether states that were loaded lie in another order than their parameters are bound in, which nothing
/// told before.
fn is_out_of_order(slots: &[Slot], lacks: &[usize]) -> bool {
    let mut last: Vec<usize> = Vec::new();
    let states = lacks.iter().flat_map(|&i| slots[i].states.iter().enumerate());
    let mut small = states.filter(|(_, (_, storage))| lies_end_to_end(storage) && !storage.is_empty());
    small.any(|(place, (_, storage))| {
        last.resize(last.len().max(place + 1), 0);
        core::mem::replace(&mut last[place], storage.address()) > storage.address()
    })
}

/// Fills memory with a number.
fn fill(backend: &dyn Backend, storage: &mut Storage, value: f64) -> Result<()> {
    let values = fallible::filled(value, storage.len(), "the first values of a state")?;
    Ok(backend.write(storage, values.as_slice().into())?)
}
