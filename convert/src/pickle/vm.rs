//! The virtual machine: a stack of values, a memo, and the opcodes that `torch.save` uses.

mod objects;

use super::globals::Global;
use super::opcodes;
use super::storages::Storages;
use crate::limits::Limits;
use crate::tensor::{Dtype, Tensor};
use crate::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// The place of a value.
pub(super) type Id = u32;

/// A value as the machine has it; those inside it are places, so that values may be shared.
#[derive(Clone, Debug)]
pub(super) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Arc<str>),
    Global(Global),
    Storage(Dtype, &'a [u8]),
    Tensor(Arc<Tensor<'a>>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Opaque(&'static str),
}

impl Node<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Node::None => "None",
            Node::Bool(_) => "a bool",
            Node::Int(_) => "an integer",
            Node::Float(_) => "a float",
            Node::Str(_) => "text",
            Node::Global(_) => "a class",
            Node::Storage(..) => "a storage",
            Node::Tensor(_) => "a tensor",
            Node::Tuple(_) => "a tuple",
            Node::List(_) => "a list",
            Node::Dict(_) => "a dict",
            Node::Opaque(class) => class,
        }
    }
}

const NONE: Id = 0;
const FALSE: Id = 1;
const TRUE: Id = 2;

struct Machine<'p, 's, 'a> {
    bytes: &'p [u8],
    place: usize,
    /// The position of the opcode being carried out.
    opcode: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// What values and their parts may still cost.
    left: usize,
    storages: &'s mut dyn Storages<'a>,
    limits: Limits,
}

/// Carries a pickle out; returns the values and the place of the last.
pub(super) fn run<'a>(
    bytes: &[u8],
    storages: &mut dyn Storages<'a>,
    limits: &Limits,
) -> Result<(Vec<Node<'a>>, Id)> {
    let nodes = vec![Node::None, Node::Bool(false), Node::Bool(true)];
    let (stack, marks, memo) = (Vec::new(), Vec::new(), HashMap::new());
    let (left, limits) = (limits.values, *limits);
    let mut machine =
        Machine { bytes, place: 0, opcode: 0, nodes, stack, marks, memo, left, storages, limits };
    loop {
        machine.opcode = machine.place;
        let [code] = machine.take()?;
        if code == b'.' {
            let root = machine.pop()?;
            if machine.place != bytes.len() {
                return Err(machine.wrong("STOP before its end"));
            }
            return Ok((machine.nodes, root));
        }
        machine.step(code)?;
    }
}

impl<'a> Machine<'_, '_, 'a> {
    fn wrong(&self, problem: impl Into<String>) -> Error {
        Error::Pickle { offset: self.opcode, problem: problem.into() }
    }

