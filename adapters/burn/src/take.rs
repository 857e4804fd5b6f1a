//! Parameters out of a module, and back into it.

use crate::{Error, Result};
use burn::module::{ModuleMapper, Param, ParamId, ParamMapper};
use burn::optim::GradientsParams;
use burn::tensor::{DType, Device, GradientCheckpointingStrategy, Tensor, TensorData};
use fallline_core::host::{Slice, SliceMut};
use fallline_core::{bf16, f16};
use fallline_optim::{Binding, param};
use std::any::Any;
use std::collections::HashMap;

/// The parameters of a module in the order in which it has them. Kept from step to step, so that names are made once.
#[derive(Default)]
pub(crate) struct Names(Vec<(ParamId, String)>);

impl Names {
    /// Enters the parameter at a place, and returns whether it is not the one that was there.
    fn enter(&mut self, place: usize, id: ParamId, path: &str) -> bool {
        match self.0.get_mut(place) {
            Some((known, name)) if *known == id && name == path => return false,
            Some(known) => *known = (id, path.to_owned()),
            None => self.0.push((id, path.to_owned())),
        }
        true
    }

    /// Returns two parameters that have the same id.
    fn same(&self) -> Option<(&str, &str)> {
        let mut seen = HashMap::with_capacity(self.0.len());
        self.0
            .iter()
            .find_map(|(id, name)| seen.insert(id, name).map(|first| (first.as_str(), name.as_str())))
    }
}

/// What was taken out of a module. Between steps the lists are empty, and keep their memory.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) held: Vec<Held>,
    /// The gradients of those that are held.
    pub(crate) gradients: Vec<TensorData>,
}

/// A parameter that was taken out of its module.
pub(crate) struct Held {
    id: ParamId,
    /// Its place among the module's parameters.
    place: usize,
    data: TensorData,
    device: Device,
    context: Context,
    /// Its `ParamMapper`, whose type depends on the rank.
    mapper: Box<dyn Any + Send + Sync>,
}

impl Held {
    /// Returns what a step binds.
    pub(crate) fn bind<'a>(&'a mut self, gradient: &'a TensorData, names: &'a Names) -> Result<Binding<'a>> {
        let Held { place, data, .. } = self;
        let (_, name) = &names.0[*place];
        let refused = |what: &str, dtype: DType| Error::Parameter {
            name: name.clone(),
            problem: format!("{what} {dtype:?}"),
        };
        let shape = data.shape().clone();
        let (dtype, gradient_dtype) = (data.dtype(), gradient.dtype());
        let gradient = slice_of(gradient).ok_or_else(|| refused("has a gradient of", gradient_dtype))?;
        let data = slice_of_mut(data).ok_or_else(|| refused("holds", dtype))?;
        Ok(param(name, data, gradient).shaped(&shape))
    }
}

/// Takes the parameters that have gradients out of a module.
pub(crate) struct Take<'a> {
    names: &'a mut Names,
    taken: &'a mut Taken,
    gradients: GradientsParams,
    requires_gradients: bool,
    path: String,
    /// How long the path was before each module in it.
    outer: Vec<usize>,
    /// How many parameters the module has so far.
    count: usize,
    /// Whether they are others than in the last step.
    is_changed: bool,
    /// What stands in a parameter's place, one for each rank: making one takes burn as long as taking a parameter.
    placeholders: Vec<Box<dyn Any>>,
    without_gradient: usize,
    /// The first that was found wrong.
    problem: Option<Error>,
}

impl<'a> Take<'a> {
    /// Puts what it takes into empty lists.
    pub(crate) fn new(
        names: &'a mut Names,
        taken: &'a mut Taken,
        gradients: GradientsParams,
        requires_gradients: bool,
    ) -> Self {
        Take {
            names,
            taken,
            gradients,
            requires_gradients,
            path: String::new(),
            outer: Vec::new(),
            count: 0,
            is_changed: false,
            placeholders: Vec::new(),
            without_gradient: 0,
            problem: None,
        }
    }

