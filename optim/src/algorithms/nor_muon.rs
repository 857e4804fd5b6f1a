//! NorMuon: Muon whose rows are normalised by a second moment.

pub use crate::algorithms::muon::{Coefficients, Preset};

use super::prelude::*;
use crate::algorithms::muon::{Blocks, Form, LEAST_NORM, NewtonSchulz, REST, Split, dims, hidden_matrices};
use crate::op::{OpAt, Runner, TensorOp};
use crate::program::Delegates;
use fallline_core::backend::{AxisReduction, View};
use fallline_core::{Kernel, Result, Shape, Storage};

hyperparameters! {
    /// NorMuon: Muon whose rows are normalised by a second moment.
    ///
    /// ```text
    /// Bₜ = Bₜ₋₁ + (1 − μ) (g − Bₜ₋₁)
    /// X  = g + μ (Bₜ − g)          (Nesterov; else Bₜ)
    /// X  ← X / max(‖X‖, 10⁻⁷), then k times X ← a X + (b A + c A²) X with A = X Xᵀ
    /// rₜ = β₂ rₜ₋₁ + (1 − β₂) rowmean(X²)
    /// U  = X / (√rₜ + ε)           (each row by its own)
    /// θₜ = (1 − γλ) θₜ₋₁ − γ s U ‖X‖ / (‖U‖ + ε)
    /// ```
    ///
    /// with γ = `lr`, μ = `momentum`, β₂ = `beta2`, λ = `weight_decay`, ε = `eps`, k = `ns_steps`, ‖·‖ the Frobenius
    /// norm. For a matrix of r rows and n columns s is √max(1, r/n), with `use_adjusted_lr` 0.2 √max(r, n). With
    /// `update_scale` `"match_rms"` U's length becomes 0.2 √(r n) instead of ‖X‖, and s is 1. `ns_coeffs` are a, b
    /// and c: three numbers, or a list of three for each iteration, the last ones for all that follow. It can also be
    /// `"original"` (Muon's), `"quintic"`, `"polar_express"` or `"polar_express_safer"`. State in `f32`: 4 bytes a
    /// parameter (`momentum`) and 4 a row (`row`).
    ///
    /// Which parameters it takes, and what `ns_method`, `split`, `flatten`, `rest` and `adamw_names` do, is as with
    /// [`Muon`](crate::algorithms::Muon). ‖X‖ and ‖U‖ are those of a block where a matrix is split.
    ///
    /// ```
    /// # use fallline_optim::algorithms::NorMuon;
    /// let algorithm = NorMuon { flatten: true, rest: Some("AdamW".into()), rest_lr: Some(3e-4), ..NorMuon::default() };
    /// ```
    pub NorMuon as "NorMuon" {
        /// Learning rate γ.
        lr: f64 = 2e-2, Range::AtLeast(0.0);
        /// Momentum μ.
        momentum: f64 = 0.95, Range::HalfOpen(0.0, 1.0);
        /// Decay rate β₂ of the rows' second moments.
        beta2: f64 = 0.95, Range::HalfOpen(0.0, 1.0);
        /// Decoupled weight decay λ, multiplied by `lr`.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Nesterov's momentum: look ahead by one more step.
        nesterov: bool = true, Range::Any;
        /// Newton–Schulz iterations k.
        ns_steps: u64 = 5, Range::Closed(1.0, 99.0);
        /// Coefficients a, b, c of the Newton–Schulz iteration.
        ns_coeffs: Coefficients = Coefficients::Named(Preset::Original), Range::Any;
        /// The form of the iteration: `"gram"` or `"standard"`; none is chosen by shape.
        ns_method: Option<String> = None, Range::Any;
        /// Blocks of rows that are matrices of their own: how many, or the rows of each.
        split: Split = Split::Whole, Range::AtLeast(1.0);
        /// How long the update is: `"preserve_norm"` or `"match_rms"`.
        update_scale: String = "preserve_norm".to_owned(), Range::Any;
        /// Adjust the rate to the larger dimension of a matrix instead of to their ratio.
        use_adjusted_lr: bool = false, Range::Any;
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
    /// The momentum of [`NorMuon`], and what is to be orthogonalised.
    pub NorMuonMomentumRule(h: NorMuon, t) {
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
    /// The second moment of a row, from the sum of its squares; what the row is multiplied by, and the sum of its squares
    /// then.
    pub NorMuonRowRule(h: NorMuon, t) {
        let one_minus_beta2 = 1.0 - h.beta2;
        let eps = h.eps;
    }
    per_tensor(columns)
    element(x2: Scratch) -> (row: State, r: Scratch, u2: Scratch) {
        row = row + one_minus_beta2 * (x2 / columns - row);
        r = 1.0 / (row.sqrt() + eps);
        u2 = x2 * r * r;
    }
}

rule! {
    /// The length of the update, from the sums of all squares before and after the rows were normalised.
    pub NorMuonLengthRule(h: NorMuon, t) {
        let preserves = flag(h.preserves_norm());
        let eps = h.eps;
    }
    per_tensor(matched, ratio)
    element(all_x2: Scratch, all_u2: Scratch) -> (r: Scratch) {
        let length = ratio * Vector::select_if(preserves, all_x2.sqrt(), matched);
        r = r * (length / (all_u2.sqrt() + eps));
    }
}

rule! {
    /// The update of [`NorMuon`].
    pub NorMuonRule(h: NorMuon, t) {
        let keep = 1.0 - h.lr * h.weight_decay;
    }
    per_tensor(alpha) {
        each(at) {
            let alpha = h.lr * h.adjusted(at.shape);
        }
    }
    element(x: Scratch, r: Scratch) -> (p: Param) {
        p = keep * p - alpha * (r * x);
    }
}

/// The Newton–Schulz iteration, and what its rows are multiplied by.
pub struct OrthogonaliseRows;

impl TensorOp for OrthogonaliseRows {
    type Hyper = NorMuon;
    const NAME: &'static str = "OrthogonaliseRows";
    const FORMULAS: &'static [&'static str] = &[
        "x ← x / max(√norm2, 1e-7), as a matrix X; then ns_steps times",
        "X ← a X + (b A + c A²) X with A = X Xᵀ",
        "row ← β₂ row + (1 − β₂) rowmean(X²),  r = 1 / (√row + eps)",
        "r ← r ‖X‖ / (‖r X‖ + eps)  (match_rms: 0.2 √(rows · columns) for ‖X‖)",
    ];
    const STATES: &'static [&'static str] = &["row"];
    const WHOLE_STATES: Option<&'static [&'static str]> = Some(&["row"]);

    fn rules<K: Link>() -> Vec<&'static Kernel> {
        let rows = [K::kernel::<NorMuonRowRule>(), K::kernel::<NorMuonLengthRule>()];
        [&rows[..], &NewtonSchulz::rules::<K>(), &Blocks::rules::<K>()].concat()
    }

    fn run<K: Link>(h: &NorMuon, at: &mut OpAt<'_>) -> Result<()> {
        let (rows, columns) = dims(at.shape);
        if rows * columns == 0 {
            return Ok(());
        }
        let (coefficients, steps, format) = (h.ns_coeffs.steps(), h.ns_steps, at.on.compute.format());
        let form = Form::named(h.ns_method.as_deref());
        let iteration = NewtonSchulz { rows, columns, coefficients, cycles: false, steps, format, form };
        match h.split.is_whole() {
            true => iteration.run::<K>(at, LEAST_NORM)?,
            false => Blocks { iteration, split: &h.split }.run::<K>(at, LEAST_NORM, |_| 1.0)?,
        }

        let [mut x2, mut u2, mut all_x2, mut all_u2] =
            [at.take(rows)?, at.take(rows)?, at.take(1)?, at.take(1)?];
        let [x, r] = at.scratch.two(["x", "r"])?;
        sum_rows(at.on, (View::read(x), true), (rows, columns), &mut x2)?;
        let row = View::write(at.states.get_mut("row")?);
        let views = &mut [row, View::write(r), View::write(&mut u2), View::read(&x2)].map(Some);
        at.on.run(K::kernel::<NorMuonRowRule>(), h, &[columns as f64], views)?;
        for (first, rows) in h.split.blocks(rows)?.filter(|(_, rows)| *rows > 0) {
            let of_block = |sums| View::read(sums).slice(first, rows);
            sum_rows(at.on, (of_block(&x2), false), (1, rows), &mut all_x2)?;
            sum_rows(at.on, (of_block(&u2), false), (1, rows), &mut all_u2)?;
            let of_all = |total| View::read(total).broadcast(1, rows);
            let r = View::write(r).slice(first, rows);
            let views = &mut [r, of_all(&all_x2), of_all(&all_u2)].map(Some);
            let matched = 0.2 * sqrt(rows as f64 * columns as f64);
            let ratio = if h.split.is_whole() { 1.0 } else { h.ratio(rows, columns) };
            at.on.run(K::kernel::<NorMuonLengthRule>(), h, &[matched, ratio], views)?;
        }
        at.workspace.release([x2, u2, all_x2, all_u2]);
        Ok(())
    }
}

