//! How numbers are stored and in which type a rule calculates.

use crate::{codec, private::Sealed};
use core::fmt;
use half::{bf16, f16};

/// Which codes a block format has for its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Codes {
    /// For numbers of either sign.
    Signed,
    /// For numbers that are never negative: twice as fine.
    Unsigned,
}

/// How a tensor's elements are stored. Storage is apart from arithmetic: a rule computes in
/// [`Compute`], whatever its operands are stored as.
///
/// Some store elements one by one. The others are *block formats* (block-wise absmax quantization): a code for each
/// element, and one scale in `f32` for each block of [`block`](Format::block) elements. [`codec::block`] specifies
/// them bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Format {
    /// IEEE 754 double precision, 8 bytes.
    F64,
    /// IEEE 754 single precision, 4 bytes.
    F32,
    /// bfloat16: 8 exponent bits, 7 fraction bits, 2 bytes.
    Bf16,
    /// IEEE 754 half precision: 5 exponent bits, 10 fraction bits, 2 bytes.
    F16,
    /// Blocks of 256 in 8 bits, bitsandbytes' dynamic codes, each the nearest.
    Q8(Codes),
    /// The same codes chosen as bitsandbytes' library for CPUs does: nearest to the closest of 65,536
    /// evenly spaced numbers.
    Q8Grid(Codes),
    /// Blocks of 256 in 8 bits, evenly spaced codes.
    Q8Linear(Codes),
    /// Blocks of 128 in 4 bits, torchao's codes; two neighbours share a byte, the first in its upper half.
    Q4(Codes),
    /// Blocks of 256 in 8 bits, floating point of 4 exponent and 3 fraction bits (E4M3).
    Fp8,
}

impl Format {
    /// Every format that stores elements one by one.
    pub const ALL: [Format; 4] = [Format::F64, Format::F32, Format::Bf16, Format::F16];

    /// Every block format.
    pub const BLOCKS: [Format; 9] = [
        Format::Q8(Codes::Signed),
        Format::Q8(Codes::Unsigned),
        Format::Q8Grid(Codes::Signed),
        Format::Q8Grid(Codes::Unsigned),
        Format::Q8Linear(Codes::Signed),
        Format::Q8Linear(Codes::Unsigned),
        Format::Q4(Codes::Signed),
        Format::Q4(Codes::Unsigned),
        Format::Fp8,
    ];

    /// Returns the bytes of an element, or of a code of a block format; of [`Q4`](Format::Q4) two codes share one.
    pub const fn bytes(self) -> usize {
        match self {
            Format::F64 => 8,
            Format::F32 => 4,
            Format::Bf16 | Format::F16 => 2,
            Format::Q8(_) | Format::Q8Grid(_) | Format::Q8Linear(_) | Format::Q4(_) | Format::Fp8 => 1,
        }
    }

    /// Returns how many elements share a scale, of a block format.
    pub const fn block(self) -> Option<usize> {
        match self {
            Format::F64 | Format::F32 | Format::Bf16 | Format::F16 => None,
            Format::Q4(_) => Some(128),
            Format::Q8(_) | Format::Q8Grid(_) | Format::Q8Linear(_) | Format::Fp8 => Some(256),
        }
    }

    /// Returns the bytes of so many elements, except for the scales of a block format.
    pub const fn size(self, elements: usize) -> usize {
        match self {
            Format::Q4(_) => elements.div_ceil(2),
            // What an address cannot reach cannot be allocated either.
            _ => self.bytes().saturating_mul(elements),
        }
    }

    /// Returns how many scales so many elements have.
    pub const fn scales(self, elements: usize) -> usize {
        match self.block() {
            Some(block) => elements.div_ceil(block),
            None => 0,
        }
    }

    /// Returns the mean bytes of an element, scales included.
    pub fn mean_bytes(self) -> f64 {
        let of = |elements: usize| self.size(elements) + 4 * self.scales(elements);
        of(1024) as f64 / 1024.0
    }

    /// Returns the same format with other codes, where it has any.
    pub const fn with_codes(self, codes: Codes) -> Format {
        match self {
            Format::Q8(_) => Format::Q8(codes),
            Format::Q8Grid(_) => Format::Q8Grid(codes),
            Format::Q8Linear(_) => Format::Q8Linear(codes),
            Format::Q4(_) => Format::Q4(codes),
            other => other,
        }
    }

    /// Returns the name that configurations use, whichever codes it has.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F64 => "f64",
            Format::F32 => "f32",
            Format::Bf16 => "bf16",
            Format::F16 => "f16",
            Format::Q8(_) => "q8",
            Format::Q8Grid(_) => "q8_grid",
            Format::Q8Linear(_) => "q8_linear",
            Format::Q4(_) => "q4",
            Format::Fp8 => "fp8",
        }
    }

    /// Returns the format of a [name](Format::name), with signed codes where it has any.
    pub fn named(name: &str) -> Option<Format> {
        Format::ALL.into_iter().chain(Format::BLOCKS).find(|format| format.name() == name)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match *self == self.with_codes(Codes::Signed) {
            true => Ok(()),
            false => f.write_str(" (unsigned)"),
        }
    }
}

/// The type in which a rule calculates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compute {
    /// Single precision: what training uses.
    F32,
    /// Double precision: for references and small problems.
    F64,
}

impl Compute {
    /// Returns the format that holds a computed value unchanged; states are kept in it unless told otherwise.
    pub const fn format(self) -> Format {
        match self {
            Compute::F32 => Format::F32,
            Compute::F64 => Format::F64,
        }
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.format().fmt(f)
    }
}

/// A Rust type that is the element of a [`Format`].
pub trait Element: bytemuck::Pod + Default + PartialEq + fmt::Debug + Send + Sync + Sealed + 'static {
    /// Its format.
    const FORMAT: Format;
    /// Rounds to nearest, ties to even.
    fn from_f64(x: f64) -> Self;
    /// Returns the value, exactly.
    fn to_f64(self) -> f64;
}

macro_rules! element {
    ($($t:ty, $format:ident, $from:expr, $to:expr;)*) => { $(
        impl Sealed for $t {}
        impl Element for $t {
            const FORMAT: Format = Format::$format;
            fn from_f64(x: f64) -> Self {
                $from(x)
            }
            fn to_f64(self) -> f64 {
                $to(self)
            }
        }
    )* };
}
element! {
    f64, F64, |x| x, |x| x;
    f32, F32, |x| x as f32, f64::from;
    bf16, Bf16, |x| bf16::from_bits(codec::bf16_from_f64(x)), |x: bf16| f64::from(codec::f32_from_bf16(x.to_bits()));
    f16, F16, |x| f16::from_bits(codec::f16_from_f64(x)), |x: f16| f64::from(codec::f32_from_f16(x.to_bits()));
}
