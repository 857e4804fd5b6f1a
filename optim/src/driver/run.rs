//! The stages of a step over all parameters that take the same ones.

use crate::slots::Slot;
use crate::stages::{Combining, Gathering, MatrixStep, Stage, Stages};
use crate::{AnyAlgorithm, Binding, Result};
use fallline_core::backend::{Pass, Plan, TensorPass, View};
use fallline_core::{Backend, Compute, Kernel, Role};

/// Parameters with the same stages and compute type, with buffers that are kept between steps.
pub(crate) struct Run {
    pub(super) stages: Stages,
    pub(super) compute: Compute,
    /// For each row of scalars, its group and step count.
    keys: Vec<(usize, u64)>,
    parts: Vec<Part>,
    /// The places of this step's parameters, in the order of their names, where that order matters.
    order: Vec<usize>,
    steps: Vec<u64>,
    gathered: Vec<f64>,
    /// What was remembered before the step.
    before: Vec<f64>,
}

/// A stage, and where its operands come from.
struct Part {
    stage: Stage,
    /// The operand that is the parameter, and that which is the gradient.
    param: Option<usize>,
    grad: Option<usize>,
    /// For each state and each scratch of the stages the operand that it is in this one.
    states: Vec<Option<usize>>,
    scratch: Vec<Option<usize>>,
    rows: Vec<f64>,
    /// The parameters' own scalars, in the order of the bindings.
    own: Vec<f64>,
    plan: Plan,
    /// The parameters' sums, in the order of the bindings.
    sums: Vec<f64>,
}

/// What a step over a run works on.
pub(super) struct Work<'s, 'b, 'd> {
    /// The run's place.
    pub(super) index: usize,
    /// How many parameters take part.
    pub(super) tensors: usize,
    pub(super) backend: &'s dyn Backend,
    pub(super) groups: &'s [super::Group],
    pub(super) shared: &'s mut [f64],
    pub(super) bindings: &'s mut [Binding<'d>],
    pub(super) slots: &'b mut [Slot],
}

impl Run {
    pub(super) fn new(stages: Stages, compute: Compute, backend: &dyn Backend) -> Run {
        let part = |stage: Stage| {
            let operands = stage.kernel().map_or(&[][..], |kernel| kernel.operands);
            let of = |role| operands.iter().position(|operand| operand.role == role);
            let named = |name: &&str| operands.iter().position(|operand| operand.name == *name);
            let all = |role| stages.operands(role).iter().map(named).collect();
            Part {
                stage,
                param: of(Role::Param),
                grad: of(Role::Grad),
                states: all(Role::State),
                scratch: all(Role::Scratch),
                rows: Vec::new(),
                own: Vec::new(),
                plan: backend.plan(),
                sums: Vec::new(),
            }
        };
        let (keys, order, steps, gathered, before) = Default::default();
        let parts = stages.iter().map(part).collect();
        Run { stages, compute, keys, parts, order, steps, gathered, before }
    }

    /// Forgets the rows of the last step.
    pub(super) fn clear(&mut self) {
        self.keys.clear();
        self.parts.iter_mut().for_each(|part| part.rows.clear());
    }

    /// Whether no parameter takes part in this step.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The row of scalars for a group at a step count, computed if it is not there yet.
    pub(super) fn row(&mut self, group: usize, t: u64, algorithm: &dyn AnyAlgorithm) -> usize {
        if let Some(row) = self.keys.iter().rposition(|&key| key == (group, t)) {
            return row;
        }
        self.keys.push((group, t));
        for part in &mut self.parts {
            let Some(kernel) = part.stage.kernel() else { continue };
            part.rows.push(if algorithm.maximize() { -1.0 } else { 1.0 });
            let start = part.rows.len();
            part.rows.resize(start + kernel.scalars.len(), 0.0);
            kernel.compute_scalars(algorithm.hyper(), t, &mut part.rows[start..]);
        }
        self.keys.len() - 1
    }

    /// Runs all stages. `begun` is set as soon as something may have been written.
    pub(super) fn step(&mut self, mut work: Work<'_, '_, '_>, begun: &mut bool) -> Result<()> {
        let count = self.parts.len();
        self.remember(&work);
        for stage in 0..count {
            let (done, rest) = self.parts.split_at_mut(stage);
            let part = &mut rest[0];
            let sums: &[f64] = done.last().map_or(&[], |part| &part.sums);
            let Some(kernel) = part.stage.kernel() else {
                *begun = true;
                work.matrix(stage, self.compute)?;
                continue;
            };
            if work.shared.is_empty() {
                work.combine(stage, kernel, sums, &mut part.own);
            } else {
                self.order.clear();
                self.order.extend((0..work.slots.len()).filter(|&i| work.slots[i].run == Some(work.index)));
                self.order.sort_unstable_by_key(|&i| &work.slots[i].name);
                let gather =
                    Gather { order: &self.order, steps: &mut self.steps, buffer: &mut self.gathered };
                work.gather(stage, kernel, sums, &mut part.own, gather);
            }
            let ran = part.run(&mut work, kernel, self.compute, stage + 1 == count);
            if ran.is_err() && !*begun {
                self.restore(&mut work);
            }
            ran?;
            *begun = true;
        }
        Ok(())
    }

