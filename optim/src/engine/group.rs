//! Groups of parameters: an algorithm with its hyperparameters, and which parameters it takes.

use crate::params::mask::GroupMask;
use crate::params::slots::RandomBits;
use crate::{AnyAlgorithm, ModuleKind, ParamPrecision, StateStorage};
use fallline_core::{Shape, Storage};
use std::sync::Arc;

/// A group of parameters with its hyperparameters.
pub(crate) struct Group {
    pub(crate) algorithm: Box<dyn AnyAlgorithm>,
    pub(crate) formats: StateStorage,
    pub(crate) params: ParamPrecision,
    pub(crate) mask: Option<Arc<GroupMask>>,
    pub(crate) matches: Box<dyn Fn(&ParamInfo<'_>) -> bool + Send + Sync>,
    /// The optimizer that it is a part of.
    pub(crate) optimizer: usize,
}

/// A parameter as rules see it that put parameters into groups.
#[derive(Clone, Copy, Debug)]
pub struct ParamInfo<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its shape when it is first bound. A slice that is bound without a shape has one dimension.
    pub shape: &'a Shape,
    /// The kind of module that it belongs to.
    pub kind: ModuleKind,
}

impl Group {
    /// Returns the group of all parameters.
    pub(crate) fn of_all(algorithm: Box<dyn AnyAlgorithm>) -> Group {
        let matches: Box<dyn Fn(&ParamInfo<'_>) -> bool + Send + Sync> = Box::new(|_| true);
        let (formats, params) = Default::default();
        Group { algorithm, formats, params, mask: None, matches, optimizer: 0 }
    }

    /// Returns whose random bits a parameter takes that was not seen before.
    pub(crate) fn random_bits(&self) -> RandomBits {
        let seed = self.params.seed();
        RandomBits { seed: seed.unwrap_or(self.formats.seed()), of_param: seed.is_some() }
    }

    /// Returns a state's memory, marked for the rounding that it has in this group.
    pub(crate) fn mark_rounding(&self, state: &str, storage: Storage) -> Storage {
        let Group { algorithm, formats, params, .. } = self;
        let stochastic = formats.rounds_stochastically(&**algorithm, state, storage.format(), *params);
        storage.rounded_stochastically(stochastic)
    }
}

/// Returns the algorithm of an optimizer instance's first group.
pub(crate) fn first_group_of(groups: &[Group], optimizer: usize) -> &(dyn AnyAlgorithm + 'static) {
    let first = groups.iter().find(|group| group.optimizer == optimizer);
    &*first.unwrap_or(&groups[0]).algorithm
}
