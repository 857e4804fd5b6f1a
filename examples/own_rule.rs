//! An algorithm of your own, in your own crate, by its name: Signum (Bernstein et al. 2018), the sign of momentum.
//!
//! Three things make an algorithm: a table of hyperparameters, a rule, and a page about it. The rule is compiled
//! here, for every instruction set, and stepped by the same driver as the shipped ones. A registry has it next to
//! them: configurations, groups, checkpoints and `ZeroRedundancyOptimizer` know its name.
//!
//! `cargo run --release --example own_rule`

use fallline::prelude::*;
use fallline::{
    Algorithm, Info, Link, Range, Reference, Registry, Site, Sparse, Steps, Value, hyperparameters, rule,
};

hyperparameters! {
    /// Signum: every element moves by `lr`, against the sign of its momentum.
    ///
    /// ```text
    /// mₜ = β mₜ₋₁ + (1 − β) g
    /// θₜ = (1 − γλ) θₜ₋₁ − γ sign(mₜ)
    /// ```
    pub MyMomentum as "MyMomentum" {
        /// Learning rate γ: the length of a step, for every element.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Momentum β.
        beta: f64 = 0.9, Range::HalfOpen(0.0, 1.0);
        /// Weight decay λ, multiplied by `lr`.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
    }
}

rule! {
    /// One step of [`MyMomentum`]: first what is the same for all elements, once a step in `f64`; then what
    /// happens to each.
    pub MyMomentumRule(h: MyMomentum, t) {
        let lr = h.lr;
        let beta = h.beta;
        let one_minus_beta = 1.0 - h.beta;
        let keep = 1.0 - h.lr * h.weight_decay;
    }
    element(g: Grad) -> (p: Param, m: State) {
        m = beta * m + one_minus_beta * g;
        p = keep * p - lr * m.sign();
    }
}

impl Algorithm for MyMomentum {
    const INFO: Info = Info {
        summary: "Steps of exactly the size lr, against the sign of the momentum.",
        family: "sign",
        source: "paper",
        differences: "Decay is decoupled from the gradient.",
        references: &[Reference {
            text: "Bernstein et al. 2018, signSGD: Compressed Optimisation for Non-Convex Problems",
            at: "arXiv:1802.04434",
        }],
    };

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<MyMomentumRule>())
    }

    fn sparse(&self) -> Sparse {
        Sparse::AsDense
    }
}

/// Biases have a shorter memory and smaller steps; scales have another optimizer.
const CONFIG: &str = r#"
optim_wrapper = dict(
    optimizer=dict(type="MyMomentum", lr=0.01),
    paramwise_cfg=dict(custom_keys={
        "bias": dict(beta=0.5, lr_mult=0.1),
        "scale": dict(optimizer=dict(type="AdamW", lr=0.01)),
    }),
)
"#;

/// A model: its parameters, and the optimizer of a recipe.
struct Run {
    weight: Vec<f32>,
    bias: Vec<f32>,
    scale: Vec<f32>,
    optimizer: Driver,
}

impl Run {
    fn new(recipe: &Recipe, cpu: Cpu) -> Run {
        let (weight, bias, scale) = (vec![1.0; 1000], vec![1.0; 10], vec![1.0; 10]);
        Run { weight, bias, scale, optimizer: recipe.optimizer(cpu.shared()) }
    }

    /// Trains down the bowl 0.5 Σ k xₖ²: badly scaled, which a sign does not mind.
    fn train(&mut self, steps: usize) -> fallline::optim::Result<()> {
        let grad =
            |x: &[f32]| -> Vec<f32> { x.iter().enumerate().map(|(k, x)| (k + 1) as f32 * x).collect() };
        for _ in 0..steps {
            let grads = [grad(&self.weight), grad(&self.bias), grad(&self.scale)];
            self.optimizer.step(&mut [
                param("layer.weight", &mut self.weight, &grads[0]),
                param("layer.bias", &mut self.bias, &grads[1]),
                param("layer.scale", &mut self.scale, &grads[2]),
            ])?;
        }
        Ok(())
    }

    fn loss(&self) -> f32 {
        self.weight.iter().enumerate().map(|(k, x)| 0.5 * (k + 1) as f32 * x * x).sum()
    }
}

/// Runs the example.
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let registry = Registry::standard().with::<MyMomentum>()?;
    let recipe = Recipe::from_text_with(CONFIG, &registry)?;
    let mut straight = Run::new(&recipe, Cpu::new()?);
    let first = straight.loss();
    for step in (0..=100).step_by(25) {
        println!("step {step:3}  loss {:.4}", straight.loss());
        straight.train(25)?;
    }
    assert!(straight.loss() < 0.01 * first);

    // Its checkpoints are as those of any other: resumed, a run ends in the same bits. Here it does so one element at a
    // time, on the reference device.
    let mut stopped = Run::new(&recipe, Cpu::new()?);
    stopped.train(50)?;
    let saved = Checkpoint::from_bytes(&stopped.optimizer.save()?.to_bytes()?)?;
    let mut resumed = Run { optimizer: recipe.optimizer(Cpu::scalar().shared()), ..stopped };
    resumed.optimizer.load(&saved)?;
    resumed.train(75)?;
    assert_eq!(straight.weight, resumed.weight);
    assert_eq!(straight.bias, resumed.bias);
    assert_eq!(straight.scale, resumed.scale);

    // Hyperparameters are read and set by name, with their ranges, as for the shipped algorithms.
    println!("{}", straight.optimizer.set(0, &[("beta", Value::Float(1.5))]).unwrap_err());
    // A name that is nearly right is told.
    println!("{}", Recipe::from_text_with("dict(type='MyMomentun')", &registry).unwrap_err());
    Ok(())
}
