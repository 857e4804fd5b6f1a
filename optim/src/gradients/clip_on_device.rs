//! Clipping by norm on a device that computes the factor itself, so that nothing waits for the norm.

use super::norm::{FAN_IN, FanInViews, SCRATCH_LEN, fan_in_views, hand_over};
use super::views::Grads;
use crate::engine::setup::Setup;
use crate::op::queue_of;
use core::any::Any;
use core::mem::swap;
use fallline_core::backend::{Computed, Pass, Placed, Plan, Queued, SharedNumbers, TensorPass, View};
use fallline_core::builtins::{ClipTo, Extreme};
use fallline_core::{Backend, Compute, Format, GlobalAt, Groups, Kernel, Result, Storage};
use std::sync::{Arc, OnceLock};

/// Places of the numbers that clipping leaves.
pub(crate) const NORM: usize = 0;
pub(crate) const FACTOR: usize = 1;

/// What is kept between steps.
#[derive(Default)]
pub(super) struct Clipping {
    plans: Plans,
    /// Where norms and factors are, those of the reports that are read still among them.
    found: Vec<Arc<Storage>>,
    order: Vec<usize>,
    placed: Vec<Placed>,
    /// What passes that look for the largest magnitude leave: of gradients, and of that.
    left: Option<Storage>,
    kept: Option<Storage>,
    /// The plan of a pass that has looked at the gradients on the way, and whether it has in this step.
    inspected: Option<Plan>,
    /// Whether the device computes norms.
    able: OnceLock<bool>,
    fresh: bool,
}

/// The plans of the passes, in their order.
#[derive(Default)]
struct Plans {
    all: Vec<Plan>,
    next: usize,
}

impl Plans {
    /// Returns the place of the next one.
    fn next(&mut self, backend: &dyn Backend) -> usize {
        if self.all.len() == self.next {
            self.all.push(backend.plan());
        }
        self.next += 1;
        self.next - 1
    }
}

impl Plans {
    /// Runs a pass over what `next` returns until there is none; its sums stay on the device. Returns the place of
    /// its plan.
    fn run<'v>(
        &mut self,
        (backend, compute): (&dyn Backend, Compute),
        kernel: &'static Kernel,
        constants: &[f64],
        next: &mut dyn FnMut() -> Option<FanInViews<'v>>,
    ) -> Result<usize> {
        let place = self.next(backend);
        let pass = Pass {
            kernel,
            compute,
            tensors: &mut |views| Some(hand_over(next()?, views)),
            constants,
            tensor_scalars: &[],
            plan: &mut self.all[place],
            sums: &mut [],
            fused: &[],
            checked: false,
        };
        queue_of(backend)?.run_queued(pass, Queued::default())?;
        Ok(place)
    }
}

/// Numbers that follow from the sums of a pass over all gradients, or over what came of them.
#[derive(Clone, Copy)]
struct Numbers {
    kernel: &'static Kernel,
    /// The pass's rule, and the place of its plan; none for a fused inspection.
    of: &'static Kernel,
    pass: Option<usize>,
    max_norm: f64,
}

impl Clipping {
    /// Returns whether the device computes norms.
    pub(super) fn is_able(&self, setup: &Setup) -> bool {
        *self
            .able
            .get_or_init(|| setup.backend.queue().is_some_and(|queue| queue.computes(setup.builtins.clip())))
    }

    /// Takes the plan of a pass that adds the last gradients of a window and inspects them. It is given back with
    /// whether it has inspected.
    pub(super) fn take_plan(&mut self, backend: &dyn Backend) -> Plan {
        self.inspected.take().unwrap_or_else(|| backend.plan())
    }

    /// Takes it back.
    pub(super) fn give_plan(&mut self, plan: Plan, inspected: bool) {
        self.inspected = Some(plan);
        self.fresh = inspected;
    }

