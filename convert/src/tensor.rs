//! Tensors as torch stores them: a view of a piece of the file.

use crate::{Error, Result};
use fallline_core::{Format, fallible};
use std::borrow::Cow;

/// An element type of torch's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "they are torch's names")]
pub enum Dtype {
    Float64,
    Float32,
    Float16,
    BFloat16,
    Int64,
    Int32,
    Int16,
    Int8,
    UInt8,
    Bool,
}

impl Dtype {
    /// Every type.
    pub const ALL: [Dtype; 10] = [
        Dtype::Float64,
        Dtype::Float32,
        Dtype::Float16,
        Dtype::BFloat16,
        Dtype::Int64,
        Dtype::Int32,
        Dtype::Int16,
        Dtype::Int8,
        Dtype::UInt8,
        Dtype::Bool,
    ];

    /// Returns the bytes of an element.
    pub const fn bytes(self) -> usize {
        match self {
            Dtype::Float64 | Dtype::Int64 => 8,
            Dtype::Float32 | Dtype::Int32 => 4,
            Dtype::Float16 | Dtype::BFloat16 | Dtype::Int16 => 2,
            Dtype::Int8 | Dtype::UInt8 | Dtype::Bool => 1,
        }
    }

    /// Returns the class of its storages, in the module `torch`.
    pub const fn storage(self) -> &'static str {
        match self {
            Dtype::Float64 => "DoubleStorage",
            Dtype::Float32 => "FloatStorage",
            Dtype::Float16 => "HalfStorage",
            Dtype::BFloat16 => "BFloat16Storage",
            Dtype::Int64 => "LongStorage",
            Dtype::Int32 => "IntStorage",
            Dtype::Int16 => "ShortStorage",
            Dtype::Int8 => "CharStorage",
            Dtype::UInt8 => "ByteStorage",
            Dtype::Bool => "BoolStorage",
        }
    }

    /// Returns the type of one of torch's names, as in `torch.float32`.
    pub(crate) fn named(name: &str) -> Option<Dtype> {
        Some(match name.strip_prefix("torch.")? {
            "float64" => Dtype::Float64,
            "float32" => Dtype::Float32,
            "float16" => Dtype::Float16,
            "bfloat16" => Dtype::BFloat16,
            "int64" => Dtype::Int64,
            "int32" => Dtype::Int32,
            "int16" => Dtype::Int16,
            "int8" => Dtype::Int8,
            "uint8" => Dtype::UInt8,
            "bool" => Dtype::Bool,
            _ => return None,
        })
    }

    /// Returns the format of the engine with these elements, if it has one.
    pub fn format(self) -> Option<Format> {
        match self {
            Dtype::Float64 => Some(Format::F64),
            Dtype::Float32 => Some(Format::F32),
            Dtype::Float16 => Some(Format::F16),
            Dtype::BFloat16 => Some(Format::Bf16),
            _ => None,
        }
    }

    /// Returns the type with the elements of a format; none for formats that are codes.
    pub fn of(format: Format) -> Option<Dtype> {
        Dtype::ALL.into_iter().find(|dtype| dtype.format() == Some(format))
    }
}

/// A tensor: a view of a storage. Strides and the offset count elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<'a> {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) strides: Vec<usize>,
    pub(crate) offset: usize,
    pub(crate) storage: Cow<'a, [u8]>,
}

