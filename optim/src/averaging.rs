//! Averages of the weights, kept beside them.

use super::Driver;
use crate::average::Average;
use crate::builtins::{Builtins, Share};
use crate::checkpoint::{Checkpoint, Entry, LoadOptions};
use crate::slots::{Slot, Slots};
use crate::{Binding, Error, LoadReport, Result};
use fallline_core::backend::{Pass, Plan, TensorPass, View};
use fallline_core::{Backend, Compute, Kernel, Storage, Tensor};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Averages at work.
pub(crate) struct Averages {
    spec: Average,
    /// Iterations so far.
    steps: u64,
    /// The scalars of the rule that goes over what a step writes, in the same pass; empty where it is not time for it.
    row: Vec<f64>,
    /// By the rule that is run, and whether it computes in double precision.
    plans: BTreeMap<(&'static str, bool), Plan>,
}

/// The average of one parameter's weights.
#[derive(Debug)]
pub(crate) struct Mean {
    storage: Storage,
    /// Whether there is anything in it yet.
    begun: bool,
    /// Whether the pass that wrote the parameter in this step has taken it in.
    taken: bool,
    /// A copy of the parameter on a device that does not reach it.
    staging: Option<Storage>,
}

/// Averages in a checkpoint.
const AVERAGE: &str = "average/";

impl Driver {
    /// Keeps an average of the weights, which every [`step`](crate::Optimizer::step) updates when it is done, whether
    /// it changed them or not: an iteration counts, as in MMEngine's `EMAHook`. It is kept in the type of the arithmetic,
    /// and of [master weights](crate::ParamFormat::Master) where there are some. It is saved and loaded with the rest.
    pub fn averaged(mut self, average: Average) -> Driver {
        self.averages = Some(Averages::new(average));
        self
    }

    /// The average of a parameter's weights, in row-major order; `None` where there is none (yet).
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn average(&self, param: &str) -> Result<Option<Vec<f64>>> {
        match self.slots.get(param) {
            Some(slot) => slot.read_average(&**self.near()),
            None => Ok(None),
        }
    }

    /// Takes the weights of bindings into the average. The slots are in their order.
    pub(super) fn average_in(&mut self, bindings: &mut [Binding<'_>]) -> Result<()> {
        if self.averages.is_none() {
            return Ok(());
        }
        let (near, away) = (Arc::clone(self.near()), self.is_away());
        let Some(averages) = &mut self.averages else { return Ok(()) };
        averages.take_in(self.builtins, (&near, away), self.slots.range(0..bindings.len()), bindings)
    }

    /// Counts an iteration.
    pub(super) fn count_average(&mut self) {
        if let Some(averages) = &mut self.averages {
            averages.count();
        }
    }

    /// Memory for the averages that are missing, side by side, so that nothing can go wrong after the step, and the
    /// scalars with which the step's own passes take in what they write.
    pub(super) fn make_means(&mut self, bindings: &[Binding<'_>]) -> Result<()> {
        if self.averages.is_none() {
            return Ok(());
        }
        let near = Arc::clone(self.near());
        let Some(averages) = &mut self.averages else { return Ok(()) };
        averages.make(self.builtins, &near, self.slots.range(0..bindings.len()))
    }

    /// Brings the averages of parameters that are on another device than states there.
    pub(super) fn move_means(&mut self, device: &Arc<dyn Backend>) -> Result<()> {
        for slot in self.slots.iter_mut() {
            if let Some(Mean { storage, begun, .. }) = slot.mean.take() {
                let tensor = Tensor::from_storage(&self.backend, storage, slot.shape.clone())?.to(device)?;
                slot.mean = Some(Mean { storage: tensor.into_storage(), begun, taken: false, staging: None });
            }
        }
        Ok(())
    }
}

impl Mean {
    /// The average, for a pass to take in what it writes to the parameter; none where there is nothing to add to yet.
    pub(super) fn take(&mut self) -> Option<View<'_>> {
        self.taken = self.begun;
        self.begun.then(|| View::write(&mut self.storage))
    }

    /// Undoes what [`take`](Mean::take) noted: the pass has written nothing.
    pub(super) fn untake(&mut self) {
        self.taken = false;
    }
}

impl Slot {
    /// The average of its weights, in row-major order; `None` where there is none (yet).
    pub(crate) fn read_average(&self, near: &dyn Backend) -> Result<Option<Vec<f64>>> {
        let Some(mean) = self.mean.as_ref().filter(|mean| mean.begun) else { return Ok(None) };
        let mut values = vec![0.0f64; mean.storage.len()];
        near.read(&mean.storage, values.as_mut_slice().into())?;
        Ok(Some(values))
    }
}

impl Averages {
    /// Before the first iteration.
    pub(crate) fn new(spec: Average) -> Averages {
        Averages { spec, steps: 0, row: Vec::new(), plans: BTreeMap::new() }
    }

