//! Memory of the host to send from and receive in.

use crate::Format;
use crate::host::{Slice, SliceMut};
use half::{bf16, f16};

/// Elements of one format on the host. Its memory can be used again for other formats and lengths.
///
/// ```
/// use fallline_core::{Format, ranks::Buffer};
/// let mut buffer = Buffer::default();
/// buffer.resize(Format::F32, 3);
/// buffer.slice_mut().set(2, 1.5);
/// assert_eq!(buffer.slice().as_slice::<f32>(), Some(&[0.0, 0.0, 1.5][..]));
/// ```
#[derive(Debug)]
pub struct Buffer {
    format: Format,
    len: usize,
    /// As many words as the elements need: every format's elements are aligned in them.
    words: Vec<u64>,
}

impl Default for Buffer {
    fn default() -> Self {
        Buffer { format: Format::F32, len: 0, words: Vec::new() }
    }
}

impl Buffer {
    /// Holds `len` elements of `format` from now on: what was there as bytes, then zeros.
    ///
    /// # Panics
    /// When the format is not one of single elements.
    pub fn resize(&mut self, format: Format, len: usize) {
        let bytes = match format {
            Format::F64 => 8,
            Format::F32 => 4,
            Format::Bf16 | Format::F16 => 2,
            #[allow(unreachable_patterns)] // for formats that are stored in blocks
            other => panic!("{other} has no single elements to send"),
        };
        (self.format, self.len) = (format, len);
        self.words.resize((len * bytes).div_ceil(8), 0);
    }

    /// Returns whether elements of this format can be sent.
    pub fn takes(format: Format) -> bool {
        matches!(format, Format::F64 | Format::F32 | Format::Bf16 | Format::F16)
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns how the elements are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the elements.
    pub fn slice(&self) -> Slice<'_> {
        let len = self.len;
        match self.format {
            Format::F64 => Slice::F64(&bytemuck::cast_slice::<u64, f64>(&self.words)[..len]),
            Format::Bf16 => Slice::Bf16(&bytemuck::cast_slice::<u64, bf16>(&self.words)[..len]),
            Format::F16 => Slice::F16(&bytemuck::cast_slice::<u64, f16>(&self.words)[..len]),
            _ => Slice::F32(&bytemuck::cast_slice::<u64, f32>(&self.words)[..len]),
        }
    }

    /// Returns the elements, to write.
    pub fn slice_mut(&mut self) -> SliceMut<'_> {
        let len = self.len;
        match self.format {
            Format::F64 => SliceMut::F64(&mut bytemuck::cast_slice_mut::<u64, f64>(&mut self.words)[..len]),
            Format::Bf16 => {
                SliceMut::Bf16(&mut bytemuck::cast_slice_mut::<u64, bf16>(&mut self.words)[..len])
            }
            Format::F16 => SliceMut::F16(&mut bytemuck::cast_slice_mut::<u64, f16>(&mut self.words)[..len]),
            _ => SliceMut::F32(&mut bytemuck::cast_slice_mut::<u64, f32>(&mut self.words)[..len]),
        }
    }
}