impl<'a> Tensor<'a> {
    /// Creates a tensor of little-endian elements in row-major order.
    ///
    /// # Errors
    /// When the extents do not fit the bytes.
    pub fn new(
        dtype: Dtype,
        shape: Vec<usize>,
        bytes: impl Into<Cow<'a, [u8]>>,
    ) -> Result<Tensor<'a>, String> {
        let mut strides = vec![1; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = shape[i].max(1).saturating_mul(strides[i]);
        }
        let tensor = Tensor { dtype, shape, strides, offset: 0, storage: bytes.into() };
        tensor.check()?;
        match tensor.elements().checked_mul(dtype.bytes()) {
            Some(length) if length == tensor.storage.len() => Ok(tensor),
            _ => Err(format!("shape {:?} does not fit {} bytes", tensor.shape, tensor.storage.len())),
        }
    }

    /// Checks that the view stays within its storage. It may repeat elements, so that it is larger; whoever writes its
    /// elements down has to see to that.
    pub(crate) fn check(&self) -> Result<(), String> {
        let held = self.storage.len() / self.dtype.bytes();
        let outside = || format!("a view of shape {:?} leaves its storage of {held} elements", self.shape);
        if self.shape.contains(&0) {
            return if self.offset <= held { Ok(()) } else { Err(outside()) };
        }
        let mut last = self.offset;
        let mut elements = 1usize;
        for (&extent, &stride) in self.shape.iter().zip(&self.strides) {
            let way = (extent - 1).checked_mul(stride).and_then(|way| last.checked_add(way));
            last = way.ok_or_else(outside)?;
            elements = elements.checked_mul(extent).ok_or_else(outside)?;
        }
        if last >= held {
            return Err(outside());
        }
        Ok(())
    }

    /// Returns the element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Returns the shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Returns the number of elements.
    pub fn elements(&self) -> usize {
        if self.shape.contains(&0) { 0 } else { self.shape.iter().product() }
    }

    /// Returns the elements in row-major order, little-endian.
    ///
    /// # Panics
    /// When there is no memory for elements that are not contiguous: see [`to_bytes`](Tensor::to_bytes).
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        self.laid_out().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns a copy of the elements in row-major order, little-endian.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        match self.laid_out()? {
            Cow::Owned(bytes) => Ok(bytes),
            Cow::Borrowed(bytes) => Ok(fallible::copied(bytes, COPY)?),
        }
    }

    /// Returns the elements in row-major order, little-endian: a copy where they are not contiguous.
    pub(crate) fn laid_out(&self) -> Result<Cow<'_, [u8]>> {
        let width = self.dtype.bytes();
        let elements = self.elements();
        if elements == 0 {
            return Ok(Cow::Borrowed(&[]));
        }
        let start = self.offset * width;
        if self.is_contiguous() {
            return Ok(Cow::Borrowed(&self.storage[start..start + elements * width]));
        }
        let mut bytes = fallible::with_room(elements.saturating_mul(width), COPY)?;
        let mut index = vec![0usize; self.shape.len()];
        let mut place = self.offset;
        'all: loop {
            bytes.extend_from_slice(&self.storage[place * width..][..width]);
            // The next index, as an odometer counts.
            for i in (0..index.len()).rev() {
                index[i] += 1;
                // The stride of a dimension of 1 may be anything.
                place = place.wrapping_add(self.strides[i]);
                if index[i] < self.shape[i] {
                    continue 'all;
                }
                place = place.wrapping_sub(self.strides[i].wrapping_mul(self.shape[i]));
                index[i] = 0;
            }
            return Ok(Cow::Owned(bytes));
        }
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&extent, &stride)| {
            let fits = extent == 1 || stride == expected;
            expected *= extent;
            fits
        })
    }

    /// Returns the elements as numbers, exactly.
    ///
    /// # Panics
    /// When there is no memory for them: see [`to_numbers`](Tensor::to_numbers).
    pub fn numbers(&self) -> Vec<f64> {
        self.to_numbers().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns the elements as numbers, exactly.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn to_numbers(&self) -> Result<Vec<f64>> {
        let bytes = self.laid_out()?;
        let numbers = bytes.chunks_exact(self.dtype.bytes()).map(|bytes| number(self.dtype, bytes));
        Ok(fallible::collected(numbers, COPY)?)
    }

    /// Returns the number, of a tensor with one element.
    pub fn item(&self) -> Option<f64> {
        let width = self.dtype.bytes();
        (self.elements() == 1).then(|| number(self.dtype, &self.storage[self.offset * width..][..width]))
    }

    pub(crate) fn float(&self, at: &str) -> Result<Format> {
        self.dtype
            .format()
            .ok_or_else(|| Error::value(at, format!("a tensor of {:?}, expected floats", self.dtype)))
    }
}

/// What memory is for in messages.
const COPY: &str = "a copy of a tensor";

fn number(dtype: Dtype, bytes: &[u8]) -> f64 {
    fn take<const N: usize>(bytes: &[u8]) -> [u8; N] {
        bytes.try_into().unwrap_or([0; N])
    }
    match dtype {
        Dtype::Float64 => f64::from_le_bytes(take(bytes)),
        Dtype::Float32 => f64::from(f32::from_le_bytes(take(bytes))),
        Dtype::Float16 => fallline_core::f16::from_le_bytes(take(bytes)).to_f64(),
        Dtype::BFloat16 => fallline_core::bf16::from_le_bytes(take(bytes)).to_f64(),
        Dtype::Int64 => i64::from_le_bytes(take(bytes)) as f64,
        Dtype::Int32 => f64::from(i32::from_le_bytes(take(bytes))),
        Dtype::Int16 => f64::from(i16::from_le_bytes(take(bytes))),
        Dtype::Int8 => f64::from(i8::from_le_bytes(take(bytes))),
        Dtype::UInt8 | Dtype::Bool => f64::from(bytes[0]),
    }
}
