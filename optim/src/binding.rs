//! What a training loop hands to a step: names, parameters, gradients, in its own memory.

#[cfg(feature = "ndarray")]
mod arrays;
mod from;
mod views;

use crate::{Error, ModuleKind, Result};
use fallline_core::backend::View;
use fallline_core::host::{Slice, SliceMut};
use fallline_core::{Device, DeviceSlice, DeviceSliceMut, Format, Shape, Storage, Tensor};

/// The shape of what is bound: a flat slice matches any shape with as many elements.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dims<'a> {
    Flat(usize),
    Shape(&'a Shape),
}

impl Dims<'_> {
    fn of(len: usize, shape: Option<&Shape>) -> Dims<'_> {
        shape.map_or(Dims::Flat(len), Dims::Shape)
    }

    /// Returns whether this matches `expected`.
    pub(crate) fn fit(self, expected: &Shape) -> bool {
        match self {
            Dims::Shape(shape) if shape.rank() != 1 => shape == expected,
            _ => self.elements() == expected.elements(),
        }
    }

    /// Returns whether a gradient of this shape belongs to a parameter of the `other` shape.
    pub(crate) fn fit_param(self, other: Dims<'_>) -> bool {
        match other {
            Dims::Shape(shape) => self.fit(shape),
            Dims::Flat(len) => matches!(self, Dims::Flat(own) if own == len) || self.fit(&Shape::from([len])),
        }
    }

    pub(crate) fn elements(self) -> usize {
        match self {
            Dims::Flat(len) => len,
            Dims::Shape(shape) => shape.elements(),
        }
    }
}

impl From<Dims<'_>> for Shape {
    fn from(dims: Dims<'_>) -> Self {
        match dims {
            Dims::Flat(len) => Shape::from([len]),
            Dims::Shape(shape) => shape.clone(),
        }
    }
}

