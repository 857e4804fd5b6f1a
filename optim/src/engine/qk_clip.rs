//! Rows of parameters, each multiplied by a number, apart from steps.

use super::Engine;
use crate::params::slots::Slot;
use crate::{Binding, Error, Result};
use core::ops::Range;
use fallline_core::backend::{Pass, TensorPass, View};

/// Rows of a bound parameter, and what they are multiplied by.
pub(crate) struct Scaled {
    /// Which of the bindings it is.
    pub(crate) place: usize,
    pub(crate) rows: Vec<(Range<usize>, f64)>,
}

/// A stage of no program, for the random bits of what is rounded stochastically.
const STAGE: usize = crate::program::MAX_STAGES + 1;

impl Engine {
    /// Checks what can be wrong before anything is scaled.
    ///
    /// # Errors
    /// A binding of another shape or type, and parameters on another device than their master weights.
    pub(crate) fn check_scaled(&mut self, params: &[Binding<'_>], scaled: &[Scaled]) -> Result<()> {
        let Engine { setup, slots, .. } = self;
        if setup.is_offloaded() {
            let problem = "the weights of an offloaded optimizer cannot be scaled".into();
            return Err(Error::Groups { algorithm: setup.name(), problem });
        }
        for binding in scaled.iter().map(|scaled| &params[scaled.place]) {
            if let Some(slot) = slots.get_mut(binding.name) {
                setup.check_binding(binding, slot)?;
            }
        }
        Ok(())
    }

    /// Multiplies rows of parameters. What is not contiguous is in its buffer then, of all that are bound.
    ///
    /// # Errors
    /// When the device fails.
    pub(crate) fn scale_rows(&mut self, params: &mut [Binding<'_>], scaled: &[Scaled]) -> Result<()> {
        let Engine { setup, slots, .. } = self;
        let (backend, kernel) = (&*setup.backend, setup.builtins.scale());
        params.iter_mut().for_each(|binding| binding.param.gather());
        for (i, Scaled { place, rows }) in scaled.iter().enumerate() {
            let binding = &mut params[*place];
            let Some(slot) = slots.get_mut(binding.name) else { continue };
            let Slot { bits, name, steps, master, shape, compute, .. } = slot;
            let width = shape.elements() / shape.dims().first().copied().unwrap_or(1).max(1);
            let mut staged = setup.upload_param(binding)?;
            let param = match &mut staged {
                Some(storage) => View::write(storage),
                None => binding.param.view(),
            };
            let param = match master.as_deref_mut() {
                Some(master) => View::write(master).with_cast_copy(param),
                None => param,
            };
            let mut rest = match bits.of_param {
                true => param.with_stochastic_rounding(bits.key(name, *steps, STAGE, i % 256)),
                false => param,
            };
            let (mut heads, mut passed) = (rows.iter(), 0);
            let scales: Vec<f64> = rows.iter().map(|(_, scale)| *scale).collect();
            backend.run(Pass {
                kernel,
                compute: *compute,
                tensors: &mut |operands| {
                    let (rows, _) = heads.next()?;
                    let (skip, elements) = ((rows.start - passed) * width, rows.len() * width);
                    passed = rows.end;
                    operands[0] = Some(rest.take(skip, elements));
                    Some(TensorPass { elements, constant_set: 0 })
                },
                constants: &[1.0],
                tensor_scalars: &scales,
                fused: &[],
                plan: &mut backend.plan(),
                sums: &mut [],
                checked: false,
            })?;
            if let (Some(storage), Some(slice)) = (&staged, binding.param.host()) {
                backend.read(storage, slice)?;
            }
        }
        Ok(())
    }
}
