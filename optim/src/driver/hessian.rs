//! Gradients for an estimate of the curvature, taken into the states that keep it.

use super::Driver;
use super::run::Work;
use crate::{Binding, Error, Optimizer, Result, StepReport};

impl Driver {
    /// See [`Optimizer::update_hessian`].
    pub(super) fn take_hessian(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        let kernel = self.groups[0].algorithm.hessian_kernel();
        let kernel = kernel.ok_or(Error::NoHessian { algorithm: self.name() })?;
        let report = self.open(bindings)?;
        if report.skipped() {
            return Ok(report);
        }
        let mut begun = false;
        for (index, run) in self.runs.iter_mut().enumerate().filter(|(_, run)| !run.is_empty()) {
            let slots = self.slots.range(0..bindings.len());
            let tensors = slots.iter().filter(|slot| slot.run == Some(index)).count();
            let (backend, groups, shared) = (&*self.backend, &self.groups[..], &mut self.shared[..]);
            let ranks = self.world.as_ref().map(|world| &**world.ranks());
            let work = Work { index, tensors, backend, groups, shared, ranks, bindings, slots };
            if let Err(cause) = run.run_beside(work, kernel, &mut begun) {
                if begun {
                    self.poisoned = Some(cause.to_string());
                }
                return Err(cause);
            }
        }
        Ok(report)
    }
}
