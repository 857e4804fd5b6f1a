//! The stages of a step over all parameters that take the same ones.

mod between;
mod context;
mod offloaded;
mod pass;

pub(crate) use context::StepContext;
pub(crate) use offloaded::Transfers;
pub(crate) use pass::PassLaunch;

use crate::engine::scalar_state::ScalarState;
use crate::op::{Found, Plans, Workspace};
use crate::program::{Program, Stage};
use crate::{AnyAlgorithm, Result, order::sort_places};
use between::{Between, Order, ScalarNames};
use core::ops::Range;
use fallline_core::{Compute, Kernel};
use pass::How;

/// Parameters with the same stages and compute type, with buffers that are kept between steps.
pub(crate) struct LaunchGroup {
    pub(crate) program: Program,
    pub(crate) compute: Compute,
    /// The optimizer whose groups' parameters these are.
    pub(crate) optimizer: usize,
    /// How many parameters take part in this step.
    pub(crate) tensors: usize,
    /// For each row of scalars, its group and step count.
    keys: Vec<(usize, u64)>,
    /// Whether a parameter of this step belongs to it, though it may have no states yet.
    pub(crate) is_asked_for: bool,
    /// What the gradients of this step are multiplied by.
    factor: f64,
    pub(crate) parts: Vec<PassLaunch>,
    /// The last stage that writes the parameter, and the last before a sync's.
    writes: Option<usize>,
    writes_without_sync: Option<usize>,
    /// This step's parameters in parts, which take stages that follow each other while they are in cache.
    batches: Vec<CacheBatch>,
    /// This step's parameters in the order of their names, where that order matters.
    order: Order,
    /// A snapshot of the scalars before the step.
    before: Vec<f64>,
    workspace: Workspace,
    /// What is kept for the passes of operations.
    plans: Plans,
    /// Whether the device can compute the numbers between passes, once that is known.
    queues: Option<bool>,
    /// Whether numbers between passes follow from shared scalars.
    shares: bool,
    /// The places of what they follow from that is remembered for all parameters together, and for each.
    shared_places: Vec<usize>,
    memory_places: Vec<usize>,
}

/// Some of a run's parameters, next to each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct CacheBatch {
    /// The bindings among which they are.
    places: Range<usize>,
    /// Which of the run's parameters they are, counted in the order of the bindings.
    tensors: Range<usize>,
}

impl LaunchGroup {
    pub(crate) fn new(
        program: Program,
        compute: Compute,
        optimizer: usize,
        algorithm: &dyn AnyAlgorithm,
    ) -> LaunchGroup {
        let (keys, batches, order, before, workspace) = Default::default();
        let scalar_names = scalar_names(algorithm);
        let mut sums: &[&str] = &[];
        let parts = program.iter().map(|stage| {
            let part = PassLaunch::new(stage, &program, sums, scalar_names);
            sums = stage.kernel().map_or(sums, |kernel| kernel.sums);
            part
        });
        let parts: Vec<PassLaunch> = parts.collect();
        let writes = parts.iter().rposition(PassLaunch::writes_param);
        let always = parts.len() - usize::from(program.is_periodic());
        let writes_without_sync = parts[..always].iter().rposition(PassLaunch::writes_param);
        let named = parts.iter().filter_map(|part| part.between.as_ref()).flat_map(Between::memory);
        let mut memory_places: Vec<usize> = named.copied().collect();
        sort_places(&mut memory_places, &mut |one, other| one.cmp(&other));
        memory_places.dedup();
        let shares = program.kernels().any(|kernel| !kernel.between.declared.shared.is_empty());
        LaunchGroup {
            program,
            compute,
            optimizer,
            tensors: 0,
            keys,
            is_asked_for: false,
            factor: 1.0,
            parts,
            writes,
            writes_without_sync,
            batches,
            order,
            before,
            workspace,
            plans: Plans::default(),
            queues: None,
            shares,
            shared_places: (0..scalar_names.shared.len()).collect(),
            memory_places,
        }
    }

    /// Forgets the rows of the last step.
    pub(crate) fn clear(&mut self) {
        self.tensors = 0;
        self.keys.clear();
        self.is_asked_for = false;
        self.factor = 1.0;
        self.parts.iter_mut().for_each(|part| part.constants.clear());
    }

