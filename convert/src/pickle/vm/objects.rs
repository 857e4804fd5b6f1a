//! Objects that pickles of `torch.save` build: globals, calls of the few that are known, storages, tensors and numpy's arrays.

use super::super::globals::{self, Global};
use super::super::numpy::{self, NumpyDtype, Scalar};
use super::text;
use super::{Id, Machine, Node};
use crate::Result;
use crate::tensor::{Dtype, Tensor};
use std::borrow::Cow;
use std::sync::Arc;

/// What a text of protocols below 3 costs for each of its values, beside others of one.
const TEXT: usize = 16;
/// The longest text that is decoded as bytes: each may take two. What is larger is no array that is read.
const MOST_TEXT: usize = 2 * numpy::SMALL;
const TENSOR: &str = "a tensor of ";

impl<'a> Machine<'_, '_, 'a> {
    pub(super) fn global(&mut self) -> Result<()> {
        let mut name = || {
            let line = self.line()?.to_vec();
            String::from_utf8(line)
                .map_err(|_| self.wrong(format!("{}: a name that is not UTF-8", self.name())))
        };
        let (module, name) = (name()?, name()?);
        self.push(Node::Global(globals::find(&module, &name)))
    }

    /// Carries out `STACK_GLOBAL`: the names are on the stack.
    pub(super) fn global_of_stack(&mut self) -> Result<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        let found = match (&self.nodes[module as usize], &self.nodes[name as usize]) {
            (Node::Str(module), Node::Str(name)) => globals::find(module, name),
            _ => return Err(self.wrong("STACK_GLOBAL of what is no name")),
        };
        // The name is copied once more.
        self.spend(TEXT)?;
        self.push(Node::Global(found))
    }

    /// Carries out `OBJ`: a class and its arguments above a mark.
    pub(super) fn object(&mut self) -> Result<()> {
        let mut items = self.popped_to_mark()?;
        if items.is_empty() {
            return Err(self.wrong(format!("{} without a class", self.name())));
        }
        let class = items.remove(0);
        self.push_known(class)?;
        self.push(Node::Tuple(items))?;
        self.call()
    }

    /// Carries out `REDUCE` and `NEWOBJ`: a class or function and its arguments become what the class means.
    pub(super) fn call(&mut self) -> Result<()> {
        let (arguments, class) = (self.pop()?, self.pop()?);
        let decoded = match &self.nodes[class as usize] {
            Node::Global(Global::NumpyScalar | Global::NumpyBuffer) => self.text_in(arguments),
            _ => 0,
        };
        self.spend(decoded / TEXT)?;
        let made = self.made(class, arguments)?;
        self.spend(match &made {
            Node::Dict(entries) => 2 * entries.len(),
            Node::Tuple(items) => items.len(),
            Node::Tensor(tensor) => 2 * tensor.shape.len() + owned(tensor),
            Node::Str(text) => text.len() / TEXT,
            _ => 0,
        })?;
        self.push(made)
    }

    /// Returns how long the texts in a tuple are that may be decoded as bytes, each time that they are needed.
    fn text_in(&self, tuple: Id) -> usize {
        let Node::Tuple(parts) = &self.nodes[tuple as usize] else { return 0 };
        let length = |&id: &Id| match &self.nodes[id as usize] {
            Node::Encoded(text) | Node::Str(text) if text.len() <= MOST_TEXT => text.len(),
            _ => 0,
        };
        parts.iter().take(5).map(length).sum()
    }

    fn made(&self, class: Id, arguments: Id) -> Result<Node<'a>> {
        let Node::Tuple(arguments) = &self.nodes[arguments as usize] else {
            return Err(self.wrong(format!("{} with arguments that are not a tuple", self.name())));
        };
        let argument = |i: usize| arguments.get(i).map(|&id| &self.nodes[id as usize]);
        let global = match &self.nodes[class as usize] {
            Node::Global(global) => global,
            Node::Opaque(class) => return Ok(Node::Opaque(class.clone())),
            other => return Err(self.wrong(format!("{} of {}", self.name(), other.kind()))),
        };
        Ok(match global {
            Global::Opaque(class) => Node::Opaque(class.clone()),
            Global::Object => match argument(0) {
                Some(Node::Global(Global::Record)) => Node::Record(Vec::new()),
                Some(Node::Global(Global::Opaque(class))) => Node::Opaque(class.clone()),
                _ => Node::opaque("an object"),
            },
            Global::Record => Node::Record(Vec::new()),
            Global::Dict => self.dict_of(arguments.first().copied())?,
            Global::DefaultDict => self.dict_of(arguments.get(1).copied())?,
            Global::Tuple => match argument(0) {
                Some(Node::Tuple(items) | Node::List(items)) => Node::Tuple(items.clone()),
                None => Node::Tuple(Vec::new()),
                Some(other) => return Err(self.wrong(format!("a torch.Size of {}", other.kind()))),
            },
            Global::Parameter => match argument(0) {
                Some(Node::Tensor(tensor)) => Node::Tensor(tensor.clone()),
                Some(Node::Opaque(class)) => Node::Opaque(class.clone()),
                _ => return Err(self.wrong("a parameter without a tensor")),
            },
            Global::Tensor => self.tensor(arguments, None)?,
            Global::TypedTensor => self.tensor(arguments, argument(6))?,
            // The function, the class, the function's arguments, attributes.
            Global::TensorSubclass => match (argument(0), argument(2)) {
                (Some(Node::Global(Global::Tensor)), Some(Node::Tuple(own))) => self.tensor(own, None)?,
                (_, _) => match argument(1) {
                    Some(Node::Global(Global::Opaque(class))) => Node::Opaque(class.clone()),
                    _ => Node::opaque("a subclass of torch.Tensor"),
                },
            },
            Global::Storage(_) | Global::UntypedStorage => Node::opaque("a storage"),
            Global::Encode => match argument(0) {
                Some(Node::Str(text)) => Node::Encoded(text.clone()),
                _ => Node::opaque("bytes"),
            },
            Global::Bytes => match argument(0) {
                Some(bytes @ (Node::Bytes(_) | Node::Encoded(_))) => bytes.clone(),
                None => Node::Bytes(Vec::new().into()),
                Some(_) => Node::opaque("bytes"),
            },
            Global::NumpyDtype => match argument(0) {
                Some(Node::Str(code)) => {
                    NumpyDtype::parse(code).map_or_else(|| Node::opaque("a numpy type"), Node::NumpyDtype)
                }
                _ => Node::opaque("a numpy type"),
            },
            Global::NumpyScalar => match (argument(0), argument(1)) {
                (Some(Node::NumpyDtype(dtype)), Some(bytes)) => self.numpy_scalar(*dtype, bytes),
                _ => Node::opaque("a numpy scalar"),
            },
            Global::NumpyArray => Node::NumpyArray,
            // The buffer, the type, the shape, the order.
            Global::NumpyBuffer => match (argument(0), argument(1), argument(2), argument(3)) {
                (Some(bytes), Some(Node::NumpyDtype(dtype)), Some(Node::Tuple(shape)), order) => {
                    let fortran = matches!(order, Some(Node::Str(order)) if **order == *"F");
                    self.numpy_array(*dtype, shape, fortran, bytes)
                }
                _ => Node::opaque("a numpy array"),
            },
        })
    }

    fn numpy_scalar(&self, dtype: NumpyDtype, bytes: &Node<'a>) -> Node<'a> {
        match bytes_of(bytes).and_then(|bytes| dtype.scalar(&bytes)) {
            Some(Scalar::Bool(x)) => Node::Bool(x),
            Some(Scalar::Int(x)) => Node::Int(x),
            Some(Scalar::Float(x)) => Node::Float(x),
            Some(Scalar::Str(text)) => Node::Str(text),
            None => Node::opaque("a numpy scalar"),
        }
    }

    fn numpy_array(&self, dtype: NumpyDtype, shape: &[Id], fortran: bool, bytes: &Node<'a>) -> Node<'a> {
        let extent = |&id: &Id| match self.nodes[id as usize] {
            Node::Int(x) => usize::try_from(x).ok(),
            _ => None,
        };
        let shape = shape.iter().take(self.limits.rank + 1).map(extent).collect::<Option<Vec<_>>>();
        let shape = shape.filter(|shape| shape.len() <= self.limits.rank);
        let tensor = shape.and_then(|shape| dtype.array(shape, fortran, &bytes_of(bytes)?));
        tensor.map_or_else(|| Node::opaque("a numpy array"), |tensor| Node::Tensor(Arc::new(tensor)))
    }

    /// Returns the dict that a class makes of its argument: none, another dict, or a list of pairs.
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

    /// Carries out `BUILD`: attributes. Those of classes that are dicts or tensors, and of what is never built, are
    /// ignored.
    pub(super) fn build(&mut self) -> Result<()> {
        let state = self.pop()?;
        let object = self.top()?;
        if let Node::NumpyArray = &self.nodes[object as usize] {
            self.spend(self.text_in(state) / TEXT)?;
        }
        let with_it = match (&self.nodes[object as usize], &self.nodes[state as usize]) {
            (Node::Dict(_) | Node::Opaque(_) | Node::Tensor(_), _) => return Ok(()),
            (Node::Record(_), Node::Dict(entries)) => Node::Record(entries.clone()),
            (Node::Record(_), _) => return Ok(()),
            (Node::NumpyDtype(dtype), Node::Tuple(parts)) => {
                match parts.get(1).map(|&id| &self.nodes[id as usize]) {
                    Some(Node::Str(order)) => Node::NumpyDtype(dtype.ordered(order)),
                    _ => return Ok(()),
                }
            }
            (Node::NumpyDtype(_), _) => return Ok(()),
            // A version, the shape, the type, whether columns come first, and the bytes.
            (Node::NumpyArray, Node::Tuple(parts)) => {
                let parts: Vec<&Node<'a>> =
                    parts.iter().take(5).map(|&id| &self.nodes[id as usize]).collect();
                match parts[..] {
                    [_, Node::Tuple(shape), Node::NumpyDtype(dtype), Node::Bool(fortran), bytes] => {
                        self.numpy_array(*dtype, shape, *fortran, bytes)
                    }
                    _ => Node::opaque("a numpy array"),
                }
            }
            (other, _) => return Err(self.wrong(format!("BUILD of {}", other.kind()))),
        };
        self.spend(match &with_it {
            Node::Record(entries) => 2 * entries.len(),
            Node::Tensor(tensor) => owned(tensor),
            _ => 0,
        })?;
        self.nodes[object as usize] = with_it;
        Ok(())
    }

    /// Makes a storage of `("storage", class, key, location, elements)`, with a sixth part in the older format. A
    /// model that is saved whole is `("module", model, …)` there.
    pub(super) fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let Node::Tuple(parts) = &self.nodes[id as usize] else {
            return Err(self.wrong("BINPERSID of something that is not a storage of torch's"));
        };
        let parts: Vec<Id> = parts.iter().take(6).copied().collect();
        let nodes: Vec<&Node<'a>> = parts.iter().map(|&id| &self.nodes[id as usize]).collect();
        let (class, key, elements) = match nodes[..] {
            [Node::Str(kind), Node::Global(class), Node::Str(key), Node::Str(_), Node::Int(n), ..]
                if **kind == *"storage" =>
            {
                (class.clone(), Arc::clone(key), *n)
            }
            [Node::Str(kind), _, ..] if **kind == *"module" => return self.push_known(parts[1]),
            _ => return Err(self.wrong("BINPERSID of something that is not a storage of torch's")),
        };
        // A part of another storage: its key, where it begins, and how long it is.
        let view = match nodes.get(5) {
            Some(Node::Tuple(view)) => {
                match view.iter().map(|&id| &self.nodes[id as usize]).collect::<Vec<_>>()[..] {
                    [_, Node::Int(offset), Node::Int(length)] => Some((*offset, *length)),
                    _ => return Err(self.wrong("a storage that is a part of what is none")),
                }
            }
            _ => None,
        };
        self.storage(&class, &key, elements, view)
    }

    /// Does the same as protocol 0 writes it.
    pub(super) fn persistent_line(&mut self) -> Result<()> {
        let line = core::str::from_utf8(self.line()?).ok().and_then(text::storage);
        let line = line.map(|(class, key, elements)| (class.to_owned(), key, elements));
        let (class, key, elements) =
            line.ok_or_else(|| self.wrong("PERSID of something that is not a storage of torch's"))?;
        let (module, name) = class.rsplit_once('.').unwrap_or(("", &class));
        self.storage(&globals::find(module, name), &key, elements, None)
    }

    fn storage(
        &mut self,
        class: &Global,
        key: &Arc<str>,
        elements: i64,
        view: Option<(i64, i64)>,
    ) -> Result<()> {
        if let Some(widths) = &mut self.widths {
            widths.insert(key.clone(), class.width());
            return self.push(Node::opaque("a storage"));
        }
        let dtype = match class {
            Global::Storage(dtype) => Some(*dtype),
            Global::UntypedStorage => None,
            Global::Opaque(class) => {
                let class = class.clone();
                return self.push(Node::Opaque(class));
            }
            _ => return Err(self.wrong("a storage of what is no class of storages")),
        };
        let bytes = match self.held.get(key) {
            Some(bytes) => bytes,
            None => {
                let found = self.storages.find(key)?;
                self.held.insert(key.clone(), found);
                found
            }
        };
        let width = dtype.map_or(1, Dtype::bytes);
        let count = |n: i64| usize::try_from(n).ok().and_then(|n| n.checked_mul(width));
        if count(elements) != Some(bytes.len()) {
            return Err(self.wrong(format!(
                "storage {key:?} is said to have {elements} elements of {width} bytes, but has {} bytes",
                bytes.len()
            )));
        }
        let bytes = match view {
            None => Some(bytes),
            Some((offset, length)) => {
                let part = count(offset).and_then(|from| Some(from..from.checked_add(count(length)?)?));
                part.and_then(|part| bytes.get(part))
            }
        };
        let bytes = bytes.ok_or_else(|| self.wrong(format!("a part that leaves its storage {key:?}")))?;
        self.push(Node::Storage(dtype, bytes))
    }

    /// Makes a tensor of `(storage, offset, sizes, strides, …)`. A tensor of a type that there is no name for here
    /// is never built.
    fn tensor(&self, arguments: &[Id], typed: Option<&Node<'a>>) -> Result<Node<'a>> {
        let nodes: Vec<&Node<'a>> =
            arguments.iter().take(5).map(|&item| &self.nodes[item as usize]).collect();
        let (own, bytes, rest) = match nodes[..] {
            // Never longer than one of them, whatever is called with what it made.
            [Node::Opaque(class), ..] if class.starts_with(TENSOR) => return Ok(Node::Opaque(class.clone())),
            [Node::Opaque(class), ..] => return Ok(Node::opaque(&format!("{TENSOR}{class}"))),
            [Node::Storage(dtype, bytes), ref rest @ ..] => (*dtype, *bytes, rest),
            _ => return Err(self.wrong("a tensor of other arguments than storage, offset, sizes, strides")),
        };
        let [offset, Node::Tuple(shape), Node::Tuple(strides), ..] = rest else {
            return Err(self.wrong("a tensor of other arguments than storage, offset, sizes, strides"));
        };
        let dtype = match (own, typed) {
            (_, Some(Node::Global(Global::Opaque(name)))) => match Dtype::named(name) {
                Some(dtype) => dtype,
                None => return Ok(Node::opaque(&format!("{TENSOR}{name}"))),
            },
            (Some(dtype), _) => dtype,
            _ => return Ok(Node::opaque("a tensor without a type")),
        };
        if shape.len() != strides.len() || shape.len() > self.limits.rank {
            return Err(self.wrong("a tensor whose sizes and strides do not go together"));
        }
        let whole = |node: &Node<'a>| match node {
            Node::Int(x) => {
                usize::try_from(*x).map_err(|_| self.wrong(format!("a tensor with a size of {x}")))
            }
            other => Err(self.wrong(format!("a tensor with a size that is {}", other.kind()))),
        };
        let all = |ids: &[Id]| {
            ids.iter().map(|&id| whole(&self.nodes[id as usize])).collect::<Result<Vec<usize>>>()
        };
        let (offset, shape, strides) = (whole(offset)?, all(shape)?, all(strides)?);
        let tensor = Tensor { dtype, shape, strides, offset, storage: Cow::Borrowed(bytes) };
        tensor.check().map_err(|problem| self.wrong(problem))?;
        Ok(Node::Tensor(Arc::new(tensor)))
    }
}

/// Returns what a tensor with bytes of its own costs.
pub(in super::super) fn owned(tensor: &Tensor<'_>) -> usize {
    match &tensor.storage {
        Cow::Owned(bytes) => bytes.len() / 8,
        Cow::Borrowed(_) => 0,
    }
}

/// Returns the bytes that any protocol writes.
fn bytes_of<'n>(node: &'n Node<'_>) -> Option<Cow<'n, [u8]>> {
    match node {
        Node::Bytes(bytes) => Some(Cow::Borrowed(bytes)),
        Node::Encoded(text) | Node::Str(text) if text.len() <= MOST_TEXT => {
            text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect::<Option<Vec<u8>>>().map(Cow::Owned)
        }
        _ => None,
    }
}
