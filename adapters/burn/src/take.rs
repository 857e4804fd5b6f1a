//! Parameters out of a module, and back into it.

use crate::{Error, Result};
use burn::module::{ModuleMapper, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, GradientCheckpointingStrategy, Tensor, TensorData};
use fallline_core::host::{Slice, SliceMut};
use fallline_core::{bf16, f16};
use fallline_optim::{Binding, param};
use std::collections::HashMap;

/// A parameter that was taken out of its module.
pub(crate) struct Held {
    id: ParamId,
    name: String,
    data: TensorData,
    gradient: TensorData,
    device: Device,
    context: Context,
}

impl Held {
    /// Returns what a step binds.
    pub(crate) fn bind(&mut self) -> Result<Binding<'_>> {
        let Held { name, data, gradient, .. } = self;
        let refused = |what: &str, dtype: DType| Error::Parameter {
            name: name.clone(),
            problem: format!("{what} {dtype:?}"),
        };
        let shape: Vec<usize> = data.shape().iter().copied().collect();
        let (dtype, gradient_dtype) = (data.dtype(), gradient.dtype());
        let gradient = slice_of(gradient).ok_or_else(|| refused("has a gradient of", gradient_dtype))?;
        let data = slice_of_mut(data).ok_or_else(|| refused("holds", dtype))?;
        Ok(param(name, data, gradient).shaped(&shape))
    }
}

/// Takes the parameters that have gradients out of a module.
pub(crate) struct Take {
    path: Vec<String>,
    gradients: GradientsParams,
    requires_gradients: bool,
    names: HashMap<ParamId, String>,
    pub(crate) held: Vec<Held>,
    pub(crate) without_gradient: usize,
    /// The first that was found wrong.
    pub(crate) problem: Option<Error>,
}

impl Take {
    pub(crate) fn new(gradients: GradientsParams, requires_gradients: bool) -> Take {
        Take {
            path: Vec::new(),
            gradients,
            requires_gradients,
            names: HashMap::new(),
            held: Vec::new(),
            without_gradient: 0,
            problem: None,
        }
    }

    fn found(&mut self, problem: Error) {
        self.problem.get_or_insert(problem);
    }
}

impl ModuleMapper for Take {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, name) = (param.id, self.path.join("."));
        if let Some(first) = self.names.insert(id, name.clone()) {
            self.found(Error::Shared { first, second: name });
            return param;
        }
        let Some(gradient) = self.gradients.remove::<D>(id) else {
            self.without_gradient += 1;
            if self.requires_gradients && param.is_require_grad() {
                self.found(Error::NoGradient { name });
            }
            return param;
        };
        let gradient = match gradient.inner().try_into_data() {
            Ok(gradient) => gradient,
            Err(error) => {
                self.found(Error::Parameter {
                    name,
                    problem: format!("has a gradient that cannot be read: {error}"),
                });
                return param;
            }
        };
        let (id, tensor, mapper) = param.consume();
        let context = Context::of(&tensor);
        let tensor = tensor.inner();
        let (device, dtype) = (tensor.device(), tensor.dtype());
        // By value: a clone that is kept for the case of an error would make each backend copy.
        match tensor.try_into_data() {
            Ok(data) => self.held.push(Held { id, name, data, gradient, device: device.clone(), context }),
            Err(error) => {
                let problem = format!("is lost, as its device has failed: {error}");
                self.found(Error::Parameter { name, problem });
            }
        }
        Param::from_mapped_value(id, context.restore(Tensor::zeros([0; D], (&device, dtype))), mapper)
    }
}

/// Puts parameters back into their module.
pub(crate) struct Put(std::iter::Peekable<std::vec::IntoIter<Held>>);

impl Put {
    /// Takes them in the order in which they were taken.
    pub(crate) fn new(held: Vec<Held>) -> Put {
        Put(held.into_iter().peekable())
    }
}

impl ModuleMapper for Put {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(Held { id, data, device, context, .. }) = self.0.next_if(|held| held.id == param.id) else {
            return param;
        };
        let (_, _, mapper) = param.consume();
        let dtype = data.dtype();
        Param::from_mapped_value(id, context.restore(Tensor::from_data(data, (&device, dtype))), mapper)
    }
}

/// What a parameter has beside its numbers.
#[derive(Clone, Copy)]
struct Context {
    is_autodiff: bool,
    requires_gradient: bool,
    checkpointing: Option<GradientCheckpointingStrategy>,
}

impl Context {
    fn of<const D: usize>(tensor: &Tensor<D>) -> Context {
        Context {
            is_autodiff: tensor.is_autodiff(),
            requires_gradient: tensor.is_require_grad(),
            checkpointing: tensor.gradient_checkpointing_strategy(),
        }
    }

    fn restore<const D: usize>(self, mut tensor: Tensor<D>) -> Tensor<D> {
        if self.is_autodiff {
            tensor = tensor.autodiff();
        }
        if let Some(strategy) = self.checkpointing {
            tensor = tensor.with_gradient_checkpointing_strategy(strategy);
        }
        if self.requires_gradient { tensor.require_grad() } else { tensor }
    }
}

fn slice_of(data: &TensorData) -> Option<Slice<'_>> {
    Some(match data.dtype() {
        DType::F64 => data.as_slice::<f64>().ok()?.into(),
        DType::F32 => data.as_slice::<f32>().ok()?.into(),
        DType::BF16 => data.as_slice::<bf16>().ok()?.into(),
        DType::F16 => data.as_slice::<f16>().ok()?.into(),
        _ => return None,
    })
}

fn slice_of_mut(data: &mut TensorData) -> Option<SliceMut<'_>> {
    Some(match data.dtype() {
        DType::F64 => data.as_mut_slice::<f64>().ok()?.into(),
        DType::F32 => data.as_mut_slice::<f32>().ok()?.into(),
        DType::BF16 => data.as_mut_slice::<bf16>().ok()?.into(),
        DType::F16 => data.as_mut_slice::<f16>().ok()?.into(),
        _ => return None,
    })
}
