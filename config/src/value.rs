//! The tree that every notation is read into.

use std::fmt;
use std::sync::Arc;

use indexmap::IndexMap;

/// A position in a configuration: file, line and column, both from 1.
///
/// Inline text has no file. Line and column are 0 where the notation does not tell them (YAML with
/// aliases), or where a value was made by a program.
///
/// ```
/// use fallline_config::Position;
/// let at = Position { file: Some("configs/a.py".into()), line: 3, column: 14 };
/// assert_eq!(at.to_string(), "configs/a.py:3:14");
/// assert_eq!(Position { file: None, line: 1, column: 8 }.to_string(), "line 1, column 8");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Position {
    /// The file's name as it was asked for; none for inline text.
    pub file: Option<Arc<str>>,
    /// The line, from 1; 0 if unknown.
    pub line: u32,
    /// The column in characters, from 1; 0 if unknown.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), 0) => f.write_str(file),
            (Some(file), line) => write!(f, "{file}:{line}:{}", self.column),
            (None, 0) => f.write_str("configuration"),
            (None, line) => write!(f, "line {line}, column {}", self.column),
        }
    }
}

/// A value and its position. Two nodes are equal if their values are, whatever their positions.
#[derive(Debug, Clone)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Its position.
    pub at: Position,
}

impl Node {
    /// Creates a value at a position.
    pub fn new(value: impl Into<Value>, at: Position) -> Self {
        Node { value: value.into(), at }
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Into<Value>> From<T> for Node {
    fn from(value: T) -> Self {
        Node::new(value, Position::default())
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// One value of a configuration.
///
/// `Display` writes a Python literal that [`parse_inline`](super::parse_inline) reads back to an equal value. For
/// equality a NaN equals a NaN, since the question is whether two configurations are the same. The order of a dict's
/// keys does not count, and `1` is not `1.0`.
///
/// ```
/// use fallline_config::{parse_inline, Value};
/// let node = parse_inline("dict(type='SGD', lr=1e-1, betas=(0.9, float('inf')))")?;
/// assert_eq!(node.to_string(), r#"dict(type="SGD", lr=0.1, betas=[0.9, float("inf")])"#);
/// assert_eq!(node.value.type_name(), "dict");
/// assert_eq!(node.value.as_dict().unwrap().get("lr").unwrap().value, Value::Float(0.1));
/// # Ok::<(), fallline_config::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Value {
    /// `None`, `null`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A floating-point number, infinities and NaN included.
    Float(f64),
    /// A string.
    Str(String),
    /// A list or a tuple.
    List(Vec<Node>),
    /// A dict with strings as keys.
    Dict(Dict),
}

impl Value {
    /// Returns the type as Python calls it: `"None"`, `"bool"`, `"int"`, `"float"`, `"str"`, `"list"`, `"dict"`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Str(_) => "str",
            Value::List(_) => "list",
            Value::Dict(_) => "dict",
        }
    }

    /// Returns whether it is `None`.
    pub fn is_none(&self) -> bool {
        matches!(self, Value::None)
    }

    /// Returns the bool, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(v) = self { Some(*v) } else { None }
    }

    /// Returns the integer, if it is one (a bool is not).
    pub fn as_int(&self) -> Option<i64> {
        if let Value::Int(v) = self { Some(*v) } else { None }
    }

    /// Returns the number as a float, if it is an integer or a float (a bool is not).
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Value::Int(v) => Some(*v as f64),
            Value::Float(v) => Some(*v),
            _ => None,
        }
    }

    /// Returns the text, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::Str(v) = self { Some(v) } else { None }
    }

    /// Returns the elements, if it is a list.
    pub fn as_list(&self) -> Option<&[Node]> {
        if let Value::List(v) = self { Some(v) } else { None }
    }

    /// Returns the dict, if it is one.
    pub fn as_dict(&self) -> Option<&Dict> {
        if let Value::Dict(v) = self { Some(v) } else { None }
    }

    /// Returns the value as JSON. What JSON lacks becomes a string: `"inf"`, `"-inf"`, `"nan"`.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::None => serde_json::Value::Null,
            Value::Bool(v) => (*v).into(),
            Value::Int(v) => (*v).into(),
            Value::Float(v) if v.is_finite() => (*v).into(),
            Value::Float(v) if v.is_nan() => "nan".into(),
            Value::Float(v) => if *v > 0.0 { "inf" } else { "-inf" }.into(),
            Value::Str(v) => v.as_str().into(),
            Value::List(v) => v.iter().map(|node| node.value.to_json()).collect(),
            Value::Dict(v) => v.iter().map(|(key, node)| (key, node.value.to_json())).collect(),
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::None, Value::None) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => a == b || (a.is_nan() && b.is_nan()),
            (Value::Str(a), Value::Str(b)) => a == b,
            (Value::List(a), Value::List(b)) => a == b,
            (Value::Dict(a), Value::Dict(b)) => a == b,
            _ => false,
        }
    }
}

