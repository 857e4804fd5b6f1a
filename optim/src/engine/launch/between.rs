//! The numbers between two passes of a run, computed on the host.

use super::{CacheBatch, StepContext};
use crate::engine::scalar_state::ScalarState;
use crate::order::sort_places;
use crate::params::slots::Slot;
use fallline_core::backend::{Computed, Placed, Plan, SharedNumbers};
use fallline_core::between::{Numbers, Over};
use fallline_core::reduction::tree_reduce;
use fallline_core::{Compute, GlobalAt, Groups, Kernel, Storage, TensorAt};

/// The names of what an algorithm remembers, and what that begins with, in its order.
#[derive(Clone, Copy)]
pub(crate) struct ScalarNames {
    pub(crate) memory: &'static [(&'static str, f64)],
    pub(crate) shared: &'static [(&'static str, f64)],
}

/// How the tensor scalars of a rule are found, with buffers that are kept between steps.
pub(crate) struct Between {
    kernel: &'static Kernel,
    /// The places of what is read among the sums of the rule before, and among the scalars.
    reads: Vec<usize>,
    memory: Vec<usize>,
    shared: Vec<usize>,
    once: Vec<f64>,
    /// A row for each tensor.
    each: Vec<f64>,
    sums: Vec<f64>,
    /// A row for each tensor.
    terms: Vec<f64>,
    /// A row for all tensors, or one for each group.
    totals: Vec<f64>,
    shared_values: Vec<f64>,
    memory_values: Vec<f64>,
    /// The tensors as the device takes them, and how many groups they are of.
    placed: Vec<Placed>,
    groups: usize,
}

