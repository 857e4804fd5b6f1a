//! Values of hyperparameters, and the ranges that they must be in.

use core::fmt;

/// The value of a hyperparameter, as a configuration gives it.
///
/// ```
/// use fallline_optim::hyper::Value;
/// assert_eq!(Value::from(1e-3), Value::Float(1e-3));
/// assert_eq!(Value::from((0.9, 0.99)).to_string(), "(0.9, 0.99)");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Python's `None`.
    None,
    /// A bool.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number.
    Float(f64),
    /// Text.
    Text(String),
    /// A list or tuple.
    List(Vec<Value>),
}

/// Conversions of what a [`Value`] holds as it is.
macro_rules! from {
    ($($t:ty => |$x:ident| $value:expr),+ $(,)?) => { $(
        impl From<$t> for Value {
            fn from($x: $t) -> Value {
                $value
            }
        }
    )+ };
}

from! {
    bool => |x| Value::Bool(x),
    i32 => |x| Value::Int(x.into()),
    u32 => |x| Value::Int(x.into()),
    i64 => |x| Value::Int(x),
    f32 => |x| Value::Float(x.into()),
    f64 => |x| Value::Float(x),
    &str => |x| Value::Text(x.into()),
    String => |x| Value::Text(x),
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(x: Option<T>) -> Value {
        x.map_or(Value::None, Into::into)
    }
}

impl<T: Into<Value>> From<Vec<T>> for Value {
    fn from(items: Vec<T>) -> Value {
        Value::List(items.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Value>, const N: usize> From<[T; N]> for Value {
    fn from(items: [T; N]) -> Value {
        Value::List(items.into_iter().map(Into::into).collect())
    }
}

impl<A: Into<Value>, B: Into<Value>> From<(A, B)> for Value {
    fn from((a, b): (A, B)) -> Value {
        Value::List(vec![a.into(), b.into()])
    }
}

impl<A: Into<Value>, B: Into<Value>, C: Into<Value>> From<(A, B, C)> for Value {
    fn from((a, b, c): (A, B, C)) -> Value {
        Value::List(vec![a.into(), b.into(), c.into()])
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("None"),
            Value::Bool(true) => f.write_str("True"),
            Value::Bool(false) => f.write_str("False"),
            Value::Int(x) => write!(f, "{x}"),
            Value::Float(x) if x.is_finite() => write!(f, "{x:?}"),
            Value::Float(x) => write!(f, "float(\"{x}\")"),
            Value::Text(text) => write!(f, "{text:?}"),
            Value::List(items) => {
                f.write_str("(")?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str(if items.len() == 1 { ",)" } else { ")" })
            }
        }
    }
}

/// The numbers that a hyperparameter may be.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Range {
    /// Any number, NaN excepted.
    Any,
    /// `x ≥ low`.
    AtLeast(f64),
    /// `x > low`.
    Above(f64),
    /// `low ≤ x < high`.
    HalfOpen(f64, f64),
    /// `low ≤ x ≤ high`.
    Closed(f64, f64),
}

impl Range {
    /// Returns whether `x` is in the range. NaN is in none, infinity in those that have no upper end.
    pub fn contains(self, x: f64) -> bool {
        match self {
            Range::Any => !x.is_nan(),
            Range::AtLeast(low) => x >= low,
            Range::Above(low) => x > low,
            Range::HalfOpen(low, high) => low <= x && x < high,
            Range::Closed(low, high) => low <= x && x <= high,
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Range::Any => f.write_str("any number"),
            Range::AtLeast(low) => write!(f, "≥ {low}"),
            Range::Above(low) => write!(f, "> {low}"),
            Range::HalfOpen(low, high) => write!(f, "in [{low}, {high})"),
            Range::Closed(low, high) if low == high => write!(f, "{low}"),
            Range::Closed(low, high) => write!(f, "in [{low}, {high}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Value;

    #[test]
    fn what_rust_has_becomes_a_value() {
        let values: [(Value, &str); 11] = [
            (true.into(), "True"),
            (3i32.into(), "3"),
            (4u32.into(), "4"),
            ((-5i64).into(), "-5"),
            (0.5f32.into(), "0.5"),
            (1e-3.into(), "0.001"),
            ("a".into(), "\"a\""),
            (String::from("b").into(), "\"b\""),
            (None::<f64>.into(), "None"),
            ([1.0, 2.0].into(), "(1.0, 2.0)"),
            ((vec![0.9], 1, Some(false)).into(), "((0.9,), 1, False)"),
        ];
        for (value, text) in values {
            assert_eq!(value.to_string(), text);
        }
    }
}
