//! Tensors in a backend's memory.

#[cfg(feature = "ndarray")]
mod array;

use crate::host::{Slice, SliceMut};
use crate::{Backend, Element, Format, Result, Shape, Storage, fallible};
use std::sync::Arc;

/// An array in a backend's memory.
#[derive(Debug)]
pub struct Tensor {
    backend: Arc<dyn Backend>,
    storage: Storage,
    shape: Shape,
}

impl Tensor {
    /// Creates a tensor of zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn zeros(backend: &Arc<dyn Backend>, format: Format, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        let mut storages = backend.allocate(&[(format, shape.elements())])?;
        let storage = storages.remove(0);
        Ok(Tensor { backend: Arc::clone(backend), storage, shape })
    }

    /// Tensors of zeros in one piece of memory, one after another: a step over many small ones then reads them
    /// like one large one.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory), with nothing allocated.
    pub fn side_by_side(
        backend: &Arc<dyn Backend>,
        format: Format,
        shapes: impl IntoIterator<Item = impl Into<Shape>>,
    ) -> Result<Vec<Tensor>> {
        let shapes: Vec<Shape> = shapes.into_iter().map(Into::into).collect();
        let requests: Vec<(Format, usize)> = shapes.iter().map(|shape| (format, shape.elements())).collect();
        let storages = if requests.is_empty() { Vec::new() } else { backend.allocate(&requests)? };
        let tensors = storages.into_iter().zip(shapes);
        Ok(tensors.map(|(storage, shape)| Tensor { backend: Arc::clone(backend), storage, shape }).collect())
    }

    /// Copies to another device.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory); when either device fails.
    pub fn to(&self, backend: &Arc<dyn Backend>) -> Result<Tensor> {
        let mut copy = Tensor::zeros(backend, self.storage.format(), self.shape.clone())?;
        if let Some(values) = self.storage.memory().host() {
            backend.write(&mut copy.storage, values)?;
            return Ok(copy);
        }
        if let Some(values) = copy.storage.memory_mut().host_mut() {
            self.backend.read(&self.storage, values)?;
            return Ok(copy);
        }
        // No number of 53 bits or less is rounded on the way.
        let mut values = fallible::zeroed::<f64>(self.storage.len(), "a copy of a tensor")?;
        self.backend.read(&self.storage, values.as_mut_slice().into())?;
        backend.write(&mut copy.storage, values.as_slice().into())?;
        Ok(copy)
    }

    /// Creates a tensor with the elements of `values`, in row-major order.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) when the shape has another number of elements;
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn from_slice<'v>(
        backend: &Arc<dyn Backend>,
        values: impl Into<Slice<'v>>,
        shape: impl Into<Shape>,
    ) -> Result<Tensor> {
        let (values, shape) = (values.into(), shape.into());
        fits(&shape, values.len(), "a slice")?;
        let mut tensor = Tensor::zeros(backend, values.format(), shape)?;
        backend.write(&mut tensor.storage, values)?;
        Ok(tensor)
    }

    /// Creates a tensor of memory that a backend made of something else. Called by backends.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) when the shape has another number of elements.
    pub fn from_storage(
        backend: &Arc<dyn Backend>,
        storage: Storage,
        shape: impl Into<Shape>,
    ) -> Result<Tensor> {
        let shape = shape.into();
        fits(&shape, storage.len(), "memory")?;
        Ok(Tensor { backend: Arc::clone(backend), storage, shape })
    }

    /// Returns the elements, in row-major order, rounded to `T` if they are stored otherwise.
    ///
    /// # Errors
    /// When the backend cannot read them.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>>
    where
        for<'a> SliceMut<'a>: From<&'a mut [T]>,
    {
        let mut values = fallible::zeroed::<T>(self.storage.len(), "a copy of a tensor")?;
        self.backend.read(&self.storage, values.as_mut_slice().into())?;
        Ok(values)
    }

    /// Takes the elements of `values`, in row-major order, rounded once if they are stored otherwise.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) when there are more or fewer of them; when the backend cannot write.
    pub fn write<'v>(&mut self, values: impl Into<Slice<'v>>) -> Result<()> {
        self.backend.write(&mut self.storage, values.into())
    }

    /// Returns its shape.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Returns how its elements are stored.
    pub fn format(&self) -> Format {
        self.storage.format()
    }

    /// Returns the backend that holds it.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// Returns its memory.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Returns its memory alone.
    pub fn into_storage(self) -> Storage {
        self.storage
    }

    /// Returns its memory, to write.
    pub fn storage_mut(&mut self) -> &mut Storage {
        &mut self.storage
    }

    /// Returns the elements as a slice, if the host can reach them and they are `T`.
    pub fn as_slice<T: Element>(&self) -> Option<&[T]> {
        self.storage.memory().host()?.as_slice()
    }

    /// Returns the elements as a mutable slice, if the host can reach them and they are `T`.
    pub fn as_mut_slice<T: Element>(&mut self) -> Option<&mut [T]> {
        self.storage.memory_mut().host_mut()?.into_slice()
    }
}

/// Checks that memory has as many elements as a shape.
pub(crate) fn fits(shape: &Shape, got: usize, what: &str) -> Result<()> {
    if shape.elements() == got {
        return Ok(());
    }
    let what = format!("{what} for shape {shape}");
    Err(crate::Error::Length { operation: "tensor", what, expected: shape.elements(), got })
}
