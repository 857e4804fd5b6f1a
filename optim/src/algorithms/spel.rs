//! SPEL: spectral steepest descent on the Stiefel manifold.

use super::emerging;
use super::prelude::*;
use crate::algorithms::muon::{Form, NewtonSchulz, REST, hidden_matrices};
use crate::op::{OpAt, TensorOp};
use crate::program::Delegates;
use fallline_core::{Kernel, Result, Shape};

hyperparameters! {
    /// SPEL: spectral steepest descent on the Stiefel manifold. The weights are orthogonalised, too.
    ///
    /// ```text
    /// Bₜ = Bₜ₋₁ + (1 − μ) (g − Bₜ₋₁)
    /// X  = g + μ (Bₜ − g)          (Nesterov; else Bₜ)
    /// θₜ = msign((1 − γλ) θₜ₋₁ − γ msign(X))
    /// msign(X): X ← X / max(‖X‖, 10⁻⁷), then k times X ← a X + (b A + c A²) X with A = X Xᵀ
    /// ```
    ///
    /// with γ = `lr`, μ = `momentum`, λ = `weight_decay`, k = `num_ns_steps`, ‖·‖ the Frobenius norm.
    /// `coefficient_type` names a, b and c: `"simple"`, `"quintic"`, `"polar_express"`, `"cans"` or `"aol"`, of which
    /// Emerging-Optimizers has the numbers. The decay is 1 − λ with `weight_decay_method` `"independent"`, and 1 − γ²λ
    /// with `"palm"`. State: 4 bytes a parameter in `f32` (`momentum`).
    ///
    /// Which parameters it takes, and what `ns_method`, `flatten`, `rest` and `adamw_names` do, is as with
    /// [`Muon`](crate::algorithms::Muon).
    pub Spel as "Spel" {
        /// Learning rate γ.
        lr: f64 = 3e-4, Range::AtLeast(0.0);
        /// Momentum μ.
        momentum: f64 = 0.95, Range::AtLeast(0.0);
        /// Weight decay λ.
        weight_decay: f64 = 0.1, Range::AtLeast(0.0);
        /// Nesterov's momentum: look ahead by one more step.
        nesterov: bool = false, Range::Any;
        /// How weights decay: `"decoupled"`, `"independent"` or `"palm"`.
        weight_decay_method: String = "decoupled".to_owned(), Range::Any;
        /// Coefficients of the Newton–Schulz iteration, by name.
        coefficient_type: String = "quintic".to_owned(), Range::Any;
        /// Newton–Schulz iterations k.
        num_ns_steps: u64 = 5, Range::Closed(1.0, 99.0);
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
    /// The momentum of [`Spel`], and what is to be orthogonalised.
    pub SpelMomentumRule(h: Spel, t) {
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
    /// The step off the manifold of [`Spel`].
    pub SpelMoveRule(h: Spel, t) {
        let keep = emerging::keep(&h.weight_decay_method, h.lr, h.weight_decay);
        let lr = h.lr;
    }
    element(p: Param) -> (x: Scratch) sum(norm2) {
        x = keep * p - lr * x;
        norm2 = x * x;
    }
}

rule! {
    /// The parameter of [`Spel`], orthogonalised.
    pub SpelRule(h: Spel, t) {}
    element(x: Scratch) -> (p: Param) {
        p = x;
    }
}

/// The Newton–Schulz iteration, on the momentum and on the weights.
pub struct Msign;

impl TensorOp for Msign {
    type Hyper = Spel;
    const NAME: &'static str = "Msign";
    const FORMULAS: &'static [&'static str] = emerging::FORMULAS;
    const WHOLE_STATES: Option<&'static [&'static str]> = Some(&[]);

    fn rules<K: Link>() -> Vec<&'static Kernel> {
        NewtonSchulz::rules::<K>()
    }

    fn run<K: Link>(h: &Spel, at: &mut OpAt<'_>) -> Result<()> {
        emerging::orthogonalise::<K>(at, &h.coefficient_type, h.num_ns_steps, h.ns_method.as_deref())
    }
}

impl Algorithm for Spel {
    const INFO: Info = Info {
        summary: "Muon whose weights are orthogonalised after each step as well: steepest descent on the Stiefel manifold.",
        family: "matrix",
        source: "emerging-optimizers",
        differences: "The iteration is done in the compute type (fp32_matmul_prec=\"highest\"). ns_method, flatten, rest, \
            adamw_names and rest_* are not the source's; weight_decay_method=\"l2\" and the coefficients of deepseekv4 are \
            not supported.",
        references: &[
            Reference::new("Yang et al. 2026, Manifold Constrained Steepest Descent", "arXiv:2601.21487"),
            Reference::new("emerging_optimizers.Spel", "emerging-optimizers 0.3.0"),
        ],
    };
    const STATES: &'static [State<Self>] = &[State::second_moment("v")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        if on.variant == REST {
            return on.delegate(&self.delegate());
        }
        let moved = on.pass::<SpelMomentumRule>().op::<Msign>().pass::<SpelMoveRule>();
        Ok(moved.op::<Msign>().pass::<SpelRule>())
    }

    fn variant(&self, name: &str, shape: &Shape) -> Result<Variant, String> {
        self.hidden().variant(name, shape)
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        let checked = emerging::check(&self.coefficient_type, &self.weight_decay_method)
            .and_then(|()| Form::check(self.ns_method.as_deref()))
            .and_then(|()| self.hidden().check());
        checked.map_err(|problem| HyperError::Combination { algorithm: Self::NAME, problem })
    }
}

hidden_matrices!(Spel);
