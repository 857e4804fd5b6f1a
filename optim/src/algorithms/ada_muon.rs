//! AdaMuon: Muon whose orthogonalised momentum has a second moment.

use super::prelude::*;
use crate::algorithms::muon::{
    Coefficients, Form, LEAST_NORM, NewtonSchulz, Preset, REST, dims, hidden_matrices,
};
use crate::op::{OpAt, TensorOp};
use crate::program::Delegates;
use fallline_core::{Kernel, Result, Shape};

hyperparameters! {
    /// AdaMuon: Muon whose orthogonalised momentum has a second moment.
    ///
    /// ```text
    /// mₜ = mₜ₋₁ + (1 − β₁) (g − mₜ₋₁)
    /// X  = mₜ / max(‖mₜ‖, 10⁻⁷), then k times X ← a X + (b A + c A²) X with A = X Xᵀ
    /// vₜ = β₂ vₜ₋₁ + (1 − β₂) X²
    /// U  = X / (√(vₜ / (1 − β₂ᵗ)) + ε)
    /// θₜ = (1 − γλ) θₜ₋₁ − γ s √min(r, n) U / (‖U‖ + ε)
    /// ```
    ///
    /// with γ = `lr`, (β₁, β₂) = `betas`, λ = `weight_decay`, ε = `eps`, k = `ns_steps`, ‖·‖ the Frobenius norm. For a
    /// matrix of r rows and n columns s is 0.2 √max(r, n), so that the update has a root mean square of 0.2, or without
    /// `use_adjusted_lr` √max(1, r/n). `ns_coeffs` are as with [`NorMuon`](crate::algorithms::NorMuon). State: 8 bytes a
    /// parameter in `f32` (`m`, `v`).
    ///
    /// Which parameters it takes, and what `ns_method`, `flatten`, `rest` and `adamw_names` do, is as with
    /// [`Muon`](crate::algorithms::Muon).
    ///
    /// ```
    /// # use fallline_optim::algorithms::AdaMuon;
    /// let algorithm = AdaMuon { flatten: true, rest: Some("AdamW".into()), rest_lr: Some(3e-4), ..AdaMuon::default() };
    /// ```
    pub AdaMuon as "AdaMuon" {
        /// Learning rate γ.
        lr: f64 = 2e-2, Range::AtLeast(0.0);
        /// Decay rates of the momentum and of the second moment of what is orthogonalised.
        betas: (f64, f64) = (0.9, 0.95), Range::HalfOpen(0.0, 1.0);
        /// Decoupled weight decay λ, multiplied by `lr`.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Newton–Schulz iterations k.
        ns_steps: u64 = 5, Range::Closed(1.0, 99.0);
        /// Coefficients a, b, c of the Newton–Schulz iteration.
        ns_coeffs: Coefficients = Coefficients::Named(Preset::Original), Range::Any;
        /// The form of the iteration: `"gram"` or `"standard"`; none is chosen by shape.
        ns_method: Option<String> = None, Range::Any;
        /// Adjust the rate to the larger dimension of a matrix instead of to their ratio.
        use_adjusted_lr: bool = true, Range::Any;
        /// Added to the denominators.
        eps: f64 = 1e-10, Range::AtLeast(0.0);
        /// Take parameters of more than two dimensions as matrices of the first and all the others.
        flatten: bool = false, Range::Any;
        /// What steps everything that is not a hidden matrix: `"AdamW"`, or nothing: such a parameter is an error.
        rest: Option<String> = None, Range::Any;
        /// Parts of the names of matrices that the rest takes as well.
        adamw_names: Vec<String> = Vec::new(), Range::Any;
        /// The rest's learning rate; none is `lr`, with its schedule (a schedule of `lr` leaves a separate rate
        /// alone).
        rest_lr: Option<f64> = None, Range::AtLeast(0.0);
        /// The rest's decay rates of the running averages of the gradient and of its square.
        rest_betas: (f64, f64) = (0.9, 0.999), Range::HalfOpen(0.0, 1.0);
        /// Added to the rest's denominator.
        rest_eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// The rest's decoupled weight decay, multiplied by its learning rate.
        rest_weight_decay: f64 = 1e-2, Range::AtLeast(0.0);
    }
}

rule! {
    /// The momentum of [`AdaMuon`], which is to be orthogonalised.
    pub AdaMuonMomentumRule(h: AdaMuon, t) {
        let one_minus_beta1 = 1.0 - h.betas.0;
    }
    element(g: Grad) -> (m: State, x: Scratch) sum(norm2) {
        m = m + one_minus_beta1 * (g - m);
        x = m;
        norm2 = m * m;
    }
}

