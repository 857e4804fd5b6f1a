//! What steps parameters, as a training loop sees it.

use crate::hyper::Value;
use crate::{Binding, Error, Objective, Result, StepReport};
#[cfg(feature = "checkpoints")]
use crate::{Checkpoint, LoadOptions, LoadReport};
use fallline_core::{Format, Shape};

/// Anything that steps parameters.
pub trait Optimizer: Send {
    /// Updates every bound parameter that has a gradient, in place.
    ///
    /// A step is atomic as far as can be known: everything that can be found wrong is found before the
    /// first write.
    ///
    /// # Errors
    /// Wrong shapes, names given twice, tensors of another device, no memory for new states: everything is
    /// as it was. [`Error::Poisoned`] after a device failed half-way.
    fn step(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport>;

    /// Evaluates the objective and takes a step; what evaluates the loss itself does so as often as it needs. Returns the
    /// loss before the step.
    ///
    /// # Errors
    /// As [`step`](Optimizer::step), and what the objective fails with: parameters are where it was last evaluated then.
    fn step_with(&mut self, objective: &mut dyn Objective) -> Result<f64>;

    /// Takes gradients drawn for an estimate of the Hessian's diagonal into the states of an algorithm that keeps one
    /// ([`Steps::on_hessian`](crate::Steps::on_hessian): SophiaG). The bindings are those of a step,
    /// with these gradients; parameters and step counts stay, and parameters without a gradient are left alone. Call
    /// it before or after a step, every ten steps or so.
    ///
    /// # Errors
    /// [`Error::NoHessian`] for any other algorithm; else as [`step`](Optimizer::step).
    fn update_hessian(&mut self, bindings: &mut [Binding<'_>]) -> Result<StepReport> {
        let _ = bindings;
        Err(Error::NoHessian { algorithm: self.name() })
    }

    /// Returns the algorithm's name.
    fn name(&self) -> &'static str;

    /// Returns how many parameter groups there are.
    fn groups(&self) -> usize;

    /// Returns a hyperparameter of a group.
    fn get(&self, group: usize, name: &str) -> Option<Value>;

    /// Sets hyperparameters of a group, all or none.
    ///
    /// # Errors
    /// When one does not exist, has another type or is out of range.
    fn set(&mut self, group: usize, values: &[(&str, Value)]) -> Result<()>;

    /// Returns what is known of each parameter seen so far, sorted by name.
    fn params(&self) -> Vec<ParamState>;

    /// Returns a parameter's state, as numbers in row-major order; `None` where there is none (yet).
    ///
    /// # Errors
    /// When the device cannot be read.
    fn state(&self, param: &str, state: &str) -> Result<Option<Vec<f64>>>;

    /// Returns everything that is needed to resume as if never stopped, except for parameters.
    ///
    /// # Errors
    /// When the device cannot be read; [`Error::Poisoned`] where a step failed half-way.
    #[cfg(feature = "checkpoints")]
    fn save(&self) -> Result<Checkpoint>;

    /// Restores what [`save`](Optimizer::save) gave: states, step counts and hyperparameters.
    ///
    /// # Errors
    /// When anything does not fit: another algorithm, other groups, other shapes, missing or unexpected
    /// parameters. The error names it, and the optimizer is as it was.
    #[cfg(feature = "checkpoints")]
    fn load(&mut self, checkpoint: &Checkpoint) -> Result<LoadReport> {
        self.load_with(checkpoint, &LoadOptions::default())
    }

    /// Loads as [`load`](Optimizer::load), with the mismatches that the options allow.
    ///
    /// # Errors
    /// When anything does not fit that the options do not allow; the optimizer is as it was.
    #[cfg(feature = "checkpoints")]
    fn load_with(&mut self, checkpoint: &Checkpoint, options: &LoadOptions) -> Result<LoadReport>;

    /// Returns the report of the last load, with what the steps since have found: see [`LoadOptions`].
    #[cfg(feature = "checkpoints")]
    fn load_report(&self) -> Option<&LoadReport> {
        None
    }
}

/// What is known of a parameter.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ParamState {
    /// Its name.
    pub name: String,
    /// Its shape when it was first bound.
    pub shape: Shape,
    /// Its group.
    pub group: usize,
    /// How many gradients it has been given.
    pub steps: u64,
    /// The names of its states.
    pub states: Vec<&'static str>,
    /// How each of them is stored.
    pub formats: Vec<Format>,
    /// Bytes of its states.
    pub state_bytes: usize,
}
