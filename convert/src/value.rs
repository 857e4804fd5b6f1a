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
    /// Something else, as Python shows it: a tuple, a float, `None`. It is never looked for, and written as text.
    Other(Arc<str>),
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
            Key::Str(text) | Key::Other(text) => f.write_str(text),
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
    /// Something that was never built, with its class: it cannot be converted, but may be next to what can.
    Opaque(Arc<str>),
}

/// A dict in the order in which it was filled.
pub type Dict<'a> = Vec<(Key, Value<'a>)>;

impl<'a> Value<'a> {
    /// Returns a string.
    pub fn str(text: &str) -> Value<'a> {
        Value::Str(text.into())
    }

    /// Returns something that was never built, with its class.
    pub fn opaque(class: &str) -> Value<'a> {
        Value::Opaque(class.into())
    }

    /// Returns a dict of named values.
    pub fn dict<const N: usize>(entries: [(&str, Value<'a>); N]) -> Value<'a> {
        Value::Dict(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    /// Returns what it is, for messages.
    pub fn kind(&self) -> &str {
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

    /// Returns the value of a key, if this is a dict that has it.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        match self {
            Value::Dict(entries) => entries
                .iter()
                .find(|(known, _)| matches!(known, Key::Str(text) if **text == *key))
                .map(|(_, v)| v),
            _ => None,
        }
    }

    /// Returns the value at the end of a path of keys with dots between them; an item of a list is found by its
    /// place: `optimizer_states.0`, or `optimizer_states[0]`. A key may have dots itself: at each dict the longest
    /// key that fits is taken.
    pub fn at(&self, path: &str) -> Option<&Value<'a>> {
        self.at_keys(path).or_else(|| {
            let dotted = path.replace('[', ".").replace(']', "");
            (dotted != path).then(|| self.at_keys(dotted.trim_start_matches('.')))?
        })
    }

    fn at_keys(&self, path: &str) -> Option<&Value<'a>> {
        if path.is_empty() {
            return Some(self);
        }
        let entries = match self {
            Value::Dict(entries) => entries,
            Value::List(items) | Value::Tuple(items) => {
                let (place, rest) = path.split_once('.').unwrap_or((path, ""));
                return items.get(place.parse::<usize>().ok()?)?.at_keys(rest);
            }
            _ => return None,
        };
        let fits = |key: &Key| {
            let key = key.to_string();
            let rest = path.strip_prefix(&key)?;
            (rest.is_empty() || rest.starts_with('.')).then_some(key.len())
        };
        let (length, value) = entries
            .iter()
            .filter_map(|(key, value)| Some((fits(key)?, value)))
            .max_by_key(|(length, _)| *length)?;
        value.at_keys(path[length..].trim_start_matches('.'))
    }

    /// Returns the paths to what was never built, and to keys of dicts that are written as strings.
    pub fn skipped_keys(&self) -> Vec<String> {
        self.opaque_values().into_iter().map(|opaque| opaque.at).collect()
    }

    /// Returns what was never built, and keys of dicts that are neither strings nor integers: the first thousand of
    /// them.
    pub fn opaque_values(&self) -> Vec<Opaque> {
        const MOST: usize = 1000;
        let mut found = Vec::new();
        self.walk(&mut Vec::new(), &mut |parts, value| {
            let class = match value {
                Value::Opaque(class) => &**class,
                _ if matches!(parts.last(), Some(Part::Key(Key::Other(_)))) => "a key that is no text",
                _ => return found.len() < MOST,
            };
            found.push(Opaque { at: way(parts), class: class.to_string() });
            found.len() < MOST
        });
        found
    }

    /// Returns how many tensors are in it.
    pub fn count_tensors(&self) -> usize {
        let mut count = 0;
        self.walk(&mut Vec::new(), &mut |_, value| {
            count += usize::from(matches!(value, Value::Tensor(_)));
            true
        });
        count
    }

    /// Visits this value and all that are in it, in the order of the file; `visit` says whether those in it are visited.
    pub(crate) fn walk<'v>(
        &'v self,
        parts: &mut Vec<Part<'v>>,
        visit: &mut dyn FnMut(&[Part<'v>], &'v Value<'a>) -> bool,
    ) {
        if !visit(parts, self) {
            return;
        }
        match self {
            Value::Dict(entries) => {
                for (key, value) in entries {
                    parts.push(Part::Key(key));
                    value.walk(parts, visit);
                    parts.pop();
                }
            }
            Value::List(items) | Value::Tuple(items) => {
                for (place, item) in items.iter().enumerate() {
                    parts.push(Part::Place(place));
                    item.walk(parts, visit);
                    parts.pop();
                }
            }
            _ => {}
        }
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

    /// Returns the number, of a tensor with one element too.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Int(x) => Some(*x as f64),
            Value::Float(x) => Some(*x),
            Value::Tensor(tensor) => tensor.item(),
            _ => None,
        }
    }
}

/// Something that was never built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opaque {
    /// The path to it.
    pub at: String,
    /// Its class.
    pub class: String,
}

/// A part of a way.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part<'v> {
    /// A key of a dict.
    Key(&'v Key),
    /// A place in a list.
    Place(usize),
}

/// Returns a dotted path. Keys that are long are cut, and nothing is left in them that a terminal would take for
/// a command.
pub(crate) fn way(parts: &[Part<'_>]) -> String {
    const LONGEST: usize = 200;
    let shown = |part: &Part<'_>| match part {
        Part::Place(place) => place.to_string(),
        Part::Key(Key::Int(x)) => x.to_string(),
        Part::Key(Key::Str(text) | Key::Other(text)) => {
            text.chars().take(LONGEST).map(|c| if c.is_control() { '?' } else { c }).collect()
        }
    };
    parts.iter().map(shown).collect::<Vec<_>>().join(".")
}

/// Reads an integer that counts something.
pub(crate) fn count(at: &str, value: Option<&Value<'_>>) -> Result<u64> {
    // Counts above 2^53 are not exact as tensors, and no run is that long.
    const MOST: f64 = 9e15;
    let number = value.and_then(Value::as_f64);
    match number {
        Some(x) if x >= 0.0 && x.fract() == 0.0 && x <= MOST => Ok(x as u64),
        Some(x) => Err(Error::value(at, format!("expected a count, got {x}"))),
        None => {
            let got = value.map_or("none", Value::kind);
            Err(Error::value(at, format!("expected a count, got {got}")))
        }
    }
}
