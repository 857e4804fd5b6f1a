//! Each algorithm that is not a single rule once more, in plain loops over `ndarray` arrays of `f64`. They are
//! written from its paper or source without looking at the engine, one parameter after the other and nothing
//! clever.

pub mod adafactor;
pub mod dadapt;
pub mod layerwise;
pub mod lbfgs;
pub mod muon;
pub mod sparse_adam;

use ndarray::ArrayD;

/// A gradient.
#[derive(Clone, Debug)]
pub enum Grad {
    Dense(ArrayD<f64>),
    /// Rows' numbers, and a row for each.
    Rows(Vec<i64>, ArrayD<f64>),
}

impl Grad {
    /// Returns one that is not row-sparse.
    pub fn dense(&self) -> &ArrayD<f64> {
        match self {
            Grad::Dense(grad) => grad,
            Grad::Rows(..) => panic!("this reference takes no rows"),
        }
    }
}

/// One step over all parameters.
pub trait Reference {
    /// Takes a step. A parameter without a gradient is left alone.
    fn step(&mut self, params: &mut [ArrayD<f64>], grads: &[Option<Grad>]);
}

/// Returns the 2-norm.
pub fn norm(array: &ArrayD<f64>) -> f64 {
    let mut squares = 0.0;
    for x in array {
        squares += x * x;
    }
    squares.sqrt()
}

/// Returns a parameter's state, made of zeros when it is first asked for.
pub fn zeros_like<'s>(state: &'s mut Option<ArrayD<f64>>, like: &ArrayD<f64>) -> &'s mut ArrayD<f64> {
    state.get_or_insert_with(|| ArrayD::zeros(like.shape()))
}
