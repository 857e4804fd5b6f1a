//! What a step of an algorithm consists of: one rule for most, several with something in between for some.

use fallline_core::{Backend, Compute, Kernel, Role, Shape, Storage};

/// The most stages that a step may have.
pub const MAX_STAGES: usize = 4;

/// One part of a step.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Stage {
    /// A pass of a rule over all elements.
    Rule(&'static Kernel),
    /// Something that is not element by element, tensor after tensor: [`Algorithm::matrix`](crate::Algorithm::matrix).
    Matrix,
}

impl Stage {
    /// The rule, if it is one.
    pub fn kernel(&self) -> Option<&'static Kernel> {
        match self {
            Stage::Rule(kernel) => Some(kernel),
            Stage::Matrix => None,
        }
    }
}

impl PartialEq for Stage {
    fn eq(&self, other: &Stage) -> bool {
        match (self, other) {
            (Stage::Rule(one), Stage::Rule(other)) => core::ptr::eq(*one, *other),
            (Stage::Matrix, Stage::Matrix) => true,
            _ => false,
        }
    }
}

/// The stages of a step, in order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stages([Option<Stage>; MAX_STAGES]);

impl Stages {
    /// A step of one rule.
    pub fn one(kernel: &'static Kernel) -> Stages {
        Stages([Some(Stage::Rule(kernel)), None, None, None])
    }

    /// These, and after them a pass of a rule.
    pub fn then(self, kernel: &'static Kernel) -> Stages {
        self.and(Stage::Rule(kernel))
    }

    /// These, and after them work that is not element by element.
    pub fn then_matrix(self) -> Stages {
        self.and(Stage::Matrix)
    }

    fn and(mut self, stage: Stage) -> Stages {
        let free = self.0.iter_mut().find(|place| place.is_none());
        *free.expect("a step has at most MAX_STAGES stages") = Some(stage);
        self
    }

    /// The stages.
    pub fn iter(&self) -> impl Iterator<Item = Stage> + use<> {
        self.0.into_iter().flatten()
    }

    /// The rules.
    pub fn kernels(&self) -> impl Iterator<Item = &'static Kernel> + use<> {
        self.iter().filter_map(|stage| stage.kernel())
    }

    /// The names of the operands of a role, each once, in the order in which the rules name them.
    pub fn operands(&self, role: Role) -> Vec<&'static str> {
        let mut names = Vec::new();
        for operand in self.kernels().flat_map(|kernel| kernel.operands).filter(|o| o.role == role) {
            if !names.contains(&operand.name) {
                names.push(operand.name);
            }
        }
        names
    }
}

/// What a parameter's own scalars of a stage are computed from, on the host in `f64`.
#[derive(Debug)]
pub struct Combining<'a> {
    /// The step count, from 1.
    pub t: u64,
    /// The parameter's number of elements.
    pub elements: usize,
    /// The sums of the stage before, in the order of its rule; empty before the first.
    pub sums: &'a [f64],
    /// What the algorithm remembers for the parameter, in the order of
    /// [`Algorithm::MEMORY`](crate::Algorithm::MEMORY).
    pub memory: &'a mut [f64],
    /// The scalars to compute, in the order of [`Kernel::tensor_scalars`].
    pub scalars: &'a mut [f64],
}

/// As [`Combining`], for all parameters of a step at once: rows in the order of the parameters' names.
#[derive(Debug)]
pub struct Gathering<'a> {
    /// How many parameters there are.
    pub tensors: usize,
    /// The step count of each, from 1.
    pub steps: &'a [u64],
    /// The sums of the stage before: a row for each parameter.
    pub sums: &'a [f64],
    /// What the algorithm remembers for all parameters together, in the order of
    /// [`Algorithm::SHARED`](crate::Algorithm::SHARED).
    pub shared: &'a mut [f64],
    /// The scalars to compute: a row for each parameter.
    pub scalars: &'a mut [f64],
}

impl Gathering<'_> {
    /// Sum number `sum` of the stage before, of all parameters together.
    pub fn total(&self, sum: usize) -> f64 {
        let width = self.sums.len() / self.tensors.max(1);
        fallline_core::sums::fold(self.sums.iter().skip(sum).step_by(width.max(1)).copied())
    }

    /// Gives every parameter the same scalars.
    pub fn give_all(&mut self, scalars: &[f64]) {
        self.scalars.chunks_exact_mut(scalars.len()).for_each(|row| row.copy_from_slice(scalars));
    }
}

/// A tensor's part in a stage that is not element by element.
#[derive(Debug)]
pub struct MatrixStep<'a> {
    /// Where it is computed.
    pub backend: &'a dyn Backend,
    /// The type of states and scratch.
    pub compute: Compute,
    /// The step count, from 1.
    pub t: u64,
    /// The parameter's extents.
    pub shape: &'a Shape,
    /// The states, in the order of [`Stages::operands`].
    pub states: &'a mut [(&'static str, Storage)],
    /// The scratch, in the order of [`Stages::operands`].
    pub scratch: &'a mut [(&'static str, Storage)],
}
