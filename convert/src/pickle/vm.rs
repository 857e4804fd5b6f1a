//! The virtual machine: a stack of values, a memo, and the opcodes of protocols 0 to 5.

mod input;
mod objects;
mod text;

use super::globals::Global;
use super::numpy::NumpyDtype;
use super::opcodes;
use super::storages::Storages;
use crate::limits::Limits;
use crate::tensor::{Dtype, Tensor};
use crate::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;

pub(super) use objects::owned;

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
    Bytes(Arc<[u8]>),
    /// Bytes as protocols below 3 have them: the characters of a text. They are decoded where they are needed.
    Encoded(Arc<str>),
    Global(Global),
    NumpyDtype(NumpyDtype),
    /// A numpy array that waits for its contents.
    NumpyArray,
    /// A storage, of an element type if it is of one.
    Storage(Option<Dtype>, &'a [u8]),
    Tensor(Arc<Tensor<'a>>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// An object that is read as the dict of its attributes.
    Record(Vec<(Id, Id)>),
    /// Something that is never built, with its class.
    Opaque(Arc<str>),
}

impl Node<'_> {
    pub(super) fn opaque(class: &str) -> Self {
        Node::Opaque(class.into())
    }

    fn kind(&self) -> &str {
        match self {
            Node::None => "None",
            Node::Bool(_) => "a bool",
            Node::Int(_) => "an integer",
            Node::Float(_) => "a float",
            Node::Str(_) => "text",
            Node::Bytes(_) | Node::Encoded(_) => "bytes",
            Node::Global(_) => "a class",
            Node::NumpyDtype(_) => "a numpy type",
            Node::NumpyArray => "a numpy array",
            Node::Storage(..) => "a storage",
            Node::Tensor(_) => "a tensor",
            Node::Tuple(_) => "a tuple",
            Node::List(_) => "a list",
            Node::Dict(_) => "a dict",
            Node::Record(_) => "an object",
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
    /// The storages that have been asked for.
    held: HashMap<Arc<str>, &'a [u8]>,
    /// How wide the elements of storages are, where that is all that is asked for.
    widths: Option<HashMap<Arc<str>, Option<usize>>>,
    /// What values and their parts may still cost.
    left: usize,
    storages: &'s mut dyn Storages<'a>,
    limits: Limits,
}

/// What a pickle has made.
pub(super) struct Made<'a> {
    pub nodes: Vec<Node<'a>>,
    pub root: Id,
    /// Bytes of its storages.
    pub held: usize,
}

/// Carries a pickle out.
pub(super) fn run<'a>(bytes: &[u8], storages: &mut dyn Storages<'a>, limits: &Limits) -> Result<Made<'a>> {
    let mut machine = Machine::new(bytes, storages, limits);
    let root = machine.run()?;
    let held = machine.held.values().map(|bytes| bytes.len()).fold(0, usize::saturating_add);
    Ok(Made { nodes: machine.nodes, root, held })
}

/// Carries a pickle out for the storages that it names alone.
pub(super) fn widths(bytes: &[u8], limits: &Limits) -> Result<HashMap<Arc<str>, Option<usize>>> {
    let mut none = Unasked;
    let mut machine = Machine::new(bytes, &mut none, limits);
    machine.widths = Some(HashMap::new());
    machine.run()?;
    Ok(machine.widths.unwrap_or_default())
}

/// No storages: none is asked for.
struct Unasked;

impl<'a> Storages<'a> for Unasked {
    fn find(&mut self, key: &str) -> Result<&'a [u8]> {
        Err(Error::Archive(format!("the storage {key:?} is missing")))
    }
}

impl<'p, 's, 'a> Machine<'p, 's, 'a> {
    fn new(bytes: &'p [u8], storages: &'s mut dyn Storages<'a>, limits: &Limits) -> Self {
        Machine {
            bytes,
            place: 0,
            opcode: 0,
            nodes: vec![Node::None, Node::Bool(false), Node::Bool(true)],
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            held: HashMap::new(),
            widths: None,
            left: limits.values,
            storages,
            limits: *limits,
        }
    }

    /// Carries the pickle out; returns the place of the last value.
    fn run(&mut self) -> Result<Id> {
        loop {
            self.opcode = self.place;
            let [code] = self.take()?;
            if code == b'.' {
                let root = self.pop()?;
                if self.place != self.bytes.len() {
                    return Err(self.wrong("STOP before its end"));
                }
                return Ok(root);
            }
            self.step(code)?;
        }
    }
}

impl<'a> Machine<'_, '_, 'a> {
    fn wrong(&self, problem: impl Into<String>) -> Error {
        Error::Pickle { offset: self.opcode, problem: problem.into() }
    }

    fn push(&mut self, node: Node<'a>) -> Result<()> {
        self.spend(1)?;
        let id = Id::try_from(self.nodes.len());
        self.stack.push(id.map_err(|_| Error::Limit { what: "values", limit: self.limits.values })?);
        self.nodes.push(node);
        Ok(())
    }