impl Between {
    /// Returns those of a rule behind one that returns these sums.
    ///
    /// # Panics
    /// When the rule reads what is not there: a mistake in an algorithm, found in its first step.
    pub(crate) fn new(kernel: &'static Kernel, sums: &[&'static str], scalar_names: ScalarNames) -> Between {
        let declared = &kernel.between.declared;
        let places = |wanted: &[&str], known: &mut dyn Iterator<Item = &'static str>, what: &str| {
            let known: Vec<&str> = known.collect();
            let place = |name: &&str| known.iter().position(|known| known == name);
            let found = wanted.iter().map(|name| {
                place(name)
                    .unwrap_or_else(|| panic!("{} reads {what} {name:?}, which is not there", kernel.name))
            });
            found.collect::<Vec<usize>>()
        };
        let ScalarNames { memory, shared } = scalar_names;
        let names = |table: &'static [(&'static str, f64)]| table.iter().map(|(name, _)| *name);
        Between {
            kernel,
            reads: places(declared.reads, &mut sums.iter().copied(), "the sum"),
            memory: places(declared.memory, &mut names(memory), "the memory"),
            shared: places(declared.shared, &mut names(shared), "the shared scalar"),
            once: vec![0.0; declared.once.len()],
            each: vec![0.0; declared.each.len()],
            sums: Vec::with_capacity(declared.reads.len()),
            terms: Vec::new(),
            totals: Vec::new(),
            shared_values: Vec::with_capacity(declared.shared.len()),
            memory_values: Vec::with_capacity(declared.memory.len()),
            placed: Vec::new(),
            groups: 1,
        }
    }

    /// Returns the places of what it changes of what is remembered for a parameter.
    pub(crate) fn memory(&self) -> &[usize] {
        &self.memory
    }

    /// Returns whether the pass is left out in this step.
    pub(crate) fn skips(&mut self, shared: &[f64]) -> bool {
        if !self.kernel.between.declared.may_skip {
            return false;
        }
        pick(&mut self.shared_values, shared, &self.shared);
        self.kernel.between.skips(&self.shared_values)
    }

    /// Computes the scalars of each parameter of a batch, of a rule that looks at no others. `sums` are those of
    /// the rule before.
    pub(crate) fn of_batch(
        &mut self,
        context: &mut StepContext<'_, '_, '_>,
        compute: Compute,
        sums: &[f64],
        own: &mut Vec<f64>,
        batch: &CacheBatch,
    ) {
        let width = self.kernel.tensor_scalars.len();
        own.resize(context.tensors * width, 0.0);
        if width == 0 && self.memory.is_empty() {
            return;
        }
        pick(&mut self.shared_values, context.shared.on_host(), &self.shared);
        let found = sums.len().checked_div(context.tensors).unwrap_or(0);
        let world = context.world_size();
        let mine =
            context.slots[batch.places.clone()].iter_mut().filter(|slot| slot.launch == Some(context.index));
        for (place, slot) in batch.tensors.clone().zip(mine) {
            let hyper = context.groups[slot.group].algorithm.hyper();
            let mut at = tensor_at(slot, compute, context.shared.on_host(), world);
            self.kernel.between.each(hyper, &mut at, &[], &mut self.each);
            let sums = &sums[place * found..][..found];
            let memory = slot.memory.as_deref_mut().map_or(&mut [][..], ScalarState::on_host_mut);
            self.finish(0, (memory, sums), 0, &mut own[place * width..][..width]);
        }
    }

    /// Computes the scalars of all parameters at once: the numbers of each, what follows from their totals, and
    /// what follows from that for each.
    pub(crate) fn of_all(
        &mut self,
        context: &mut StepContext<'_, '_, '_>,
        compute: Compute,
        sums: &[f64],
        own: &mut Vec<f64>,
        order: &mut Order,
    ) {
        let groups = self.numbers_of_all(context, compute, order, false);
        let between = &self.kernel.between;
        let declared = &between.declared;
        let found = sums.len().checked_div(context.tensors).unwrap_or(0);
        let sums_of = |place: usize| &sums[place * found..][..found];
        let Order { slots, places, groups: group_of, .. } = order;
        pick(&mut self.shared_values, context.shared.on_host(), &self.shared);
        self.find_totals((slots, places, group_of), groups, &sums_of);
        let (once, totals) = (&self.once, &self.totals);
        let from = Numbers { once, each: &[], sums: &[], totals, shared: &[] };
        between.update(&from, &mut self.shared_values);
        for (&place, &value) in self.shared.iter().zip(&self.shared_values) {
            context.shared.on_host_mut()[place] = value;
        }
        let width = self.kernel.tensor_scalars.len();
        own.resize(context.tensors * width, 0.0);
        for (i, &place) in slots.iter().enumerate() {
            let memory = context.slots[place].memory.as_deref_mut();
            let memory = memory.map_or(&mut [][..], ScalarState::on_host_mut);
            let row = if declared.over == Over::Group { group_of[i] } else { 0 };
            let out = &mut own[places[place] * width..][..width];
            self.finish(i, (memory, sums_of(places[place])), row, out);
        }
    }

    /// Returns the numbers of all tensors and of each, in the order of their names, which the host knows before all
    /// sums. Returns how many groups there are.
    fn numbers_of_all(
        &mut self,
        context: &mut StepContext<'_, '_, '_>,
        compute: Compute,
        order: &mut Order,
        queued: bool,
    ) -> usize {
        let between = &self.kernel.between;
        order.find(context);
        let tensors = order.slots.len();
        // Groups are counted within the optimizer that they are parts of.
        let (all, optimizer, world) = (context.groups, context.optimizer, context.world_size());
        let mine = || all.iter().filter(|group| group.optimizer == optimizer);
        let hyper_of = |group: usize| mine().nth(group).unwrap_or(&all[0]).algorithm.hyper();
        let groups = Groups::new(mine().count(), &hyper_of);
        let Order { slots, steps, groups: group_of, memory, .. } = order;
        // What the device has is not known here.
        let known = if queued { 0 } else { context.shared.on_host().len() };
        let mut at = GlobalAt {
            steps,
            groups: group_of,
            memory,
            shared: &mut context.shared.on_host_mut()[..known],
            world,
        };
        between.once(&groups, &mut at, &mut self.once);
        let width = between.declared.each.len();
        self.each.resize(tensors.max(1) * width, 0.0);
        for (i, &place) in slots.iter().enumerate() {
            let slot = &mut context.slots[place];
            let mut at = tensor_at(slot, compute, &context.shared.on_host()[..known], world);
            let hyper = groups.get(group_of[i]);
            between.each(hyper, &mut at, &self.once, &mut self.each[i * width..][..width]);
        }
        groups.count()
    }

    /// Computes the numbers on the host for a pass whose others are computed on the device.
    pub(crate) fn of_queued(
        &mut self,
        context: &mut StepContext<'_, '_, '_>,
        compute: Compute,
        order: &mut Order,
    ) {
        self.placed.clear();
        let placed = |tensor: usize, group: usize| Placed { tensor: tensor as u32, group: group as u32 };
        if self.kernel.between.is_global() {
            self.groups = self.numbers_of_all(context, compute, order, !self.shared.is_empty());
            let Order { slots, places, groups, .. } = order;
            let all = slots.iter().zip(groups).map(|(slot, group)| placed(places[*slot], *group));
            self.placed.extend(all);
            return;
        }
        self.groups = 1;
        self.placed.extend((0..context.tensors).map(|tensor| placed(tensor, 0)));
        let width = self.kernel.between.declared.each.len();
        self.each.resize(context.tensors.max(1) * width, 0.0);
        let world = context.world_size();
        let known = if self.shared.is_empty() { context.shared.on_host() } else { &[] };
        let mine = context.slots.iter_mut().filter(|slot| slot.launch == Some(context.index));
        for (i, slot) in mine.enumerate() {
            let hyper = context.groups[slot.group].algorithm.hyper();
            let mut at = tensor_at(slot, compute, known, world);
            self.kernel.between.each(hyper, &mut at, &[], &mut self.each[i * width..][..width]);
        }
    }

    /// Returns what the device receives, with the sums of the pass before and the shared scalars. The views at
    /// `memory` are what is remembered for each.
    pub(crate) fn computed<'q>(
        &'q self,
        before: Option<&'q Plan>,
        (shared, most): (Option<&'q mut Storage>, u64),
        memory: usize,
    ) -> Computed<'q> {
        Computed {
            before,
            first: 0,
            reads: &self.reads,
            order: &self.placed,
            groups: self.groups,
            once: &self.once,
            each: &self.each[..self.placed.len() * self.kernel.between.declared.each.len()],
            shared: shared.map(SharedNumbers::Change),
            shared_places: &self.shared,
            memory,
            memory_places: &self.memory,
            most,
        }
    }

    /// Returns a row of totals over all tensors, or one for each group.
    fn find_totals<'s>(
        &mut self,
        (slots, places, group_of): (&[usize], &[usize], &[usize]),
        groups: usize,
        sums_of: &dyn Fn(usize) -> &'s [f64],
    ) {
        let between = &self.kernel.between;
        let declared = &between.declared;
        let (width, count) = (declared.each.len(), declared.totals.len());
        self.terms.resize(slots.len() * count, 0.0);
        for (i, &place) in slots.iter().enumerate() {
            pick(&mut self.sums, sums_of(places[place]), &self.reads);
            let each = &self.each[i * width..][..width];
            let (once, sums, shared) = (&self.once, &self.sums, &self.shared_values);
            let from = Numbers { once, each, sums, totals: &[], shared };
            between.terms(&from, &mut self.terms[i * count..][..count]);
        }
        self.totals.clear();
        for row in 0..if declared.over == Over::Group { groups } else { 1 } {
            for total in 0..count {
                let counts = |i: usize| declared.over != Over::Group || group_of[i] == row;
                let terms =
                    (0..slots.len()).map(|i| if counts(i) { self.terms[i * count + total] } else { 0.0 });
                self.totals.push(match declared.over {
                    Over::InTurn => terms.fold(0.0, |sum, term| sum + term),
                    Over::All | Over::Group => tree_reduce(terms),
                });
            }
        }
    }

    fn finish(&mut self, place: usize, (memory, sums): (&mut [f64], &[f64]), totals: usize, out: &mut [f64]) {
        let between = &self.kernel.between;
        let declared = &between.declared;
        let (width, count) = (declared.each.len(), declared.totals.len());
        pick(&mut self.sums, sums, &self.reads);
        pick(&mut self.memory_values, memory, &self.memory);
        let from = Numbers {
            once: &self.once,
            each: &self.each[place * width..][..width],
            sums: &self.sums,
            totals: &self.totals[totals * count..][..count],
            shared: &self.shared_values,
        };
        between.tensor(&from, &mut self.memory_values, out);
        for (&place, &value) in self.memory.iter().zip(&self.memory_values) {
            memory[place] = value;
        }
    }
}

