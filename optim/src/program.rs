//! What a step of an algorithm consists of: passes of rules, and operations between them.

use crate::hyper::{Hyper, Value};
use crate::op::Op;
use core::any::Any;
use core::marker::PhantomData;
use fallline_core::{Groups, Kernel, Operand, Role};

/// The most stages that a program may have.
pub const MAX_STAGES: usize = 7;

/// One part of a step. What a pass reads of the one before, whether it needs all tensors and when it is left out, its
/// [`between`](Kernel::between) says.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    /// A pass of a rule over all elements.
    Pass(&'static Kernel),
    /// Work that is not element by element.
    Op(&'static Op),
}

impl Stage {
    /// Returns the rule, if it is one.
    pub fn kernel(&self) -> Option<&'static Kernel> {
        match self {
            Stage::Pass(kernel) => Some(kernel),
            Stage::Op(_) => None,
        }
    }

    /// Returns whether it can follow the stage before tensor by tensor, while that one's operands are in cache.
    pub(crate) fn follows(&self) -> bool {
        self.kernel().is_some_and(|kernel| !kernel.between.is_global())
    }
}

impl PartialEq for Stage {
    fn eq(&self, other: &Stage) -> bool {
        match (self, other) {
            (Stage::Pass(one), Stage::Pass(other)) => core::ptr::eq(*one, *other),
            (Stage::Op(one), Stage::Op(other)) => one == other,
            _ => false,
        }
    }
}

/// From an algorithm's hyperparameters to those of the algorithm that it leaves a program to.
pub type Project = fn(&dyn Any, &mut dyn FnMut(&dyn Any));

/// An algorithm that leaves some of its parameters to another one.
pub trait Delegates<A>: 'static {
    /// Returns the other one, with its hyperparameters.
    fn delegate(&self) -> A;
}

/// An algorithm whose groups keep scalars from step to step: a count of the steps, a sum of learning rates. They are
/// among the hyperparameters (`kept`, see [`hyperparameters!`](crate::hyperparameters)). So each group has its own, a
/// checkpoint has them, and rules read what they were before the step.
pub trait Advances {
    /// Counts a step, whichever parameters of the group took part.
    fn advance(&mut self);
}

/// The most scalars that a group keeps from step to step.
pub(crate) const MAX_KEPT: usize = 8;

/// Returns whether a table has not too many scalars that groups keep.
pub(crate) const fn keeps_enough(table: &[Hyper]) -> bool {
    let (mut i, mut kept) = (0, 0);
    while i < table.len() {
        kept += table[i].kept as usize;
        i += 1;
    }
    kept <= MAX_KEPT
}

