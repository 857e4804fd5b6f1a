//! The stages of a step over all parameters that take the same ones.

use super::around::{Around, Places};
use super::averages::Mean;
use super::away::Away;
use super::mirror;
use super::rows::{self, Parts};
use super::together::first_of;
use crate::slots::Slot;
use crate::stages::{
    Combining, Exchanged, Exchanging, Gathering, Groups, MatrixStep, Stage, Stages, Workspace,
};
use crate::{AnyAlgorithm, Binding, Error, Result};
use core::ops::Range;
use fallline_core::backend::{Pass, Plan, TensorPass, View};
use fallline_core::codec::stochastic;
use fallline_core::ranks::Communicator;
use fallline_core::sums::fold;
use fallline_core::{Backend, Compute, Kernel, Role, Shape, Storage};

/// Parameters with the same stages and compute type, with buffers that are kept between steps.
pub(crate) struct Run {
    pub(super) stages: Stages,
    pub(super) compute: Compute,
    /// The optimizer whose groups' parameters these are.
    pub(super) family: usize,
    /// For each row of scalars, its group and class, and step count.
    keys: Vec<((usize, u8), u64)>,
    /// What the gradients of this step are multiplied by.
    factor: f64,
    pub(super) parts: Vec<Part>,
    /// The last stage that writes the parameter.
    writes: Option<usize>,
    /// This step's parameters in parts, which take stages that follow each other while they are in cache.
    batches: Vec<Batch>,
    /// The places of this step's parameters, in the order of their names, where that order matters.
    order: Vec<usize>,
    places: Vec<usize>,
    steps: Vec<u64>,
    group_of: Vec<usize>,
    by_row: Vec<bool>,
    gathered: Vec<f64>,
    /// What was remembered before the step.
    before: Vec<f64>,
    workspace: Workspace,
}

/// A stage, and where its operands come from.
pub(super) struct Part {
    pub(super) stage: Stage,
    /// The operand that is the parameter, and that which is the gradient.
    pub(super) param: Option<usize>,
    pub(super) grad: Option<usize>,
    /// For each state and each scratch of the stages the operand that it is in this one.
    pub(super) states: Vec<Option<usize>>,
    scratch: Vec<Option<usize>>,
    pub(super) rows: Vec<f64>,
    /// The parameters' own scalars, in the order of the bindings.
    own: Vec<f64>,
    /// One for each batch.
    pub(super) plans: Vec<Plan>,
    /// The parameters' sums, in the order of the bindings.
    sums: Vec<f64>,
    /// The same two for parts of parameters, where some take part by rows.
    parts_own: Vec<f64>,
    parts_sums: Vec<f64>,
}

/// Some of a run's parameters, next to each other.
#[derive(Clone, Debug, Default)]
struct Batch {
    /// The bindings among which they are.
    places: Range<usize>,
    /// Which of the run's parameters they are, counted in the order of the bindings.
    tensors: Range<usize>,
}

/// What a step over a run works on.
pub(super) struct Work<'s, 'b, 'd> {
    /// The run's place.
    pub(super) index: usize,
    pub(super) family: usize,
    /// How many parameters take part.
    pub(super) tensors: usize,
    pub(super) backend: &'s dyn Backend,
    pub(super) groups: &'s [super::Group],
    pub(super) shared: &'s mut [f64],
    pub(super) ranks: Option<&'s dyn Communicator>,
    pub(super) bindings: &'s mut [Binding<'d>],
    pub(super) slots: &'b mut [Slot],
    pub(super) around: Around<'s>,
}

impl Run {
    pub(super) fn new(stages: Stages, compute: Compute, family: usize) -> Run {
        let (keys, batches, order, places, steps, group_of, by_row, gathered, before, workspace) =
            Default::default();
        let parts: Vec<Part> = stages.iter().map(|stage| Part::new(stage, &stages)).collect();
        let writes = parts.iter().rposition(Part::writes_param);
        Run {
            stages,
            compute,
            family,
            keys,
            factor: 1.0,
            parts,
            writes,
            batches,
            order,
            places,
            steps,
            group_of,
            by_row,
            gathered,
            before,
            workspace,
        }
    }

