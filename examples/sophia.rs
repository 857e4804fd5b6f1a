//! SophiaG: a training loop that now and then samples labels from its model, for an estimate of the curvature.
//!
//! The gradient of the loss on drawn labels, squared, estimates the diagonal of the Gauss-Newton matrix (Liu et al. 2023,
//! algorithm 2). `update_hessian` takes it in; every ten steps are enough.
//!
//! `cargo run --release --example sophia`

use fallline::prelude::*;

const CLASSES: usize = 3;
const FEATURES: usize = 4;
const BATCH: usize = 60;

/// Returns a number in [0, 1).
fn noise(i: usize) -> f64 {
    ((i as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11) as f64 / (1u64 << 53) as f64
}

/// Each class has its place, with noise around it, and a 1 for the bias.
fn example(i: usize) -> ([f64; FEATURES], usize) {
    let class = i % CLASSES;
    let mut x = [1.0; FEATURES];
    for (k, x) in x.iter_mut().enumerate().skip(1) {
        *x = if k == class + 1 { 1.0 } else { 0.0 } + 1.2 * (noise(i * FEATURES + k) - 0.5);
    }
    (x, class)
}

/// Returns the probabilities of the classes.
fn predict(weight: &[f64], x: &[f64; FEATURES]) -> [f64; CLASSES] {
    let mut out = [0.0; CLASSES];
    for (class, out) in out.iter_mut().enumerate() {
        *out = weight[class * FEATURES..][..FEATURES].iter().zip(x).map(|(w, x)| w * x).sum::<f64>().exp();
    }
    let total: f64 = out.iter().sum();
    out.map(|out| out / total)
}

/// Returns the mean loss, and its gradient, where `label` says what an example is of (the true class is its last
/// argument).
fn gradient(
    weight: &[f64],
    mut label: impl FnMut(usize, &[f64; CLASSES], usize) -> usize,
) -> (f64, Vec<f64>) {
    let (mut loss, mut grad) = (0.0, vec![0.0; CLASSES * FEATURES]);
    for i in 0..BATCH {
        let (x, class) = example(i);
        let out = predict(weight, &x);
        let class = label(i, &out, class);
        loss -= out[class].ln() / BATCH as f64;
        for (k, row) in grad.chunks_exact_mut(FEATURES).enumerate() {
            let error = out[k] - if k == class { 1.0 } else { 0.0 };
            row.iter_mut().zip(&x).for_each(|(g, x)| *g += error * x / BATCH as f64);
        }
    }
    (loss, grad)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut weight = vec![0.0f64; CLASSES * FEATURES];
    // The squares of a mean gradient are smaller by the batch than the mean of the squares: `bs` makes up for it.
    let mut optimizer = fallline::build("dict(type='SophiaG', lr=0.05, bs=60.0, rho=1.0, weight_decay=0.0)")?;
    let mut losses = Vec::new();
    for step in 0..200 {
        if step % 10 == 0 {
            // Not the true labels: a class drawn with the probability that the model gives it.
            let (_, drawn) = gradient(&weight, |i, out, _| {
                let mut left = noise(7919 * step + i);
                out.iter()
                    .position(|p| {
                        left -= p;
                        left < 0.0
                    })
                    .unwrap_or(CLASSES - 1)
            });
            optimizer.update_hessian(&mut [param("weight", &mut weight, &drawn)])?;
        }
        let (loss, grad) = gradient(&weight, |_, _, class| class);
        optimizer.step(&mut [param("weight", &mut weight, &grad)])?;
        if step % 40 == 0 {
            println!("step {step:3}  loss {loss:.4}");
        }
        losses.push(loss);
    }
    assert!(losses[199] < 0.5 * losses[0], "the loss went from {} to {} only", losses[0], losses[199]);
    Ok(())
}