    /// Charges for every value and every copy of a part, so that a short pickle cannot copy a large value often.
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
                    0..=5 => Ok(()),
                    _ => Err(self.wrong(format!("PROTO {version}: protocols 0 to 5 are read"))),
                }
            }
            // A frame says how much is to be read ahead.
            0x95 => self.take::<8>().map(|_| ()),
            b'(' => {
                self.fits(self.marks.len())?;
                self.marks.push(self.stack.len());
                Ok(())
            }
            b'0' => match self.marks.last() {
                Some(&mark) if mark == self.stack.len() => self.popped_to_mark().map(|_| ()),
                _ => self.pop().map(|_| ()),
            },
            b'1' => self.popped_to_mark().map(|_| ()),
            b'2' => {
                let top = self.top()?;
                self.push_known(top)
            }
            b'N' => self.push_known(NONE),
            0x88 => self.push_known(TRUE),
            0x89 => self.push_known(FALSE),
            b'I' => self.lined(text::int),
            b'L' => self.lined(text::long),
            b'F' => self.lined(text::float),
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
                let whole = long(self.counted::<1>()?);
                self.push(whole)
            }
            0x8b => {
                let whole = long(self.counted::<4>()?);
                self.push(whole)
            }
            b'G' => {
                let value = f64::from_be_bytes(self.take()?);
                self.push(Node::Float(value))
            }
            0x8c => self.text::<1>(),
            b'X' => self.text::<4>(),
            0x8d => self.text::<8>(),
            b'V' | b'S' => {
                let line = self.line()?;
                let node = if code == b'V' { text::unicode(line) } else { text::quoted(line) };
                let node = node.ok_or_else(|| self.wrong(format!("{} of what it cannot be", self.name())))?;
                self.push(node)
            }
            b'U' | b'T' => {
                let bytes = if code == b'U' { self.counted::<1>()? } else { self.counted::<4>()? };
                let node = text::text_or_bytes(bytes.to_vec());
                self.push(node)
            }
            b'C' => self.binary::<1>(),
            b'B' => self.binary::<4>(),
            0x8e | 0x96 => self.binary::<8>(),
            b')' => self.push(Node::Tuple(Vec::new())),
            b']' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            0x8f => self.push(Node::opaque("a set")),
            0x91 => {
                self.popped_to_mark()?;
                self.push(Node::opaque("a set"))
            }
            b't' | b'l' => {
                let items = self.popped_to_mark()?;
                self.push(if code == b't' { Node::Tuple(items) } else { Node::List(items) })
            }
            0x85..=0x87 => {
                let mut items = Vec::new();
                for _ in 0x84..code {
                    items.push(self.pop()?);
                }
                items.reverse();
                self.push(Node::Tuple(items))
            }
            b'd' => {
                let items = self.popped_to_mark()?;
                self.push(Node::Dict(Vec::new()))?;
                self.insert(items)
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])
            }
            b'e' | 0x90 => {
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
            b'p' => {
                let key = self.numbered()?;
                self.put(key)
            }
            b'q' => {
                let [key] = self.take()?;
                self.put(key.into())
            }
            b'r' => {
                let key = u32::from_le_bytes(self.take()?);
                self.put(key)
            }
            // Never more than there are opcodes, which `Limits` bounds.
            0x94 => self.put(self.memo.len() as u32),
            b'g' => {
                let key = self.numbered()?;
                self.fetch(key)
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
            0x93 => self.global_of_stack(),
            b'R' | 0x81 => self.call(),
            0x92 => {
                // What a call makes does not hang on arguments with names.
                self.pop()?;
                self.call()
            }
            b'o' => self.object(),
            b'i' => {
                self.global()?;
                let class = self.pop()?;
                let mark = self.marks.last().copied();
                let mark = mark.ok_or_else(|| self.wrong("INST without a MARK"))?;
                self.stack.insert(mark, class);
                self.object()
            }
            b'b' => self.build(),
            b'Q' => self.persistent(),
            b'P' => self.persistent_line(),
            _ => Err(self.wrong(format!("opcode {} (0x{code:02x}) is not read", opcodes::name(code)))),
        }
    }

    /// Checks what an opcode of a byte can make without a new value, which is limited, too.
    fn fits(&self, length: usize) -> Result<()> {
        let limit = self.limits.values;
        if length < limit { Ok(()) } else { Err(Error::Limit { what: "values", limit }) }
    }

    fn push_known(&mut self, id: Id) -> Result<()> {
        self.fits(self.stack.len())?;
        self.stack.push(id);
        Ok(())
    }

    fn put(&mut self, key: u32) -> Result<()> {
        let top = self.top()?;
        self.fits(self.memo.len())?;
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
                let kind = other.kind().to_owned();
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
                let kind = other.kind().to_owned();
                return Err(self.wrong(format!("{} to {kind}", self.name())));
            }
        }
        Ok(())
    }
}

/// Returns a little-endian number in two's complement; one that does not fit in 64 bits is skipped.
fn long<'a>(bytes: &[u8]) -> Node<'a> {
    let fill = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xff } else { 0 };
    let mut wide = [fill; 8];
    let (low, high) = bytes.split_at(bytes.len().min(8));
    wide[..low.len()].copy_from_slice(low);
    let value = i64::from_le_bytes(wide);
    let extends = high.iter().all(|&byte| byte == fill) && (value < 0) == (fill == 0xff);
    if extends { Node::Int(value) } else { Node::opaque("a number of more than 64 bits") }
}
