//! Values of hyperparameters, and the ranges that they must be in.

use core::fmt;

/// The value of a hyperparameter, as a configuration gives it.
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
