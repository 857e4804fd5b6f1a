//! Norms of all gradients together, other than the Euclidean one.

use super::views::Grads;
use crate::Result;
use crate::engine::Engine;
use crate::gradient_config::norm;
use fallline_core::backend::{Pass, TensorPass, View, Views};
use fallline_core::builtins::{Extreme, Power};
use fallline_core::math::{powf, single};
use fallline_core::{Backend, Compute, Kernel, Storage, fallible};

/// Magnitudes that one element of [`ExtremeMagnitude`](fallline_core::builtins::ExtremeMagnitude) compares.
pub(super) const FAN_IN: usize = 7;
/// Elements of the memory that what is left of them goes to: half a megabyte at most.
pub(super) const SCRATCH_LEN: usize = 1 << 16;

/// Returns the p-norm of all gradients together, multiplied by a factor first: the norm of their norms. None of them
/// is NaN.
///
/// # Errors
/// When a device fails.
pub(super) fn norm_of(engine: &Engine, grads: Grads<'_, '_>, p: f64, scale: f64) -> Result<f64> {
    let mut order = Vec::new();
    grads.in_order(&mut order);
    let on = (engine, grads);
    if p.is_infinite() {
        return extreme_of(on, &order, p < 0.0, scale);
    }
    let norms = match Power::quarters_of(p) {
        Some(quarters) => norms_by_powers(on, &order, (p, quarters), scale)?,
        None => norms_on_host(on, &order, p, scale)?,
    };
    Ok(norm(norms.into_iter(), p))
}

/// Returns the p-norm of the only gradient, for a p whose norm of norms is the norm of all. No other gradient may be
/// mixed into it.
///
/// # Errors
/// When a device fails.
pub(super) fn norm_of_one(engine: &Engine, grads: Grads<'_, '_>, p: f64, scale: f64) -> Result<f64> {
    let (mut order, on) = (Vec::new(), (engine, grads));
    grads.in_order(&mut order);
    if p.is_infinite() {
        return extreme_of(on, &order, p < 0.0, scale);
    }
    let norms = norms_by_powers(on, &order, (p, Power::quarters_of(p).unwrap_or(0)), scale)?;
    Ok(norms.first().copied().unwrap_or(0.0))
}

/// Returns each gradient's p-norm, p being so many quarters: powers of fractions of the largest magnitude, which
/// neither overflow nor vanish.
fn norms_by_powers(
    (engine, grads): (&Engine, Grads<'_, '_>),
    order: &[usize],
    (p, quarters): (f64, u32),
    scale: f64,
) -> Result<Vec<f64>> {
    let rules = engine.setup.builtins;
    // Neither magnitudes themselves nor how many there are needs it.
    let plain = p == 0.0 || p == 1.0;
    let largest = if plain { 1.0 } else { extreme_of((engine, grads), order, false, scale)? };
    if !largest.is_finite() {
        return Ok(vec![largest]);
    }
    let mut norms = vec![0.0; order.len()];
    for compute in [Compute::F32, Compute::F64] {
        let mine = || (0..order.len()).filter(|&n| grads.compute(order[n]) == compute);
        let largest = if compute == Compute::F32 { single(largest) } else { largest };
        let kernel = if p == 1.0 { rules.magnitude_sum() } else { rules.power_sum() };
        let mut row = vec![scale; 1 + kernel.scalars.len()];
        if p != 1.0 {
            kernel.compute_scalars(&Power { quarters, largest }, 1, &mut row[1..]);
        }
        let mut sums = vec![0.0; mine().count()];
        let mut left = mine();
        engine.setup.param_backend().run(Pass {
            kernel,
            compute,
            tensors: &mut |views| {
                views[0] = grads.view(order[left.next()?]);
                Some(TensorPass { elements: views[0].as_ref().map_or(0, View::len), constant_set: 0 })
            },
            constants: &row,
            tensor_scalars: &[],
            plan: &mut engine.setup.param_backend().plan(),
            sums: &mut sums,
            fused: &[],
            checked: false,
        })?;
        for (n, sum) in mine().zip(sums) {
            norms[n] = if plain || sum == 0.0 { sum } else { largest * powf(sum, 1.0 / p) };
        }
    }
    Ok(norms)
}

