//! A small model whose start does not depend on chance.

#![allow(dead_code, reason = "each test takes what it needs")]

use fallline_cpu::{Cpu, Native};
use fallline_optim::algorithms::AdamW;
use fallline_optim::{Algorithm, AnyAlgorithm, Driver, Linked};
use tch::nn::{self, Module as _, VarStore};
use tch::{Device, Kind, Tensor};

/// Two layers, of which the second one is in group 1.
pub struct Model {
    pub store: VarStore,
    layers: [nn::Linear; 2],
    kind: Kind,
}

impl Model {
    pub fn new(kind: Kind) -> Model {
        let mut store = VarStore::new(Device::Cpu);
        let root = store.root();
        let layers = [
            nn::linear(&root / "first", 6, 16, Default::default()),
            nn::linear(root.set_group(1) / "second", 16, 3, Default::default()),
        ];
        store.set_kind(kind);
        let model = Model { store, layers, kind };
        tch::no_grad(|| {
            for (i, (_, mut variable)) in model.named().into_iter().enumerate() {
                variable.copy_(&waves(&variable.size(), kind, i as f64));
            }
        });
        model
    }

    /// Returns the variables in the order of their names.
    pub fn named(&self) -> Vec<(String, Tensor)> {
        let mut named: Vec<_> = self.store.variables().into_iter().collect();
        named.sort_by(|one, other| one.0.cmp(&other.0));
        named
    }

    pub fn values(&self) -> Vec<(String, Vec<f64>)> {
        self.named().into_iter().map(|(name, variable)| (name, read(&variable))).collect()
    }

    /// Returns the loss of a batch, which `step` chooses.
    pub fn loss(&self, step: usize) -> Tensor {
        let hidden = self.layers[0].forward(&waves(&[8, 6], self.kind, step as f64 % 5.0)).relu();
        (self.layers[1].forward(&hidden) - waves(&[8, 3], self.kind, 9.0)).square().mean(self.kind)
    }
}

pub fn read(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.detach().to_kind(Kind::Double).reshape(-1);
    Vec::try_from(flat).unwrap()
}

/// Returns numbers between −0.4 and 0.4.
pub fn waves(shape: &[i64], kind: Kind, phase: f64) -> Tensor {
    let count = shape.iter().product::<i64>();
    let numbers: Vec<f64> = (0..count).map(|i| 0.4 * (1.3 * i as f64 + phase).sin()).collect();
    Tensor::from_slice(&numbers).reshape(shape).to_kind(kind)
}

/// Returns the driver of an algorithm on two threads.
pub fn driver<A: Algorithm>(algorithm: A) -> Driver
where
    Linked<A, Native>: AnyAlgorithm,
{
    let algorithm = Linked::<A, Native>::new(algorithm).unwrap();
    Driver::new(Cpu::with_threads(2).unwrap().shared(), Box::new(algorithm))
}

pub fn adamw() -> Driver {
    driver(AdamW { lr: 1e-2, weight_decay: 0.1, ..AdamW::default() })
}
