//! An algorithm of your own with a norm between two passes: LARS (You et al. 2017) whose trust ratio has an exponent.
//!
//! The first pass sums up, the host makes a scalar of the sums for each tensor, and the second pass uses it.
//!
//! `cargo run --release --example own_stages`

use fallline::math::{powf, sqrt};
use fallline::optim::stages::{Combining, Stages};
use fallline::prelude::*;
use fallline::{Algorithm, Info, Kernel, Link, Range, Reference, Registry, hyperparameters, rule};

hyperparameters! {
    /// LARS, whose step is the gradient's times a power of the trust ratio.
    ///
    /// ```text
    /// s  = γ (η ‖θ‖ / ‖g‖)ᵖ                             (γ where a norm is 0)
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
        /// Exponent p: 1 is LARS, with which the size of a gradient does not matter, 0 is SGD.
        power: f64 = 1.0, Range::AtLeast(0.0);
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
    per_tensor(step_size)
    element(g: Grad) -> (p: Param, momentum: State) {
        momentum = mu * momentum + step_size * (g + weight_decay * p);
        p = p - momentum;
    }
}

impl Algorithm for MyLars {
    const INFO: Info = Info {
        summary: "Momentum of gradients that are scaled by a power of the tensor's trust ratio.",
        family: "layer-wise",
        source: "paper",
        differences: "The ratio leaves out the decay and has an exponent.",
        references: &[Reference {
            text: "You, Gitman & Ginsburg 2017, Large Batch Training of Convolutional Networks",
            at: "arXiv:1708.03888",
        }],
    };

    fn kernel<K: Link>(&self) -> &'static Kernel {
        K::kernel::<MyLarsRule>()
    }

    fn stages<K: Link>(&self, _class: u8) -> Stages {
        Stages::one(K::kernel::<MyLarsNormsRule>()).then(self.kernel::<K>())
    }

    fn combine(&self, stage: usize, at: &mut Combining<'_>) {
        if stage == 1 {
            let (grad, param) = (sqrt(at.sums[0]), sqrt(at.sums[1]));
            let scales = grad > 0.0 && param > 0.0;
            at.scalars[0] =
                if scales { self.lr * powf(self.trust * param / grad, self.power) } else { self.lr };
        }
    }

    fn formed(&self, stage: usize) -> &'static [&'static str] {
        match stage {
            1 => &["step_size = lr·(trust·√param2 / √grad2)^power   (where one is 0: lr)"],
            _ => &[],
        }
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

    // One step, by hand: ‖θ‖ = 5 and ‖g‖ = 0.5.
    let mut optimizer =
        recipe("dict(type='MyLARS', lr=1.0, trust=0.1, power=2.0)")?.optimizer(Cpu::new()?.shared());
    let mut x = vec![3.0f32, 4.0];
    optimizer.step(&mut [param("x", &mut x, &[0.3f32, 0.4])])?;
    println!("(3, 4) moves to {x:?}");
    assert!((x[0] - 2.7).abs() < 1e-6 && (x[1] - 3.6).abs() < 1e-6);

    // With exponent 1 the size of gradients changes nothing, with a smaller one little.
    let lars = recipe("dict(type='MyLARS', trust=0.02)")?;
    assert_eq!(train(&lars, 1.0)?, train(&lars, 1024.0)?);
    let gentler = recipe("dict(type='MyLARS', trust=0.02, power=0.5)")?;
    println!("after 100 steps {:?}, with power 0.5 {:?}", train(&lars, 1.0)?, train(&gentler, 1.0)?);
    assert_ne!(train(&gentler, 1.0)?, train(&gentler, 1024.0)?);
    Ok(())
}
