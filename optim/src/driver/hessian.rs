//! Gradients for an estimate of the curvature, taken into the states that keep it.

use super::Driver;
use crate::engine::group::ParamInfo;
use crate::gradients::GradState;
use crate::{Binding, Error, GradRef, ModuleKind, Optimizer, Result, StepReport};

impl Driver {
    /// See [`Optimizer::update_hessian`].
    pub(super) fn update_hessian_of(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        if !self.engine.setup.groups.iter().any(|group| group.algorithm.hessian().is_some()) {
            return Err(Error::NoHessian { algorithm: self.name() });
        }
        bindings.iter().try_for_each(Binding::check_shaped)?;
        // Of other optimizers no curvature is asked: to this their gradients are missing.
        let mut others = Vec::new();
        for (place, binding) in bindings.iter_mut().enumerate() {
            if !binding.grad.is_none() && !self.keeps_curvature(binding) {
                others.push((place, core::mem::replace(&mut binding.grad, GradRef::None)));
            }
        }
        let mut taken = self.update_curvature_of(bindings);
        if let Ok(report) = &mut taken {
            report.without_grad -= others.len();
        }
        others.into_iter().for_each(|(place, grad)| bindings[place].grad = grad);
        taken
    }

    /// Returns whether the optimizer that a parameter belongs to estimates the curvature.
    fn keeps_curvature(&self, binding: &Binding<'_>) -> bool {
        let group = self.engine.slots.get(binding.name).map_or_else(
            || {
                let (name, shape) = (binding.name, binding.param.dims().into());
                let kind = binding.kind.unwrap_or_else(|| ModuleKind::guess(name, &shape));
                self.engine.setup.group_of(&ParamInfo { name, shape: &shape, kind })
            },
            |slot| slot.group,
        );
        self.engine.setup.groups[group].algorithm.hessian().is_some()
    }

    fn update_curvature_of(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        let (window, mut step) = self.split(false);
        step.begin(window, bindings)?;
        let (report, _) = step.prepare(bindings, GradState::Hessian)?;
        if report.skipped() {
            return Ok(report);
        }
        step.poison.guard(|begun| step.engine.execute_hessian(bindings, begun))?;
        Ok(report)
    }
}