    fn slice(&mut self, length: usize) -> Result<&[u8]> {
        let end = self.place.checked_add(length).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| self.wrong("it ends in the middle"))?;
        let taken = &self.bytes[self.place..end];
        self.place = end;
        Ok(taken)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.slice(N)?);
        Ok(bytes)
    }

    fn line(&mut self) -> Result<&str> {
        const LONGEST: usize = 256;
        let rest = &self.bytes[self.place..];
        let end = rest.iter().take(LONGEST).position(|&byte| byte == b'\n');
        let end = end.ok_or_else(|| self.wrong("GLOBAL: a name does not end"))?;
        let offset = self.opcode;
        let text = &self.slice(end + 1)?[..end];
        let problem = || "GLOBAL: a name that is not UTF-8".to_owned();
        core::str::from_utf8(text).map_err(|_| Error::Pickle { offset, problem: problem() })
    }

    fn push(&mut self, node: Node<'a>) -> Result<()> {
        self.spend(1)?;
        let id = Id::try_from(self.nodes.len());
        self.stack.push(id.map_err(|_| Error::Limit { what: "values", limit: self.limits.values })?);
        self.nodes.push(node);
        Ok(())
    }

    /// Every value and every copy of a part costs, so that a short pickle cannot copy a large value often.
    fn spend(&mut self, parts: usize) -> Result<()> {
        let left = self.left.checked_sub(parts);
        self.left = left.ok_or(Error::Limit { what: "values", limit: self.limits.values })?;
        Ok(())
    }

    /// Takes the last value; never one below the last mark.
    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len() > floor {
            true => Ok(self.stack.pop().unwrap_or(NONE)),
            false => Err(self.wrong(format!("{} on an empty stack", self.name()))),
        }
    }

    fn top(&self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let top = self.stack.last().filter(|_| self.stack.len() > floor);
        top.copied().ok_or_else(|| self.wrong(format!("{} on an empty stack", self.name())))
    }

    fn popped_to_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| self.wrong(format!("{} without a MARK", self.name())))?;
        Ok(self.stack.split_off(mark))
    }

    fn name(&self) -> &'static str {
        opcodes::name(self.bytes[self.opcode])
    }

    fn step(&mut self, code: u8) -> Result<()> {
        match code {
            0x80 => {
                let [version] = self.take()?;
                match version {
                    0..=2 => Ok(()),
                    _ => {
                        Err(self
                            .wrong(format!("PROTO {version}: it is of another protocol than torch.save's 2")))
                    }
                }
            }
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'N' => self.push_known(NONE),
            0x88 => self.push_known(TRUE),
            0x89 => self.push_known(FALSE),
            b'J' => {
                let value = i32::from_le_bytes(self.take()?);
                self.push(Node::Int(value.into()))
            }
            b'K' => {
                let [value] = self.take()?;
                self.push(Node::Int(value.into()))
            }
            b'M' => {
                let value = u16::from_le_bytes(self.take()?);
                self.push(Node::Int(value.into()))
            }
            0x8a => {
                let [length] = self.take()?;
                let whole = long(self.slice(length.into())?);
                self.push(whole)
            }
            b'G' => {
                let value = f64::from_be_bytes(self.take()?);
                self.push(Node::Float(value))
            }
            b'X' => {
                let length = u32::from_le_bytes(self.take()?);
                let text = core::str::from_utf8(self.slice(length as usize)?).map(Arc::from);
                let text = text.map_err(|_| self.wrong("BINUNICODE: text that is not UTF-8"))?;
                self.push(Node::Str(text))
            }
            b')' => self.push(Node::Tuple(Vec::new())),
            b']' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b't' => {
                let items = self.popped_to_mark()?;
                self.push(Node::Tuple(items))
            }
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x84..code {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push(Node::Tuple(items))
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])
            }
            b'e' => {
                let items = self.popped_to_mark()?;
                self.extend(items)
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.insert(vec![key, value])
            }
            b'u' => {
                let items = self.popped_to_mark()?;
                self.insert(items)
            }
            b'q' => {
                let [key] = self.take()?;
                self.put(key.into())
            }
            b'r' => {
                let key = u32::from_le_bytes(self.take()?);
                self.put(key)
            }
            b'h' => {
                let [key] = self.take()?;
                self.fetch(key.into())
            }
            b'j' => {
                let key = u32::from_le_bytes(self.take()?);
                self.fetch(key)
            }
            b'c' => self.global(),
            b'R' | 0x81 => self.call(),
            b'b' => self.build(),
            b'Q' => self.persistent(),
            _ => Err(self.wrong(format!("opcode {} (0x{code:02x}) is not read", opcodes::name(code)))),
        }
    }

    fn push_known(&mut self, id: Id) -> Result<()> {
        self.stack.push(id);
        Ok(())
    }

    fn put(&mut self, key: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn fetch(&mut self, key: u32) -> Result<()> {
        let known = self.memo.get(&key).copied();
        let known =
            known.ok_or_else(|| self.wrong(format!("{} of {key}, which is not there", self.name())))?;
        self.push_known(known)
    }

    /// Appends to the list that is on top.
    fn extend(&mut self, items: Vec<Id>) -> Result<()> {
        let list = self.top()?;
        match &mut self.nodes[list as usize] {
            Node::List(known) => known.extend(items),
            Node::Opaque(_) => {}
            other => {
                let kind = other.kind();
                return Err(self.wrong(format!("{} to {kind}", self.name())));
            }
        }
        Ok(())
    }

    /// Puts alternating keys and values into the dict that is on top.
    fn insert(&mut self, items: Vec<Id>) -> Result<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.wrong(format!("{} of a key without a value", self.name())));
        }
        let dict = self.top()?;
        match &mut self.nodes[dict as usize] {
            Node::Dict(known) => known.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            Node::Opaque(_) => {}
            other => {
                let kind = other.kind();
                return Err(self.wrong(format!("{} to {kind}", self.name())));
            }
        }
        Ok(())
    }
}

/// A little-endian number in two's complement; one that does not fit in 64 bits is skipped.
fn long<'a>(bytes: &[u8]) -> Node<'a> {
    let fill = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
    let mut wide = [fill; 8];
    let (low, high) = bytes.split_at(bytes.len().min(8));
    wide[..low.len()].copy_from_slice(low);
    let value = i64::from_le_bytes(wide);
    let extends = high.iter().all(|&byte| byte == fill) && (value < 0) == (fill == 0xff);
    if extends { Node::Int(value) } else { Node::Opaque("a number of more than 64 bits") }
}
