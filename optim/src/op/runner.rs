//! Where an operation runs its own passes and products.

use super::queue_of;
use super::reading::{Found, Reading};
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use fallline_core::backend::{
    Computed, Gemm, Matrix, Pass, Placed, Plan, Queued, SharedNumbers, TensorPass, View, Views,
};
use fallline_core::between::Numbers;
use fallline_core::{Backend, Compute, Error, Kernel, Result, Storage, TensorAt};
use std::sync::{Mutex, PoisonError};

/// Where an operation runs its own passes and products.
#[derive(Clone, Copy, Debug)]
pub struct Runner<'a> {
    /// Where it is computed.
    pub backend: &'a dyn Backend,
    /// The type of states and scratch.
    pub compute: Compute,
    /// The step count, from 1.
    pub t: u64,
    pub(crate) plans: &'a Plans,
}

/// What the backend keeps for the passes of operations, in the order in which a step runs them: the next step runs
/// mostly the same.
#[derive(Default)]
pub(crate) struct Plans {
    all: Mutex<Vec<Plan>>,
    next: AtomicUsize,
}

impl Plans {
    /// Begins a step.
    pub(crate) fn begin(&self) {
        self.next.store(0, Ordering::Relaxed);
    }

    /// Works with the next one.
    fn with<T>(&self, backend: &dyn Backend, work: impl FnOnce(&mut Plan) -> T) -> T {
        // One thread steps; the lock is for those who share the optimizer to read it.
        let place = self.next.fetch_add(1, Ordering::Relaxed);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() <= place {
            all.push(backend.plan());
        }
        work(&mut all[place])
    }
}

impl fmt::Debug for Plans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plans").finish_non_exhaustive()
    }
}

