//! Muon: momentum whose matrices are orthogonalised.

mod blocks;
mod coefficients;
mod hidden;
mod newton_schulz;
mod pair;
mod split;

pub(super) use blocks::Blocks;
pub use blocks::{MuonBlockNormRule, MuonBlockRule};
pub use coefficients::{Coefficients, Preset};
pub(super) use hidden::{Hidden, REST, dims, hidden_matrices};
pub(super) use newton_schulz::{Form, LEAST_NORM, NewtonSchulz};
pub use newton_schulz::{LeastNorm, MuonNormRule, MuonShiftRule};
pub use pair::MuonPairRule;
pub use split::Split;

use crate::hyper::{HyperError, Hyperparameters, Range};
use crate::op::{OpAt, TensorOp};
use crate::program::{Delegates, Site, Steps, Variant};
use crate::{Algorithm, Info, Reference, State, hyperparameters};
use fallline_core::math::{flag, sqrt};
use fallline_core::{Format, Kernel, Link, Result, Shape, Vector, rule};

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
    /// with γ = `lr`, μ = `momentum`, λ = `weight_decay`, ε = `eps`, k = `ns_steps`, (a, b, c) = `ns_coefficients`,
    /// ‖·‖ the Frobenius norm. `ns_coefficients` are three numbers, or a list of three for each iteration, the last ones
    /// for all that follow. They can also be `"original"` (the default), `"quintic"`, `"polar_express"` or
    /// `"polar_express_safer"`, of which pytorch_optimizer has the numbers. Tall matrices are iterated on from the other side, which gives the same. For a matrix
    /// of r rows and n columns s is √max(1, r/n) (`adjust_lr_fn` `"original"` or none), 0.2 √max(r, n)
    /// (`"match_rms_adamw"`) or √(r/n) (`"spectral_unclamped"`). State: 4 bytes a parameter in `f32` (`momentum`).
    ///
    /// The iteration is done in the compute type. With `ns_dtype="bf16"` it is done on `bf16` numbers whose
    /// products add up in `f32`. That is faster and has the error of torch's: some percent of X. A matrix with one
    /// side at least 1.25 times the other is iterated on A as far as rounding allows, then on X. It is the same
    /// polynomial of X for fewer operations. In `f32` two iterations on others are taken as one polynomial of A
    /// where rounding allows; the limit is then 1.5 times. `ns_method` `"gram"` or `"standard"` takes one form for
    /// all shapes.
    ///
    /// With `split` a matrix is several, one below the other: `split=3` are three of equally many rows, as a fused
    /// projection of queries, keys and values has, or three heads. `split=[768, 256, 256]` are their rows. Each is
    /// orthogonalised on its own, and s is that of its shape. A group gives `split` to the parameters that have it:
    ///
    /// ```text
    /// custom_keys={"attn.qkv": dict(optimizer=dict(type="Muon", split=3))}
    /// ```
    ///
    /// It takes matrices only, with `flatten` also parameters of more dimensions, as matrices of the first one and
    /// all the others. With `rest="AdamW"` everything else is stepped as [`AdamW`](crate::algorithms::AdamW) would (`m` and `v`: 8 bytes a
    /// parameter). So are parameters with one of `adamw_names` in their name: embeddings and heads are not hidden
    /// matrices. Which way a parameter goes is decided when it is first seen.
    ///
    /// ```
    /// # use fallline_optim::algorithms::Muon;
    /// let algorithm = Muon {
    ///     lr: 2e-2,
    ///     flatten: true,
    ///     rest: Some("AdamW".into()),
    ///     rest_lr: Some(3e-4),
    ///     adamw_names: vec!["embed".into(), "head".into()],
    ///     ..Muon::default()
    /// };
    /// ```
    pub Muon as "Muon" {
        /// Learning rate γ.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Decoupled weight decay λ, multiplied by `lr`.
        weight_decay: f64 = 0.1, Range::AtLeast(0.0);
        /// Momentum μ.
        momentum: f64 = 0.95, Range::AtLeast(0.0);
        /// Nesterov's momentum: look ahead by one more step.
        nesterov: bool = true, Range::Any;
        /// Coefficients a, b, c of the Newton–Schulz iteration.
        ns_coefficients: Coefficients = Coefficients::Same((3.4445, -4.7750, 2.0315)), Range::Any;
        /// The least norm ε to divide by.
        eps: f64 = 1e-7, Range::Any;
        /// Newton–Schulz iterations k.
        ns_steps: u64 = 5, Range::Closed(0.0, 99.0);
        /// How the rate depends on the matrix's shape.
        adjust_lr_fn: Option<String> = None, Range::Any;
        /// What the iteration's numbers are stored as: `"bf16"`, or the compute type.
        ns_dtype: Option<String> = None, Range::Any;
        /// The form of the iteration: `"gram"` or `"standard"`; none is chosen by shape.
        ns_method: Option<String> = None, Range::Any;
        /// Blocks of rows that are matrices of their own: how many, or the rows of each.
        split: Split = Split::Whole, Range::AtLeast(1.0);
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
    /// The momentum of [`Muon`], and what is to be orthogonalised.
    pub MuonMomentumRule(h: Muon, t) {
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
    /// The update of [`Muon`].
    pub MuonRule(h: Muon, t) {
        let keep = 1.0 - h.lr * h.weight_decay;
    }
    per_tensor(alpha) {
        each(at) {
            let alpha = h.lr * h.adjusted(at.shape);
        }
    }
    element(x: Scratch) -> (p: Param) {
        p = keep * p - alpha * x;
    }
}

/// The Newton–Schulz iteration: the nearest orthogonal matrix, roughly.
pub struct Orthogonalise;

impl TensorOp for Orthogonalise {
    type Hyper = Muon;
    const NAME: &'static str = "Orthogonalise";
    const FORMULAS: &'static [&'static str] = &[
        "x ← x / max(√norm2, eps), as a matrix X; then ns_steps times",
        "X ← a X + (b A + c A²) X with A = X Xᵀ",
        "with split each block of rows is an X, with a norm of its own, and times its own part of α in the end",
    ];
    const WHOLE_STATES: Option<&'static [&'static str]> = Some(&[]);

    fn rules<K: Link>() -> Vec<&'static Kernel> {
        [NewtonSchulz::rules::<K>(), Blocks::rules::<K>()].concat()
    }

    fn run<K: Link>(h: &Muon, at: &mut OpAt<'_>) -> Result<()> {
        let (rows, columns) = dims(at.shape);
        let format = match h.ns_dtype {
            Some(_) => Format::Bf16,
            None => at.on.compute.format(),
        };
        let (coefficients, steps) = (h.ns_coefficients.steps(), h.ns_steps);
        let form = Form::named(h.ns_method.as_deref());
        let iteration = NewtonSchulz { rows, columns, coefficients, cycles: false, steps, format, form };
        match h.split.is_whole() {
            true => iteration.run::<K>(at, h.eps),
            false => Blocks { iteration, split: &h.split }.run::<K>(at, h.eps, |rows| h.ratio(rows, columns)),
        }
    }
}

