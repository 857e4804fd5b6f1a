//! Gradients for an estimate of the curvature, taken into the states that keep it.

use super::run::Work;
use super::{Driver, Given, first_of};
use crate::{Binding, Error, Optimizer, Result, StepReport};

impl Driver {
    /// See [`Optimizer::update_hessian`].
    pub(super) fn take_hessian(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        if !self.groups.iter().any(|group| group.algorithm.hessian_kernel().is_some()) {
            return Err(Error::NoHessian { algorithm: self.name() });
        }
        let report = self.open(bindings, Given::Hessian, false)?;
        if report.skipped() {
            return Ok(report);
        }
        let mut begun = false;
        for (index, run) in self.runs.iter_mut().enumerate().filter(|(_, run)| !run.is_empty()) {
            let slots = self.slots.range(0..bindings.len());
            let tensors = slots.iter().filter(|slot| slot.run == Some(index)).count();
            let (backend, groups, family) = (&*self.backend, &self.groups[..], run.family);
            // Of other optimizers beside it no curvature is asked.
            let Some(kernel) = first_of(groups, family).hessian_kernel() else { continue };
            let shared = &mut self.shared[family][..];
            let ranks = self.world.as_ref().map(|world| &**world.ranks());
            let work = Work { index, family, tensors, backend, groups, shared, ranks, bindings, slots };
            let away = self.away.as_mut().filter(|away| away.known);
            if let Err(cause) = run.run_beside(work, kernel, away, &mut begun) {
                if begun {
                    self.poisoned = Some(cause.to_string());
                }
                return Err(cause);
            }
        }
        Ok(report)
    }
}
