//! Adafactor: a second moment kept as row and column means.

use super::prelude::*;
use crate::op::{OpAt, TensorOp, matrices};
use core::any::Any;
use fallline_core::backend::{AxisReduction, MatrixReduction, View};
use fallline_core::{Kernel, Result, Shape, Storage};

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
    /// with γ = `lr`, (ε₁, ε₂) = `eps`, c = `clip_threshold`, d = `decay_rate`, β₁ = `beta1`, λ = `weight_decay`. R
    /// and C are taken over the last two dimensions. `warmup_init` starts with ρ = 10⁻⁶ t instead of 10⁻²; without
    /// `relative_step` ρ is `lr`, without `scale_parameter` α is ρ. State in `f32`: 4 bytes a row and a column
    /// (`row`, `column`), or a parameter of a vector (`v`). With `beta1` there are 4 bytes a parameter more (`m`).
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
        /// Decoupled weight decay λ, multiplied by the step size.
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
    /// The size of [`Adafactor`]'s update, from the factors of an element's row and column.
    pub AdafactorSizeRule(h: Adafactor, t) {}
    element(g: Grad, p: Param, r: Scratch, c: Scratch) -> () sum(p2, u2) {
        let u = g * (r * c);
        p2 = p * p;
        u2 = u * u;
    }
}

rule! {
    /// The update of [`Adafactor`] for a matrix.
    pub AdafactorRule(h: Adafactor, t) {}
    per_tensor(alpha, keep) reads AdafactorSizeRule(p2, u2) {
        each(at) {
            let elements = at.shape.elements() as f64;
            let rate = h.rate(t);
            let scales = flag(h.scale_parameter);
            let eps2 = h.eps.1;
            let clip_threshold = h.clip_threshold;
            let weight_decay = h.weight_decay;
        }
        tensor {
            let step = N::select_if(scales, rate * (p2 / elements).sqrt().max(eps2), rate);
            let alpha = step / ((u2 / elements).sqrt() / clip_threshold).max(N::splat(1.0));
            let keep = 1.0 - weight_decay * step;
        }
    }
    element(g: Grad, r: Scratch, c: Scratch) -> (p: Param) {
        p = keep * p - alpha * (g * (r * c));
    }
}