    /// Forgets the rows of the last step.
    pub(super) fn clear(&mut self) {
        self.keys.clear();
        self.factor = 1.0;
        self.parts.iter_mut().for_each(|part| part.rows.clear());
    }

    /// Whether no parameter takes part in this step.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The row of scalars for a class of a group at a step count, computed if it is not there yet.
    pub(super) fn row(&mut self, of: (usize, u8), t: u64, algorithm: &dyn AnyAlgorithm) -> usize {
        if let Some(row) = self.keys.iter().rposition(|&key| key == (of, t)) {
            return row;
        }
        self.keys.push((of, t));
        for part in &mut self.parts {
            part.add_row(of.1, algorithm, t);
        }
        self.keys.len() - 1
    }

    /// Multiplies the gradients of this step by a factor.
    pub(super) fn scale(&mut self, factor: f64) {
        self.factor *= factor;
        self.parts.iter_mut().for_each(|part| part.scale(factor));
    }

    /// Runs one more rule over the gradients and states of the stages; step counts stay.
    pub(super) fn run_beside(
        &mut self,
        mut work: Work<'_, '_, '_>,
        kernel: &'static Kernel,
        away: Option<&mut Away>,
        begun: &mut bool,
    ) -> Result<()> {
        let mut part = Part::new(Stage::Rule(kernel), &self.stages);
        for &((group, class), t) in &self.keys {
            part.add_row(class, &*work.groups[group].algorithm, t);
        }
        part.scale(self.factor);
        if let Some(away) = away {
            return part.run_away(work, self.compute, away, begun).map(drop);
        }
        self.cut(&work, None);
        let ran =
            part.run(&mut work, (kernel, self.compute), 0, &self.batches[0], (0, false), Around::default());
        *begun |= ran.as_ref().map_or_else(fallline_core::Error::may_have_written, |()| true);
        Ok(ran?)
    }

    /// Runs all stages. `begun` is set as soon as something may have been written.
    pub(super) fn step(&mut self, mut work: Work<'_, '_, '_>, begun: &mut bool) -> Result<()> {
        self.remember(&work);
        let ran = self.run_stages(&mut work, begun);
        if ran.is_err() && !*begun {
            self.restore(&mut work);
        }
        ran
    }

    fn run_stages(&mut self, work: &mut Work<'_, '_, '_>, begun: &mut bool) -> Result<()> {
        let count = self.parts.len();
        let mut first = 0;
        while first < count {
            let following = self.parts[first + 1..].iter().take_while(|part| part.stage.follows()).count();
            // A matrix product looks at one tensor after the other already, and at each as a whole.
            let following = if self.parts[first].stage.kernel().is_none() { 0 } else { following };
            let last = first + following;
            self.before_all(work, first, begun)?;
            self.cut(work, if following > 0 { work.backend.cached_elements() } else { None });
            let skipped = self.parts[first].stage.kernel().is_none() || self.skips(work, first);
            for batch in 0..self.batches.len() {
                for stage in first..=last {
                    if stage == first && skipped {
                        if stage + 1 == count {
                            work.count(&self.batches[batch]);
                        }
                        continue;
                    }
                    let (done, rest) = self.parts.split_at_mut(stage);
                    let part = &mut rest[0];
                    let Some(kernel) = part.stage.kernel() else { continue };
                    let at = &self.batches[batch];
                    if part.stage.follows() {
                        let sums = last_sums(done);
                        work.combine(stage, (kernel, self.compute), sums, &mut part.own, at);
                    }
                    let around = Around {
                        forming: work.around.forming.filter(|_| stage == 0),
                        averaging: work.around.averaging.filter(|_| self.writes == Some(stage)),
                    };
                    let which = (stage, stage + 1 == count);
                    let ran = part.run(work, (kernel, self.compute), batch, at, which, around);
                    *begun |= ran.as_ref().map_or_else(fallline_core::Error::may_have_written, |()| true);
                    ran?;
                }
            }
            first = last + 1;
        }
        Ok(())
    }

