//! Rules that go over a step's elements beside the algorithm's own, in the same pass over memory: what forms a window's
//! gradient before it, and what averages the parameter after it.

use super::{Driver, Group};
use crate::builtins::{Builtins, Limit};
use crate::program::Stage;
use fallline_core::backend::Beside;
use fallline_core::{Kernel, Role};

/// What is still to be done to a window's gradients when the step begins.
pub(super) struct Forming {
    rules: &'static Builtins,
    /// The row of scalars with which the trainer's gradients are added: their share.
    share: [f64; 1],
    /// The row of scalars with which elements are limited.
    limit: Option<Vec<f64>>,
}

impl Forming {
    pub(super) fn new(rules: &'static Builtins, share: f64, limit: Option<&Limit>) -> Forming {
        let limit = limit.map(|limit| limit.row(rules.clamp_sum()));
        Forming { rules, share: [share], limit }
    }
}

/// What goes over the elements of a stage beside its rule.
#[derive(Clone, Copy, Default)]
pub(super) struct Around<'s> {
    pub(super) forming: Option<&'s Forming>,
    /// The rule that takes the parameter into its average, and its row of scalars.
    pub(super) averaging: Option<(&'static Kernel, &'s [f64])>,
}

/// Where the views are that the rules take.
pub(super) struct Places {
    /// Of the average, and of a trainer's gradient that begins a window's or is added to it.
    pub(super) mean: usize,
    pub(super) start: usize,
    pub(super) add: usize,
    operands: [[usize; 2]; 3],
}

impl Places {
    /// Behind those of a rule with so many operands.
    pub(super) fn new(operands: usize, param: Option<usize>, grad: Option<usize>) -> Places {
        let [mean, start, add] = [operands, operands + 1, operands + 2];
        let (param, grad) = (param.unwrap_or_default(), grad.unwrap_or_default());
        // In all of these rules what is written comes first.
        Places { mean, start, add, operands: [[mean, param], [grad, start], [grad, add]] }
    }
}

impl<'s> Around<'s> {
    /// The rules, in order. (Nothing is allocated where there is none.)
    pub(super) fn rules<'p>(&self, places: &'p Places) -> Vec<Beside<'p>>
    where
        's: 'p,
    {
        let mut beside = Vec::new();
        let [mean, start, add] = &places.operands;
        if let Some(Forming { rules, share, limit }) = self.forming {
            for (kernel, operands) in [(rules.start_sum(), start), (rules.add_to_sum(), add)] {
                beside.push(Beside { kernel, operands, row: share, first: true });
            }
            if let Some(row) = limit {
                beside.push(Beside { kernel: rules.clamp_sum(), operands: &start[..1], row, first: true });
            }
        }
        if let Some((kernel, row)) = self.averaging {
            beside.push(Beside { kernel, operands: mean, row, first: false });
        }
        beside
    }
}

impl Driver {
    /// Whether the first pass of every step reads the gradients and is certain to run, so that it can form them.
    pub(super) fn forms_gradients(&self) -> bool {
        let reads = |group: &Group, stage: Stage| match stage {
            Stage::Pass(kernel) => {
                let reads = kernel.operands.iter().any(|operand| operand.role == Role::Grad);
                let (names, shared) = (group.algorithm.spec().shared, self.shared[group.family].known());
                let skips = shared.is_none_or(|shared| kernel.between.skips_of(names, shared));
                reads && !kernel.between.is_global() && !(kernel.between.declared.may_skip && skips)
            }
            Stage::Op(_) => false,
        };
        // Where ranks share parameters out, or states are elsewhere, a pass has not all gradients.
        !self.is_away()
            && self.world.is_none()
            && self.groups.iter().all(|group| {
                let mut programs = group.algorithm.programs();
                programs.all(|program| program.iter().next().is_some_and(|stage| reads(group, stage)))
            })
    }
}