/// A parameter's memory.
#[derive(Debug)]
#[non_exhaustive]
pub enum ParamRef<'a> {
    /// A slice in row-major order, and its shape if it is not flat.
    Host(SliceMut<'a>, Option<Shape>),
    /// A tensor of the engine.
    Tensor(&'a mut Tensor),
    /// Memory of a device that is lent: see [`LentMut`](fallline_core::LentMut).
    Lent(DeviceSliceMut<'a>),
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
    /// A slice in row-major order, and its shape if it is not flat.
    Host(Slice<'a>, Option<Shape>),
    /// A tensor of the engine.
    Tensor(&'a Tensor),
    /// Memory of a device that is lent: see [`Lent`](fallline_core::Lent).
    Lent(DeviceSlice<'a>),
    /// A view that is not contiguous: copied into a buffer for the step.
    #[cfg(feature = "ndarray")]
    Strided(crate::strided::StridedGrad),
    /// Some rows of it, the others being zero: see [`rows`].
    Rows(RowsGrad<'a>),
    /// A window's, as the driver itself binds it.
    #[doc(hidden)]
    Window(WindowGrad<'a>),
    /// None that a step takes: [`Binding::shaped`] was given a shape that does not fit.
    #[doc(hidden)]
    Misshaped(Box<Misshaped>),
}

/// A shape that a slice of another length was given.
#[derive(Debug)]
pub struct Misshaped {
    what: &'static str,
    elements: usize,
    shape: Shape,
}

/// The gradient of an accumulation window, and the training loop's that is still to begin it or to be added to it.
#[derive(Debug)]
pub struct WindowGrad<'a> {
    pub(crate) sum: &'a mut Tensor,
    pub(crate) new: Option<NewGrad<'a>>,
    /// Whether the new one begins it, and is not added to it.
    pub(crate) is_empty: bool,
}

/// A training loop's gradient, where passes reach it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum NewGrad<'a> {
    Staged(&'a Storage),
    Given(&'a GradRef<'a>),
}

/// A row-sparse gradient: see [`rows`].
#[derive(Debug)]
pub struct RowsGrad<'a> {
    pub(crate) indices: &'a [i64],
    pub(crate) values: Box<GradRef<'a>>,
}

/// Returns a row-sparse gradient (sparse COO over rows), as an embedding has. Of a parameter of shape [n, …] it has
/// the rows `indices`, each from 0 to n − 1. Their values are an array [k, …] (or a flat slice of as many
/// elements). Rows that are not named are zero.
///
/// Duplicate indices are accumulated (coalesced): their values are added up in the compute type, in the order in
/// which they are given. There may be none at all, which is not the same as no gradient: the step counts.
///
/// The algorithm decides what a row-sparse gradient means ([`Algorithm::sparse`](crate::Algorithm::sparse)). Some
/// read and write only the rows that it names, and cost as much. For others it is a gradient with zeros in the other
/// rows. Some refuse it, as their sources do.
///
/// ```
/// use fallline_optim::{param, rows};
/// let mut table = vec![0.0f32; 1000 * 4];
/// let (indices, values) = ([7, 42, 7], [0.5f32; 3 * 4]); // row 7 gets twice 0.5
/// let binding = param("embedding", &mut table, rows(&indices, &values)).shaped(&[1000, 4]);
/// ```
pub fn rows<'a>(indices: &'a [i64], values: impl Into<GradRef<'a>>) -> GradRef<'a> {
    match values.into() {
        GradRef::None => GradRef::None,
        values => GradRef::Rows(RowsGrad { indices, values: Box::new(values) }),
    }
}

/// One parameter of a step.
#[derive(Debug)]
pub struct Binding<'a> {
    pub(crate) name: &'a str,
    pub(crate) param: ParamRef<'a>,
    pub(crate) grad: GradRef<'a>,
    pub(crate) kind: Option<ModuleKind>,
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
    Binding { name, param: param.into(), grad: grad.into(), kind: None }
}

/// Binds a parameter that has no gradient in this step.
pub fn frozen<'a>(name: &'a str, param: impl Into<ParamRef<'a>>) -> Binding<'a> {
    Binding { name, param: param.into(), grad: GradRef::None, kind: None }
}

impl ParamRef<'_> {
    /// Returns whether it is not contiguous.
    pub(crate) fn is_strided(&self) -> bool {
        #[cfg(feature = "ndarray")]
        if let ParamRef::Strided(_) = self {
            return true;
        }
        false
    }

    /// Copies a view that is not contiguous into its buffer.
    pub(crate) fn gather(&mut self) {
        #[cfg(feature = "ndarray")]
        if let ParamRef::Strided(view) = self {
            view.gather();
        }
    }

    /// Copies the buffer of a view that is not contiguous back.
    pub(crate) fn scatter(&mut self) {
        #[cfg(feature = "ndarray")]
        if let ParamRef::Strided(view) = self {
            view.scatter();
        }
    }

    pub(crate) fn format(&self) -> Format {
        match self {
            ParamRef::Host(slice, _) => slice.format(),
            ParamRef::Tensor(tensor) => tensor.format(),
            ParamRef::Lent(lent) => lent.as_ref().format(),
            #[cfg(feature = "ndarray")]
            ParamRef::Strided(view) => view.format(),
        }
    }

    pub(crate) fn dims(&self) -> Dims<'_> {
        match self {
            ParamRef::Host(slice, shape) => Dims::of(slice.len(), shape.as_ref()),
            ParamRef::Tensor(tensor) => Dims::Shape(tensor.shape()),
            ParamRef::Lent(lent) => Dims::Shape(lent.as_ref().shape()),
            #[cfg(feature = "ndarray")]
            ParamRef::Strided(view) => Dims::Shape(view.shape()),
        }
    }

    /// Returns the number of elements.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            ParamRef::Host(slice, _) => slice.len(),
            other => other.dims().elements(),
        }
    }

    /// Returns the device of an engine's tensor; memory of the host goes with every device.
    pub(crate) fn device(&self) -> Option<Device> {
        match self {
            ParamRef::Tensor(tensor) => Some(tensor.backend().device()),
            ParamRef::Lent(lent) => lent.as_ref().device(),
            _ => None,
        }
    }

    /// Returns the same memory for a shorter time.
    pub(crate) fn reborrow(&mut self) -> ParamRef<'_> {
        match self {
            ParamRef::Host(slice, shape) => ParamRef::Host(slice.reborrow(), shape.clone()),
            ParamRef::Tensor(tensor) => ParamRef::Tensor(tensor),
            ParamRef::Lent(lent) => ParamRef::Lent(lent.reborrow()),
            #[cfg(feature = "ndarray")]
            ParamRef::Strided(view) => ParamRef::Strided(view.reborrow()),
        }
    }

    /// Returns the elements, if they are in the host's memory; of a view that is not contiguous its buffer.
    pub(crate) fn host(&mut self) -> Option<SliceMut<'_>> {
        match self {
            ParamRef::Host(slice, _) => Some(slice.reborrow()),
            ParamRef::Tensor(_) | ParamRef::Lent(_) => None,
            #[cfg(feature = "ndarray")]
            ParamRef::Strided(view) => Some(view.buffer()),
        }
    }

    pub(crate) fn view(&mut self) -> View<'_> {
        match self {
            ParamRef::Host(slice, _) => slice.reborrow().into(),
            ParamRef::Tensor(tensor) => View::write(tensor.storage_mut()),
            ParamRef::Lent(lent) => lent.view(),
            #[cfg(feature = "ndarray")]
            ParamRef::Strided(view) => view.buffer().into(),
        }
    }
}

