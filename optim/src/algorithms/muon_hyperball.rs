//! MuonHyperball: Muon on the sphere of the weights' norm.

use super::emerging;
use super::prelude::*;
use crate::algorithms::muon::{Form, NewtonSchulz, REST, dims, hidden_matrices};
use crate::op::{OpAt, TensorOp};
use crate::program::Delegates;
use fallline_core::{Kernel, Result, Shape};

hyperparameters! {
    /// MuonHyperball: Muon on the sphere of the weights' norm.
    ///
    /// ```text
    /// Bₜ = Bₜ₋₁ + (1 − μ) (g − Bₜ₋₁)
    /// X  = g + μ (Bₜ − g)          (Nesterov; else Bₜ)
    /// X  ← X / max(‖X‖, 10⁻⁷), then k times X ← a X + (b A + c A²) X with A = X Xᵀ
    /// Wₜ = (1 − γλ) θₜ₋₁,  R = ‖Wₜ‖ or hyperball_radius
    /// Y  = Wₜ − γ R s X / max(‖s X‖, ε)
    /// θₜ = R Y / max(‖Y‖, ε)
    /// ```
    ///
    /// with γ = `lr`, μ = `momentum`, λ = `weight_decay`, ε = `hyperball_eps`, k = `num_ns_steps`, ‖·‖ the Frobenius
    /// norm. `coefficient_type` names a, b and c: `"simple"`, `"quintic"`, `"polar_express"`, `"cans"` or `"aol"`, of
    /// which Emerging-Optimizers has the numbers. For a matrix of r rows and n columns s is `extra_scale_factor` times
    /// √max(r, n) (`scale_mode` `"spectral"`), √max(1, r/n) (`"shape_scaling"`) or √(r/n) (`"unit_rms_norm"`). It
    /// matters where ε does. The decay is 1 − λ with `weight_decay_method` `"independent"`, and 1 − γ²λ with `"palm"`.
    /// State: 4 bytes a parameter in `f32` (`momentum`).
    ///
    /// With a `hyperball_radius` a parameter is brought to this norm in its first step. Which parameters it takes, and
    /// what `ns_method`, `flatten`, `rest` and `adamw_names` do, is as with [`Muon`](crate::algorithms::Muon).
    pub MuonHyperball as "MuonHyperball" {
        /// Learning rate γ, in units of the weights' norm.
        lr: f64 = 3e-4, Range::AtLeast(0.0);
        /// Momentum μ.
        momentum: f64 = 0.95, Range::AtLeast(0.0);
        /// Weight decay λ.
        weight_decay: f64 = 0.01, Range::AtLeast(0.0);
        /// Nesterov's momentum: look ahead by one more step.
        nesterov: bool = false, Range::Any;
        /// How weights decay: `"decoupled"`, `"independent"` or `"palm"`.
        weight_decay_method: String = "decoupled".to_owned(), Range::Any;
        /// Coefficients of the Newton–Schulz iteration, by name.
        coefficient_type: String = "quintic".to_owned(), Range::Any;
        /// Newton–Schulz iterations k.
        num_ns_steps: u64 = 5, Range::Closed(1.0, 99.0);
        /// How the update depends on the matrix's shape.
        scale_mode: String = "spectral".to_owned(), Range::Any;
        /// A factor of the update.
        extra_scale_factor: f64 = 1.0, Range::Any;
        /// The least norm ε to divide by.
        hyperball_eps: f64 = 1e-8, Range::AtLeast(0.0);
        /// The norm of all parameters; none is that of each.
        hyperball_radius: Option<f64> = None, Range::Above(0.0);
        /// The form of the iteration: `"gram"` or `"standard"`; none is chosen by shape.
        ns_method: Option<String> = None, Range::Any;
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
    /// The momentum of [`MuonHyperball`], and what is to be orthogonalised.
    pub MuonHyperballMomentumRule(h: MuonHyperball, t) {
        let mu = h.momentum;
        let one_minus_mu = 1.0 - h.momentum;
        let nesterov = flag(h.nesterov);
    }
    element(g: Grad) -> (momentum: State, x: Scratch) sum(norm2) {
        momentum = momentum + one_minus_mu * (g - momentum);
        x = Vector::select_if(nesterov, g + mu * (momentum - g), momentum);
        norm2 = x * x;
    }
}

rule! {
    /// The norms of the update and of the parameter.
    pub MuonHyperballNormRule(h: MuonHyperball, t) {}
    element(p: Param, x: Scratch) -> () sum(x2, p2) {
        x2 = x * x;
        p2 = p * p;
    }
}

rule! {
    /// The step off the sphere of [`MuonHyperball`].
    pub MuonHyperballMoveRule(h: MuonHyperball, t) {}
    per_tensor(kept, alpha) reads MuonHyperballNormRule(x2, p2) {
        each(at) {
            let keep = h.keep();
            let lr = h.lr;
            let ratio = h.ratio(at.shape);
            let eps = h.hyperball_eps;
            let radius = h.hyperball_radius.unwrap_or(0.0);
            let fixed = flag(h.hyperball_radius.is_some());
            let begins = flag(h.hyperball_radius.is_some() && at.t == 1);
        }
        tensor {
            let root = p2.sqrt();
            let norm = N::select(root.lt(eps), eps, root);
            let kept = N::select_if(begins, keep * (radius / norm), keep);
            let r = N::select_if(fixed, radius, kept.abs() * root);
            let length = ratio.abs() * x2.sqrt();
            let alpha = lr * r * ratio / N::select(length.lt(eps), eps, length);
        }
    }
    element(p: Param) -> (x: Scratch) sum(y2, p2) {
        x = kept * p - alpha * x;
        y2 = x * x;
        p2 = p * p;
    }
}

rule! {
    /// The way back to the sphere of [`MuonHyperball`].
    pub MuonHyperballRule(h: MuonHyperball, t) {}
    per_tensor(size) reads MuonHyperballMoveRule(y2, p2) {
        each(at) {
            let keep = h.keep();
            let eps = h.hyperball_eps;
            let radius = h.hyperball_radius.unwrap_or(0.0);
            let fixed = flag(h.hyperball_radius.is_some());
        }
        tensor {
            let root = y2.sqrt();
            let r = N::select_if(fixed, radius, keep.abs() * p2.sqrt());
            let size = r / N::select(root.lt(eps), eps, root);
        }
    }
    element(x: Scratch) -> (p: Param) {
        p = size * x;
    }
}

/// The Newton–Schulz iteration.
pub struct OrthogonaliseOnBall;

impl TensorOp for OrthogonaliseOnBall {
    type Hyper = MuonHyperball;
    const NAME: &'static str = "OrthogonaliseOnBall";
    const FORMULAS: &'static [&'static str] = emerging::FORMULAS;
    const WHOLE_STATES: Option<&'static [&'static str]> = Some(&[]);

    fn rules<K: Link>() -> Vec<&'static Kernel> {
        NewtonSchulz::rules::<K>()
    }

    fn run<K: Link>(h: &MuonHyperball, at: &mut OpAt<'_>) -> Result<()> {
        emerging::orthogonalise::<K>(at, &h.coefficient_type, h.num_ns_steps, h.ns_method.as_deref())
    }
}