    /// What a stage needs done for all parameters together, before any goes through it.
    fn before_all(&mut self, work: &mut Work<'_, '_, '_>, first: usize, begun: &mut bool) -> Result<()> {
        let (done, rest) = self.parts.split_at_mut(first);
        let Some((part, rest)) = rest.split_first_mut() else { return Ok(()) };
        let sums: &[f64] = done.last().map_or(&[], |part| &part.sums);
        match part.stage {
            Stage::Rule(_) => {}
            Stage::Gathered(kernel) => {
                self.order.clear();
                self.order.extend((0..work.slots.len()).filter(|&i| work.slots[i].run == Some(work.index)));
                self.order.sort_unstable_by_key(|&i| &work.slots[i].name);
                let gather = Gather {
                    order: &self.order,
                    places: &mut self.places,
                    steps: &mut self.steps,
                    group_of: &mut self.group_of,
                    by_row: &mut self.by_row,
                    buffer: &mut self.gathered,
                    last: rest.is_empty(),
                };
                work.gather(first, kernel, sums, &mut part.own, gather)?;
            }
            Stage::Matrix => {
                *begun = true;
                let sums = last_sums(done);
                work.matrix(first, self.compute, (sums, self.factor), &mut self.workspace)?;
            }
            Stage::Exchange => {
                *begun = true;
                work.exchange(first, self.compute, &mut self.workspace)?;
            }
        }
        // Of a stage that is passed over the sums are 0.
        for part in &mut self.parts[first..] {
            let sums = part.stage.kernel().map_or(0, |kernel| kernel.sums.len());
            part.sums.clear();
            part.sums.resize(work.tensors * sums, 0.0);
        }
        Ok(())
    }

    fn skips(&self, work: &Work<'_, '_, '_>, stage: usize) -> bool {
        work.first().skips(stage, work.shared)
    }

    /// Cuts the run's parameters into batches of at least `elements`, the last and those without parameters
    /// excepted; without a number all are one.
    fn cut(&mut self, work: &Work<'_, '_, '_>, elements: Option<usize>) {
        self.batches.clear();
        let Some(enough) = elements else {
            self.batches.push(Batch { places: 0..work.slots.len(), tensors: 0..work.tensors });
            return;
        };
        let (mut batch, mut size) = (Batch::default(), 0);
        for (place, slot) in work.slots.iter().enumerate() {
            batch.places.end = place + 1;
            if slot.run != Some(work.index) {
                continue;
            }
            batch.tensors.end += 1;
            size += slot.elements();
            if size >= enough {
                let next = Batch {
                    places: batch.places.end..batch.places.end,
                    tensors: batch.tensors.end..batch.tensors.end,
                };
                self.batches.push(core::mem::replace(&mut batch, next));
                size = 0;
            }
        }
        if !batch.tensors.is_empty() {
            self.batches.push(batch);
        }
    }

    /// Keeps what is remembered, in case that the first pass is refused.
    fn remember(&mut self, work: &Work<'_, '_, '_>) {
        self.before.clear();
        self.before.extend_from_slice(work.shared);
        if work.first().memory().is_empty() {
            return;
        }
        for slot in work.slots.iter().filter(|slot| slot.run == Some(work.index)) {
            self.before.extend_from_slice(&slot.memory);
        }
    }

    fn restore(&self, work: &mut Work<'_, '_, '_>) {
        let (shared, mut rest) = self.before.split_at(work.shared.len());
        work.shared.copy_from_slice(shared);
        if rest.is_empty() {
            return;
        }
        for slot in work.slots.iter_mut().filter(|slot| slot.run == Some(work.index)) {
            let own;
            (own, rest) = rest.split_at(slot.memory.len());
            slot.memory.copy_from_slice(own);
        }
    }
}

