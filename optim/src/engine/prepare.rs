//! What comes before a step: parameters found or made known, checked, and sorted into runs.

use super::run::Run;
use super::together::first_of;
use super::{Driver, Group, Member};
use crate::program::{AnySite, Program, Variant};
use crate::slots::Slot;
use crate::{AnyAlgorithm, Binding, Error, MaskPolicy, ModuleKind, Result};
use fallline_core::{Compute, Format, Groups, Role, Shape};

/// What is known of a step once its bindings are checked.
pub(super) struct Prepared {
    pub(super) without_grad: usize,
    pub(super) lacks_states: bool,
}

impl Driver {
    /// What a step over a parameter consists of.
    ///
    /// # Errors
    /// [`Error::Groups`], when the groups do not go together.
    pub(super) fn program_of(&self, slot: &Slot) -> Result<Program> {
        let Group { algorithm, family, .. } = &self.groups[slot.group];
        let mine = || self.groups.iter().filter(|group| group.family == *family);
        // A mask comes between the momentum and the parameter, and all parameters take the same stages.
        let masked = || {
            let policy = algorithm.spec().replicas.momentum_mask;
            policy == MaskPolicy::Always && mine().any(|group| group.mask.is_some())
        };
        let distributed = self.world.is_some() || (self.masked && masked());
        let hyper_of =
            |group: usize| mine().nth(group).map_or(&**algorithm, |group| &*group.algorithm).hyper();
        let groups = Groups::new(mine().count(), &hyper_of);
        let program = algorithm.program_at(&AnySite::new(slot.variant, distributed, &groups));
        program.map_err(|problem| Error::Groups { algorithm: algorithm.name(), problem })
    }

    pub(super) fn compute_of(&self, format: Format) -> Compute {
        self.compute.unwrap_or(match format {
            Format::F64 => Compute::F64,
            _ => Compute::F32,
        })
    }

    /// Whether how an element is stored depends on its place in the parameter.
    fn counts_elements(&self, slot: &Slot) -> Result<bool> {
        let Group { algorithm, formats, .. } = &self.groups[slot.group];
        let stored =
            |state: &str| formats.choose(&**algorithm, state, slot.shape.elements(), slot.compute.format());
        let states = self.program_of(slot)?.operands(Role::State);
        Ok(slot.seed.is_some() || states.into_iter().any(|state| stored(state).block().is_some()))
    }

