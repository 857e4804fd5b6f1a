//! Adafactor: a second moment kept as row and column means.

use crate::hyper::{HyperError, Hyperparameters, Range};
use crate::stages::{Combining, MatrixStep, Stages, matrices};
use crate::{Algorithm, Info, Reference, hyperparameters};
use core::any::Any;
use fallline_core::backend::{Matrix, View};
use fallline_core::math::{powf, sqrt};
use fallline_core::{Kernel, Link, Result, Shape, rule};

hyperparameters! {
    /// Adafactor: a second moment kept as row and column means.
    ///
    /// ```text
    /// β̂₂ = 1 − t^d;  ρ = min(10⁻², 1/√t)  (or γ);  α = ρ max(ε₂, rms(θₜ₋₁))
    /// Rₜ = β̂₂ Rₜ₋₁ + (1 − β̂₂) rowmean(g² + ε₁)
    /// Cₜ = β̂₂ Cₜ₋₁ + (1 − β̂₂) columnmean(g² + ε₁)
    /// u  = g / √(Rₜ Cₜ / mean(Rₜ))            (vectors: g / √vₜ)
    /// u  ← α u / max(1, rms(u) / c)           (with β₁: mₜ = β₁ mₜ₋₁ + (1 − β₁) u instead of u)
    /// θₜ = (1 − λα) θₜ₋₁ − u
    /// ```
    ///
    /// with γ = `lr`, (ε₁, ε₂) = `eps`, c = `clip_threshold`, d = `decay_rate`, β₁ = `beta1`, λ = `weight_decay`. R and C are
    /// taken over the last two dimensions. `warmup_init` starts with ρ = 10⁻⁶ t instead of 10⁻²; without
    /// `relative_step` ρ is `lr`, without `scale_parameter` α is ρ. State in `f32`: 4 bytes a row and a column (`row`,
    /// `column`), or a parameter of a vector (`v`); with `beta1` 4 bytes a parameter more (`m`).
    pub Adafactor as "Adafactor" {
        /// Learning rate γ; none with `relative_step`.
        lr: Option<f64> = None, Range::AtLeast(0.0);
        /// ε₁ is added to the squared gradient, ε₂ is the least scale of a parameter.
        eps: (f64, f64) = (1e-30, 1e-3), Range::AtLeast(0.0);
        /// The root mean square c that an update is clipped to.
        clip_threshold: f64 = 1.0, Range::Above(0.0);
        /// The exponent d of the second moment's decay.
        decay_rate: f64 = -0.8, Range::Any;
        /// Decay rate β₁ of the running average of the update; none keeps none.
        beta1: Option<f64> = None, Range::HalfOpen(0.0, 1.0);
        /// Decoupled weight decay λ, in units of the step size.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Scale the step by the parameter's root mean square.
        scale_parameter: bool = true, Range::Any;
        /// Compute the step from the step count instead of `lr`.
        relative_step: bool = true, Range::Any;
        /// Begin with smaller relative steps.
        warmup_init: bool = false, Range::Any;
    }
}

rule! {
    /// What [`Adafactor`] takes means of.
    pub AdafactorSquareRule(h: Adafactor, t) {
        let eps1 = h.eps.0;
    }
    element(g: Grad) -> (x: Scratch) {
        x = g * g + eps1;
    }
}

rule! {
    /// The size of [`Adafactor`]'s update, with the factors' product in the scratch.
    pub AdafactorSizeRule(h: Adafactor, t) {}
    element(g: Grad, p: Param, x: Scratch) -> () sum(p2, u2) {
        let u = g * x;
        p2 = p * p;
        u2 = u * u;
    }
}

rule! {
    /// The update of [`Adafactor`] for a matrix.
    pub AdafactorRule(h: Adafactor, t) {}
    per_tensor(alpha, keep)
    element(g: Grad, x: Scratch) -> (p: Param) {
        p = keep * p - alpha * (g * x);
    }
}

rule! {
    /// The update of [`Adafactor`] for a matrix, with `beta1`.
    pub AdafactorMomentumRule(h: Adafactor, t) {
        let beta1 = h.beta1.unwrap_or(0.0);
        let one_minus_beta1 = 1.0 - h.beta1.unwrap_or(0.0);
    }
    per_tensor(alpha, keep)
    element(g: Grad, x: Scratch) -> (p: Param, m: State) {
        m = beta1 * m + one_minus_beta1 * (alpha * (g * x));
        p = keep * p - m;
    }
}

