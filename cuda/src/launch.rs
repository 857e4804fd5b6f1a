//! A pass: one launch for all tensors whose operands are stored alike.

mod enqueue;
mod load;
mod numbers;
mod operand;
mod plan;
mod record;

pub(crate) use numbers::can_compute;
pub(crate) use plan::CudaPlan;

use crate::context::DriverResult;
use crate::state::State;
use fallline_core::backend::{Beside, MAX_VIEWS, Pass, Plan, Queued, TensorPass, Views};
use fallline_core::{Compute, Error, Kernel, Result};
use numbers::depend;
use operand::length;
use std::sync::Arc;

/// Runs a pass; with `queued` its numbers are computed on the device, and its sums stay there.
pub(crate) fn run(state: &mut State, pass: Pass<'_, '_>, queued: Option<Queued<'_>>) -> Result<()> {
    let Pass { kernel, compute, tensors, rows, tensor_scalars, plan, sums, beside, .. } = pass;
    let Some(plan) = plan.downcast_mut::<CudaPlan>() else {
        return Err(Error::Unavailable(format!("{}: the plan is another backend's", kernel.name)));
    };
    Beside::check(beside)?;
    state.enter_to_run()?;
    let mut others = core::mem::take(&mut plan.beside);
    others.resize_with(others.len().max(beside.len()), CudaPlan::default);
    let mut whole = PassLaunch { plan, beside, others: &mut others, queued };
    let mut launched = false;
    let ran = whole.run(state, (kernel, compute), tensors, (rows, tensor_scalars), sums, &mut launched);
    plan.beside = others;
    ran
}

/// Fetches the sums that a queued pass has left.
pub(crate) fn sums(state: &mut State, plan: &Plan, to: &mut [f64]) -> Result<()> {
    let kept = plan.downcast_ref::<CudaPlan>().and_then(CudaPlan::kept);
    let (at, tensors, width) = kept.unwrap_or_default();
    if tensors * width != to.len() {
        let what = "the sums of the last pass".into();
        return Err(Error::Length { operation: "sums", what, expected: to.len(), got: tensors * width });
    }
    if to.is_empty() {
        return Ok(());
    }
    state.enter("fetching sums")?;
    let stream = Arc::clone(&state.ctx.compute);
    let bytes = bytemuck::cast_slice_mut(to);
    // SAFETY: the buffer holds as many sums, written before in the order of the stream.
    let fetched = unsafe { state.staging.download(&stream, at, bytes) };
    fetched.map_err(|failure| state.ctx.error(failure, false))?;
    // They came after everything else.
    state.ctx.idle();
    Ok(())
}

/// The rule of a pass together with those beside it.
struct PassLaunch<'p> {
    plan: &'p mut CudaPlan,
    beside: &'p [Beside<'p>],
    others: &'p mut [CudaPlan],
    queued: Option<Queued<'p>>,
}

