//! A stage of a run, and its pass over memory.

use super::between::{Between, ScalarNames};
use super::{CacheBatch, StepContext};
use crate::AnyAlgorithm;
use crate::engine::fusion::{FusedOperands, Fusion};
use crate::op::queue_of;
use crate::params::row_sparse::{self, RowRuns};
use crate::params::staging;
use crate::program::{Program, Stage};
use fallline_core::backend::{Pass, Plan, Queued, TensorPass, View, Views};
use fallline_core::reduction::tree_reduce;
use fallline_core::{Compute, Kernel, Role, Shape, Storage};

/// How a pass is taken.
#[derive(Clone, Copy, Default)]
pub(crate) struct How<'a> {
    pub(crate) stage: usize,
    /// Whether it is the step's last.
    pub(crate) last: bool,
    pub(crate) fusion: Fusion<'a>,
    /// Whether the device computes its numbers and keeps its sums, and then the pass before, if there is one.
    pub(crate) queued: Option<Option<&'a Plan>>,
}

/// A stage, and where its operands come from.
pub(crate) struct PassLaunch {
    pub(crate) stage: Stage,
    /// The operand that is the parameter, and that which is the gradient.
    pub(crate) param: Option<usize>,
    pub(crate) grad: Option<usize>,
    /// For each state and each scratch of the stages the operand that it is in this one.
    pub(crate) states: Vec<Option<usize>>,
    scratch: Vec<Option<usize>>,
    pub(crate) constants: Vec<f64>,
    /// How the parameters' own scalars are found.
    pub(crate) between: Option<Between>,
    /// The parameters' own scalars, in the order of the bindings.
    pub(crate) own: Vec<f64>,
    /// One for each batch.
    pub(crate) plans: Vec<Plan>,
    /// The parameters' sums, in the order of the bindings.
    pub(crate) sums: Vec<f64>,
    /// The same two for parts of parameters, where some take part by rows, and how many parts each parameter has.
    parts_own: Vec<f64>,
    parts_sums: Vec<f64>,
    parts: Vec<usize>,
}