rule! {
    /// The second moment of [`Adafactor`] for a vector, and the size of its update.
    pub AdafactorVectorMomentRule(h: Adafactor, t) {
        let eps1 = h.eps.0;
        let beta2 = 1.0 - powf(t as f64, h.decay_rate);
        let one_minus_beta2 = powf(t as f64, h.decay_rate);
    }
    element(g: Grad, p: Param) -> (v: State) sum(p2, u2) {
        v = beta2 * v + one_minus_beta2 * (g * g + eps1);
        let u = g / v.sqrt();
        p2 = p * p;
        u2 = u * u;
    }
}

rule! {
    /// The update of [`Adafactor`] for a vector.
    pub AdafactorVectorRule(h: Adafactor, t) {}
    per_tensor(alpha, keep)
    element(g: Grad, v: State) -> (p: Param) {
        p = keep * p - alpha * (g / v.sqrt());
    }
}

rule! {
    /// The update of [`Adafactor`] for a vector, with `beta1`.
    pub AdafactorVectorMomentumRule(h: Adafactor, t) {
        let beta1 = h.beta1.unwrap_or(0.0);
        let one_minus_beta1 = 1.0 - h.beta1.unwrap_or(0.0);
    }
    per_tensor(alpha, keep)
    element(g: Grad, v: State) -> (p: Param, m: State) {
        m = beta1 * m + one_minus_beta1 * (alpha * (g / v.sqrt()));
        p = keep * p - m;
    }
}

rule! {
    /// `1 / √(scale v)`: a factor of a second moment.
    pub FactorRule(h: (), t) {}
    per_tensor(scale)
    element(v: State) -> (x: Scratch) {
        x = 1.0 / (v * scale).sqrt();
    }
}

rule! {
    /// The sum of a vector.
    pub TotalRule(h: (), t) {}
    element(v: State) -> () sum(total) {
        total = v;
    }
}

impl Algorithm for Adafactor {
    const INFO: Info = Info {
        summary: "A second moment kept as row and column means, with steps relative to the parameter's size.",
        family: "adaptive",
        source: "transformers",
        differences: "As in transformers the factored moment is a mean, not a sum, and weight decay is scaled by \
            the step size.",
        references: &[
            Reference {
                text: "Shazeer & Stern 2018, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost",
                at: "arXiv:1804.04235",
            },
            Reference { text: "transformers.optimization.Adafactor", at: "transformers 5.23.0" },
        ],
    };
    const NON_NEGATIVE: &'static [&'static str] = &["v"];

    fn kernel<K: Link>(&self) -> &'static Kernel {
        match self.beta1 {
            Some(_) => K::kernel::<AdafactorMomentumRule>(),
            None => K::kernel::<AdafactorRule>(),
        }
    }

    fn stages<K: Link>(&self, class: u8) -> Stages {
        if class == VECTOR {
            let update = match self.beta1 {
                Some(_) => K::kernel::<AdafactorVectorMomentumRule>(),
                None => K::kernel::<AdafactorVectorRule>(),
            };
            return Stages::one(K::kernel::<AdafactorVectorMomentRule>()).then(update);
        }
        let first = Stages::one(K::kernel::<AdafactorSquareRule>()).then_matrix();
        let first = first.then(K::kernel::<AdafactorSizeRule>()).then(self.kernel::<K>());
        first.with_states(&["row", "column"])
    }

    fn class(&self, shape: &Shape) -> Result<u8, String> {
        Ok(if shape.rank() < 2 { VECTOR } else { 0 })
    }

    fn state_shape(&self, state: &str, shape: &Shape) -> Shape {
        factor_shape(state, shape)
    }

    fn combine(&self, _stage: usize, at: &mut Combining<'_>) {
        let elements = at.shape.elements() as f64;
        let rms = |sum: usize| sqrt(at.sums[sum] / elements);
        let t = at.t as f64;
        let mut step = self.lr.unwrap_or(0.0);
        if self.relative_step {
            step = (if self.warmup_init { 1e-6 * t } else { 1e-2 }).min(1.0 / sqrt(t));
        }
        if self.scale_parameter {
            step *= rms(0).max(self.eps.1);
        }
        let clip = (rms(1) / self.clip_threshold).max(1.0);
        at.scalars.copy_from_slice(&[step / clip, 1.0 - self.weight_decay * step]);
    }

    fn matrix<K: Link>(&self, _stage: usize, step: &mut MatrixStep<'_>) -> Result<()> {
        let kept = 1.0 - powf(step.t as f64, self.decay_rate);
        let means = update_means(step, kept)?;
        let (batch, rows, columns) = matrices(step.shape);
        let mut factors = [step.take(batch * rows)?, step.take(batch * columns)?];
        for (matrix, mean) in means.iter().enumerate() {
            let scales = [1.0 / mean, 1.0];
            for (k, length) in [rows, columns].into_iter().enumerate() {
                let at = matrix * length;
                let moment = View::read(&step.states[step.states.len() - 2 + k].1).part(at, length);
                let factor = View::write(&mut factors[k]).part(at, length);
                let views = &mut [Some(factor), Some(moment)];
                step.run(K::kernel::<FactorRule>(), &() as &dyn Any, &scales[k..=k], views)?;
            }
        }
        outer(step, &factors[0], &factors[1], &vec![1.0; batch])?;
        step.workspace.give(factors);
        Ok(())
    }

    fn matrix_rules<K: Link>(&self) -> Vec<&'static Kernel> {
        vec![K::kernel::<FactorRule>()]
    }

    fn validate(&self) -> Result<(), HyperError> {
        let problem = if self.lr.is_some() && self.relative_step {
            "lr excludes relative_step=True"
        } else if self.lr.is_none() && !self.relative_step {
            "relative_step=False needs an lr"
        } else if self.warmup_init && !self.relative_step {
            "warmup_init=True needs relative_step=True"
        } else {
            return Ok(());
        };
        Err(HyperError::Combination { algorithm: Self::NAME, problem: problem.into() })
    }
}