impl Algorithm for Muon {
    const INFO: Info = Info {
        summary: "Momentum whose matrices are orthogonalised by a Newton–Schulz iteration.",
        family: "matrix",
        source: "torch.optim",
        differences: "torch iterates in bf16 whatever the parameter is; here it is done in the compute type, or with \
            ns_dtype=\"bf16\" as there. ns_coefficients by name or one by one, ns_method, split, flatten, rest, \
            adamw_names and rest_* are not torch's.",
        references: &[
            Reference::new(
                "Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks",
                "kellerjordan.github.io/posts/muon",
            ),
            Reference::new("Liu et al. 2025, Muon is Scalable for LLM Training", "arXiv:2502.16982"),
            Reference::new("torch.optim.Muon", "torch 2.15.0"),
        ],
    };

    const STATES: &'static [State<Self>] = &[State::second_moment("v")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        if on.variant == REST {
            return on.delegate(&self.delegate());
        }
        Ok(on.pass::<MuonMomentumRule>().op::<Orthogonalise>().pass::<MuonRule>())
    }

    fn variant(&self, name: &str, shape: &Shape) -> Result<Variant, String> {
        let variant = self.hidden().variant(name, shape)?;
        if variant != REST {
            self.split.check(dims(shape).0)?;
        }
        Ok(variant)
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        let one_of = |name: &str, given: &Option<String>, known: &[&str], all: &str| match given.as_deref() {
            Some(other) if !known.contains(&other) => Err(format!("{name} must be {all}, got {other:?}")),
            _ => Ok(()),
        };
        let rates = ["original", "match_rms_adamw", "spectral_unclamped"];
        let all = "None, original, match_rms_adamw or spectral_unclamped";
        let checked = one_of("adjust_lr_fn", &self.adjust_lr_fn, &rates, all)
            .and_then(|()| one_of("ns_dtype", &self.ns_dtype, &["bf16"], "None or bf16"))
            .and_then(|()| Form::check(self.ns_method.as_deref()))
            .and_then(|()| self.hidden().check());
        checked.map_err(|problem| HyperError::Combination { algorithm: Self::NAME, problem })
    }
}

impl Muon {
    /// Returns by how much `lr` is adjusted to a matrix's shape, where its blocks are not.
    fn adjusted(&self, shape: &Shape) -> f64 {
        let (rows, columns) = dims(shape);
        if self.split.is_whole() { self.ratio(rows, columns) } else { 1.0 }
    }

    /// Returns by how much `lr` is adjusted to a matrix of so many rows and columns.
    fn ratio(&self, rows: usize, columns: usize) -> f64 {
        let (rows, columns) = (rows as f64, columns as f64);
        match self.adjust_lr_fn.as_deref() {
            Some("match_rms_adamw") => 0.2 * sqrt(rows.max(columns)),
            Some("spectral_unclamped") => sqrt(rows / columns),
            _ => sqrt((rows / columns).max(1.0)),
        }
    }
}

hidden_matrices!(Muon);
