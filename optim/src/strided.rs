//! `ndarray` arrays and views as parameters and gradients.
//!
//! What is contiguous in row-major order is used in place. Any other view is copied into a buffer for the
//! step (and a parameter back after it): one allocation and two passes over memory more.

use crate::binding::{GradRef, ParamRef};
use core::fmt;
use fallline_core::host::{Slice, SliceMut};
use fallline_core::{Element, Format, Shape};
use ndarray::{ArrayBase, ArrayViewMutD, Data, DataMut, Dimension};

/// A parameter that is not contiguous.
pub struct StridedParam<'a> {
    view: Box<dyn Scatter + 'a>,
    shape: Shape,
}

impl fmt::Debug for StridedParam<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StridedParam").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl StridedParam<'_> {
    pub(crate) fn format(&self) -> Format {
        self.view.format()
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    pub(crate) fn buffer(&mut self) -> SliceMut<'_> {
        self.view.buffer()
    }

    /// The same view for a shorter time.
    pub(crate) fn reborrow(&mut self) -> StridedParam<'_> {
        StridedParam { view: Box::new(&mut *self.view), shape: self.shape.clone() }
    }

    /// Copies the view into the buffer, which may be from an earlier step.
    pub(crate) fn gather(&mut self) {
        self.view.gather();
    }

    /// Copies the buffer back.
    pub(crate) fn scatter(&mut self) {
        self.view.scatter();
    }
}

trait Scatter {
    fn format(&self) -> Format;
    fn buffer(&mut self) -> SliceMut<'_>;
    fn gather(&mut self);
    fn scatter(&mut self);
}

impl<S: Scatter + ?Sized> Scatter for &mut S {
    fn format(&self) -> Format {
        (**self).format()
    }
    fn buffer(&mut self) -> SliceMut<'_> {
        (**self).buffer()
    }
    fn gather(&mut self) {
        (**self).gather();
    }
    fn scatter(&mut self) {
        (**self).scatter();
    }
}

struct Buffered<'a, T> {
    view: ArrayViewMutD<'a, T>,
    buffer: Vec<T>,
}

impl<T: Element> Scatter for Buffered<'_, T>
where
    for<'s> SliceMut<'s>: From<&'s mut [T]>,
{
    fn format(&self) -> Format {
        T::FORMAT
    }
    fn buffer(&mut self) -> SliceMut<'_> {
        self.buffer.as_mut_slice().into()
    }
    fn gather(&mut self) {
        self.buffer.clear();
        self.buffer.extend(self.view.iter().copied());
    }
    fn scatter(&mut self) {
        self.view.iter_mut().zip(&self.buffer).for_each(|(to, from)| *to = *from);
    }
}

/// A gradient that was not contiguous, copied when it was bound.
pub struct StridedGrad {
    buffer: Box<dyn Gathered>,
    shape: Shape,
}

impl fmt::Debug for StridedGrad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StridedGrad").field("shape", &self.shape).finish_non_exhaustive()
    }
}

impl StridedGrad {
    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    pub(crate) fn buffer(&self) -> Slice<'_> {
        self.buffer.slice()
    }
}

trait Gathered {
    fn slice(&self) -> Slice<'_>;
}

impl<T: Element> Gathered for Vec<T>
where
    for<'s> Slice<'s>: From<&'s [T]>,
{
    fn slice(&self) -> Slice<'_> {
        self.as_slice().into()
    }
}

impl<'a, T: Element, S: DataMut<Elem = T>, D: Dimension> From<&'a mut ArrayBase<S, D>> for ParamRef<'a>
where
    for<'s> SliceMut<'s>: From<&'s mut [T]>,
{
    fn from(array: &'a mut ArrayBase<S, D>) -> Self {
        let shape = Shape::from(array.shape());
        if array.is_standard_layout() {
            match array.as_slice_mut() {
                Some(slice) => return ParamRef::Host(slice.into(), Some(shape)),
                None => unreachable!("an array in standard layout is a slice"),
            }
        }
        let view = array.view_mut().into_dyn();
        ParamRef::Strided(StridedParam { view: Box::new(Buffered { view, buffer: Vec::new() }), shape })
    }
}

impl<'a, T: Element, S: Data<Elem = T>, D: Dimension> From<&'a ArrayBase<S, D>> for GradRef<'a>
where
    for<'s> Slice<'s>: From<&'s [T]>,
{
    fn from(array: &'a ArrayBase<S, D>) -> Self {
        let shape = Shape::from(array.shape());
        match array.as_slice() {
            Some(slice) => GradRef::Host(slice.into(), Some(shape)),
            None => {
                let buffer: Box<dyn Gathered> = Box::new(array.iter().copied().collect::<Vec<T>>());
                GradRef::Strided(StridedGrad { buffer, shape })
            }
        }
    }
}