/// Sets the scalars that a group keeps after a step, by name.
pub(crate) type Advance = fn(&dyn Any, &mut dyn FnMut(&'static str, Value));

/// What a step consists of, as plain data. Built anew in each step, on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    pub(crate) stages: [Option<Stage>; MAX_STAGES],
    pub(crate) hessian: Option<&'static Kernel>,
    pub(crate) restore: Option<&'static Kernel>,
    pub(crate) modes: Option<[&'static Kernel; 2]>,
    pub(crate) advance: Option<Advance>,
    pub(crate) project: Option<Project>,
    /// Whether the last stage is left out in steps in which [nothing syncs](crate::Modifiers::lookahead).
    pub(crate) periodic: bool,
}

impl PartialEq for Program {
    fn eq(&self, other: &Program) -> bool {
        self.stages == other.stages
    }
}

impl Program {
    pub(crate) const EMPTY: Program = Program {
        stages: [None; MAX_STAGES],
        hessian: None,
        restore: None,
        modes: None,
        advance: None,
        project: None,
        periodic: false,
    };

    pub(crate) fn and(mut self, stage: Stage) -> Program {
        let free = self.stages.iter_mut().find(|place| place.is_none());
        *free.expect("a program has at most MAX_STAGES stages") = Some(stage);
        self
    }

    /// Returns the same with its last pass replaced by two.
    pub(crate) fn with_last(mut self, passes: [&'static Kernel; 2]) -> Program {
        if let Some(last) = self.stages.iter_mut().rfind(|stage| stage.is_some()) {
            *last = None;
        }
        passes.into_iter().fold(self, |program, kernel| program.and(Stage::Pass(kernel)))
    }

    /// Returns the same with one pass in place of another.
    pub(crate) fn with_pass(mut self, old: &'static Kernel, new: &'static Kernel) -> Program {
        let places = self.stages.iter_mut().flatten().filter(|stage| **stage == Stage::Pass(old));
        places.for_each(|stage| *stage = Stage::Pass(new));
        self
    }

    /// Returns the same with a pass at its end that is left out in steps in which nothing syncs.
    pub(crate) fn closed_by(self, kernel: &'static Kernel) -> Program {
        Program { periodic: true, ..self.and(Stage::Pass(kernel)) }
    }

    /// Returns whether the last stage is left out in steps in which [nothing syncs](crate::Modifiers::lookahead).
    pub fn is_periodic(&self) -> bool {
        self.periodic
    }

    /// Returns the stages, in order.
    pub fn iter(&self) -> impl Iterator<Item = Stage> + use<> {
        self.stages.into_iter().flatten()
    }

    /// Returns the rules of the passes, in order.
    pub fn kernels(&self) -> impl Iterator<Item = &'static Kernel> + use<> {
        self.iter().filter_map(|stage| stage.kernel())
    }

    /// Returns the operations, in order.
    pub fn ops(&self) -> impl Iterator<Item = &'static Op> + use<> {
        self.iter().filter_map(|stage| match stage {
            Stage::Op(op) => Some(op),
            Stage::Pass(_) => None,
        })
    }

    /// Returns the rule of the last pass that writes the parameter.
    pub fn update(&self) -> Option<&'static Kernel> {
        let writes = |operand: &Operand| operand.role == Role::Param && operand.written;
        self.kernels().filter(|kernel| kernel.operands.iter().any(writes)).last()
    }

    /// Returns the rule that accumulates a gradient of sampled labels into the Hessian, apart from steps. Its
    /// operands are that gradient and states of the passes, by name.
    pub fn hessian(&self) -> Option<&'static Kernel> {
        self.hessian
    }

    /// Returns the rule that restores a diverged replica of a parameter from its states, apart from steps. Its one
    /// scalar says whether they were saved by several ranks.
    pub fn restore(&self) -> Option<&'static Kernel> {
        self.restore
    }

    /// Returns the rule that switches a parameter to the weights of a mode, apart from steps, where they are not the
    /// same in all.
    pub fn mode(&self, to: Mode) -> Option<&'static Kernel> {
        self.modes.map(|[evaluation, training]| match to {
            Mode::Evaluation => evaluation,
            Mode::Training => training,
        })
    }

    /// Sets the scalars that a group keeps once a step is taken, by name, given its hyperparameters.
    pub(crate) fn advance(&self, hyper: &dyn Any, with: &mut dyn FnMut(&'static str, Value)) {
        if let Some(advance) = self.advance {
            advance(hyper, with);
        }
    }

    /// Returns whether a stage needs all parameters together.
    pub fn is_global(&self) -> bool {
        self.kernels().any(|kernel| kernel.between.is_global())
    }

    /// Hands over the hyperparameters that the rules take, given the algorithm's.
    pub fn with_hyper(&self, hyper: &dyn Any, with: &mut dyn FnMut(&dyn Any)) {
        match self.project {
            Some(project) => project(hyper, with),
            None => with(hyper),
        }
    }

    /// Returns the bytes that one element of a step must move, with `bytes(operand)` those of an element's storage.
    /// Each pass reads its operands once and writes back those that it changes.
    pub fn traffic(&self, bytes: impl Fn(&Operand) -> f64) -> f64 {
        self.kernels().map(|kernel| kernel.traffic(&bytes)).sum()
    }

    /// Returns the names of the operands of a role, each once, in the order in which the rules name them. The states
    /// that only operations work on are last.
    pub fn operands(&self, role: Role) -> Vec<&'static str> {
        let mut names = Vec::new();
        for operand in self.kernels().flat_map(|kernel| kernel.operands).filter(|o| o.role == role) {
            if !names.contains(&operand.name) {
                names.push(operand.name);
            }
        }
        if role == Role::State {
            names.extend(self.ops().flat_map(|op| op.states));
        }
        names
    }
}

/// Which weights the parameters hold, of an algorithm whose best weights are not those that it trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Those that gradients are taken at.
    #[default]
    Training,
    /// Those that are tested and shipped.
    Evaluation,
}

impl core::fmt::Display for Mode {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Mode::Training => "training",
            Mode::Evaluation => "evaluation",
        })
    }
}

/// Which of an algorithm's programs a parameter takes, decided when it is first seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Variant(
    /// Its number, below [`Variant::COUNT`].
    pub u8,
);

impl Variant {
    /// The only one, where there are no others.
    pub const ONLY: Variant = Variant(0);
    /// The most that an algorithm may have.
    pub const COUNT: usize = 4;

    /// As many as an algorithm may have. Of one that it has not, its program is that of another one.
    pub fn all() -> impl Iterator<Item = Variant> + Clone {
        (0..Variant::COUNT as u8).map(Variant)
    }
}

/// Where a program is to run.
#[derive(Debug)]
pub struct Site<'s, 'a, A: ?Sized, K = ()> {
    /// Of which parameters.
    pub variant: Variant,
    /// Whether several ranks step together, or a [mask](crate::mask) asks for the program that they have.
    pub distributed: bool,
    /// The groups of the optimizer, each with its hyperparameters.
    pub groups: &'s Groups<'s, 'a, A>,
    link: PhantomData<fn() -> K>,
}

/// A [`Site`] with its types erased.
pub type AnySite<'s, 'a> = Site<'s, 'a, dyn Any>;

impl<'s, 'a, A: ?Sized, K> Site<'s, 'a, A, K> {
    /// Creates a place for parameters of a variant.
    pub fn new(variant: Variant, distributed: bool, groups: &'s Groups<'s, 'a, A>) -> Self {
        Site { variant, distributed, groups, link: PhantomData }
    }
}

/// A [`Program`] that is being built, with its types.
#[derive(Clone, Copy, Debug)]
pub struct Steps<A, K> {
    pub(crate) program: Program,
    pub(crate) types: PhantomData<fn() -> (A, K)>,
}
