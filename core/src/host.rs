//! Borrowed memory of the host, in any format.

use crate::codec::block::{LONGEST, decode_block, encode_block};
use crate::{Element, Error, Format, Result};
use half::{bf16, f16};

macro_rules! views {
    ($($variant:ident $t:ty),*) => {
        /// A slice that is only read.
        #[derive(Clone, Copy, Debug)]
        #[non_exhaustive]
        pub enum Slice<'a> { $(
            #[doc = concat!("Elements of `", stringify!($t), "`.")]
            $variant(&'a [$t]),
        )* }

        /// A slice that may be written.
        #[derive(Debug)]
        #[non_exhaustive]
        pub enum SliceMut<'a> { $(
            #[doc = concat!("Elements of `", stringify!($t), "`.")]
            $variant(&'a mut [$t]),
        )* }

        impl<'a> Slice<'a> {
            /// Returns how the elements are stored.
            #[inline]
            pub fn format(&self) -> Format {
                match self { $(Slice::$variant(_) => Format::$variant),* }
            }

            /// Returns the number of elements.
            #[inline]
            pub fn len(&self) -> usize {
                match self { $(Slice::$variant(s) => s.len()),* }
            }

            /// Returns the address of the first element.
            #[inline]
            pub fn address(&self) -> *const u8 {
                match self { $(Slice::$variant(s) => s.as_ptr().cast()),* }
            }

            /// Returns the elements as bytes, in the host's byte order.
            pub fn bytes(&self) -> &'a [u8] {
                match self { $(Slice::$variant(s) => bytemuck::cast_slice(s)),* }
            }

            /// Returns element `i`, exactly.
            ///
            /// # Panics
            /// When there is none.
            pub fn get(&self, i: usize) -> f64 {
                match self { $(Slice::$variant(s) => s[i].to_f64()),* }
            }

            /// Returns the slice, if its elements are `T`.
            pub fn as_slice<T: Element>(&self) -> Option<&'a [T]> {
                match self { $(Slice::$variant(s) => bytemuck::try_cast_slice(s).ok().filter(|_| T::FORMAT == Format::$variant)),* }
            }
        }

        impl<'a> SliceMut<'a> {
            /// Returns how the elements are stored.
            #[inline]
            pub fn format(&self) -> Format {
                self.as_ref().format()
            }

            /// Returns the number of elements.
            #[inline]
            pub fn len(&self) -> usize {
                self.as_ref().len()
            }

            /// Returns the address of the first element.
            #[inline]
            pub fn address(&mut self) -> *mut u8 {
                match self { $(SliceMut::$variant(s) => s.as_mut_ptr().cast()),* }
            }

            /// Returns the same slice, to read.
            #[inline]
            pub fn as_ref(&self) -> Slice<'_> {
                match self { $(SliceMut::$variant(s) => Slice::$variant(s)),* }
            }

            /// Returns the same slice for a shorter time.
            #[inline]
            pub fn reborrow(&mut self) -> SliceMut<'_> {
                match self { $(SliceMut::$variant(s) => SliceMut::$variant(s)),* }
            }

            /// Returns the elements as bytes, in the host's byte order.
            pub fn bytes_mut(&mut self) -> &mut [u8] {
                match self { $(SliceMut::$variant(s) => bytemuck::cast_slice_mut(s)),* }
            }

            /// Sets every element to the one nearest to `value`.
            pub fn fill(&mut self, value: f64) {
                match self { $(SliceMut::$variant(s) => s.fill(Element::from_f64(value))),* }
            }

            /// Sets element `i` to the one nearest to `value`.
            ///
            /// # Panics
            /// When there is none.
            pub fn set(&mut self, i: usize, value: f64) {
                match self { $(SliceMut::$variant(s) => s[i] = Element::from_f64(value)),* }
            }

            /// Returns the slice, if its elements are `T`.
            pub fn into_slice<T: Element>(self) -> Option<&'a mut [T]> {
                match self { $(SliceMut::$variant(s) if T::FORMAT == Format::$variant => bytemuck::try_cast_slice_mut(s).ok(),)* _ => None }
            }
        }

        $(
            impl<'a> From<&'a Vec<$t>> for Slice<'a> {
                fn from(vector: &'a Vec<$t>) -> Self {
                    Slice::$variant(vector)
                }
            }
            impl<'a, const N: usize> From<&'a [$t; N]> for Slice<'a> {
                fn from(array: &'a [$t; N]) -> Self {
                    Slice::$variant(array)
                }
            }
            impl<'a> From<&'a [$t]> for Slice<'a> {
                fn from(slice: &'a [$t]) -> Self {
                    Slice::$variant(slice)
                }
            }
            impl<'a> From<&'a mut [$t]> for SliceMut<'a> {
                fn from(slice: &'a mut [$t]) -> Self {
                    SliceMut::$variant(slice)
                }
            }
        )*
    };
}
views!(F64 f64, F32 f32, Bf16 bf16, F16 f16);

