//! Rules: what an algorithm does to one element, declared once.

mod declare;
pub mod number;
pub mod scope;

pub use number::ScalarDef;

use crate::{Literal, Vector};
use number::{Declared, Number, Numbers};
use scope::{GlobalAt, Groups, TensorAt};

/// What an operand of a rule is to the optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// The parameter being trained.
    Param,
    /// Its gradient. It reaches the rule already multiplied by the step's gradient scale (unscaling,
    /// clipping and `maximize` in one factor, which is always there).
    Grad,
    /// A state that the optimizer keeps between steps.
    State,
    /// Memory that one pass of a step leaves to the next.
    Scratch,
}

/// One tensor that a rule reads, and perhaps writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Its name in the rule, and of the state in a checkpoint.
    pub name: &'static str,
    /// What it is.
    pub role: Role,
    /// Whether the rule stores it back.
    pub written: bool,
}

/// A pure function of numbers: one update, for one element of every operand.
///
/// Declared with [`rule!`](crate::rule!); open to users' own.
pub trait Rule: 'static {
    /// The hyperparameters from which the scalars of a step are computed.
    type Hyper: 'static;
    /// The rule's name, as written.
    const NAME: &'static str;
    /// First the operands that are written, then those that are only read.
    const OPERANDS: &'static [Operand];
    /// The scalars that [`scalars`](Rule::scalars) computes.
    const SCALARS: &'static [ScalarDef];
    /// Scalars that differ from tensor to tensor.
    const TENSOR_SCALARS: &'static [&'static str];
    /// What they are computed from, where the rule says it itself.
    const BETWEEN: Declared = Declared::NONE;
    /// The sums over all elements that the same pass returns.
    const SUMS: &'static [&'static str];
    /// One value for each of [`SCALARS`](Rule::SCALARS), then for each of
    /// [`TENSOR_SCALARS`](Rule::TENSOR_SCALARS).
    type Scalars<T: Copy + Send + Sync>: Array<T>;
    /// One value for each operand.
    type Operands<T: Copy + Send + Sync>: Array<T>;
    /// One value for each sum.
    type Sums<T: Copy + Send + Sync>: Array<T>;

    /// Computes the scalars of step `t` (from 1), in `f64`; `out` has the length of [`SCALARS`](Rule::SCALARS).
    fn scalars(hyper: &Self::Hyper, t: u64, out: &mut [f64]);

    /// Computes the numbers [`once`](Declared::once) for all tensors, on the host.
    fn once(groups: &Groups<'_, '_, Self::Hyper>, at: &mut GlobalAt<'_>, out: &mut [f64]) {
        let _ = (groups, at, out);
    }

    /// Computes the numbers of [`each`](Declared::each) tensor, on the host, from its group's hyperparameters.
    fn each(hyper: &Self::Hyper, at: &mut TensorAt<'_>, once: &[f64], out: &mut [f64]) {
        let _ = (hyper, at, once, out);
    }

    /// Computes a tensor's terms of the [`totals`](Declared::totals). Where a term is 0 the tensor adds nothing,
    /// whatever its sums are.
    fn terms<N: Number>(from: &Numbers<'_, N>, out: &mut [N])
    where
        f64: Literal<N>,
    {
        let _ = (from, out);
    }

    /// Computes the shared scalars, those of all parameters together, from the totals; `shared` holds the old values.
    fn update<N: Number>(from: &Numbers<'_, N>, shared: &mut [N])
    where
        f64: Literal<N>,
    {
        let _ = (from, shared);
    }

    /// Returns a number above 0 where the pass is left out, with sums of zero.
    fn skips<N: Number>(shared: &[N]) -> N
    where
        f64: Literal<N>,
    {
        let _ = shared;
        N::splat(0.0)
    }

    /// Computes a tensor's scalars, in the order of [`TENSOR_SCALARS`](Rule::TENSOR_SCALARS); `memory` holds what
    /// is remembered for it.
    fn tensor<N: Number>(from: &Numbers<'_, N>, memory: &mut [N], out: &mut [N])
    where
        f64: Literal<N>,
    {
        let _ = (from, memory, out);
    }

    /// Computes the update of one register of elements. Assignments run in order; everything that is stored is
    /// stored after them. Returns this register's terms of the sums.
    fn element<L: Vector>(scalars: &Self::Scalars<L>, operands: &mut Self::Operands<L>) -> Self::Sums<L>
    where
        f64: Literal<L>;
}

/// Runs a rule as every backend runs it: the gradients scaled, then [`Rule::element`].
#[inline(always)]
pub fn apply<R: Rule, L: Vector>(
    grad_scale: L,
    scalars: &R::Scalars<L>,
    operands: &mut R::Operands<L>,
) -> R::Sums<L>
where
    f64: Literal<L>,
{
    for (value, operand) in operands.as_mut().iter_mut().zip(R::OPERANDS) {
        if matches!(operand.role, Role::Grad) {
            *value = *value * grad_scale;
        }
    }
    R::element(scalars, operands)
}

/// `[T; N]` with the `N` hidden in a [`Rule`].
pub trait Array<T: Copy>: Copy + Send + Sync + AsRef<[T]> + AsMut<[T]> {
    /// Returns the same value everywhere.
    fn fill(value: T) -> Self;
}

impl<T: Copy + Send + Sync, const N: usize> Array<T> for [T; N] {
    #[inline(always)]
    fn fill(value: T) -> Self {
        [value; N]
    }
}
