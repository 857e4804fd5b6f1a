//! What an operation works on.

use super::memory::{Memory, Named, Workspace};
use super::reading::{GradScale, Reading, Sums};
use super::runner::Runner;
use crate::params::residuals::Residuals;
use fallline_core::backend::View;
use fallline_core::ranks::Communicator;
use fallline_core::{Backend, Compute, Format, Result, Shape, Storage};

/// The other ranks, for one tensor.
#[derive(Debug)]
pub struct Peers<'a> {
    /// The ranks that step together, where there are several.
    pub ranks: Option<&'a dyn Communicator>,
    /// What compressing for other ranks has left out so far of the parameter.
    pub residuals: &'a mut Option<Box<Residuals>>,
    /// What its momentum is multiplied by, where it has a [mask](crate::mask).
    pub mask: Option<&'a Storage>,
}

/// One tensor's part in an operation.
#[derive(Debug)]
pub struct OpAt<'a> {
    /// Where it runs passes and products.
    pub on: Runner<'a>,
    /// The parameter's shape.
    pub shape: &'a Shape,
    /// The parameter, as exactly as it is kept.
    pub param: Option<View<'a>>,
    /// The gradient, as it is stored.
    pub grad: Option<View<'a>>,
    /// What it is to be multiplied by.
    pub grad_scale: GradScale<'a>,
    /// The sums of the last pass before, by name.
    pub sums: Sums<'a>,
    /// What the algorithm remembers for the parameter, in the order of
    /// [`Algorithm::MEMORY`](crate::Algorithm::MEMORY).
    pub memory: Memory<'a>,
    /// What it remembers for all parameters together, in the order of
    /// [`Algorithm::SHARED`](crate::Algorithm::SHARED).
    pub shared: &'a [f64],
    /// What it exchanges with other ranks.
    pub peers: Peers<'a>,
    /// The states.
    pub states: Named<'a>,
    /// The scratch.
    pub scratch: Named<'a>,
    /// Memory for the time of the operation.
    pub workspace: &'a mut Workspace,
}

/// One tensor's part in a [`CollectiveAt`].
#[derive(Debug)]
pub struct Member<'a> {
    /// The parameter's shape.
    pub shape: &'a Shape,
    /// As [`OpAt::memory`].
    pub memory: Memory<'a>,
    /// The states.
    pub states: Named<'a>,
    /// As [`Peers::mask`].
    pub mask: Option<&'a Storage>,
}

/// All tensors' part in an operation that they take part in together, in the order of their names.
#[derive(Debug)]
pub struct CollectiveAt<'a> {
    /// Where they are.
    pub backend: &'a dyn Backend,
    /// The type of states.
    pub compute: Compute,
    /// As [`OpAt::shared`].
    pub shared: &'a [f64],
    /// The ranks that step together, where there are several.
    pub ranks: Option<&'a dyn Communicator>,
    /// What compressing all of them in one piece has left out so far.
    pub residuals: &'a mut Option<Box<Residuals>>,
    /// The tensors.
    pub tensors: Vec<Member<'a>>,
    /// Memory for the time of the operation.
    pub workspace: &'a mut Workspace,
}

impl<'a> OpAt<'a> {
    /// Returns memory of this many elements, with anything in it.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn take(&mut self, elements: usize) -> Result<Storage> {
        self.take_as(self.on.compute.format(), elements)
    }

    /// Returns what [`Runner::run_reading`] reads.
    pub fn reading(&self) -> Reading<'a> {
        Reading { sums: self.sums, scale: self.grad_scale, shape: self.shape }
    }

    /// Returns the same, stored in another way than it is computed.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn take_as(&mut self, format: Format, elements: usize) -> Result<Storage> {
        self.workspace.acquire(self.on.backend, format, elements)
    }

    /// Takes the first of every so many elements of the parameter and of its gradient, in the compute type, in two
    /// scratches.
    ///
    /// # Errors
    /// As [`Indexing::gather_sum`](fallline_core::backend::Indexing::gather_sum).
    pub fn take_slices(&mut self, every: usize, [param, grad]: [&str; 2]) -> Result<()> {
        for (from, to) in [(&self.param, param), (&self.grad, grad)] {
            let Some(from) = from else { continue };
            self.workspace.slices.take(self.on.backend, from.reborrow(), every, self.scratch.get_mut(to)?)?;
        }
        Ok(())
    }
}
