//! What comes before a step: parameters found or made known, checked, and given their launch groups.

use super::Engine;
use super::group::{Group, ParamInfo};
use super::scalar_state::ScalarState;
use super::setup::Setup;
use crate::params::slots::Slot;
use crate::program::Variant;
use crate::{AnyAlgorithm, Binding, Error, GradRef, ModuleKind, ParamRef, Result};
use fallline_core::{Format, Role, Shape};

/// What is known of a step once its bindings are checked.
#[derive(Default)]
pub(crate) struct Prepared {
    pub(crate) without_grad: usize,
    pub(crate) lacks_states: bool,
    /// Whether a gradient names rows.
    pub(crate) has_rows: bool,
    /// Whether a parameter with a gradient is not contiguous.
    pub(crate) has_strided: bool,
}

impl Engine {
    /// Aligns the slots with the bindings' order, checks everything that can be wrong, and gives what can be stepped
    /// at once its launch group. One walk over the bindings: with many of them, walks are what a step costs.
    pub(crate) fn prepare(&mut self, bindings: &[Binding<'_>]) -> Result<Prepared> {
        let Engine { setup, slots, launches, shared, .. } = self;
        launches.begin(setup.groups.len());
        let mut prepared = Prepared::default();
        let mut usual = Usual { on_host: !setup.is_offloaded(), dense: None };
        for (i, binding) in bindings.iter().enumerate() {
            let slot = slots.align(i, binding.name, || setup.new_slot(binding))?;
            match usual.fits(setup, binding, slot) {
                true => slot.sparse = false,
                false => setup.check_binding(binding, slot)?,
            }
            slot.launch = None;
            if binding.grad.is_none() {
                prepared.without_grad += 1;
                continue;
            }
            prepared.has_rows |= slot.sparse;
            prepared.has_strided |= binding.param.is_strided();
            if setup.is_owned_by_other_rank(slot) {
                continue;
            }
            let place = launches.launch_index(setup, slot)?;
            if slot.layout_for == Some(place as u32) {
                launches.assign(setup, slot, place);
            } else {
                prepared.lacks_states = true;
            }
        }
        match launches.split_optimizer(shared) {
            None => Ok(prepared),
            Some(optimizer) => Err(Error::MixedCompute { algorithm: setup.optimizer(optimizer).name() }),
        }
    }
}

/// What nearly all bindings are: slices of the host's memory. It is asked first, so that a step over many of them
/// asks each little. What does not fit, or is something else, is checked in full and has its error.
struct Usual {
    /// Whether slices of the host are where parameters are expected.
    on_host: bool,
    /// A group that is known to take dense gradients.
    dense: Option<usize>,
}

impl Usual {
    /// Returns whether a binding is of this kind and all is well with it.
    #[inline]
    fn fits(&mut self, setup: &Setup, binding: &Binding<'_>, slot: &Slot) -> bool {
        let (ParamRef::Host(param, shape), GradRef::Host(grad, grad_shape)) = (&binding.param, &binding.grad)
        else {
            return false;
        };
        let flat = |shape: &Option<Shape>| shape.as_ref().is_none_or(|shape| shape.rank() == 1);
        let fits = self.on_host
            && param.len() == slot.len
            && grad.len() == slot.len
            && (flat(shape) || shape.as_ref() == Some(&slot.shape))
            && (flat(grad_shape) || grad_shape == shape)
            && setup.compute_of(param.format()) == slot.compute;
        fits && (self.dense == Some(slot.group) || self.takes_dense(setup, slot.group))
    }

    fn takes_dense(&mut self, setup: &Setup, group: usize) -> bool {
        let takes = setup.groups[group].algorithm.takes_dense().is_ok();
        self.dense = takes.then_some(group);
        takes
    }
}

impl Setup {
    /// Returns whether a state is stored in blocks, which rows would cut.
    fn has_blocks(&self, slot: &Slot) -> Result<bool> {
        let Group { algorithm, formats, .. } = &self.groups[slot.group];
        let stored =
            |state: &str| formats.resolve(&**algorithm, state, slot.shape.elements(), slot.compute.format());
        let states = self.program_of(slot)?.operands(Role::State);
        Ok(states.into_iter().any(|state| stored(state).block().is_some()))
    }

