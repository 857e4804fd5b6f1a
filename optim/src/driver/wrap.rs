//! A step with a [`Wrapper`] around it: accumulation, clipping, loss scaling.

use super::Driver;
use super::around::Forming;
use super::finite::NonFinite;
use super::steps::Given;
use crate::binding::WindowGrad;
use crate::builtins::{Limit, Unscale, clipping};
use crate::checkpoint::{Checkpoint, Entry, LoadOptions};
use crate::op::queue_of;
use crate::report::Reported;
use crate::slots::Slots;
use crate::wrapper::{Clip, SavedScaler, Wrapper};
use crate::{Binding, Error, GradRef, LoadReport, Result, Skipped, StepReport};
use fallline_core::backend::{Pass, Plan, Queued, TensorPass, View};
use fallline_core::{Backend, Compute, Kernel, Storage, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// A wrapper at work.
#[derive(Default)]
pub(super) struct Wrapped {
    pub(super) config: Wrapper,
    /// Iterations so far.
    done: u64,
    /// The gradient of each parameter that has had one in a window.
    sums: BTreeMap<String, Sum>,
    plans: BTreeMap<(&'static str, bool), Plan>,
}

/// A parameter's gradient in the window.
struct Sum {
    tensor: Tensor,
    /// Whether there was a gradient since the window began.
    begun: bool,
    /// Whether there is nothing in it yet: the step's own pass begins it.
    blank: bool,
    /// A copy of the trainer's gradient on a device that does not reach it.
    staging: Option<Storage>,
}

/// What a checkpoint keeps of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedWrapper {
    /// Iterations so far.
    done: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scaler: Option<SavedScaler>,
}

/// Where the sums of a pass over a window's gradients go.
enum To<'p> {
    /// To the host.
    Host(&'p mut [f64]),
    /// They stay on the device, with this plan.
    Device(&'p mut Plan),
}

/// Gradients of a window in a checkpoint.
const WINDOW: &str = "window/";

impl Driver {
    /// Puts a wrapper around steps: accumulation of gradients, clipping, loss scaling.
    pub fn wrapped(mut self, wrapper: Wrapper) -> Driver {
        self.wrapped.config = wrapper;
        self
    }

    /// The wrapper around steps.
    pub fn wrapper(&self) -> &Wrapper {
        &self.wrapped.config
    }

    /// Says how many iterations training has, so that the last window of accumulation is closed in time.
    pub fn set_iterations(&mut self, total: Option<u64>) {
        self.wrapped.config.accumulate.total = total;
    }

    /// What the trainer multiplies the loss by before it computes gradients: the loss scale, 1 without one.
    pub fn loss_scale(&self) -> f64 {
        self.wrapped.config.scaler.as_ref().map_or(1.0, |scaler| scaler.scale())
    }

    /// A step with the wrapper around it.
    pub(super) fn step_wrapped(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        if !self.wrapped.config.buffers() {
            return self.step_checked(bindings, Given::Raw, true);
        }
        if let Some(binding) = bindings.iter().find(|binding| binding.grad.as_rows().is_some()) {
            let reason = "accumulation and clipping by value do not take row-sparse gradients";
            return Err(Error::GradKind { param: binding.name.to_owned(), reason: reason.into() });
        }
        self.agree(bindings)?;
        self.prepare(bindings)?;
        self.check_expected()?;
        self.make_means(bindings)?;
        let mut wrapped = core::mem::take(&mut self.wrapped);
        let stepped = wrapped.iterate(self, bindings);
        let Wrapped { config, .. } = core::mem::take(&mut self.wrapped);
        // The step itself may have changed the loss scale.
        wrapped.config = config;
        self.wrapped = wrapped;
        stepped
    }

    /// Whether the gradients of a step are looked at before it.
    fn looks(&self) -> bool {
        let Wrapper { clip, scaler, .. } = &self.wrapped.config;
        let by_norm = matches!(clip, Some(Clip::Norm { .. }));
        scaler.is_some() || by_norm || self.non_finite != NonFinite::Propagate
    }

    /// Looks at the gradients of a step as far as the policy for NaN and infinity, the loss scale and clipping
    /// need it. Returns their factor, or none where the step is to be skipped.
    pub(super) fn judge(
        &mut self,
        bindings: &[Binding<'_>],
        given: Given,
        report: &mut StepReport,
    ) -> Result<Option<f64>> {
        let Wrapper { clip, scaler, .. } = &self.wrapped.config;
        let (clip, scaled) = (clip.filter(|_| given == Given::Raw), scaler.is_some());
        let inverse = scaler.as_ref().map_or(1.0, |scaler| scaler.inverse());
        report.loss_scale = scaler.as_ref().map(|scaler| scaler.scale());
        let by_norm = matches!(clip, Some(Clip::Norm { .. }));
        if !(scaled || by_norm || self.non_finite != NonFinite::Propagate) {
            return Ok(Some(inverse));
        }
        self.clipping = None;
        if by_norm && let Some([norm, factor]) = self.clip_on_device(bindings)? {
            (report.norm, report.clipped) = (Some(norm), Some(factor));
            return Ok(Some(1.0));
        }
        let (mut euclidean, bad) = self.look_at_grads(bindings, inverse)?;
        let bad = self.found_by_any(bindings, bad)?;
        if bad.is_some() && euclidean.is_finite() {
            // Another rank's are not.
            euclidean = f64::NAN;
        }
        report.norm = Some(Reported::Known(euclidean));
        let mut factor = 1.0;
        if let Some(Clip::Norm { max_norm, norm_type, error_if_nonfinite }) = clip {
            let found = match norm_type == 2.0 || euclidean.is_nan() {
                true => euclidean,
                false => self.norm_of_grads(bindings, norm_type, inverse)?,
            };
            report.norm = Some(Reported::Known(found));
            if error_if_nonfinite && !found.is_finite() {
                return Err(Error::Norm { norm: found });
            }
            factor = clipping(found, max_norm);
            report.clipped = Some(Reported::Known(factor));
        }
        match bad {
            Some((param, count)) if scaled || self.non_finite == NonFinite::Skip => {
                report.skipped = Some(Skipped::NonFinite { param, count });
                report.clipped = None;
                if let (Some(scaler), Given::Raw) = (&mut self.wrapped.config.scaler, given) {
                    scaler.update(true);
                }
                Ok(None)
            }
            Some((param, count)) if self.non_finite == NonFinite::Error => {
                Err(Error::NonFinite { param, count })
            }
            _ => Ok(Some(inverse * factor)),
        }
    }

    /// What the first rank has found that has found something, where ranks look at gradients of their own: the name of
    /// a parameter and how many of its numbers are not finite.
    fn found_by_any(
        &self,
        bindings: &[Binding<'_>],
        own: Option<(String, u64)>,
    ) -> Result<Option<(String, u64)>> {
        let Some(world) = self.world.as_ref().filter(|_| self.finds_alone()) else { return Ok(own) };
        let place = |name: &str| bindings.iter().position(|binding| binding.name == name);
        let found = own.and_then(|(name, count)| Some([place(&name)? as u64, count]));
        let all = world.findings(found.unwrap_or([0, 0]))?;
        let first = all.into_iter().find(|[_, count]| *count > 0);
        Ok(first.and_then(|[place, count]| Some((bindings.get(place as usize)?.name.to_owned(), count))))
    }
}

impl Wrapped {
    /// Whether a step is what the optimizer does alone.
    pub(super) fn is_plain(&self) -> bool {
        self.config.is_plain()
    }

    /// Brings the window's gradients to another device.
    pub(super) fn move_to(&mut self, device: &Arc<dyn Backend>) -> Result<()> {
        self.plans.clear();
        for sum in self.sums.values_mut() {
            (sum.tensor, sum.staging) = (sum.tensor.to(device)?, None);
        }
        Ok(())
    }

    /// What goes on around a step, in a line.
    pub(super) fn write_settings(&self, text: &mut String) -> std::fmt::Result {
        if self.is_plain() {
            return Ok(());
        }
        writeln!(text, "{:?} after {} iterations", self.config, self.done)
    }

    /// Takes in that an optimizer has stepped.
    pub(super) fn stepped(&mut self) {
        if let Some(scaler) = &mut self.config.scaler {
            scaler.update(false);
        }
    }

    /// One iteration over bindings that are checked.
    fn iterate(&mut self, driver: &mut Driver, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        // The driver keeps what it judges by.
        driver.wrapped.config = self.config.clone();
        let accumulate = self.config.accumulate;
        let window = accumulate.window(self.done);
        let closes = accumulate.closes(self.done + 1);
        if closes {
            let bound = |name: &str| bindings.iter().any(|binding| binding.name == name);
            if let Some((name, _)) = self.sums.iter().find(|(name, sum)| sum.begun && !bound(name)) {
                return Err(Error::Unbound { param: name.clone() });
            }
        }
        self.make_room(driver, bindings)?;
        let share = 1.0 / window as f64;
        driver.look.done = false;
        // What nothing looks at before the step is formed in its own passes, if they can.
        let formed = closes && driver.forms_gradients();
        let added = formed && !driver.looks();
        if added {
            self.sums.values_mut().for_each(|sum| sum.blank = !sum.begun);
        } else if closes && driver.looks() && self.all_go_on(bindings) && !driver.looks_on_device(bindings) {
            self.add_and_look(driver, bindings, share)?;
        } else {
            let rules = driver.builtins;
            for (begun, kernel) in [(false, rules.start_sum()), (true, rules.add_to_sum())] {
                for compute in [Compute::F32, Compute::F64] {
                    self.add(driver, bindings, (begun, compute), (kernel, &[share]), To::Host(&mut []))?;
                }
            }
        }
        for binding in bindings.iter().filter(|binding| !binding.grad.is_none()) {
            if let Some(sum) = self.sums.get_mut(binding.name) {
                sum.begun = true;
            }
        }
        self.done += 1;
        if !closes {
            let done = match self.done % accumulate.counts {
                0 => accumulate.counts,
                done => done,
            };
            let without_grad = bindings.iter().filter(|binding| binding.grad.is_none()).count();
            let report = StepReport { without_grad, ..StepReport::default() };
            return Ok(StepReport { accumulated: Some((done, window)), ..report });
        }
        let stepped = self.close(driver, bindings, (formed, added.then_some(share)));
        // Whatever came of it: the window is over.
        self.sums.values_mut().for_each(|sum| sum.begun = false);
        stepped
    }

    /// The step that ends a window. Its own passes limit the gradients if they are `formed` there, and add the trainer's
    /// with their `share` first where there is one.
    fn close(
        &mut self,
        driver: &mut Driver,
        bindings: &mut [Binding<'_>],
        (formed, share): (bool, Option<f64>),
    ) -> Result<StepReport> {
        let mut report = StepReport::default();
        // Copies of the trainer's gradients, from steps before there was a wrapper, are not these.
        for slot in driver.slots.range(0..bindings.len()) {
            slot.mirror.as_mut().into_iter().for_each(|mirror| mirror.grad = None);
        }
        let factor = driver.judge(&rebound(bindings, &mut self.sums, false), Given::Raw, &mut report)?;
        let Some(mut factor) = factor else {
            report.without_grad = bindings.iter().filter(|b| !self.has_sum(b.name)).count();
            return Ok(report);
        };
        let mut limit = None;
        if let Some(Clip::Value { clip_value }) = self.config.clip {
            limit = Some(Limit { scale: factor, most: clip_value });
            factor = 1.0;
        }
        if let Some(limit) = limit.take_if(|_| !formed) {
            self.clamp(driver, &limit)?;
        }
        if limit.is_some() || share.is_some() {
            driver.forming = Some(Forming::new(driver.builtins, share.unwrap_or(1.0), limit.as_ref()));
        }
        let mut bindings = rebound(bindings, &mut self.sums, share.is_some());
        let stepped = driver.step_checked(&mut bindings, Given::Judged(factor), true);
        driver.forming = None;
        let stepped = stepped?;
        let StepReport { norm, clipped, loss_scale, .. } = report;
        Ok(StepReport { norm, clipped, loss_scale, ..stepped })
    }

    fn has_sum(&self, name: &str) -> bool {
        self.sums.get(name).is_some_and(|sum| sum.begun)
    }

    /// Allocates the sums that are missing, side by side.
    fn make_room(&mut self, driver: &mut Driver, bindings: &[Binding<'_>]) -> Result<()> {
        let slots = driver.slots.range_of(0..bindings.len());
        let new = |i: &usize| !bindings[*i].grad.is_none() && !self.sums.contains_key(bindings[*i].name);
        let missing: Vec<usize> = (0..bindings.len()).filter(new).collect();
        if !missing.is_empty() {
            let kind = |&i: &usize| (slots[i].compute.format(), slots[i].shape.elements());
            let requests: Vec<_> = missing.iter().map(kind).collect();
            for (i, storage) in missing.into_iter().zip(driver.near().allocate(&requests)?) {
                let tensor = Tensor::from_storage(driver.near(), storage, slots[i].shape.clone())?;
                let sum = Sum { tensor, begun: false, blank: true, staging: None };
                self.sums.insert(bindings[i].name.to_owned(), sum);
            }
        }
        if driver.near().reaches_host() {
            return Ok(());
        }
        for binding in bindings {
            let Some(sum) = self.sums.get_mut(binding.name) else { continue };
            let slice = match &binding.grad {
                GradRef::Host(slice, _) => *slice,
                #[cfg(feature = "ndarray")]
                GradRef::Strided(view) => view.buffer(),
                _ => {
                    sum.staging = None;
                    continue;
                }
            };
            let fits = |storage: &Storage| storage.format() == slice.format() && storage.len() == slice.len();
            if !sum.staging.as_ref().is_some_and(fits) {
                sum.staging = driver.near().allocate(&[(slice.format(), slice.len())])?.pop();
            }
            if let Some(storage) = &mut sum.staging {
                driver.near().write(storage, slice)?;
            }
        }
        Ok(())
    }

    /// Whether every gradient is added to one that is there, and to each of those one.
    fn all_go_on(&self, bindings: &[Binding<'_>]) -> bool {
        let given = || bindings.iter().filter(|binding| !binding.grad.is_none());
        let begun = self.sums.values().filter(|sum| sum.begun).count();
        given().all(|binding| self.has_sum(binding.name)) && given().count() == begun
    }

    /// Adds the last gradients of a window, and looks at what comes of it on the way.
    fn add_and_look(&mut self, driver: &mut Driver, bindings: &[Binding<'_>], share: f64) -> Result<()> {
        let kernel = driver.builtins.add_and_look();
        let scale = self.config.scaler.as_ref().map_or(1.0, |scaler| scaler.inverse());
        let mut row = vec![share; 1 + kernel.scalars.len()];
        kernel.compute_scalars(&Unscale { scale }, 1, &mut row[1..]);
        if let Some((compute, mut plan)) = driver.looks_on_the_way(bindings) {
            let added = self.add(driver, bindings, (true, compute), (kernel, &row), To::Device(&mut plan));
            driver.has_looked(plan, added.is_ok());
            return added;
        }
        let formats: Vec<_> = self.sums.values().filter(|s| s.begun).map(|s| s.tensor.format()).collect();
        let mut all = vec![[0.0; 2]; formats.len()];
        for compute in [Compute::F32, Compute::F64] {
            let of_compute = || formats.iter().filter(|format| **format == compute.format());
            let mut found = vec![0.0; of_compute().count() * kernel.sums.len()];
            self.add(driver, bindings, (true, compute), (kernel, &row), To::Host(&mut found))?;
            let places = all.iter_mut().zip(&formats).filter(|(_, format)| **format == compute.format());
            for ((place, _), sums) in places.zip(found.chunks_exact(2)) {
                *place = [sums[0], sums[1]];
            }
        }
        // The sums are sorted by name, as is what is found.
        (driver.look.found, driver.look.done) = (all, true);
        Ok(())
    }

    /// Runs a rule over gradients of a compute type and the sums that have `begun`, or those that have not.
    fn add(
        &mut self,
        driver: &Driver,
        bindings: &[Binding<'_>],
        (begun, compute): (bool, Compute),
        (kernel, rows): (&'static Kernel, &[f64]),
        to: To<'_>,
    ) -> Result<()> {
        // The sums are sorted by name, so that one walk over them suffices when the gradients are too.
        let given = bindings.iter().filter(|binding| !binding.grad.is_none());
        let mut grads: BTreeMap<&str, &Binding<'_>> = given.map(|binding| (binding.name, binding)).collect();
        let mut sums = self.sums.iter_mut().filter_map(|(name, sum)| {
            let fits = sum.begun == begun && sum.tensor.format() == compute.format();
            Some((sum, grads.remove(&**name).filter(|_| fits)?))
        });
        let entry = self.plans.entry((kernel.name, compute == Compute::F64));
        let (plan, found, queued) = match to {
            To::Host(found) => (entry.or_insert_with(|| driver.near().plan()), found, None),
            To::Device(plan) => (plan, &mut [][..], Some(Queued::default())),
        };
        let pass = Pass {
            kernel,
            compute,
            tensors: &mut |views| {
                let (sum, binding) = sums.next()?;
                let elements = sum.tensor.shape().elements();
                let grad = sum.staging.as_ref().map(View::read).or_else(|| binding.grad.view());
                views[place_of(kernel, true)] = grad;
                views[place_of(kernel, false)] = Some(View::write(sum.tensor.storage_mut()));
                Some(TensorPass { elements, row: 0 })
            },
            rows,
            tensor_scalars: &[],
            plan,
            sums: found,
            beside: &[],
        };
        match queued {
            Some(queued) => queue_of(&**driver.near())?.run_queued(pass, queued)?,
            None => driver.near().run(pass)?,
        }
        Ok(())
    }

    /// Limits the elements of the sums.
    fn clamp(&mut self, driver: &Driver, limit: &Limit) -> Result<()> {
        let kernel = driver.builtins.clamp_sum();
        let row = limit.row(kernel);
        for compute in [Compute::F32, Compute::F64] {
            let fits = |sum: &&mut Sum| sum.begun && sum.tensor.format() == compute.format();
            let mut sums = self.sums.values_mut().filter(fits);
            let plan = self.plans.entry((kernel.name, compute == Compute::F64));
            driver.near().run(Pass {
                kernel,
                compute,
                tensors: &mut |views| {
                    let sum = sums.next()?;
                    let elements = sum.tensor.shape().elements();
                    views[0] = Some(View::write(sum.tensor.storage_mut()));
                    Some(TensorPass { elements, row: 0 })
                },
                rows: &row,
                tensor_scalars: &[],
                plan: plan.or_insert_with(|| driver.near().plan()),
                sums: &mut [],
                beside: &[],
            })?;
        }
        Ok(())
    }

    /// Adds what a checkpoint keeps of it.
    pub(super) fn save(&self, driver: &Driver, checkpoint: &mut Checkpoint) -> Result<()> {
        if self.config.is_plain() {
            return Ok(());
        }
        for (name, sum) in self.sums.iter().filter(|(_, sum)| sum.begun) {
            if driver.slots.get(name).is_some_and(|slot| !driver.keeps(slot)) {
                continue;
            }
            let entry =
                Entry::from_storage(&**driver.near(), sum.tensor.storage(), sum.tensor.shape().clone())?;
            checkpoint.insert(format!("{WINDOW}{name}"), entry);
        }
        let scaler = self.config.scaler.as_ref().map(|scaler| scaler.save());
        checkpoint.manifest.wrapper = Some(SavedWrapper { done: self.done, scaler });
        Ok(())
    }

    /// What it is after a load, with the slots of the checkpoint.
    pub(super) fn loaded(
        &self,
        driver: &Driver,
        checkpoint: &Checkpoint,
        slots: &Slots,
        (options, report): (&LoadOptions, &mut LoadReport),
    ) -> Result<Wrapped> {
        let mut loaded = Wrapped { config: self.config.clone(), ..Wrapped::default() };
        let Some(saved) = &checkpoint.manifest.wrapper else { return Ok(loaded) };
        loaded.done = saved.done;
        if let (Some(scaler), Some(saved)) = (&mut loaded.config.scaler, &saved.scaler) {
            scaler.load(saved).map_err(Error::Mismatch)?;
        }
        for (name, entry) in checkpoint.below(WINDOW) {
            let slot = slots.get(name).filter(|_| self.config.buffers());
            let Some(slot) = slot else {
                if options.lenient {
                    report.unexpected.push(format!("{WINDOW}{name}"));
                    continue;
                }
                let problem = match self.config.buffers() {
                    true => "is of an unknown parameter",
                    false => "is of a window of accumulation, and this optimizer has none",
                };
                return Err(Error::Mismatch(format!("{WINDOW}{name} {problem}")));
            };
            let (key, fits) = (format!("{WINDOW}{name}"), (slot.compute.format(), &slot.shape));
            let (storage, converted) = entry.load(&**driver.near(), &key, fits, options.converting)?;
            report.converted += usize::from(converted);
            let tensor = Tensor::from_storage(driver.near(), storage, slot.shape.clone())?;
            loaded.sums.insert(name.to_owned(), Sum { tensor, begun: true, blank: false, staging: None });
        }
        Ok(loaded)
    }
}

/// The place of a rule's gradient, or of its sum.
fn place_of(kernel: &Kernel, grad: bool) -> usize {
    let is = |role| (role == fallline_core::Role::Grad) == grad;
    kernel.operands.iter().position(|operand| is(operand.role)).unwrap_or(0)
}

/// The same parameters with the window's gradients, and with the trainer's where those are still to be added.
fn rebound<'s>(
    bindings: &'s mut [Binding<'_>],
    sums: &'s mut BTreeMap<String, Sum>,
    adds: bool,
) -> Vec<Binding<'s>> {
    let mut sums: BTreeMap<&str, &mut Sum> = sums.iter_mut().map(|(name, sum)| (&**name, sum)).collect();
    let each = bindings.iter_mut().map(|Binding { name, param, grad, kind }| {
        let sum = sums.remove(name).filter(|sum| sum.begun);
        let grad = sum.map_or(GradRef::None, |Sum { tensor, blank, staging, .. }| {
            let given = adds && !grad.is_none();
            let new = staging.as_ref().map(View::read).or_else(|| grad.view()).filter(|_| given);
            let (start, add) = if *blank { (new, None) } else { (None, new) };
            GradRef::Window(WindowGrad { sum: tensor, start, add })
        });
        Binding { name, param: param.reborrow(), grad, kind: *kind }
    });
    each.collect()
}
