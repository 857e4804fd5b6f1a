//! The tree that a torch file represents: plain data, whatever class it was of.

use crate::tensor::Tensor;
use crate::{Error, Result};
use core::fmt;
use std::sync::Arc;

/// A key of a dict.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// An integer.
    Int(i64),
    /// Text.
    Str(Arc<str>),
}

impl From<&str> for Key {
    fn from(text: &str) -> Key {
        Key::Str(text.into())
    }
}

impl From<i64> for Key {
    fn from(number: i64) -> Key {
        Key::Int(number)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Int(x) => x.fmt(f),
            Key::Str(text) => f.write_str(text),
        }
    }
}

/// A value of Python's, as far as checkpoints need it. Tensors borrow from the file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value<'a> {
    /// Python's `None`.
    None,
    /// A bool.
    Bool(bool),
    /// An integer of up to 64 bits.
    Int(i64),
    /// A number.
    Float(f64),
    /// Text.
    Str(Arc<str>),
    /// A list.
    List(Vec<Value<'a>>),
    /// A tuple.
    Tuple(Vec<Value<'a>>),
    /// A dict, or a class that is one.
    Dict(Dict<'a>),
    /// A tensor.
    Tensor(Tensor<'a>),
    /// Something that is skipped, with its class: it cannot be converted, but may come with what can.
    Opaque(&'static str),
}

/// A dict in the order in which it was filled.
pub type Dict<'a> = Vec<(Key, Value<'a>)>;

impl<'a> Value<'a> {
    /// Text.
    pub fn str(text: &str) -> Value<'a> {
        Value::Str(text.into())
    }

    /// A dict of named values.
    pub fn dict<const N: usize>(entries: [(&str, Value<'a>); N]) -> Value<'a> {
        Value::Dict(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "a bool",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Str(_) => "text",
            Value::List(_) => "a list",
            Value::Tuple(_) => "a tuple",
            Value::Dict(_) => "a dict",
            Value::Tensor(_) => "a tensor",
            Value::Opaque(class) => class,
        }
    }

    /// The value of a key, if this is a dict that has it.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        match self {
            Value::Dict(entries) => entries
                .iter()
                .find(|(known, _)| matches!(known, Key::Str(text) if **text == *key))
                .map(|(_, v)| v),
            _ => None,
        }
    }

    /// The value at the end of a path of keys with dots between them. A key may have dots itself: at each dict the
    /// longest key that fits is taken.
    pub fn at(&self, path: &str) -> Option<&Value<'a>> {
        if path.is_empty() {
            return Some(self);
        }
        let Value::Dict(entries) = self else { return None };
        let fits = |key: &Key| {
            let key = key.to_string();
            let rest = path.strip_prefix(&key)?;
            (rest.is_empty() || rest.starts_with('.')).then_some(key.len())
        };
        let (length, value) = entries
            .iter()
            .filter_map(|(key, value)| Some((fits(key)?, value)))
            .max_by_key(|(length, _)| *length)?;
        value.at(path[length..].trim_start_matches('.'))
    }

    /// The paths of values that are skipped.
    pub fn passed_over(&self) -> Vec<String> {
        fn walk(value: &Value<'_>, way: &str, found: &mut Vec<String>) {
            let below = |key: &dyn fmt::Display| {
                if way.is_empty() { key.to_string() } else { format!("{way}.{key}") }
            };
            match value {
                Value::Opaque(_) => found.push(way.to_owned()),
                Value::Dict(entries) => {
                    entries.iter().for_each(|(key, value)| walk(value, &below(key), found))
                }
                Value::List(items) | Value::Tuple(items) => {
                    items.iter().enumerate().for_each(|(i, item)| walk(item, &below(&i), found));
                }
                _ => {}
            }
        }
        let mut found = Vec::new();
        walk(self, "", &mut found);
        found
    }

    pub(crate) fn as_dict(&self, at: &str) -> Result<&Dict<'a>> {
        match self {
            Value::Dict(entries) => Ok(entries),
            other => Err(Error::value(at, format!("expected a dict, got {}", other.kind()))),
        }
    }

    pub(crate) fn as_items(&self, at: &str) -> Result<&[Value<'a>]> {
        match self {
            Value::List(items) | Value::Tuple(items) => Ok(items),
            other => Err(Error::value(at, format!("expected a list, got {}", other.kind()))),
        }
    }

    /// The number, of a tensor with one element too.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Int(x) => Some(*x as f64),
            Value::Float(x) => Some(*x),
            Value::Tensor(tensor) => tensor.item(),
            _ => None,
        }
    }
}

/// An integer that counts something.
pub(crate) fn count(at: &str, value: Option<&Value<'_>>) -> Result<u64> {
    // Counts above 2^53 are not exact as tensors, and no run is that long.
    const MOST: f64 = 9e15;
    let number = value.and_then(Value::as_f64);
    match number {
        Some(x) if x >= 0.0 && x.fract() == 0.0 && x <= MOST => Ok(x as u64),
        Some(x) => Err(Error::value(at, format!("expected a count, got {x}"))),
        None => Err(Error::value(at, "expected a count, got none")),
    }
}