impl PassLaunch<'_> {
    fn run<'a>(
        &mut self,
        state: &mut State,
        (kernel, compute): (&'static Kernel, Compute),
        tensors: &mut dyn FnMut(&mut Views<'a>) -> Option<TensorPass>,
        (rows, own): (&[f64], &[f64]),
        sums: &mut [f64],
        launched: &mut bool,
    ) -> Result<()> {
        self.collect(state, kernel, tensors)?;
        let computed = self.queued.as_ref().and_then(|queued| queued.computed.as_ref());
        let computed = computed.filter(|_| depend(kernel));
        self.plan.pack_constants(kernel, compute, rows, computed.is_none().then_some(own))?;
        self.plan.kept = None;
        self.plan.numbers.clear();
        if let Some(computed) = computed {
            let CudaPlan { numbers, rows_of, row_bytes, .. } = &mut *self.plan;
            let before = computed.before.and_then(|plan| plan.downcast_ref::<CudaPlan>());
            let kept = before.and_then(CudaPlan::kept);
            numbers.lay(kernel, computed, rows_of.len(), kept, row_bytes)?;
        }
        let factor = self.queued.as_ref().and_then(|queued| queued.factor);
        self.plan.pack_gradient_factors(state, (kernel, compute), rows, factor)?;
        let kept = self.plan.rows_of.len() * kernel.sums.len();
        let expected = if self.queued.is_some() { 0 } else { kept };
        if sums.len() != expected {
            return Err(length(kernel, "the table of sums", expected, sums.len()));
        }
        self.plan.tile(kernel);
        for (plan, beside) in self.others.iter_mut().zip(self.beside) {
            plan.pack_constants(beside.kernel, compute, beside.row, Some(&[]))?;
            plan.tile(beside.kernel);
        }
        if state.is_recording() {
            let queued = self.queued.is_some();
            return self.for_each_rule(kernel, |plan, kernel| plan.record(state, kernel, compute, queued));
        }
        let ran = self.launch(state, (kernel, compute), sums, launched);
        let writes = |kernel: &Kernel| kernel.operands.iter().any(|operand| operand.written);
        let writes = writes(kernel) || self.beside.iter().any(|beside| writes(beside.kernel));
        ran.map_err(|failure| state.ctx.error(failure, *launched && writes))
    }

    /// Each rule in its turn, with what is remembered for it.
    fn for_each_rule<E>(
        &mut self,
        kernel: &'static Kernel,
        mut work: impl FnMut(&mut CudaPlan, &'static Kernel) -> core::result::Result<(), E>,
    ) -> core::result::Result<(), E> {
        for first in [true, false] {
            for (plan, beside) in self.others.iter_mut().zip(self.beside) {
                // A rule that passes over all tensors has nothing to do.
                if beside.first == first && !plan.rows_of.is_empty() {
                    work(plan, beside.kernel)?;
                }
            }
            if first {
                work(self.plan, kernel)?;
            }
        }
        Ok(())
    }

    /// Fills the tensors' tables from the pass's views, which are checked.
    fn collect<'a>(
        &mut self,
        state: &State,
        kernel: &Kernel,
        tensors: &mut dyn FnMut(&mut Views<'a>) -> Option<TensorPass>,
    ) -> Result<()> {
        let all = core::iter::once(&mut *self.plan).chain(&mut *self.others);
        all.for_each(CudaPlan::clear);
        let mut views: Views<'a> = [const { None }; MAX_VIEWS];
        let mut index = 0;
        while let Some(tensor) = tensors(&mut views) {
            for (plan, beside) in self.others.iter_mut().zip(self.beside) {
                if beside.has(&views) {
                    let views = beside.operands.iter().map(|&place| views[place].as_ref());
                    plan.add(state, beside.kernel, index, views, TensorPass { row: 0, ..tensor })?;
                }
            }
            self.plan.add(state, kernel, index, views.iter().map(Option::as_ref), tensor)?;
            views.iter_mut().for_each(|view| *view = None);
            index += 1;
        }
        self.plan.find_managed(state, kernel);
        for (plan, beside) in self.others.iter_mut().zip(self.beside) {
            plan.find_managed(state, beside.kernel);
        }
        Ok(())
    }

    /// Uploads what changed and launches. `launched` is set with the first kernel.
    fn launch(
        &mut self,
        state: &mut State,
        (kernel, compute): (&'static Kernel, Compute),
        sums: &mut [f64],
        launched: &mut bool,
    ) -> DriverResult<()> {
        // Everything that may be missing, first: after the first launch nothing should fail.
        let mut rules = Vec::with_capacity(1 + self.beside.len());
        self.for_each_rule(kernel, |plan, kernel| {
            rules.push(plan.load(state, kernel, compute)?);
            Ok(())
        })?;
        let fold = self.plan.load_reduction(state, kernel)?;
        let mut next = rules.iter();
        self.for_each_rule(kernel, |plan, _| next.next().map_or(Ok(()), |rule| plan.upload(state, rule)))?;
        let mut next = rules.iter();
        self.for_each_rule(kernel, |plan, kernel| match next.next() {
            Some(rule) => plan.launch_kernels(state, kernel, rule, launched),
            None => Ok(()),
        })?;
        let Some(fold) = fold else { return Ok(()) };
        self.plan.launch_reduction(state, kernel, &fold)?;
        match self.queued {
            Some(_) => Ok(()),
            None => self.plan.download(state, fold.1, sums),
        }
    }
}
