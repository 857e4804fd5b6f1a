//! Parameter groups in Rust: Muon for matrices, AdamW for the rest, without decay on biases and norms.
//!
//! `cargo run --release --example groups`

use fallline::algorithms::{AdamW, Muon};
use fallline::prelude::*;

fn main() -> fallline::Result<()> {
    let cpu = Cpu::new()?.shared();
    let adamw = AdamW { lr: 3e-4, weight_decay: 0.1, ..Default::default() };
    let mut optimizer = adamw
        .clone()
        .on(&cpu)?
        // By name: what contains one of these texts. A text that is in no name is an error of the first step.
        .group_named(&["bias", "norm"], AdamW { weight_decay: 0.0, ..adamw.clone() })?
        // By a closure, which knows name, shape and kind of module. What an earlier group takes does not come here.
        .group(
            |param| param.shape.rank() == 2 && param.kind != ModuleKind::Embedding,
            Muon { lr: 0.02, ..Default::default() },
        )?;

    let [mut table, mut weight, mut bias, mut gain] = [800, 64, 8, 8].map(|n| vec![0.1f32; n]);
    let grads = [800, 64, 8, 8].map(|n| vec![0.01f32; n]);
    for _ in 0..3 {
        optimizer.step(&mut [
            param("embed.weight", &mut table, &grads[0]).shaped(&[100, 8]),
            param("fc.weight", &mut weight, &grads[1]).shaped(&[8, 8]),
            param("fc.bias", &mut bias, &grads[2]),
            param("norm.weight", &mut gain, &grads[3]),
        ])?;
    }
    for param in optimizer.params() {
        println!("{:13} group {}  states {:?}", param.name, param.group, param.states);
    }
    let groups: Vec<usize> = optimizer.params().iter().map(|param| param.group).collect();
    assert_eq!(groups, [0, 1, 2, 1]);
    // One group at a time, or all of them.
    optimizer.set(2, &[("lr", 0.01.into())])?;
    optimizer.set_lr(1e-4)?;
    Ok(())
}
