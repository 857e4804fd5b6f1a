//! The gradient pipeline and more: groups by rule, accumulation, clipping, a loss scale, an EMA, a schedule.
//!
//! `cargo run --release --example toolkit`

use fallline::prelude::*;
use fallline::{Average, ModuleKind, Schedule, warmup_cosine};

const CONFIG: &str = r#"
optim_wrapper = dict(
    type="AmpOptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-2, weight_decay=0.1),
    accumulative_counts=2,
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys={"hidden": dict(optimizer=dict(type="Muon", lr=0.02))},
    ),
)
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let iterations = 9;
    let recipe = Recipe::from_text(CONFIG)?;
    let mut optimizer = recipe.optimizer(Cpu::new()?.shared()).averaged(Average::exponential(0.1)?);
    optimizer.set_iterations(Some(iterations)); // so that the last window, of one, is applied
    let mut schedule = Schedule::new(warmup_cosine(3, iterations), &mut optimizer)?;

    let (mut hidden, mut gain) = (vec![0.5f32; 12], vec![1.0f32; 4]);
    let mut updates = 0;
    for iteration in 0..iterations {
        // What a trainer computes from its loss times the scale; one batch goes wrong.
        let scale = optimizer.loss_scale() as f32;
        let slope = if iteration == 3 { f32::INFINITY } else { 0.3 };
        let grads = (vec![slope * scale; 12], vec![0.1 * scale; 4]);
        let report = optimizer.step(&mut [
            param("hidden.weight", &mut hidden, &grads.0).shaped(&[4, 3]),
            param("scale", &mut gain, &grads.1).kind(ModuleKind::Norm),
        ])?;
        schedule.after_iteration(&mut optimizer)?;
        println!("iteration {iteration}: {report}");
        assert_eq!(report.skipped(), iteration == 3);
        updates += report.updated;
    }
    // Windows end after iterations 1, 3 (skipped), 5, 7 and 8, with two parameters each.
    assert_eq!(updates, 8);
    assert_eq!(optimizer.loss_scale(), 65536.0 / 2.0);
    let mean = optimizer.average("scale")?.ok_or("an average")?;
    assert!(gain[0] < 1.0 && f64::from(gain[0]) < mean[0], "the average lags behind");
    Ok(())
}
