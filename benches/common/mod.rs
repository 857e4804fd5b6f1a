//! What the benches share: buffers as a training loop has them, and how they are cut into tensors.

use fallline::core::Element;
use fallline::optim::{GradRef, ParamRef};
use fallline::prelude::*;
use fallline::{Isa, Recipe};
use std::sync::Arc;

/// The optimizers that are measured, as configurations.
pub const OPTIMIZERS: [(&str, &str); 4] = [
    ("AdamW", "AdamW"),
    ("Adam", "Adam"),
    ("Lion", "Lion"),
    ("SGD with momentum", "dict(type='SGD', momentum=0.9)"),
];

/// A training loop that owns a buffer for each parameter and for each gradient.
pub struct Trainer<T> {
    names: Vec<String>,
    values: Vec<Vec<T>>,
    grads: Vec<Vec<T>>,
}

impl<T: Element> Trainer<T>
where
    for<'a> ParamRef<'a>: From<&'a mut Vec<T>>,
    for<'a> GradRef<'a>: From<&'a Vec<T>>,
{
    /// Tensors of these lengths.
    pub fn new(lengths: &[usize]) -> Self {
        // Values in a range in which no arithmetic is out of the ordinary.
        let grad = |n| (0..n).map(|i| T::from_f64(0.01 * ((i % 7) as f64 - 3.0))).collect();
        Trainer {
            names: (0..lengths.len()).map(|i| format!("tensor{i}")).collect(),
            values: lengths.iter().map(|&n| vec![T::from_f64(1.0); n]).collect(),
            grads: lengths.iter().map(|&n| grad(n)).collect(),
        }
    }

    /// Returns what a step takes.
    pub fn bind(&mut self) -> Vec<Binding<'_>> {
        let buffers = self.values.iter_mut().zip(&self.grads);
        self.names.iter().zip(buffers).map(|(name, (value, grad))| param(name, value, grad)).collect()
    }
}

/// Returns an optimizer from a configuration, on the best instruction set.
pub fn optimizer(config: &str, threads: usize) -> Driver {
    optimizer_on(config, Isa::from_environment().expect("an instruction set of this machine"), threads)
}

/// Returns an optimizer from a configuration, on a given instruction set.
pub fn optimizer_on(config: &str, isa: Isa, threads: usize) -> Driver {
    let recipe = Recipe::from_text(config).expect("a configuration of this file");
    recipe.optimizer(Arc::new(Cpu::with_isa(isa, threads).expect("an instruction set of this machine")))
}
