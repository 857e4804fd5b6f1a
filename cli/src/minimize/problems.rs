//! Functions to minimize: value and gradient, in `f64`.

use crate::digits::data::{DARKEST, PIXELS, Rows};
use crate::error::{Error, Result};
use fallline::core::fallible;
use ndarray::{Array1, Array2, ArrayView1};

/// A function to minimize.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Name {
    /// Sum of 100 (x[i+1] − x[i]²)² + (1 − x[i])², from (−1.2, 1, −1.2, 1, …)
    Rosenbrock,
    /// Half the sum of λ[i] x[i]², λ log-spaced from 1 to 1000, from all ones
    Quadratic,
    /// Beale's function of two variables, from (1, 1)
    Beale,
    /// Himmelblau's function of two variables, from (0, 0)
    Himmelblau,
    /// 10 n + sum of x[i]² − 10 cos(2π x[i]), from all 0.4: in the valley of the minimum at 0
    Rastrigin,
    /// Logistic regression of all bundled digits, 0 to 4 against 5 to 9, with a bias and an L2 penalty of 1e-4, from zeros
    Logistic,
}

/// A function of a number of variables.
pub enum Problem {
    /// One in closed form.
    Formula(Name),
    /// Mean of log(1 + exp(−y x·w)) + λ/2 ‖w‖²: a row for each image, its last column 1, times y = ±1.
    Logistic(Array2<f64>),
}

/// What memory is for in messages.
const START: &str = "the variables";

/// The penalty of `logistic`.
const PENALTY: f64 = 1e-4;

impl Problem {
    /// Returns the function and its start.
    pub fn new(name: Name, dim: Option<usize>) -> Result<(Problem, Vec<f64>)> {
        let fixed = |expected: usize, start: Vec<f64>| match dim {
            Some(dim) if dim != expected => {
                Err(Error::Usage(format!("--dim: {name:?} has {expected} variables, got {dim}")))
            }
            _ => Ok((Problem::Formula(name), start)),
        };
        let dim = dim.unwrap_or(2);
        match name {
            Name::Rosenbrock if dim < 2 => {
                Err(Error::Usage(format!("--dim: rosenbrock has at least 2, got {dim}")))
            }
            Name::Rosenbrock => {
                let start = (0..dim).map(|i| if i % 2 == 0 { -1.2 } else { 1.0 });
                Ok((Problem::Formula(name), fallible::collected(start, START)?))
            }
            Name::Quadratic => Ok((Problem::Formula(name), fallible::filled(1.0, dim, START)?)),
            Name::Rastrigin => Ok((Problem::Formula(name), fallible::filled(0.4, dim, START)?)),
            Name::Beale => fixed(2, vec![1.0, 1.0]),
            Name::Himmelblau => fixed(2, vec![0.0, 0.0]),
            Name::Logistic => {
                fixed(PIXELS + 1, Vec::new())?;
                Ok((Problem::Logistic(examples()?), vec![0.0; PIXELS + 1]))
            }
        }
    }

    /// Returns where the function of two variables is smallest, in as many places as it is.
    pub fn minima(&self) -> &'static [(f64, f64)] {
        match self {
            Problem::Formula(Name::Rosenbrock) => &[(1.0, 1.0)],
            Problem::Formula(Name::Quadratic | Name::Rastrigin) => &[(0.0, 0.0)],
            Problem::Formula(Name::Beale) => &[(3.0, 0.5)],
            Problem::Formula(Name::Himmelblau) => &[
                (3.0, 2.0),
                (-2.805_118_086_952_745, 3.131_312_518_250_573),
                (-3.779_310_253_377_747, -3.283_185_991_286_17),
                (3.584_428_340_330_492, -1.848_126_526_964_404),
            ],
            Problem::Formula(Name::Logistic) | Problem::Logistic(_) => &[],
        }
    }

    /// Returns the value at x; the gradient goes to `grad`.
    pub fn evaluate(&self, x: &[f64], grad: &mut [f64]) -> f64 {
        match self {
            Problem::Formula(Name::Rosenbrock) => rosenbrock(x, grad),
            Problem::Formula(Name::Quadratic) => quadratic(x, grad),
            Problem::Formula(Name::Beale) => beale(x, grad),
            Problem::Formula(Name::Himmelblau) => himmelblau(x, grad),
            Problem::Formula(Name::Rastrigin) => rastrigin(x, grad),
            Problem::Formula(Name::Logistic) => unreachable!("it has examples"),
            Problem::Logistic(examples) => logistic(examples, x, grad),
        }
    }
}

fn rosenbrock(x: &[f64], grad: &mut [f64]) -> f64 {
    grad.fill(0.0);
    let mut value = 0.0;
    for i in 0..x.len() - 1 {
        let (off, rest) = (x[i + 1] - x[i] * x[i], 1.0 - x[i]);
        value += 100.0 * off * off + rest * rest;
        grad[i] += -400.0 * x[i] * off - 2.0 * rest;
        grad[i + 1] += 200.0 * off;
    }
    value
}

