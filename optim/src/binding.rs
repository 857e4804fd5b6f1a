//! What a trainer hands to a step: names, parameters, gradients, in its own memory.

use fallline_core::backend::View;
use fallline_core::host::{Slice, SliceMut};
use fallline_core::{Device, Element, Format, Shape, Tensor};
use half::{bf16, f16};

/// A parameter's extents, without an allocation for the usual number of dimensions.
#[derive(Clone, Debug)]
pub struct Extents {
    rank: usize,
    few: [usize; Extents::FEW],
    many: Box<[usize]>,
}

impl Extents {
    /// The most dimensions that are kept in place.
    const FEW: usize = 4;

    /// The extents, outermost first.
    pub fn as_slice(&self) -> &[usize] {
        if self.rank <= Extents::FEW { &self.few[..self.rank] } else { &self.many }
    }

    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.as_slice().iter().product()
    }
}

impl From<&[usize]> for Extents {
    fn from(extents: &[usize]) -> Self {
        let mut few = [0; Extents::FEW];
        let rank = extents.len();
        if rank <= Extents::FEW {
            few[..rank].copy_from_slice(extents);
            return Extents { rank, few, many: Box::default() };
        }
        Extents { rank, few, many: extents.into() }
    }
}

impl From<&Extents> for Shape {
    fn from(extents: &Extents) -> Self {
        Shape::from(extents.as_slice())
    }
}

/// A parameter's memory.
#[derive(Debug)]
#[non_exhaustive]
pub enum ParamRef<'a> {
    /// A slice in row-major order.
    Host(SliceMut<'a>, Extents),
    /// A tensor of the engine.
    Tensor(&'a mut Tensor),
    /// A view that is not contiguous: copied into a buffer for the step, and back after it.
    #[cfg(feature = "ndarray")]
    Strided(crate::strided::StridedParam<'a>),
}

/// A gradient's memory.
#[derive(Debug)]
#[non_exhaustive]
pub enum GradRef<'a> {
    /// There is none: the parameter and its state are left untouched. A gradient of zeros is not the same.
    None,
    /// A slice in row-major order.
    Host(Slice<'a>, Extents),
    /// A tensor of the engine.
    Tensor(&'a Tensor),
    /// A view that is not contiguous: copied into a buffer for the step.
    #[cfg(feature = "ndarray")]
    Strided(crate::strided::StridedGrad),
}

/// One parameter of a step.
#[derive(Debug)]
pub struct Binding<'a> {
    pub(crate) name: &'a str,
    pub(crate) param: ParamRef<'a>,
    pub(crate) grad: GradRef<'a>,
}

/// Binds a parameter and its gradient, which is not changed.
///
/// Both are slices, `Vec`s or arrays of `f32`, `f64`, `bf16` or `f16`, tensors of the engine, or, with the
/// feature `ndarray`, arrays and views. Their element types may differ. What is contiguous in row-major
/// order is used in place.
///
/// ```
/// use fallline_optim::param;
/// let (mut weight, gradient) = (vec![0.0f32; 4], [1.0f32; 4]);
/// let binding = param("fc.weight", &mut weight, &gradient);
/// ```
pub fn param<'a>(name: &'a str, param: impl Into<ParamRef<'a>>, grad: impl Into<GradRef<'a>>) -> Binding<'a> {
    Binding { name, param: param.into(), grad: grad.into() }
}

/// Binds a parameter that has no gradient in this step.
pub fn frozen<'a>(name: &'a str, param: impl Into<ParamRef<'a>>) -> Binding<'a> {
    Binding { name, param: param.into(), grad: GradRef::None }
}

impl ParamRef<'_> {
    pub(crate) fn format(&self) -> Format {
        match self {
            ParamRef::Host(slice, _) => slice.format(),
            ParamRef::Tensor(tensor) => tensor.format(),
            #[cfg(feature = "ndarray")]
            ParamRef::Strided(view) => view.format(),
        }
    }

    pub(crate) fn extents(&self) -> &[usize] {
        match self {
            ParamRef::Host(_, extents) => extents.as_slice(),
            ParamRef::Tensor(tensor) => tensor.shape().extents(),
            #[cfg(feature = "ndarray")]
            ParamRef::Strided(view) => view.extents(),
        }
    }

    /// The device of an engine's tensor; memory of the host goes with every device.
    pub(crate) fn device(&self) -> Option<Device> {
        match self {
            ParamRef::Tensor(tensor) => Some(tensor.backend().device()),
            _ => None,
        }
    }

    pub(crate) fn view(&mut self) -> View<'_> {
        match self {
            ParamRef::Host(slice, _) => View::Write(slice.reborrow()),
            ParamRef::Tensor(tensor) => View::write(tensor.storage_mut()),
            #[cfg(feature = "ndarray")]
            ParamRef::Strided(view) => View::Write(view.buffer()),
        }
    }
}

