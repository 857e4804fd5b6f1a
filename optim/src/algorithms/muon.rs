//! Muon: momentum whose matrices are orthogonalised.

use crate::hyper::{HyperError, Hyperparameters, Range};
use crate::stages::{Combining, MatrixStep, Stages};
use crate::{Algorithm, Info, Reference, hyperparameters};
use fallline_core::backend::Matrix;
use fallline_core::math::{flag, sqrt};
use fallline_core::{Kernel, Lane, Link, Result, Shape, rule};

hyperparameters! {
    /// Muon: momentum whose matrices are orthogonalised.
    ///
    /// ```text
    /// Bₜ = Bₜ₋₁ + (1 − μ) (g − Bₜ₋₁)
    /// X  = g + μ (Bₜ − g)          (Nesterov; else Bₜ)
    /// X  ← X / max(‖X‖, ε), then k times X ← a X + (b A + c A²) X with A = X Xᵀ
    /// θₜ = (1 − γλ) θₜ₋₁ − γ s X
    /// ```
    ///
    /// with γ = `lr`, μ = `momentum`, λ = `weight_decay`, ε = `eps`, k = `ns_steps`, (a, b, c) = `ns_coefficients`, ‖·‖
    /// the Frobenius norm; tall matrices are iterated on from the other side, which gives the same. For a
    /// matrix of r rows and n columns s is √max(1, r/n) (`adjust_lr_fn` `"original"` or none), 0.2 √max(r, n)
    /// (`"match_rms_adamw"`) or √(r/n) (`"spectral_unclamped"`). State: 4 bytes a parameter in `f32` (`momentum`).
    ///
    /// It takes matrices only; give everything else to AdamW.
    pub Muon as "Muon" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Decoupled weight decay λ, in units of `lr`.
        weight_decay: f64 = 0.1, Range::AtLeast(0.0);
        /// Momentum μ.
        momentum: f64 = 0.95, Range::AtLeast(0.0);
        /// Nesterov's momentum: look ahead by one more step.
        nesterov: bool = true, Range::Any;
        /// Coefficients a, b, c of the Newton–Schulz iteration.
        ns_coefficients: (f64, f64, f64) = (3.4445, -4.7750, 2.0315), Range::Any;
        /// The least norm ε to divide by.
        eps: f64 = 1e-7, Range::Any;
        /// Newton–Schulz iterations k.
        ns_steps: u64 = 5, Range::Closed(0.0, 99.0);
        /// How the rate depends on the matrix's extents.
        adjust_lr_fn: Option<String> = None, Range::Any;
    }
}

rule! {
    /// The momentum of [`Muon`], and what is to be orthogonalised.
    pub MuonMomentumRule(h: Muon, t) {
        let mu = h.momentum;
        let one_minus_mu = 1.0 - h.momentum;
        let nesterov = flag(h.nesterov);
    }
    element(g: Grad) -> (momentum: State, x: Scratch) sum(norm2) {
        momentum = momentum + one_minus_mu * (g - momentum);
        x = Lane::when(nesterov, g + mu * (momentum - g), momentum);
        norm2 = x * x;
    }
}

rule! {
    /// The update of [`Muon`].
    pub MuonRule(h: Muon, t) {
        let keep = 1.0 - h.lr * h.weight_decay;
    }
    per_tensor(alpha)
    element(x: Scratch) -> (p: Param) {
        p = keep * p - alpha * x;
    }
}

impl Algorithm for Muon {
    const INFO: Info = Info {
        summary: "Momentum whose matrices are orthogonalised by a Newton–Schulz iteration.",
        family: "matrix",
        source: "torch.optim",
        differences: "torch iterates in bf16 whatever the parameter is; here it is done in the compute type.",
        references: &[
            Reference {
                text: "Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks",
                at: "kellerjordan.github.io/posts/muon",
            },
            Reference { text: "Liu et al. 2025, Muon is Scalable for LLM Training", at: "arXiv:2502.16982" },
            Reference { text: "torch.optim.Muon", at: "torch 2.15.0" },
        ],
    };

    fn kernel<K: Link>(&self) -> &'static Kernel {
        K::kernel::<MuonRule>()
    }

    fn stages<K: Link>(&self, _class: u8) -> Stages {
        Stages::one(K::kernel::<MuonMomentumRule>()).then_matrix().then(self.kernel::<K>())
    }

    fn class(&self, shape: &Shape) -> Result<u8, String> {
        match shape.rank() {
            2 => Ok(0),
            rank => Err(format!("takes matrices only, and this has {rank} dimensions; give it to AdamW")),
        }
    }

    fn combine(&self, _stage: usize, at: &mut Combining<'_>) {
        let &[rows, columns] = at.shape.extents() else { return };
        let (rows, columns) = (rows as f64, columns as f64);
        let adjusted = match self.adjust_lr_fn.as_deref() {
            Some("match_rms_adamw") => 0.2 * sqrt(rows.max(columns)),
            Some("spectral_unclamped") => sqrt(rows / columns),
            _ => sqrt((rows / columns).max(1.0)),
        };
        at.scalars.fill(self.lr * adjusted);
    }

    fn matrix<K: Link>(&self, _stage: usize, step: &mut MatrixStep<'_>) -> Result<()> {
        let &[rows, columns] = step.shape.extents() else { return Ok(()) };
        let norm = sqrt(step.sums[0]).max(self.eps);
        self.orthogonalise(step, rows, columns, 1.0 / norm)
    }

    fn validate(&self) -> Result<(), HyperError> {
        match self.adjust_lr_fn.as_deref() {
            None | Some("original" | "match_rms_adamw" | "spectral_unclamped") => Ok(()),
            Some(other) => Err(HyperError::Combination {
                algorithm: Self::NAME,
                problem: format!(
                    "adjust_lr_fn must be None, original, match_rms_adamw or spectral_unclamped, got {other:?}"
                ),
            }),
        }
    }
}

impl Muon {
    /// The Newton–Schulz iteration on `scale` times the scratch x, into it.
    fn orthogonalise(
        &self,
        step: &mut MatrixStep<'_>,
        rows: usize,
        columns: usize,
        scale: f64,
    ) -> Result<()> {
        let (a, b, c) = self.ns_coefficients;
        let (tall, small) = (rows > columns, rows.min(columns));
        let mut gram = step.take(small * small)?;
        let mut polynomial = step.take(small * small)?;
        let mut next = step.take(rows * columns)?;
        for k in 0..self.ns_steps.max(1) {
            // The scale goes into the first iteration: a X s + (b s² A + c s⁴ A²) X s.
            let s = if k == 0 { scale } else { 1.0 };
            let x = Matrix::new(&step.scratch[0].1, rows, columns);
            if self.ns_steps > 0 {
                let sides = if tall { (x.transpose(), x) } else { (x, x.transpose()) };
                step.multiply(s * s, sides, 0.0, &mut gram, 0)?;
                step.backend.copy(&gram, &mut polynomial)?;
                let square = Matrix::new(&gram, small, small);
                step.multiply(c, (square, square), b, &mut polynomial, 0)?;
            }
            step.backend.copy(x.storage, &mut next)?;
            let polynomial = Matrix::new(&polynomial, small, small);
            let sides = if tall { (x, polynomial) } else { (polynomial, x) };
            if self.ns_steps > 0 {
                step.multiply(s, sides, a * s, &mut next, 0)?;
            }
            core::mem::swap(&mut step.scratch[0].1, &mut next);
        }
        step.workspace.give([gram, polynomial, next]);
        Ok(())
    }
}
