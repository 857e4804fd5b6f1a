//! Auxiliary passes: rules over a parameter and its states apart from steps.

use super::setup::Setup;
use crate::params::slots::Slot;
use crate::program::MAX_STAGES;
use crate::{Binding, Result};
use fallline_core::backend::{Pass, TensorPass, View};
use fallline_core::{Kernel, Role, Storage};

impl Setup {
    /// Runs a rule over a parameter and its states, apart from steps, with the scalars of a row and the tensor's own.
    /// What is not contiguous is in its buffer. Where it is not `lasting`, the parameter in full precision stays as
    /// it is.
    pub(crate) fn run_auxiliary(
        &self,
        kernel: &'static Kernel,
        binding: &mut Binding<'_>,
        slot: &mut Slot,
        (row, own_scalars): (&[f64], &[f64]),
        lasting: bool,
    ) -> Result<()> {
        let (backend, elements) = (&*self.backend, slot.shape.elements());
        let mut copied = match &slot.master {
            Some(master) if !lasting => {
                let mut copy = backend.allocate(&[(master.format(), master.len())])?.remove(0);
                backend.copy(master, &mut copy)?;
                Some(copy)
            }
            _ => None,
        };
        let mut staged = self.upload_param(binding)?;
        let param = match &mut staged {
            Some(storage) => View::write(storage),
            None => binding.param.view(),
        };
        let param = match copied.as_mut().or(slot.master.as_deref_mut()) {
            Some(master) => View::write(master).with_cast_copy(param),
            None => param,
        };
        let place = |name: &str| kernel.operands.iter().position(|operand| operand.name == name);
        let own = kernel.operands.iter().position(|operand| operand.role == Role::Param);
        let (bits, name, steps) = (slot.bits, &slot.name, slot.steps);
        let key = |operand| bits.key(name, steps, MAX_STAGES, operand);
        let param = match bits.of_param {
            true => param.with_stochastic_rounding(key(own.unwrap_or(0))),
            false => param,
        };
        let mut views = slot.states.iter_mut();
        let views = views.by_ref().filter_map(|(name, state)| {
            let place = place(name)?;
            let stochastic = state.rounds_stochastically() && !bits.of_param;
            let view = View::write(state);
            Some((place, if stochastic { view.with_stochastic_rounding(key(place)) } else { view }))
        });
        let mut views = Some(views.chain(own.map(|own| (own, param))));
        backend.run(Pass {
            kernel,
            compute: slot.compute,
            tensors: &mut |operands| {
                views.take()?.for_each(|(place, view)| operands[place] = Some(view));
                Some(TensorPass { elements, constant_set: 0 })
            },
            constants: row,
            tensor_scalars: own_scalars,
            fused: &[],
            plan: &mut backend.plan(),
            sums: &mut [],
            checked: false,
        })?;
        if let (Some(storage), Some(slice)) = (&staged, binding.param.host()) {
            backend.read(storage, slice)?;
        }
        Ok(())
    }

    /// Returns a copy of a parameter on a device that does not reach it.
    pub(super) fn upload_param(&self, binding: &mut Binding<'_>) -> Result<Option<Storage>> {
        let backend = &*self.backend;
        let Some(slice) = binding.param.host().filter(|_| !backend.is_host_accessible()) else {
            return Ok(None);
        };
        let mut storage = backend.allocate(&[(slice.format(), slice.len())])?.remove(0);
        backend.write(&mut storage, slice.as_ref())?;
        Ok(Some(storage))
    }
}
