//! Offload: parameters and gradients on a device, states and parameters in full precision on the host.

use super::Engine;
use super::group::Group;
use super::setup::Setup;
use crate::params::slots::Slot;
use crate::program::Stage;
use crate::{AnyAlgorithm, Binding, Error, GradRef, ParamPrecision, ParamRef, Result};
use fallline_core::{Backend, Storage, fallible};
use std::sync::Arc;

/// Returns why an algorithm cannot be offloaded, if it cannot: only what is element-wise can be stepped in chunks.
///
/// # Errors
/// The reason.
pub fn can_offload(algorithm: &dyn AnyAlgorithm) -> Result<(), String> {
    let name = algorithm.name();
    let apart = |problem: &str| Err(format!("{name} cannot be offloaded: {problem}"));
    if algorithm.modifiers().lookahead.is_some() {
        return apart("Lookahead synchronizes parameters and slow weights in a separate pass");
    }
    for program in algorithm.programs() {
        let mut stages = program.iter();
        let alone = match (stages.next(), stages.next()) {
            (Some(Stage::Pass(kernel)), None) => kernel.sums.is_empty() && kernel.tensor_scalars.is_empty(),
            _ => false,
        };
        if !alone {
            return apart("it looks at whole tensors, not at one element after the other");
        }
    }
    Ok(())
}

impl Engine {
    /// Finds out where the parameters of the first step are. Returns the device that they are on, once, where it is another
    /// than that of the states.
    pub(crate) fn resolve_placement(&mut self, bindings: &[Binding<'_>]) -> Option<Arc<dyn Backend>> {
        let Setup { offload, backend, .. } = &mut self.setup;
        let unresolved = offload.as_mut().filter(|offload| !offload.resolved)?;
        let first = bindings.iter().find(|binding| !binding.grad.is_none())?;
        if first.param.device().is_none_or(|device| device == backend.device()) {
            *offload = None;
            return None;
        }
        unresolved.resolved = true;
        Some(Arc::clone(&unresolved.device))
    }
}

impl Setup {
    /// Returns where gradients and parameters are.
    pub(crate) fn param_backend(&self) -> &Arc<dyn Backend> {
        match &self.offload {
            Some(offload) if offload.resolved => &offload.device,
            _ => &self.backend,
        }
    }

    /// Returns whether parameters are on another device than states.
    pub(crate) fn is_offloaded(&self) -> bool {
        self.offload.as_ref().is_some_and(|offload| offload.resolved)
    }

    /// Checks what a step needs of its tensors where they are on another device than the states.
    pub(crate) fn check_offloaded(&self, binding: &Binding<'_>, slot: &Slot) -> Result<()> {
        let name = || binding.name.to_owned();
        let on_device = binding.param.device().is_some()
            && match &binding.grad {
                GradRef::Tensor(tensor) => tensor.storage().device().is_some(),
                GradRef::Lent(lent) => lent.device().is_some(),
                GradRef::Window(window) => window.sum.storage().device().is_some(),
                _ => false,
            };
        if matches!(binding.grad, GradRef::Rows(_)) {
            let reason = "an offloaded optimizer does not take row-sparse gradients";
            return Err(Error::GradKind { param: name(), reason: reason.into() });
        }
        if !on_device && !binding.grad.is_none() {
            let (expected, got) = (self.param_backend().device(), self.backend.device());
            return Err(Error::OtherDevice { param: name(), expected, got });
        }
        check_offloadable(&self.groups[slot.group])
    }

    /// Copies a parameter from where it is to memory of the engine's backend.
    pub(crate) fn fetch_param(&self, binding: &mut Binding<'_>, to: &mut Storage) -> Result<()> {
        let from = match &binding.param {
            ParamRef::Tensor(tensor) => tensor.storage(),
            ParamRef::Lent(lent) => lent.as_ref().storage(),
            _ => unreachable!("what is neither a tensor nor lent is on the host"),
        };
        let values = to.memory_mut().host_mut();
        match values {
            Some(values) => Ok(self.param_backend().read(from, values)?),
            None => {
                let mut values = fallible::zeroed::<f32>(from.len(), "a copy of a parameter")?;
                self.param_backend().read(from, values.as_mut_slice().into())?;
                Ok(self.backend.write(to, values.as_slice().into())?)
            }
        }
    }
}

/// Checks that a group's parameters can be stepped in chunks.
pub(crate) fn check_offloadable(group: &Group) -> Result<()> {
    let algorithm = group.algorithm.name();
    if let Err(problem) = can_offload(&*group.algorithm) {
        return Err(Error::Groups { algorithm, problem });
    }
    if matches!(group.params, ParamPrecision::StochasticRounding { .. }) {
        let problem =
            "it cannot be offloaded with stochastic rounding: parameters are kept in full precision";
        return Err(Error::Groups { algorithm, problem: problem.into() });
    }
    Ok(())
}