/// The sums of the last stage that is a rule.
fn last_sums(done: &[Part]) -> &[f64] {
    done.iter().rev().find(|part| part.stage.kernel().is_some()).map_or(&[], |part| &part.sums)
}

impl Part {
    /// A stage of a step with these states and scratch.
    fn new(stage: Stage, stages: &Stages) -> Part {
        let operands = stage.kernel().map_or(&[][..], |kernel| kernel.operands);
        let of = |role| operands.iter().position(|operand| operand.role == role);
        let named = |name: &&str| operands.iter().position(|operand| operand.name == *name);
        let all = |role| stages.operands(role).iter().map(named).collect();
        let (rows, own, plans, sums, parts_own, parts_sums) = Default::default();
        let (states, scratch) = (all(Role::State), all(Role::Scratch));
        let (param, grad) = (of(Role::Param), of(Role::Grad));
        Part { stage, param, grad, states, scratch, rows, own, plans, sums, parts_own, parts_sums }
    }

    /// Whether it writes the parameter.
    fn writes_param(&self) -> bool {
        let (Some(kernel), Some(param)) = (self.stage.kernel(), self.param) else { return false };
        kernel.operands[param].written
    }

    /// Computes a row of scalars: the sign of the gradient, and those of the rule.
    fn add_row(&mut self, class: u8, algorithm: &dyn AnyAlgorithm, t: u64) {
        let Some(kernel) = self.stage.kernel() else { return };
        self.rows.push(if algorithm.maximize() { -1.0 } else { 1.0 });
        let start = self.rows.len();
        self.rows.resize(start + kernel.scalars.len(), 0.0);
        algorithm.scalars(class, kernel, t, &mut self.rows[start..]);
    }

    /// Multiplies the gradient's factor in each row of scalars.
    fn scale(&mut self, factor: f64) {
        let Some(kernel) = self.stage.kernel() else { return };
        self.rows.iter_mut().step_by(1 + kernel.scalars.len()).for_each(|scale| *scale *= factor);
    }

