//! SCION: momentum that a linear minimization oracle turns into a step of a given norm.

pub(super) mod lmo;

pub use lmo::{LmoNorm, ScionAxisRule};

use super::prelude::*;
use crate::op::{OpAt, TensorOp};
use fallline_core::{Kernel, Result, Shape};
use lmo::Lmo;

hyperparameters! {
    /// SCION: momentum that a linear minimization oracle turns into a step of a given norm.
    ///
    /// ```text
    /// dₜ = dₜ₋₁ + α (g − dₜ₋₁)
    /// θₜ = (1 − γλ) θₜ₋₁ − γ ρ lmo(dₜ)      (constraint: 1 − γ for 1 − γλ)
    /// ```
    ///
    /// with γ = `lr`, α = `momentum`, λ = `weight_decay`, ρ = `scale`. With a matrix of r rows and n columns
    /// `norm_type` gives as lmo(d):
    ///
    /// | `norm_type` | lmo(d) |
    /// |---|---|
    /// | `"spectral"` | √(r/n) msign(d) (without `normalize` √r), with `max_scale` at least msign(d) |
    /// | `"spectralconv"` | √(r/c) msign(d) / k, of c input channels and k elements of a kernel |
    /// | `"sign"` | sign(d) / n (without `normalize` sign(d)) |
    /// | `"col"` | columns over their root mean square (with `normalize` n times that) |
    /// | `"row"` | rows over √n times their norm (without `normalize` their norm) |
    /// | `"bias"` | d over its root mean square, of a matrix as `"col"` |
    /// | `"none"` | d |
    /// | `"auto"` | bias of vectors, spectral of matrices, spectralconv of more dimensions |
    ///
    /// msign is `num_steps` Newton–Schulz iterations with [`Muon`](crate::algorithms::Muon)'s coefficients. Denominators
    /// have 10⁻⁸ added. `transpose` takes rows for columns. `norm_type` may be pytorch_optimizer's number (`LMONorm`).
    /// State: 4 bytes a parameter in `f32` (`d`).
    pub Scion as "SCION" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Weight α of the new gradient: 1 less the usual momentum.
        momentum: f64 = 0.1, Range::Closed(0.0, 1.0);
        /// Stay within the norm's radius: a conditional gradient step.
        constraint: bool = false, Range::Any;
        /// The norm.
        norm_type: LmoNorm = LmoNorm::Auto, Range::Any;
        /// Newton–Schulz iterations of the spectral norms.
        num_steps: u64 = 5, Range::Closed(1.0, 99.0);
        /// Scale by the input's dimension; none is what the norm does.
        normalize: Option<bool> = None, Range::Any;
        /// Scale the spectral norm's step by at least 1.
        max_scale: bool = false, Range::Any;
        /// Take rows for columns.
        transpose: bool = false, Range::Any;
        /// Radius, or scale of the update.
        scale: f64 = 1.0, Range::Above(0.0);
        /// Decoupled weight decay λ, multiplied by `lr`; of no effect with `constraint`.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
    }
}

rule! {
    /// The momentum of [`Scion`], of which the oracle is asked.
    pub ScionMomentumRule(h: Scion, t) {
        let momentum = h.momentum;
    }
    element(g: Grad) -> (d: State, x: Scratch) sum(norm2) {
        d = d + momentum * (g - d);
        x = d;
        norm2 = d * d;
    }
}

rule! {
    /// The update of [`Scion`].
    pub ScionRule(h: Scion, t) {
        let keep = lmo::keep(h.constraint, h.lr, h.weight_decay);
    }
    per_tensor(alpha) {
        each(at) {
            let alpha = h.lr * h.lmo().size(at.shape) * h.scale;
        }
    }
    element(x: Scratch) -> (p: Param) {
        p = keep * p - alpha * x;
    }
}

rule! {
    /// [`Scion`] with the sign of the momentum, or with the momentum itself.
    pub ScionSignRule(h: Scion, t) {
        let momentum = h.momentum;
        let keep = lmo::keep(h.constraint, h.lr, h.weight_decay);
        let signs = flag(h.norm_type == LmoNorm::Sign);
    }
    per_tensor(alpha) {
        each(at) {
            let alpha = h.lr * h.lmo().size(at.shape) * h.scale;
        }
    }
    element(g: Grad) -> (p: Param, d: State) {
        d = d + momentum * (g - d);
        p = keep * p - alpha * Vector::select_if(signs, d.sign(), d);
    }
}

/// The oracle, asked of the momentum.
pub struct MomentumLmo;

impl TensorOp for MomentumLmo {
    type Hyper = Scion;
    const NAME: &'static str = "MomentumLmo";
    const FORMULAS: &'static [&'static str] = lmo::FORMULAS;
    const WHOLE_STATES: Option<&'static [&'static str]> = Some(&[]);

    fn rules<K: Link>() -> Vec<&'static Kernel> {
        Lmo::rules::<K>()
    }

    fn run<K: Link>(h: &Scion, at: &mut OpAt<'_>) -> Result<()> {
        h.lmo().run::<K>(at)
    }
}

impl Algorithm for Scion {
    const INFO: Info = Info {
        summary: "Momentum of which a linear minimization oracle makes a step of a given norm.",
        family: "matrix",
        source: "pytorch_optimizer",
        differences: "The iteration is done in the compute type. norm_kwargs are num_steps, normalize, max_scale and \
            transpose, which norm_type=\"auto\" takes as well. A matrix without elements is left alone. weight_decouple, \
            maximize and foreach are not supported, and neither is init.",
        references: &[
            Reference::new(
                "Pethick et al. 2025, Training Deep Learning Models with Norm-Constrained LMOs",
                "arXiv:2502.07529",
            ),
            Reference::new("pytorch_optimizer.SCION", "pytorch_optimizer 4.1.0"),
        ],
    };

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(match self.norm_type.is_elementwise() {
            true => on.pass::<ScionSignRule>(),
            false => on.pass::<ScionMomentumRule>().op::<MomentumLmo>().pass::<ScionRule>(),
        })
    }

    fn variant(&self, _name: &str, shape: &Shape) -> Result<Variant, String> {
        self.lmo().check(shape).map(|()| Variant::ONLY)
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        match self.momentum > 0.0 {
            true => Ok(()),
            false => {
                let problem = "momentum must be in (0, 1], got 0".to_owned();
                Err(HyperError::Combination { algorithm: Self::NAME, problem })
            }
        }
    }
}

impl Scion {
    /// Returns the oracle.
    fn lmo(&self) -> Lmo {
        let &Scion { norm_type: norm, num_steps, normalize, max_scale, transpose, .. } = self;
        Lmo { norm, num_steps, normalize, max_scale, transpose }
    }
}
