//! NaN and infinity in gradients: what to do about them, and the rule that finds them.

use super::{Driver, mirror, rows};
use crate::program::Program;
use crate::slots::Slot;
use crate::{Binding, Result};
use fallline_core::backend::{Pass, Plan, TensorPass, View};
use fallline_core::sums::fold;
use fallline_core::{Compute, Role};
use std::sync::Arc;

/// What a step does when a gradient holds a NaN or an infinity.
///
/// Everything but [`Propagate`](NonFinite::Propagate) reads all gradients once before the step; the report
/// then also tells their norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum NonFinite {
    /// Step as if nothing were wrong, as torch does: the NaN reaches the parameter.
    #[default]
    Propagate,
    /// Skip the step: parameters, states and step counts stay as they are, and the report says so.
    Skip,
    /// Fail with [`Error::NonFinite`](crate::Error::NonFinite); everything stays as it is.
    Error,
}

/// What a look at the gradients keeps between steps.
#[derive(Default)]
pub(super) struct Look {
    /// The places of the bindings that have a gradient, in the order of their names.
    order: Vec<usize>,
    /// For each of them what [`GradCheck`](crate::builtins::GradCheck) sums up.
    pub(super) found: Vec<[f64; 2]>,
    /// Whether that was summed up on the way already, and is not to be done again.
    pub(super) done: bool,
    /// For each compute type.
    plans: [Option<Plan>; 2],
    sums: Vec<f64>,
    scales: Vec<f32>,
}

impl Driver {
    /// The first state by its parameter's name that is quantised and holds a NaN or an infinity, of the parameters with
    /// a gradient: a block that does has a NaN as its scale.
    pub(super) fn poisoned_state(
        &mut self,
        bindings: &[Binding<'_>],
    ) -> Result<Option<(String, &'static str)>> {
        let scales = &mut self.look.scales;
        let mut first: Option<(&str, &'static str)> = None;
        let slots = self.slots.range(0..bindings.len());
        for slot in slots.iter().zip(bindings).filter(|(_, binding)| !binding.grad.is_none()).map(|(s, _)| s)
        {
            for (state, storage) in &slot.states {
                let count = storage.format().scales(storage.len());
                if count == 0 || first.is_some_and(|(known, _)| known <= slot.name.as_str()) {
                    continue;
                }
                scales.resize(count, 0.0);
                self.backend.read_scales(storage, scales)?;
                if scales.iter().any(|scale| scale.is_nan()) {
                    first = Some((&slot.name, state));
                }
            }
        }
        let first = first.map(|(param, state)| (param.to_owned(), state));
        self.poisoned_on_any(bindings, first)
    }

    /// The same of all ranks, where they have states of their own: they must agree on what becomes of the step.
    fn poisoned_on_any(
        &self,
        bindings: &[Binding<'_>],
        own: Option<(String, &'static str)>,
    ) -> Result<Option<(String, &'static str)>> {
        let Some(world) = self.world.as_ref().filter(|world| world.sharded() || self.finds_alone()) else {
            return Ok(own);
        };
        let program = |slot: &Slot| self.program_of(slot).unwrap_or(Program::EMPTY);
        let states = |slot: &Slot| program(slot).operands(Role::State);
        let slots = self.slots.range_of(0..bindings.len());
        let place = |(param, state): (String, &str)| {
            let binding = slots.iter().position(|slot| slot.name == param)?;
            let state = states(&slots[binding]).iter().position(|known| *known == state)?;
            Some([binding as u64, 1 + state as u64])
        };
        let all = world.findings(own.and_then(place).unwrap_or([0, 0]))?;
        let found = all.into_iter().filter(|[_, state]| *state > 0).filter_map(|[binding, state]| {
            let slot = slots.get(binding as usize)?;
            Some((slot.name.clone(), *states(slot).get(state as usize - 1)?))
        });
        Ok(found.min_by(|one, other| one.0.cmp(&other.0)))
    }

    /// Reads all gradients times `scale` once: their norm, and the first by name that is not finite with how many of
    /// its elements are not. Sums over several tensors fold in the order of their names.
    pub(super) fn look_at_grads(
        &mut self,
        bindings: &[Binding<'_>],
        scale: f64,
    ) -> Result<(f64, Option<(String, u64)>)> {
        let Look { order, .. } = &mut self.look;
        order.clear();
        order.extend((0..bindings.len()).filter(|&i| !bindings[i].grad.is_none()));
        order.sort_unstable_by_key(|&i| bindings[i].name);
        if !core::mem::take(&mut self.look.done) {
            self.find(bindings, scale)?;
        }
        let Look { order, found, .. } = &self.look;
        let squares = fold(found.iter().map(|sums| sums[1]));
        let bad = order.iter().zip(found).find(|(_, sums)| sums[0] > 0.0);
        Ok((squares.sqrt(), bad.map(|(&i, sums)| (bindings[i].name.to_owned(), sums[0] as u64))))
    }

    /// Reads the gradients that are in order.
    fn find(&mut self, bindings: &[Binding<'_>], scale: f64) -> Result<()> {
        let near = Arc::clone(self.near());
        let Look { order, found, plans, sums, .. } = &mut self.look;
        found.clear();
        found.resize(order.len(), [0.0; 2]);
        let slots = self.slots.range(0..bindings.len());
        let kernel = self.builtins.grad_check();
        for (compute, plan) in [Compute::F32, Compute::F64].into_iter().zip(plans) {
            let places = || order.iter().filter(|&&i| slots[i].compute == compute);
            let count = places().count();
            if count == 0 {
                continue;
            }
            sums.clear();
            sums.resize(count * kernel.sums.len(), 0.0);
            let mut left = places();
            near.run(Pass {
                kernel,
                compute,
                tensors: &mut |views| {
                    let &i = left.next()?;
                    let given = mirror::given(&bindings[i], &slots[i].mirror);
                    // Rows that are not given are zero.
                    views[0] = match rows::of(&slots[i].rows, slots[i].sparse) {
                        Some(rows) => rows.compact(given),
                        None => given,
                    };
                    Some(TensorPass { elements: views[0].as_ref().map_or(0, View::len), row: 0 })
                },
                rows: &[scale],
                tensor_scalars: &[],
                plan: plan.get_or_insert_with(|| near.plan()),
                sums,
                beside: &[],
            })?;
            let of_compute = order.iter().zip(&mut *found).filter(|(i, _)| slots[**i].compute == compute);
            for ((_, found), sums) in of_compute.zip(sums.chunks_exact(2)) {
                *found = [sums[0], sums[1]];
            }
        }
        Ok(())
    }
}