rule! {
    /// The second moment of [`AdaMuon`], and the update before it has its length.
    pub AdaMuonMomentRule(h: AdaMuon, t) {
        let beta2 = h.betas.1;
        let one_minus_beta2 = 1.0 - h.betas.1;
        let correction = 1.0 - pow(h.betas.1, t);
        let eps = h.eps;
    }
    element() -> (v: State, x: Scratch) sum(u2) {
        v = beta2 * v + one_minus_beta2 * (x * x);
        x = x / ((v / correction).sqrt() + eps);
        u2 = x * x;
    }
}

rule! {
    /// The update of [`AdaMuon`].
    pub AdaMuonRule(h: AdaMuon, t) {
        let keep = 1.0 - h.lr * h.weight_decay;
    }
    per_tensor(alpha) reads AdaMuonMomentRule(u2) {
        each(at) {
            let size = h.lr * h.size(at.shape);
            let eps = h.eps;
        }
        tensor {
            let alpha = size / (u2.sqrt() + eps);
        }
    }
    element(x: Scratch) -> (p: Param) {
        p = keep * p - alpha * x;
    }
}

/// The Newton–Schulz iteration on the momentum.
pub struct OrthogonaliseMomentum;

impl TensorOp for OrthogonaliseMomentum {
    type Hyper = AdaMuon;
    const NAME: &'static str = "OrthogonaliseMomentum";
    const FORMULAS: &'static [&'static str] = &[
        "x ← x / max(√norm2, 1e-7), as a matrix X; then ns_steps times",
        "X ← a X + (b A + c A²) X with A = X Xᵀ",
    ];
    const WHOLE_STATES: Option<&'static [&'static str]> = Some(&[]);

    fn rules<K: Link>() -> Vec<&'static Kernel> {
        NewtonSchulz::rules::<K>()
    }

    fn run<K: Link>(h: &AdaMuon, at: &mut OpAt<'_>) -> Result<()> {
        let (rows, columns) = dims(at.shape);
        let (coefficients, steps, format) = (h.ns_coeffs.steps(), h.ns_steps, at.on.compute.format());
        let form = Form::named(h.ns_method.as_deref());
        NewtonSchulz { rows, columns, coefficients, cycles: false, steps, format, form }
            .run::<K>(at, LEAST_NORM)
    }
}

impl Algorithm for AdaMuon {
    const INFO: Info = Info {
        summary: "Muon whose orthogonalised momentum is divided by a second moment of each element.",
        family: "matrix",
        source: "pytorch_optimizer",
        differences: "The iteration is done in the compute type. The step of the bias correction is the parameter's own, \
            there its group's. Parameters that are not matrices are stepped by AdamW with rest=\"AdamW\", and those of \
            more dimensions are matrices with flatten=True, as Muon's here; pytorch_optimizer takes all of them as \
            matrices and leaves the rest to groups of a separate AdamW. A matrix without elements, of which it raises, \
            is left alone. weight_decouple, maximize and foreach are not supported.",
        references: &[
            Reference::new("Si, Zhang & Shen 2025, AdaMuon: Adaptive Muon Optimizer", "arXiv:2507.11005"),
            Reference::new("pytorch_optimizer.AdaMuon", "pytorch_optimizer 4.1.0"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        if on.variant == REST {
            return on.delegate(&self.delegate());
        }
        let orthogonal = on.pass::<AdaMuonMomentumRule>().op::<OrthogonaliseMomentum>();
        Ok(orthogonal.pass::<AdaMuonMomentRule>().pass::<AdaMuonRule>())
    }

    fn variant(&self, name: &str, shape: &Shape) -> Result<Variant, String> {
        self.hidden().variant(name, shape)
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        let checked = Form::check(self.ns_method.as_deref()).and_then(|()| self.hidden().check());
        checked.map_err(|problem| HyperError::Combination { algorithm: Self::NAME, problem })
    }
}

impl AdaMuon {
    /// Returns how long the update of a matrix is, in units of `lr`.
    fn size(&self, shape: &Shape) -> f64 {
        let (rows, columns) = dims(shape);
        let (rows, columns) = (rows as f64, columns as f64);
        let adjusted = match self.use_adjusted_lr {
            true => 0.2 * sqrt(rows.max(columns)),
            false => sqrt((rows / columns).max(1.0)),
        };
        adjusted * sqrt(rows.min(columns))
    }
}

hidden_matrices!(AdaMuon);
