//! The iteration of LBFGS.

use super::loaded::{Unfit, compare};
use super::rules::{Lbfgs, VectorRules};
use super::sorted_bindings;
use super::vectors::{Vector, VectorSpace};
use super::wolfe::{Point, strong_wolfe};
use crate::{Binding, Error, NonFinitePolicy, Objective, Result};
use fallline_core::{Backend, Compute, Format, Shape, Storage, fallible};
use std::sync::Arc;

/// A change of position, the change of gradient that came with it, and 1 over their product.
pub(super) struct Pair {
    pub(super) s: Vector,
    pub(super) y: Vector,
    pub(super) rho: f64,
}

/// What is kept between steps. A clone shares its vectors, which no step writes to.
#[derive(Clone)]
pub(super) struct History {
    /// Names and shapes of the parameters, sorted.
    pub(super) params: Vec<(String, Shape)>,
    pub(super) compute: Compute,
    /// Iterations and evaluations so far.
    pub(super) iterations: u64,
    pub(super) evaluations: u64,
    pub(super) direction: Arc<Vector>,
    pub(super) t: f64,
    pub(super) gradient: Arc<Vector>,
    pub(super) pairs: Vec<Arc<Pair>>,
    /// The scale of the first approximation.
    pub(super) scale: f64,
}

/// Checks that these are the parameters of the history, or makes a history of theirs.
fn history(
    known: &Option<History>,
    bindings: &[Binding<'_>],
    compute: Option<Compute>,
    backend: &Arc<dyn Backend>,
    kernels: VectorRules,
) -> Result<Option<History>> {
    let mut params: Vec<(String, Shape)> = Vec::new();
    for binding in bindings {
        if params.last().is_some_and(|(name, _)| name == binding.name) {
            return Err(Error::Duplicate { param: binding.name.to_owned() });
        }
        binding.check_shaped()?;
        params.push((binding.name.to_owned(), binding.param.dims().into()));
    }
    let doubles = bindings.iter().filter(|binding| binding.param.format() == Format::F64).count();
    let own = if doubles > 0 { Compute::F64 } else { Compute::F32 };
    if compute.is_none() && doubles > 0 && doubles < bindings.len() {
        return Err(Error::MixedCompute { algorithm: "LBFGS" });
    }
    let compute = compute.unwrap_or(own);
    if let Some(known) = known {
        if known.params != params {
            let differs = |(one, other): &(&(String, Shape), &(String, Shape))| one != other;
            let pair = known.params.iter().zip(&params).find(differs);
            let name = pair.map_or("", |(_, (name, _))| name);
            return Err(Error::Mismatch(format!(
                "LBFGS was given other parameters than before, from {name:?} on"
            )));
        }
        return Ok(None);
    }
    let lengths: Vec<usize> = params.iter().map(|(_, shape)| shape.elements()).collect();
    let space = VectorSpace { backend, kernels, compute, lengths };
    let (direction, gradient) = (space.zeros()?.into(), space.zeros()?.into());
    let pairs = Vec::new();
    Ok(Some(History {
        params,
        compute,
        iterations: 0,
        evaluations: 0,
        direction,
        t: 0.0,
        gradient,
        pairs,
        scale: 1.0,
    }))
}

/// What a step runs with.
pub(super) struct Settings<'a> {
    pub(super) hyper: &'a Lbfgs,
    pub(super) kernels: VectorRules,
    pub(super) backend: &'a Arc<dyn Backend>,
    pub(super) compute: Option<Compute>,
    pub(super) non_finite: NonFinitePolicy,
    /// Whether the load is lenient that no step has shown to fit.
    pub(super) unproven: Option<bool>,
}

/// What a step did.
pub(super) struct Stepped {
    /// The loss before it.
    pub(super) loss: f64,
    /// Whether it met what is not finite, and left everything as it was.
    pub(super) skipped: bool,
}