    /// Forgets the parameters of the step so far. Rows of scalars stay, unless they have a factor, which each parameter of
    /// an incremental step brings anew.
    pub(crate) fn next(&mut self) {
        if self.factor == 1.0 { self.tensors = 0 } else { self.clear() }
    }

    /// Returns whether no parameter takes part in this step.
    pub(crate) fn is_empty(&self) -> bool {
        self.tensors == 0
    }

    /// Returns the row of scalars for a group at a step count, computed if it is not there yet.
    #[inline]
    pub(crate) fn constants_for(&mut self, group: usize, t: u64, algorithm: &dyn AnyAlgorithm) -> usize {
        match self.keys.iter().rposition(|&key| key == (group, t)) {
            Some(row) => row,
            None => self.new_row(group, t, algorithm),
        }
    }

    #[cold]
    fn new_row(&mut self, group: usize, t: u64, algorithm: &dyn AnyAlgorithm) -> usize {
        self.keys.push((group, t));
        for part in &mut self.parts {
            part.add_constants(&self.program, algorithm, t);
        }
        self.keys.len() - 1
    }

    /// Multiplies the gradients of this step by a factor.
    pub(crate) fn scale(&mut self, factor: f64) {
        self.factor *= factor;
        self.parts.iter_mut().for_each(|part| part.scale(factor));
    }

    /// Runs one more rule over the gradients and states of the stages; step counts stay.
    pub(crate) fn run_auxiliary(
        &mut self,
        mut context: StepContext<'_, '_, '_>,
        kernel: &'static Kernel,
        transfers: Option<Transfers<'_>>,
        begun: &mut bool,
    ) -> Result<()> {
        let scalar_names = scalar_names(context.first());
        let mut part = PassLaunch::new(Stage::Pass(kernel), &self.program, &[], scalar_names);
        for &(group, t) in &self.keys {
            part.add_constants(&self.program, &*context.groups[group].algorithm, t);
        }
        part.scale(self.factor);
        if let Some(transfers) = transfers {
            return part.run_offloaded(context, self.compute, transfers, begun).map(drop);
        }
        self.split_for_cache(&context, None);
        let ran = part.run(&mut context, (kernel, self.compute), 0, &self.batches[0], How::default());
        *begun |= ran.as_ref().map_or_else(fallline_core::Error::may_have_written, |()| true);
        Ok(ran?)
    }

    /// Runs all stages. `begun` is set as soon as something may have been written.
    pub(crate) fn step(&mut self, mut context: StepContext<'_, '_, '_>, begun: &mut bool) -> Result<()> {
        self.plans.begin();
        let queues = self.queues(&context);
        if self.shares {
            match queues {
                true => context.shared.send(context.backend, &self.shared_places)?,
                false => context.shared.move_to_host(context.backend)?,
            }
        }
        if !self.memory_places.is_empty() {
            context.bring_memory(queues.then_some(&self.memory_places[..]))?;
        }
        self.snapshot(&context);
        let ran = match queues {
            true => self.queue_stages(&mut context, begun),
            false => self.run_stages(&mut context, begun),
        };
        if ran.is_err() && !*begun {
            self.rollback(&mut context);
        }
        ran
    }

    /// Returns whether the device computes the numbers between passes, so that the step waits for nothing. It does
    /// not where the host decides by what is remembered for a parameter. That is what no rule's formulas name, and
    /// what tells whether ranks have diverged.
    fn queues(&mut self, context: &StepContext<'_, '_, '_>) -> bool {
        let (program, backend) = (&self.program, context.backend);
        let able = *self.queues.get_or_insert_with(|| {
            let uses = |kernel: &Kernel| kernel.between.declared.depends() || !kernel.sums.is_empty();
            let spec = context.first().spec();
            let formulas = !self.memory_places.is_empty() && spec.replicas.diverged.is_none();
            (spec.memory.is_empty() || formulas)
                && program.kernels().any(uses)
                && backend.queue().is_some_and(|queue| program.kernels().all(|kernel| queue.computes(kernel)))
                && counts_are_steps(program)
        });
        let mut mine = context.slots.iter().filter(|slot| slot.launch == Some(context.index));
        able && (self.memory_places.is_empty() || !mine.any(|slot| slot.parts().is_some()))
    }

