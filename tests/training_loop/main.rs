//! What a training loop in Rust uses: typed optimizers, groups, errors; parameters in checkpoints and files.

mod model_file;
mod params;
mod swap;
mod typed;

use fallline::{Backend, Cpu};
use fallline_cuda::Cuda;
use std::sync::Arc;

/// Returns the reference device, and an emulated one that does not reach the host's memory.
fn devices() -> fallline::Result<[Arc<dyn Backend>; 2]> {
    fallline_emulator::install().expect("the emulator");
    Ok([Cpu::scalar().shared(), Cuda::new(0)?.shared()])
}

/// Returns numbers that are not round.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i + seed) as f32 * 0.37).sin()).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}
