//! An algorithm of your own with an operation on matrices. Its momentum is orthogonalised, as in Muon (Jordan et
//! al. 2024), by the cubic Newton–Schulz iteration.
//!
//! Between two passes is work that is not element by element: products of matrices, on whichever device steps.
//!
//! `cargo run --release --example own_matrix`

use fallline::core::backend::{Gemm, Matrix};
use fallline::optim::op::{OpAt, TensorOp, matrices};
use fallline::prelude::*;
use fallline::{
    Algorithm, Info, Link, Range, Reference, Registry, Shape, Site, Steps, Variant, hyperparameters, rule,
};

hyperparameters! {
    /// Momentum, orthogonalised.
    ///
    /// ```text
    /// Bₜ = μ Bₜ₋₁ + g
    /// X  = Bₜ / ‖Bₜ‖, then k times X ← 3/2 X − 1/2 X Xᵀ X
    /// θₜ = θₜ₋₁ − γ X
    /// ```
    pub MyMuon as "MyMuon" {
        /// Learning rate γ.
        lr: f64 = 0.02, Range::AtLeast(0.0);
        /// Momentum μ.
        momentum: f64 = 0.95, Range::HalfOpen(0.0, 1.0);
        /// Iterations k.
        ns_steps: u64 = 12, Range::AtLeast(1.0);
    }
}

rule! {
    /// The first pass of [`MyMuon`]: the momentum, what is to be orthogonalised, and its norm's square.
    pub MyMuonMomentumRule(h: MyMuon, t) {
        let mu = h.momentum;
    }
    element(g: Grad) -> (momentum: State, x: Scratch) sum(norm2) {
        momentum = mu * momentum + g;
        x = momentum;
        norm2 = x * x;
    }
}

rule! {
    /// The second pass of [`MyMuon`]: what is to be orthogonalised, over its norm.
    pub MyMuonNormRule(h: MyMuon, t) {}
    per_tensor(norm) reads MyMuonMomentumRule(norm2) {
        tensor {
            let norm = N::select_if(norm2, norm2.sqrt(), N::splat(1.0));
        }
    }
    element() -> (x: Scratch) {
        x = x / norm;
    }
}

/// The iteration on matrices, between two passes.
pub struct Cubic;

impl TensorOp for Cubic {
    type Hyper = MyMuon;
    const NAME: &'static str = "Cubic";
    const FORMULAS: &'static [&'static str] =
        &["ns_steps times X ← 3/2 X − 1/2 X Xᵀ X, with x as a matrix X"];

    fn run<K: Link>(h: &MyMuon, at: &mut OpAt<'_>) -> fallline::core::Result<()> {
        let (_, rows, columns) = matrices(at.shape);
        let (mut gram, mut next) = (at.take(rows * rows)?, at.take(rows * columns)?);
        let (backend, x) = (at.on.backend, at.scratch.get_mut("x")?);
        for _ in 0..h.ns_steps {
            let whole = Matrix::new(x, rows, columns);
            let product = Gemm::new(whole, whole.transpose(), &mut gram);
            backend.linalg().gemm(Gemm { symmetric: true, ..product })?;
            let product = Gemm::new(Matrix::new(&gram, rows, rows), whole, &mut next);
            backend.linalg().gemm(Gemm { alpha: -0.5, beta: 1.5, c_in: Some(whole), ..product })?;
            core::mem::swap(x, &mut next);
        }
        at.workspace.release([gram, next]);
        Ok(())
    }
}

rule! {
    /// The update of [`MyMuon`].
    pub MyMuonRule(h: MyMuon, t) {
        let lr = h.lr;
    }
    element(x: Scratch) -> (p: Param) {
        p = p - lr * x;
    }
}

impl Algorithm for MyMuon {
    const INFO: Info = Info {
        summary: "Momentum whose matrices are orthogonalised by a cubic iteration.",
        family: "matrix",
        source: "paper",
        differences: "The cubic iteration converges to an orthogonal matrix; Muon's is faster and stays about it.",
        references: &[Reference {
            text: "Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks",
            at: "kellerjordan.github.io/posts/muon",
        }],
    };

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<MyMuonMomentumRule>().pass::<MyMuonNormRule>().op::<Cubic>().pass::<MyMuonRule>())
    }

    fn variant(&self, _name: &str, shape: &Shape) -> Result<Variant, String> {
        match shape.rank() {
            2 => Ok(Variant::ONLY),
            rank => Err(format!("takes matrices only, and this has {rank} dimensions")),
        }
    }
}

/// Matrices are `MyMuon`'s, vectors go to AdamW.
const CONFIG: &str = r#"
optim_wrapper = dict(
    optimizer=dict(type="MyMuon", lr=0.5),
    paramwise_cfg=dict(custom_keys={"bias": dict(optimizer=dict(type="AdamW"))}),
)
"#;

/// Runs the example.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let registry = Registry::standard().with::<MyMuon>()?;
    let mut optimizer = Recipe::from_text_with(CONFIG, &registry)?.optimizer(Cpu::new()?.shared());
    let (mut weight, mut bias) = (vec![0.0f32; 6], vec![0.0f32; 2]);
    let grad = [3.0f32, -1.0, 2.0, 0.5, 4.0, 1.0];
    optimizer.step(&mut [
        param("weight", &mut weight, &grad).shaped(&[2, 3]),
        param("bias", &mut bias, &[1.0f32, -1.0]),
    ])?;

    // The rows of the step are orthogonal and as long as lr, whatever the gradient's.
    let row = |i: usize| &weight[3 * i..3 * i + 3];
    let dot = |i, j| row(i).iter().zip(row(j)).map(|(a, b)| a * b).sum::<f32>() / 0.25;
    println!("X Xᵀ = {:?}", [[dot(0, 0), dot(0, 1)], [dot(1, 0), dot(1, 1)]]);
    for (i, j) in [(0, 0), (0, 1), (1, 1)] {
        let expected = if i == j { 1.0 } else { 0.0 };
        assert!((dot(i, j) - expected).abs() < 1e-5);
    }

    // A vector that no key gives to another is refused by name.
    let mut alone = Recipe::from_text_with("dict(type='MyMuon')", &registry)?.optimizer(Cpu::new()?.shared());
    let refused = alone.step(&mut [param("bias", &mut bias, &[1.0f32, -1.0])]).unwrap_err();
    println!("{refused}");
    Ok(())
}