macro_rules! from {
    ($($from:ty => $variant:ident)*) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Self {
                Value::$variant(value.into())
            }
        }
    )*};
}
from! { bool => Bool i64 => Int i32 => Int u32 => Int f64 => Float f32 => Float &str => Str String => Str Dict => Dict }

impl<T: Into<Node>> From<Vec<T>> for Value {
    fn from(values: Vec<T>) -> Self {
        Value::List(values.into_iter().map(Into::into).collect())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::None, Into::into)
    }
}

/// A dict: keys in the order they were written, each with its own position.
///
/// ```
/// use fallline_config::Dict;
/// let mut dict = Dict::from_iter([("type", "AdamW"), ("name", "head")]);
/// dict.insert("lr", 1e-4.into());
/// assert_eq!(dict.keys().collect::<Vec<_>>(), ["type", "name", "lr"]);
/// assert_eq!(dict.remove("name").unwrap().value.as_str(), Some("head"));
/// ```
#[derive(Debug, Clone, Default)]
pub struct Dict {
    entries: IndexMap<String, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    key_at: Position,
    node: Node,
}

impl Dict {
    /// Creates an empty dict.
    pub fn new() -> Self {
        Dict::default()
    }

    /// Returns how many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns whether there is such a key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// Returns the value of a key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries.get(key).map(|entry| &entry.node)
    }

    /// Returns the value of a key, to change it.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Node> {
        self.entries.get_mut(key).map(|entry| &mut entry.node)
    }

    /// Returns the position of a key (not of its value).
    pub fn key_at(&self, key: &str) -> Option<&Position> {
        self.entries.get(key).map(|entry| &entry.key_at)
    }

    /// Sets a key, at the end if it is new, and gives back the value it had. The key counts as standing where the
    /// value is.
    pub fn insert(&mut self, key: impl Into<String>, node: Node) -> Option<Node> {
        let key_at = node.at.clone();
        self.insert_at(key, key_at, node)
    }

    /// Inserts as [`insert`](Dict::insert), with the key's position.
    pub fn insert_at(&mut self, key: impl Into<String>, key_at: Position, node: Node) -> Option<Node> {
        self.entries.insert(key.into(), Entry { key_at, node }).map(|old| old.node)
    }

    /// Takes a key out; the order of the others stays.
    pub fn remove(&mut self, key: &str) -> Option<Node> {
        self.entries.shift_remove(key).map(|entry| entry.node)
    }

    /// Returns the keys and values, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Node)> {
        self.entries.iter().map(|(key, entry)| (key.as_str(), &entry.node))
    }

    /// Returns the keys, in order.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Returns the values, in order.
    pub fn values(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.entries.values().map(|entry| &entry.node)
    }
}

/// The same keys with the same values, in whatever order.
impl PartialEq for Dict {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(key, node)| other.get(key) == Some(node))
    }
}

impl<K: Into<String>, N: Into<Node>> FromIterator<(K, N)> for Dict {
    fn from_iter<I: IntoIterator<Item = (K, N)>>(pairs: I) -> Self {
        let mut dict = Dict::new();
        dict.extend(pairs);
        dict
    }
}

impl<K: Into<String>, N: Into<Node>> Extend<(K, N)> for Dict {
    fn extend<I: IntoIterator<Item = (K, N)>>(&mut self, pairs: I) {
        for (key, node) in pairs {
            self.insert(key, node.into());
        }
    }
}

impl IntoIterator for Dict {
    type Item = (String, Node);
    type IntoIter = std::vec::IntoIter<(String, Node)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter().map(|(key, entry)| (key, entry.node)).collect::<Vec<_>>().into_iter()
    }
}
