//! Passes: a rule to run over many tensors.

use crate::error::check_len;
use crate::view::View;
use crate::{Compute, Error, Kernel, Result};
use core::any::Any;
use core::fmt;

/// The most operands that a rule may have.
pub const MAX_OPERANDS: usize = 8;
/// The most rules that are [fused](FusedRule) into a pass.
pub const MAX_FUSED: usize = 5;
/// The most views of a tensor in a pass: those of its rule, and others that fused rules need.
pub const MAX_VIEWS: usize = MAX_OPERANDS + 4;

/// What a backend keeps between passes. Opaque to everyone else.
pub type Plan = Box<dyn Any + Send + Sync>;

/// The memory of each operand of a tensor, in the order of [`Kernel::operands`]; behind it what only [fused
/// rules](FusedRule) need.
pub type Views<'a> = [Option<View<'a>>; MAX_VIEWS];

/// A rule that is fused into a pass, as its prologue or epilogue. It processes the same elements, batch by batch,
/// while they are in cache: it forms the gradient before, say, or averages the parameter afterwards. The bits are
/// those of a separate pass.
#[derive(Clone, Copy, Debug)]
pub struct FusedRule<'p> {
    /// The rule: one without sums and without tensor scalars.
    pub kernel: &'static Kernel,
    /// Where the view of each of its operands is among a tensor's [`Views`], no place twice. A tensor that lacks one
    /// of them is skipped.
    pub operands: &'p [usize],
    /// Its scalars: the gradient scale, then one for each of [`Kernel::scalars`].
    pub constants: &'p [f64],
    /// Whether it comes before the pass's own rule, or after it.
    pub position: Position,
}

/// Where a [`FusedRule`] runs in a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Position {
    /// Before the pass's rule: it forms the gradient, say.
    Prologue,
    /// After it: it averages the parameter, say.
    Epilogue,
}

impl FusedRule<'_> {
    /// Returns whether a tensor's views are all there.
    pub fn has(&self, views: &Views<'_>) -> bool {
        self.operands.iter().all(|&place| views[place].is_some())
    }

    /// Checks the fused rules of a pass, and that there are not too many. For backends.
    ///
    /// # Errors
    /// [`Error::Length`] where the table of scalars is not a row, and [`Error::Unavailable`] for what no backend does.
    pub fn check(all: &[FusedRule<'_>]) -> Result<()> {
        for FusedRule { kernel, operands, constants, .. } in all {
            let alone = kernel.sums.is_empty() && kernel.tensor_scalars.is_empty();
            let twice = (1..operands.len()).any(|i| operands[..i].contains(&operands[i]));
            let within = operands.iter().all(|&place| place < MAX_VIEWS);
            let fits = alone && !twice && within && operands.len() == kernel.operands.len();
            if !fits || all.len() > MAX_FUSED {
                let problem = format!("{}: this rule cannot be fused into another's pass", kernel.name);
                return Err(Error::Unavailable(problem));
            }
            check_len(kernel.name, "the table of scalars", 1 + kernel.scalars.len(), constants.len())?;
        }
        Ok(())
    }
}

/// One tensor's part in a pass, in addition to its [`Views`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorPass {
    /// The number of elements of every operand.
    pub elements: usize,
    /// Which set of constants it takes.
    pub constant_set: usize,
}

/// A rule to run over many tensors.
pub struct Pass<'p, 'a> {
    /// The rule.
    pub kernel: &'static Kernel,
    /// The type in which it calculates.
    pub compute: Compute,
    /// The tensors, one at each call until there is none; its views are written to the argument. A table would have
    /// to be allocated in every step, since views are borrowed for one.
    pub tensors: &'p mut dyn FnMut(&mut Views<'a>) -> Option<TensorPass>,
    /// Sets of constants, one after another: the gradient scale, then one for each of [`Kernel::scalars`].
    pub constants: &'p [f64],
    /// One row for each tensor, in order, of its scalars ([`Kernel::tensor_scalars`]).
    pub tensor_scalars: &'p [f64],
    /// What the backend keeps for this place in the program.
    pub plan: &'p mut Plan,
    /// One row for each tensor, in order, of sums ([`Kernel::sums`]); overwritten.
    pub sums: &'p mut [f64],
    /// Rules that are fused into it, in order.
    pub fused: &'p [FusedRule<'p>],
    /// Whether the caller knows that all operands are given and of the right length. A backend may then begin
    /// before it has seen the last tensor. One that does not fit after all is [`Error::Failed`], with something
    /// written.
    pub checked: bool,
}

impl fmt::Debug for Pass<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").field("kernel", &self.kernel.name).finish_non_exhaustive()
    }
}
