//! Objects that pickles of `torch.save` build: globals, calls of the few that are allowed, storages and tensors.

use super::super::globals::{self, Global};
use super::{Id, Machine, Node};
use crate::Result;
use crate::tensor::Tensor;
use std::borrow::Cow;
use std::sync::Arc;

impl<'a> Machine<'_, '_, 'a> {
    pub(super) fn global(&mut self) -> Result<()> {
        let module = self.line()?.to_owned();
        let name = self.line()?.to_owned();
        let found = globals::find(&module, &name);
        let found = found.ok_or_else(|| self.wrong(format!("GLOBAL {module}.{name} is not read")))?;
        self.push(Node::Global(found))
    }

    /// `REDUCE` and `NEWOBJ`: a class or function and its arguments become what the class means.
    pub(super) fn call(&mut self) -> Result<()> {
        let (arguments, class) = (self.pop()?, self.pop()?);
        let Node::Tuple(arguments) = &self.nodes[arguments as usize] else {
            return Err(self.wrong(format!("{} with arguments that are not a tuple", self.name())));
        };
        let made = match &self.nodes[class as usize] {
            Node::Global(Global::Opaque(class)) | Node::Opaque(class) => Node::Opaque(class),
            Node::Global(Global::Dict) => self.dict_of(arguments.first().copied())?,
            Node::Global(Global::DefaultDict) => self.dict_of(arguments.get(1).copied())?,
            Node::Global(Global::Tuple) => {
                match arguments.first().map(|&items| &self.nodes[items as usize]) {
                    Some(Node::Tuple(items) | Node::List(items)) => Node::Tuple(items.clone()),
                    None => Node::Tuple(Vec::new()),
                    Some(other) => return Err(self.wrong(format!("a torch.Size of {}", other.kind()))),
                }
            }
            Node::Global(Global::Parameter) => {
                match arguments.first().map(|&data| &self.nodes[data as usize]) {
                    Some(Node::Tensor(tensor)) => Node::Tensor(tensor.clone()),
                    _ => return Err(self.wrong("a parameter without a tensor")),
                }
            }
            Node::Global(Global::Tensor) => Node::Tensor(Arc::new(self.tensor(arguments)?)),
            other => return Err(self.wrong(format!("{} of {}", self.name(), other.kind()))),
        };
        self.spend(match &made {
            Node::Dict(entries) => 2 * entries.len(),
            Node::Tuple(items) => items.len(),
            Node::Tensor(tensor) => 2 * tensor.shape.len(),
            _ => 0,
        })?;
        self.push(made)
    }

    /// The dict that a class makes of its argument: none, another dict, or a list of pairs.
    fn dict_of(&self, argument: Option<Id>) -> Result<Node<'a>> {
        let Some(argument) = argument else { return Ok(Node::Dict(Vec::new())) };
        let pair = |&item: &Id| match &self.nodes[item as usize] {
            Node::Tuple(pair) | Node::List(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
            other => Err(self.wrong(format!("a dict of {}", other.kind()))),
        };
        match &self.nodes[argument as usize] {
            Node::Dict(known) => Ok(Node::Dict(known.clone())),
            Node::List(items) | Node::Tuple(items) => {
                Ok(Node::Dict(items.iter().map(pair).collect::<Result<_>>()?))
            }
            other => Err(self.wrong(format!("a dict of {}", other.kind()))),
        }
    }

    /// Attributes of classes that are dicts, and of what is skipped, are skipped.
    pub(super) fn build(&mut self) -> Result<()> {
        self.pop()?;
        let kind = match &self.nodes[self.top()? as usize] {
            Node::Dict(_) | Node::Opaque(_) => return Ok(()),
            other => other.kind(),
        };
        Err(self.wrong(format!("BUILD of {kind}")))
    }

    /// A storage: `("storage", class, key, location, elements)`.
    pub(super) fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let found = match &self.nodes[id as usize] {
            Node::Tuple(items) => {
                match items.iter().take(6).map(|&i| &self.nodes[i as usize]).collect::<Vec<_>>()[..] {
                    [
                        Node::Str(kind),
                        Node::Global(Global::Storage(dtype)),
                        Node::Str(key),
                        Node::Str(_),
                        Node::Int(n),
                    ] if **kind == *"storage" => Some((*dtype, Arc::clone(key), *n)),
                    _ => None,
                }
            }
            _ => None,
        };
        let (dtype, key, elements) =
            found.ok_or_else(|| self.wrong("BINPERSID of something that is not a storage of torch's"))?;
        let bytes = self.storages.find(&key)?;
        let length = usize::try_from(elements).ok().and_then(|n| n.checked_mul(dtype.bytes()));
        match length {
            Some(length) if length == bytes.len() => self.push(Node::Storage(dtype, bytes)),
            _ => Err(self.wrong(format!(
                "storage {key:?} is said to have {elements} elements of {dtype:?}, but has {} bytes",
                bytes.len()
            ))),
        }
    }

    /// `(storage, offset, shape, strides, …)`.
    fn tensor(&self, arguments: &[Id]) -> Result<Tensor<'a>> {
        let nodes: Vec<&Node<'a>> =
            arguments.iter().take(5).map(|&item| &self.nodes[item as usize]).collect();
        let [Node::Storage(dtype, bytes), offset, Node::Tuple(shape), Node::Tuple(strides), ..] = nodes[..]
        else {
            return Err(self.wrong("a tensor of other arguments than storage, offset, shape, strides"));
        };
        if shape.len() != strides.len() || shape.len() > self.limits.rank {
            return Err(self.wrong("a tensor whose shape and strides do not go together"));
        }
        let whole = |node: &Node<'a>| match node {
            Node::Int(x) => {
                usize::try_from(*x).map_err(|_| self.wrong(format!("a tensor with a dimension of {x}")))
            }
            other => Err(self.wrong(format!("a tensor with a dimension that is {}", other.kind()))),
        };
        let all = |ids: &[Id]| {
            ids.iter().map(|&id| whole(&self.nodes[id as usize])).collect::<Result<Vec<usize>>>()
        };
        let (offset, shape, strides) = (whole(offset)?, all(shape)?, all(strides)?);
        let tensor = Tensor { dtype: *dtype, shape, strides, offset, storage: Cow::Borrowed(bytes) };
        tensor.check().map_err(|problem| self.wrong(problem))?;
        Ok(tensor)
    }
}
