//! Gradient accumulation: gradients of several iterations are added up, and step together.

mod incremental;
#[cfg(feature = "checkpoints")]
mod persist;

use super::Gradients;
use super::views::Grads;
use crate::binding::{NewGrad, WindowGrad};
use crate::engine::Engine;
use crate::engine::fusion::GradPrologue;
use crate::gradient_config::{Clip, GradientConfig};
use crate::map::map_of;
use crate::op::queue_of;
use crate::{Binding, Error, GradRef, Result, StepReport};
use fallline_core::backend::{Pass, Plan, Queued, TensorPass, View};
use fallline_core::builtins::{ClampRange, Unscale};
use fallline_core::{Backend, Compute, Kernel, Storage, Tensor};
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;

/// The gradients of a window of iterations.
#[derive(Default)]
pub(crate) struct Window {
    /// Iterations so far.
    done: u64,
    /// The gradient of each parameter that has had one in a window.
    sums: BTreeMap<String, Sum>,
    plans: BTreeMap<(&'static str, bool), Plan>,
}

/// A parameter's gradient in the window.
pub(crate) struct Sum {
    tensor: Tensor,
    /// Whether there was a gradient since the window began.
    has_value: bool,
    /// Whether there is nothing in it yet: the step's pass begins it.
    is_empty: bool,
    /// A copy of the training loop's gradient on a device that does not reach it.
    staging: Option<Storage>,
}

/// What an iteration comes to.
pub(crate) enum Iteration {
    /// The window continues.
    Open(StepReport),
    /// The window is full, and its gradients step.
    Full(Closing),
}

/// How the gradients of a full window step; by default they are there as they step.
#[derive(Clone, Copy, Default)]
pub(crate) struct Closing {
    /// Whether the step's own passes form the gradients: they clamp them.
    formed: bool,
    /// The weight of the training loop's gradients, where the step's own passes add them.
    weight: Option<f64>,
}

/// Where the sums of a pass over a window's gradients are written.
enum To<'p> {
    /// To the host.
    Host(&'p mut [f64]),
    /// They stay on the device, with this plan.
    Device(&'p mut Plan),
}

/// Checks that gradients can be kept in buffers.
///
/// # Errors
/// A row-sparse gradient.
pub(crate) fn check_dense(bindings: &[Binding<'_>]) -> Result<()> {
    match bindings.iter().find(|binding| binding.grad.as_rows().is_some()) {
        None => Ok(()),
        Some(binding) => {
            let reason = "accumulation and clipping by value do not take row-sparse gradients";
            Err(Error::GradKind { param: binding.name.to_owned(), reason: reason.into() })
        }
    }
}

impl Window {
    /// Moves the gradients to another device.
    ///
    /// # Errors
    /// When a device fails.
    pub(crate) fn move_to(&mut self, device: &Arc<dyn Backend>) -> Result<()> {
        self.plans.clear();
        for sum in self.sums.values_mut() {
            (sum.tensor, sum.staging) = (sum.tensor.to(device)?, None);
        }
        Ok(())
    }

    /// Writes what a step depends on of it, in a line.
    pub(crate) fn fingerprint(&self, config: &GradientConfig, text: &mut String) -> fmt::Result {
        if config.is_plain() {
            return Ok(());
        }
        writeln!(text, "{config:?} after {} iterations", self.done)
    }

    /// Runs one iteration over bindings that are prepared. `begun` is set as soon as gradients may have been added to what
    /// is there: a second try would add them again.
    ///
    /// # Errors
    /// A parameter with a gradient in a window that closes without it; when a device fails.
    pub(crate) fn accumulate(
        &mut self,
        engine: &mut Engine,
        gradients: &mut Gradients,
        bindings: &[Binding<'_>],
        begun: &mut bool,
    ) -> Result<Iteration> {
        let accumulate = gradients.config.accumulate;
        let window = accumulate.window(self.done);
        let closes = self.is_last_micro_step(&gradients.config);
        if closes {
            self.check_bound(|name| bindings.iter().any(|binding| binding.name == name))?;
        }
        self.allocate(engine, bindings)?;
        let weight = 1.0 / window as f64;
        gradients.stats.done = false;
        let grads = Grads { slots: engine.slots.range_of(0..bindings.len()), bindings };
        // What nothing inspects before the step is formed in its own passes, if they can.
        let formed = closes && engine.can_fuse_gradients();
        let added = formed && !gradients.needs_stats();
        if added {
            self.sums.values_mut().for_each(|sum| sum.is_empty = !sum.has_value);
        } else if closes
            && gradients.needs_stats()
            && self.all_go_on(bindings)
            && !gradients.has_passes_of_norm(engine, grads)
        {
            self.add_with_stats(engine, gradients, (grads, weight), begun)?;
        } else {
            let rules = engine.setup.builtins;
            for (has_value, kernel) in [(false, rules.start_sum()), (true, rules.add_to_sum())] {
                for compute in [Compute::F32, Compute::F64] {
                    let (sums, rule) = ((has_value, compute), (kernel, &[weight][..]));
                    self.add(engine, bindings, sums, rule, To::Host(&mut []), begun)?;
                }
            }
        }
        for binding in bindings.iter().filter(|binding| !binding.grad.is_none()) {
            if let Some(sum) = self.sums.get_mut(binding.name) {
                sum.has_value = true;
            }
        }
        if let Some(accumulated) = self.count(&gradients.config) {
            let without_grad = bindings.iter().filter(|binding| binding.grad.is_none()).count();
            let report = StepReport { without_grad, ..StepReport::default() };
            return Ok(Iteration::Open(StepReport { accumulated: Some(accumulated), ..report }));
        }
        // Copies of the training loop's gradients, from steps before there was a window, are not these.
        for slot in engine.slots.range(0..bindings.len()) {
            slot.staging.as_mut().into_iter().for_each(|staging| staging.grad = None);
        }
        Ok(Iteration::Full(Closing { formed, weight: added.then_some(weight) }))
    }

    /// Returns whether the iteration that is under way closes a window.
    pub(crate) fn is_last_micro_step(&self, config: &GradientConfig) -> bool {
        config.accumulate.is_last_micro_step(self.done + 1)
    }

    /// Checks that every parameter with an accumulated gradient is bound, before a window closes.
    fn check_bound(&self, bound: impl Fn(&str) -> bool) -> Result<()> {
        match self.sums.iter().find(|(name, sum)| sum.has_value && !bound(name)) {
            None => Ok(()),
            Some((name, _)) => Err(Error::Unbound { param: name.clone() }),
        }
    }

    /// Counts an iteration. Returns how many the window has, done and altogether, unless it is full.
    fn count(&mut self, config: &GradientConfig) -> Option<(u64, u64)> {
        let (window, closes) = (config.accumulate.window(self.done), self.is_last_micro_step(config));
        self.done += 1;
        let done = match self.done % config.accumulate.accumulation_steps {
            0 => config.accumulate.accumulation_steps,
            done => done,
        };
        (!closes).then_some((done, window))
    }

    /// Returns the parameters with the gradients of a window, to be inspected before its step.
    pub(crate) fn rebound<'s>(&'s mut self, bindings: &'s mut [Binding<'_>]) -> Vec<Binding<'s>> {
        rebound(bindings, &mut self.sums, false)
    }

    /// Returns what the step's own passes do to the gradients of a full window, and the rest of `factor`: elements
    /// are clamped first.
    ///
    /// # Errors
    /// When a device fails.
    pub(crate) fn prologue(
        &mut self,
        engine: &Engine,
        gradients: &Gradients,
        Closing { formed, weight }: Closing,
        mut factor: f64,
    ) -> Result<(Option<GradPrologue>, f64)> {
        let mut limit = None;
        if let Some(Clip::Value { clip_value }) = gradients.config.clip {
            limit = Some(ClampRange { scale: factor, max: clip_value });
            factor = 1.0;
        }
        if let Some(limit) = limit.take_if(|_| !formed) {
            self.clamp(engine, &limit)?;
        }
        let rules = engine.setup.builtins;
        let forms = limit.is_some() || weight.is_some();
        let prologue = forms.then(|| GradPrologue::new(rules, weight.unwrap_or(1.0), limit.as_ref()));
        Ok((prologue, factor))
    }

    /// Returns the parameters with the gradients of a full window, and with the training loop's where the step's own
    /// passes add them.
    pub(crate) fn closing<'s>(
        &'s mut self,
        bindings: &'s mut [Binding<'_>],
        closing: Closing,
    ) -> Vec<Binding<'s>> {
        rebound(bindings, &mut self.sums, closing.weight.is_some())
    }

    /// Ends the window, whatever came of it.
    pub(crate) fn end(&mut self) {
        self.sums.values_mut().for_each(|sum| sum.has_value = false);
    }

    /// Returns whether a parameter has a gradient in the window.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.sums.get(name).is_some_and(|sum| sum.has_value)
    }

    /// Allocates the sums that are missing, side by side.
    fn allocate(&mut self, engine: &Engine, bindings: &[Binding<'_>]) -> Result<()> {
        let backend = engine.setup.param_backend();
        let slots = engine.slots.range_of(0..bindings.len());
        let new = |i: &usize| !bindings[*i].grad.is_none() && !self.sums.contains_key(bindings[*i].name);
        let missing: Vec<usize> = (0..bindings.len()).filter(new).collect();
        if !missing.is_empty() {
            let kind = |&i: &usize| (slots[i].compute.format(), slots[i].shape.elements());
            let requests: Vec<_> = missing.iter().map(kind).collect();
            for (i, storage) in missing.into_iter().zip(backend.allocate(&requests)?) {
                let tensor = Tensor::from_storage(backend, storage, slots[i].shape.clone())?;
                let sum = Sum { tensor, has_value: false, is_empty: true, staging: None };
                self.sums.insert(bindings[i].name.to_owned(), sum);
            }
        }
        if backend.is_host_accessible() {
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
                sum.staging = backend.allocate(&[(slice.format(), slice.len())])?.pop();
            }
            if let Some(storage) = &mut sum.staging {
                backend.write(storage, slice)?;
            }
        }
        Ok(())
    }

    /// Returns whether every gradient is added to one that is there, and to each of those one.
    fn all_go_on(&self, bindings: &[Binding<'_>]) -> bool {
        let given = || bindings.iter().filter(|binding| !binding.grad.is_none());
        let begun = self.sums.values().filter(|sum| sum.has_value).count();
        given().all(|binding| self.has(binding.name)) && given().count() == begun
    }

    /// Adds the last gradients of a window, and inspects the results in the same pass.
    fn add_with_stats(
        &mut self,
        engine: &Engine,
        gradients: &mut Gradients,
        (grads, weight): (Grads<'_, '_>, f64),
        begun: &mut bool,
    ) -> Result<()> {
        let (kernel, bindings) = (engine.setup.builtins.accumulate_with_stats(), grads.bindings);
        let scale = gradients.config.inverse_scale();
        let mut row = vec![weight; 1 + kernel.scalars.len()];
        kernel.compute_scalars(&Unscale { scale }, 1, &mut row[1..]);
        if let Some((compute, mut plan)) = gradients.stats_on_device(engine, grads) {
            let to = To::Device(&mut plan);
            let added = self.add(engine, bindings, (true, compute), (kernel, &row), to, begun);
            gradients.clipping.give_plan(plan, added.is_ok());
            return added;
        }
        let formats: Vec<_> = self.sums.values().filter(|s| s.has_value).map(|s| s.tensor.format()).collect();
        let mut all = vec![[0.0; 2]; formats.len()];
        for compute in [Compute::F32, Compute::F64] {
            let of_compute = || formats.iter().filter(|format| **format == compute.format());
            let mut found = vec![0.0; of_compute().count() * kernel.sums.len()];
            self.add(engine, bindings, (true, compute), (kernel, &row), To::Host(&mut found), begun)?;
            let places = all.iter_mut().zip(&formats).filter(|(_, format)| **format == compute.format());
            for ((place, _), sums) in places.zip(found.chunks_exact(2)) {
                *place = [sums[0], sums[1]];
            }
        }
        // The sums are sorted by name, as is what is found.
        (gradients.stats.found, gradients.stats.done) = (all, true);
        Ok(())
    }

    /// Runs a rule over gradients of a compute type and the sums that have a value, or those that have none.
    fn add(
        &mut self,
        engine: &Engine,
        bindings: &[Binding<'_>],
        (has_value, compute): (bool, Compute),
        (kernel, constants): (&'static Kernel, &[f64]),
        to: To<'_>,
        begun: &mut bool,
    ) -> Result<()> {
        let backend = engine.setup.param_backend();
        // The sums are sorted by name, so that one walk over them suffices when the gradients are too.
        let given = bindings.iter().filter(|binding| !binding.grad.is_none());
        let mut grads = map_of(given.map(|binding| (binding.name, binding)));
        let mut sums = self.sums.iter_mut().filter_map(|(name, sum)| {
            let fits = sum.has_value == has_value && sum.tensor.format() == compute.format();
            Some((sum, grads.remove(&**name).filter(|_| fits)?))
        });
        let entry = self.plans.entry((kernel.name, compute == Compute::F64));
        let (plan, found, queued) = match to {
            To::Host(found) => (entry.or_insert_with(|| backend.plan()), found, None),
            To::Device(plan) => (plan, &mut [][..], Some(Queued::default())),
        };
        let mut any = false;
        let pass = Pass {
            kernel,
            compute,
            tensors: &mut |views| {
                let (sum, binding) = sums.next()?;
                any = true;
                let elements = sum.tensor.shape().elements();
                let grad = sum.staging.as_ref().map(View::read).or_else(|| binding.grad.view());
                views[place_of(kernel, true)] = grad;
                views[place_of(kernel, false)] = Some(View::write(sum.tensor.storage_mut()));
                Some(TensorPass { elements, constant_set: 0 })
            },
            constants,
            tensor_scalars: &[],
            plan,
            sums: found,
            fused: &[],
            checked: false,
        };
        let ran = match queued {
            Some(queued) => queue_of(&**backend)?.run_queued(pass, queued),
            None => backend.run(pass),
        };
        // What begins a sum begins it again.
        let wrote = ran.as_ref().map_or_else(fallline_core::Error::may_have_written, |()| any);
        *begun |= has_value && wrote;
        Ok(ran?)
    }

    /// Limits the elements of the sums.
    fn clamp(&mut self, engine: &Engine, limit: &ClampRange) -> Result<()> {
        let kernel = engine.setup.builtins.clamp_sum();
        let backend = engine.setup.param_backend();
        let row = limit.row(kernel);
        for compute in [Compute::F32, Compute::F64] {
            let fits = |sum: &&mut Sum| sum.has_value && sum.tensor.format() == compute.format();
            let mut sums = self.sums.values_mut().filter(fits);
            let plan = self.plans.entry((kernel.name, compute == Compute::F64));
            backend.run(Pass {
                kernel,
                compute,
                tensors: &mut |views| {
                    let sum = sums.next()?;
                    let elements = sum.tensor.shape().elements();
                    views[0] = Some(View::write(sum.tensor.storage_mut()));
                    Some(TensorPass { elements, constant_set: 0 })
                },
                constants: &row,
                tensor_scalars: &[],
                plan: plan.or_insert_with(|| backend.plan()),
                sums: &mut [],
                fused: &[],
                checked: false,
            })?;
        }
        Ok(())
    }
}

/// Returns the place of a rule's gradient, or of its sum.
fn place_of(kernel: &Kernel, grad: bool) -> usize {
    let is = |role| (role == fallline_core::Role::Grad) == grad;
    kernel.operands.iter().position(|operand| is(operand.role)).unwrap_or(0)
}

/// Returns the same parameters with the window's gradients, and with the training loop's where those are still to be
/// added.
fn rebound<'s>(
    bindings: &'s mut [Binding<'_>],
    sums: &'s mut BTreeMap<String, Sum>,
    adds: bool,
) -> Vec<Binding<'s>> {
    let mut sums = map_of(sums.iter_mut().map(|(name, sum)| (&**name, sum)));
    let each = bindings.iter_mut().map(|Binding { name, param, grad, kind }| {
        let sum = sums.remove(name).filter(|sum| sum.has_value);
        let grad = sum.map_or(GradRef::None, |Sum { tensor, is_empty, staging, .. }| {
            let new = staging.as_ref().map_or(NewGrad::Given(grad), NewGrad::Staged);
            let new = Some(new).filter(|_| adds && !grad.is_none());
            GradRef::Window(WindowGrad { sum: tensor, new, is_empty: *is_empty })
        });
        Binding { name, param: param.reborrow(), grad, kind: *kind }
    });
    each.collect()
}
