//! The command `fallline` with an algorithm of your own in it: Signum (Bernstein et al. 2018), as `MySignum`.
//!
//! Configurations, `custom_keys`, checkpoints and every command know its name.
//!
//! `cargo run --release -p fallline-cli --example own_command -- describe MySignum`

use fallline::{
    Algorithm, Info, Link, Range, Reference, Registry, Site, Sparse, Steps, hyperparameters, rule,
};
use std::process::ExitCode;

hyperparameters! {
    /// Every element moves by `lr`, against the sign of its momentum.
    pub MySignum as "MySignum" {
        /// Learning rate γ: the length of a step, for every element.
        lr: f64 = 1e-3, Range::AtLeast(0.0);
        /// Momentum β.
        beta: f64 = 0.9, Range::HalfOpen(0.0, 1.0);
    }
}

rule! {
    /// One step of [`MySignum`].
    pub MySignumRule(h: MySignum, t) {
        let lr = h.lr;
        let beta = h.beta;
        let one_minus_beta = 1.0 - h.beta;
    }
    element(g: Grad) -> (p: Param, m: State) {
        m = beta * m + one_minus_beta * g;
        p = p - lr * m.sign();
    }
}

impl Algorithm for MySignum {
    const INFO: Info = Info {
        summary: "Steps of exactly the size lr, against the sign of the momentum.",
        family: "sign",
        source: "paper",
        differences: "There is no weight decay.",
        references: &[Reference {
            text: "Bernstein et al. 2018, signSGD: Compressed Optimisation for Non-Convex Problems",
            at: "arXiv:1802.04434",
        }],
    };

    fn program<K: Link>(&self, on: &Site<'_, '_, Self, K>) -> Result<Steps<Self, K>, String> {
        Ok(on.pass::<MySignumRule>())
    }

    fn sparse(&self) -> Sparse {
        Sparse::AsDense
    }
}

/// Runs the command with the shipped algorithms and this one.
pub fn main() -> ExitCode {
    match Registry::standard().with::<MySignum>() {
        Ok(registry) => fallline_cli::main(registry),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
