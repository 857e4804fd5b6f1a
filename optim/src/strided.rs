//! `ndarray` arrays and views as parameters and gradients.
//!
//! What is contiguous in row-major order is used in place. Any other view is copied into a buffer for the
//! step (and a parameter back after it): one allocation and two passes over memory more.

use core::fmt;
use fallline_core::host::{Slice, SliceMut};
use fallline_core::{Element, Format, Shape};
use ndarray::ArrayViewMutD;

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

impl<'a> StridedParam<'a> {
    /// Creates a parameter with nothing in its buffer yet.
    pub(crate) fn new<T: Element>(view: ArrayViewMutD<'a, T>) -> StridedParam<'a>
    where
        for<'s> SliceMut<'s>: From<&'s mut [T]>,
        for<'s> Slice<'s>: From<&'s [T]>,
    {
        let shape = Shape::from(view.shape());
        StridedParam { view: Box::new(Buffered { view, buffer: Vec::new() }), shape }
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

    /// Hands a copy of the elements on, in row-major order.
    #[cfg(feature = "checkpoints")]
    pub(crate) fn with_copy<T>(&self, work: impl FnOnce(Slice<'_>) -> T) -> T {
        work(self.view.copied().slice())
    }

    /// Returns the same view for a shorter time.
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
    #[cfg(feature = "checkpoints")]
    fn copied(&self) -> Box<dyn Gathered>;
    fn buffer(&mut self) -> SliceMut<'_>;
    fn gather(&mut self);
    fn scatter(&mut self);
}

impl<S: Scatter + ?Sized> Scatter for &mut S {
    fn format(&self) -> Format {
        (**self).format()
    }
    #[cfg(feature = "checkpoints")]
    fn copied(&self) -> Box<dyn Gathered> {
        (**self).copied()
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
    for<'s> Slice<'s>: From<&'s [T]>,
{
    fn format(&self) -> Format {
        T::FORMAT
    }
    #[cfg(feature = "checkpoints")]
    fn copied(&self) -> Box<dyn Gathered> {
        Box::new(self.view.iter().copied().collect::<Vec<T>>())
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
    /// Creates a gradient in row-major order.
    pub(crate) fn new<T: Element>(values: Vec<T>, shape: Shape) -> StridedGrad
    where
        for<'s> Slice<'s>: From<&'s [T]>,
    {
        StridedGrad { buffer: Box::new(values), shape }
    }

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
