//! A tensor of a checkpoint, as bytes.

use crate::{Error, Result};
use fallline_core::host::{Slice, SliceMut};
use fallline_core::{Backend, Element, Format, Shape, Storage, fallible};
use half::{bf16, f16};
use safetensors::tensor::Dtype;

/// A tensor of a checkpoint: format, shape, little-endian bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// How its elements are stored.
    pub format: Format,
    /// Its shape.
    pub shape: Shape,
    /// Its elements, row-major, little-endian.
    pub bytes: Vec<u8>,
}

impl Entry {
    /// Copies a backend's memory.
    ///
    /// # Errors
    /// When the backend cannot read it.
    pub fn from_storage(backend: &dyn Backend, storage: &Storage, shape: Shape) -> Result<Entry> {
        macro_rules! read {
            ($t:ty) => {{
                let mut values = fallible::zeroed::<$t>(storage.len(), COPY)?;
                backend.read(storage, values.as_mut_slice().into())?;
                Entry::from_slice(shape, Slice::from(&values))
            }};
        }
        match storage.format() {
            Format::F64 => read!(f64),
            Format::F32 => read!(f32),
            Format::Bf16 => read!(bf16),
            Format::F16 => read!(f16),
            other => unreachable!("no entry is made of {other}"),
        }
    }

    /// Copies the elements into a backend's memory.
    ///
    /// # Errors
    /// When the lengths differ or the backend cannot write it.
    pub fn copy_to(&self, backend: &dyn Backend, storage: &mut Storage) -> Result<()> {
        match self.format {
            Format::F64 => backend.write(storage, Slice::from(&self.numbers::<f64>()?))?,
            Format::F32 => backend.write(storage, Slice::from(&self.numbers::<f32>()?))?,
            Format::Bf16 => backend.write(storage, Slice::from(&self.numbers::<bf16>()?))?,
            Format::F16 => backend.write(storage, Slice::from(&self.numbers::<f16>()?))?,
            other => unreachable!("no entry is made of {other}"),
        }
        Ok(())
    }

    /// Copies the elements into as many of the host's, rounded once where those are of another format.
    pub(crate) fn copy_to_host(&self, mut to: SliceMut<'_>) -> Result<()> {
        if to.format() == self.format && cfg!(target_endian = "little") {
            to.bytes_mut().copy_from_slice(&self.bytes);
            return Ok(());
        }
        match self.format {
            Format::F64 => to.copy_from(Slice::from(&self.numbers::<f64>()?)),
            Format::F32 => to.copy_from(Slice::from(&self.numbers::<f32>()?)),
            Format::Bf16 => to.copy_from(Slice::from(&self.numbers::<bf16>()?)),
            Format::F16 => to.copy_from(Slice::from(&self.numbers::<f16>()?)),
            other => unreachable!("no entry is made of {other}"),
        }
        Ok(())
    }

    /// Copies the elements into new memory of a backend, where format and shape are these, or another format may be
    /// converted. Says whether it was another.
    pub(crate) fn load(
        &self,
        backend: &dyn Backend,
        key: &str,
        (format, shape): (Format, &Shape),
        converting: bool,
    ) -> Result<(Storage, bool)> {
        self.fits(key, (format, shape), converting)?;
        let mut storage = backend.allocate(&[(format, shape.elements())])?.remove(0);
        self.copy_to(backend, &mut storage)?;
        Ok((storage, self.format != format))
    }

    /// Returns the same into memory that is there.
    pub(crate) fn load_to(
        &self,
        backend: &dyn Backend,
        key: &str,
        shape: &Shape,
        storage: &mut Storage,
        converting: bool,
    ) -> Result<bool> {
        self.fits(key, (storage.format(), shape), converting)?;
        self.copy_to(backend, storage)?;
        Ok(self.format != storage.format())
    }

    fn fits(&self, key: &str, (format, shape): (Format, &Shape), converting: bool) -> Result<()> {
        if self.shape == *shape && (self.format == format || converting) {
            return Ok(());
        }
        let (was, got) = (self.format, &self.shape);
        Err(Error::Mismatch(format!("{key} is {was} of shape {got}, expected {format} of {shape}")))
    }

    /// Copies a slice.
    pub fn new(shape: Shape, values: Slice<'_>) -> Entry {
        let mut bytes = values.bytes().to_vec();
        order_bytes(values.format(), &mut bytes);
        Entry { format: values.format(), shape, bytes }
    }

    /// Copies a slice, as [`new`](Entry::new) does.
    ///
    /// # Errors
    /// When there is no memory for the copy.
    pub fn from_slice(shape: Shape, values: Slice<'_>) -> Result<Entry> {
        let mut bytes = fallible::copied(values.bytes(), COPY)?;
        order_bytes(values.format(), &mut bytes);
        Ok(Entry { format: values.format(), shape, bytes })
    }

    /// Returns a copy.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn try_clone(&self) -> Result<Entry> {
        let bytes = fallible::copied(&self.bytes, COPY)?;
        Ok(Entry { format: self.format, shape: self.shape.clone(), bytes })
    }

    /// Returns its elements, rounded to `T` if they are stored otherwise.
    ///
    /// # Panics
    /// When there is no memory for them.
    pub fn values<T: Element>(&self) -> Vec<T> {
        self.numbers().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns its elements, rounded to `T` if they are stored otherwise.
    ///
    /// # Errors
    /// When there is no memory for them.
    pub(crate) fn numbers<T: Element>(&self) -> Result<Vec<T>> {
        fn read<T: Element, const N: usize>(bytes: &[u8], get: impl Fn([u8; N]) -> f64) -> Result<Vec<T>> {
            let chunks = bytes.chunks_exact(N);
            let numbers = chunks.map(|c| T::from_f64(get(c.try_into().unwrap_or([0; N]))));
            Ok(fallible::collected(numbers, COPY)?)
        }
        match self.format {
            Format::F64 => read(&self.bytes, f64::from_le_bytes),
            Format::F32 => read(&self.bytes, |b| f64::from(f32::from_le_bytes(b))),
            Format::Bf16 => read(&self.bytes, |b| bf16::from_le_bytes(b).to_f64()),
            Format::F16 => read(&self.bytes, |b| f16::from_le_bytes(b).to_f64()),
            other => unreachable!("no entry is read as {other}"),
        }
    }
}

/// A format's name in safetensors.
pub fn dtype(format: Format) -> Dtype {
    match format {
        Format::F64 => Dtype::F64,
        Format::F32 => Dtype::F32,
        Format::Bf16 => Dtype::BF16,
        Format::F16 => Dtype::F16,
        other => unreachable!("{other} is stored as codes"),
    }
}

/// Returns the format of a safetensors type, where there is one.
pub fn format(dtype: Dtype) -> Option<Format> {
    Format::ALL.into_iter().find(|&format| self::dtype(format) == dtype)
}

/// What memory is for in messages.
const COPY: &str = "a tensor of a checkpoint";

/// Puts the bytes of elements into the order of files.
fn order_bytes(format: Format, bytes: &mut [u8]) {
    if cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(format.bytes()).for_each(<[u8]>::reverse);
    }
}
