//! From values that refer to each other to the tree that they represent.

use super::globals::Global;
use super::vm::{Id, Made, Node, owned};
use crate::limits::Limits;
use crate::tensor::Tensor;
use crate::value::{Dict, Key, Value};
use crate::{Error, Result};
use std::collections::HashMap;

struct Builder<'n, 'a> {
    nodes: &'n [Node<'a>],
    /// What is between the root and the value being built.
    open: Vec<Id>,
    left: usize,
    /// Bytes of elements that tensors may still have.
    bytes: usize,
    limits: Limits,
}

/// What tensors may have in addition to what is stored: parameters that share a storage, and views that repeat
/// elements.
const SHARED: usize = 8;
const LEAST: usize = 1 << 24;

/// Builds the tree. A value that is referred to twice is there twice, so the number of values is limited again. So
/// are the elements of tensors: many tensors can share one storage.
pub(super) fn build<'a>(made: &Made<'a>, limits: &Limits) -> Result<Value<'a>> {
    let bytes = made.held.saturating_mul(SHARED).saturating_add(LEAST);
    let mut builder =
        Builder { nodes: &made.nodes, open: Vec::new(), left: limits.values, bytes, limits: *limits };
    builder.value(made.root).map_err(|error| match error {
        Error::Limit { what: BYTES, .. } => Error::Limit { what: BYTES, limit: bytes },
        other => other,
    })
}

const BYTES: &str = "bytes of tensors, far more than it stores";

impl<'a> Builder<'_, 'a> {
    fn value(&mut self, id: Id) -> Result<Value<'a>> {
        let node = &self.nodes[id as usize];
        let cost = match node {
            Node::Tensor(tensor) => {
                let bytes = tensor.elements().saturating_mul(tensor.dtype().bytes());
                let left = self.bytes.checked_sub(bytes);
                self.bytes = left.ok_or(Error::Limit { what: BYTES, limit: 0 })?;
                1 + tensor.shape().len() + owned(tensor)
            }
            _ => 1,
        };
        let left = self.left.checked_sub(cost);
        self.left = left.ok_or(Error::Limit { what: "values", limit: self.limits.values })?;
        // What calls itself is small, as a debug build has all of it on the stack for each level.
        match node {
            Node::List(items) => self.items(id, items).map(Value::List),
            Node::Tuple(items) => self.items(id, items).map(Value::Tuple),
            Node::Dict(entries) | Node::Record(entries) => self.entries(id, entries).map(Value::Dict),
            leaf => Ok(leaf_value(leaf)),
        }
    }

    /// Returns a key that is neither a string nor an integer, for messages.
    fn shown(&self, node: &Node<'a>, depth: usize) -> String {
        const MOST: usize = 4;
        match node {
            Node::None => "None".into(),
            Node::Bool(x) => (if *x { "True" } else { "False" }).into(),
            Node::Int(x) => x.to_string(),
            Node::Float(x) => format!("{x:?}"),
            Node::Str(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
            Node::Opaque(class) => class.to_string(),
            Node::Tuple(items) if depth > 0 && items.len() <= MOST => {
                let items = items.iter().map(|&id| self.shown(&self.nodes[id as usize], depth - 1));
                format!("({})", items.collect::<Vec<_>>().join(", "))
            }
            Node::Tuple(_) => "a tuple".into(),
            _ => "a key".into(),
        }
    }

    fn enter(&mut self, id: Id) -> Result<()> {
        if self.open.contains(&id) {
            return Err(Error::value("the pickle", "a value contains itself"));
        }
        if self.open.len() >= self.limits.depth {
            return Err(Error::Limit { what: "levels", limit: self.limits.depth });
        }
        self.open.push(id);
        Ok(())
    }

    fn items(&mut self, id: Id, items: &[Id]) -> Result<Vec<Value<'a>>> {
        self.enter(id)?;
        let mut built = Vec::new();
        for &item in items {
            built.push(self.value(item)?);
        }
        self.open.pop();
        Ok(built)
    }

    /// Keeps the last value of a duplicate key, in the place of the first, as in Python.
    fn entries(&mut self, id: Id, entries: &[(Id, Id)]) -> Result<Dict<'a>> {
        self.enter(id)?;
        let mut dict: Dict<'a> = Vec::new();
        let mut places: HashMap<Key, usize> = HashMap::new();
        for &(key, value) in entries {
            let value = self.value(value)?;
            put(&mut dict, &mut places, self.key(key), value);
        }
        self.open.pop();
        Ok(dict)
    }

    fn key(&self, key: Id) -> Key {
        match &self.nodes[key as usize] {
            Node::Str(text) => Key::Str(text.clone()),
            Node::Int(x) => Key::Int(*x),
            // In Python True is 1.
            Node::Bool(x) => Key::Int((*x).into()),
            other => Key::Other(self.shown(other, 1).into()),
        }
    }
}

/// Returns a value that holds no others.
fn leaf_value<'a>(node: &Node<'a>) -> Value<'a> {
    match node {
        Node::Bool(x) => Value::Bool(*x),
        Node::Int(x) => Value::Int(*x),
        Node::Float(x) => Value::Float(*x),
        Node::Str(text) => Value::Str(text.clone()),
        Node::Tensor(tensor) => Value::Tensor(Tensor::clone(tensor)),
        Node::Opaque(class) => Value::Opaque(class.clone()),
        Node::Global(Global::Opaque(name)) => Value::Opaque(name.clone()),
        Node::Bytes(_) | Node::Encoded(_) => Value::opaque("bytes"),
        Node::Global(_) => Value::opaque("a class"),
        Node::NumpyDtype(_) => Value::opaque("a numpy type"),
        Node::NumpyArray => Value::opaque("a numpy array"),
        Node::Storage(..) => Value::opaque("a storage"),
        Node::None | Node::List(_) | Node::Tuple(_) | Node::Dict(_) | Node::Record(_) => Value::None,
    }
}

/// Puts an entry into a dict; what is shown of two other keys may be the same, so that they stay two.
fn put<'a>(dict: &mut Dict<'a>, places: &mut HashMap<Key, usize>, key: Key, value: Value<'a>) {
    match places.get(&key) {
        Some(&place) if !matches!(key, Key::Other(_)) => dict[place].1 = value,
        Some(_) => dict.push((key, value)),
        None => {
            places.insert(key.clone(), dict.len());
            dict.push((key, value));
        }
    }
}