fn quadratic(x: &[f64], grad: &mut [f64]) -> f64 {
    let last = (x.len().max(2) - 1) as f64;
    let mut value = 0.0;
    for (i, (x, grad)) in x.iter().zip(grad).enumerate() {
        let lambda = libm_pow(1e3, i as f64 / last);
        value += 0.5 * lambda * x * x;
        *grad = lambda * x;
    }
    value
}

fn libm_pow(base: f64, exponent: f64) -> f64 {
    fallline::core::math::powf(base, exponent)
}

fn beale(x: &[f64], grad: &mut [f64]) -> f64 {
    let (a, b) = (x[0], x[1]);
    let residuals = [1.5 - a + a * b, 2.25 - a + a * b * b, 2.625 - a + a * b * b * b];
    let by_a = [b - 1.0, b * b - 1.0, b * b * b - 1.0];
    let by_b = [a, 2.0 * a * b, 3.0 * a * b * b];
    let sum = |by: [f64; 3]| (0..3).map(|i| 2.0 * residuals[i] * by[i]).sum();
    (grad[0], grad[1]) = (sum(by_a), sum(by_b));
    residuals.iter().map(|r| r * r).sum()
}

fn himmelblau(x: &[f64], grad: &mut [f64]) -> f64 {
    let (one, other) = (x[0] * x[0] + x[1] - 11.0, x[0] + x[1] * x[1] - 7.0);
    grad[0] = 4.0 * x[0] * one + 2.0 * other;
    grad[1] = 2.0 * one + 4.0 * x[1] * other;
    one * one + other * other
}

fn rastrigin(x: &[f64], grad: &mut [f64]) -> f64 {
    let turn = 2.0 * std::f64::consts::PI;
    let mut value = 10.0 * x.len() as f64;
    for (x, grad) in x.iter().zip(grad) {
        value += x * x - 10.0 * (turn * x).cos();
        *grad = 2.0 * x + 10.0 * turn * (turn * x).sin();
    }
    value
}

/// A row for each image of the bundled data: its pixels from 0 to 1, and a 1 for the bias, times its class ±1.
fn examples() -> Result<Array2<f64>> {
    let rows = Rows::bundled().map_err(|error| Error::Other(error.to_string()))?;
    Ok(Array2::from_shape_fn((rows.labels.len(), PIXELS + 1), |(row, column)| {
        let sign = if rows.labels[row] < 5 { 1.0 } else { -1.0 };
        let pixels = &rows.pixels[row * PIXELS..][..PIXELS];
        sign * pixels.get(column).map_or(1.0, |&pixel| f64::from(pixel) / f64::from(DARKEST))
    }))
}

fn logistic(examples: &Array2<f64>, x: &[f64], grad: &mut [f64]) -> f64 {
    let weights = ArrayView1::from(x);
    let margins = examples.dot(&weights);
    let count = margins.len() as f64;
    // log(1 + exp(−m)) without overflow.
    let loss = |m: &f64| (-m.abs()).exp().ln_1p() + (-m).max(0.0);
    let slopes: Array1<f64> = margins.mapv(|m| -1.0 / (1.0 + m.exp()) / count);
    let slope = examples.t().dot(&slopes);
    // The bias, the last, is not punished.
    let punished = &x[..x.len() - 1];
    grad.iter_mut().zip(&slope).for_each(|(grad, slope)| *grad = *slope);
    grad.iter_mut().zip(punished).for_each(|(grad, x)| *grad += PENALTY * x);
    margins.iter().map(loss).sum::<f64>() / count
        + 0.5 * PENALTY * punished.iter().map(|x| x * x).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn gradients_are_those_of_the_values() {
        for &name in Name::value_variants() {
            let (problem, mut x) = Problem::new(name, None).unwrap();
            x.iter_mut().enumerate().for_each(|(i, x)| *x += 0.3 + 0.01 * i as f64);
            let mut grad = vec![0.0; x.len()];
            let mut other = grad.clone();
            problem.evaluate(&x, &mut grad);
            for i in [0, x.len() - 1] {
                let mut at = |step: f64| {
                    let mut moved = x.clone();
                    moved[i] += step;
                    problem.evaluate(&moved, &mut other)
                };
                // A central difference with steps of 1e-5 is exact to about 1e-10 of the third derivative.
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                assert!(
                    (slope - grad[i]).abs() <= 1e-6 * (1.0 + grad[i].abs()),
                    "{name:?} {i}: {slope} {}",
                    grad[i]
                );
            }
        }
    }

    #[test]
    fn minima_are_where_they_should_be() {
        for &name in Name::value_variants().iter().filter(|name| **name != Name::Logistic) {
            let (problem, _) = Problem::new(name, None).unwrap();
            assert!(!problem.minima().is_empty(), "{name:?}");
            for &(x, y) in problem.minima() {
                let mut grad = [1.0; 2];
                assert!(problem.evaluate(&[x, y], &mut grad).abs() < 1e-12, "{name:?}");
                assert!(grad.iter().all(|g| g.abs() < 1e-12), "{name:?}: {grad:?}");
            }
        }
    }
}
