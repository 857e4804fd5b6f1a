//! A trainer's side: parameters with the gradients of some steps, and what it asks of an optimizer.

use crate::common::{Buffer, Random, recipe};
use fallline::optim::{Binding, Error, GradRef, LoadReport, Mode, ParamRef, frozen, param, rows};
use fallline::{Backend, Checkpoint, Cpu, Driver, Format, Optimizer, Shape, StepReport, Tensor};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

/// Steps that there are gradients for.
pub const STEPS: usize = 6;

/// Where a parameter is.
#[derive(Debug)]
pub enum Memory {
    Host(Buffer),
    Device(Tensor),
}

/// Where a gradient is.
#[derive(Debug)]
pub enum Grad {
    Host(Buffer),
    Device(Tensor),
    Rows(Vec<i64>, Buffer),
    /// Values that are row-sparse themselves.
    RowsOfRows(Vec<i64>, Buffer),
}

/// A parameter.
#[derive(Debug)]
pub struct Held {
    pub name: String,
    pub shape: Vec<usize>,
    pub value: Memory,
    pub grads: Vec<Option<Grad>>,
    /// Whether a step binds it.
    pub bound: bool,
    /// Its memory while it has other.
    aside: Option<Memory>,
}

/// An optimizer, and what it steps.
pub struct Trainer {
    pub optimizer: Driver,
    pub held: Vec<Held>,
    /// A checkpoint that was saved on the way.
    pub kept: Option<Checkpoint>,
    backend: Arc<dyn Backend>,
    place: Place,
}

/// What was done.
#[derive(Debug)]
pub enum Done {
    Step(StepReport),
    Load(LoadReport),
    /// A number, such as a loss.
    Number(f64),
    Nothing,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Done::Step(report) => report.fmt(f),
            Done::Load(report) => report.fmt(f),
            Done::Number(number) => number.fmt(f),
            Done::Nothing => f.write_str("done"),
        }
    }
}

/// What a trainer asks for at a time.
pub type Act = fn(&mut Trainer, usize) -> Result<Done, Error>;

/// What the parameters of a test are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    /// All in memory of the host.
    Host,
    /// Only the matrix, there.
    Matrix,
    /// The vector on the host, the matrix a tensor of the device.
    Mixed,
    /// Tensors of the device.
    Tensors,
    /// The same, in bfloat16.
    Narrow,
    /// A matrix with row-sparse gradients, on the host, which names rows twice.
    Rows,
    /// The same as a tensor of the device.
    DeviceRows,
}

/// The CPU, on the calling thread.
pub fn cpu() -> Arc<dyn Backend> {
    Cpu::with_threads(1).expect("one thread").shared()
}

/// Numbers of this type, the same for the same seed.
pub fn numbers(format: Format, seed: u64, count: usize) -> Buffer {
    Buffer::new(format, &Random(seed).units(count))
}

/// A tensor of a backend with these numbers.
pub fn tensor(backend: &Arc<dyn Backend>, values: &Buffer, shape: &[usize]) -> Tensor {
    let mut tensor = Tensor::zeros(backend, values.format(), Shape::from(shape)).expect("memory");
    tensor.write(&values.values()).expect("memory");
    tensor
}

/// The names and shapes of parameters.
fn shapes(place: Place) -> &'static [(&'static str, &'static [usize])] {
    match place {
        Place::Matrix | Place::Rows | Place::DeviceRows => &[("b", &[4, 3])],
        _ => &[("a", &[5]), ("b", &[4, 3])],
    }
}

impl Held {
    /// A parameter with a gradient at each step.
    pub fn new(backend: &Arc<dyn Backend>, (name, shape): (&str, &[usize]), place: Place) -> Held {
        let elements = shape.iter().product();
        let seed = name.bytes().map(u64::from).sum::<u64>();
        let format = if place == Place::Narrow { Format::Bf16 } else { Format::F32 };
        let on_device = match place {
            Place::Mixed => shape.len() > 1,
            Place::Tensors | Place::Narrow | Place::DeviceRows => true,
            Place::Host | Place::Matrix | Place::Rows => false,
        };
        let start = numbers(format, seed, elements);
        let value = match on_device {
            true => Memory::Device(tensor(backend, &start, shape)),
            false => Memory::Host(start),
        };
        let grad = |t: usize| {
            let seed = 1000 * (t as u64 + 1) + seed;
            if matches!(place, Place::Rows | Place::DeviceRows) {
                let index = vec![2, 0, 2];
                let count = index.len() * shape[1..].iter().product::<usize>();
                return Some(Grad::Rows(index, numbers(format, seed, count)));
            }
            let grad = numbers(format, seed, elements);
            Some(if on_device { Grad::Device(tensor(backend, &grad, shape)) } else { Grad::Host(grad) })
        };
        let (name, shape) = (name.to_owned(), shape.to_vec());
        Held { name, shape, value, grads: (0..STEPS).map(grad).collect(), bound: true, aside: None }
    }