    /// As [`run_stages`](LaunchGroup::run_stages), where the device computes the numbers between passes.
    fn queue_stages(&mut self, context: &mut StepContext<'_, '_, '_>, begun: &mut bool) -> Result<()> {
        self.split_for_cache(context, None);
        let (count, compute) = (self.parts.len(), self.compute);
        let without_sync = self.program.is_periodic() && !context.syncs;
        let writes = if without_sync { self.writes_without_sync } else { self.writes };
        for stage in 0..count {
            if without_sync && stage + 1 == count {
                context.count(&self.batches[0]);
                continue;
            }
            let (done, rest) = self.parts.split_at_mut(stage);
            let part = &mut rest[0];
            let before = done.iter().rev().find_map(|part| part.stage.kernel().map(|kernel| (part, kernel)));
            let plan = before.and_then(|(part, _)| part.plans.first());
            let Some(kernel) = part.stage.kernel() else {
                let Stage::Op(op) = part.stage else { continue };
                *begun = true;
                let names = before.map_or(&[][..], |(_, kernel)| kernel.sums);
                match op.is_collective() {
                    true => context.run_on_all(op, compute, &mut self.workspace)?,
                    false => {
                        let sums = Found::Kept(plan);
                        context.run_op(
                            op,
                            compute,
                            (names, sums, self.factor),
                            (&mut self.workspace, &self.plans),
                        )?;
                    }
                }
                continue;
            };
            if let Some(between) = &mut part.between {
                match (kernel.between.declared.depends(), kernel.between.is_global()) {
                    (true, _) => between.of_queued(context, compute, &mut self.order),
                    (false, true) => between.of_all(context, compute, &[], &mut part.own, &mut self.order),
                    (false, false) => {
                        between.of_batch(context, compute, &[], &mut part.own, &self.batches[0])
                    }
                }
            }
            let fusion = context.fusion.of_stage(stage == 0, writes == Some(stage));
            let how = How { stage, last: stage + 1 == count, fusion, queued: Some(plan) };
            let ran = part.run(context, (kernel, compute), 0, &self.batches[0], how);
            *begun |= ran.as_ref().map_or_else(fallline_core::Error::may_have_written, |()| true);
            ran?;
            if self.shares {
                context.shared.changing();
            }
            if !kernel.between.declared.memory.is_empty() {
                context.memories().for_each(ScalarState::changing);
            }
        }
        if self.shares {
            context.shared.stepped();
        }
        Ok(())
    }

    fn run_stages(&mut self, context: &mut StepContext<'_, '_, '_>, begun: &mut bool) -> Result<()> {
        let count = self.parts.len();
        let without_sync = self.program.is_periodic() && !context.syncs;
        let writes = if without_sync { self.writes_without_sync } else { self.writes };
        let mut first = 0;
        while first < count {
            let following = self.parts[first + 1..].iter().take_while(|part| part.stage.follows()).count();
            // A matrix product looks at one tensor after the other already, and at each as a whole.
            let following = if self.parts[first].stage.kernel().is_none() { 0 } else { following };
            let last = first + following;
            self.before_all(context, first, begun)?;
            self.split_for_cache(
                context,
                if following > 0 { context.backend.cache_batch_len() } else { None },
            );
            let skipped = self.parts[first].stage.kernel().is_none() || self.skips(context, first);
            for batch in 0..self.batches.len() {
                for stage in first..=last {
                    let waits = without_sync && stage + 1 == count;
                    let skipped = if stage == first { skipped } else { self.skips(context, stage) };
                    if skipped || waits {
                        if stage + 1 == count {
                            context.count(&self.batches[batch]);
                        }
                        continue;
                    }
                    let (done, rest) = self.parts.split_at_mut(stage);
                    let part = &mut rest[0];
                    let Some(kernel) = part.stage.kernel() else { continue };
                    let at = &self.batches[batch];
                    if part.stage.follows() {
                        let sums = last_sums(done);
                        if let Some(between) = &mut part.between {
                            between.of_batch(context, self.compute, sums, &mut part.own, at);
                        }
                    }
                    let fusion = context.fusion.of_stage(stage == 0, writes == Some(stage));
                    let how = How { stage, last: stage + 1 == count, fusion, queued: None };
                    let ran = part.run(context, (kernel, self.compute), batch, at, how);
                    *begun |= ran.as_ref().map_or_else(fallline_core::Error::may_have_written, |()| true);
                    ran?;
                }
            }
            first = last + 1;
        }
        Ok(())
    }

