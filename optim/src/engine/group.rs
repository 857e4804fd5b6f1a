//! Groups of parameters: an algorithm with hyperparameters of its own, and which parameters it takes.

use crate::params::mask::GroupMask;
use crate::{AnyAlgorithm, ModuleKind, ParamFormat, StateFormats};
use fallline_core::Shape;
use std::sync::Arc;

/// A group of parameters with hyperparameters of its own.
pub(crate) struct Group {
    pub(crate) algorithm: Box<dyn AnyAlgorithm>,
    pub(crate) formats: StateFormats,
    pub(crate) params: ParamFormat,
    pub(crate) mask: Option<Arc<GroupMask>>,
    pub(crate) matches: Box<dyn Fn(&Member<'_>) -> bool + Send>,
    /// The optimizer that it is a part of.
    pub(crate) family: usize,
}

/// A parameter as rules see it that put parameters into groups.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its extents when it is first bound. A slice that is bound without a shape has one dimension.
    pub shape: &'a Shape,
    /// The kind of module that it belongs to.
    pub kind: ModuleKind,
}

impl Group {
    /// The group of all parameters.
    pub(crate) fn of_all(algorithm: Box<dyn AnyAlgorithm>) -> Group {
        let matches: Box<dyn Fn(&Member<'_>) -> bool + Send> = Box::new(|_| true);
        let (formats, params) = Default::default();
        Group { algorithm, formats, params, mask: None, matches, family: 0 }
    }
}

/// The algorithm of a family's first group.
pub(crate) fn first_of(groups: &[Group], family: usize) -> &(dyn AnyAlgorithm + 'static) {
    let first = groups.iter().find(|group| group.family == family);
    &*first.unwrap_or(&groups[0]).algorithm
}