/// Returns a parameter, as its numbers are computed from it.
fn tensor_at<'a>(slot: &'a mut Slot, compute: Compute, shared: &'a [f64], world: usize) -> TensorAt<'a> {
    let by_row = slot.parts().is_some();
    let Slot { steps, shape, memory, .. } = slot;
    let memory = memory.as_deref_mut().map_or(&mut [][..], ScalarState::host_only_mut);
    TensorAt { t: *steps + 1, compute, shape, by_row, memory, shared, world }
}

/// The parameters of a run in the order of their names, with buffers that are kept between steps.
#[derive(Default)]
pub(crate) struct Order {
    slots: Vec<usize>,
    /// For each slot the place of its parameter among the run's.
    places: Vec<usize>,
    steps: Vec<u64>,
    groups: Vec<usize>,
    memory: Vec<f64>,
}

impl Order {
    fn find(&mut self, context: &StepContext<'_, '_, '_>) {
        let (slots, groups) = (&*context.slots, context.groups);
        let bound = || (0..slots.len()).filter(|&i| slots[i].launch == Some(context.index));
        self.slots.clear();
        self.slots.extend(bound());
        sort_places(&mut self.slots, &mut |one, other| slots[one].name.cmp(&slots[other].name));
        self.places.clear();
        self.places.resize(slots.len(), 0);
        bound().enumerate().for_each(|(place, i)| self.places[i] = place);
        self.steps.clear();
        self.steps.extend(self.slots.iter().map(|&i| slots[i].steps + 1));
        let number = |group: usize| {
            groups[..group].iter().filter(|group| group.optimizer == context.optimizer).count()
        };
        self.groups.clear();
        self.groups.extend(self.slots.iter().map(|&i| number(slots[i].group)));
        self.memory.clear();
        let memory = |i: &usize| slots[*i].memory.as_deref().map_or(&[][..], ScalarState::host_only);
        self.slots.iter().for_each(|i| self.memory.extend_from_slice(memory(i)));
    }
}

/// Copies the numbers at some places.
fn pick(to: &mut Vec<f64>, from: &[f64], places: &[usize]) {
    to.clear();
    to.extend(places.iter().map(|&place| from[place]));
}