impl PassLaunch {
    /// Creates a stage of a step with these states and scratch, behind a rule that returns these sums.
    pub(crate) fn new(
        stage: Stage,
        program: &Program,
        before: &[&'static str],
        scalar_names: ScalarNames,
    ) -> PassLaunch {
        let operands = stage.kernel().map_or(&[][..], |kernel| kernel.operands);
        let of = |role| operands.iter().position(|operand| operand.role == role);
        let named = |name: &&str| operands.iter().position(|operand| operand.name == *name);
        let all = |role| program.operands(role).iter().map(named).collect();
        let (constants, own, plans, sums, parts_own, parts_sums, parts) = Default::default();
        let (states, scratch) = (all(Role::State), all(Role::Scratch));
        let (param, grad) = (of(Role::Param), of(Role::Grad));
        let between = stage.kernel().map(|kernel| Between::new(kernel, before, scalar_names));
        PassLaunch {
            stage,
            param,
            grad,
            states,
            scratch,
            constants,
            between,
            own,
            plans,
            sums,
            parts_own,
            parts_sums,
            parts,
        }
    }

    /// Returns whether it writes the parameter.
    pub(crate) fn writes_param(&self) -> bool {
        let (Some(kernel), Some(param)) = (self.stage.kernel(), self.param) else { return false };
        kernel.operands[param].written
    }

    /// Computes a row of scalars: the sign of the gradient, and those of the rule.
    pub(crate) fn add_constants(&mut self, program: &Program, algorithm: &dyn AnyAlgorithm, t: u64) {
        let Some(kernel) = self.stage.kernel() else { return };
        self.constants.push(if algorithm.maximize() { -1.0 } else { 1.0 });
        let start = self.constants.len();
        self.constants.resize(start + kernel.scalars.len(), 0.0);
        let row = &mut self.constants[start..];
        algorithm.with_hyper(program, kernel, &mut |hyper| kernel.compute_scalars(hyper, t, row));
    }

    /// Multiplies the gradient's factor in each row of scalars.
    pub(crate) fn scale(&mut self, factor: f64) {
        let Some(kernel) = self.stage.kernel() else { return };
        self.constants.iter_mut().step_by(1 + kernel.scalars.len()).for_each(|scale| *scale *= factor);
    }

    /// Runs the pass over the memory of a batch. Step counts go up in the last one.
    pub(crate) fn run(
        &mut self,
        context: &mut StepContext<'_, '_, '_>,
        (kernel, compute): (&'static Kernel, Compute),
        number: usize,
        batch: &CacheBatch,
        How { stage, last, fusion, queued }: How<'_>,
    ) -> fallline_core::Result<()> {
        let (index, groups) = (context.index, context.groups);
        let places = FusedOperands::new(kernel.operands.len(), self.param, self.grad);
        while self.plans.len() <= number {
            self.plans.push(context.backend.plan());
        }
        let (own, sums) = (kernel.tensor_scalars.len(), kernel.sums.len());
        let mut counted = 0;
        let elsewhere = self.param.is_none() && self.grad.is_none();
        let (bindings, slots) =
            (&mut context.bindings[batch.places.clone()], &mut context.slots[batch.places.clone()]);
        let divided =
            own + sums > 0 && slots.iter().any(|slot| slot.launch == Some(index) && slot.parts().is_some());
        let computed = queued.is_some() && kernel.between.declared.depends();
        let remembers = computed && !kernel.between.declared.memory.is_empty();
        let factor = context.fusion.factor.filter(|_| self.grad.is_some());
        let mut tensor_scalars = match computed {
            true => &[][..],
            false => &self.own[batch.tensors.start * own..batch.tensors.end * own],
        };
        let mut found = match queued {
            Some(_) => &mut [][..],
            None => &mut self.sums[batch.tensors.start * sums..batch.tensors.end * sums],
        };
        self.parts.clear();
        if divided && queued.is_some() {
            // Numbers are those of whole parameters.
            let mine = slots.iter().filter(|slot| slot.launch == Some(index));
            self.parts.extend(mine.map(|slot| slot.parts().unwrap_or(1)));
        } else if divided {
            // Each part of a parameter has its scalars, and returns separate sums.
            self.parts_own.clear();
            let mut count = 0;
            for (place, slot) in slots.iter().filter(|slot| slot.launch == Some(index)).enumerate() {
                let parts = slot.parts().unwrap_or(1);
                count += parts;
                for _ in 0..parts {
                    self.parts_own.extend_from_slice(&tensor_scalars[place * own..][..own]);
                }
            }
            self.parts_sums.clear();
            self.parts_sums.resize(count * sums, 0.0);
            (tensor_scalars, found) = (&self.parts_own, &mut self.parts_sums);
        }
        let mut rest: Option<RowRuns<'_>> = None;
        let mut pairs = bindings.iter_mut().zip(&mut *slots).filter(|(_, slot)| slot.launch == Some(index));
        let backend = context.backend;
        let fused = fusion.rules(&places);
        let mut fetched = (queued.is_none() && factor.is_some()).then(|| core::mem::take(&mut found));
        let pass = Pass {
            kernel,
            compute,
            tensors: &mut |views| loop {
                if let Some(next) = rest.as_mut().and_then(|parts| parts.next(views)) {
                    return Some(next);
                }
                let (binding, slot) = pairs.next()?;
                let rows = row_sparse::of(&slot.rows, slot.sparse);
                if fusion.prologue.is_some() {
                    [views[places.start], views[places.add]] = binding.take_new();
                }
                // Of a row that takes no part the average changes too.
                let whole = rows.is_none_or(|rows| rows.parts().is_none());
                if let Some(averaged) = slot.averaged.as_mut().filter(|_| fusion.epilogue.is_some() && whole)
                {
                    views[places.mean] = averaged.mark_fused();
                }
                let mut elements = binding.param.len();
                if elsewhere {
                    let own = longest(&slot.states, &self.states).max(longest(&slot.scratch, &self.scratch));
                    elements = own.unwrap_or(elements);
                }
                match slot.staging.is_none() && rows.is_none() {
                    true => binding.views_to(views, self.param, self.grad),
                    false => {
                        let (param, grad) = staging::views(binding, &mut slot.staging, rows);
                        for (place, view) in [(self.param, param), (self.grad, grad)] {
                            if let Some(place) = place {
                                views[place] = view;
                            }
                        }
                    }
                }
                if let (Some(place), Some(master)) = (self.param, &mut slot.master) {
                    let param = views[place].take();
                    views[place] = Some(match (kernel.operands[place].written, param) {
                        (true, Some(copy)) => View::write(master).with_cast_copy(copy),
                        (true, None) => View::write(master),
                        (false, _) => View::read(master),
                    });
                }
                if remembers {
                    let memory = slot.memory.as_deref_mut().and_then(|memory| memory.device().0);
                    views[places.memory] = memory.map(View::write);
                }
                let own = (&*groups[slot.group].algorithm, &slot.shape, elements);
                let (bits, name, step) = (slot.bits, &slot.name, slot.steps + 1);
                let key = |operand| bits.key(name, step, stage, operand);
                views_to(views, &self.states, &mut slot.states, own, key);
                views_to(views, &self.scratch, &mut slot.scratch, own, key);
                if let Some(param) = self.param.filter(|_| bits.of_param) {
                    views[param] = views[param].take().map(|view| view.with_stochastic_rounding(key(param)));
                }
                if last {
                    // Here, and not after the step: with many tensors each walk over them counts.
                    slot.steps += 1;
                    counted += 1;
                }
                match rows.filter(|rows| rows.parts().is_some()) {
                    None => return Some(TensorPass { elements, constant_set: slot.constant_set as usize }),
                    Some(rows) => {
                        let whole = views.each_mut().map(Option::take);
                        rest = Some(RowRuns::new(rows, whole, self.grad, slot.constant_set as usize));
                    }
                }
            },
            constants: &self.constants,
            tensor_scalars,
            plan: &mut self.plans[number],
            sums: found,
            fused: &fused,
            checked: true,
        };
        let memory = places.memory;
        let ran = match (queued, &self.between) {
            (Some(before), Some(between)) => {
                let computed = computed.then(|| between.computed(before, context.shared.device(), memory));
                let queued = Queued { computed, factor, parts: &self.parts };
                queue_of(backend).and_then(|queue| queue.run_queued(pass, queued))
            }
            _ if factor.is_some() => {
                let queued = Queued { factor, ..Queued::default() };
                queue_of(backend).and_then(|queue| queue.run_queued(pass, queued))
            }
            _ => backend.run(pass),
        };
        let ran = match &mut fetched {
            Some(sums) if !sums.is_empty() => {
                ran.and_then(|()| queue_of(backend)?.sums(&self.plans[number], sums))
            }
            _ => ran,
        };
        if let Err(cause) = ran {
            let slots = slots.iter_mut().filter(|slot| slot.launch == Some(index));
            slots.take(counted).for_each(|slot| slot.steps -= 1);
            let slots =
                context.slots[batch.places.clone()].iter_mut().filter(|slot| slot.launch == Some(index));
            slots.flat_map(|slot| &mut slot.averaged).for_each(|averaged| averaged.unmark());
            return Err(cause);
        }
        if divided && queued.is_none() {
            let mut left = &self.parts_sums[..];
            let mut to = self.sums[batch.tensors.start * sums..].chunks_exact_mut(sums.max(1));
            for slot in slots.iter().filter(|slot| slot.launch == Some(index)) {
                let (parts, others) = left.split_at(slot.parts().unwrap_or(1) * sums);
                left = others;
                for (sum, total) in to.next().into_iter().flatten().enumerate() {
                    // One part is the whole: its sum stays as it is.
                    *total = match slot.parts() {
                        None => parts[sum],
                        Some(_) => tree_reduce(parts.iter().skip(sum).step_by(sums).copied()),
                    };
                }
            }
        }
        Ok(())
    }
}

/// Returns the elements of the longest storage that is an operand: what a pass goes over that has neither parameter
/// nor gradient.
fn longest(storages: &[(&'static str, Storage)], places: &[Option<usize>]) -> Option<usize> {
    let operands = storages.iter().zip(places).filter(|(_, place)| place.is_some());
    operands.map(|((_, storage), _)| storage.len()).max()
}

/// Puts the views of states or scratch to their places.
#[inline]
fn views_to<'v>(
    views: &mut Views<'v>,
    places: &[Option<usize>],
    storages: &'v mut [(&'static str, Storage)],
    (algorithm, shape, elements): (&dyn AnyAlgorithm, &Shape, usize),
    key: impl Fn(usize) -> u64,
) {
    for ((name, storage), place) in storages.iter_mut().zip(places) {
        let Some(place) = *place else { continue };
        let stochastic = storage.rounds_stochastically();
        let mut view = match storage.len() == elements {
            true => View::write(storage),
            false => broadcast_view(algorithm, name, shape, storage),
        };
        if stochastic {
            view = view.with_stochastic_rounding(key(place));
        }
        views[place] = Some(view);
    }
}

/// Returns the view of a state or scratch of another length than its parameter's, as its algorithm says.
#[cold]
fn broadcast_view<'v>(
    algorithm: &dyn AnyAlgorithm,
    name: &str,
    shape: &Shape,
    storage: &'v mut Storage,
) -> View<'v> {
    let view = View::write(storage);
    if shape.elements() == 0 {
        return view.slice(0, 0);
    }
    match algorithm.state(name).broadcast(shape) {
        Some((run, times)) => view.broadcast(run, times),
        None => view,
    }
}
