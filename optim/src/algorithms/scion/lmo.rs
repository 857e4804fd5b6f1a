//! Linear minimization oracles: the direction of norm 1 that decreases a linear function most.

use crate::algorithms::muon::{LEAST_NORM, NewtonSchulz, Preset, dims};
use crate::hyper::{HyperType, Value};
use crate::op::OpAt;
use fallline_core::backend::{AxisReduction, View};
use fallline_core::math::sqrt;
use fallline_core::{Error, Kernel, Link, Result, Shape, rule};

/// What is added to denominators.
const EPS: f64 = 1e-8;

/// What the oracle does, for `describe`.
pub(in crate::algorithms) const FORMULAS: &[&str] = &[
    "spectral: x ← x / max(√norm2, 1e-7), as a matrix X; then num_steps times",
    "X ← a X + (b A + c A²) X with A = X Xᵀ",
    "row, col, bias: x ← x / (factor √(Σ x²) + 1e-8), over each row, column or vector",
];

/// The norm of an oracle, with pytorch_optimizer's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LmoNorm {
    /// None: the direction itself.
    None = 0,
    /// Chosen by the parameter's dimensions.
    Auto = 1,
    /// The spectral norm of matrices.
    Spectral = 2,
    /// That of convolutions.
    SpectralConv = 3,
    /// The largest element.
    Sign = 4,
    /// The root mean square.
    Bias = 5,
    /// The root mean square of each column.
    Col = 6,
    /// The norm of each row.
    Row = 7,
}

impl LmoNorm {
    const ALL: [(LmoNorm, &'static str); 8] = [
        (LmoNorm::None, "none"),
        (LmoNorm::Auto, "auto"),
        (LmoNorm::Spectral, "spectral"),
        (LmoNorm::SpectralConv, "spectralconv"),
        (LmoNorm::Sign, "sign"),
        (LmoNorm::Bias, "bias"),
        (LmoNorm::Col, "col"),
        (LmoNorm::Row, "row"),
    ];

    /// Returns whether an element of the step depends on no other one.
    pub(in crate::algorithms) fn is_elementwise(self) -> bool {
        matches!(self, LmoNorm::None | LmoNorm::Sign)
    }

    /// Returns the norm of a parameter with so many dimensions.
    fn of_rank(self, rank: usize) -> LmoNorm {
        match (self, rank) {
            (LmoNorm::Auto, 0 | 1) => LmoNorm::Bias,
            (LmoNorm::Auto, 2) => LmoNorm::Spectral,
            (LmoNorm::Auto, _) => LmoNorm::SpectralConv,
            (norm, _) => norm,
        }
    }
}

impl HyperType for LmoNorm {
    const NAME: &'static str =
        "norm (none, auto, spectral, spectralconv, sign, bias, col, row) or its number";

    fn from_value(value: &Value) -> Option<Self> {
        let is = |(norm, name): &(LmoNorm, &str)| match value {
            Value::Text(text) => text.eq_ignore_ascii_case(name),
            Value::Int(number) => *number == *norm as i64,
            _ => false,
        };
        LmoNorm::ALL.into_iter().find(is).map(|(norm, _)| norm)
    }

    fn to_value(&self) -> Value {
        let name = LmoNorm::ALL.iter().find(|(norm, _)| norm == self).map_or("auto", |(_, name)| name);
        Value::Text(name.to_owned())
    }
}

rule! {
    /// Elements over the norm of their row or column.
    pub ScionAxisRule(h: (), t) {}
    per_tensor(factor, eps)
    element(norm2: Scratch) -> (x: Scratch) {
        x = x / (factor * norm2.sqrt() + eps);
    }
}

/// An oracle.
#[derive(Clone, Copy, Debug)]
pub(in crate::algorithms) struct Lmo {
    pub(in crate::algorithms) norm: LmoNorm,
    pub(in crate::algorithms) num_steps: u64,
    pub(in crate::algorithms) normalize: Option<bool>,
    pub(in crate::algorithms) max_scale: bool,
    pub(in crate::algorithms) transpose: bool,
}

/// Over what sums of squares are taken.
enum Axis {
    Rows,
    Columns,
}

impl Lmo {
    /// Returns the rules that it runs.
    pub(in crate::algorithms) fn rules<K: Link>() -> Vec<&'static Kernel> {
        [NewtonSchulz::rules::<K>(), vec![K::kernel::<ScionAxisRule>()]].concat()
    }