    /// Brings the slots into the bindings' order, checks everything that can be wrong, and gives what can be
    /// stepped at once its run. One walk over the bindings: with many of them, walks are what a step costs.
    pub(super) fn prepare(&mut self, bindings: &[Binding<'_>]) -> Result<Prepared> {
        self.locate(bindings)?;
        let mut prepared = Prepared { without_grad: 0, lacks_states: false };
        let mut slots = core::mem::take(&mut self.slots);
        let mut runs = core::mem::take(&mut self.runs);
        let mut places = core::mem::take(&mut self.places);
        places.clear();
        places.resize(self.groups.len(), [None; 2 * Variant::COUNT]);
        runs.iter_mut().for_each(Run::clear);
        let checked: Result<()> = bindings.iter().enumerate().try_for_each(|(i, binding)| {
            let slot = slots.place(i, binding.name, || self.new_slot(binding))?;
            self.check_binding(binding, slot)?;
            slot.run = None;
            if binding.grad.is_none() {
                prepared.without_grad += 1;
                return Ok(());
            }
            if self.is_elsewhere(slot) {
                return Ok(());
            }
            let place = self.run_of(&mut runs, &mut places, slot)?;
            if slot.fits == Some(place) {
                join(&self.groups, &mut runs[place], slot, place);
            } else {
                prepared.lacks_states = true;
            }
            Ok(())
        });
        (self.slots, self.runs, self.places) = (slots, runs, places);
        checked?;
        let mut runs = self.runs.iter().filter(|run| !run.is_empty());
        // Groups may have stages of their own, but what is gathered over a group must be in one run.
        let mut apart = None;
        while let Some(run) = runs.next() {
            let gathers = |other: &Run| run.program == other.program && run.program.is_global();
            let shares = !self.shared[run.family].is_empty();
            let others = |other: &Run| other.family == run.family && (shares || gathers(other));
            apart = apart.or(runs.clone().any(others).then_some(run.family));
        }
        match apart {
            None => Ok(prepared),
            Some(family) => Err(Error::MixedCompute { algorithm: first_of(&self.groups, family).name() }),
        }
    }

    /// The place of the run that a parameter belongs to, made if there is none.
    pub(super) fn run_of(
        &self,
        runs: &mut Vec<Run>,
        places: &mut [[Option<usize>; 2 * Variant::COUNT]],
        slot: &Slot,
    ) -> Result<usize> {
        let key = usize::from(slot.variant.0) * 2 + usize::from(slot.compute == Compute::F64);
        if let Some(place) = places[slot.group][key] {
            return Ok(place);
        }
        let (program, family, compute) =
            (self.program_of(slot)?, self.groups[slot.group].family, slot.compute);
        let same = |run: &Run| run.program == program && run.compute == compute && run.family == family;
        let place = runs.iter().position(same).unwrap_or_else(|| {
            runs.push(Run::new(program, compute, family, &*self.groups[slot.group].algorithm));
            runs.len() - 1
        });
        places[slot.group][key] = Some(place);
        Ok(place)
    }

    /// The slot of a parameter not seen before.
    pub(super) fn new_slot(&self, binding: &Binding<'_>) -> Result<Slot> {
        let shape: Shape = binding.param.extents().into();
        let kind = binding.kind.unwrap_or_else(|| ModuleKind::guess(binding.name, &shape));
        let group = self.group_of(&Member { name: binding.name, shape: &shape, kind });
        let Group { algorithm, params, .. } = &self.groups[group];
        let variant = variant_of(&**algorithm, binding.name, &shape)?;
        let format = binding.param.format();
        params.check(format).map_err(|expected| {
            let param = binding.name.to_owned();
            Error::ParamPrecision { param, expected, got: format }
        })?;
        Ok(Slot {
            name: binding.name.to_owned(),
            shape,
            group,
            compute: self.compute_of(binding.param.format()),
            steps: 0,
            variant,
            fits: None,
            states: Vec::new(),
            master: None,
            seed: params.seed(),
            narrow: matches!(format, Format::Bf16 | Format::F16),
            scratch: Vec::new(),
            memory: algorithm.spec().memory.iter().map(|(_, initial)| *initial).collect(),
            mirror: None,
            rows: None,
            sparse: false,
            owner: None,
            mean: None,
            kind,
            errors: None,
            mask: None,
            run: None,
            row: 0,
        })
    }

    pub(super) fn check_binding(&self, binding: &Binding<'_>, slot: &mut Slot) -> Result<()> {
        let name = || binding.name.to_owned();
        let extents = binding.param.extents();
        if !extents.fit(&slot.shape) {
            return Err(Error::ParamShape {
                param: name(),
                expected: slot.shape.clone(),
                got: extents.into(),
            });
        }
        slot.sparse = false;
        if let Some(grad) = binding.grad.as_rows() {
            let algorithm = &self.groups[slot.group].algorithm;
            let sparse =
                algorithm.takes_rows().map_err(|reason| Error::GradKind { param: name(), reason })?;
            let rows = slot.rows.get_or_insert_default();
            rows.check(grad, &slot.shape, sparse)
                .map_err(|problem| Error::Rows { param: name(), problem })?;
            if sparse.is_by_row() && self.counts_elements(slot)? {
                let reason = "row-sparse gradients do not go with states in blocks or rounding by chance";
                return Err(Error::GradKind { param: name(), reason: reason.into() });
            }
            slot.sparse = true;
        } else if let Some(grad) = binding.grad.extents() {
            if !grad.fit_param(extents) {
                return Err(Error::GradShape { param: name(), expected: extents.into(), got: grad.into() });
            }
            let dense = self.groups[slot.group].algorithm.takes_dense();
            dense.map_err(|reason| Error::GradKind { param: name(), reason })?;
        }
        let expected = self.near().device();
        for got in [binding.param.device(), binding.grad.device()].into_iter().flatten() {
            if got != expected {
                return Err(Error::OtherDevice { param: name(), expected, got });
            }
        }
        if self.is_away() {
            self.check_away(binding, slot)?;
        }
        let format = binding.param.format();
        if self.compute_of(format) != slot.compute {
            return Err(Error::ParamFormat { param: name(), got: format });
        }
        Ok(())
    }
}

/// The variant of a parameter, or why the algorithm does not take it.
pub(super) fn variant_of(algorithm: &dyn AnyAlgorithm, param: &str, shape: &Shape) -> Result<Variant> {
    let variant = algorithm.variant(param, shape).map_err(|reason| Error::Unfit {
        param: param.to_owned(),
        shape: shape.clone(),
        algorithm: algorithm.name(),
        reason,
    })?;
    assert!(usize::from(variant.0) < Variant::COUNT, "{} has too many variants", algorithm.name());
    Ok(variant)
}

/// Gives a parameter with states its run and its row of scalars.
pub(super) fn join(groups: &[Group], run: &mut Run, slot: &mut Slot, place: usize) {
    slot.run = Some(place);
    slot.row = run.row(slot.group, slot.steps + 1, &*groups[slot.group].algorithm);
}
