//! The launch groups of an engine, and which of them a parameter belongs to.

use super::launch::LaunchGroup;
use super::scalar_state::ScalarState;
use super::setup::Setup;
use crate::Result;
use crate::params::slots::Slot;
use crate::program::{Program, Variant};
use fallline_core::{Compute, Storage};

/// All launch groups so far.
#[derive(Default)]
pub(crate) struct Launches {
    pub(super) list: Vec<LaunchGroup>,
    /// For each group of parameters the places of its launch groups, by variant and compute type, as far as the step being
    /// taken asked.
    index: Vec<[Option<usize>; 2 * Variant::COUNT]>,
    /// Whether the next parameters belong to the same step as the last ones: rows of scalars stay.
    pub(crate) continues: bool,
    /// Memory that the chunks of offloaded parameters go through, as far as it is free.
    pub(super) free: Vec<Storage>,
}

impl Launches {
    /// Forgets the last step, or, within an incremental one, only its last parameters.
    pub(crate) fn begin(&mut self, groups: usize) {
        if self.continues {
            return self.list.iter_mut().for_each(LaunchGroup::next);
        }
        self.index.clear();
        self.index.resize(groups, [None; 2 * Variant::COUNT]);
        self.list.iter_mut().for_each(LaunchGroup::clear);
    }

    /// Returns the place of the launch group that a parameter belongs to, made if there is none.
    ///
    /// # Errors
    /// As [`Setup::program_of`].
    #[inline]
    pub(crate) fn launch_index(&mut self, setup: &Setup, slot: &Slot) -> Result<usize> {
        let key = usize::from(slot.variant.0) * 2 + usize::from(slot.compute == Compute::F64);
        match self.index[slot.group][key] {
            Some(place) => Ok(place),
            None => self.find(setup, slot, key),
        }
    }

    #[cold]
    fn find(&mut self, setup: &Setup, slot: &Slot, key: usize) -> Result<usize> {
        let (program, optimizer, compute) =
            (setup.program_of(slot)?, setup.groups[slot.group].optimizer, slot.compute);
        let same = |launch: &LaunchGroup| {
            launch.program == program && launch.compute == compute && launch.optimizer == optimizer
        };
        let place = self.list.iter().position(same).unwrap_or_else(|| {
            self.list.push(LaunchGroup::new(program, compute, optimizer, setup.algorithm(slot)));
            self.list.len() - 1
        });
        self.index[slot.group][key] = Some(place);
        self.list[place].is_asked_for = true;
        Ok(place)
    }

    /// Returns the program of a launch group.
    pub(crate) fn program(&self, place: usize) -> &Program {
        &self.list[place].program
    }

    /// Gives a parameter with states its launch group and its row of scalars.
    #[inline]
    pub(crate) fn assign(&mut self, setup: &Setup, slot: &mut Slot, place: usize) {
        slot.launch = Some(place as u32);
        let launch = &mut self.list[place];
        launch.tensors += 1;
        slot.constant_set = launch.constants_for(slot.group, slot.steps + 1, setup.algorithm(slot)) as u32;
    }

    /// Returns a family whose parameters must be in one launch group and are not. Groups may have stages of their
    /// own, but what is summed up over a group must be in one.
    pub(crate) fn split_optimizer(&self, shared: &[ScalarState]) -> Option<usize> {
        let mut used = self.list.iter().filter(|launch| launch.is_asked_for);
        while let Some(launch) = used.next() {
            let global = |other: &LaunchGroup| other.program == launch.program && launch.program.is_global();
            let shares = !shared[launch.optimizer].is_empty();
            let others =
                |other: &LaunchGroup| other.optimizer == launch.optimizer && (shares || global(other));
            if used.clone().any(others) {
                return Some(launch.optimizer);
            }
        }
        None
    }

    /// Multiplies the gradients of this step by a factor.
    pub(crate) fn scale(&mut self, factor: f64) {
        self.list.iter_mut().for_each(|launch| launch.scale(factor));
    }
}
