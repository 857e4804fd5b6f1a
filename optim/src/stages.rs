//! What a step of an algorithm consists of: one rule for most, several with something in between for some.

mod largest;

use crate::compression::Errors;
use core::any::Any;
use fallline_core::backend::{MatMul, Matrix, Pass, TensorPass, View, Views};
use fallline_core::ranks::Communicator;
use fallline_core::{Backend, Compute, Format, Kernel, Operand, Result, Role, Shape, Storage};

/// The most stages that a step may have.
pub const MAX_STAGES: usize = 5;

/// One part of a step.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Stage {
    /// A pass of a rule over all elements.
    Rule(&'static Kernel),
    /// Something that is not element by element, tensor after tensor: [`Algorithm::matrix`](crate::Algorithm::matrix).
    Matrix,
    /// Something that all tensors take part in together: [`Algorithm::exchange`](crate::Algorithm::exchange).
    Exchange,
}

impl Stage {
    /// The rule, if it is one.
    pub fn kernel(&self) -> Option<&'static Kernel> {
        match self {
            Stage::Rule(kernel) => Some(kernel),
            Stage::Matrix | Stage::Exchange => None,
        }
    }

    /// Whether it can follow the stage before tensor by tensor, while that one's operands are in cache.
    pub(crate) fn follows(&self) -> bool {
        self.kernel().is_some_and(|kernel| !kernel.between.is_global())
    }
}

impl PartialEq for Stage {
    fn eq(&self, other: &Stage) -> bool {
        match (self, other) {
            (Stage::Rule(one), Stage::Rule(other)) => core::ptr::eq(*one, *other),
            (Stage::Matrix, Stage::Matrix) | (Stage::Exchange, Stage::Exchange) => true,
            _ => false,
        }
    }
}

/// The stages of a step, in order, and the states that no rule of theirs has as an operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stages {
    stages: [Option<Stage>; MAX_STAGES],
    states: &'static [&'static str],
}

impl Stages {
    /// A step of one rule.
    pub fn one(kernel: &'static Kernel) -> Stages {
        Stages { stages: [None; MAX_STAGES], states: &[] }.and(Stage::Rule(kernel))
    }

    /// Work that is not element by element, to begin with.
    pub fn matrix() -> Stages {
        Stages { stages: [None; MAX_STAGES], states: &[] }.and(Stage::Matrix)
    }

    /// These, and after them a pass of a rule.
    pub fn then(self, kernel: &'static Kernel) -> Stages {
        self.and(Stage::Rule(kernel))
    }

    /// These, and after them work that is not element by element.
    pub fn then_matrix(self) -> Stages {
        self.and(Stage::Matrix)
    }

    /// These, and after them something that all tensors take part in together.
    pub fn then_exchange(self) -> Stages {
        self.and(Stage::Exchange)
    }

    /// These, with states that only [`Algorithm::matrix`](crate::Algorithm::matrix) works on.
    pub fn with_states(self, states: &'static [&'static str]) -> Stages {
        Stages { states, ..self }
    }

    fn and(mut self, stage: Stage) -> Stages {
        let free = self.stages.iter_mut().find(|place| place.is_none());
        *free.expect("a step has at most MAX_STAGES stages") = Some(stage);
        self
    }

    /// The stages.
    pub fn iter(&self) -> impl Iterator<Item = Stage> + use<> {
        self.stages.into_iter().flatten()
    }

    /// The rules.
    pub fn kernels(&self) -> impl Iterator<Item = &'static Kernel> + use<> {
        self.iter().filter_map(|stage| stage.kernel())
    }

    /// Bytes that one element of a step must move when `bytes(operand)` is an element's storage: each pass reads
    /// its operands once and writes those back that it changes.
    pub fn traffic(&self, bytes: impl Fn(&Operand) -> f64) -> f64 {
        self.kernels().map(|kernel| kernel.traffic(&bytes)).sum()
    }

    /// Whether a stage looks at all parameters together.
    pub fn gathers(&self) -> bool {
        self.kernels().any(|kernel| kernel.between.is_global())
    }

    /// The names of the operands of a role, each once, in the order in which the rules name them.
    pub fn operands(&self, role: Role) -> Vec<&'static str> {
        let mut names = Vec::new();
        for operand in self.kernels().flat_map(|kernel| kernel.operands).filter(|o| o.role == role) {
            if !names.contains(&operand.name) {
                names.push(operand.name);
            }
        }
        if role == Role::State {
            names.extend(self.states);
        }
        names
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
    /// The gradient, as it is stored.
    pub grad: Option<View<'a>>,
    /// What it is to be multiplied by.
    pub grad_scale: f64,
    /// The sums of the last rule before, in the order of its rule.
    pub sums: &'a [f64],
    /// What the algorithm remembers for the parameter, in the order of
    /// [`Algorithm::MEMORY`](crate::Algorithm::MEMORY).
    pub memory: &'a mut [f64],
    /// What it remembers for all parameters together, in the order of
    /// [`Algorithm::SHARED`](crate::Algorithm::SHARED).
    pub shared: &'a [f64],
    /// The ranks that step together, where there are several.
    pub ranks: Option<&'a dyn Communicator>,
    /// What compressing for other ranks has left out so far of the parameter.
    pub errors: &'a mut Option<Errors>,
    /// What its momentum is multiplied by, where it has a [mask](crate::mask).
    pub mask: Option<&'a Storage>,
    /// The states, in the order of [`Stages::operands`].
    pub states: &'a mut [(&'static str, Storage)],
    /// The scratch, in the order of [`Stages::operands`].
    pub scratch: &'a mut [(&'static str, Storage)],
    /// Memory for the time of the stage.
    pub workspace: &'a mut Workspace,
}

