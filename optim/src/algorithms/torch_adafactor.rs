//! TorchAdafactor: Adafactor as torch has it.

use super::adafactor::{ColumnFactorRule, VECTOR, moment_rules, update_moments};
use super::prelude::*;
use crate::op::{OpAt, TensorOp, matrices};
use core::any::Any;
use fallline_core::backend::View;
use fallline_core::{Compute, Kernel, Result, Shape};

hyperparameters! {
    /// TorchAdafactor: Adafactor as torch has it.
    ///
    /// ```text
    /// β̂ = t^τ;  ρ = min(γ, 1/√t);  α = ρ max(ε₂, rms(θₜ₋₁))
    /// θ  ← (1 − γλ) θₜ₋₁
    /// Rₜ = Rₜ₋₁ + β̂ (rowmean(g²) − Rₜ₋₁)
    /// Cₜ = Cₜ₋₁ + β̂ (columnmean(g²) − Cₜ₋₁)
    /// u  = g / √max(Rₜ Cₜ / max(mean(Rₜ), ε₁), ε₁²)      (vectors: g / √max(vₜ, ε₁²))
    /// θₜ = θ − α u / max(1, rms(u) / d)
    /// ```
    ///
    /// with γ = `lr`, τ = `beta2_decay`, (ε₁, ε₂) = `eps`, d = `d`, λ = `weight_decay`. Without ε₁ it is the
    /// machine epsilon of the compute type. R and C are taken over the last two dimensions. State in `f32`: 4 bytes
    /// a row and a column (`row`, `column`), or a parameter of a vector (`v`).
    pub TorchAdafactor as "TorchAdafactor" {
        /// The largest relative step γ.
        lr: f64 = 1e-2, Range::AtLeast(0.0);
        /// The exponent τ of the second moment's decay.
        beta2_decay: f64 = -0.8, Range::Any;
        /// ε₁ keeps the second moment from 0, ε₂ is the least scale of a parameter.
        eps: (Option<f64>, f64) = (None, 1e-3), Range::AtLeast(0.0);
        /// The root mean square d that an update is clipped to.
        d: f64 = 1.0, Range::AtLeast(1.0);
        /// Decoupled weight decay λ, multiplied by `lr`.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Maximize the objective.
        maximize: bool = false, Range::Any;
    }
    accepted { foreach: Option<bool> }
}

rule! {
    /// The size of [`TorchAdafactor`]'s update, from the factors of an element's row and column. They are roots and
    /// reciprocals already, as is the bound: 1 / √max(a, ε²) = min(1/√a, 1/ε), and an element needs neither.
    pub TorchAdafactorSizeRule(h: TorchAdafactor, t) {}
    per_tensor(most) {
        each(at) {
            let most = 1.0 / h.eps1(at.compute);
        }
    }
    element(g: Grad, p: Param, r: Scratch, c: Scratch) -> () sum(p2, u2) {
        let u = g * most.min(r * c); // a NaN stays one
        p2 = p * p;
        u2 = u * u;
    }
    or
    /// As [`TorchAdafactorSizeRule`], for a vector. The square of an update needs no root.
    pub TorchAdafactorVectorSizeRule
    per_tensor(least) {
        each(at) {
            let least = h.eps1(at.compute) * h.eps1(at.compute);
        }
    }
    element(g: Grad, p: Param, v: State) -> () sum(p2, u2) {
        p2 = p * p;
        u2 = g * g / v.max(least);
    }
}

rule! {
    /// The second moment of [`TorchAdafactor`] for a vector.
    pub TorchAdafactorVectorMomentRule(h: TorchAdafactor, t) {
        let beta = powf(t as f64, h.beta2_decay);
    }
    element(g: Grad) -> (v: State) {
        v = v + beta * (g * g - v);
    }
}

rule! {
    /// The update of [`TorchAdafactor`] for a matrix.
    pub TorchAdafactorRule(h: TorchAdafactor, t) {
        let keep = 1.0 - h.lr * h.weight_decay;
    }
    per_tensor(most, alpha) reads TorchAdafactorSizeRule(p2, u2) {
        each(at) {
            let most = 1.0 / h.eps1(at.compute);
            let elements = at.shape.elements() as f64;
            let rate = h.lr.min(1.0 / sqrt(t as f64));
            let eps2 = h.eps.1;
            let d = h.d;
        }
        tensor {
            let scale = rate * (p2 / elements).sqrt().max(eps2);
            let alpha = scale / ((u2 / elements).sqrt() / d).max(N::splat(1.0));
        }
    }
    element(g: Grad, r: Scratch, c: Scratch) -> (p: Param) {
        p = keep * p - alpha * (g * most.min(r * c));
    }
    or
    /// The update of [`TorchAdafactor`] for a vector.
    pub TorchAdafactorVectorRule
    per_tensor(least, alpha) reads TorchAdafactorVectorSizeRule(p2, u2) {
        each(at) {
            let least = h.eps1(at.compute) * h.eps1(at.compute);
            let elements = at.shape.elements() as f64;
            let rate = h.lr.min(1.0 / sqrt(t as f64));
            let eps2 = h.eps.1;
            let d = h.d;
        }
        tensor {
            let scale = rate * (p2 / elements).sqrt().max(eps2);
            let alpha = scale / ((u2 / elements).sqrt() / d).max(N::splat(1.0));
        }
    }
    element(g: Grad, v: State) -> (p: Param) {
        p = keep * p - alpha * (g / v.max(least).sqrt());
    }
}