impl GradRef<'_> {
    pub(crate) fn is_none(&self) -> bool {
        matches!(self, GradRef::None)
    }

    pub(crate) fn dims(&self) -> Option<Dims<'_>> {
        Some(match self {
            GradRef::None | GradRef::Misshaped(_) => return None,
            GradRef::Host(slice, shape) => Dims::of(slice.len(), shape.as_ref()),
            GradRef::Tensor(tensor) => Dims::Shape(tensor.shape()),
            GradRef::Lent(lent) => Dims::Shape(lent.shape()),
            #[cfg(feature = "ndarray")]
            GradRef::Strided(view) => Dims::Shape(view.shape()),
            GradRef::Rows(rows) => return rows.values.dims(),
            GradRef::Window(window) => Dims::Shape(window.sum.shape()),
        })
    }

    /// Returns the rows, if it is row-sparse.
    pub(crate) fn as_rows(&self) -> Option<&RowsGrad<'_>> {
        match self {
            GradRef::Rows(rows) => Some(rows),
            _ => None,
        }
    }

    pub(crate) fn device(&self) -> Option<Device> {
        match self {
            GradRef::Tensor(tensor) => Some(tensor.backend().device()),
            GradRef::Lent(lent) => lent.device(),
            GradRef::Rows(rows) => rows.values.device(),
            GradRef::Window(window) => Some(window.sum.backend().device()),
            _ => None,
        }
    }

    /// Returns its elements; of a row-sparse one those that are given.
    pub(crate) fn view(&self) -> Option<View<'_>> {
        match self {
            GradRef::None | GradRef::Misshaped(_) => None,
            GradRef::Host(slice, _) => Some((*slice).into()),
            GradRef::Tensor(tensor) => Some(View::read(tensor.storage())),
            GradRef::Lent(lent) => Some(View::read(lent.storage())),
            #[cfg(feature = "ndarray")]
            GradRef::Strided(view) => Some(view.buffer().into()),
            GradRef::Rows(rows) => rows.values.view(),
            GradRef::Window(window) => Some(View::read(window.sum.storage())),
        }
    }
}

impl<'a> Binding<'a> {
    /// Binds slices as arrays of the given shape, for training loops that keep shapes separately. The values of a
    /// row-sparse gradient need none. Where the shape has another number of elements than a slice, the step fails with
    /// [`Error::Shaped`].
    pub fn shaped(mut self, dims: &[usize]) -> Self {
        let shape = Shape::from(dims);
        let mut misshaped = None;
        let mut fits = |what, elements| {
            let fits = elements == shape.elements();
            if !fits {
                misshaped = Some(Box::new(Misshaped { what, elements, shape: shape.clone() }));
            }
            fits
        };
        if let GradRef::Host(slice, old) = &mut self.grad
            && fits("gradient", slice.len())
        {
            *old = Some(shape.clone());
        }
        if let ParamRef::Host(slice, old) = &mut self.param
            && fits("value", slice.len())
        {
            *old = Some(shape.clone());
        }
        if let Some(misshaped) = misshaped {
            self.grad = GradRef::Misshaped(misshaped);
        }
        self
    }

    /// Refuses what was given a shape that does not fit.
    ///
    /// # Errors
    /// [`Error::Shaped`].
    pub(crate) fn check_shaped(&self) -> Result<()> {
        let GradRef::Misshaped(misshaped) = &self.grad else { return Ok(()) };
        let Misshaped { what, elements, shape } = &**misshaped;
        let (param, shape) = (self.name.to_owned(), shape.clone());
        Err(Error::Shaped { param, what, elements: *elements, shape })
    }

    /// Checks that a parameter is memory that can be copied without its owner.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for memory of a device that is lent.
    pub(crate) fn check_not_lent(&self) -> Result<()> {
        match self.param {
            ParamRef::Lent(_) => Err(lent(self.name)),
            _ => Ok(()),
        }
    }

    /// Says what kind of module the parameter belongs to, for rules like `norm_decay_mult`; otherwise it is guessed
    /// from its name and shape ([`ModuleKind::guess`]). Counts when the parameter is first bound.
    pub fn kind(mut self, kind: ModuleKind) -> Self {
        self.kind = Some(kind);
        self
    }

    /// Returns the parameter's name.
    pub fn name(&self) -> &str {
        self.name
    }
}

/// Says that a parameter cannot be copied.
pub(crate) fn lent(name: &str) -> Error {
    let problem = "is lent memory of a device, which is stepped but not copied: bind a Tensor or a slice";
    Error::Mismatch(format!("parameter {name:?} {problem}"))
}
