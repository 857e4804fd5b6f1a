//! A training loop without a configuration: an optimizer from a struct, clipping, accumulation, an EMA, a schedule.
//!
//! `cargo run --release --example typed`

use fallline::algorithms::AdamW;
use fallline::prelude::*;

fn main() -> fallline::Result<()> {
    let (steps, accumulation) = (200, 2);
    // `Cuda::new(0)?.shared()` is as good.
    let cpu = Cpu::new()?.shared();
    let mut optimizer = AdamW { lr: 0.3, betas: (0.9, 0.99), weight_decay: 0.0, ..Default::default() }
        .on(&cpu)?
        .clip_norm(1.0)?
        .accumulate(accumulation)?
        .averaged(Average::ema(0.9)?);
    let mut schedule = Schedule::new(warmup_cosine(20, steps), &mut optimizer)?;

    // The bowl 0.5 |x − 3|², whose gradients are noisy.
    let mut x = vec![0.0f32; 8];
    for step in 0..steps {
        let noise = if step % 2 == 0 { 0.5 } else { -0.5 };
        let grad: Vec<f32> = x.iter().map(|x| x - 3.0 + noise).collect();
        optimizer.step(&mut [param("x", &mut x, &grad)])?;
        schedule.after_iteration(&mut optimizer)?;
        if step % 50 == 0 {
            println!("step {step:3}  x {:.4}  lr {:.4}", x[0], optimizer.lr(0).unwrap_or_default());
        }
    }
    println!("x {:.4}", x[0]);
    assert!((x[0] - 3.0).abs() < 0.1);
    // From here on by hand.
    optimizer.set_lr(1e-3)?;
    Ok(())
}
