//! Statements to values: the few of Python that make up a configuration, none of which runs anything.

use std::cell::Cell;
use std::collections::HashSet;
use std::sync::Arc;

use super::ast::*;
use super::cursor::{Span, at_of};
use super::error::{ConfigError, nearest};
use super::heap::{Entry, Fault, Fields, Heap, Item, MapId, Obj, Outcome, SeqId};
use super::number::Op;
use super::value::Position;

/// A source of entries that is not read, so that what is missing may come from there.
#[derive(Debug, Clone)]
pub(super) enum Missing {
    /// `from … import *`, at a place and from a module.
    Import(Position, String),
    /// A base in another package, by `_base_` or by `with read_base():`.
    Base(Position, String),
    /// A change of the bases as a whole that was skipped.
    Change(Fault),
}

impl Missing {
    pub(super) fn error(&self, key: &str) -> ConfigError {
        let key = key.to_owned();
        match self.clone() {
            Missing::Import(at, module) => ConfigError::ReadBase { at, key, module },
            Missing::Base(at, base) => ConfigError::ForeignBase { at, key, base },
            Missing::Change(fault) => ConfigError::clone(&fault),
        }
    }
}

pub(super) struct Interpreter<'a> {
    pub heap: &'a mut Heap,
    pub file: &'a Position,
    /// All names and their values, in the order of their first assignment.
    pub names: Fields,
    /// Where names may come from that are not here.
    pub missing: Vec<Missing>,
    /// The merged bases, and where keys may come from that are not in them.
    pub base: MapId,
    pub base_missing: &'a [Missing],
    /// The keys of the bases that were looked at.
    pub opened: HashSet<String>,
    /// Whether every statement so far was understood (imports are, as long as nothing uses them).
    pub complete: bool,
    /// For how many more errors a name like the unknown one is searched: most errors nobody sees.
    pub hints: Cell<usize>,
}

impl<'a> Interpreter<'a> {
    /// Makes one that knows no names yet.
    pub(super) fn new(
        heap: &'a mut Heap,
        file: &'a Position,
        base: MapId,
        base_missing: &'a [Missing],
    ) -> Self {
        Interpreter {
            heap,
            file,
            names: Fields::new(),
            missing: Vec::new(),
            base,
            base_missing,
            opened: HashSet::new(),
            complete: true,
            hints: Cell::new(100),
        }
    }

    /// Runs a statement. An error is one about the whole file.
    pub(super) fn run(&mut self, statement: &Statement) -> Result<(), ConfigError> {
        match &statement.kind {
            StatementKind::Assign(targets, value) => {
                let item = self.item(value);
                for target in targets {
                    self.assign(target, item.clone())?;
                }
            }
            StatementKind::Augment(target, op, value) => self.augment(target, *op, value)?,
            StatementKind::Delete(targets) => targets.iter().try_for_each(|target| self.delete(target))?,
            StatementKind::Evaluate(expr) => self.evaluate(expr)?,
            StatementKind::Import(import) => self.import(import, statement.at),
            // Its names are there from the beginning.
            StatementKind::ReadBase(_) => {}
            // Not even Python, and no name is bound that the error could go with.
            StatementKind::Skipped(Skipped {
                error: error @ ConfigError::Syntax { .. },
                bound,
                imports,
                ..
            }) if bound.is_empty() && imports.is_empty() => {
                return Err(error.clone());
            }
            StatementKind::Skipped(skipped) => self.skip(skipped, statement.at),
        }
        let at = self.at(statement.at);
        self.heap.check(&at).map_err(|fault| ConfigError::clone(&fault))
    }

    fn skip(&mut self, skipped: &Skipped, at: Span) {
        let fault = Arc::new(skipped.error.clone());
        self.taint(&skipped.touched, &skipped.mentioned, &fault);
        for name in &skipped.bound {
            let item = Item { obj: Obj::Poison(fault.clone()), at: self.at(at) };
            match name.strip_prefix("_base_.") {
                None => self.bind(name, at, item),
                Some(key) => self.put(self.base, key, Entry { key_at: self.at(at), item }),
            }
        }
        skipped.imports.iter().for_each(|import| self.import(import, at));
    }

    fn import(&mut self, import: &Import, at: Span) {
        let place = self.at(at);
        if import.star {
            let missing = Missing::Import(place.clone(), import.module.clone());
            // It may bind any name anew.
            for (name, entry) in &mut self.names {
                if !matches!(entry.item.obj, Obj::Imported(_)) {
                    entry.item.obj = Obj::Poison(Arc::new(missing.error(name)));
                }
            }
            self.missing.push(missing);
        }
        for (bound, name) in &import.names {
            let (at, module) = (place.clone(), import.module.clone());
            let obj = if import.base {
                Obj::Poison(Arc::new(ConfigError::ReadBase { at, key: bound.clone(), module }))
            } else {
                Obj::Imported(Arc::new(ConfigError::Imported { at, name: name.clone(), module }))
            };
            self.bind(bound, at_of(&place), Item { obj, at: place.clone() });
        }
    }