/// Takes one step: up to `max_iter` iterations.
///
/// A loss or gradient that is not finite ends it where the policy says so, with everything as it was. `unfit` is what a
/// lenient load does not fit.
pub(super) fn step(
    settings: &Settings<'_>,
    memory: &mut Option<History>,
    objective: &mut dyn Objective,
    unfit: &mut Option<Unfit>,
) -> Result<Stepped> {
    let before = memory.clone();
    let (mut start, mut first) = (None, f64::NAN);
    let found = search(settings, memory, objective, (&mut start, &mut first, unfit));
    let error = match found {
        Ok(loss) => return Ok(Stepped { loss, skipped: false }),
        Err(error @ (Error::NonFinite { .. } | Error::NonFiniteLoss { .. })) => error,
        Err(error) => return Err(error),
    };
    if let (Some(start), Some(known)) = (start, &*memory) {
        let lengths = known.params.iter().map(|(_, shape)| shape.elements()).collect();
        let (backend, kernels) = (settings.backend, settings.kernels);
        let space = VectorSpace { backend, kernels, compute: known.compute, lengths };
        space.move_to(&mut sorted_bindings(objective), &start)?;
    }
    *memory = before;
    match settings.non_finite {
        NonFinitePolicy::Skip => Ok(Stepped { loss: first, skipped: true }),
        _ => Err(error),
    }
}

/// Returns the search of a step. Tells where it starts, once it may move from there, and the loss there.
fn search(
    settings: &Settings<'_>,
    memory: &mut Option<History>,
    objective: &mut dyn Objective,
    (begun, before_step, unfit): (&mut Option<Vector>, &mut f64, &mut Option<Unfit>),
) -> Result<f64> {
    let &Settings { hyper, kernels, backend, compute, non_finite, unproven } = settings;
    let checks = non_finite != NonFinitePolicy::Propagate;
    let sign = if hyper.maximize { -1.0 } else { 1.0 };
    let first = objective.evaluate()?;
    *before_step = first;
    let mut bindings = sorted_bindings(objective);
    if bindings.is_empty() {
        return Ok(first);
    }
    if let (Some(lenient), Some(known)) = (unproven, &*memory) {
        *unfit = compare((&known.params, known.compute), &bindings, compute, lenient)?;
        if unfit.is_some() {
            *memory = None;
        }
    }
    if let Some(new) = history(memory, &bindings, compute, backend, kernels)? {
        *memory = Some(new);
    }
    let Some(memory) = memory else { unreachable!("made above where there was none") };
    let lengths = memory.params.iter().map(|(_, shape)| shape.elements()).collect();
    let space = VectorSpace { backend, kernels, compute: memory.compute, lengths };
    let mut gradient = space.gradients(&bindings, sign)?;
    if checks {
        check_finite(&space, &memory.params, first, &gradient)?;
    }
    memory.evaluations += 1;
    if space.is_within(&gradient, 1.0, hyper.tolerance_grad)? {
        return Ok(first);
    }
    let mut position = space.position(&mut bindings)?;
    if checks {
        *begun = Some(space.copy(&position)?);
    }
    drop(bindings);

    let most = hyper.max_eval.unwrap_or(hyper.max_iter.saturating_add(hyper.max_iter / 4));
    let (mut loss, mut spent) = (sign * first, 1);
    for iteration in 1..=hyper.max_iter {
        memory.iterations += 1;
        memory.update_direction(&space, &gradient, hyper.history_size)?;
        let before = loss;
        let start = match memory.iterations {
            1 => (1.0 / space.total(&gradient)?).min(1.0) * hyper.lr,
            _ => hyper.lr,
        };
        memory.t = start;
        let slope = space.dot(&gradient, &memory.direction)?;
        if slope > -hyper.tolerance_change {
            break;
        }
        let (direction, params) = (&memory.direction, &memory.params);
        let mut evaluate = |t: f64| -> Result<(f64, Vector, Vector)> {
            let mut there = space.copy(&position)?;
            space.add(&mut there, direction, t)?;
            space.move_to(&mut sorted_bindings(objective), &there)?;
            let loss = objective.evaluate()?;
            let gradient = space.gradients(&sorted_bindings(objective), sign)?;
            if checks {
                check_finite(&space, params, loss, &gradient)?;
            }
            Ok((sign * loss, gradient, there))
        };
        let mut calls = 0;
        if hyper.line_search_fn.is_some() {
            let origin = Point { t: 0.0, loss, slope, gradient: Arc::new(core::mem::take(&mut gradient)) };
            let narrow = |width: f64| space.is_within(direction, width, hyper.tolerance_change);
            let point = |t: f64| {
                let (loss, gradient, _) = evaluate(t)?;
                let slope = space.dot(&gradient, direction)?;
                Ok(Point { t, loss, slope, gradient: Arc::new(gradient) })
            };
            let (found, evaluations) =
                strong_wolfe(&origin, start, most.saturating_sub(spent), narrow, point)?;
            (calls, memory.t, loss) = (evaluations, found.t, found.loss);
            drop(origin);
            gradient = match Arc::try_unwrap(found.gradient) {
                Ok(gradient) => gradient,
                Err(shared) => space.copy(&shared)?,
            };
            space.add(&mut position, &memory.direction, memory.t)?;
            space.move_to(&mut sorted_bindings(objective), &position)?;
        } else if iteration < hyper.max_iter {
            (loss, gradient, position) = evaluate(start)?;
            calls = 1;
        } else {
            // In the last iteration nobody needs the loss there.
            space.add(&mut position, direction, start)?;
            space.move_to(&mut sorted_bindings(objective), &position)?;
        }
        spent += calls;
        memory.evaluations += calls;
        if iteration == hyper.max_iter || spent >= most {
            break;
        }
        if space.is_within(&gradient, 1.0, hyper.tolerance_grad)?
            || space.is_within(&memory.direction, memory.t.abs(), hyper.tolerance_change)?
            || (loss - before).abs() < hyper.tolerance_change
        {
            break;
        }
    }
    Ok(first)
}

