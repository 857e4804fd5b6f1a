//! Optimizers on a CUDA device, against a copy within it.

use super::layout::Layout;
use super::progress::Progress;
use super::{Args, Passes, ROUNDS, Row, gradient, per_element, state_bytes};
use crate::common;
use crate::error::Result;
use fallline::core::fallible;
use fallline::optim::{Binding, param};
use fallline::{Backend, Format, Recipe, Tensor};
use half::bf16;
use std::sync::Arc;
use std::time::Instant;

/// Steps of a round, queued one behind the other: what a launch costs the host is hidden as in training.
const STEPS: usize = 10;

/// A CUDA device.
pub struct Device(Arc<dyn Backend>);

impl Device {
    /// Returns the device of a `--device`.
    pub fn open(name: &str) -> Result<Device> {
        Ok(Device(common::device(name, None)?))
    }

    /// Returns whether kernels are interpreted: the emulator says so in its device's name.
    pub fn is_emulated(&self) -> bool {
        self.0.describe().contains("emulated")
    }

    /// Returns the device, for people.
    pub fn describe(&self) -> String {
        self.0.describe()
    }

    /// Times an optimizer's step and a copy that moves as many bytes, interleaved. Returns none after Ctrl-C.
    pub fn measure(
        &self,
        name: &str,
        recipe: &Recipe,
        layout: Layout,
        elements: usize,
        (args, progress): (&Args, &Progress),
    ) -> Result<Option<Row>> {
        let shapes = layout.shapes(elements)?;
        let elements: usize = shapes.iter().map(|dims| dims.iter().product::<usize>()).sum();
        let format = if args.dtype == "bf16" { Format::Bf16 } else { Format::F32 };
        let bytes_per_element = Passes::new(recipe, format, &shapes[0]).traffic(&shapes);
        let backend = &self.0;
        let names: Vec<String> = (0..shapes.len()).map(|i| format!("tensor{i}")).collect();
        let mut params = Tensor::side_by_side(backend, format, shapes.iter().map(|dims| &dims[..]))?;
        let mut grads = Tensor::side_by_side(backend, format, shapes.iter().map(|dims| &dims[..]))?;
        for (param, grad) in params.iter_mut().zip(&mut grads) {
            let n = param.storage().len();
            match format {
                Format::Bf16 => {
                    param.write(&fallible::filled(bf16::ONE, n, "--elements")?)?;
                    grad.write(&fallible::collected((0..n).map(gradient::<bf16>), "--elements")?)?;
                }
                _ => {
                    param.write(&fallible::filled(1.0f32, n, "--elements")?)?;
                    grad.write(&fallible::collected((0..n).map(gradient::<f32>), "--elements")?)?;
                }
            }
        }
        // A copy reads and writes every byte once.
        let words = (bytes_per_element * elements as f64 / 8.0).ceil() as usize;
        let source = Tensor::zeros(backend, Format::F32, [words])?;
        let mut target = Tensor::zeros(backend, Format::F32, [words])?;
        let bind = |((name, value), grad)| -> Binding<'_> { param(name, value, grad) };
        let mut bindings: Vec<Binding<'_>> =
            names.iter().map(String::as_str).zip(&mut params).zip(&grads).map(bind).collect();
        let mut optimizer = recipe.optimizer(Arc::clone(backend));
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for _ in 0..=ROUNDS {
            if progress.is_interrupted() {
                return Ok(None);
            }
            backend.synchronise()?;
            let start = Instant::now();
            for _ in 0..STEPS {
                optimizer.step(&mut bindings)?;
            }
            backend.synchronise()?;
            ours.push(start.elapsed().as_secs_f64() / STEPS as f64);
            let start = Instant::now();
            for _ in 0..STEPS {
                backend.copy(source.storage(), target.storage_mut())?;
            }
            backend.synchronise()?;
            floor.push(start.elapsed().as_secs_f64() / STEPS as f64);
        }
        let ((ns_per_element, spread), (plain_ns_per_element, _)) =
            (per_element(&mut ours, elements), per_element(&mut floor, elements));
        Ok(Some(Row {
            name: name.to_owned(),
            elements,
            threads: None,
            isa: None,
            device: self.describe(),
            emulated: self.is_emulated(),
            layout: layout.name(),
            dtype: format.name(),
            bytes_per_element,
            state_bytes_per_param: state_bytes(&optimizer, elements),
            ns_per_element,
            spread,
            plain_ns_per_element,
            pages: None,
            huge_ns_per_element: None,
        }))
    }
}
