//! The same optimizer on a CUDA device, or on the CPU where there is none:
//! `cargo run --release --features cuda --example cuda`, or on the emulated device
//! `tests/emulated-cuda cargo run --release --features cuda --example cuda`.

use fallline::prelude::*;
use fallline::{Cuda, Format};
use std::sync::Arc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let backend: Arc<dyn Backend> = match Cuda::new(0) {
        Ok(cuda) => cuda.shared(),
        Err(reason) => {
            eprintln!("on the CPU: {reason}");
            Cpu::new()?.shared()
        }
    };
    println!("on {}", backend.describe());
    let recipe = Recipe::from_text(r#"dict(type="Adam", lr=0.1)"#)?;
    let mut optimizer = recipe.optimizer(Arc::clone(&backend));

    // Tensors stay on the device. A trainer there would fill the gradient by its own kernels
    // (`Cuda::adopt` takes a cudarc slice as it is); this one fetches the weights instead.
    let mut weight = Tensor::from_slice(&backend, &[3.0f32, -2.0, 0.5], [3])?;
    let mut gradient = Tensor::zeros(&backend, Format::F32, [3])?;
    for _ in 0..100 {
        let slopes: Vec<f32> = weight.to_vec::<f32>()?.iter().map(|x| 2.0 * x).collect(); // of the loss |x|²
        gradient.write(&slopes)?;
        optimizer.step(&mut [param("weight", &mut weight, &gradient)])?;
    }
    println!("{:?}", weight.to_vec::<f32>()?);
    Ok(())
}
