//! What an optimizer's name means: an algorithm or a search.

use crate::hyper::{Hyper, HyperError, Value};
use crate::line_search::Search;
use crate::{AnyAlgorithm, Info};
use fallline_core::Kernel;

/// What an optimizer's name means, with its hyperparameters.
#[derive(Debug)]
pub enum Method {
    /// An algorithm, which steps on gradients: a [`Driver`](crate::Driver) takes it.
    Algorithm(Box<dyn AnyAlgorithm>),
    /// A search, which evaluates the loss itself: a [`LineSearch`](crate::LineSearch) takes it.
    Search(Search),
}

impl Method {
    /// Returns the name in configurations.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Algorithm(algorithm) => algorithm.name(),
            Method::Search(search) => search.name(),
        }
    }

    /// Returns what people should know about it.
    pub fn info(&self) -> &'static Info {
        match self {
            Method::Algorithm(algorithm) => algorithm.info(),
            Method::Search(search) => search.info(),
        }
    }

    /// Returns its hyperparameters.
    pub fn table(&self) -> &'static [Hyper] {
        match self {
            Method::Algorithm(algorithm) => algorithm.table(),
            Method::Search(search) => search.table(),
        }
    }

    /// Returns a hyperparameter by name.
    pub fn get(&self, name: &str) -> Option<Value> {
        match self {
            Method::Algorithm(algorithm) => algorithm.get(name),
            Method::Search(search) => search.get(name),
        }
    }

    /// Sets hyperparameters by name, all or none.
    ///
    /// # Errors
    /// [`HyperError`]; nothing is set then.
    pub fn set(&mut self, values: &[(&str, Value)]) -> Result<(), HyperError> {
        match self {
            Method::Algorithm(algorithm) => algorithm.set(values),
            Method::Search(search) => search.set(values),
        }
    }

    /// Returns every rule that runs with these hyperparameters, each once.
    pub fn kernels(&self) -> Vec<&'static Kernel> {
        match self {
            Method::Algorithm(algorithm) => algorithm.kernels(),
            Method::Search(search) => search.kernels(),
        }
    }

    /// Returns the algorithm, if it is one.
    pub fn algorithm(&self) -> Option<&dyn AnyAlgorithm> {
        match self {
            Method::Algorithm(algorithm) => Some(&**algorithm),
            Method::Search(_) => None,
        }
    }
}

impl Clone for Method {
    fn clone(&self) -> Method {
        match self {
            Method::Algorithm(algorithm) => Method::Algorithm(algorithm.boxed()),
            Method::Search(search) => Method::Search(search.clone()),
        }
    }
}

impl From<&dyn AnyAlgorithm> for Method {
    fn from(algorithm: &dyn AnyAlgorithm) -> Method {
        Method::Algorithm(algorithm.boxed())
    }
}