/// Finds the largest or the `least` magnitude of all gradients. Passes reduce what they read to a seventh, in pieces
/// that need little memory.
fn extreme_of(
    (engine, grads): (&Engine, Grads<'_, '_>),
    order: &[usize],
    least: bool,
    scale: f64,
) -> Result<f64> {
    let kernel = engine.setup.builtins.extreme_magnitude();
    let p = if least { f64::NEG_INFINITY } else { f64::INFINITY };
    let mut found: Vec<f64> = Vec::new();
    for compute in [Compute::F32, Compute::F64] {
        let mine = order.iter().copied().filter(|&i| grads.compute(i) == compute);
        let lengths: Vec<(usize, usize)> =
            mine.map(|i| (i, grads.view(i).as_ref().map_or(0, View::len))).collect();
        if lengths.is_empty() {
            continue;
        }
        if lengths.iter().any(|(_, len)| *len == 0) {
            found.push(0.0);
        }
        let pieces: Vec<(usize, usize, usize)> = lengths
            .iter()
            .flat_map(|&(i, len)| {
                let starts = (0..len).step_by(FAN_IN * SCRATCH_LEN);
                starts.map(move |start| (i, start, (len - start).min(FAN_IN * SCRATCH_LEN)))
            })
            .collect();
        let all: usize = pieces.iter().map(|(.., len)| len.div_ceil(FAN_IN)).sum();
        let mut extreme = MaxReduction::new(engine, kernel, compute, (least, scale), all.min(SCRATCH_LEN))?;
        let mut first = 0;
        while first < pieces.len() {
            let mut room = SCRATCH_LEN;
            let fits = |(.., len): &&(usize, usize, usize)| {
                let fits = len.div_ceil(FAN_IN) <= room;
                room = room.saturating_sub(len.div_ceil(FAN_IN));
                fits
            };
            let count = pieces[first..].iter().take_while(fits).count();
            let batch = &pieces[first..first + count];
            extreme.take(batch, |i| grads.view(i), p, &mut found)?;
            first += count;
        }
        extreme.read(p, &mut found)?;
    }
    Ok(norm(found.into_iter(), p))
}

/// Returns each gradient's p-norm for any p, one after another on the host.
fn norms_on_host(
    (engine, grads): (&Engine, Grads<'_, '_>),
    order: &[usize],
    p: f64,
    scale: f64,
) -> Result<Vec<f64>> {
    let near = engine.setup.param_backend();
    let kernel = engine.setup.builtins.param_copy();
    let mut norms = Vec::with_capacity(order.len());
    for &i in order {
        let (compute, view) = (grads.compute(i), grads.view(i));
        let elements = view.as_ref().map_or(0, View::len);
        let mut values = fallible::zeroed::<f64>(elements, "a copy of a gradient")?;
        let mut copy = near.allocate(&[(compute.format(), elements)])?.remove(0);
        let mut views = Some((View::write(&mut copy), view));
        near.run(Pass {
            kernel,
            compute,
            tensors: &mut |places| {
                let (copy, grad) = views.take()?;
                (places[0], places[1]) = (Some(copy), grad);
                Some(TensorPass { elements, constant_set: 0 })
            },
            constants: &[1.0],
            tensor_scalars: &[],
            plan: &mut near.plan(),
            sums: &mut [],
            fused: &[],
            checked: false,
        })?;
        near.read(&copy, values.as_mut_slice().into())?;
        norms.push(norm(values.into_iter().map(|x| x * scale), p));
    }
    Ok(norms)
}

/// Passes that look for an extreme magnitude, and what they have left so far.
struct MaxReduction<'d> {
    backend: &'d dyn Backend,
    kernel: &'static Kernel,
    compute: Compute,
    /// The scalars over gradients, and over what is left of them.
    rows: [Vec<f64>; 2],
    left: Storage,
    kept: Storage,
    /// Elements that are kept.
    count: usize,
}