/// The class of parameters with fewer than two dimensions.
pub(crate) const VECTOR: u8 = 1;

/// The extents of the states `row` and `column`.
pub(crate) fn factor_shape(state: &str, shape: &Shape) -> Shape {
    let extents = shape.extents();
    match (state, extents) {
        ("row", [batch @ .., _]) => Shape::from(batch),
        ("column", [batch @ .., _, columns]) => Shape::from(&[batch, &[*columns]].concat()[..]),
        _ => shape.clone(),
    }
}

/// `row` and `column` become `kept` of themselves and `1 − kept` of the means of the scratch. Returns the means of each
/// matrix's `row`. Sums over rows and columns are products with a vector of ones.
pub(crate) fn update_means(step: &mut MatrixStep<'_>, kept: f64) -> Result<Vec<f64>> {
    let (batch, rows, columns) = matrices(step.shape);
    let mut ones = step.take(rows.max(columns))?;
    step.backend.write(&mut ones, vec![1.0f64; rows.max(columns)].as_slice().into())?;
    let states = core::mem::take(&mut step.states);
    let [.., (_, row), (_, column)] = &mut *states else { unreachable!("the stages name both states") };
    for matrix in 0..batch {
        let squares = Matrix::new(&step.scratch[0].1, rows, columns).at(matrix * rows * columns);
        let across = (squares, Matrix::new(&ones, columns, 1));
        step.multiply((1.0 - kept) / columns as f64, across, kept, row, matrix * rows)?;
        let down = (Matrix::new(&ones, 1, rows), squares);
        step.multiply((1.0 - kept) / rows as f64, down, kept, column, matrix * columns)?;
    }
    let mut values = vec![0.0f64; row.len()];
    step.backend.read(row, values.as_mut_slice().into())?;
    step.states = states;
    step.workspace.give([ones]);
    let mean = |row: &[f64]| fallline_core::sums::fold(row.iter().copied()) / rows as f64;
    Ok((0..batch).map(|matrix| mean(&values[matrix * rows..][..rows])).collect())
}

/// The scratch becomes the outer product of two vectors, for each matrix times a scale.
pub(crate) fn outer(
    step: &mut MatrixStep<'_>,
    row: &fallline_core::Storage,
    column: &fallline_core::Storage,
    scales: &[f64],
) -> Result<()> {
    let (_, rows, columns) = matrices(step.shape);
    let scratch = core::mem::take(&mut step.scratch);
    for (matrix, scale) in scales.iter().enumerate() {
        let left = Matrix::new(row, rows, 1).at(matrix * rows);
        let right = Matrix::new(column, 1, columns).at(matrix * columns);
        step.multiply(*scale, (left, right), 0.0, &mut scratch[0].1, matrix * rows * columns)?;
    }
    step.scratch = scratch;
    Ok(())
}