    /// Returns how many parameters have no gradient, once the whole module was visited, or the first problem.
    pub(crate) fn finish(self) -> Result<usize> {
        self.names.0.truncate(self.count);
        if self.is_changed
            && let Some((first, second)) = self.names.same()
        {
            let shared = Error::Shared { first: first.into(), second: second.into() };
            // The next step is to find it, too.
            self.names.0.clear();
            return Err(shared);
        }
        self.problem.map_or(Ok(self.without_gradient), Err)
    }

    /// Keeps a problem of the parameter that is visited.
    fn found(&mut self, problem: impl FnOnce(String) -> Error) {
        self.problem.get_or_insert_with(|| problem(self.path.clone()));
    }

    /// Returns what stands in a parameter's place until it is put back.
    fn placeholder<const D: usize>(&mut self, id: ParamId, device: &Device) -> Param<Tensor<D>> {
        let mut known = self.placeholders.iter().filter_map(|known| known.downcast_ref::<Param<Tensor<D>>>());
        let mut placeholder = known.next().cloned().unwrap_or_else(|| {
            let placeholder = Param::initialized(id, Tensor::zeros([0; D], device));
            self.placeholders.push(Box::new(placeholder.clone()));
            placeholder
        });
        placeholder.id = id;
        placeholder
    }
}

impl ModuleMapper for Take<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.outer.push(self.path.len());
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.truncate(self.outer.pop().unwrap_or(0));
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let place = self.count;
        self.count += 1;
        self.is_changed |= self.names.enter(place, param.id, &self.path);
        let Some(gradient) = self.gradients.remove::<D>(param.id) else {
            self.without_gradient += 1;
            if self.requires_gradients && param.is_require_grad() {
                self.found(|name| Error::NoGradient { name });
            }
            return param;
        };
        let gradient = match gradient.inner().try_into_data() {
            Ok(gradient) => gradient,
            Err(error) => {
                let problem = format!("has a gradient that cannot be read: {error}");
                self.found(|name| Error::Parameter { name, problem });
                return param;
            }
        };
        let (id, tensor, mapper) = param.consume();
        let context = Context::of(&tensor);
        let tensor = tensor.inner();
        let device = tensor.device();
        let placeholder = self.placeholder(id, &device);
        // By value: a clone that is kept for the case of an error would make each backend copy.
        match tensor.try_into_data() {
            Ok(data) => {
                let mapper = Box::new(mapper);
                self.taken.held.push(Held { id, place, data, device, context, mapper });
                self.taken.gradients.push(gradient);
            }
            Err(error) => {
                let problem = format!("is lost, as its device has failed: {error}");
                self.found(|name| Error::Parameter { name, problem });
            }
        }
        placeholder
    }
}

/// Puts parameters back into their module.
pub(crate) struct Put<'a>(std::iter::Peekable<std::vec::Drain<'a, Held>>);

impl<'a> Put<'a> {
    /// Takes them in the order in which they were taken.
    pub(crate) fn new(held: &'a mut Vec<Held>) -> Self {
        Put(held.drain(..).peekable())
    }
}

impl ModuleMapper for Put<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(held) = self.0.next_if(|held| held.id == param.id) else {
            return param;
        };
        let Held { id, data, device, context, mapper, .. } = held;
        let dtype = data.dtype();
        let tensor = context.restore(Tensor::from_data(data, (&device, dtype)));
        match mapper.downcast::<ParamMapper<Tensor<D>>>() {
            Ok(mapper) => Param::from_mapped_value(id, tensor, *mapper),
            Err(_) => unreachable!("a parameter has the rank that it had when it was taken"),
        }
    }
}

/// What a parameter has beside its numbers.
#[derive(Clone, Copy)]
struct Context {
    requires_gradient: bool,
    /// Of a tensor with autodiff.
    checkpointing: Option<GradientCheckpointingStrategy>,
}

impl Context {
    fn of<const D: usize>(tensor: &Tensor<D>) -> Context {
        Context {
            requires_gradient: tensor.is_require_grad(),
            checkpointing: tensor.gradient_checkpointing_strategy(),
        }
    }

    fn restore<const D: usize>(self, mut tensor: Tensor<D>) -> Tensor<D> {
        if let Some(strategy) = self.checkpointing {
            tensor = tensor.autodiff();
            if tensor.gradient_checkpointing_strategy() != self.checkpointing {
                tensor = tensor.with_gradient_checkpointing_strategy(strategy);
            }
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
