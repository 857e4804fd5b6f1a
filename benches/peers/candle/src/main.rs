//! One step at a time of candle's AdamW, on request of `compare.py`.

#[path = "../../protocol.rs"]
mod protocol;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Optimizer as _, ParamsAdamW};
use protocol::{Contender, Result};

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

/// Returns numbers around zero, none of them special.
fn numbers(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i.wrapping_mul(2_654_435_761) >> 7) % 2001) as f32 / 1000.0 - 1.0005).collect()
}

fn open(name: &str, elements: usize, _threads: usize) -> Result<(Box<dyn Contender>, String)> {
    match name {
        "candle_adamw" => Ok((Box::new(Candle::new(elements)?), "candle-nn 0.11.1".into())),
        _ => Err(format!("no contender is called {name}").into()),
    }
}

fn main() -> Result<()> {
    protocol::serve(open)
}
