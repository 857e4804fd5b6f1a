//! Rust types that hyperparameters may have.

use super::value::Value;
use core::iter;

/// A Rust type that a hyperparameter may have.
pub trait HyperType: Sized + Clone {
    /// Its human-readable name.
    const NAME: &'static str;
    /// Converts a configuration's value, or returns `None` where that is of another type.
    fn from_value(value: &Value) -> Option<Self>;
    /// As a configuration writes it.
    fn to_value(&self) -> Value;
    /// Returns the numbers in it, for a range to check.
    fn numbers(&self) -> impl Iterator<Item = f64> {
        iter::empty()
    }
}

impl HyperType for f64 {
    const NAME: &'static str = "float";
    fn from_value(value: &Value) -> Option<f64> {
        match value {
            Value::Float(x) => Some(*x),
            // Exact up to 2^53; no hyperparameter is larger.
            Value::Int(x) => Some(*x as f64),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::Float(*self)
    }
    fn numbers(&self) -> impl Iterator<Item = f64> {
        iter::once(*self)
    }
}

impl HyperType for bool {
    const NAME: &'static str = "bool";
    fn from_value(value: &Value) -> Option<bool> {
        match value {
            Value::Bool(x) => Some(*x),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::Bool(*self)
    }
}

impl HyperType for i64 {
    const NAME: &'static str = "int";
    fn from_value(value: &Value) -> Option<i64> {
        match value {
            Value::Int(x) => Some(*x),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::Int(*self)
    }
    fn numbers(&self) -> impl Iterator<Item = f64> {
        iter::once(*self as f64)
    }
}

/// Python's `None` and nothing else.
impl HyperType for () {
    const NAME: &'static str = "None";
    fn from_value(value: &Value) -> Option<()> {
        (*value == Value::None).then_some(())
    }
    fn to_value(&self) -> Value {
        Value::None
    }
}

impl HyperType for Option<bool> {
    const NAME: &'static str = "bool or None";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::None => Some(None),
            Value::Bool(x) => Some(Some(*x)),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        self.map_or(Value::None, Value::Bool)
    }
}

impl HyperType for (f64, f64) {
    const NAME: &'static str = "pair of floats";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::List(items) => match &items[..] {
                [a, b] => Some((f64::from_value(a)?, f64::from_value(b)?)),
                _ => None,
            },
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::List(vec![Value::Float(self.0), Value::Float(self.1)])
    }
    fn numbers(&self) -> impl Iterator<Item = f64> {
        [self.0, self.1].into_iter()
    }
}

impl HyperType for (f64, f64, f64) {
    const NAME: &'static str = "triple of floats";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::List(items) => match &items[..] {
                [a, b, c] => Some((f64::from_value(a)?, f64::from_value(b)?, f64::from_value(c)?)),
                _ => None,
            },
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::List([self.0, self.1, self.2].map(Value::Float).to_vec())
    }
    fn numbers(&self) -> impl Iterator<Item = f64> {
        [self.0, self.1, self.2].into_iter()
    }
}

impl HyperType for Option<f64> {
    const NAME: &'static str = "float or None";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::None => Some(None),
            _ => f64::from_value(value).map(Some),
        }
    }
    fn to_value(&self) -> Value {
        self.map_or(Value::None, Value::Float)
    }
    fn numbers(&self) -> impl Iterator<Item = f64> {
        self.iter().copied()
    }
}

impl HyperType for (Option<f64>, f64) {
    const NAME: &'static str = "pair of a float or None and a float";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::List(items) => match &items[..] {
                [a, b] => Some((Option::from_value(a)?, f64::from_value(b)?)),
                _ => None,
            },
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::List(vec![self.0.to_value(), Value::Float(self.1)])
    }
    fn numbers(&self) -> impl Iterator<Item = f64> {
        self.0.into_iter().chain([self.1])
    }
}

impl HyperType for u64 {
    const NAME: &'static str = "non-negative int";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Int(x) => u64::try_from(*x).ok(),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::Int(i64::try_from(*self).unwrap_or(i64::MAX))
    }
    fn numbers(&self) -> impl Iterator<Item = f64> {
        iter::once(*self as f64)
    }
}

impl HyperType for Option<u64> {
    const NAME: &'static str = "non-negative int or None";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::None => Some(None),
            _ => u64::from_value(value).map(Some),
        }
    }
    fn to_value(&self) -> Value {
        self.map_or(Value::None, |x| x.to_value())
    }
    fn numbers(&self) -> impl Iterator<Item = f64> {
        self.iter().map(|&x| x as f64)
    }
}

impl HyperType for Option<i64> {
    const NAME: &'static str = "int or None";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::None => Some(None),
            _ => i64::from_value(value).map(Some),
        }
    }
    fn to_value(&self) -> Value {
        self.map_or(Value::None, Value::Int)
    }
    fn numbers(&self) -> impl Iterator<Item = f64> {
        self.iter().map(|&x| x as f64)
    }
}

impl HyperType for String {
    const NAME: &'static str = "string";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::Text(self.clone())
    }
}

impl HyperType for Option<String> {
    const NAME: &'static str = "string or None";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::None => Some(None),
            Value::Text(text) => Some(Some(text.clone())),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        self.clone().map_or(Value::None, Value::Text)
    }
}

impl HyperType for Vec<String> {
    const NAME: &'static str = "list of strings";
    fn from_value(value: &Value) -> Option<Self> {
        let text = |item: &Value| match item {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        };
        match value {
            Value::List(items) => items.iter().map(text).collect(),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::List(self.iter().cloned().map(Value::Text).collect())
    }
}

impl Value {
    /// Returns the number, if it is one.
    ///
    /// ```
    /// use fallline_optim::hyper::Value;
    /// assert_eq!(Value::Int(2).as_f64(), Some(2.0));
    /// assert_eq!(Value::None.as_f64(), None);
    /// ```
    pub fn as_f64(&self) -> Option<f64> {
        f64::from_value(self)
    }
}
