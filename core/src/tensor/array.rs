//! Tensors and `ndarray`.

use super::Tensor;
use crate::host::{Slice, SliceMut};
use crate::{Backend, Element, Result, Shape};
use ndarray::{ArrayBase, ArrayD, ArrayViewD, ArrayViewMutD, Data, Dimension};
use std::sync::Arc;

impl Tensor {
    /// Creates a tensor with the elements and the shape of an array, whatever its layout.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn from_array<S, D>(backend: &Arc<dyn Backend>, array: &ArrayBase<S, D>) -> Result<Tensor>
    where
        S: Data<Elem: Element>,
        D: Dimension,
        for<'a> Slice<'a>: From<&'a [S::Elem]>,
    {
        let shape = Shape::from(array.shape());
        match array.as_slice() {
            Some(values) => Tensor::from_slice(backend, values, shape),
            None => Tensor::from_slice(backend, &*array.iter().copied().collect::<Vec<_>>(), shape),
        }
    }

    /// Returns the elements as an array of its shape, rounded to `T` if they are stored otherwise.
    ///
    /// # Errors
    /// When the backend cannot read them.
    pub fn to_array<T: Element>(&self) -> Result<ArrayD<T>>
    where
        for<'a> SliceMut<'a>: From<&'a mut [T]>,
    {
        let values = self.to_vec()?;
        Ok(ArrayD::from_shape_vec(self.shape.dims(), values).expect("a tensor has the elements of its shape"))
    }

    /// Returns the elements as an array, if the host can reach them and they are `T`.
    pub fn view<T: Element>(&self) -> Option<ArrayViewD<'_, T>> {
        ArrayViewD::from_shape(self.shape.dims(), self.as_slice()?).ok()
    }

    /// Returns the elements as a mutable array, if the host can reach them and they are `T`.
    pub fn view_mut<T: Element>(&mut self) -> Option<ArrayViewMutD<'_, T>> {
        let Tensor { storage, shape, .. } = self;
        let values = storage.memory_mut().host_mut()?.into_slice()?;
        ArrayViewMutD::from_shape(shape.dims(), values).ok()
    }
}
