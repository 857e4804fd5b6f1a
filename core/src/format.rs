//! How numbers are stored and in which type a rule calculates.

use crate::{codec, private::Sealed};
use core::fmt;
use half::{bf16, f16};

/// How a tensor's elements are stored. Storage is apart from arithmetic: a rule computes in
/// [`Compute`], whatever its operands are stored as.
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
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 4] = [Format::F64, Format::F32, Format::Bf16, Format::F16];

    /// Bytes an element.
    pub const fn bytes(self) -> usize {
        match self {
            Format::F64 => 8,
            Format::F32 => 4,
            Format::Bf16 | Format::F16 => 2,
        }
    }

    /// The name that configurations use: `f64`, `f32`, `bf16`, `f16`.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F64 => "f64",
            Format::F32 => "f32",
            Format::Bf16 => "bf16",
            Format::F16 => "f16",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
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
    /// The format that holds a computed value unchanged; states are kept in it unless told otherwise.
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
    /// Rounds to the nearest element, ties to even.
    fn from_f64(x: f64) -> Self;
    /// The value, exactly.
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
