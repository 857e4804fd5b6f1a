//! Expressions to values.

use std::sync::Arc;

use super::ast::*;
use super::cursor::{Span, position};
use super::error::{ConfigError, nearest};
use super::heap::{Entry, Fault, Fields, Item, Map, MapId, Obj, Outcome};
use super::number::{self, Number, Op};
use super::run::Interpreter;
use super::template::{self, Filled};
use super::value::{Position, Value};

impl Interpreter<'_> {
    /// Evaluates a value where it is, be it poison.
    pub(super) fn item(&mut self, expr: &Expr) -> Item {
        let obj = self.eval(expr).unwrap_or_else(|fault| {
            self.failed(expr, &fault);
            Obj::Poison(fault)
        });
        Item { obj, at: self.at(expr.at) }
    }

    pub(super) fn eval(&mut self, expr: &Expr) -> Outcome<Obj> {
        match &expr.kind {
            Kind::Literal(value) => Ok(match value {
                Value::Bool(v) => Obj::Bool(*v),
                Value::Int(v) => Obj::Int(*v),
                Value::Float(v) => Obj::Float(*v),
                _ => Obj::None,
            }),
            Kind::Str { text, template: false } => Ok(Obj::Str(text.as_str().into())),
            Kind::Str { text, template: true } => match template::fill(text, &self.at(expr.at))? {
                Filled::Text(text) => Ok(Obj::Str(text.into())),
                Filled::Base(path) => self.in_base(&path, expr.at),
            },
            Kind::Base(path) => self.in_base(path, expr.at),
            Kind::Name(name) => self.name(name, expr.at),
            Kind::Sequence { elements, tuple } => self.sequence(elements, *tuple),
            Kind::Dict(pairs) => self.dict(pairs),
            Kind::Chain(first, rest) => {
                let mut left = self.eval(first)?;
                for (op, at, right) in rest {
                    let right = self.eval(right)?;
                    left = self.binary(*op, &left, &right, *at)?;
                }
                Ok(left)
            }
            Kind::Minus(inner) => {
                let obj = self.eval(inner)?;
                let number = self.number(&obj, inner.at)?;
                number::negative(number).map(from_number).map_err(|problem| self.arithmetic(expr.at, problem))
            }
            Kind::Plus(inner) => {
                let obj = self.eval(inner)?;
                Ok(from_number(self.number(&obj, inner.at)?))
            }
            Kind::Postfix(head, trailers) => self.postfix(head, trailers),
        }
    }

    fn sequence(&mut self, elements: &[Element], tuple: bool) -> Outcome<Obj> {
        let mut items = Vec::new();
        for element in elements {
            match element {
                Element::One(expr) => items.push(self.item(expr)),
                Element::All(expr) => match self.eval(expr)? {
                    Obj::Seq(id) => {
                        self.whole(&Obj::Seq(id))?;
                        items.extend_from_slice(&self.heap.seq(id).items);
                        self.heap.charge(items.len(), &self.at(expr.at))?;
                    }
                    other => return Err(self.expected(expr.at, "a list after `*`", other.type_name())),
                },
            }
        }
        Ok(self.heap.new_seq(items, tuple))
    }

    fn dict(&mut self, pairs: &[Pair]) -> Outcome<Obj> {
        let mut map = Map::default();
        for pair in pairs {
            match pair {
                Pair::One(key, value) => {
                    let item = self.item(value);
                    match self.eval(key)? {
                        Obj::Str(name) => {
                            let key_at = self.at(key.at);
                            map.entries.insert(name.as_ref().to_owned(), Entry { key_at, item });
                        }
                        other => return Err(self.expected(key.at, "a string as a key", other.type_name())),
                    }
                }
                Pair::All(expr) => {
                    let entries = self.spread(expr)?;
                    map.entries.extend(entries);
                }
            }
        }
        Ok(Obj::Map(self.heap.new_map(map)))
    }

    /// Returns the entries of a dict after `**`.
    pub(super) fn spread(&mut self, expr: &Expr) -> Outcome<Fields> {
        match self.eval(expr)? {
            Obj::Imported(fault) => Err(fault),
            Obj::Map(id) => {
                self.whole(&Obj::Map(id))?;
                let entries = self.heap.map(id).entries.clone();
                self.heap.charge(entries.len(), &self.at(expr.at))?;
                Ok(entries)
            }
            other => Err(self.expected(expr.at, "a dict", other.type_name())),
        }
    }

    /// Returns an error if a list or dict may have been changed by what was skipped.
    pub(super) fn whole(&self, obj: &Obj) -> Outcome<()> {
        self.heap.fault(obj).map_or(Ok(()), Err)
    }

    pub(super) fn name(&self, name: &str, at: Span) -> Outcome<Obj> {
        if name == "_base_" {
            return Ok(Obj::Map(self.base));
        }
        match self.names.get(name).map(|entry| &entry.item.obj) {
            Some(Obj::Poison(fault)) => Err(fault.clone()),
            Some(Obj::Imported(fault)) => {
                let mut error = ConfigError::clone(fault);
                if let ConfigError::Imported { at: place, .. } = &mut error {
                    *place = self.at(at); // what matters is where it is used
                }
                Ok(Obj::Imported(Arc::new(error)))
            }
            Some(obj) => Ok(obj.clone()),
            None => Err(Arc::new(match self.missing.last() {
                Some(missing) => missing.error(name),
                None => self.undefined(name, at, &[]),
            })),
        }
    }

    pub(super) fn undefined(&self, name: &str, at: Span, also: &[&'static str]) -> ConfigError {
        let known = self
            .names
            .keys()
            .map(String::as_str)
            .chain(["True", "False", "None"])
            .chain(also.iter().copied());
        ConfigError::Undefined { at: self.at(at), name: name.to_owned(), nearest: self.hint(name, known) }
    }

    /// Returns what the bases have under these keys: the value itself, not a copy. So later changes of it show, as
    /// they do where MMEngine fills the template in at the end.
    pub(super) fn in_base(&mut self, path: &[String], at: Span) -> Outcome<Obj> {
        path.iter().try_fold(Obj::Map(self.base), |obj, key| self.attribute(&obj, key, at))
    }

    pub(super) fn part(&mut self, obj: Obj, trailer: &Trailer) -> Outcome<Obj> {
        if let (Obj::Imported(fault), TrailerKind::Attribute(part)) = (&obj, &trailer.kind) {
            return Ok(Obj::Imported(within(fault, part)));
        }
        self.whole(&obj)?;
        match (&obj, self.key(trailer)?) {
            (Obj::Map(_), Obj::Str(key)) => self.attribute(&obj, &key, trailer.at),
            (Obj::Seq(id), Obj::Int(index)) => {
                let items = &self.heap.seq(*id).items;
                let place = self.index(index, items.len(), trailer.at)?;
                match &items[place].obj {
                    Obj::Poison(fault) => Err(fault.clone()),
                    obj => Ok(obj.clone()),
                }
            }
            (Obj::Map(_), key) => Err(self.expected(trailer.at, "a string as a key", key.type_name())),
            (Obj::Seq(_), key) => Err(self.expected(trailer.at, "an integer as an index", key.type_name())),
            (other, _) => Err(self.expected(trailer.at, "a dict or list here", other.type_name())),
        }
    }

    pub(super) fn key(&mut self, trailer: &Trailer) -> Outcome<Obj> {
        match &trailer.kind {
            TrailerKind::Attribute(name) => Ok(Obj::Str(name.as_str().into())),
            TrailerKind::Index(expr) => self.eval(expr),
            TrailerKind::Call(_) => Err(self.not_understood(trailer.at, "this call")),
        }
    }

    pub(super) fn attribute(&mut self, obj: &Obj, key: &str, at: Span) -> Outcome<Obj> {
        self.whole(obj)?;
        let Obj::Map(id) = *obj else { return Err(self.expected(at, "a dict here", obj.type_name())) };
        let Some(entry) = self.heap.map(id).entries.get(key) else { return Err(self.no_key(id, key, at)) };
        let mut item = entry.item.clone();
        if id == self.base && self.opened.insert(key.to_owned()) {
            // What names shared in the base's file, they share no longer in this one.
            item = self.heap.unshared(&item);
            if let Some(entry) = self.heap.map_mut(id).entries.get_mut(key) {
                entry.item = item.clone();
            }
        }
        if let Obj::Poison(fault) = item.obj { Err(fault) } else { Ok(item.obj) }
    }

    pub(super) fn no_key(&self, id: MapId, key: &str, at: Span) -> Fault {
        if let Some(missing) = self.base_missing.last().filter(|_| id == self.base) {
            return Arc::new(missing.error(key));
        }
        let nearest = self.hint(key, self.heap.map(id).entries.keys().map(String::as_str));
        Arc::new(ConfigError::MissingKey { at: self.at(at), key: key.to_owned(), nearest })
    }

    fn hint<'n>(&self, name: &str, known: impl Iterator<Item = &'n str>) -> Option<String> {
        self.hints.set(self.hints.get().checked_sub(1)?);
        nearest(name, known)
    }

    /// Returns an index as Python counts: from the end if negative.
    pub(super) fn index(&self, index: i64, length: usize, at: Span) -> Outcome<usize> {
        let place = if index < 0 { index.checked_add(length as i64) } else { Some(index) };
        place.and_then(|i| usize::try_from(i).ok()).filter(|i| *i < length).ok_or_else(|| {
            let plural = if length == 1 { "" } else { "s" };
            self.arithmetic(at, format!("index {index} is outside a list of {length} element{plural}"))
        })
    }

    pub(super) fn number(&self, obj: &Obj, at: Span) -> Outcome<Number> {
        match obj {
            Obj::Imported(fault) => Err(fault.clone()),
            Obj::Bool(v) => Ok(Number::Int(i64::from(*v))),
            Obj::Int(v) => Ok(Number::Int(*v)),
            Obj::Float(v) => Ok(Number::Float(*v)),
            other => Err(self.expected(at, "a number", other.type_name())),
        }
    }

    pub(super) fn binary(&mut self, op: Op, left: &Obj, right: &Obj, at: Span) -> Outcome<Obj> {
        self.whole(left)?;
        self.whole(right)?;
        let place = self.at(at);
        match (op, left, right) {
            (Op::Add, Obj::Str(a), Obj::Str(b)) => {
                self.heap.charge((a.len() + b.len()) / 16 + 1, &place)?;
                return Ok(Obj::Str(format!("{a}{b}").into()));
            }
            (Op::Add, Obj::Seq(a), Obj::Seq(b)) if self.heap.seq(*a).tuple == self.heap.seq(*b).tuple => {
                let length = self.heap.seq(*a).items.len() + self.heap.seq(*b).items.len();
                self.heap.charge(length, &place)?;
                let (a, b, tuple) = (self.heap.seq(*a), self.heap.seq(*b), self.heap.seq(*a).tuple);
                let items = [a.items.as_slice(), b.items.as_slice()].concat();
                return Ok(self.heap.new_seq(items, tuple));
            }
            (Op::Mul, Obj::Str(text), Obj::Int(n)) | (Op::Mul, Obj::Int(n), Obj::Str(text)) => {
                let n = usize::try_from(*n).unwrap_or(0);
                self.heap.charge((text.len() / 16 + 1).saturating_mul(n), &place)?;
                return Ok(Obj::Str(text.repeat(n).into()));
            }
            (Op::Mul, Obj::Seq(id), Obj::Int(n)) | (Op::Mul, Obj::Int(n), Obj::Seq(id)) => {
                let n = usize::try_from(*n).unwrap_or(0);
                self.heap.charge(self.heap.seq(*id).items.len().saturating_mul(n), &place)?;
                let seq = self.heap.seq(*id);
                let (length, tuple) = (seq.items.len().saturating_mul(n), seq.tuple);
                let items = seq.items.iter().cycle().take(length).cloned().collect();
                return Ok(self.heap.new_seq(items, tuple));
            }
            (Op::Mod, Obj::Str(_), _) => return Err(self.not_understood(at, "formatting with `%`")),
            _ => {}
        }
        let (Ok(a), Ok(b)) = (self.number(left, at), self.number(right, at)) else {
            let got = format!("{} and {}", left.type_name(), right.type_name());
            return Err(self.expected(at, &format!("two numbers for `{}`", op.symbol()), &got));
        };
        number::binary(op, a, b).map(from_number).map_err(|problem| self.arithmetic(at, problem))
    }

    pub(super) fn at(&self, at: Span) -> Position {
        position(self.file, at)
    }

    pub(super) fn expected(&self, at: Span, expected: &str, got: &str) -> Fault {
        Arc::new(ConfigError::Type { at: self.at(at), expected: expected.to_owned(), got: got.to_owned() })
    }

    pub(super) fn not_understood(&self, at: Span, what: &str) -> Fault {
        Arc::new(ConfigError::NotUnderstood { at: self.at(at), what: what.to_owned() })
    }

    pub(super) fn arithmetic(&self, at: Span, problem: String) -> Fault {
        Arc::new(ConfigError::Arithmetic { at: self.at(at), problem })
    }
}

/// Returns the error about a part of something imported: `torch.optim.AdamW` after `import torch`.
fn within(fault: &Fault, part: &str) -> Fault {
    let mut error = ConfigError::clone(fault);
    if let ConfigError::Imported { name, .. } = &mut error {
        *name = format!("{name}.{part}");
    }
    Arc::new(error)
}

pub(super) fn from_number(number: Number) -> Obj {
    match number {
        Number::Int(v) => Obj::Int(v),
        Number::Float(v) => Obj::Float(v),
    }
}
