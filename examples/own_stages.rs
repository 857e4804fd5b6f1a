//! An algorithm of your own with a norm between two passes: LARS (You et al. 2017) with the root of the
//! trust ratio.
//!
//! The first pass sums up. The second reads the sums by name, and says how its scalar follows from them. It says so
//! in the rule's own vocabulary, so that a CUDA device computes it without a wait and `describe` prints it.
//!
//! `cargo run --release --example own_stages`

use fallline::math::flag;
use fallline::prelude::*;
use fallline::{Algorithm, Info, Link, Range, Reference, Registry, Site, Steps, hyperparameters, rule};

hyperparameters! {
    /// LARS, whose step is the gradient's times the trust ratio or its root.
    ///
    /// ```text
    /// s  = γ √(η ‖θ‖ / ‖g‖)                             (γ where a norm is 0; without root LARS's own)
    /// bₜ = μ bₜ₋₁ + s (g + λ θ)
    /// θₜ = θₜ₋₁ − bₜ
    /// ```
    pub MyLars as "MyLARS" {
        /// Learning rate γ.
        lr: f64 = 0.1, Range::AtLeast(0.0);
        /// Momentum μ.
        momentum: f64 = 0.9, Range::HalfOpen(0.0, 1.0);
        /// Weight decay λ.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
        /// Trust coefficient η.
        trust: f64 = 0.001, Range::Above(0.0);
        /// Take the root: half as far from SGD as LARS is, with which the size of a gradient does not matter.
        root: bool = true, Range::Any;
    }
}

rule! {
    /// The first pass of [`MyLars`]: the norms' squares.
    pub MyLarsNormsRule(h: MyLars, t) {}
    element(g: Grad, p: Param) -> () sum(grad2, param2) {
        grad2 = g * g;
        param2 = p * p;
    }
}

rule! {
    /// The second pass of [`MyLars`].
    pub MyLarsRule(h: MyLars, t) {
        let mu = h.momentum;
        let weight_decay = h.weight_decay;
    }
    per_tensor(step_size) reads MyLarsNormsRule(grad2, param2) {
        each(at) {
            let lr = h.lr;
            let trust = h.trust;
            let root = flag(h.root);
        }
        tensor {
            let ratio = trust * param2.sqrt() / grad2.sqrt();
            let step = lr * N::select_if(root, ratio.sqrt(), ratio);
            let step_size = N::select_if(grad2, N::select_if(param2, step, lr), lr);
        }
    }
    element(g: Grad) -> (p: Param, momentum: State) {
        momentum = mu * momentum + step_size * (g + weight_decay * p);
        p = p - momentum;
    }
}

impl Algorithm for MyLars {
    const INFO: Info = Info {
        summary: "Momentum of gradients that are scaled by the root of the tensor's trust ratio.",
        family: "layer-wise",
        source: "paper",
        differences: "The ratio leaves out the decay, and its root is taken.",
        references: &[Reference {
            text: "You, Gitman & Ginsburg 2017, Large Batch Training of Convolutional Networks",
            at: "arXiv:1708.03888",
        }],
    };

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<MyLarsNormsRule>().pass::<MyLarsRule>())
    }
}

/// Steps from (3, 4) along gradients of a size.
fn train(recipe: &Recipe, size: f32) -> Result<Vec<f32>, Box<dyn std::error::Error>> {
    let mut optimizer = recipe.optimizer(Cpu::new()?.shared());
    let mut x = vec![3.0f32, 4.0];
    for _ in 0..100 {
        let grad: Vec<f32> = x.iter().map(|x| size * x).collect();
        optimizer.step(&mut [param("x", &mut x, &grad)])?;
    }
    Ok(x)
}

/// Runs the example.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let registry = Registry::standard().with::<MyLars>()?;
    let recipe = |text: &str| Recipe::from_text_with(text, &registry);

    // One step, by hand: ‖θ‖ = 5 and ‖g‖ = 0.5, so that the ratio is 4 · 5 / 0.5 = 40, and its root 6.3.
    let mut optimizer = recipe("dict(type='MyLARS', lr=0.1, trust=4.0)")?.optimizer(Cpu::new()?.shared());
    let mut x = vec![3.0f32, 4.0];
    optimizer.step(&mut [param("x", &mut x, &[0.3f32, 0.4])])?;
    println!("(3, 4) moves to {x:?}");
    let step = 0.1 * 40f32.sqrt();
    assert!((x[0] - (3.0 - 0.3 * step)).abs() < 1e-6 && (x[1] - (4.0 - 0.4 * step)).abs() < 1e-6);

    // With LARS's own ratio the size of gradients changes nothing, with the root it changes little.
    let lars = recipe("dict(type='MyLARS', trust=0.02, root=False)")?;
    assert_eq!(train(&lars, 1.0)?, train(&lars, 1024.0)?);
    let gentler = recipe("dict(type='MyLARS', trust=0.02)")?;
    println!("after 100 steps {:?}, with the root {:?}", train(&lars, 1.0)?, train(&gentler, 1.0)?);
    assert_ne!(train(&gentler, 1.0)?, train(&gentler, 1024.0)?);
    Ok(())
}