    /// Computes the norm of the gradients, and their factor, without waiting for either. None where there is no
    /// element.
    pub(super) fn clip(
        &mut self,
        setup: &Setup,
        grads: Grads<'_, '_>,
        compute: Compute,
        (norm_type, max_norm): (f64, f64),
    ) -> Result<Option<Arc<Storage>>> {
        let clipping = self;
        let (backend, rules) = (&*setup.backend, setup.builtins);
        clipping.plans.next = 0;
        let Clipping { order, placed, .. } = clipping;
        grads.in_order(order);
        placed.clear();
        placed.extend((0..order.len()).map(|i| Placed { tensor: i as u32, group: 0 }));
        let (look, clip) = match norm_type {
            1.0 => (rules.magnitude_sum(), rules.clip_magnitudes()),
            _ => (rules.grad_check(), rules.clip()),
        };
        // A report that is read later keeps its own.
        let free = clipping.found.iter().position(|found| Arc::strong_count(found) == 1);
        let mut found = match free {
            Some(free) => clipping.found.swap_remove(free),
            None => Arc::new(backend.allocate(&[(Format::F64, 2)])?.remove(0)),
        };
        let (of, pass, inspected) = match core::mem::take(&mut clipping.fresh) {
            true => (rules.accumulate_with_stats(), None, Ok(())),
            false => {
                let pass = clipping.plans.next(backend);
                (look, Some(pass), clipping.inspect((backend, grads), (look, compute), pass))
            }
        };
        let numbers = Numbers { kernel: clip, of, pass, max_norm };
        let mut done =
            inspected.and_then(|()| clipping.follow(backend, compute, numbers, Arc::get_mut(&mut found)));
        if norm_type.is_infinite() && done.is_ok() {
            match clipping.largest(setup, grads, compute) {
                Ok(Some(pass)) => {
                    clipping.placed.truncate(1);
                    let (kernel, of) = (rules.clip_largest(), rules.total());
                    let numbers = Numbers { kernel, of, pass: Some(pass), max_norm };
                    done = clipping.follow(backend, compute, numbers, Arc::get_mut(&mut found));
                }
                Ok(None) => {
                    // There is no element.
                    clipping.found.push(found);
                    return Ok(None);
                }
                Err(cause) => done = Err(cause),
            }
        }
        clipping.found.push(Arc::clone(&found));
        done.map(|()| Some(found))
    }