    /// The pass over the memory of a batch. Step counts go up in the last one.
    fn run(
        &mut self,
        work: &mut Work<'_, '_, '_>,
        (kernel, compute): (&'static Kernel, Compute),
        number: usize,
        batch: &Batch,
        (stage, last): (usize, bool),
        around: Around<'_>,
    ) -> fallline_core::Result<()> {
        let (index, groups) = (work.index, work.groups);
        let places = Places::new(kernel.operands.len(), self.param, self.grad);
        while self.plans.len() <= number {
            self.plans.push(work.backend.plan());
        }
        let (own, sums) = (kernel.tensor_scalars.len(), kernel.sums.len());
        let mut counted = 0;
        let (bindings, slots) =
            (&mut work.bindings[batch.places.clone()], &mut work.slots[batch.places.clone()]);
        let divided =
            own + sums > 0 && slots.iter().any(|slot| slot.run == Some(index) && parts_of(slot).is_some());
        let mut tensor_scalars = &self.own[batch.tensors.start * own..batch.tensors.end * own];
        let mut found = &mut self.sums[batch.tensors.start * sums..batch.tensors.end * sums];
        if divided {
            // Each part of a parameter has its scalars, and gives sums of its own.
            self.parts_own.clear();
            let mut count = 0;
            for (place, slot) in slots.iter().filter(|slot| slot.run == Some(index)).enumerate() {
                let parts = parts_of(slot).unwrap_or(1);
                count += parts;
                for _ in 0..parts {
                    self.parts_own.extend_from_slice(&tensor_scalars[place * own..][..own]);
                }
            }
            self.parts_sums.clear();
            self.parts_sums.resize(count * sums, 0.0);
            (tensor_scalars, found) = (&self.parts_own, &mut self.parts_sums);
        }
        let mut rest: Option<Parts<'_>> = None;
        let mut pairs = bindings.iter_mut().zip(&mut *slots).filter(|(_, slot)| slot.run == Some(index));
        let ran = work.backend.run(Pass {
            kernel,
            compute,
            tensors: &mut |views| loop {
                if let Some(next) = rest.as_mut().and_then(|parts| parts.next(views)) {
                    return Some(next);
                }
                let (binding, slot) = pairs.next()?;
                let rows = rows::of(&slot.rows, slot.sparse);
                if around.forming.is_some() {
                    [views[places.start], views[places.add]] = binding.take_new();
                }
                // Of a row that takes no part the average changes too.
                let whole = rows.is_none_or(|rows| rows.parts().is_none());
                if let Some(mean) = slot.mean.as_mut().filter(|_| around.averaging.is_some() && whole) {
                    views[places.mean] = mean.take();
                }
                let (mut param, mut grad) = mirror::views(binding, &mut slot.mirror, rows);
                let elements = param.as_ref().map_or(0, View::len);
                if let Some(place) = self.param {
                    let written = kernel.operands[place].written;
                    views[place] = match (&mut slot.master, written) {
                        (Some(master), true) => {
                            let master = View::write(master);
                            Some(match param.take() {
                                Some(copy) => master.with_copy(copy),
                                None => master,
                            })
                        }
                        (Some(master), false) => Some(View::read(master)),
                        (None, _) => param.take(),
                    };
                }
                if let Some(place) = self.grad {
                    views[place] = grad.take();
                }
                let states = slot.states.iter_mut().zip(&self.states);
                for ((name, storage), place) in states.chain(slot.scratch.iter_mut().zip(&self.scratch)) {
                    if let &Some(place) = place {
                        views[place] = Some(match storage.len() == elements {
                            true => View::write(storage),
                            false => stretched(&*groups[slot.group].algorithm, name, &slot.shape, storage),
                        });
                    }
                }
                if let Some(seed) = slot.seed {
                    for (operand, view) in views[..kernel.operands.len()].iter_mut().enumerate() {
                        let stream = (stage << 8 | operand) as u64;
                        let key = stochastic::key(seed, &slot.name, slot.steps + 1, stream);
                        *view = view.take().map(|view| view.with_noise(key));
                    }
                }
                if last {
                    // Here, and not after the step: with many tensors each walk over them counts.
                    slot.steps += 1;
                    counted += 1;
                }
                match rows.filter(|rows| rows.parts().is_some()) {
                    None => return Some(TensorPass { elements, row: slot.row }),
                    Some(rows) => {
                        let whole = views.each_mut().map(Option::take);
                        rest = Some(Parts::new(rows, whole, self.grad, slot.row));
                    }
                }
            },
            rows: &self.rows,
            tensor_scalars,
            plan: &mut self.plans[number],
            sums: found,
            beside: &around.rules(&places),
        });
        if let Err(cause) = ran {
            let slots = slots.iter_mut().filter(|slot| slot.run == Some(index));
            slots.take(counted).for_each(|slot| slot.steps -= 1);
            let slots = work.slots[batch.places.clone()].iter_mut().filter(|slot| slot.run == Some(index));
            slots.flat_map(|slot| &mut slot.mean).for_each(Mean::untake);
            return Err(cause);
        }
        if divided {
            let mut left = &self.parts_sums[..];
            let mut to = self.sums[batch.tensors.start * sums..].chunks_exact_mut(sums.max(1));
            for slot in slots.iter().filter(|slot| slot.run == Some(index)) {
                let (parts, others) = left.split_at(parts_of(slot).unwrap_or(1) * sums);
                left = others;
                for (sum, total) in to.next().into_iter().flatten().enumerate() {
                    // One part is the whole: its sum stays as it is.
                    *total = match parts_of(slot) {
                        None => parts[sum],
                        Some(_) => fold(parts.iter().skip(sum).step_by(sums).copied()),
                    };
                }
            }
        }
        Ok(())
    }
}

/// The view of a state or scratch of another length than its parameter's, as its algorithm says.
#[cold]
fn stretched<'v>(
    algorithm: &dyn AnyAlgorithm,
    name: &str,
    shape: &Shape,
    storage: &'v mut Storage,
) -> View<'v> {
    let view = View::write(storage);
    if shape.elements() == 0 {
        return view.part(0, 0);
    }
    match algorithm.repetition(name, shape) {
        Some((run, times)) => view.repeated(run, times),
        None => view,
    }
}

