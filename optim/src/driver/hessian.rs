//! Gradients for an estimate of the curvature, taken into the states that keep it.

use super::around::Around;
use super::run::Work;
use super::steps::Given;
use super::together::first_of;
use super::{Driver, Member};
use crate::{Binding, Error, GradRef, ModuleKind, Optimizer, Result, StepReport};

impl Driver {
    /// See [`Optimizer::update_hessian`].
    pub(super) fn take_hessian(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        if !self.groups.iter().any(|group| group.algorithm.hessian().is_some()) {
            return Err(Error::NoHessian { algorithm: self.name() });
        }
        // Of other optimizers beside it no curvature is asked: to this their gradients are not there.
        let mut others = Vec::new();
        for (place, binding) in bindings.iter_mut().enumerate() {
            if !binding.grad.is_none() && !self.keeps_curvature(binding) {
                others.push((place, core::mem::replace(&mut binding.grad, GradRef::None)));
            }
        }
        let mut taken = self.take_curvature(bindings);
        if let Ok(report) = &mut taken {
            report.without_grad -= others.len();
        }
        others.into_iter().for_each(|(place, grad)| bindings[place].grad = grad);
        taken
    }

    /// Whether the optimizer that a parameter belongs to estimates the curvature.
    fn keeps_curvature(&self, binding: &Binding<'_>) -> bool {
        let group = self.slots.get(binding.name).map_or_else(
            || {
                let (name, shape) = (binding.name, binding.param.extents().into());
                let kind = binding.kind.unwrap_or_else(|| ModuleKind::guess(name, &shape));
                self.group_of(&Member { name, shape: &shape, kind })
            },
            |slot| slot.group,
        );
        self.groups[group].algorithm.hessian().is_some()
    }

    fn take_curvature(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        let report = self.open(bindings, Given::Hessian, false)?;
        if report.skipped() {
            return Ok(report);
        }
        let mut begun = false;
        for (index, run) in self.runs.iter_mut().enumerate().filter(|(_, run)| !run.is_empty()) {
            let slots = self.slots.range(0..bindings.len());
            let tensors = slots.iter().filter(|slot| slot.run == Some(index)).count();
            let (backend, groups, family) = (&*self.backend, &self.groups[..], run.family);
            let Some(kernel) = first_of(groups, family).hessian() else { continue };
            let shared = &mut self.shared[family];
            let ranks = self.world.as_ref().map(|world| &**world.ranks());
            let around = Around::default();
            let work = Work {
                index,
                family,
                tensors,
                backend,
                groups,
                shared,
                ranks,
                bindings,
                slots,
                around,
                syncs: false,
                factor: None,
            };
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
