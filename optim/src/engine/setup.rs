//! What a step depends on and does not change: where memory is, the groups, the ranks.

use super::group::{Group, ParamInfo, first_group_of};
use crate::params::slots::Slot;
use crate::program::{AnySite, Program};
use crate::{AnyAlgorithm, Error, MaskPolicy, Result};
use fallline_core::Builtins;
use fallline_core::ranks::Communicator;
use fallline_core::{Backend, Compute, Format, Groups, Role};
use std::path::PathBuf;
use std::sync::Arc;

/// Where memory is, the groups, the ranks.
pub(crate) struct Setup {
    /// Where states are, and where passes run.
    pub(crate) backend: Arc<dyn Backend>,
    /// Another device, on which parameters and gradients are.
    pub(crate) offload: Option<Offload>,
    /// The folder that states are paged to, where it was chosen.
    pub(crate) spill_dir: Option<PathBuf>,
    /// The rules that run whatever the algorithm is.
    pub(crate) builtins: &'static Builtins,
    /// The compute type, where it was chosen.
    pub(crate) compute: Option<Compute>,
    pub(crate) groups: Vec<Group>,
    /// Whether a group ever had a mask.
    pub(crate) masked: bool,
    /// The ranks that step together, if there are several.
    pub(crate) ranks: Option<Ranks>,
}

/// Another device than that of the states, with parameters and gradients.
pub(crate) struct Offload {
    pub(crate) device: Arc<dyn Backend>,
    /// Whether they are there, once it is known.
    pub(crate) resolved: bool,
}

/// The ranks that step together, as far as passes depend on them.
pub(crate) struct Ranks {
    pub(crate) comm: Arc<dyn Communicator>,
    /// Whether each parameter is updated by one rank only.
    pub(crate) sharded: bool,
}

impl Setup {
    /// Makes one group of all parameters.
    pub(crate) fn new(backend: Arc<dyn Backend>, algorithm: Box<dyn AnyAlgorithm>) -> Setup {
        Setup {
            backend,
            offload: None,
            spill_dir: None,
            builtins: algorithm.builtins(),
            compute: None,
            groups: vec![Group::of_all(algorithm)],
            masked: false,
            ranks: None,
        }
    }

    /// Returns the first group's algorithm's name.
    pub(crate) fn name(&self) -> &'static str {
        self.groups[0].algorithm.name()
    }

    /// Returns the algorithm of an optimizer instance's first group.
    pub(crate) fn optimizer(&self, optimizer: usize) -> &(dyn AnyAlgorithm + 'static) {
        first_group_of(&self.groups, optimizer)
    }

    /// Returns the algorithm of a parameter.
    pub(crate) fn algorithm(&self, slot: &Slot) -> &(dyn AnyAlgorithm + 'static) {
        &*self.groups[slot.group].algorithm
    }

    /// Returns the group of a parameter not seen before.
    pub(crate) fn group_of(&self, member: &ParamInfo<'_>) -> usize {
        self.groups.iter().skip(1).position(|group| (group.matches)(member)).map_or(0, |place| place + 1)
    }

    /// Returns what a step over a parameter consists of.
    ///
    /// # Errors
    /// [`Error::Groups`], when the groups do not go together.
    pub(crate) fn program_of(&self, slot: &Slot) -> Result<Program> {
        let Group { algorithm, optimizer, .. } = &self.groups[slot.group];
        let mine = || self.groups.iter().filter(|group| group.optimizer == *optimizer);
        // A mask comes between the momentum and the parameter, and all parameters take the same stages.
        let masked = || {
            let policy = algorithm.spec().replicas.momentum_mask;
            policy == MaskPolicy::Always && mine().any(|group| group.mask.is_some())
        };
        let distributed = self.ranks.is_some() || (self.masked && masked());
        let hyper_of =
            |group: usize| mine().nth(group).map_or(&**algorithm, |group| &*group.algorithm).hyper();
        let groups = Groups::new(mine().count(), &hyper_of);
        let program = algorithm.program_at(&AnySite::new(slot.variant, distributed, &groups));
        program.map_err(|problem| Error::Groups { algorithm: algorithm.name(), problem })
    }

    /// Returns the states of a parameter's program.
    pub(crate) fn states_of(&self, slot: &Slot) -> Vec<&'static str> {
        self.program_of(slot).unwrap_or(Program::EMPTY).operands(Role::State)
    }

    /// Returns the compute type of parameters stored as `format`.
    pub(crate) fn compute_of(&self, format: Format) -> Compute {
        self.compute.unwrap_or(match format {
            Format::F64 => Compute::F64,
            _ => Compute::F32,
        })
    }

    /// Returns whether a parameter is updated by another rank.
    pub(crate) fn is_owned_by_other_rank(&self, slot: &Slot) -> bool {
        let elsewhere = |ranks: &Ranks| slot.owner.is_some_and(|owner| owner != ranks.comm.rank());
        self.ranks.as_ref().is_some_and(elsewhere)
    }

    /// Returns whether the replicas of a parameter have diverged at this time.
    pub(crate) fn has_diverged(&self, slot: &Slot) -> bool {
        self.algorithm(slot).spec().replicas.have_diverged(slot.memory())
    }
}