rule! {
    /// The factor of [`TorchAdafactor`]'s update that a row has, from its moment and the sum of those of its matrix.
    pub TorchRowFactorRule(h: (), t) {}
    per_tensor(share, least)
    element(total: Scratch) -> (r: Scratch) {
        r = 1.0 / (r / least.max(share * total)).sqrt(); // a NaN stays one
    }
}

/// The moments of rows and columns, and the factors of the update that follow from them.
pub struct TorchAdafactorFactors;

impl TensorOp for TorchAdafactorFactors {
    type Hyper = TorchAdafactor;
    const NAME: &'static str = "TorchAdafactorFactors";
    const FORMULAS: &'static [&'static str] = &[
        "row ← row + β (rowmean(g²) − row),  column likewise,  β = t^beta2_decay",
        "r = 1 / √(row / max(mean(row), eps1)),  c = 1 / √column",
    ];
    const STATES: &'static [&'static str] = &["row", "column"];

    fn rules<K: Link>() -> Vec<&'static Kernel> {
        [&[K::kernel::<TorchRowFactorRule>(), K::kernel::<ColumnFactorRule>()][..], &moment_rules::<K>()]
            .concat()
    }

    fn run<K: Link>(h: &TorchAdafactor, at: &mut OpAt<'_>) -> Result<()> {
        let (batch, rows, columns) = matrices(at.shape);
        if batch * rows * columns == 0 {
            return Ok(());
        }
        let eps1 = h.eps1(at.on.compute);
        let totals = update_moments::<K>(at, 1.0 - powf(at.on.t as f64, h.beta2_decay), 0.0)?;
        let [r, c] = at.scratch.two(["r", "c"])?;
        let views = &mut [Some(View::write(r)), Some(View::read(&totals).broadcast(1, rows))];
        let own = [1.0 / rows as f64, eps1];
        at.on.run(K::kernel::<TorchRowFactorRule>(), &() as &dyn Any, &own, views)?;
        at.on.run(K::kernel::<ColumnFactorRule>(), &() as &dyn Any, &[], &mut [Some(View::write(c))])?;
        at.workspace.release([totals]);
        Ok(())
    }
}

impl Algorithm for TorchAdafactor {
    const INFO: Info = Info {
        summary: "Adafactor as torch has it: no momentum, a rate that caps the relative step.",
        family: "adaptive",
        source: "torch.optim",
        differences: "torch's Adafactor under visdet's name, since transformers' has the plain one. Unlike the paper \
            it caps the relative step by lr, and ε₁ bounds the second moment instead of being added to g².",
        references: &[papers::ADAFACTOR, Reference::new("torch.optim.Adafactor", "torch 2.15.0")],
    };

    const STATES: &'static [State<Self>] = &[
        State::new("row").rows(),
        State::new("column").columns(),
        State::new("r").rows(),
        State::new("c").columns(),
    ];

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        if on.variant == VECTOR {
            let moment = on.pass::<TorchAdafactorVectorMomentRule>();
            let sized = moment.pass::<TorchAdafactorVectorSizeRule>();
            return Ok(sized.pass::<TorchAdafactorVectorRule>());
        }
        Ok(on.op::<TorchAdafactorFactors>().pass::<TorchAdafactorSizeRule>().pass::<TorchAdafactorRule>())
    }

    fn variant(&self, _name: &str, shape: &Shape) -> Result<Variant, String> {
        Ok(if shape.rank() < 2 { VECTOR } else { Variant::ONLY })
    }

    fn check(&mut self, _first: bool) -> Result<(), HyperError> {
        if self.beta2_decay > 0.0 {
            let problem = format!("beta2_decay must be ≤ 0, got {}", self.beta2_decay);
            return Err(HyperError::Combination { algorithm: Self::NAME, problem });
        }
        Ok(())
    }
}

impl TorchAdafactor {
    fn eps1(&self, compute: Compute) -> f64 {
        self.eps.0.unwrap_or(match compute {
            Compute::F32 => f64::from(f32::EPSILON),
            Compute::F64 => f64::EPSILON,
        })
    }
}
