//! Groups of parameters: which belongs to which, with what hyperparameters, and of which optimizer.

use super::masks::GroupMask;
use super::shared::Shared;
use super::{Driver, Group};
use crate::hyper::Value;
use crate::{AnyAlgorithm, Error, ModuleKind, ParamFormat, Result, StateFormats};
use fallline_core::Shape;
use std::sync::Arc;

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

/// A rule that must match a parameter of the first step.
pub(crate) struct Expected {
    rule: String,
    matches: Box<dyn Fn(&str) -> bool + Send>,
}

impl Driver {
    /// Adds a group for the parameters whose names `matches` accepts, with the hyperparameters of the first
    /// group but for `overrides`. Where several groups match, the first added has it; parameters that match
    /// none stay in group 0. Parameters that were stepped already stay where they are.
    ///
    /// # Errors
    /// When a hyperparameter does not exist, has another type or is out of range.
    pub fn add_group(
        &mut self,
        matches: impl Fn(&str) -> bool + Send + 'static,
        overrides: &[(&str, Value)],
    ) -> Result<usize> {
        let mut algorithm = self.groups[0].algorithm.boxed();
        algorithm.set(overrides)?;
        let Group { formats, params, mask, family, .. } = &self.groups[0];
        let (stored, family) = ((formats.clone(), *params, mask.clone()), *family);
        Ok(self.push_group(algorithm, stored, move |member| matches(member.name), family))
    }

    /// Adds a group of an algorithm with all its hyperparameters, for the parameters that `matches` accepts; as
    /// [`add_group`](Driver::add_group) otherwise. `beside` is the group of whose optimizer it is a part, which must
    /// be of the same algorithm: what an algorithm knows of all parameters together (a norm, an estimate) it knows of
    /// those of one optimizer, and its states are stored as there. Without, the group is an optimizer of its own.
    ///
    /// # Errors
    /// [`Error::Groups`] where the algorithm is another than that of `beside`.
    pub fn add_group_of(
        &mut self,
        algorithm: Box<dyn AnyAlgorithm>,
        matches: impl Fn(&Member<'_>) -> bool + Send + 'static,
        beside: Option<usize>,
    ) -> Result<usize> {
        let refused = |name, problem: String| Err(Error::Groups { algorithm: name, problem });
        self.same_lookahead(algorithm.name(), algorithm.modifiers().lookahead)?;
        let mut storing = (StateFormats::default(), ParamFormat::default(), None);
        let family = match beside {
            None => self.groups.iter().map(|group| group.family + 1).max().unwrap_or(0),
            Some(group) => {
                let count = self.groups.len();
                let beside = self.groups.get(group).ok_or(Error::NoGroup { group, count })?;
                if beside.algorithm.name() != algorithm.name() {
                    let other = beside.algorithm.name();
                    return refused(algorithm.name(), format!("a group of it cannot be part of {other}"));
                }
                storing = (beside.formats.clone(), beside.params, beside.mask.clone());
                beside.family
            }
        };
        Ok(self.push_group(algorithm, storing, matches, family))
    }

    fn push_group(
        &mut self,
        algorithm: Box<dyn AnyAlgorithm>,
        (formats, params, mask): (StateFormats, ParamFormat, Option<Arc<GroupMask>>),
        matches: impl Fn(&Member<'_>) -> bool + Send + 'static,
        family: usize,
    ) -> usize {
        if family == self.shared.len() {
            let shared = algorithm.spec().shared.iter().map(|(_, initial)| *initial).collect();
            self.shared.push(Shared::new(shared));
        }
        self.groups.push(Group { algorithm, formats, params, mask, matches: Box::new(matches), family });
        self.groups.len() - 1
    }

    /// Has the first step fail with [`Error::Unmatched`] if none of its parameters' names is accepted: for the
    /// rules of a configuration, in which a mistake would go unnoticed.
    pub fn expect_match(&mut self, rule: &str, matches: impl Fn(&str) -> bool + Send + 'static) {
        self.expected.push(Expected { rule: rule.to_owned(), matches: Box::new(matches) });
    }

    /// Fails where no parameter that is known is matched by a rule that must match one.
    pub(super) fn check_expected(&self) -> Result<()> {
        for Expected { rule, matches } in &self.expected {
            if !self.slots.iter().any(|slot| matches(&slot.name)) {
                return Err(Error::Unmatched { rule: rule.clone() });
            }
        }
        Ok(())
    }

    /// The group of a parameter not seen before.
    pub fn group_of(&self, member: &Member<'_>) -> usize {
        self.groups.iter().skip(1).position(|group| (group.matches)(member)).map_or(0, |place| place + 1)
    }

    /// The algorithm of a group with its hyperparameters.
    pub fn algorithm_of(&self, group: usize) -> Option<&dyn AnyAlgorithm> {
        self.groups.get(group).map(|group| &*group.algorithm)
    }
}