    /// Checks that the norm is one of parameters of this shape.
    pub(in crate::algorithms) fn check(&self, shape: &Shape) -> core::result::Result<(), String> {
        let rank = shape.rank();
        let fits = match self.norm {
            LmoNorm::None | LmoNorm::Bias => true,
            LmoNorm::Auto => rank <= 4,
            LmoNorm::Spectral | LmoNorm::Col | LmoNorm::Row => rank == 2,
            LmoNorm::SpectralConv => rank >= 2,
            LmoNorm::Sign => rank >= 2 || !self.normalizes(),
        };
        match fits {
            true => Ok(()),
            false => {
                let norm = self.norm.to_value();
                Err(format!("has no norm_type={norm} for it: it has {rank} dimensions"))
            }
        }
    }

    /// Returns whether the step is scaled by a dimension.
    fn normalizes(&self) -> bool {
        self.normalize.unwrap_or(self.norm != LmoNorm::Col)
    }

    /// Returns what the direction that [`run`](Lmo::run) leaves is multiplied by.
    pub(in crate::algorithms) fn size(&self, shape: &Shape) -> f64 {
        let inputs = shape.dims().get(1).map_or(1.0, |inputs| *inputs as f64);
        let outputs = shape.dims().first().map_or(1.0, |outputs| *outputs as f64);
        match self.norm.of_rank(shape.rank()) {
            LmoNorm::Spectral => {
                let scale = if self.normalizes() { sqrt(outputs / inputs) } else { sqrt(outputs) };
                if self.max_scale { scale.max(1.0) } else { scale }
            }
            LmoNorm::SpectralConv => {
                let kernel: usize = shape.dims().iter().skip(2).product();
                sqrt(outputs / inputs) / kernel as f64
            }
            LmoNorm::Sign if self.normalizes() => 1.0 / inputs,
            _ => 1.0,
        }
    }

    /// Puts the direction into the scratch, up to its [`size`](Lmo::size).
    ///
    /// # Errors
    /// When the norm is of other shapes, as after a change of the setting; when the backend fails.
    pub(in crate::algorithms) fn run<K: Link>(&self, at: &mut OpAt<'_>) -> Result<()> {
        self.check(at.shape).map_err(|problem| Error::Unavailable(format!("the algorithm {problem}")))?;
        let (rows, columns) = dims(at.shape);
        if rows * columns == 0 {
            return Ok(());
        }
        let (r, n) = (rows as f64, columns as f64);
        let (axis, factor) = match (self.norm.of_rank(at.shape.rank()), self.transpose) {
            (LmoNorm::Bias, _) => (Axis::Columns, 1.0 / sqrt(r)),
            (LmoNorm::Col, false) => (Axis::Columns, if self.normalizes() { n } else { 1.0 } / sqrt(r)),
            (LmoNorm::Col, true) => (Axis::Rows, if self.normalizes() { r } else { 1.0 } / sqrt(n)),
            (LmoNorm::Row, false) => (Axis::Rows, if self.normalizes() { sqrt(n) } else { 1.0 }),
            (LmoNorm::Row, true) => (Axis::Columns, if self.normalizes() { sqrt(r) } else { 1.0 }),
            _ => {
                let coefficients = Preset::Original.steps();
                let (steps, format) = (self.num_steps, at.on.compute.format());
                let iteration =
                    NewtonSchulz { rows, columns, coefficients, cycles: false, steps, format, form: None };
                return iteration.run::<K>(at, LEAST_NORM);
            }
        };
        let (outer, count, inner) = match axis {
            Axis::Rows => (rows, columns, 1),
            Axis::Columns => (1, rows, columns),
        };
        let mut norm2 = at.take(outer * inner)?;
        let x = at.scratch.get_mut("x")?;
        let (from, to) = (View::read(x), &mut norm2);
        at.on.backend.reductions().reduce_axis(AxisReduction {
            from,
            squares: true,
            outer,
            count,
            inner,
            to,
        })?;
        let broadcast = match axis {
            Axis::Rows => View::read(&norm2).broadcast(1, columns),
            Axis::Columns => View::read(&norm2).broadcast(columns, rows),
        };
        let views = &mut [View::write(x), broadcast].map(Some);
        at.on.run(K::kernel::<ScionAxisRule>(), &() as &dyn core::any::Any, &[factor, EPS], views)?;
        at.workspace.release([norm2]);
        Ok(())
    }
}

/// Returns what is left of a weight.
pub(in crate::algorithms) fn keep(constraint: bool, lr: f64, weight_decay: f64) -> f64 {
    if constraint { 1.0 - lr } else { 1.0 - weight_decay * lr }
}