    /// Keeps what is remembered, in case that the first pass is refused.
    fn remember(&mut self, work: &Work<'_, '_, '_>) {
        self.before.clear();
        self.before.extend_from_slice(work.shared);
        if work.groups[0].algorithm.memory().is_empty() {
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

impl Part {
    /// The pass over memory. Step counts go up in the last one.
    fn run(
        &mut self,
        work: &mut Work<'_, '_, '_>,
        kernel: &'static Kernel,
        compute: Compute,
        last: bool,
    ) -> Result<()> {
        let index = work.index;
        self.sums.clear();
        self.sums.resize(work.tensors * kernel.sums.len(), 0.0);
        let mut counted = 0;
        let mut pairs =
            work.bindings.iter_mut().zip(&mut *work.slots).filter(|(_, slot)| slot.run == Some(index));
        let ran = work.backend.run(Pass {
            kernel,
            compute,
            tensors: &mut |views| {
                let (binding, slot) = pairs.next()?;
                let (mut param, mut grad) = binding.views();
                let elements = param.as_ref().map_or(0, View::len);
                if let Some(place) = self.param {
                    views[place] = param.take();
                }
                if let Some(place) = self.grad {
                    views[place] = grad.take();
                }
                let states = slot.states.iter_mut().zip(&self.states);
                for ((_, storage), place) in states.chain(slot.scratch.iter_mut().zip(&self.scratch)) {
                    if let &Some(place) = place {
                        views[place] = Some(View::write(storage));
                    }
                }
                if last {
                    // Here, and not after the step: with many tensors each walk over them counts.
                    slot.steps += 1;
                    counted += 1;
                }
                Some(TensorPass { elements, row: slot.row })
            },
            rows: &self.rows,
            tensor_scalars: &self.own,
            plan: &mut self.plan,
            sums: &mut self.sums,
        });
        if let Err(cause) = ran {
            let slots = work.slots.iter_mut().filter(|slot| slot.run == Some(index));
            slots.take(counted).for_each(|slot| slot.steps -= 1);
            return Err(cause.into());
        }
        Ok(())
    }
}

/// Buffers for [`Gathering`].
struct Gather<'a> {
    order: &'a [usize],
    steps: &'a mut Vec<u64>,
    buffer: &'a mut Vec<f64>,
}

impl Work<'_, '_, '_> {
    /// Each parameter's own scalars of a stage from its sums of the one before.
    fn combine(&mut self, stage: usize, kernel: &Kernel, sums: &[f64], own: &mut Vec<f64>) {
        let width = kernel.tensor_scalars.len();
        own.clear();
        if width == 0 {
            return;
        }
        let mine = self.slots.iter_mut().filter(|slot| slot.run == Some(self.index));
        for (place, slot) in mine.enumerate() {
            own.resize((place + 1) * width, 0.0);
            let found = sums.len().checked_div(self.tensors).unwrap_or(0);
            self.groups[slot.group].algorithm.combine(
                stage,
                &mut Combining {
                    t: slot.steps + 1,
                    elements: slot.shape.elements(),
                    sums: &sums[place * found..][..found],
                    memory: &mut slot.memory,
                    scalars: &mut own[place * width..],
                },
            );
        }
    }

    /// All parameters' scalars of a stage at once, from the sums of the one before.
    fn gather(&mut self, stage: usize, kernel: &Kernel, sums: &[f64], own: &mut Vec<f64>, with: Gather<'_>) {
        let Gather { order, steps, buffer } = with;
        let (width, found) = (kernel.tensor_scalars.len(), sums.len().checked_div(self.tensors).unwrap_or(0));
        // From the order of the bindings to that of the names, and back.
        let mut places = vec![0; self.slots.len()];
        let mine = (0..self.slots.len()).filter(|&i| self.slots[i].run == Some(self.index));
        mine.enumerate().for_each(|(place, i)| places[i] = place);
        steps.clear();
        steps.extend(order.iter().map(|&i| self.slots[i].steps + 1));
        buffer.clear();
        order.iter().for_each(|&i| buffer.extend_from_slice(&sums[places[i] * found..][..found]));
        let at = buffer.len();
        buffer.resize(at + order.len() * width, 0.0);
        let (sums, scalars) = buffer.split_at_mut(at);
        let groups: Vec<&dyn AnyAlgorithm> = self.groups.iter().map(|group| &*group.algorithm).collect();
        let mut at = Gathering { tensors: order.len(), steps, sums, shared: self.shared, scalars };
        groups[0].gather(&groups, stage, &mut at);
        own.clear();
        own.resize(order.len() * width, 0.0);
        if width > 0 {
            for (&i, row) in order.iter().zip(scalars.chunks_exact(width)) {
                own[places[i] * width..][..width].copy_from_slice(row);
            }
        }
    }

    /// A stage that is not element by element, tensor after tensor.
    fn matrix(&mut self, stage: usize, compute: Compute) -> Result<()> {
        for slot in self.slots.iter_mut().filter(|slot| slot.run == Some(self.index)) {
            let algorithm = &self.groups[slot.group].algorithm;
            algorithm.matrix(
                stage,
                &mut MatrixStep {
                    backend: self.backend,
                    compute,
                    t: slot.steps + 1,
                    shape: &slot.shape,
                    states: &mut slot.states,
                    scratch: &mut slot.scratch,
                },
            )?;
        }
        Ok(())
    }
}