impl<'d> MaxReduction<'d> {
    fn new(
        engine: &'d Engine,
        kernel: &'static Kernel,
        compute: Compute,
        (least, scale): (bool, f64),
        room: usize,
    ) -> Result<MaxReduction<'d>> {
        let backend: &dyn Backend = &**engine.setup.param_backend();
        let row = |scale: f64| {
            let mut row = vec![scale; 1 + kernel.scalars.len()];
            kernel.compute_scalars(&Extreme { least }, 1, &mut row[1..]);
            row
        };
        let mut storages = backend.allocate(&[(compute.format(), room); 2])?;
        let (kept, left) = (storages.remove(1), storages.remove(0));
        Ok(MaxReduction { backend, kernel, compute, rows: [row(scale), row(1.0)], left, kept, count: 0 })
    }

    /// Reduces pieces of gradients, whose sevenths have room.
    fn take<'v>(
        &mut self,
        pieces: &[(usize, usize, usize)],
        given: impl Fn(usize) -> Option<View<'v>>,
        p: f64,
        found: &mut Vec<f64>,
    ) -> Result<()> {
        let all: usize = pieces.iter().map(|(.., len)| len.div_ceil(FAN_IN)).sum();
        if self.count + all.div_ceil(FAN_IN) > self.kept.len() {
            self.read(p, found)?;
        }
        let mut to = View::write(&mut self.left);
        let mut left = pieces.iter();
        let with = (self.backend, self.kernel, self.compute);
        pass(with, &self.rows[0], &mut || {
            let &(i, start, len) = left.next()?;
            let part = |view: Option<View<'v>>| view.map(|view| view.slice(start, len));
            Some(fan_in_views(to.take(0, len.div_ceil(FAN_IN)), len, &|| part(given(i))))
        })?;
        let (from, to) = (&self.left, View::write(&mut self.kept).slice(self.count, all.div_ceil(FAN_IN)));
        let mut to = Some(to);
        pass(with, &self.rows[1], &mut || {
            Some(fan_in_views(to.take()?, all, &|| Some(View::read(from).slice(0, all))))
        })?;
        self.count += all.div_ceil(FAN_IN);
        Ok(())
    }

    /// Reads what is kept, and begins anew.
    fn read(&mut self, p: f64, found: &mut Vec<f64>) -> Result<()> {
        let mut values = vec![0.0f64; self.kept.len()];
        self.backend.read(&self.kept, values.as_mut_slice().into())?;
        if self.count > 0 {
            found.push(norm(values[..self.count].iter().copied(), p));
        }
        self.count = 0;
        Ok(())
    }
}

/// The views of the rule's operands for one tensor, the written one first.
pub(super) type FanInViews<'v> = [Option<View<'v>>; FAN_IN + 1];

/// Hands a tensor's operands over to a pass.
pub(super) fn hand_over<'v>(own: FanInViews<'v>, views: &mut Views<'v>) -> TensorPass {
    let elements = own[0].as_ref().map_or(0, View::len);
    views.iter_mut().zip(own).for_each(|(view, own)| *view = own);
    TensorPass { elements, constant_set: 0 }
}

/// Runs a pass over what `next` returns until there is none.
fn pass<'v>(
    (backend, kernel, compute): (&dyn Backend, &'static Kernel, Compute),
    constants: &[f64],
    next: &mut dyn FnMut() -> Option<FanInViews<'v>>,
) -> Result<()> {
    Ok(backend.run(Pass {
        kernel,
        compute,
        tensors: &mut |views| Some(hand_over(next()?, views)),
        constants,
        tensor_scalars: &[],
        plan: &mut backend.plan(),
        sums: &mut [],
        fused: &[],
        checked: false,
    })?)
}

/// Returns what takes the extremes of seven parts of `len` elements, and the parts. The last of them overlap where
/// the length is no multiple: comparing a number twice changes nothing.
pub(super) fn fan_in_views<'v>(
    to: View<'v>,
    len: usize,
    from: &dyn Fn() -> Option<View<'v>>,
) -> FanInViews<'v> {
    let next = to.len();
    let mut all = [const { None }; FAN_IN + 1];
    for (part, view) in all[1..].iter_mut().enumerate() {
        *view = from().map(|view| view.slice((part * next).min(len - next), next));
    }
    all[0] = Some(to);
    all
}
