//! One step at a time of fallline's optimizers and of candle's AdamW, on request.
//!
//! The protocol, a line each way (that of `../peers.py` too): `open NAME ELEMENTS` → `ok VERSION`,
//! `round NAME` → seconds, `close NAME` → `ok`; `error …` where something fails. The only argument is the
//! number of threads.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer as _, ParamsAdamW};
use fallline::prelude::*;
use fallline::{Backend, Recipe};
use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::Instant;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// Elements of one of the many small tensors.
const SMALL: usize = 1000;

/// Something whose steps are timed.
trait Contender {
    fn step(&mut self) -> Result<()>;
}

/// A trainer with a tensor for each parameter and gradient, bound anew for each step.
struct Fallline {
    optimizer: Driver,
    names: Vec<String>,
    values: Vec<fallline::Tensor>,
    grads: Vec<fallline::Tensor>,
}

impl Fallline {
    fn new(config: &str, lengths: &[usize], threads: usize) -> Result<Self> {
        let backend: Arc<dyn Backend> = Cpu::with_threads(threads)?.shared();
        let tensors = || lengths.iter().map(|&n| fallline::Tensor::from_slice(&backend, &numbers(n), [n]));
        let (values, grads) = (tensors().collect::<Result<_, _>>()?, tensors().collect::<Result<_, _>>()?);
        Ok(Fallline {
            optimizer: Recipe::from_text(config)?.optimizer(Arc::clone(&backend)),
            names: (0..lengths.len()).map(|i| format!("tensor{i}")).collect(),
            values,
            grads,
        })
    }
}

impl Contender for Fallline {
    fn step(&mut self) -> Result<()> {
        let buffers = self.values.iter_mut().zip(&self.grads);
        let mut bindings: Vec<Binding<'_>> =
            self.names.iter().zip(buffers).map(|(name, (value, grad))| param(name, value, grad)).collect();
        self.optimizer.step(&mut bindings)?;
        Ok(())
    }
}

struct Candle {
    optimizer: candle_nn::AdamW,
    grads: GradStore,
}

impl Candle {
    fn new(elements: usize) -> Result<Self> {
        let var = Var::from_vec(numbers(elements), elements, &Device::Cpu)?;
        // A store of gradients comes only from a backward pass.
        let mut grads = Tensor::zeros((), DType::F32, &Device::Cpu)?.backward()?;
        grads.insert(&var, Tensor::from_vec(numbers(elements), elements, &Device::Cpu)?);
        Ok(Candle { optimizer: candle_nn::AdamW::new(vec![var], ParamsAdamW::default())?, grads })
    }
}

impl Contender for Candle {
    fn step(&mut self) -> Result<()> {
        Ok(self.optimizer.step(&self.grads)?)
    }
}

/// Numbers around zero, none of them special.
fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i.wrapping_mul(2_654_435_761) >> 7) % 2001) as f32 / 1000.0 - 1.0005).collect()
}

fn open(name: &str, elements: usize, threads: usize) -> Result<(Box<dyn Contender>, String)> {
    let fallline = |config, lengths: &[usize]| -> Result<(Box<dyn Contender>, String)> {
        let contender = Fallline::new(config, lengths, threads)?;
        let version = contender.optimizer.backend().describe();
        Ok((Box::new(contender), version))
    };
    match name {
        "fallline_adamw" => fallline("AdamW", &[elements]),
        "fallline_lion" => fallline("Lion", &[elements]),
        "fallline_adamw_small" => fallline("AdamW", &vec![SMALL; elements / SMALL]),
        "candle_adamw" => Ok((Box::new(Candle::new(elements)?), "candle-nn 0.11.1".into())),
        _ => Err(format!("no contender is called {name}").into()),
    }
}

fn answer(
    line: &str,
    contenders: &mut HashMap<String, Box<dyn Contender>>,
    threads: usize,
) -> Result<String> {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["open", name, elements] => {
            let (contender, version) = open(name, elements.parse()?, threads)?;
            contenders.insert(name.to_owned(), contender);
            Ok(format!("ok {version}"))
        }
        ["round", name] => {
            let contender = contenders.get_mut(name).ok_or("it is not open")?;
            let start = Instant::now();
            contender.step()?;
            Ok(start.elapsed().as_secs_f64().to_string())
        }
        ["close", name] => {
            contenders.remove(name);
            Ok("ok".into())
        }
        _ => Err("expected open NAME ELEMENTS, round NAME or close NAME".into()),
    }
}

fn main() -> Result<()> {
    let threads = std::env::args().nth(1).ok_or("usage: fallline-peers THREADS")?.parse()?;
    let mut contenders = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = answer(&line, &mut contenders, threads).unwrap_or_else(|error| format!("error {error}"));
        println!("{answer}");
        std::io::stdout().flush()?;
    }
    Ok(())
}
