//! Memory of a device that something else owns, lent for a while.
//!
//! A backend makes a [`LentMut`] or a [`Lent`] of what a program or a framework has on the device, without a copy. It
//! ends the loan when it is dropped, and so tells the lender's stream to wait for what the backend does with it.

use crate::backend::View;
use crate::{Device, Format, Result, Shape, Storage, tensor};
use core::marker::PhantomData;

/// Memory that is lent to be read and written.
#[derive(Debug)]
pub struct LentMut<'m> {
    lent: Lent<'m>,
    borrow: PhantomData<&'m mut [u8]>,
}

/// Memory that is lent to be read.
#[derive(Debug)]
pub struct Lent<'m> {
    storage: Storage,
    shape: Shape,
    borrow: PhantomData<&'m [u8]>,
}

impl<'m> Lent<'m> {
    /// Wraps a backend's view of memory that is borrowed for `'m`. Called by backends.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) when the shape has another number of elements.
    pub fn new(storage: Storage, shape: impl Into<Shape>) -> Result<Lent<'m>> {
        let shape = shape.into();
        tensor::fits(&shape, storage.len(), "memory")?;
        Ok(Lent { storage, shape, borrow: PhantomData })
    }

    /// Returns what a step binds.
    pub fn slice(&self) -> DeviceSlice<'_> {
        let Lent { storage, shape, .. } = self;
        DeviceSlice { storage, shape }
    }
}

impl<'m> LentMut<'m> {
    /// Wraps a backend's view of memory that is borrowed mutably for `'m`. Called by backends.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) when the shape has another number of elements.
    pub fn new(storage: Storage, shape: impl Into<Shape>) -> Result<LentMut<'m>> {
        Ok(LentMut { lent: Lent::new(storage, shape)?, borrow: PhantomData })
    }

    /// Returns what a step binds.
    pub fn slice_mut(&mut self) -> DeviceSliceMut<'_> {
        DeviceSliceMut { slice: self.lent.slice(), borrow: PhantomData }
    }
}

/// Lent memory of a device, to read.
#[derive(Clone, Copy, Debug)]
pub struct DeviceSlice<'a> {
    storage: &'a Storage,
    shape: &'a Shape,
}

/// Lent memory of a device, to read and write. There is one of it at a time.
#[derive(Debug)]
pub struct DeviceSliceMut<'a> {
    slice: DeviceSlice<'a>,
    borrow: PhantomData<&'a mut [u8]>,
}

impl<'a> DeviceSlice<'a> {
    /// Returns its shape.
    pub fn shape(&self) -> &'a Shape {
        self.shape
    }

    /// Returns how its elements are stored.
    pub fn format(&self) -> Format {
        self.storage.format()
    }

    /// Returns the device that it is on.
    pub fn device(&self) -> Option<Device> {
        self.storage.device()
    }

    /// Returns its memory.
    pub fn storage(&self) -> &'a Storage {
        self.storage
    }
}

impl DeviceSliceMut<'_> {
    /// Returns the same memory, to read.
    pub fn as_ref(&self) -> DeviceSlice<'_> {
        self.slice
    }

    /// Returns the same memory for a shorter time.
    pub fn reborrow(&mut self) -> DeviceSliceMut<'_> {
        DeviceSliceMut { slice: self.slice, borrow: PhantomData }
    }

    /// Returns the operand of a pass that writes it.
    pub fn view(&mut self) -> View<'_> {
        View::write_lent(self.slice.storage)
    }
}