/// One tensor's part in an [`Exchanging`].
#[derive(Debug)]
pub struct Exchanged<'a> {
    /// The parameter's extents.
    pub shape: &'a Shape,
    /// As [`MatrixStep::memory`].
    pub memory: &'a mut [f64],
    /// The states, in the order of [`Stages::operands`].
    pub states: &'a mut [(&'static str, Storage)],
    /// As [`MatrixStep::mask`].
    pub mask: Option<&'a Storage>,
}

/// All tensors' part in a stage that they take part in together, in the order of their names.
#[derive(Debug)]
pub struct Exchanging<'a> {
    /// Where they are.
    pub backend: &'a dyn Backend,
    /// The type of states.
    pub compute: Compute,
    /// As [`MatrixStep::shared`].
    pub shared: &'a [f64],
    /// The ranks that step together, where there are several.
    pub ranks: Option<&'a dyn Communicator>,
    /// What compressing all of them in one piece has left out so far.
    pub errors: &'a mut Option<Errors>,
    /// The tensors.
    pub tensors: Vec<Exchanged<'a>>,
    /// Memory for the time of the stage.
    pub workspace: &'a mut Workspace,
}

/// Memory that stages borrow, kept between steps.
#[derive(Debug, Default)]
pub struct Workspace(Vec<Storage>);

impl Workspace {
    /// Memory of this many elements, with anything in it.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn take(&mut self, backend: &dyn Backend, format: Format, elements: usize) -> Result<Storage> {
        let fits = |storage: &Storage| storage.len() == elements && storage.format() == format;
        match self.0.iter().position(fits) {
            Some(place) => Ok(self.0.swap_remove(place)),
            None => Ok(backend.allocate(&[(format, elements)])?.remove(0)),
        }
    }

    /// Gives memory back for the next who takes some.
    pub fn give(&mut self, storages: impl IntoIterator<Item = Storage>) {
        self.0.extend(storages);
    }
}

/// The matrices over whose last two dimensions a stage works: how many, with how many rows and columns.
pub fn matrices(shape: &Shape) -> (usize, usize, usize) {
    match shape.extents() {
        [] => (1, 1, 1),
        [columns] => (1, 1, *columns),
        [batch @ .., rows, columns] => (batch.iter().product(), *rows, *columns),
    }
}

impl MatrixStep<'_> {
    /// Memory of this many elements, with anything in it.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn take(&mut self, elements: usize) -> Result<Storage> {
        self.take_as(self.compute.format(), elements)
    }

    /// The same, stored in another way than it is computed.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn take_as(&mut self, format: Format, elements: usize) -> Result<Storage> {
        self.workspace.take(self.backend, format, elements)
    }

    /// `c = alpha a b + beta c`, where c starts at element `c_start` of its storage.
    ///
    /// # Errors
    /// As [`Backend::matmul`].
    pub fn multiply(
        &self,
        alpha: f64,
        (a, b): (Matrix<'_>, Matrix<'_>),
        beta: f64,
        c: &mut Storage,
        c_start: usize,
    ) -> Result<()> {
        self.backend.matmul(MatMul { alpha, beta, c_start, ..MatMul::new(a, b, c) })
    }

    /// Runs a rule over `views`, one for each operand of its, with the tensor's own scalars. Returns its sums.
    ///
    /// # Errors
    /// As [`Backend::run`].
    pub fn run(
        &self,
        kernel: &'static Kernel,
        hyper: &dyn Any,
        own: &[f64],
        views: &mut [Option<View<'_>>],
    ) -> Result<Vec<f64>> {
        let elements = views.first().and_then(Option::as_ref).map_or(0, View::len);
        let mut left = Some(views);
        self.pass(kernel, hyper, own, &mut |places| {
            for (place, view) in places.iter_mut().zip(left.take()?) {
                *place = view.take();
            }
            Some(TensorPass { elements, row: 0 })
        })
    }

    /// Runs a rule of one operand over the diagonal of a `size × size` matrix.
    ///
    /// # Errors
    /// As [`Backend::run`].
    pub fn run_on_diagonal(
        &self,
        kernel: &'static Kernel,
        hyper: &dyn Any,
        own: &[f64],
        matrix: &mut Storage,
        size: usize,
    ) -> Result<()> {
        let own = own.repeat(size);
        // Every element is a tensor of its own, a row and one more apart.
        let (mut rest, mut skipped) = (Some(View::write(matrix)), 0);
        let mut left = size;
        self.pass(kernel, hyper, &own, &mut |places| {
            left = left.checked_sub(1)?;
            let (element, others) = rest.take()?.split(skipped).1.split(1);
            (places[0], rest, skipped) = (Some(element), Some(others), size);
            Some(TensorPass { elements: 1, row: 0 })
        })?;
        Ok(())
    }

    /// A pass over the tensors that a function gives, of a rule that is run on one tensor or has no sums.
    fn pass<'v>(
        &self,
        kernel: &'static Kernel,
        hyper: &dyn Any,
        own: &[f64],
        tensors: &mut dyn FnMut(&mut Views<'v>) -> Option<TensorPass>,
    ) -> Result<Vec<f64>> {
        let mut row = vec![1.0; 1 + kernel.scalars.len()];
        kernel.compute_scalars(hyper, self.t, &mut row[1..]);
        let mut sums = vec![0.0; kernel.sums.len()];
        self.backend.run(Pass {
            kernel,
            compute: self.compute,
            tensors,
            rows: &row,
            tensor_scalars: own,
            plan: &mut self.backend.plan(),
            sums: &mut sums,
            beside: &[],
        })?;
        Ok(sums)
    }
}
