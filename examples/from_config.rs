//! Optimizer and schedule from a configuration as MMEngine's users write it.
//!
//! `cargo run --release --example from_config`

use fallline::prelude::*;

/// `Recipe::from_file` reads the same from a `.py`, `.json`, `.toml` or `.yaml` file.
const CONFIG: &str = r#"
total = 20
warm_up = 5
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1 / warm_up, begin=0, end=warm_up, by_epoch=False),
    dict(type="CosineAnnealingLR", begin=warm_up, end=total, T_max=total - warm_up, by_epoch=False),
]
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let recipe = Recipe::from_text(CONFIG)?;
    println!("{}", recipe.to_text());

    let mut optimizer = recipe.optimizer(Cpu::new()?.shared());
    // The length of an epoch matters only to entries with `by_epoch=True`. Building the schedule sets the
    // learning rate of the first step.
    let mut schedule = recipe.schedule(1, &mut optimizer)?;

    let (mut weight, grad) = (vec![1.0f32; 8], vec![0.1f32; 8]);
    let mut rates = Vec::new();
    for step in 0..20 {
        let lr = optimizer.get(0, "lr").and_then(|value| value.as_f64()).unwrap_or(0.0);
        println!("step {step:2}  lr {lr:.6}  {}", "#".repeat((lr * 4e3) as usize));
        rates.push(lr);
        optimizer.step(&mut [param("weight", &mut weight, &grad)])?;
        schedule.after_iteration(&mut optimizer)?;
    }
    assert_eq!((rates[0], rates[5]), (0.002, 0.01));
    assert!(rates[5..].windows(2).all(|pair| pair[1] < pair[0]), "the cosine falls");

    // A mistake is told with its place and the nearest name.
    let error = Recipe::from_text("dict(type='AdamW', weigth_decay=0.1)").map(|_| ()).unwrap_err();
    println!("{error}");
    Ok(())
}
