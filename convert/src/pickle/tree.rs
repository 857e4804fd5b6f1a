//! From values that refer to each other to the tree that they represent.

use super::vm::{Id, Node};
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
    limits: Limits,
}

/// Builds the tree. A value that is referred to twice is there twice, so the number of values is limited again.
pub(super) fn build<'a>(nodes: &[Node<'a>], root: Id, limits: &Limits) -> Result<Value<'a>> {
    let mut builder = Builder { nodes, open: Vec::new(), left: limits.values, limits: *limits };
    builder.value(root)
}

impl<'a> Builder<'_, 'a> {
    fn value(&mut self, id: Id) -> Result<Value<'a>> {
        let node = &self.nodes[id as usize];
        let cost = match node {
            Node::Tensor(tensor) => 1 + tensor.shape().len(),
            _ => 1,
        };
        let left = self.left.checked_sub(cost);
        self.left = left.ok_or(Error::Limit { what: "values", limit: self.limits.values })?;
        Ok(match node {
            Node::None => Value::None,
            Node::Bool(x) => Value::Bool(*x),
            Node::Int(x) => Value::Int(*x),
            Node::Float(x) => Value::Float(*x),
            Node::Str(text) => Value::Str(text.clone()),
            Node::Tensor(tensor) => Value::Tensor(Tensor::clone(tensor)),
            Node::Opaque(class) => Value::Opaque(class),
            Node::Global(_) => Value::Opaque("a class"),
            Node::Storage(..) => Value::Opaque("a storage"),
            Node::List(items) => Value::List(self.items(id, items)?),
            Node::Tuple(items) => Value::Tuple(self.items(id, items)?),
            Node::Dict(entries) => {
                self.enter(id)?;
                let built = self.entries(entries);
                self.open.pop();
                Value::Dict(built?)
            }
        })
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
        let built = items.iter().map(|&item| self.value(item)).collect();
        self.open.pop();
        built
    }

    /// Of a duplicate key the last value is kept, in the place of the first, as in Python.
    fn entries(&mut self, entries: &[(Id, Id)]) -> Result<Dict<'a>> {
        let mut dict: Dict<'a> = Vec::new();
        let mut places: HashMap<Key, usize> = HashMap::new();
        for &(key, value) in entries {
            let key = match &self.nodes[key as usize] {
                Node::Str(text) => Key::Str(text.clone()),
                Node::Int(x) => Key::Int(*x),
                _ => {
                    return Err(Error::value(
                        "the pickle",
                        "a key of a dict is neither a string nor an integer",
                    ));
                }
            };
            let value = self.value(value)?;
            match places.get(&key) {
                Some(&place) => dict[place].1 = value,
                None => {
                    places.insert(key.clone(), dict.len());
                    dict.push((key, value));
                }
            }
        }
        Ok(dict)
    }
}