    /// Evaluates an expression for its effect. What it cannot do is an error about what it would have changed.
    fn evaluate(&mut self, expr: &Expr) -> Result<(), ConfigError> {
        let Err(fault) = self.eval(expr) else { return Ok(()) };
        self.failed(expr, &fault);
        match &expr.kind {
            // `optimiser.update(…)`
            Kind::Postfix(head, trailers) if trailers.len() > 1 && self.is_unknown(head) => {
                Err(ConfigError::clone(&fault))
            }
            _ => Ok(()),
        }
    }

    /// Returns whether an expression is a name that nothing can have assigned: a change of it would be lost without a
    /// word.
    fn is_unknown(&self, head: &Expr) -> bool {
        let Kind::Name(name) = &head.kind else { return false };
        name != "_base_" && self.missing.is_empty() && !self.names.contains_key(name)
    }

    fn bind(&mut self, name: &str, at: Span, item: Item) {
        self.names.insert(name.to_owned(), Entry { key_at: self.at(at), item });
    }

    fn assign(&mut self, target: &Target, item: Item) -> Result<(), ConfigError> {
        match target {
            Target::Name(name, at) => self.bind(name, *at, item),
            Target::Place(head, trailers, last) => {
                let holder = self.holder(head, trailers)?;
                let stored = holder.clone().and_then(|holder| self.store(&holder, last, item));
                if let (Err(fault), Ok(holder)) = (stored, holder) {
                    self.failed_at(head, std::slice::from_ref(last), &fault);
                    self.heap.poison(&holder, &fault);
                }
            }
            Target::Tuple(targets, at) => {
                let parts = self.unpack(&item, targets.len(), *at);
                for (i, target) in targets.iter().enumerate() {
                    let part = match &parts {
                        Ok(items) => items[i].clone(),
                        Err(fault) => Item { obj: Obj::Poison(fault.clone()), at: item.at.clone() },
                    };
                    self.assign(target, part)?;
                }
            }
        }
        Ok(())
    }

    /// Binds what `with read_base():` takes from a file.
    pub(super) fn take_base(&mut self, import: &Import, at: Span, fields: &Fields) {
        if import.star {
            self.names.extend(fields.iter().map(|(name, entry)| (name.clone(), entry.clone())));
        }
        for (bound, name) in &import.names {
            let item = fields.get(name).map(|entry| entry.item.clone());
            let item = item.unwrap_or_else(|| {
                let nearest = nearest(name, fields.keys().map(String::as_str));
                let fault = ConfigError::MissingKey { at: self.at(at), key: name.clone(), nearest };
                Item { obj: Obj::Poison(Arc::new(fault)), at: self.at(at) }
            });
            self.bind(bound, at, item);
        }
    }

    /// Notes a base of `with read_base():` that is not read.
    pub(super) fn miss_base(&mut self, import: &Import, at: Span) {
        let missing = Missing::Base(self.at(at), import.module.clone());
        for (bound, name) in &import.names {
            let item = Item { obj: Obj::Poison(Arc::new(missing.error(name))), at: self.at(at) };
            self.bind(bound, at, item);
        }
        if import.star {
            self.missing.push(missing);
        }
    }

    fn unpack(&self, item: &Item, length: usize, at: Span) -> Outcome<Vec<Item>> {
        let items = match &item.obj {
            Obj::Poison(fault) | Obj::Imported(fault) => return Err(fault.clone()),
            Obj::Seq(id) => self.heap.seq(*id).items.clone(),
            other => return Err(self.expected(at, &format!("{length} values"), other.type_name())),
        };
        if items.len() != length {
            return Err(self.expected(at, &format!("{length} values"), &items.len().to_string()));
        }
        Ok(items)
    }

    /// Returns what `x["a"]` in `x["a"].b = …` is. If it cannot be had, all of `x` is tainted; if there is no `x`,
    /// the change would be lost without a word.
    fn holder(&mut self, head: &Expr, trailers: &[Trailer]) -> Result<Outcome<Obj>, ConfigError> {
        let root = self.eval(head);
        if let Err(fault) = &root
            && self.is_unknown(head)
        {
            return Err(ConfigError::clone(fault));
        }
        // Of the bases, only one key is tainted.
        let (root, rest) = match (root, trailers.split_first()) {
            (Ok(Obj::Map(id)), Some((first, rest))) if id == self.base => {
                (self.part(Obj::Map(id), first), rest)
            }
            (root, _) => (root, trailers),
        };
        let holder = root.clone().and_then(|root| self.eval_trailers(root, rest));
        if let Err(fault) = &holder {
            self.failed_at(head, trailers, fault);
            self.heap.poison(&root.unwrap_or_else(Obj::Poison), fault);
            // What is not known may be known under another name.
            self.heap.poison(&Obj::Poison(fault.clone()), fault);
        }
        Ok(holder)
    }

