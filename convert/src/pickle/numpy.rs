//! numpy's element types, scalars and small arrays.

use crate::tensor::{Dtype, Tensor};
use std::borrow::Cow;
use std::sync::Arc;

/// The largest array that is read, in bytes: hyperparameters and the states of random number generators are smaller.
pub(super) const SMALL: usize = 1 << 16;

/// The longest code of a type: an order, a letter and 20 digits.
const LONGEST_CODE: usize = 22;

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct NumpyDtype {
    kind: u8,
    bytes: usize,
    big: bool,
}

/// A number, a bool or a string.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Arc<str>),
}

impl NumpyDtype {
    /// Returns the type of a code as in `f8`, `<i4` or `U3`; none for types of other things than numbers and text.
    pub fn parse(code: &str) -> Option<NumpyDtype> {
        if code.len() > LONGEST_CODE {
            return None;
        }
        let (big, code) = match code.strip_prefix(['<', '|', '=']) {
            Some(rest) => (false, rest),
            None => (code.starts_with('>'), code.strip_prefix('>').unwrap_or(code)),
        };
        let (kind, digits) = code.split_at_checked(1)?;
        let count: usize = digits.parse().ok()?;
        let (kind, bytes) = match (kind.as_bytes()[0], count) {
            (b'?', _) => (b'b', 1),
            (b'b', 1) | (b'i' | b'u', 1 | 2 | 4 | 8) | (b'f', 2 | 4 | 8 | 10 | 12 | 16) => {
                (kind.as_bytes()[0], count)
            }
            (b'U', _) => (b'U', count.checked_mul(4)?),
            _ => return None,
        };
        Some(NumpyDtype { kind, bytes, big })
    }

    /// Returns the same with the byte order of `BUILD`.
    pub fn ordered(self, order: &str) -> NumpyDtype {
        NumpyDtype { big: order == ">", ..self }
    }

    /// Reads an element; none where the bytes do not fit, and for numbers of more than 64 bits.
    pub fn scalar(self, bytes: &[u8]) -> Option<Scalar> {
        if bytes.len() != self.bytes {
            return None;
        }
        let mut little = bytes.to_vec();
        if self.big {
            little
                .chunks_mut(if self.kind == b'U' { 4 } else { self.bytes.max(1) })
                .for_each(<[u8]>::reverse);
        }
        Some(match self.kind {
            b'b' => Scalar::Bool(little[0] != 0),
            b'i' => Scalar::Int(whole(&little, little.last()? & 0x80 != 0)),
            b'u' => Scalar::Int(Some(whole(&little, false)).filter(|&x| x >= 0)?),
            b'f' => Scalar::Float(float(&little)?),
            b'U' => {
                let char = |bytes: &[u8; 4]| char::from_u32(u32::from_le_bytes(*bytes));
                let text: String = little.as_chunks::<4>().0.iter().map(char).collect::<Option<_>>()?;
                Scalar::Str(text.trim_end_matches('\0').into())
            }
            _ => return None,
        })
    }

    /// Returns an array as a tensor of a type that has all of its numbers; none for one that is large, or of other
    /// things.
    pub fn array(self, shape: Vec<usize>, fortran: bool, bytes: &[u8]) -> Option<Tensor<'static>> {
        let count = shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n))?;
        if bytes.len() > SMALL || count.checked_mul(self.bytes)? != bytes.len() {
            return None;
        }
        let dtype = match (self.kind, self.bytes) {
            (b'b', _) => Dtype::Bool,
            (b'i', 1) => Dtype::Int8,
            (b'i', 2) => Dtype::Int16,
            (b'i', 4) | (b'u', 2) => Dtype::Int32,
            (b'i' | b'u', 8) | (b'u', 4) => Dtype::Int64,
            (b'u', _) => Dtype::UInt8,
            (b'f', 2) => Dtype::Float16,
            (b'f', 4) => Dtype::Float32,
            (b'f', _) => Dtype::Float64,
            _ => return None,
        };
        let mut storage = Vec::with_capacity(count * dtype.bytes());
        for element in bytes.chunks_exact(self.bytes) {
            match self.scalar(element)? {
                // The same width: the same bits, those of a NaN too.
                _ if self.kind == b'f' && dtype.bytes() == self.bytes => {
                    let place = storage.len();
                    storage.extend(element);
                    if self.big {
                        storage[place..].reverse();
                    }
                }
                Scalar::Bool(x) => storage.push(x.into()),
                Scalar::Int(x) => storage.extend(&x.to_le_bytes()[..dtype.bytes()]),
                Scalar::Float(x) => storage.extend(x.to_le_bytes()),
                Scalar::Str(_) => return None,
            }
        }
        let mut strides = vec![1usize; shape.len()];
        let order: Vec<usize> =
            if fortran { (0..shape.len()).collect() } else { (0..shape.len()).rev().collect() };
        for pair in order.windows(2) {
            strides[pair[1]] = strides[pair[0]].saturating_mul(shape[pair[0]].max(1));
        }
        let tensor = Tensor { dtype, shape, strides, offset: 0, storage: Cow::Owned(storage) };
        tensor.check().is_ok().then_some(tensor)
    }
}

/// Reads an integer of up to eight bytes in two's complement.
fn whole(little: &[u8], negative: bool) -> i64 {
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..little.len()].copy_from_slice(little);
    i64::from_le_bytes(wide)
}

fn float(little: &[u8]) -> Option<f64> {
    Some(match little.len() {
        2 => fallline_core::f16::from_le_bytes(little.try_into().ok()?).to_f64(),
        4 => f64::from(f32::from_le_bytes(little.try_into().ok()?)),
        8 => f64::from_le_bytes(little.try_into().ok()?),
        // x86's 80 bits, filled up: a fraction of 64 bits with its leading one, and an exponent of 15.
        _ => {
            let fraction = u64::from_le_bytes(little.get(..8)?.try_into().ok()?);
            let top = u16::from_le_bytes(little.get(8..10)?.try_into().ok()?);
            let sign = if top & 0x8000 != 0 { -1.0 } else { 1.0 };
            let exponent = i32::from(top & 0x7fff);
            let magnitude = match exponent {
                0x7fff if fraction << 1 == 0 => f64::INFINITY,
                0x7fff => f64::NAN,
                // Two factors: powers of two that `f64` has, whose product may be below them.
                _ => {
                    let power = (exponent - 16_383 - 63).clamp(-1200, 1100);
                    fraction as f64 * 2f64.powi(power / 2) * 2f64.powi(power - power / 2)
                }
            };
            sign * magnitude
        }
    })
}