/// Adds up each row of a matrix of this shape, or its squares.
fn sum_rows(
    on: Runner<'_>,
    (from, squares): (View<'_>, bool),
    (outer, count): (usize, usize),
    to: &mut Storage,
) -> Result<()> {
    on.backend.reductions().reduce_axis(AxisReduction { from, squares, outer, count, inner: 1, to })
}

impl Algorithm for NorMuon {
    const INFO: Info = Info {
        summary: "Muon whose orthogonalised rows are normalised by a second moment of each row.",
        family: "matrix",
        source: "pytorch_optimizer",
        differences: "The iteration is done in the compute type. Parameters that are not matrices are stepped by AdamW \
            with rest=\"AdamW\", and those of more dimensions are matrices with flatten=True, as Muon's here; \
            pytorch_optimizer takes all of them as matrices and leaves the rest to groups of a separate AdamW. \
            A matrix without elements, of which it raises, is left alone. weight_decouple, maximize and foreach are \
            not supported.",
        references: &[
            Reference::new(
                "Li et al. 2025, NorMuon: Making Muon more efficient and scalable",
                "arXiv:2510.05491",
            ),
            Reference::new("pytorch_optimizer.NorMuon", "pytorch_optimizer 4.1.0"),
        ],
    };
    const STATES: &'static [State<Self>] =
        &[State::new("row").non_negative().first(), State::new("r").first(), State::second_moment("v")];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        if on.variant == REST {
            return on.delegate(&self.delegate());
        }
        Ok(on.pass::<NorMuonMomentumRule>().op::<OrthogonaliseRows>().pass::<NorMuonRule>())
    }

    fn variant(&self, name: &str, shape: &Shape) -> Result<Variant, String> {
        let variant = self.hidden().variant(name, shape)?;
        if variant != REST {
            self.split.check(dims(shape).0)?;
        }
        Ok(variant)
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        let scaled = match self.update_scale.as_str() {
            "preserve_norm" | "match_rms" => Ok(()),
            other => Err(format!("update_scale must be preserve_norm or match_rms, got {other:?}")),
        };
        let checked =
            scaled.and_then(|()| Form::check(self.ns_method.as_deref())).and_then(|()| self.hidden().check());
        checked.map_err(|problem| HyperError::Combination { algorithm: Self::NAME, problem })
    }
}

impl NorMuon {
    /// Returns whether the update keeps the norm that it has before its rows are normalised.
    fn preserves_norm(&self) -> bool {
        self.update_scale == "preserve_norm"
    }

    /// Returns by how much `lr` is adjusted to a matrix's shape, where its blocks are not.
    fn adjusted(&self, shape: &Shape) -> f64 {
        let (rows, columns) = dims(shape);
        if self.split.is_whole() { self.ratio(rows, columns) } else { 1.0 }
    }

    /// Returns by how much `lr` is adjusted to a matrix of so many rows and columns.
    fn ratio(&self, rows: usize, columns: usize) -> f64 {
        let (rows, columns) = (rows as f64, columns as f64);
        match (self.preserves_norm(), self.use_adjusted_lr) {
            (true, true) => 0.2 * sqrt(rows.max(columns)),
            (true, false) => sqrt((rows / columns).max(1.0)),
            (false, _) => 1.0,
        }
    }
}

hidden_matrices!(NorMuon);
