//! Elements without loss: integers of 64 bits have more digits than f64.

use crate::error::Result;
use fallline::convert::Dtype;
use fallline::core::fallible;
use serde_json::Value;

/// An element of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A float, or a code's value.
    Float(f64),
    /// An integer, or a bool.
    Integer(i128),
}

impl Number {
    /// Returns it as a float, rounded where it is a large integer.
    pub fn value(self) -> f64 {
        match self {
            Number::Float(x) => x,
            Number::Integer(x) => x as f64,
        }
    }

    /// Returns whether both are the same: two NaNs are, 0 and -0 are not.
    pub fn is(self, other: Number) -> bool {
        match (self, other) {
            (Number::Float(a), Number::Float(b)) => a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()),
            (Number::Integer(a), Number::Integer(b)) => a == b,
            (Number::Float(x), Number::Integer(i)) | (Number::Integer(i), Number::Float(x)) => {
                x == i as f64 && x as i128 == i
            }
        }
    }

    /// Returns how far apart both are: infinitely, where one is not finite.
    pub fn apart(self, other: Number) -> f64 {
        match (self, other) {
            (Number::Integer(a), Number::Integer(b)) => a.abs_diff(b) as f64,
            _ => {
                let (a, b) = (self.value(), other.value());
                if a.is_finite() && b.is_finite() { (a - b).abs() } else { f64::INFINITY }
            }
        }
    }

    /// Returns it for JSON, which has no NaN and no infinities.
    pub fn json(self) -> Value {
        match self {
            Number::Float(x) => x.into(),
            Number::Integer(x) => match (i64::try_from(x), u64::try_from(x)) {
                (Ok(x), _) => x.into(),
                (_, Ok(x)) => x.into(),
                _ => (x as f64).into(),
            },
        }
    }

    /// Returns it with as many digits as tell it from its neighbours: those of f32, where it is one.
    pub fn text(self) -> String {
        match self {
            Number::Integer(x) => x.to_string(),
            Number::Float(x) if f64::from(x as f32) == x => format!("{:?}", x as f32),
            Number::Float(x) => format!("{x:?}"),
        }
    }
}

/// The elements of a tensor.
#[derive(Debug)]
pub enum Numbers {
    /// Of floats and codes.
    Floats(Vec<f64>),
    /// Of integers and bools.
    Integers(Vec<i128>),
}

impl Numbers {
    /// Returns how many there are.
    pub fn len(&self) -> usize {
        match self {
            Numbers::Floats(all) => all.len(),
            Numbers::Integers(all) => all.len(),
        }
    }

    /// Iterates over them.
    pub fn iter(&self) -> impl Iterator<Item = Number> {
        let (floats, integers): (&[f64], &[i128]) = match self {
            Numbers::Floats(all) => (all, &[]),
            Numbers::Integers(all) => (&[], all),
        };
        let floats = floats.iter().copied().map(Number::Float);
        floats.chain(integers.iter().copied().map(Number::Integer))
    }
}

/// An integer type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Integer {
    bytes: usize,
    signed: bool,
}

impl Integer {
    /// Returns torch's type, if it is one of integers.
    pub fn of_torch(dtype: Dtype) -> Option<Integer> {
        let signed = match dtype {
            Dtype::Int64 | Dtype::Int32 | Dtype::Int16 | Dtype::Int8 => true,
            Dtype::UInt8 | Dtype::Bool => false,
            _ => return None,
        };
        Some(Integer { bytes: dtype.bytes(), signed })
    }

    /// Returns the type of safetensors, if it is one of integers.
    pub fn of_safetensors(dtype: safetensors::Dtype) -> Option<Integer> {
        use safetensors::Dtype as Type;
        let (bytes, signed) = match dtype {
            Type::I64 => (8, true),
            Type::I32 => (4, true),
            Type::I16 => (2, true),
            Type::I8 => (1, true),
            Type::U64 => (8, false),
            Type::U32 => (4, false),
            Type::U16 => (2, false),
            Type::U8 | Type::BOOL => (1, false),
            _ => return None,
        };
        Some(Integer { bytes, signed })
    }

    /// Reads little-endian integers of a tensor.
    pub fn read(self, bytes: &[u8], name: &str) -> Result<Vec<i128>> {
        let read = |bytes: &[u8]| {
            let negative = self.signed && bytes.last().is_some_and(|last| *last >= 0x80);
            let mut wide = if negative { [0xff; 16] } else { [0; 16] };
            wide[..bytes.len()].copy_from_slice(bytes);
            i128::from_le_bytes(wide)
        };
        Ok(fallible::collected(bytes.chunks_exact(self.bytes).map(read), name)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_keep_every_digit() {
        let signed = Integer { bytes: 8, signed: true };
        let all = [i64::MIN, -1, 9_007_199_254_740_993, i64::MAX];
        let bytes: Vec<u8> = all.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(signed.read(&bytes, "").unwrap(), all.map(i128::from));
        let unsigned = Integer { bytes: 8, signed: false };
        assert_eq!(unsigned.read(&u64::MAX.to_le_bytes(), "").unwrap(), [i128::from(u64::MAX)]);
        let (a, b) = (Number::Integer(9_007_199_254_740_993), Number::Integer(9_007_199_254_740_992));
        assert!(!a.is(b) && a.apart(b) == 1.0 && b.is(Number::Float(9_007_199_254_740_992.0)));
        assert!(!a.is(Number::Float(9_007_199_254_740_992.0)));
        assert_eq!(a.text(), "9007199254740993");
        assert_eq!(Number::Integer(u64::MAX.into()).json(), serde_json::json!(u64::MAX));
    }
}