    /// Runs a pass over all gradients, in the order of their names, whose sums stay on the device.
    fn inspect(
        &mut self,
        (backend, grads): (&dyn Backend, Grads<'_, '_>),
        (kernel, compute): (&'static Kernel, Compute),
        plan: usize,
    ) -> Result<()> {
        let mut left = self.order.iter();
        let pass = Pass {
            kernel,
            compute,
            tensors: &mut |views| {
                views[0] = grads.view(*left.next()?);
                Some(TensorPass { elements: views[0].as_ref().map_or(0, View::len), constant_set: 0 })
            },
            constants: &[1.0],
            tensor_scalars: &[],
            plan: &mut self.plans.all[plan],
            sums: &mut [],
            fused: &[],
            checked: false,
        };
        queue_of(backend)?.run_queued(pass, Queued::default())
    }

    /// Finds the largest magnitude of all gradients, as the sum of a pass whose plan's place is returned. Passes
    /// reduce what they read to a seventh, until one is left. None where there is no element.
    fn largest(&mut self, setup: &Setup, grads: Grads<'_, '_>, compute: Compute) -> Result<Option<usize>> {
        let clipping = self;
        let (backend, kernel) = (&*setup.backend, setup.builtins.extreme_magnitude());
        let given = |i: usize| grads.view(i);
        let pieces: Vec<(usize, usize, usize)> = clipping
            .order
            .iter()
            .flat_map(|&i| {
                let len = given(i).as_ref().map_or(0, View::len);
                (0..len)
                    .step_by(FAN_IN * SCRATCH_LEN)
                    .map(move |start| (i, start, (len - start).min(FAN_IN * SCRATCH_LEN)))
            })
            .collect();
        // So many pieces at a time as leave what there is room for.
        let mut batches: Vec<(usize, usize)> = Vec::new();
        for (.., len) in &pieces {
            let leaves = len.div_ceil(FAN_IN);
            match batches.last_mut() {
                Some((count, all)) if *all + leaves <= SCRATCH_LEN => {
                    (*count, *all) = (*count + 1, *all + leaves)
                }
                _ => batches.push((1, leaves)),
            }
        }
        if batches.is_empty() {
            return Ok(None);
        }
        let all: usize = batches.iter().map(|(_, all)| all.div_ceil(FAN_IN)).sum();
        let room = batches.iter().map(|(_, all)| *all).max().unwrap_or(0).max(all.div_ceil(FAN_IN));
        for (memory, room) in [(&mut clipping.left, room), (&mut clipping.kept, all)] {
            let enough = |storage: &Storage| storage.len() >= room && storage.format() == compute.format();
            if !memory.as_ref().is_some_and(enough) {
                *memory = backend.allocate(&[(compute.format(), room)])?.pop();
            }
        }
        let Clipping { plans, left: Some(left), kept: Some(kept), .. } = clipping else { return Ok(None) };
        let mut row = vec![1.0; 1 + kernel.scalars.len()];
        kernel.compute_scalars(&Extreme { least: false }, 1, &mut row[1..]);
        let on = (backend, compute);
        let (mut taken, mut count) = (0, 0);
        for (pieces_of, leaves) in batches {
            let mut to = View::write(left);
            let mut batch = pieces[taken..taken + pieces_of].iter();
            plans.run(on, kernel, &row, &mut || {
                let &(i, start, len) = batch.next()?;
                Some(fan_in_views(to.take(0, len.div_ceil(FAN_IN)), len, &|| {
                    given(i).map(|view| view.slice(start, len))
                }))
            })?;
            let next = leaves.div_ceil(FAN_IN);
            let mut to = Some(View::write(kept).slice(count, next));
            let from = &*left;
            plans.run(on, kernel, &row, &mut || {
                Some(fan_in_views(to.take()?, leaves, &|| Some(View::read(from).slice(0, leaves))))
            })?;
            (taken, count) = (taken + pieces_of, count + next);
        }
        let (mut from, mut to) = (kept, left);
        while count > 1 {
            let next = count.div_ceil(FAN_IN);
            let mut target = Some(View::write(to).slice(0, next));
            let source = &*from;
            plans.run(on, kernel, &row, &mut || {
                Some(fan_in_views(target.take()?, count, &|| Some(View::read(source).slice(0, count))))
            })?;
            swap(&mut from, &mut to);
            count = next;
        }
        // A sum of one element is that element.
        let mut one = Some(View::read(from).slice(0, 1));
        let place = plans.run(on, setup.builtins.total(), &[1.0], &mut || {
            let mut views = [const { None }; FAN_IN + 1];
            views[0] = Some(one.take()?);
            Some(views)
        })?;
        Ok(Some(place))
    }

    /// Computes the norm and the factor from the sums of a pass.
    fn follow(
        &mut self,
        backend: &dyn Backend,
        compute: Compute,
        Numbers { kernel, of, pass, max_norm }: Numbers,
        shared: Option<&mut Storage>,
    ) -> Result<()> {
        let place = self.plans.next(backend);
        let (before, own) = self.plans.all.split_at_mut(place);
        let between = &kernel.between;
        let known = |name: &&str| of.sums.iter().position(|known| known == name);
        let reads: Vec<usize> = between.declared.reads.iter().filter_map(known).collect();
        let to = ClipTo { max_norm };
        let hyper = |_: usize| &to as &dyn Any;
        let mut once = vec![0.0; between.declared.once.len()];
        let mut none = GlobalAt { steps: &[], groups: &[], memory: &[], shared: &mut [], world: 1 };
        between.once(&Groups::new(1, &hyper), &mut none, &mut once);
        // Tensors without elements: all of the rule is between passes.
        let mut left = self.placed.len();
        let empty = Pass {
            kernel,
            compute,
            tensors: &mut |_| {
                left = left.checked_sub(1)?;
                Some(TensorPass { elements: 0, constant_set: 0 })
            },
            constants: &[1.0],
            tensor_scalars: &[],
            plan: &mut own[0],
            sums: &mut [],
            fused: &[],
            checked: false,
        };
        let computed = Computed {
            before: pass.map_or(self.inspected.as_ref(), |pass| before.get(pass)),
            first: 0,
            reads: &reads,
            order: &self.placed,
            groups: 1,
            once: &once,
            each: &[],
            shared: shared.map(SharedNumbers::Change),
            shared_places: &[NORM, FACTOR],
            memory: 0,
            memory_places: &[],
            most: 0,
        };
        queue_of(backend)?.run_queued(empty, Queued { computed: Some(computed), ..Queued::default() })
    }
}