/// Refuses a loss, and gradients, that are not finite.
fn check_finite(
    space: &VectorSpace<'_>,
    params: &[(String, Shape)],
    loss: f64,
    gradient: &[Storage],
) -> Result<()> {
    if !loss.is_finite() {
        return Err(Error::NonFiniteLoss { loss });
    }
    if space.total(gradient)?.is_finite() {
        return Ok(());
    }
    for ((param, _), storage) in params.iter().zip(gradient) {
        let mut values = fallible::zeroed::<f64>(storage.len(), "a copy of a gradient")?;
        space.backend.read(storage, values.as_mut_slice().into())?;
        let count = values.iter().filter(|x| !x.is_finite()).count() as u64;
        if count > 0 {
            return Err(Error::NonFinite { param: param.clone(), count });
        }
    }
    // The sum overflowed; each element is finite.
    Ok(())
}

impl History {
    /// Takes the last move into the history, and the next direction from it.
    fn update_direction(&mut self, space: &VectorSpace<'_>, gradient: &[Storage], size: u64) -> Result<()> {
        if self.iterations == 1 {
            self.direction = space.scaled(gradient, -1.0)?.into();
            self.gradient = space.copy(gradient)?.into();
            return Ok(());
        }
        let mut y = space.copy(gradient)?;
        space.add(&mut y, &self.gradient, -1.0)?;
        let s = space.scaled(&self.direction, self.t)?;
        let product = space.dot(&y, &s)?;
        if product > 1e-10 {
            self.scale = product / space.dot(&y, &y)?;
            while self.pairs.len() as u64 >= size {
                self.pairs.remove(0);
            }
            self.pairs.push(Arc::new(Pair { s, y, rho: 1.0 / product }));
        }
        let mut q = space.scaled(gradient, -1.0)?;
        let mut alphas = Vec::with_capacity(self.pairs.len());
        for pair in self.pairs.iter().rev() {
            let alpha = space.dot(&pair.s, &q)? * pair.rho;
            space.add(&mut q, &pair.y, -alpha)?;
            alphas.push(alpha);
        }
        let mut direction = space.scaled(&q, self.scale)?;
        for (pair, alpha) in self.pairs.iter().zip(alphas.into_iter().rev()) {
            let beta = space.dot(&pair.y, &direction)? * pair.rho;
            space.add(&mut direction, &pair.s, alpha - beta)?;
        }
        self.direction = direction.into();
        self.gradient = space.copy(gradient)?.into();
        Ok(())
    }
}