    /// Counts an iteration.
    pub(crate) fn count(&mut self) {
        self.steps += 1;
    }

    /// Memory for the averages that are missing, side by side, and the scalars with which the step's own passes take in
    /// what they write.
    pub(crate) fn make(
        &mut self,
        builtins: &Builtins,
        near: &Arc<dyn Backend>,
        slots: &mut [Slot],
    ) -> Result<()> {
        self.row.clear();
        let Some(share) = self.spec.share(self.steps) else { return Ok(()) };
        let kernel = builtins.lerp();
        self.row.resize(1 + kernel.scalars.len(), 1.0);
        kernel.compute_scalars(&Share::of(&self.spec, share), 1, &mut self.row[1..]);
        slots.iter_mut().flat_map(|slot| &mut slot.mean).for_each(|mean| mean.taken = false);
        let missing: Vec<&mut Slot> = slots.iter_mut().filter(|slot| slot.mean.is_none()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let requests: Vec<_> =
            missing.iter().map(|slot| (slot.compute.format(), slot.shape.elements())).collect();
        for (slot, storage) in missing.into_iter().zip(near.allocate(&requests)?) {
            slot.mean = Some(Mean { storage, begun: false, taken: false, staging: None });
        }
        Ok(())
    }

    /// The rule that takes in what a step writes, with its scalars, where it is time for it.
    pub(super) fn rule(&self, builtins: &Builtins) -> Option<(&'static Kernel, &[f64])> {
        (!self.row.is_empty()).then(|| (builtins.lerp(), &self.row[..]))
    }

    /// Takes in the weights of bindings that no pass of the step has taken in; the slots are in their order. Of a parameter
    /// that is `away`, on another device than its states, what is on the device is averaged.
    pub(crate) fn take_in(
        &mut self,
        builtins: &Builtins,
        (backend, away): (&Arc<dyn Backend>, bool),
        slots: &mut [Slot],
        bindings: &mut [Binding<'_>],
    ) -> Result<()> {
        let Some(share) = self.spec.share(self.steps) else { return Ok(()) };
        // A copy is no arithmetic, so that an infinity is copied too.
        let (copy, lerp) = (builtins.param_copy(), builtins.lerp());
        let master = |slot: &Slot| !away && slot.master.is_some();
        let left = |slot: &Slot| slot.mean.as_ref().is_some_and(|mean| !mean.taken);
        for (slot, binding) in slots.iter_mut().zip(&mut *bindings).filter(|(slot, _)| left(slot)) {
            #[cfg(feature = "ndarray")]
            if let crate::ParamRef::Strided(view) = &mut binding.param {
                view.gather();
            }
            if !backend.reaches_host() && !master(slot) {
                stage(&**backend, slot, binding)?;
            }
        }
        for (compute, begun) in [Compute::F32, Compute::F64].into_iter().flat_map(|c| [(c, false), (c, true)])
        {
            let is = |mean: &Mean| !mean.taken && mean.begun == begun;
            let fits = |slot: &Slot| slot.compute == compute && slot.mean.as_ref().is_some_and(is);
            if !slots.iter().any(fits) {
                continue;
            }
            let kernel = if begun { lerp } else { copy };
            let mut row = vec![1.0; 1 + kernel.scalars.len()];
            if begun {
                kernel.compute_scalars(&Share::of(&self.spec, share), 1, &mut row[1..]);
            }
            let mut left = slots.iter_mut().zip(&mut *bindings).filter(|(slot, _)| fits(slot));
            let plan = self.plans.entry((kernel.name, compute == Compute::F64));
            backend.run(Pass {
                kernel,
                compute,
                tensors: &mut |views| {
                    let (slot, binding) = left.next()?;
                    let mean = slot.mean.as_mut()?;
                    // The parameter in single precision is what is trained, where there is one.
                    let whole = slot.master.as_ref().filter(|_| !away);
                    let param = whole.or(mean.staging.as_ref()).map(View::read);
                    // In both rules what is written comes first.
                    views[0] = Some(View::write(&mut mean.storage));
                    views[1] = Some(param.unwrap_or_else(|| binding.param.view()));
                    Some(TensorPass { elements: slot.shape.elements(), row: 0 })
                },
                rows: &row,
                tensor_scalars: &[],
                plan: plan.or_insert_with(|| backend.plan()),
                sums: &mut [],
                beside: &[],
            })?;
        }
        slots.iter_mut().flat_map(|slot| &mut slot.mean).for_each(|mean| mean.begun = true);
        Ok(())
    }

    /// What they depend on, in a line.
    pub(super) fn write_settings(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "{:?} after {} iterations", self.spec, self.steps)
    }

    /// Adds them to a checkpoint.
    pub(crate) fn save<'s>(
        &self,
        near: &dyn Backend,
        slots: impl Iterator<Item = &'s Slot>,
        checkpoint: &mut Checkpoint,
    ) -> Result<()> {
        for slot in slots {
            if let Some(mean) = slot.mean.as_ref().filter(|mean| mean.begun) {
                let entry = Entry::from_storage(near, &mean.storage, slot.shape.clone())?;
                checkpoint.insert(format!("{AVERAGE}{}", slot.name), entry);
            }
        }
        checkpoint.manifest.average_steps = Some(self.steps);
        Ok(())
    }

