//! An algorithm of your own, in your own crate: Signum (Bernstein et al. 2018), the sign of momentum.
//!
//! Three things make an algorithm: a table of hyperparameters, a rule, and a page about it. The rule is
//! compiled here, for every instruction set, and stepped by the same driver as the shipped ones.
//!
//! `cargo run --release --example own_rule`

use fallline::prelude::*;
use fallline::{
    Algorithm, Info, Link, Linked, Native, Range, Reference, Site, Sparse, Steps, Value, hyperparameters,
    rule,
};

hyperparameters! {
    /// Signum: every element moves by `lr`, against the sign of its momentum.
    ///
    /// ```text
    /// mₜ = β mₜ₋₁ + (1 − β) g
    /// θₜ = (1 − γλ) θₜ₋₁ − γ sign(mₜ)
    /// ```
    pub Signum as "Signum" {
        /// Learning rate γ: the length of a step, for every element.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Momentum β.
        beta: f64 = 0.9, Range::HalfOpen(0.0, 1.0);
        /// Weight decay λ, in units of `lr`.
        weight_decay: f64 = 0.0, Range::AtLeast(0.0);
    }
}

rule! {
    /// One step of [`Signum`]: first what is the same for all elements, once a step in `f64`; then what
    /// happens to each.
    pub SignumRule(h: Signum, t) {
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

impl Algorithm for Signum {
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
        Ok(on.pass::<SignumRule>())
    }

    fn sparse(&self) -> Sparse {
        Sparse::AsDense
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `Native` is the link that compiles rules for the CPU's instruction sets.
    let signum = Linked::<Signum, Native>::new(Signum { lr: 0.01, ..Signum::default() })?;
    let mut optimizer = Driver::new(Cpu::new()?.shared(), Box::new(signum));

    // Down the bowl 0.5 Σ k xₖ²: badly scaled, which a sign does not mind.
    let mut x = vec![1.0f32; 1000];
    let loss = |x: &[f32]| x.iter().enumerate().map(|(k, x)| 0.5 * (k + 1) as f32 * x * x).sum::<f32>();
    let first = loss(&x);
    for step in 0..=100 {
        let grad: Vec<f32> = x.iter().enumerate().map(|(k, x)| (k + 1) as f32 * x).collect();
        if step % 25 == 0 {
            println!("step {step:3}  loss {:.4}", loss(&x));
        }
        optimizer.step(&mut [param("x", &mut x, &grad)])?;
    }
    assert!(loss(&x) < 0.01 * first);

    // Hyperparameters are read and set by name, with their ranges, as for the shipped algorithms.
    let refused = optimizer.set(0, &[("beta", Value::Float(1.5))]).unwrap_err();
    println!("{refused}");

    // The same bits one element at a time, on the reference device.
    let scalar = Linked::<Signum, Native>::new(Signum { lr: 0.01, ..Signum::default() })?;
    let mut reference = Driver::new(Cpu::scalar().shared(), Box::new(scalar));
    let mut again = vec![1.0f32; 1000];
    for _ in 0..=100 {
        let grad: Vec<f32> = again.iter().enumerate().map(|(k, x)| (k + 1) as f32 * x).collect();
        reference.step(&mut [param("x", &mut again, &grad)])?;
    }
    assert_eq!(x, again);
    Ok(())
}
