//! A training loop on plain slices: linear regression with gradients written by hand.
//!
//! `cargo run --release --example slices`

use fallline::prelude::*;

const FEATURES: usize = 3;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Data of y = w·x + b, to be found again.
    let inputs: Vec<[f32; FEATURES]> =
        (0..64).map(|i| [0.37, 0.71, 1.13].map(|step| (step * i as f32).sin())).collect();
    let targets: Vec<f32> = inputs.iter().map(|x| 2.0 * x[0] - x[1] + 0.5 * x[2] + 3.0).collect();

    // The trainer's own memory.
    let (mut weight, mut bias) = (vec![0.0f32; FEATURES], [0.0f32]);
    let mut optimizer = fallline::build("dict(type='AdamW', lr=0.1, weight_decay=0.0)")?;

    let mut losses = Vec::new();
    for step in 0..200 {
        // Mean squared error and its gradient.
        let (mut loss, mut weight_grad, mut bias_grad) = (0.0, vec![0.0f32; FEATURES], [0.0f32]);
        for (x, y) in inputs.iter().zip(&targets) {
            let predicted: f32 = x.iter().zip(&weight).map(|(x, w)| x * w).sum::<f32>() + bias[0];
            let error = (predicted - y) / inputs.len() as f32;
            loss += error * (predicted - y);
            weight_grad.iter_mut().zip(x).for_each(|(g, x)| *g += 2.0 * error * x);
            bias_grad[0] += 2.0 * error;
        }

        // Names tell parameters apart: state belongs to a name, not to a place in this list.
        optimizer
            .step(&mut [param("weight", &mut weight, &weight_grad), param("bias", &mut bias, &bias_grad)])?;

        if step % 40 == 0 {
            println!("step {step:3}  loss {loss:.6}");
        }
        losses.push(loss);
    }

    println!("y = {:.3} a + {:.3} b + {:.3} c + {:.3}", weight[0], weight[1], weight[2], bias[0]);
    assert!(losses[199] < 1e-3 * losses[0], "the loss went from {} to {} only", losses[0], losses[199]);
    Ok(())
}