impl Slice<'_> {
    /// Returns whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl SliceMut<'_> {
    /// Returns whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `from`, rounding to this slice's format once if it is another.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn copy_from(&mut self, from: Slice<'_>) {
        assert_eq!(self.len(), from.len(), "copy between slices of different lengths");
        if self.format() == from.format() {
            self.bytes_mut().copy_from_slice(from.bytes());
        } else {
            for i in 0..from.len() {
                self.set(i, from.get(i));
            }
        }
    }
}

/// Checks where elements are that a caller names by their address, before memory is made of it.
///
/// # Errors
/// [`Error::Format`] of a block format; [`Error::Unaligned`] where no element of the format can be at the address, or so
/// many cannot follow. No elements can be anywhere.
pub fn check_raw(operation: &'static str, address: usize, len: usize, format: Format) -> Result<()> {
    if format.block().is_some() {
        let expected = "f64, f32, bf16 or f16".to_owned();
        return Err(Error::Format { operation, what: "memory".into(), expected, got: format });
    }
    let fits = len == 0 || address != 0 && address.is_multiple_of(format.bytes());
    let bytes = format.bytes().checked_mul(len).filter(|bytes| *bytes <= isize::MAX as usize);
    match fits && bytes.and_then(|bytes| address.checked_add(bytes)).is_some() {
        true => Ok(()),
        false => Err(Error::Unaligned { operation, address, len, format }),
    }
}

/// Elements of a block format that are only read.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    /// How they are stored.
    pub format: Format,
    /// How many there are.
    pub len: usize,
    /// Their codes, [`Format::size`] bytes.
    pub codes: &'a [u8],
    /// Their blocks' scales, [`Format::scales`] of them.
    pub scales: &'a [f32],
}

/// Elements of a block format that may be written.
#[derive(Debug)]
pub struct BlocksMut<'a> {
    /// How they are stored.
    pub format: Format,
    /// How many there are.
    pub len: usize,
    /// Their codes, [`Format::size`] bytes.
    pub codes: &'a mut [u8],
    /// Their blocks' scales, [`Format::scales`] of them.
    pub scales: &'a mut [f32],
}

impl Blocks<'_> {
    /// Decodes the values, rounded once where they are written to something shorter than `f32`.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn decode(&self, mut values: SliceMut<'_>) {
        assert_eq!(self.len, values.len(), "decoding into another length");
        let block = self.format.block().unwrap_or(LONGEST);
        let codes = self.codes.chunks(self.format.size(block));
        let mut numbers = [0.0; LONGEST];
        for ((start, codes), &scale) in (0..self.len).step_by(block).zip(codes).zip(self.scales) {
            let numbers = &mut numbers[..block.min(self.len - start)];
            decode_block(self.format, codes, scale, numbers);
            match &mut values {
                SliceMut::F32(values) => values[start..start + numbers.len()].copy_from_slice(numbers),
                values => (start..).zip(&*numbers).for_each(|(i, &x)| values.set(i, f64::from(x))),
            }
        }
    }
}

impl BlocksMut<'_> {
    /// Encodes values, which are rounded to `f32` first.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn encode(&mut self, values: Slice<'_>) {
        assert_eq!(self.len, values.len(), "encoding from another length");
        let block = self.format.block().unwrap_or(LONGEST);
        let codes = self.codes.chunks_mut(self.format.size(block));
        let mut numbers = [0.0; LONGEST];
        for ((start, codes), scale) in (0..self.len).step_by(block).zip(codes).zip(&mut *self.scales) {
            let numbers = &mut numbers[..block.min(self.len - start)];
            (start..).zip(&mut *numbers).for_each(|(i, x)| *x = values.get(i) as f32);
            *scale = encode_block(self.format, numbers, codes);
        }
    }
}
