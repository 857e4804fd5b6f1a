//! What the host knows between two passes of a step.

use crate::{Compute, Shape};
use core::fmt;
use core::ops::Index;

/// The groups of an optimizer, each with its hyperparameters.
pub struct Groups<'f, 'a, H: ?Sized> {
    count: usize,
    get: &'f dyn Fn(usize) -> &'a H,
}

impl<'f, 'a, H: ?Sized> Groups<'f, 'a, H> {
    /// Makes `count` of them, behind a function. (A table would have to be allocated in every step.)
    pub fn new(count: usize, get: &'f dyn Fn(usize) -> &'a H) -> Self {
        Groups { count, get }
    }

    /// Returns the group of a number.
    pub fn get(&self, group: usize) -> &'a H {
        (self.get)(group)
    }

    /// Returns how many there are, at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns all of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a H> + Clone {
        (0..self.count).map(|group| self.get(group))
    }
}

impl<H: ?Sized> Index<usize> for Groups<'_, '_, H> {
    type Output = H;
    fn index(&self, group: usize) -> &H {
        self.get(group)
    }
}

impl<H: ?Sized> fmt::Debug for Groups<'_, '_, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").field("count", &self.count).finish_non_exhaustive()
    }
}

/// One tensor, as the host sees it between two passes.
#[derive(Debug)]
pub struct TensorAt<'a> {
    /// The step count, from 1.
    pub t: u64,
    /// The type that it is computed in.
    pub compute: Compute,
    /// The parameter's shape.
    pub shape: &'a Shape,
    /// Whether only the rows of a row-sparse gradient take part.
    pub by_row: bool,
    /// All scalars that the algorithm keeps for the parameter, in its order. Empty where the device has some of them and
    /// evaluates the rule's formulas over what they name `memory(…)`. So where a rule of a program names some, none of them
    /// reads any of it here.
    pub memory: &'a mut [f64],
    /// All scalars that it keeps for all parameters together, in its order. Empty where the device has them and
    /// evaluates the rule's formulas over what they name `shared(…)`. So a rule that names some reads none of them
    /// here, unless the host decides by the scalars that its algorithm keeps for each parameter.
    pub shared: &'a [f64],
    /// How many ranks step together.
    pub world: usize,
}

/// All tensors of a step, as the host sees them between two passes: rows in the order of the parameters' names.
#[derive(Debug)]
pub struct GlobalAt<'a> {
    /// The step count of each, from 1.
    pub steps: &'a [u64],
    /// The group of each.
    pub groups: &'a [usize],
    /// The scalars that the algorithm keeps for each parameter: a row for each; empty where [`TensorAt::memory`] is.
    pub memory: &'a [f64],
    /// The scalars that it keeps for all parameters together; empty where [`TensorAt::shared`] is.
    pub shared: &'a mut [f64],
    /// How many ranks step together.
    pub world: usize,
}

impl<'a> GlobalAt<'a> {
    /// Returns the tensors, in the order of their names: group, step count and scalars.
    pub fn tensors(&self) -> impl DoubleEndedIterator<Item = (usize, u64, &'a [f64])> + use<'a> {
        let width = self.memory.len() / self.steps.len().max(1);
        let (steps, groups, memory) = (self.steps, self.groups, self.memory);
        (0..steps.len()).map(move |i| (groups[i], steps[i], &memory[i * width..][..width]))
    }
}