    /// Does what a stage needs for all parameters together, before any goes through it.
    fn before_all(
        &mut self,
        context: &mut StepContext<'_, '_, '_>,
        first: usize,
        begun: &mut bool,
    ) -> Result<()> {
        let (done, rest) = self.parts.split_at_mut(first);
        let Some(part) = rest.first_mut() else { return Ok(()) };
        match part.stage {
            Stage::Pass(_) if part.stage.follows() => {}
            Stage::Pass(_) => {
                if let Some(between) = &mut part.between {
                    between.of_all(context, self.compute, last_sums(done), &mut part.own, &mut self.order);
                }
            }
            Stage::Op(op) => {
                *begun = true;
                let names = done.iter().rev().find_map(|part| Some(part.stage.kernel()?.sums));
                let (names, sums) = (names.unwrap_or_default(), Found::Known(last_sums(done)));
                match op.is_collective() {
                    true => context.run_on_all(op, self.compute, &mut self.workspace)?,
                    false => {
                        context.run_op(
                            op,
                            self.compute,
                            (names, sums, self.factor),
                            (&mut self.workspace, &self.plans),
                        )?;
                    }
                }
            }
        }
        // Of a stage that is skipped the sums are 0.
        for part in &mut self.parts[first..] {
            let sums = part.stage.kernel().map_or(0, |kernel| kernel.sums.len());
            part.sums.clear();
            part.sums.resize(context.tensors * sums, 0.0);
        }
        Ok(())
    }

    fn skips(&mut self, context: &StepContext<'_, '_, '_>, stage: usize) -> bool {
        self.parts[stage].between.as_mut().is_some_and(|between| between.skips(context.shared.on_host()))
    }

    /// Cuts the run's parameters into batches of at least `elements`, the last and those without parameters
    /// excepted; without a number all are one.
    fn split_for_cache(&mut self, context: &StepContext<'_, '_, '_>, elements: Option<usize>) {
        self.batches.clear();
        let Some(enough) = elements else {
            self.batches.push(CacheBatch { places: 0..context.slots.len(), tensors: 0..context.tensors });
            return;
        };
        let (mut batch, mut size) = (CacheBatch::default(), 0);
        for (place, slot) in context.slots.iter().enumerate() {
            batch.places.end = place + 1;
            if slot.launch != Some(context.index) {
                continue;
            }
            batch.tensors.end += 1;
            size += slot.elements();
            if size >= enough {
                let next = CacheBatch {
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

    /// Takes a snapshot of the scalars, in case that the first pass is refused.
    fn snapshot(&mut self, context: &StepContext<'_, '_, '_>) {
        self.before.clear();
        self.before.extend_from_slice(context.shared.on_host());
        if context.first().spec().memory.is_empty() {
            return;
        }
        for slot in context.slots.iter().filter(|slot| slot.launch == Some(context.index)) {
            self.before.extend_from_slice(slot.memory());
        }
    }

    fn rollback(&self, context: &mut StepContext<'_, '_, '_>) {
        let shared = context.shared.on_host_mut();
        let (before, mut rest) = self.before.split_at(shared.len());
        shared.copy_from_slice(before);
        if rest.is_empty() {
            return;
        }
        for slot in context.slots.iter_mut().filter(|slot| slot.launch == Some(context.index)) {
            let Some(memory) = &mut slot.memory else { continue };
            let own;
            (own, rest) = rest.split_at(memory.on_host().len());
            memory.on_host_mut().copy_from_slice(own);
        }
    }
}

/// Returns whether what powers are taken to in a program counts steps, so that a table has them.
fn counts_are_steps(program: &Program) -> bool {
    let formulas: Vec<_> =
        program.kernels().map(|kernel| (kernel.between.record(), &kernel.between.declared)).collect();
    let mut counted = formulas.iter().flat_map(|(formulas, declared)| formulas.counted(declared));
    counted.all(|name| formulas.iter().all(|(formulas, _)| formulas.counts_steps(name)))
}

/// Returns the scalars that an algorithm keeps.
fn scalar_names(algorithm: &dyn AnyAlgorithm) -> ScalarNames {
    ScalarNames { memory: algorithm.spec().memory, shared: algorithm.spec().shared }
}

/// Returns the sums of the last stage that is a rule.
fn last_sums(done: &[PassLaunch]) -> &[f64] {
    done.iter().rev().find(|part| part.stage.kernel().is_some()).map_or(&[], |part| &part.sums)
}