    /// Returns the slot of a parameter not seen before.
    pub(crate) fn new_slot(&self, binding: &Binding<'_>) -> Result<Slot> {
        binding.check_shaped()?;
        let shape: Shape = binding.param.dims().into();
        let kind = binding.kind.unwrap_or_else(|| ModuleKind::guess(binding.name, &shape));
        let group = self.group_of(&ParamInfo { name: binding.name, shape: &shape, kind });
        let Group { algorithm, params, .. } = &self.groups[group];
        let variant = variant_of(&**algorithm, binding.name, &shape)?;
        let format = binding.param.format();
        params.check(format).map_err(|expected| {
            let param = binding.name.to_owned();
            Error::ParamPrecision { param, expected, got: format }
        })?;
        let compute = self.compute_of(format);
        Ok(Slot {
            group,
            variant,
            kind,
            bits: self.groups[group].random_bits(),
            is_half: matches!(format, Format::Bf16 | Format::F16),
            memory: ScalarState::memory(
                algorithm.spec().memory.iter().map(|(_, initial)| *initial).collect(),
            ),
            ..Slot::new(binding.name, shape, compute)
        })
    }

    /// Checks everything that can be wrong with a binding.
    pub(crate) fn check_binding(&self, binding: &Binding<'_>, slot: &mut Slot) -> Result<()> {
        binding.check_shaped()?;
        let name = || binding.name.to_owned();
        let dims = binding.param.dims();
        if !dims.fit(&slot.shape) {
            return Err(Error::ParamShape { param: name(), expected: slot.shape.clone(), got: dims.into() });
        }
        slot.sparse = false;
        if let Some(grad) = binding.grad.as_rows() {
            let algorithm = &self.groups[slot.group].algorithm;
            let sparse =
                algorithm.takes_rows().map_err(|reason| Error::GradKind { param: name(), reason })?;
            let rows = slot.rows.get_or_insert_default();
            rows.check(grad, &slot.shape, sparse)
                .map_err(|problem| Error::Rows { param: name(), problem })?;
            if sparse.is_row_wise() && self.has_blocks(slot)? {
                let reason = "row-sparse gradients do not go with block-quantized states";
                return Err(Error::GradKind { param: name(), reason: reason.into() });
            }
            slot.sparse = true;
        } else if let Some(grad) = binding.grad.dims() {
            if !grad.fit_param(dims) {
                return Err(Error::GradShape { param: name(), expected: dims.into(), got: grad.into() });
            }
            let dense = self.groups[slot.group].algorithm.takes_dense();
            dense.map_err(|reason| Error::GradKind { param: name(), reason })?;
        }
        let expected = self.param_backend().device();
        for got in [binding.param.device(), binding.grad.device()].into_iter().flatten() {
            if got != expected {
                return Err(Error::OtherDevice { param: name(), expected, got });
            }
        }
        if matches!(binding.param, ParamRef::Lent(_))
            && self.ranks.as_ref().is_some_and(|ranks| ranks.sharded)
        {
            let algorithm = self.groups[slot.group].algorithm.name();
            let reason = "shards parameters over ranks, which takes tensors and not lent memory".to_owned();
            return Err(Error::Unfit { param: name(), shape: dims.into(), algorithm, reason });
        }
        if self.is_offloaded() {
            self.check_offloaded(binding, slot)?;
        }
        let format = binding.param.format();
        if self.compute_of(format) != slot.compute {
            return Err(Error::ParamFormat { param: name(), got: format });
        }
        Ok(())
    }
}

/// Returns the variant of a parameter, or why the algorithm does not take it.
pub(crate) fn variant_of(algorithm: &dyn AnyAlgorithm, param: &str, shape: &Shape) -> Result<Variant> {
    let variant = algorithm.variant(param, shape).map_err(|reason| Error::Unfit {
        param: param.to_owned(),
        shape: shape.clone(),
        algorithm: algorithm.name(),
        reason,
    })?;
    assert!(usize::from(variant.0) < Variant::COUNT, "{} has too many variants", algorithm.name());
    Ok(variant)
}
