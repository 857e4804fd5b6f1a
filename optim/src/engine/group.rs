//! Groups of parameters: an algorithm with its hyperparameters, and which parameters it takes.

use crate::params::mask::GroupMask;
use crate::{AnyAlgorithm, ModuleKind, ParamPrecision, StateStorage};
use fallline_core::Shape;
use std::sync::Arc;

/// A group of parameters with its hyperparameters.
pub(crate) struct Group {
    pub(crate) algorithm: Box<dyn AnyAlgorithm>,
    pub(crate) formats: StateStorage,
    pub(crate) params: ParamPrecision,
    pub(crate) mask: Option<Arc<GroupMask>>,
    pub(crate) matches: Box<dyn Fn(&ParamInfo<'_>) -> bool + Send>,
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
        let matches: Box<dyn Fn(&ParamInfo<'_>) -> bool + Send> = Box::new(|_| true);
        let (formats, params) = Default::default();
        Group { algorithm, formats, params, mask: None, matches, optimizer: 0 }
    }
}

/// Returns the algorithm of an optimizer instance's first group.
pub(crate) fn first_group_of(groups: &[Group], optimizer: usize) -> &(dyn AnyAlgorithm + 'static) {
    let first = groups.iter().find(|group| group.optimizer == optimizer);
    &*first.unwrap_or(&groups[0]).algorithm
}