/// In how many parts a pass takes a parameter; `None` where it takes it as a whole.
fn parts_of(slot: &Slot) -> Option<usize> {
    rows::of(&slot.rows, slot.sparse)?.parts()
}

/// Buffers for [`Gathering`].
struct Gather<'a> {
    order: &'a [usize],
    /// For each slot the place of its parameter among the run's.
    places: &'a mut Vec<usize>,
    steps: &'a mut Vec<u64>,
    group_of: &'a mut Vec<usize>,
    by_row: &'a mut Vec<bool>,
    buffer: &'a mut Vec<f64>,
    /// Whether the stage is the last.
    last: bool,
}

impl Work<'_, '_, '_> {
    /// The algorithm of the family.
    fn first(&self) -> &dyn AnyAlgorithm {
        first_of(self.groups, self.family)
    }

    /// Counts the step of a batch's parameters, where the stage that would is passed over.
    fn count(&mut self, batch: &Batch) {
        let mine = self.slots[batch.places.clone()].iter_mut().filter(|slot| slot.run == Some(self.index));
        mine.for_each(|slot| slot.steps += 1);
    }

    /// The own scalars of each parameter of a batch from its sums of the stage before.
    fn combine(
        &mut self,
        stage: usize,
        (kernel, compute): (&Kernel, Compute),
        sums: &[f64],
        own: &mut Vec<f64>,
        batch: &Batch,
    ) {
        let width = kernel.tensor_scalars.len();
        own.resize(self.tensors * width, 0.0);
        if width == 0 {
            return;
        }
        let found = sums.len().checked_div(self.tensors).unwrap_or(0);
        let slots = self.slots[batch.places.clone()].iter_mut();
        let mine = slots.filter(|slot| slot.run == Some(self.index));
        for (place, slot) in batch.tensors.clone().zip(mine) {
            self.groups[slot.group].algorithm.combine(
                stage,
                &mut Combining {
                    t: slot.steps + 1,
                    compute,
                    shape: &slot.shape,
                    sums: &sums[place * found..][..found],
                    memory: &mut slot.memory,
                    shared: self.shared,
                    scalars: &mut own[place * width..][..width],
                },
            );
        }
    }

    /// All parameters' scalars of a stage at once, from the sums of the one before.
    fn gather(
        &mut self,
        stage: usize,
        kernel: &Kernel,
        sums: &[f64],
        own: &mut Vec<f64>,
        with: Gather<'_>,
    ) -> Result<()> {
        let Gather { order, places, steps, group_of, by_row, buffer, last } = with;
        let (width, found) = (kernel.tensor_scalars.len(), sums.len().checked_div(self.tensors).unwrap_or(0));
        // From the order of the bindings to that of the names, and back.
        places.clear();
        places.resize(self.slots.len(), 0);
        let bound = (0..self.slots.len()).filter(|&i| self.slots[i].run == Some(self.index));
        bound.enumerate().for_each(|(place, i)| places[i] = place);
        steps.clear();
        steps.extend(order.iter().map(|&i| self.slots[i].steps + 1));
        group_of.clear();
        // Groups are counted within the optimizer that they are parts of.
        let (groups, family) = (self.groups, self.family);
        let mine = || groups.iter().filter(|group| group.family == family);
        let number = |group: usize| groups[..group].iter().filter(|group| group.family == family).count();
        group_of.extend(order.iter().map(|&i| number(self.slots[i].group)));
        by_row.clear();
        by_row.extend(order.iter().map(|&i| parts_of(&self.slots[i]).is_some()));
        buffer.clear();
        order.iter().for_each(|&i| buffer.extend_from_slice(&sums[places[i] * found..][..found]));
        let at = buffer.len();
        order.iter().for_each(|&i| buffer.extend_from_slice(&self.slots[i].memory));
        let end = buffer.len();
        buffer.resize(end + order.len() * width, 0.0);
        let (sums, rest) = buffer.split_at_mut(at);
        let (memory, scalars) = rest.split_at_mut(end - at);
        let first = first_of(groups, family);
        let algorithm_of = |group: usize| -> &dyn AnyAlgorithm {
            mine().nth(group).map_or(first, |group| &*group.algorithm)
        };
        let mut at = Gathering {
            tensors: order.len(),
            steps,
            groups: group_of,
            by_row,
            sums,
            memory,
            shared: self.shared,
            world: self.ranks.map_or(1, |ranks| ranks.world()),
            last,
            scalars,
        };
        first
            .gather(&Groups::new(mine().count(), &algorithm_of), stage, &mut at)
            .map_err(|problem| Error::Groups { algorithm: first.name(), problem })?;
        let mut rest = &*memory;
        for &i in order {
            let own;
            (own, rest) = rest.split_at(self.slots[i].memory.len());
            self.slots[i].memory.copy_from_slice(own);
        }
        own.clear();
        own.resize(order.len() * width, 0.0);
        if width > 0 {
            for (&i, row) in order.iter().zip(scalars.chunks_exact(width)) {
                own[places[i] * width..][..width].copy_from_slice(row);
            }
        }
        Ok(())
    }

    /// A stage that all tensors take part in together. What it leaves out is kept with the first by name.
    fn exchange(&mut self, stage: usize, compute: Compute, workspace: &mut Workspace) -> Result<()> {
        let first = first_of(self.groups, self.family);
        let mut mine: Vec<&mut Slot> =
            self.slots.iter_mut().filter(|slot| slot.run == Some(self.index)).collect();
        mine.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let mut errors = mine.first_mut().and_then(|slot| slot.errors.take());
        let tensors = mine.iter_mut().map(|slot| {
            let Slot { shape, memory, states, mask, .. } = &mut **slot;
            Exchanged { shape, memory, states, mask: mask.as_ref().map(|mask| &mask.storage) }
        });
        let (backend, shared, ranks) = (self.backend, &*self.shared, self.ranks);
        let tensors = tensors.collect();
        let mut step =
            Exchanging { backend, compute, shared, ranks, errors: &mut errors, tensors, workspace };
        let exchanged = first.exchange(stage, &mut step);
        drop(step);
        if let Some(slot) = mine.first_mut() {
            slot.errors = errors;
        }
        Ok(exchanged?)
    }

    /// A stage that is not element by element, tensor after tensor.
    fn matrix(
        &mut self,
        stage: usize,
        compute: Compute,
        (sums, factor): (&[f64], f64),
        workspace: &mut Workspace,
    ) -> Result<()> {
        let found = sums.len().checked_div(self.tensors).unwrap_or(0);
        let pairs = self.bindings.iter_mut().zip(&mut *self.slots);
        let mine = pairs.filter(|(_, slot)| slot.run == Some(self.index));
        for (place, (binding, slot)) in mine.enumerate() {
            let algorithm = &self.groups[slot.group].algorithm;
            let rows = rows::of(&slot.rows, slot.sparse);
            let (_, grad) = mirror::views(binding, &mut slot.mirror, rows);
            algorithm.matrix(
                stage,
                &mut MatrixStep {
                    backend: self.backend,
                    compute,
                    t: slot.steps + 1,
                    shape: &slot.shape,
                    grad,
                    grad_scale: if algorithm.maximize() { -factor } else { factor },
                    sums: &sums[place * found..][..found],
                    memory: &mut slot.memory,
                    shared: self.shared,
                    ranks: self.ranks,
                    errors: &mut slot.errors,
                    mask: slot.mask.as_ref().map(|mask| &mask.storage),
                    workspace,
                    states: &mut slot.states,
                    scratch: &mut slot.scratch,
                },
            )?;
        }
        Ok(())
    }
}
