//! Weight averaging (EMA, SWA): the averages of the parameters.

#[cfg(feature = "checkpoints")]
mod persist;
mod swap;

use crate::average::Average;
use crate::params::averaged::AveragedParam;
use crate::params::slots::{Slot, Slots};
use crate::{Binding, Result};
use fallline_core::Builtins;
use fallline_core::backend::{Pass, Plan, TensorPass, View};
use fallline_core::{Backend, Compute, Kernel, Storage, Tensor};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Averages at work.
pub(crate) struct WeightAveraging {
    spec: Average,
    /// Iterations so far.
    steps: u64,
    /// The scalars of the rule that averages what a step writes, in the same pass; empty in iterations that do not
    /// update the average.
    row: Vec<f64>,
    /// By the rule that is run, and whether it computes in double precision.
    plans: BTreeMap<(&'static str, bool), Plan>,
    /// The weights that are trained, by the parameters' names, while the parameters hold averages.
    aside: Vec<(String, Storage)>,
}

impl WeightAveraging {
    /// Makes one before the first iteration.
    pub(crate) fn new(spec: Average) -> WeightAveraging {
        WeightAveraging { spec, steps: 0, row: Vec::new(), plans: BTreeMap::new(), aside: Vec::new() }
    }

    /// Counts an iteration.
    pub(crate) fn advance(&mut self) {
        self.steps += 1;
    }

    /// Allocates the averages that are missing, side by side, and computes the scalars of the rule that is fused into
    /// the step's passes.
    pub(crate) fn allocate(
        &mut self,
        builtins: &Builtins,
        near: &Arc<dyn Backend>,
        slots: &mut [Slot],
    ) -> Result<()> {
        self.row.clear();
        let Some(weight) = self.spec.weight(self.steps) else { return Ok(()) };
        let kernel = builtins.lerp();
        self.row.resize(1 + kernel.scalars.len(), 1.0);
        kernel.compute_scalars(&self.spec.ema_weight(weight), 1, &mut self.row[1..]);
        slots.iter_mut().flat_map(|slot| &mut slot.averaged).for_each(|averaged| averaged.taken = false);
        let missing: Vec<&mut Slot> = slots.iter_mut().filter(|slot| slot.averaged.is_none()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let requests: Vec<_> =
            missing.iter().map(|slot| (slot.compute.format(), slot.shape.elements())).collect();
        for (slot, storage) in missing.into_iter().zip(near.allocate(&requests)?) {
            slot.averaged = Some(Box::new(AveragedParam::new(storage, false)));
        }
        Ok(())
    }

    /// Moves averages to the device of the parameters.
    ///
    /// # Errors
    /// When a device fails.
    pub(crate) fn move_to(
        from: &Arc<dyn Backend>,
        slots: &mut Slots,
        device: &Arc<dyn Backend>,
    ) -> Result<()> {
        for slot in slots.iter_mut() {
            if let Some(averaged) = slot.averaged.take() {
                let AveragedParam { storage, begun, .. } = *averaged;
                let tensor = Tensor::from_storage(from, storage, slot.shape.clone())?.to(device)?;
                slot.averaged = Some(Box::new(AveragedParam::new(tensor.into_storage(), begun)));
            }
        }
        Ok(())
    }

    /// Returns the rule that averages what a step writes, with its scalars, in the iterations that update the
    /// average.
    pub(crate) fn rule(&self, builtins: &Builtins) -> Option<(&'static Kernel, &[f64])> {
        (!self.row.is_empty()).then(|| (builtins.lerp(), &self.row[..]))
    }

    /// Updates the averages of bindings whose update was not fused into a pass of the step; the slots are in their
    /// order. Of an `offloaded` parameter, on another device than its states, what is on the device is averaged. `begun` is set
    /// as soon as an average may have been written.
    pub(crate) fn update(
        &mut self,
        builtins: &Builtins,
        (backend, offloaded): (&Arc<dyn Backend>, bool),
        (slots, bindings): (&mut [Slot], &mut [Binding<'_>]),
        begun: &mut bool,
    ) -> Result<()> {
        let Some(weight) = self.spec.weight(self.steps) else { return Ok(()) };
        // A copy is no arithmetic, so that an infinity is copied too.
        let (copy, lerp) = (builtins.param_copy(), builtins.lerp());
        let master = |slot: &Slot| !offloaded && slot.master.is_some();
        let left = |slot: &Slot| slot.averaged.as_ref().is_some_and(|averaged| !averaged.taken);
        for (slot, binding) in slots.iter_mut().zip(&mut *bindings).filter(|(slot, _)| left(slot)) {
            #[cfg(feature = "ndarray")]
            if let crate::ParamRef::Strided(view) = &mut binding.param {
                view.gather();
            }
            if !backend.is_host_accessible() && !master(slot) {
                stage(&**backend, slot, binding)?;
            }
        }
        for (compute, is_begun) in
            [Compute::F32, Compute::F64].into_iter().flat_map(|c| [(c, false), (c, true)])
        {
            let is = |averaged: &AveragedParam| !averaged.taken && averaged.begun == is_begun;
            let fits = |slot: &Slot| slot.compute == compute && slot.averaged.as_deref().is_some_and(is);
            if !slots.iter().any(fits) {
                continue;
            }
            let kernel = if is_begun { lerp } else { copy };
            let mut row = vec![1.0; 1 + kernel.scalars.len()];
            if is_begun {
                kernel.compute_scalars(&self.spec.ema_weight(weight), 1, &mut row[1..]);
            }
            let mut left = slots.iter_mut().zip(&mut *bindings).filter(|(slot, _)| fits(slot));
            let plan = self.plans.entry((kernel.name, compute == Compute::F64));
            let ran = backend.run(Pass {
                kernel,
                compute,
                tensors: &mut |views| {
                    let (slot, binding) = left.next()?;
                    let averaged = slot.averaged.as_mut()?;
                    // The parameter in single precision is what is trained, where there is one.
                    let whole = slot.master.as_deref().filter(|_| !offloaded);
                    let param = whole.or(averaged.staging.as_ref()).map(View::read);
                    // In both rules what is written comes first.
                    views[0] = Some(View::write(&mut averaged.storage));
                    views[1] = Some(param.unwrap_or_else(|| binding.param.view()));
                    Some(TensorPass { elements: slot.shape.elements(), constant_set: 0 })
                },
                constants: &row,
                tensor_scalars: &[],
                plan: plan.or_insert_with(|| backend.plan()),
                sums: &mut [],
                fused: &[],
                checked: false,
            });
            *begun |= ran.as_ref().map_or_else(fallline_core::Error::may_have_written, |()| true);
            ran?;
        }
        slots.iter_mut().flat_map(|slot| &mut slot.averaged).for_each(|averaged| averaged.begun = true);
        Ok(())
    }

    /// Writes what they depend on, in a line.
    pub(crate) fn fingerprint(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "{:?} after {} iterations", self.spec, self.steps)
    }
}

/// Copies a parameter to the device, where it is the host's.
fn stage(backend: &dyn Backend, slot: &mut Slot, binding: &mut Binding<'_>) -> Result<()> {
    let (Some(averaged), Some(slice)) = (&mut slot.averaged, binding.param.host()) else { return Ok(()) };
    let fits = |storage: &Storage| storage.format() == slice.format() && storage.len() == slice.len();
    if !averaged.staging.as_ref().is_some_and(fits) {
        averaged.staging = backend.allocate(&[(slice.format(), slice.len())])?.pop();
    }
    if let Some(storage) = &mut averaged.staging {
        backend.write(storage, slice.as_ref())?;
    }
    Ok(())
}