    /// What they are after a load, in the slots of the checkpoint. A checkpoint without any begins them anew.
    pub(crate) fn loaded(
        &self,
        near: &Arc<dyn Backend>,
        checkpoint: &Checkpoint,
        slots: &mut Slots,
        (options, report): (&LoadOptions, &mut LoadReport),
    ) -> Result<Averages> {
        for (name, entry) in checkpoint.below(AVERAGE) {
            let Some(slot) = slots.get_mut(name) else {
                if options.lenient {
                    continue;
                }
                return Err(Error::Mismatch(format!("{AVERAGE}{name} is of an unknown parameter")));
            };
            let key = format!("{AVERAGE}{name}");
            let fits = (slot.compute.format(), &slot.shape);
            let (storage, converted) = entry.load(&**near, &key, fits, options.converting)?;
            report.converted += usize::from(converted);
            slot.mean = Some(Mean { storage, begun: true, taken: false, staging: None });
        }
        let steps = checkpoint.manifest.average_steps.unwrap_or(0);
        Ok(Averages { spec: self.spec, steps, row: Vec::new(), plans: BTreeMap::new() })
    }
}

/// Copies a parameter to the device, where it is the host's.
fn stage(backend: &dyn Backend, slot: &mut Slot, binding: &mut Binding<'_>) -> Result<()> {
    let (Some(mean), Some(slice)) = (&mut slot.mean, binding.param.host()) else { return Ok(()) };
    let fits = |storage: &Storage| storage.format() == slice.format() && storage.len() == slice.len();
    if !mean.staging.as_ref().is_some_and(fits) {
        mean.staging = backend.allocate(&[(slice.format(), slice.len())])?.pop();
    }
    if let Some(storage) = &mut mean.staging {
        backend.write(storage, slice.as_ref())?;
    }
    Ok(())
}