    fn store(&mut self, holder: &Obj, last: &Trailer, item: Item) -> Outcome<()> {
        let key = self.key(last)?;
        match (holder, key) {
            (Obj::Map(id), Obj::Str(key)) => {
                let key_at = self.at(last.at);
                self.put(*id, &key, Entry { key_at, item });
                self.heap.charge(1, &self.at(last.at))
            }
            (Obj::Seq(id), Obj::Int(index)) if !self.heap.seq(*id).tuple => {
                let place = self.index(index, self.heap.seq(*id).items.len(), last.at)?;
                self.heap.seq_mut(*id).items[place] = item;
                Ok(())
            }
            (Obj::Map(_), key) => Err(self.expected(last.at, "a string as a key", key.type_name())),
            (holder, _) => Err(self.expected(last.at, "a dict or list to assign in", holder.type_name())),
        }
    }

    fn augment(&mut self, target: &Target, op: Op, value: &Expr) -> Result<(), ConfigError> {
        let (old, at) = match target {
            Target::Name(name, at) => (self.name(name, *at), *at),
            Target::Place(head, trailers, last) => {
                let holder = self.holder(head, trailers)?;
                (holder.and_then(|holder| self.part(holder, last)), last.at)
            }
            Target::Tuple(_, at) => (Err(self.not_understood(*at, "this assignment")), *at),
        };
        let new = self.item(value);
        let result = match (old, &new.obj) {
            (Err(fault), _) => {
                // A list would change in place, whatever other name it has.
                self.heap.poison(&Obj::Poison(fault.clone()), &fault);
                Err(fault)
            }
            (Ok(old), Obj::Poison(fault)) => {
                self.heap.poison(&old, fault);
                Err(fault.clone())
            }
            (Ok(Obj::Seq(a)), _) if !self.heap.seq(a).tuple => self.grow(a, op, &new, at),
            (Ok(old), new) => self.binary(op, &old, new, at),
        };
        let obj = result.unwrap_or_else(|fault| {
            self.complete = false;
            Obj::Poison(fault)
        });
        self.assign(target, Item { obj, at: new.at })
    }

    /// Carries out `+=` and `*=` of a list: in place, so that whoever shares the list sees it.
    fn grow(&mut self, id: SeqId, op: Op, new: &Item, at: Span) -> Outcome<Obj> {
        let list = Obj::Seq(id);
        let grown = match (op, &new.obj) {
            (Op::Add, Obj::Seq(other)) => {
                self.whole(&list).and_then(|()| self.whole(&new.obj)).and_then(|()| {
                    let more = self.heap.seq(*other).items.clone();
                    self.heap.charge(more.len(), &new.at)?;
                    self.heap.seq_mut(id).items.extend(more);
                    Ok(())
                })
            }
            _ => self.binary(op, &list, &new.obj, at).map(|result| {
                if let Obj::Seq(result) = result {
                    self.heap.seq_mut(id).items = self.heap.seq(result).items.clone();
                }
            }),
        };
        if let Err(fault) = grown {
            self.heap.poison(&list, &fault);
            return Err(fault);
        }
        Ok(list)
    }

    fn delete(&mut self, target: &Target) -> Result<(), ConfigError> {
        match target {
            Target::Name(name, _) => drop(self.names.shift_remove(name)),
            Target::Tuple(targets, _) => targets.iter().try_for_each(|target| self.delete(target))?,
            Target::Place(head, trailers, last) => {
                if let Ok(holder) = self.holder(head, trailers)? {
                    let removed = self.key(last).and_then(|key| self.remove(&holder, &key, last.at));
                    if let Err(fault) = removed {
                        self.failed_at(head, std::slice::from_ref(last), &fault);
                        self.heap.poison(&holder, &fault);
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes something out of a list or dict.
    pub(super) fn remove(&mut self, holder: &Obj, key: &Obj, at: Span) -> Outcome<Obj> {
        let removed = match (holder, key) {
            (Obj::Map(id), Obj::Str(key)) => match self.heap.map_mut(*id).entries.shift_remove(&**key) {
                Some(entry) => entry.item.obj,
                None => return Err(self.no_key(*id, key, at)),
            },
            (Obj::Seq(id), Obj::Int(index)) if !self.heap.seq(*id).tuple => {
                let place = self.index(*index, self.heap.seq(*id).items.len(), at)?;
                self.heap.seq_mut(*id).items.remove(place).obj
            }
            _ => return Err(self.expected(at, "a key of a dict or an index of a list", key.type_name())),
        };
        Ok(removed)
    }
}
