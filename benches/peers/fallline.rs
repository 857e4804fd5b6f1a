//! One step at a time of fallline's optimizers, on request of `compare.py`.

mod protocol;

use fallline::cpu::stream::{StreamLoop, StreamOperand};
use fallline::optim::average::Average;
use fallline::prelude::*;
use fallline::{Backend, Recipe, Tensor};
use protocol::{Contender, Result};
use std::hint::black_box;
use std::sync::Arc;

/// Elements of one of the many small tensors.
const SMALL: usize = 1000;

/// A training loop with a tensor for each parameter and gradient, bound anew for each step.
struct Trainer {
    optimizer: Driver,
    names: Vec<String>,
    values: Vec<Tensor>,
    grads: Vec<Tensor>,
    /// Whether only every second iteration is of interest, which ends a window of accumulation.
    windows: bool,
}

impl Trainer {
    fn iterate(&mut self) -> Result<()> {
        let buffers = self.values.iter_mut().zip(&self.grads);
        let mut bindings: Vec<Binding<'_>> =
            self.names.iter().zip(buffers).map(|(name, (value, grad))| param(name, value, grad)).collect();
        self.optimizer.step(&mut bindings)?;
        Ok(())
    }
}

impl Contender for Trainer {
    fn step(&mut self) -> Result<()> {
        self.iterate()
    }

    fn prepare(&mut self) -> Result<()> {
        if self.windows { self.iterate() } else { Ok(()) }
    }
}

/// The same streams without arithmetic: `r` is one that is read, `w` one that is written too.
struct Plain {
    cpu: Cpu,
    streams: Vec<(bool, Vec<u8>)>,
    elements: usize,
}

impl Contender for Plain {
    fn step(&mut self) -> Result<()> {
        let streams = self.streams.iter_mut().map(|(written, bytes)| match written {
            true => StreamOperand::Update(bytes),
            false => StreamOperand::Read(bytes),
        });
        black_box(self.cpu.stream_copy(
            self.elements,
            &mut streams.collect::<Vec<_>>(),
            black_box(0),
            StreamLoop::default(),
        ));
        Ok(())
    }
}

/// Returns numbers around zero, none of them special.
fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i.wrapping_mul(2_654_435_761) >> 7) % 2001) as f32 / 1000.0 - 1.0005).collect()
}

/// Returns the tensors of a layout.
fn shapes(layout: &str, elements: usize) -> Result<Vec<Vec<usize>>> {
    let side = elements.isqrt();
    Ok(match layout {
        "flat" | "epilogue" => vec![vec![elements]],
        "small" => vec![vec![SMALL]; elements / SMALL],
        "matrix" => vec![vec![side, side]],
        // Muon's four: square, or four times as long as wide.
        "square" => vec![vec![side / 2, side / 2]; 4],
        "long" => vec![vec![side, side / 4]; 4],
        _ => return Err(format!("there is no layout {layout}").into()),
    })
}

/// Opens a contender `LAYOUT:CONFIGURATION`.
fn open(name: &str, elements: usize, threads: usize) -> Result<(Box<dyn Contender>, String)> {
    let (layout, config) = name.split_once(':').ok_or("expected LAYOUT:CONFIGURATION")?;
    if layout == "plain" {
        let cpu = Cpu::with_threads(threads)?;
        let stream = |written| (written, vec![1u8; elements * size_of::<f32>()]);
        let streams = config.chars().map(|stream_of| stream(stream_of == 'w')).collect();
        let version = cpu.describe();
        return Ok((Box::new(Plain { cpu, streams, elements }), version));
    }
    let shapes = shapes(layout, elements)?;
    let backend: Arc<dyn Backend> = Cpu::with_threads(threads)?.shared();
    let tensors = || {
        let made = shapes
            .iter()
            .map(|shape| Tensor::from_slice(&backend, &numbers(shape.iter().product()), &shape[..]));
        made.collect::<fallline::core::Result<Vec<Tensor>>>()
    };
    let (values, grads) = (tensors()?, tensors()?);
    let names = (0..shapes.len()).map(|i| format!("tensor{i}")).collect();
    let mut optimizer = Recipe::from_text(config)?.optimizer(Arc::clone(&backend));
    let windows = layout == "epilogue";
    if windows {
        optimizer = optimizer.averaged(Average::exponential(0.001)?);
    }
    Ok((Box::new(Trainer { optimizer, names, values, grads, windows }), backend.describe()))
}

fn main() -> Result<()> {
    protocol::serve(open)
}
