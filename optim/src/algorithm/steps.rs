//! How an algorithm builds its program.

use super::Algorithm;
use crate::op::{CollectiveOp, Op, TensorOp};
use crate::program::{
    Advance, Advances, Delegates, Program, Project, Site, Stage, Steps, Variant, keeps_enough,
};
use core::marker::PhantomData;
use fallline_core::{Groups, Link, Rule, between};

impl<A: Algorithm, K: Link> Site<'_, '_, A, K> {
    /// Returns a program that begins with a pass.
    pub fn pass<R: Rule<Hyper = A>>(&self) -> Steps<A, K> {
        Steps::begin().pass::<R>()
    }

    /// Returns a program that begins with an operation on each tensor.
    pub fn op<T: TensorOp<Hyper = A>>(&self) -> Steps<A, K> {
        Steps::begin().op::<T>()
    }

    /// Returns the program of another algorithm, which takes these parameters.
    ///
    /// # Errors
    /// As [`Algorithm::program`].
    pub fn delegate<B: Algorithm>(&self, to: &B) -> Result<Steps<A, K>, String>
    where
        A: Delegates<B>,
    {
        let alone = |_: usize| to;
        let groups = Groups::new(1, &alone);
        let program = to.program(&Site::<B, K>::new(Variant::ONLY, self.distributed, &groups))?.program;
        let project: Project = |hyper, with| {
            if let Some(hyper) = hyper.downcast_ref::<A>() {
                with(&hyper.delegate());
            }
        };
        Ok(Steps { program: Program { project: Some(project), ..program }, types: PhantomData })
    }
}

impl<A: Algorithm, K: Link> Steps<A, K> {
    fn begin() -> Self {
        Steps { program: Program::EMPTY, types: PhantomData }
    }

    /// Adds a pass of a rule over all elements.
    pub fn pass<R: Rule<Hyper = A>>(self) -> Self {
        const {
            assert!(
                R::TENSOR_SCALARS.is_empty() || R::BETWEEN.is_given(),
                "who gives the rule's tensor scalars?"
            );
            assert!(known(R::BETWEEN.memory, A::MEMORY), "the rule reads memory that the algorithm has not");
            assert!(known(R::BETWEEN.shared, A::SHARED), "the rule reads what the algorithm does not share");
        }
        Steps { program: self.program.and(Stage::Pass(K::kernel::<R>())), ..self }
    }

    /// Adds an operation on each tensor.
    pub fn op<T: TensorOp<Hyper = A>>(self) -> Self {
        Steps { program: self.program.and(Stage::Op(Op::tensor::<T, K>())), ..self }
    }

    /// Adds an operation on all tensors together.
    pub fn collective<T: CollectiveOp<Hyper = A>>(self) -> Self {
        Steps { program: self.program.and(Stage::Op(Op::collective::<T, K>())), ..self }
    }

    /// Adds a rule that accumulates gradients of sampled labels into the Hessian: see [`Program::hessian`].
    pub fn on_hessian<R: Rule<Hyper = A>>(self) -> Self {
        Steps { program: Program { hessian: Some(K::kernel::<R>()), ..self.program }, ..self }
    }

    /// Adds a rule that gives a rank's parameter from its states: see [`Program::restore`].
    pub fn restored_by<R: Rule<Hyper = A>>(self) -> Self {
        Steps { program: Program { restore: Some(K::kernel::<R>()), ..self.program }, ..self }
    }

    /// Adds rules that take parameters from the weights that are trained to those that are evaluated, and back: see
    /// [`Program::mode`].
    pub fn with_modes<E: Rule<Hyper = A>, T: Rule<Hyper = A>>(self) -> Self {
        Steps {
            program: Program { modes: Some([K::kernel::<E>(), K::kernel::<T>()]), ..self.program },
            ..self
        }
    }

    /// Adds scalars of the groups that change from step to step.
    pub fn advancing(self) -> Self
    where
        A: Advances,
    {
        const { assert!(keeps_enough(A::TABLE), "a group keeps at most 8 numbers") }
        let advance: Advance = |hyper, with| {
            let Some(mut next) = hyper.downcast_ref::<A>().cloned() else { return };
            next.advance();
            for hyper in A::TABLE.iter().filter(|hyper| hyper.kept) {
                if let Some(value) = next.get(hyper.name) {
                    with(hyper.name, value);
                }
            }
        };
        Steps { program: Program { advance: Some(advance), ..self.program }, ..self }
    }

    /// As plain data.
    pub(crate) fn build(self) -> Program {
        self.program
    }
}

/// Returns whether all names are in a table.
const fn known(names: &[&str], table: &[(&'static str, f64)]) -> bool {
    let mut i = 0;
    while i < names.len() {
        let (mut j, mut found) = (0, false);
        while j < table.len() {
            found = found || between::same(names[i], table[j].0);
            j += 1;
        }
        if !found {
            return false;
        }
        i += 1;
    }
    true
}
