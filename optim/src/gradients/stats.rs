//! What is read of all gradients once before a step: their Euclidean norm, and the first that is not finite.

use super::views::Grads;
use crate::engine::Engine;
use crate::ranks::process_group::ProcessGroup;
use crate::{Binding, Result};
use fallline_core::Compute;
use fallline_core::backend::{Pass, Plan, TensorPass, View};
use fallline_core::reduction::tree_reduce;

/// What is found in gradients, with buffers that are kept between steps.
#[derive(Default)]
pub(super) struct GradStats {
    /// The places of the bindings that have a gradient, in the order of their names.
    order: Vec<usize>,
    /// For each of them what [`GradCheck`](fallline_core::builtins::GradCheck) sums up.
    pub(super) found: Vec<[f64; 2]>,
    /// Whether that was summed up on the way already, and is not to be done again.
    pub(super) done: bool,
    /// For each compute type.
    plans: [Option<Plan>; 2],
    sums: Vec<f64>,
    scales: Vec<f32>,
    /// What was found in each gradient of an incremental step, in the order in which they came.
    pub(super) each: Vec<GradStat>,
    /// The first state, by its parameter's name, that holds a NaN or an infinity.
    pub(super) corrupt_state: Option<(String, &'static str)>,
}

/// What is found in one gradient of an incremental step.
#[derive(Clone, Copy, Debug)]
pub(super) struct GradStat {
    /// What [`GradCheck`](fallline_core::builtins::GradCheck) sums up.
    pub(super) sums: [f64; 2],
    /// Its norm, where that is not the Euclidean one.
    pub(super) norm: f64,
}

impl GradStats {
    /// Finds the first quantised state, by its parameter's name, that holds a NaN or an infinity, of the parameters
    /// with a gradient. Such a block has a NaN as its scale. Where states differ between ranks, it is the first of
    /// all ranks.
    ///
    /// # Errors
    /// When a device or a rank fails.
    pub(super) fn corrupt_state(
        &mut self,
        engine: &Engine,
        group: &ProcessGroup,
        bindings: &[Binding<'_>],
    ) -> Result<Option<(String, &'static str)>> {
        let scales = &mut self.scales;
        let mut first: Option<(&str, &'static str)> = None;
        let slots = engine.slots.range_of(0..bindings.len());
        for (slot, _) in slots.iter().zip(bindings).filter(|(_, binding)| !binding.grad.is_none()) {
            for (state, storage) in &slot.states {
                let count = storage.format().scales(storage.len());
                if count == 0 || first.is_some_and(|(known, _)| known <= slot.name.as_str()) {
                    continue;
                }
                scales.resize(count, 0.0);
                engine.setup.backend.read_scales(storage, scales)?;
                if scales.iter().any(|scale| scale.is_nan()) {
                    first = Some((&slot.name, state));
                }
            }
        }
        let own = first.map(|(param, state)| (param.to_owned(), state));
        let place = || {
            let (param, state) = own.as_ref()?;
            let binding = slots.iter().position(|slot| slot.name == *param)?;
            let state = engine.setup.states_of(&slots[binding]).iter().position(|known| known == state)?;
            Some([binding as u64, 1 + state as u64])
        };
        let Some(all) = group.findings(engine, true, place)? else { return Ok(own) };
        let found = all.into_iter().filter(|[_, state]| *state > 0).filter_map(|[binding, state]| {
            let slot = slots.get(binding as usize)?;
            Some((slot.name.clone(), *engine.setup.states_of(slot).get(state as usize - 1)?))
        });
        Ok(found.min_by(|one, other| one.0.cmp(&other.0)))
    }

    /// Reads all gradients times `scale` once: their norm, and the first by name that is not finite with how many of
    /// its elements are not. Sums over several tensors fold in the order of their names.
    ///
    /// # Errors
    /// When a device fails.
    pub(super) fn inspect(
        &mut self,
        engine: &Engine,
        grads: Grads<'_, '_>,
        scale: f64,
    ) -> Result<(f64, Option<(String, u64)>)> {
        grads.in_order(&mut self.order);
        if !core::mem::take(&mut self.done) {
            self.reduce(engine, grads, scale)?;
        }
        let GradStats { order, found, .. } = self;
        let squares = tree_reduce(found.iter().map(|sums| sums[1]));
        let bad = order.iter().zip(found).find(|(_, sums)| sums[0] > 0.0);
        Ok((squares.sqrt(), bad.map(|(&i, sums)| (grads.bindings[i].name.to_owned(), sums[0] as u64))))
    }

    /// Reads the gradients that are in order.
    fn reduce(&mut self, engine: &Engine, grads: Grads<'_, '_>, scale: f64) -> Result<()> {
        let backend = engine.setup.param_backend();
        let GradStats { order, found, plans, sums, .. } = self;
        found.clear();
        found.resize(order.len(), [0.0; 2]);
        let kernel = engine.setup.builtins.grad_check();
        for (compute, plan) in [Compute::F32, Compute::F64].into_iter().zip(plans) {
            let places = || order.iter().filter(|&&i| grads.compute(i) == compute);
            let count = places().count();
            if count == 0 {
                continue;
            }
            sums.clear();
            sums.resize(count * kernel.sums.len(), 0.0);
            let mut left = places();
            backend.run(Pass {
                kernel,
                compute,
                tensors: &mut |views| {
                    views[0] = grads.view(*left.next()?);
                    Some(TensorPass { elements: views[0].as_ref().map_or(0, View::len), constant_set: 0 })
                },
                constants: &[scale],
                tensor_scalars: &[],
                plan: plan.get_or_insert_with(|| backend.plan()),
                sums,
                fused: &[],
                checked: false,
            })?;
            let of_compute = order.iter().zip(&mut *found).filter(|(i, _)| grads.compute(**i) == compute);
            for ((_, found), sums) in of_compute.zip(sums.chunks_exact(2)) {
                *found = [sums[0], sums[1]];
            }
        }
        Ok(())
    }
}