impl Algorithm for MuonHyperball {
    const INFO: Info = Info {
        summary: "Muon whose weights keep their norm: a step of a part of it, and back onto the sphere.",
        family: "matrix",
        source: "emerging-optimizers",
        differences: "The iteration is done in the compute type (fp32_matmul_prec=\"highest\"). A hyperball_radius takes \
            hold in a parameter's first step, there when the optimizer is made; parameters of norm 0, which it refuses, \
            stay 0 without one. ns_method, flatten, rest, adamw_names and rest_* are not the source's; \
            weight_decay_method=\"l2\" and the coefficients of deepseekv4 are not supported.",
        references: &[
            Reference::new(
                "Emerging-Optimizers, MuonHyperball: norm-preserving weight updates",
                "github.com/NVIDIA-NeMo/Emerging-Optimizers",
            ),
            Reference::new("emerging_optimizers.MuonHyperball", "emerging-optimizers 0.3.0"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        if on.variant == REST {
            return on.delegate(&self.delegate());
        }
        let orthogonal = on.pass::<MuonHyperballMomentumRule>().op::<OrthogonaliseOnBall>();
        let moved = orthogonal.pass::<MuonHyperballNormRule>().pass::<MuonHyperballMoveRule>();
        Ok(moved.pass::<MuonHyperballRule>())
    }

    fn variant(&self, name: &str, shape: &Shape) -> Result<Variant, String> {
        self.hidden().variant(name, shape)
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        let scaled = match self.scale_mode.as_str() {
            "spectral" | "shape_scaling" | "unit_rms_norm" => Ok(()),
            other => {
                Err(format!("scale_mode must be spectral, shape_scaling or unit_rms_norm, got {other:?}"))
            }
        };
        let checked = scaled
            .and_then(|()| emerging::check(&self.coefficient_type, &self.weight_decay_method))
            .and_then(|()| Form::check(self.ns_method.as_deref()))
            .and_then(|()| self.hidden().check());
        checked.map_err(|problem| HyperError::Combination { algorithm: Self::NAME, problem })
    }
}

impl MuonHyperball {
    /// Returns what is left of a weight that decays.
    fn keep(&self) -> f64 {
        emerging::keep(&self.weight_decay_method, self.lr, self.weight_decay)
    }

    /// Returns the factor of the update that follows from a matrix's shape.
    fn ratio(&self, shape: &Shape) -> f64 {
        let (rows, columns) = dims(shape);
        let (rows, columns) = (rows as f64, columns as f64);
        let scale = match self.scale_mode.as_str() {
            "shape_scaling" => sqrt((rows / columns).max(1.0)),
            "unit_rms_norm" => sqrt(rows / columns),
            _ => sqrt(rows.max(columns)),
        };
        scale * self.extra_scale_factor
    }
}

hidden_matrices!(MuonHyperball);
