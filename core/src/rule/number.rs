//! Numbers between two passes as a rule declares them.

use crate::{Vector, math};

/// The vocabulary of numbers between passes: that of rules, and powers of a count.
pub trait Number: Vector {
    /// Returns `self` to the power of a count, with the bits of [`math::pow`].
    fn pow(self, count: Self) -> Self;
}

impl Number for f64 {
    fn pow(self, count: f64) -> f64 {
        math::pow(self, count as u64)
    }
}

/// A number that is the same for many elements, computed once a step on the host in `f64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScalarDef {
    /// Its name in the rule.
    pub name: &'static str,
    /// How it is computed, as written in the rule.
    pub formula: &'static str,
}

/// Over which tensors totals are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// All tensors of the optimizer.
    All,
    /// The same, added up one after the other instead of in the order of [`sums::fold`](crate::reduction::tree_reduce).
    InTurn,
    /// Those of the tensor's own group.
    Group,
}

/// What a rule's tensor scalars are computed from, by name. Declared by [`rule!`](crate::rule!).
#[derive(Clone, Copy, Debug)]
pub struct Declared {
    /// The sums of the pass before that are read.
    pub reads: &'static [&'static str],
    /// The parameter's scalars that are read and changed.
    pub memory: &'static [&'static str],
    /// The shared scalars that are read and changed.
    pub shared: &'static [&'static str],
    /// Numbers that the host computes once for all tensors.
    pub once: &'static [ScalarDef],
    /// Numbers that the host computes for each tensor.
    pub each: &'static [ScalarDef],
    /// Totals over tensors.
    pub totals: &'static [&'static str],
    /// Over which.
    pub over: Over,
    /// Whether it sees all tensors at once, though it may have no totals.
    pub global: bool,
    /// Whether the pass is left out in some steps.
    pub may_skip: bool,
}

impl Declared {
    /// A rule whose tensor scalars, if any, are given by who runs it.
    pub const NONE: Declared = Declared {
        reads: &[],
        memory: &[],
        shared: &[],
        once: &[],
        each: &[],
        totals: &[],
        over: Over::All,
        global: false,
        may_skip: false,
    };

    /// Returns whether any of it depends on sums, or on scalars that are kept.
    pub const fn depends(&self) -> bool {
        !(self.reads.is_empty() && self.memory.is_empty() && self.shared.is_empty() && self.totals.is_empty())
    }

    /// Returns whether the rule says itself how its tensor scalars are found.
    pub const fn is_given(&self) -> bool {
        !(self.once.is_empty() && self.each.is_empty() && self.reads.is_empty() && self.shared.is_empty())
    }
}

/// The inputs of recorded numbers, in the order in which they were declared.
#[derive(Clone, Copy, Debug)]
pub struct Numbers<'a, N> {
    /// [`Declared::once`].
    pub once: &'a [N],
    /// [`Declared::each`].
    pub each: &'a [N],
    /// [`Declared::reads`].
    pub sums: &'a [N],
    /// [`Declared::totals`].
    pub totals: &'a [N],
    /// [`Declared::shared`].
    pub shared: &'a [N],
}