impl Runner<'_> {
    /// Computes `c = alpha a b + beta c`, where c starts at element `c_start` of its storage.
    ///
    /// # Errors
    /// As [`LinearAlgebra::gemm`](fallline_core::backend::LinearAlgebra::gemm).
    pub fn multiply(
        &self,
        alpha: f64,
        (a, b): (Matrix<'_>, Matrix<'_>),
        beta: f64,
        c: &mut Storage,
        c_start: usize,
    ) -> Result<()> {
        self.backend.linalg().gemm(Gemm { alpha, beta, c_start, ..Gemm::new(a, b, c) })
    }

    /// Runs a rule over `views`, one for each operand of its, with the tensor's scalars. Returns its sums.
    ///
    /// # Errors
    /// As [`Backend::run`].
    pub fn run(
        &self,
        kernel: &'static Kernel,
        hyper: &dyn Any,
        own: &[f64],
        views: &mut [Option<View<'_>>],
    ) -> Result<Vec<f64>> {
        let elements = views.first().and_then(Option::as_ref).map_or(0, View::len);
        let mut left = Some(views);
        self.pass(kernel, hyper, own, &mut |places| {
            for (place, view) in places.iter_mut().zip(left.take()?) {
                *place = view.take();
            }
            Some(TensorPass { elements, constant_set: 0 })
        })
    }

    /// Runs a rule as [`run`](Runner::run). The rule's scalars follow from sums of the program's pass before the
    /// operation, from `hyper`, the parameter's shape and the gradient's scale. The rule names that scale
    /// ([`OpAt::grad_scale`](super::OpAt::grad_scale)) `shared(factor)`, and multiplies it by what
    /// [`GradScale::known`](super::GradScale::known) returns. On a device that computes numbers nothing waits for
    /// them.
    ///
    /// # Errors
    /// When that pass returns no sum that the rule reads; as [`Backend::run`].
    pub fn run_reading<'v>(
        &self,
        Reading { sums, scale, shape }: Reading<'_>,
        kernel: &'static Kernel,
        hyper: &dyn Any,
        views: &mut [Option<View<'v>>],
    ) -> Result<()> {
        let between = &kernel.between;
        let declared = &between.declared;
        let mut each = vec![0.0; declared.each.len()];
        let (t, compute, memory, shared) = (self.t, self.compute, &mut [], &[]);
        let mut at = TensorAt { t, compute, shape, by_row: false, memory, shared, world: 1 };
        between.each(hyper, &mut at, &[], &mut each);
        let elements = views.first().and_then(Option::as_ref).map_or(0, View::len);
        let mut left = Some(views);
        let mut tensors = |places: &mut Views<'v>| {
            for (place, view) in places.iter_mut().zip(left.take()?) {
                *place = view.take();
            }
            Some(TensorPass { elements, constant_set: 0 })
        };
        if declared.shared.len() > 1 {
            return Err(Error::Unavailable(format!(
                "{}: an operation's rule knows `factor` alone",
                kernel.name
            )));
        }
        // Without a factor on the device it is 1, which the device has nowhere.
        let known = declared.shared.is_empty() || scale.factor.is_some();
        if let (Found::Kept(before), true) = (sums.found, known) {
            let reads: Vec<usize> =
                declared.reads.iter().map(|name| sums.place(name)).collect::<Result<_>>()?;
            let places = [scale.factor.map_or(0, |(_, place)| place)];
            let computed = Computed {
                before,
                first: sums.tensor,
                reads: &reads,
                order: &[Placed { tensor: 0, group: 0 }],
                groups: 1,
                once: &[],
                each: &each,
                shared: scale.factor.map(|(storage, _)| SharedNumbers::Read(storage)),
                shared_places: &places[..declared.shared.len()],
                memory: 0,
                memory_places: &[],
                most: 0,
            };
            let queued = Queued { computed: Some(computed), ..Queued::default() };
            return self.pass_with(kernel, hyper, (&[], &mut []), Some(queued), &mut tensors);
        }
        let sums: Vec<f64> = declared.reads.iter().map(|name| sums.get(name)).collect::<Result<_>>()?;
        let mut own = vec![0.0; kernel.tensor_scalars.len()];
        let factor = [if declared.shared.is_empty() { 1.0 } else { scale.factor()? }];
        let shared = &factor[..declared.shared.len()];
        let from = Numbers { once: &[], each: &each, sums: &sums, totals: &[], shared };
        between.tensor(&from, &mut [], &mut own);
        self.pass_with(kernel, hyper, (&own, &mut []), None, &mut tensors)
    }

    /// Runs a rule of one operand over the diagonal of a `size × size` matrix.
    ///
    /// # Errors
    /// As [`Backend::run`].
    pub fn run_on_diagonal(
        &self,
        kernel: &'static Kernel,
        hyper: &dyn Any,
        own: &[f64],
        matrix: &mut Storage,
        size: usize,
    ) -> Result<()> {
        let own = own.repeat(size);
        // Every element is a separate tensor, a row and one more apart.
        let (mut rest, mut skipped) = (Some(View::write(matrix)), 0);
        let mut left = size;
        self.pass(kernel, hyper, &own, &mut |places| {
            left = left.checked_sub(1)?;
            let (element, others) = rest.take()?.split_at(skipped).1.split_at(1);
            (places[0], rest, skipped) = (Some(element), Some(others), size);
            Some(TensorPass { elements: 1, constant_set: 0 })
        })?;
        Ok(())
    }

    /// Runs a pass over the tensors that a function gives, of a rule that is run on one tensor or has no sums.
    fn pass<'v>(
        &self,
        kernel: &'static Kernel,
        hyper: &dyn Any,
        own: &[f64],
        tensors: &mut dyn FnMut(&mut Views<'v>) -> Option<TensorPass>,
    ) -> Result<Vec<f64>> {
        let mut sums = vec![0.0; kernel.sums.len()];
        self.pass_with(kernel, hyper, (own, &mut sums), None, tensors)?;
        Ok(sums)
    }

    /// Returns the same, perhaps with numbers that the device computes.
    fn pass_with<'v>(
        &self,
        kernel: &'static Kernel,
        hyper: &dyn Any,
        (own, sums): (&[f64], &mut [f64]),
        queued: Option<Queued<'_>>,
        tensors: &mut dyn FnMut(&mut Views<'v>) -> Option<TensorPass>,
    ) -> Result<()> {
        let mut row = vec![1.0; 1 + kernel.scalars.len()];
        kernel.compute_scalars(hyper, self.t, &mut row[1..]);
        self.plans.with(self.backend, |plan| {
            let pass = Pass {
                kernel,
                compute: self.compute,
                tensors,
                constants: &row,
                tensor_scalars: own,
                plan,
                sums,
                fused: &[],
                checked: false,
            };
            match queued {
                Some(queued) => queue_of(self.backend)?.run_queued(pass, queued),
                None => self.backend.run(pass),
            }
        })
    }
}
