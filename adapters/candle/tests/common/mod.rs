//! A small model whose start does not depend on chance.

#![allow(dead_code, reason = "each test takes what it needs")]

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Linear, Module, VarBuilder, VarMap};
use fallline_cpu::{Cpu, Native};
use fallline_optim::algorithms::AdamW;
use fallline_optim::{Driver, Linked};

pub struct Model {
    pub variables: VarMap,
    layers: [Linear; 2],
}

impl Model {
    pub fn new(dtype: DType) -> Model {
        let variables = VarMap::new();
        let builder = VarBuilder::from_varmap(&variables, dtype, &Device::Cpu);
        let layers = [
            candle_nn::linear(6, 16, builder.pp("first")).unwrap(),
            candle_nn::linear(16, 3, builder.pp("second")).unwrap(),
        ];
        let model = Model { variables, layers };
        for (i, (_, variable)) in model.named().iter().enumerate() {
            variable.set(&waves(variable.dims(), dtype, i as f64)).unwrap();
        }
        model
    }

    /// Returns the variables in the order of their names.
    pub fn named(&self) -> Vec<(String, Var)> {
        let data = self.variables.data().lock().unwrap();
        let mut named: Vec<_> =
            data.iter().map(|(name, variable)| (name.clone(), variable.clone())).collect();
        named.sort_by(|one, other| one.0.cmp(&other.0));
        named
    }

    pub fn values(&self) -> Vec<(String, Vec<f64>)> {
        self.named().into_iter().map(|(name, variable)| (name, read(&variable))).collect()
    }
}

pub fn read(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Returns numbers between −0.4 and 0.4.
pub fn waves(dims: &[usize], dtype: DType, phase: f64) -> Tensor {
    let count: usize = dims.iter().product();
    let numbers: Vec<f64> = (0..count).map(|i| 0.4 * (1.3 * i as f64 + phase).sin()).collect();
    Tensor::from_vec(numbers, dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// Returns the loss of a batch, which `step` chooses.
pub fn loss_of(model: &Model, step: usize) -> Tensor {
    let dtype = model.named()[0].1.dtype();
    let input = waves(&[8, 6], dtype, step as f64 % 5.0);
    let hidden = model.layers[0].forward(&input).unwrap().relu().unwrap();
    let output = model.layers[1].forward(&hidden).unwrap();
    (output - waves(&[8, 3], dtype, 9.0)).unwrap().sqr().unwrap().mean_all().unwrap()
}

pub fn adamw() -> Driver {
    let settings = AdamW { lr: 1e-2, weight_decay: 0.1, ..AdamW::default() };
    let algorithm = Linked::<AdamW, Native>::new(settings).unwrap();
    Driver::new(Cpu::with_threads(2).unwrap().shared(), Box::new(algorithm))
}