    /// What it is bound as at a step.
    pub fn bind(&mut self, t: usize) -> Binding<'_> {
        let value: ParamRef<'_> = match &mut self.value {
            Memory::Host(buffer) => buffer.param_from(0),
            Memory::Device(tensor) => tensor.into(),
        };
        let grad = match &self.grads[t] {
            None => GradRef::None,
            Some(Grad::Host(buffer)) => buffer.grad_from(0),
            Some(Grad::Device(tensor)) => tensor.into(),
            Some(Grad::Rows(index, buffer)) => rows(index, buffer.grad_from(0)),
            Some(Grad::RowsOfRows(index, buffer)) => rows(index, rows(index, buffer.grad_from(0))),
        };
        let fits = match (&value, &grad) {
            // A flat slice has the shape that it is bound with.
            (ParamRef::Host(slice, _), GradRef::Host(grad, _)) => slice.len() == grad.len(),
            (ParamRef::Host(..), _) => true,
            _ => false,
        };
        let binding = param(&self.name, value, grad);
        if fits { binding.shaped(&self.shape) } else { binding }
    }

    /// Its numbers, where they can be read.
    pub fn values(&self) -> Result<Vec<f64>, String> {
        match &self.value {
            Memory::Host(buffer) => Ok(buffer.values()),
            Memory::Device(tensor) => tensor.to_vec::<f64>().map_err(|error| error.to_string()),
        }
    }

    fn write(&mut self, values: &[f64]) -> Result<(), Error> {
        match &mut self.value {
            Memory::Host(buffer) => *buffer = Buffer::new(buffer.format(), values),
            Memory::Device(tensor) => tensor.write(values)?,
        }
        Ok(())
    }

    /// Binds it without a gradient.
    pub fn freeze(&mut self) -> Binding<'_> {
        match &mut self.value {
            Memory::Host(buffer) => frozen(&self.name, buffer.param_from(0)).shaped(&self.shape),
            Memory::Device(tensor) => frozen(&self.name, tensor),
        }
    }

    /// Other memory, until it is restored.
    pub fn other_value(&mut self, value: Memory) {
        self.aside = Some(std::mem::replace(&mut self.value, value));
    }

    /// Its gradient at a step, of numbers of the host.
    pub fn grad_of(&mut self, t: usize, values: &[f64]) {
        self.grads[t] = Some(Grad::Host(Buffer::new(Format::F32, values)));
    }
}

impl Trainer {
    /// An optimizer and its parameters.
    pub fn new(backend: &Arc<dyn Backend>, text: &str, place: Place) -> Trainer {
        let held = shapes(place).iter().map(|&named| Held::new(backend, named, place)).collect();
        let optimizer = recipe(text).optimizer(Arc::clone(backend));
        Trainer { optimizer, held, kept: None, backend: Arc::clone(backend), place }
    }

    /// The same with a changed optimizer.
    pub fn with(mut self, around: impl FnOnce(Driver) -> Driver) -> Trainer {
        self.optimizer = around(self.optimizer);
        self
    }

    /// The parameters' numbers.
    pub fn values(&self) -> Vec<Vec<f64>> {
        self.held.iter().map(|held| held.values().unwrap_or_default()).collect()
    }

    /// Loads a checkpoint, and writes the parameters that belong to it.
    pub fn go_back(&mut self, checkpoint: &Checkpoint, values: &[Vec<f64>]) -> Result<(), Error> {
        self.optimizer.load(checkpoint)?;
        self.held.iter_mut().zip(values).try_for_each(|(held, values)| held.write(values))
    }

    /// A step on parameters that are changed for it alone. What values have become stays.
    pub fn step_changed(&mut self, t: usize, change: impl FnOnce(&mut Vec<Held>)) -> Result<Done, Error> {
        change(&mut self.held);
        let done = catch_unwind(AssertUnwindSafe(|| step(self, t)));
        self.restore();
        done.unwrap_or_else(|cause| resume_unwind(cause))
    }

    /// Binds everything again as it was made, with the values that parameters have now.
    pub fn restore(&mut self) {
        let (backend, place) = (&self.backend, self.place);
        let held = shapes(place).iter().map(|&named| {
            let now = self.held.iter().position(|held| held.name == named.0).expect("it is only not bound");
            let Held { value, aside, .. } = self.held.swap_remove(now);
            Held { value: aside.unwrap_or(value), ..Held::new(backend, named, place) }
        });
        self.held = held.collect();
    }

    /// Another parameter, new to the optimizer.
    pub fn another(&self, name: &str, shape: &[usize]) -> Held {
        Held::new(&self.backend, (name, shape), Place::Host)
    }
}

/// The bindings of a step.
pub fn bind(held: &mut [Held], t: usize) -> Vec<Binding<'_>> {
    held.iter_mut().filter(|held| held.bound).map(|held| held.bind(t)).collect()
}

/// A step.
pub fn step(trainer: &mut Trainer, t: usize) -> Result<Done, Error> {
    trainer.optimizer.step(&mut bind(&mut trainer.held, t)).map(Done::Step)
}

/// A step in pieces.
pub fn stream(trainer: &mut Trainer, t: usize) -> Result<Done, Error> {
    let mut pieces = trainer.optimizer.begin()?;
    for binding in bind(&mut trainer.held, t) {
        pieces.apply(binding)?;
    }
    pieces.finish().map(Done::Step)
}

/// Gradients for the curvature.
pub fn curvature(trainer: &mut Trainer, t: usize) -> Result<Done, Error> {
    trainer.optimizer.update_hessian(&mut bind(&mut trainer.held, t)).map(Done::Step)
}

/// The weights of another mode.
pub fn switch(trainer: &mut Trainer, mode: Mode) -> Result<Done, Error> {
    let held = trainer.held.iter_mut().filter(|held| held.bound);
    let mut bindings: Vec<Binding<'_>> = held.map(Held::freeze).collect();
    trainer.optimizer.set_mode(mode, &mut bindings).map(|()| Done::Nothing)
}