impl GradRef<'_> {
    pub(crate) fn is_none(&self) -> bool {
        matches!(self, GradRef::None)
    }

    pub(crate) fn extents(&self) -> Option<&[usize]> {
        match self {
            GradRef::None => None,
            GradRef::Host(_, extents) => Some(extents.as_slice()),
            GradRef::Tensor(tensor) => Some(tensor.shape().extents()),
            #[cfg(feature = "ndarray")]
            GradRef::Strided(view) => Some(view.extents()),
        }
    }

    pub(crate) fn device(&self) -> Option<Device> {
        match self {
            GradRef::Tensor(tensor) => Some(tensor.backend().device()),
            _ => None,
        }
    }

    pub(crate) fn view(&self) -> Option<View<'_>> {
        match self {
            GradRef::None => None,
            GradRef::Host(slice, _) => Some(View::Read(*slice)),
            GradRef::Tensor(tensor) => Some(View::read(tensor.storage())),
            #[cfg(feature = "ndarray")]
            GradRef::Strided(view) => Some(View::Read(view.buffer())),
        }
    }
}

impl<'a> Binding<'a> {
    /// A slice as an array of the given extents, for trainers that keep shapes of their own.
    ///
    /// # Panics
    /// When the extents have another number of elements than the slice.
    pub fn shaped(mut self, extents: &[usize]) -> Self {
        let shape = Extents::from(extents);
        if let ParamRef::Host(slice, old) = &mut self.param {
            assert_eq!(
                slice.len(),
                shape.elements(),
                "parameter {:?} given the extents {extents:?}",
                self.name
            );
            *old = shape.clone();
        }
        if let GradRef::Host(slice, old) = &mut self.grad {
            assert_eq!(
                slice.len(),
                shape.elements(),
                "gradient of {:?} given the extents {extents:?}",
                self.name
            );
            *old = shape;
        }
        self
    }

    /// The parameter's name.
    pub fn name(&self) -> &str {
        self.name
    }

    /// What the pass needs of the parameter and its gradient at once.
    pub(crate) fn views(&mut self) -> (Option<View<'_>>, Option<View<'_>>) {
        (Some(self.param.view()), self.grad.view())
    }
}

impl<'a> From<&'a mut Tensor> for ParamRef<'a> {
    fn from(tensor: &'a mut Tensor) -> Self {
        ParamRef::Tensor(tensor)
    }
}

impl<'a> From<&'a Tensor> for GradRef<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        GradRef::Tensor(tensor)
    }
}

impl<'a, G: Into<GradRef<'a>>> From<Option<G>> for GradRef<'a> {
    fn from(grad: Option<G>) -> Self {
        grad.map_or(GradRef::None, Into::into)
    }
}

/// A flat slice of elements as a parameter.
pub(crate) fn flat_param<'a, T: Element>(slice: &'a mut [T]) -> ParamRef<'a>
where
    SliceMut<'a>: From<&'a mut [T]>,
{
    let extents = Extents::from(&[slice.len()][..]);
    ParamRef::Host(slice.into(), extents)
}

/// A flat slice of elements as a gradient.
pub(crate) fn flat_grad<'a, T: Element>(slice: &'a [T]) -> GradRef<'a>
where
    Slice<'a>: From<&'a [T]>,
{
    let extents = Extents::from(&[slice.len()][..]);
    GradRef::Host(slice.into(), extents)
}

macro_rules! slices {
    ($($t:ty),*) => { $(
        impl<'a> From<&'a mut [$t]> for ParamRef<'a> {
            fn from(slice: &'a mut [$t]) -> Self {
                flat_param(slice)
            }
        }
        impl<'a> From<&'a mut Vec<$t>> for ParamRef<'a> {
            fn from(vector: &'a mut Vec<$t>) -> Self {
                flat_param(vector.as_mut_slice())
            }
        }
        impl<'a, const N: usize> From<&'a mut [$t; N]> for ParamRef<'a> {
            fn from(array: &'a mut [$t; N]) -> Self {
                flat_param(array.as_mut_slice())
            }
        }
        impl<'a> From<&'a [$t]> for GradRef<'a> {
            fn from(slice: &'a [$t]) -> Self {
                flat_grad(slice)
            }
        }
        impl<'a> From<&'a Vec<$t>> for GradRef<'a> {
            fn from(vector: &'a Vec<$t>) -> Self {
                flat_grad(vector.as_slice())
            }
        }
        impl<'a, const N: usize> From<&'a [$t; N]> for GradRef<'a> {
            fn from(array: &'a [$t; N]) -> Self {
                flat_grad(array.as_slice())
            }
        }
    )* };
}
slices!(f64, f32, bf16, f16);
