//! What policies have fused into the passes of a step: a prologue that forms the gradient, an epilogue that averages the
//! parameter, and a factor.

use super::Engine;
use super::group::Group;
use crate::program::Stage;
use fallline_core::Builtins;
use fallline_core::backend::{FusedRule, Position};
use fallline_core::builtins::ClampRange;
use fallline_core::{Kernel, Role, Storage};

/// What is still to be done to a window's gradients when the step begins.
pub(crate) struct GradPrologue {
    rules: &'static Builtins,
    /// The constants with which the training loop's gradients are added: their weight.
    weight: [f64; 1],
    /// The row of scalars with which elements are limited.
    limit: Option<Vec<f64>>,
}

impl GradPrologue {
    pub(crate) fn new(rules: &'static Builtins, weight: f64, limit: Option<&ClampRange>) -> GradPrologue {
        let limit = limit.map(|limit| limit.row(rules.clamp_sum()));
        GradPrologue { rules, weight: [weight], limit }
    }
}

/// What policies add to the passes of a step: this is all that the engine knows of them.
#[derive(Clone, Copy, Default)]
pub(crate) struct Fusion<'s> {
    /// What forms the gradient before the first pass's rule.
    pub(crate) prologue: Option<&'s GradPrologue>,
    /// The rule that takes the parameter into its average behind the rule that writes it, and its row of scalars.
    pub(crate) epilogue: Option<(&'static Kernel, &'s [f64])>,
    /// The factor of gradients in addition to the constants' factor: a number on the device, and its place.
    pub(crate) factor: Option<(&'s Storage, usize)>,
}

/// Where the views are that the rules take.
pub(crate) struct FusedOperands {
    /// Of the average, and of a training loop's gradient that begins a window's or is added to it.
    pub(crate) mean: usize,
    pub(crate) start: usize,
    pub(crate) add: usize,
    /// Of what is remembered for the parameter, where the device computes with it.
    pub(crate) memory: usize,
    operands: [[usize; 2]; 3],
}

impl FusedOperands {
    /// Makes those after the operands of a rule with so many.
    pub(crate) fn new(operands: usize, param: Option<usize>, grad: Option<usize>) -> FusedOperands {
        let [mean, start, add, memory] = [operands, operands + 1, operands + 2, operands + 3];
        let (param, grad) = (param.unwrap_or_default(), grad.unwrap_or_default());
        // In all of these rules what is written comes first.
        FusedOperands { mean, start, add, memory, operands: [[mean, param], [grad, start], [grad, add]] }
    }
}

impl<'s> Fusion<'s> {
    /// Returns what of it is the `first` stage's, and what is that one's which writes the parameter last.
    pub(crate) fn of_stage(self, first: bool, writes: bool) -> Fusion<'s> {
        let (prologue, epilogue) = (self.prologue.filter(|_| first), self.epilogue.filter(|_| writes));
        Fusion { prologue, epilogue, factor: self.factor }
    }

    /// Returns the rules, in order. (Nothing is allocated where there is none.)
    pub(crate) fn rules<'p>(&self, operands: &'p FusedOperands) -> Vec<FusedRule<'p>>
    where
        's: 'p,
    {
        let mut fused = Vec::new();
        let [mean, start, add] = &operands.operands;
        if let Some(GradPrologue { rules, weight, limit }) = self.prologue {
            for (kernel, operands) in [(rules.start_sum(), start), (rules.add_to_sum(), add)] {
                fused.push(FusedRule { kernel, operands, constants: weight, position: Position::Prologue });
            }
            if let Some(row) = limit {
                fused.push(FusedRule {
                    kernel: rules.clamp_sum(),
                    operands: &start[..1],
                    constants: row,
                    position: Position::Prologue,
                });
            }
        }
        if let Some((kernel, row)) = self.epilogue {
            fused.push(FusedRule { kernel, operands: mean, constants: row, position: Position::Epilogue });
        }
        fused
    }
}

impl Engine {
    /// Returns whether the first pass of every step reads the gradients and is certain to run, so that it can form
    /// them.
    pub(crate) fn can_fuse_gradients(&self) -> bool {
        let reads = |group: &Group, stage: Stage| match stage {
            Stage::Pass(kernel) => {
                let reads = kernel.operands.iter().any(|operand| operand.role == Role::Grad);
                let (names, shared) = (group.algorithm.spec().shared, self.shared[group.optimizer].known());
                let skips = shared.is_none_or(|shared| kernel.between.skips_of(names, shared));
                reads && !kernel.between.is_global() && !(kernel.between.declared.may_skip && skips)
            }
            Stage::Op(_) => false,
        };
        // Where parameters are sharded over ranks, or states are offloaded, a pass has not all gradients.
        !self.setup.is_offloaded()
            && self.setup.ranks.is_none()
            && self.setup.groups.iter().all(|group| {
                let mut programs = group.algorithm.programs();
                programs.all(|program| program.iter().next().is_some_and(|stage| reads(group, stage)))
            })
    }
}
