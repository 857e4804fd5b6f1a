//! Memory that a backend owns.

use crate::host::{Blocks, BlocksMut, Slice, SliceMut};
use crate::{Device, Format, private::Sealed};
use core::any::Any;
use core::fmt;

/// A backend's piece of memory, behind a [`Storage`].
pub trait Memory: Any + Send + Sync + fmt::Debug + Sealed {
    /// Returns the address of the first element, which stays: the host's, with exposed provenance, or the device's
    /// own.
    fn address(&self) -> usize;
    /// Returns the address of the first scale, of a block format; 0 of others.
    fn scales(&self) -> usize;
    /// Returns the elements, where the host can reach them and they are stored one by one.
    fn host(&self) -> Option<Slice<'_>>;
    /// Returns the elements to write, where the host can reach them and they are stored one by one.
    fn host_mut(&mut self) -> Option<SliceMut<'_>>;
    /// Returns the codes and scales, where the host can reach them.
    fn blocks(&self) -> Option<Blocks<'_>>;
    /// Returns the codes and scales to write, where the host can reach them.
    fn blocks_mut(&mut self) -> Option<BlocksMut<'_>>;
    /// Returns the device that it is on, where the host cannot reach it.
    fn device(&self) -> Option<Device> {
        None
    }
}

/// Elements of one format in memory that a backend allocated.
#[derive(Debug)]
pub struct Storage {
    format: Format,
    len: usize,
    /// What a pass asks of the memory, kept here since it asks in every step.
    on_host: bool,
    stochastic: bool,
    address: usize,
    scales: usize,
    memory: Box<dyn Memory>,
}

impl Storage {
    /// Wraps a backend's memory of `len` elements. Called by backends.
    pub fn new(format: Format, len: usize, memory: Box<dyn Memory>) -> Storage {
        let on_host = memory.host().is_some() || memory.blocks().is_some();
        let (address, scales) = (memory.address(), memory.scales());
        Storage { format, len, on_host, stochastic: false, address, scales, memory }
    }

    /// Returns it, marked for stochastic rounding of what passes store in it, or for round-to-nearest. A pass rounds so
    /// where its [`View`](crate::backend::View) has a key.
    pub fn rounded_stochastically(self, stochastic: bool) -> Storage {
        Storage { stochastic, ..self }
    }

    /// Returns whether it is marked for stochastic rounding.
    #[inline]
    pub fn rounds_stochastically(&self) -> bool {
        self.stochastic
    }

    /// Returns how the elements are stored.
    #[inline]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the number of elements.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns whether the host can reach it.
    #[inline]
    pub fn on_host(&self) -> bool {
        self.on_host
    }

    /// Returns the device that it is on, where the host cannot reach it.
    pub fn device(&self) -> Option<Device> {
        self.memory.device()
    }

    /// Returns the address of its first element, for the device that it is on.
    #[inline]
    pub fn address(&self) -> usize {
        self.address
    }

    /// Returns the address of the first scale of a block format, for the device that it is on; 0 of other formats.
    #[inline]
    pub fn scales(&self) -> usize {
        self.scales
    }

    /// Returns the bytes of its elements and of their scales.
    pub fn bytes(&self) -> usize {
        self.format.size(self.len) + size_of::<f32>() * self.format.scales(self.len)
    }

    /// Returns the backend's own view of it.
    pub fn memory(&self) -> &dyn Memory {
        &*self.memory
    }

    /// Returns the backend's own view of it, to write.
    pub fn memory_mut(&mut self) -> &mut dyn Memory {
        &mut *self.memory
    }
}
