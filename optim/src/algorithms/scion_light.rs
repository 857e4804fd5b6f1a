//! SCIONLight: SCION without a buffer of its own for the momentum.

use super::prelude::*;
use crate::algorithms::scion::{LmoNorm, lmo};
use crate::op::{OpAt, TensorOp};
use fallline_core::{Kernel, Result, Shape};
use lmo::Lmo;

hyperparameters! {
    /// SCIONLight: [`SCION`](crate::algorithms::Scion) without a buffer of its own for the momentum.
    ///
    /// ```text
    /// θₜ = (1 − γλ) θₜ₋₁ − γ ρ lmo(g)      (constraint: 1 − γ for 1 − γλ)
    /// ```
    ///
    /// with γ = `lr`, λ = `weight_decay`, ρ = `scale`, and the oracles of SCION. No state.
    ///
    /// The momentum is in the buffers that gradients are added to. They are not cleared: after a step the training loop
    /// multiplies them by 1 − `momentum`, which the step itself cannot, since gradients are lent for reading:
    ///
    /// ```
    /// # use fallline_optim::{Driver, Optimizer, Result, param};
    /// # fn backward(_: &[f32], _: &mut [f32]) {}
    /// # fn train(mut optimizer: Driver, mut weight: Vec<f32>) -> Result<()> {
    /// let mut buffer = vec![0.0f32; weight.len()];
    /// for _ in 0..100 {
    ///     backward(&weight, &mut buffer); // adds the gradient
    ///     optimizer.step(&mut [param("weight", &mut weight, &buffer)])?;
    ///     buffer.iter_mut().for_each(|x| *x *= 1.0 - 0.1);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub ScionLight as "SCIONLight" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
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
    accepted { momentum: f64 = 0.1, Range::Closed(0.0, 1.0) }
}

rule! {
    /// The gradient of [`ScionLight`], of which the oracle is asked.
    pub ScionLightGradRule(h: ScionLight, t) {}
    element(g: Grad) -> (x: Scratch) sum(norm2) {
        x = g;
        norm2 = g * g;
    }
}

rule! {
    /// The update of [`ScionLight`].
    pub ScionLightRule(h: ScionLight, t) {
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
    /// [`ScionLight`] with the sign of the gradient, or with the gradient itself.
    pub ScionLightSignRule(h: ScionLight, t) {
        let keep = lmo::keep(h.constraint, h.lr, h.weight_decay);
        let signs = flag(h.norm_type == LmoNorm::Sign);
    }
    per_tensor(alpha) {
        each(at) {
            let alpha = h.lr * h.lmo().size(at.shape) * h.scale;
        }
    }
    element(g: Grad) -> (p: Param) {
        p = keep * p - alpha * Vector::select_if(signs, g.sign(), g);
    }
}

/// The oracle, asked of the gradient.
pub struct GradLmo;

impl TensorOp for GradLmo {
    type Hyper = ScionLight;
    const NAME: &'static str = "GradLmo";
    const FORMULAS: &'static [&'static str] = lmo::FORMULAS;
    const WHOLE_STATES: Option<&'static [&'static str]> = Some(&[]);

    fn rules<K: Link>() -> Vec<&'static Kernel> {
        Lmo::rules::<K>()
    }

    fn run<K: Link>(h: &ScionLight, at: &mut OpAt<'_>) -> Result<()> {
        h.lmo().run::<K>(at)
    }
}

impl Algorithm for ScionLight {
    const INFO: Info = Info {
        summary: "SCION without a state: the momentum is in the buffers that gradients are added to.",
        family: "matrix",
        source: "pytorch_optimizer",
        differences: "The training loop multiplies the gradients by 1 − momentum after a step; pytorch_optimizer does it \
            within. Else as SCION here.",
        references: &[
            Reference::new(
                "Pethick et al. 2025, Training Deep Learning Models with Norm-Constrained LMOs",
                "arXiv:2502.07529",
            ),
            Reference::new("pytorch_optimizer.SCIONLight", "pytorch_optimizer 4.1.0"),
        ],
    };

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(match self.norm_type.is_elementwise() {
            true => on.pass::<ScionLightSignRule>(),
            false => on.pass::<ScionLightGradRule>().op::<GradLmo>().pass::<ScionLightRule>(),
        })
    }

    fn variant(&self, _name: &str, shape: &Shape) -> Result<Variant, String> {
        self.lmo().check(shape).map(|()| Variant::ONLY)
    }
}

impl ScionLight {
    /// Returns the oracle.
    fn lmo(&self) -> Lmo {
        let &ScionLight { norm_type: norm, num_steps, normalize, max_scale, transpose, .. } = self;
        Lmo { norm, num_steps, normalize, max_scale, transpose }
    }
}