rule! {
    /// The update of [`Adafactor`] for a matrix, with `beta1`.
    pub AdafactorMomentumRule(h: Adafactor, t) {
        let beta1 = h.beta1.unwrap_or(0.0);
        let one_minus_beta1 = 1.0 - h.beta1.unwrap_or(0.0);
    }
    per_tensor(alpha, keep) reads AdafactorSizeRule(p2, u2) {
        each(at) {
            let elements = at.shape.elements() as f64;
            let rate = h.rate(t);
            let scales = flag(h.scale_parameter);
            let eps2 = h.eps.1;
            let clip_threshold = h.clip_threshold;
            let weight_decay = h.weight_decay;
        }
        tensor {
            let step = N::select_if(scales, rate * (p2 / elements).sqrt().max(eps2), rate);
            let alpha = step / ((u2 / elements).sqrt() / clip_threshold).max(N::splat(1.0));
            let keep = 1.0 - weight_decay * step;
        }
    }
    element(g: Grad, r: Scratch, c: Scratch) -> (p: Param, m: State) {
        m = beta1 * m + one_minus_beta1 * (alpha * (g * (r * c)));
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
    per_tensor(alpha, keep) reads AdafactorVectorMomentRule(p2, u2) {
        each(at) {
            let elements = at.shape.elements() as f64;
            let rate = h.rate(t);
            let scales = flag(h.scale_parameter);
            let eps2 = h.eps.1;
            let clip_threshold = h.clip_threshold;
            let weight_decay = h.weight_decay;
        }
        tensor {
            let step = N::select_if(scales, rate * (p2 / elements).sqrt().max(eps2), rate);
            let alpha = step / ((u2 / elements).sqrt() / clip_threshold).max(N::splat(1.0));
            let keep = 1.0 - weight_decay * step;
        }
    }
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
    per_tensor(alpha, keep) reads AdafactorVectorMomentRule(p2, u2) {
        each(at) {
            let elements = at.shape.elements() as f64;
            let rate = h.rate(t);
            let scales = flag(h.scale_parameter);
            let eps2 = h.eps.1;
            let clip_threshold = h.clip_threshold;
            let weight_decay = h.weight_decay;
        }
        tensor {
            let step = N::select_if(scales, rate * (p2 / elements).sqrt().max(eps2), rate);
            let alpha = step / ((u2 / elements).sqrt() / clip_threshold).max(N::splat(1.0));
            let keep = 1.0 - weight_decay * step;
        }
    }
    element(g: Grad, v: State) -> (p: Param, m: State) {
        m = beta1 * m + one_minus_beta1 * (alpha * (g / v.sqrt()));
        p = keep * p - m;
    }
}

rule! {
    /// The factor of [`Adafactor`]'s update that a row has, from its moment and the sum of those of its matrix.
    pub RowFactorRule(h: (), t) {}
    per_tensor(share)
    element(total: Scratch) -> (r: Scratch) {
        r = 1.0 / (r / (share * total)).sqrt();
    }
}

rule! {
    /// The same of a column.
    pub ColumnFactorRule(h: (), t) {}
    element() -> (c: Scratch) {
        c = 1.0 / c.sqrt();
    }
}

/// How the moments of rows or columns accumulate new squares.
#[derive(Clone, Copy, Debug)]
pub struct FactoredMoment {
    kept: f64,
    eps: f64,
    /// What the gradients are multiplied by, as far as the host knows it.
    scale: f64,
    /// Squares in each sum.
    terms: f64,
}

rule! {
    /// The moment of a row or a column, from the sum of its squares, whose place it takes too.
    pub FactoredMomentRule(h: FactoredMoment, t) {}
    per_tensor(kept, share, shift) shared(factor) {
        each(at) {
            let kept = h.kept;
            let new = 1.0 - h.kept;
            let scale = h.scale;
            let terms = h.terms;
            let shift = (1.0 - h.kept) * h.eps;
        }
        tensor {
            let grad_scale = scale * factor;
            let share = new * grad_scale * grad_scale / terms;
        }
    }
    element() -> (v: State, x: Scratch) {
        v = kept * v + (share * x + shift);
        x = v;
    }
}

rule! {
    /// A gradient in the compute type.
    pub WidenRule(h: (), t) {}
    element(g: Grad) -> (x: Scratch) {
        x = g;
    }
}

/// The moments of rows and columns, and the factors of the update that follow from them.
pub struct AdafactorFactors;

impl TensorOp for AdafactorFactors {
    type Hyper = Adafactor;
    const NAME: &'static str = "AdafactorFactors";
    const FORMULAS: &'static [&'static str] = &[
        "row ← β̂₂ row + (1 − β̂₂) (rowmean(g²) + eps1),  column likewise,  β̂₂ = 1 − t^decay_rate",
        "r = 1 / √(row / mean(row)),  c = 1 / √column",
    ];
    const STATES: &'static [&'static str] = &["row", "column"];

    fn rules<K: Link>() -> Vec<&'static Kernel> {
        [&[K::kernel::<RowFactorRule>(), K::kernel::<ColumnFactorRule>()][..], &moment_rules::<K>()].concat()
    }

    fn run<K: Link>(h: &Adafactor, at: &mut OpAt<'_>) -> Result<()> {
        let (batch, rows, columns) = matrices(at.shape);
        if batch * rows * columns == 0 {
            return Ok(());
        }
        let totals = update_moments::<K>(at, 1.0 - powf(at.on.t as f64, h.decay_rate), h.eps.0)?;
        let [r, c] = at.scratch.two(["r", "c"])?;
        let of_matrix = View::read(&totals).broadcast(1, rows);
        let views = &mut [Some(View::write(r)), Some(of_matrix)];
        at.on.run(K::kernel::<RowFactorRule>(), &() as &dyn Any, &[1.0 / rows as f64], views)?;
        at.on.run(K::kernel::<ColumnFactorRule>(), &() as &dyn Any, &[], &mut [Some(View::write(c))])?;
        at.workspace.release([totals]);
        Ok(())
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
            papers::ADAFACTOR,
            Reference::new("transformers.optimization.Adafactor", "transformers 5.23.0"),
        ],
    };
    const STATES: &'static [State<Self>] = &[
        State::second_moment("v"),
        State::new("row").rows(),
        State::new("column").columns(),
        State::new("r").rows(),
        State::new("c").columns(),
    ];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        let averages = self.beta1.is_some();
        if on.variant == VECTOR {
            let moment = on.pass::<AdafactorVectorMomentRule>();
            return Ok(match averages {
                true => moment.pass::<AdafactorVectorMomentumRule>(),
                false => moment.pass::<AdafactorVectorRule>(),
            });
        }
        let sized = on.op::<AdafactorFactors>().pass::<AdafactorSizeRule>();
        Ok(match averages {
            true => sized.pass::<AdafactorMomentumRule>(),
            false => sized.pass::<AdafactorRule>(),
        })
    }

    fn variant(&self, _name: &str, shape: &Shape) -> Result<Variant, String> {
        Ok(if shape.rank() < 2 { VECTOR } else { Variant::ONLY })
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
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

impl Adafactor {
    /// Returns the relative step ρ of step `t`, or γ.
    fn rate(&self, t: u64) -> f64 {
        match self.relative_step {
            true => (if self.warmup_init { 1e-6 * t as f64 } else { 1e-2 }).min(1.0 / sqrt(t as f64)),
            false => self.lr.unwrap_or(0.0),
        }
    }
}

/// Parameters with fewer than two dimensions.
pub(crate) const VECTOR: Variant = Variant(1);

/// Updates `row` and `column` to `kept` of themselves plus `1 − kept` of the means of g² + `eps`. Copies them to the
/// scratch of rows and of columns. Returns the sum of each matrix's `row`.
pub(crate) fn update_moments<K: Link>(at: &mut OpAt<'_>, kept: f64, eps: f64) -> Result<Storage> {
    let (batch, rows, columns) = matrices(at.shape);
    let Some(grad) = at.grad.take() else { unreachable!("the parameter takes part in the step") };
    let mut widened = None;
    if grad.format() != at.on.compute.format() {
        let mut as_computed = at.take(grad.len())?;
        let views = &mut [Some(View::write(&mut as_computed)), Some(grad.reborrow())];
        at.on.run(K::kernel::<WidenRule>(), &() as &dyn Any, &[], views)?;
        widened = Some(as_computed);
    }
    let mut totals = at.take(batch)?;
    let (scale, reading) = (at.grad_scale.known(), at.reading());
    let [row, column] = at.states.two(["row", "column"])?;
    let [r, c] = at.scratch.two(["r", "c"])?;
    at.on.backend.reductions().reduce_rows_and_columns(MatrixReduction {
        from: widened.as_ref().map_or_else(|| grad.reborrow(), View::read),
        squares: true,
        matrices: batch,
        rows,
        columns,
        by_row: r,
        by_column: c,
    })?;
    for (moment, x, terms) in [(row, &mut *r, columns), (column, c, rows)] {
        let views = &mut [Some(View::write(moment)), Some(View::write(x))];
        let moment = FactoredMoment { kept, eps, scale, terms: terms as f64 };
        at.on.run_reading(reading, K::kernel::<FactoredMomentRule>(), &moment, views)?;
    }
    at.on.backend.reductions().reduce_axis(AxisReduction {
        from: View::read(r),
        squares: false,
        outer: batch,
        count: rows,
        inner: 1,
        to: &mut totals,
    })?;
    at.workspace.release(widened);
    Ok(totals)
}

/// Returns the rules of [`update_moments`].
pub(crate) fn moment_rules<K: Link>() -> [&'static Kernel; 2] {
    [K::kernel::<FactoredMomentRule>(), K::kernel::<WidenRule>()]
}
