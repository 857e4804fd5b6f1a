//! The calls that are evaluated: `dict`, `float`, `int`, and what dicts and lists do to themselves.

use std::sync::Arc;

use super::ast::*;
use super::cursor::Span;
use super::error::ConfigError;
use super::eval::from_number;
use super::heap::{Entry, Fault, Fields, Item, Map, MapId, Obj, Outcome};
use super::limits::MAX_DEPTH;
use super::merge;
use super::number::{self, Number};
use super::run::Interpreter;

/// The functions by name.
const FUNCTIONS: [&str; 3] = ["dict", "float", "int"];

impl Interpreter<'_> {
    /// Evaluates a value with attributes, keys and calls behind it.
    pub(super) fn postfix(&mut self, head: &Expr, trailers: &[Trailer]) -> Outcome<Obj> {
        let outcome = match (&head.kind, trailers.split_first()) {
            (Kind::Name(name), Some((Trailer { kind: TrailerKind::Call(arguments), .. }, rest)))
                if name != "_base_" && !self.names.contains_key(name) =>
            {
                self.function(name, arguments, head.at).and_then(|obj| self.eval_trailers(obj, rest))
            }
            _ => self.eval(head).and_then(|obj| self.eval_trailers(obj, trailers)),
        };
        outcome.map_err(|fault| called(fault, trailers))
    }

    /// Returns the trailers of a value.
    pub(super) fn eval_trailers(&mut self, head: Obj, trailers: &[Trailer]) -> Outcome<Obj> {
        let mut obj = head;
        let mut rest = trailers;
        while let Some((trailer, after)) = rest.split_first() {
            rest = after;
            obj = match (&trailer.kind, after.split_first()) {
                (
                    TrailerKind::Attribute(method),
                    Some((Trailer { kind: TrailerKind::Call(arguments), .. }, after)),
                ) => {
                    rest = after;
                    self.method(obj, method, arguments, trailer.at)?
                }
                (TrailerKind::Call(_), _) => {
                    self.whole(&obj)?;
                    return Err(self.not_understood(trailer.at, "this call"));
                }
                _ => self.part(obj, trailer)?,
            };
        }
        Ok(obj)
    }

    fn function(&mut self, name: &str, arguments: &[Argument], at: Span) -> Outcome<Obj> {
        match name {
            "dict" => self.dict_call(arguments, at),
            "float" => {
                let [item] = self.positional(arguments, at, "one argument for `float`")?;
                if let Obj::Str(text) = &item.obj {
                    let got = super::error::quoted(text);
                    return match number::float_from_text(text) {
                        Some(value) => Ok(Obj::Float(value)),
                        None => Err(self.expected(at, "a number in the string given to `float`", &got)),
                    };
                }
                Ok(Obj::Float(match self.number(&item.obj, at)? {
                    Number::Int(v) => v as f64,
                    Number::Float(v) => v,
                }))
            }
            "int" => {
                let [item] = self.positional(arguments, at, "one argument for `int`")?;
                let value = match (&item.obj, self.number(&item.obj, at)) {
                    (Obj::Str(text), _) => text.trim().parse().ok(),
                    (_, Ok(Number::Int(v))) => Some(v),
                    // The bounds are powers of two, so that they are exact as floats.
                    (_, Ok(Number::Float(v))) => {
                        (v >= -(2f64.powi(63)) && v < 2f64.powi(63)).then_some(v as i64)
                    }
                    (_, Err(fault)) => return Err(fault),
                };
                let Some(value) = value else {
                    return Err(self.expected(at, "a number of 64 bits given to `int`", "something else"));
                };
                Ok(from_number(Number::Int(value)))
            }
            _ => {
                // A slip in the name of a function that is known is worth a hint.
                let error = self.undefined(name, at, &FUNCTIONS);
                Err(match &error {
                    ConfigError::Undefined { nearest: Some(near), .. }
                        if FUNCTIONS.contains(&near.as_str()) =>
                    {
                        Arc::new(error)
                    }
                    _ => self.not_understood(at, &format!("a call of `{name}`")),
                })
            }
        }
    }

    /// Evaluates `dict(other, key=value, **more)`.
    fn dict_call(&mut self, arguments: &[Argument], at: Span) -> Outcome<Obj> {
        let mut map = Map::default();
        let mut named = Map::default();
        for (i, argument) in arguments.iter().enumerate() {
            let entries = match argument {
                Argument::Positional(expr) if i == 0 => {
                    map.entries = self.spread(expr)?;
                    continue;
                }
                Argument::Positional(expr) => {
                    return Err(self.expected(expr.at, "`key=value`", "another argument without a key"));
                }
                Argument::Keyword(key, key_at, expr) => {
                    let item = self.item(expr);
                    [(key.clone(), Entry { key_at: self.at(*key_at), item })].into_iter().collect()
                }
                Argument::All(expr) => self.spread(expr)?,
            };
            for (key, entry) in entries {
                if let Some(first) = named.entries.get(&key) {
                    let (at, first) = (entry.key_at, first.key_at.clone());
                    return Err(Arc::new(ConfigError::DuplicateKey { at, key, first, bases: false }));
                }
                named.entries.insert(key, entry);
            }
        }
        map.entries.extend(named.entries);
        let id = self.heap.new_map(map);
        self.heap.check(&self.at(at))?;
        Ok(Obj::Map(id))
    }

    fn method(&mut self, obj: Obj, method: &str, arguments: &[Argument], at: Span) -> Outcome<Obj> {
        if let Some(fault) = self.heap.fault(&obj) {
            return Err(fault);
        }
        match (&obj, method) {
            (Obj::Map(id), "update") => {
                let Obj::Map(more) = self.dict_call(arguments, at)? else { return Ok(Obj::None) };
                let entries = std::mem::take(&mut self.heap.map_mut(more).entries);
                self.update(*id, entries, at, 0)?;
                Ok(Obj::None)
            }
            (Obj::Map(id), "merge") if self.heap.map(*id).config => {
                let [other] = self.positional(arguments, at, "a dict for `merge`")?;
                let Obj::Map(over) = self.heap.unshared(&other).obj else {
                    return Err(self.expected(at, "a dict for `merge`", other.obj.type_name()));
                };
                let merged = self.merged(over, *id, at, 0)?;
                self.heap.map_mut(*id).entries = merged;
                Ok(Obj::None)
            }
            (Obj::Map(id), "copy") => {
                let Map { mut entries, config, .. } = self.heap.map(*id).clone();
                if config {
                    entries.values_mut().for_each(|entry| entry.item = self.heap.hooked(&entry.item));
                }
                Ok(Obj::Map(self.heap.new_map(Map { entries, poison: None, config })))
            }
            (Obj::Map(id), "get" | "pop") if arguments.len() == 2 => {
                let [key, default] = self.positional(arguments, at, "a key and a default")?;
                match &key.obj {
                    Obj::Str(name) if self.heap.map(*id).entries.contains_key(&**name) => {
                        let found = self.attribute(&obj, name, at)?;
                        if method == "pop" { self.remove(&obj, &key.obj, at) } else { Ok(found) }
                    }
                    _ => Ok(default.obj),
                }
            }
            (Obj::Map(id), "pop") => {
                let [key] = self.positional(arguments, at, "a key for `pop`")?;
                if let Obj::Str(name) = &key.obj {
                    let map = self.heap.map(*id);
                    if map.config && !map.entries.contains_key(&**name) {
                        return Ok(Obj::None); // MMEngine's dicts have that as default
                    }
                    self.attribute(&obj, name, at)?;
                }
                self.remove(&obj, &key.obj, at)
            }
            (Obj::Seq(_), "pop") if arguments.is_empty() => self.remove(&obj, &Obj::Int(-1), at),
            (Obj::Seq(_), "pop") => {
                let [index] = self.positional(arguments, at, "an index for `pop`")?;
                self.remove(&obj, &index.obj, at)
            }
            (Obj::Seq(id), "append") if !self.heap.seq(*id).tuple => {
                let [item] = self.positional(arguments, at, "one argument for `append`")?;
                self.heap.charge(1, &item.at)?;
                self.heap.seq_mut(*id).items.push(item);
                Ok(Obj::None)
            }
            (Obj::Seq(id), "extend") if !self.heap.seq(*id).tuple => {
                let [more] = self.positional(arguments, at, "one argument for `extend`")?;
                let Obj::Seq(more) = more.obj else {
                    return Err(self.expected(at, "a list for `extend`", more.obj.type_name()));
                };
                self.whole(&Obj::Seq(more))?;
                let items = self.heap.seq(more).items.clone();
                self.heap.charge(items.len(), &self.at(at))?;
                self.heap.seq_mut(*id).items.extend(items);
                Ok(Obj::None)
            }
            _ => Err(self.not_understood(at, &format!("a call of `.{method}` on {}", obj.type_name()))),
        }
    }

    /// Carries out `dict.update`; that of MMEngine's dicts merges dicts into dicts.
    fn update(&mut self, id: MapId, more: Fields, at: Span, depth: usize) -> Outcome<()> {
        if depth > MAX_DEPTH {
            return Err(Arc::new(ConfigError::TooDeep { at: self.at(at), limit: MAX_DEPTH }));
        }
        self.heap.charge(more.len(), &self.at(at))?;
        for (key, entry) in more {
            let map = self.heap.map(id);
            if let Obj::Map(new) = entry.item.obj
                && map.config
                && map.entries.contains_key(&key)
                && let Obj::Map(old) = self.attribute(&Obj::Map(id), &key, at)?
            {
                self.whole(&entry.item.obj)?;
                let more = self.heap.map(new).entries.clone();
                self.update(old, more, at, depth + 1)?;
                continue;
            }
            self.put(id, &key, entry);
        }
        Ok(())
    }

    /// Returns what `merge` of MMEngine's dicts makes of a dict over another. It merges them as a child over its
    /// base, but a dict may replace a value that is not a dict.
    fn merged(&mut self, over: MapId, below: MapId, at: Span, depth: usize) -> Outcome<Fields> {
        if depth > MAX_DEPTH {
            return Err(Arc::new(ConfigError::TooDeep { at: self.at(at), limit: MAX_DEPTH }));
        }
        self.whole(&Obj::Map(over))?;
        self.whole(&Obj::Map(below))?;
        let mut entries = self.heap.map(over).entries.clone();
        self.heap.charge(entries.len(), &self.at(at))?;
        let replaces = match entries.shift_remove(merge::DELETE).map(|entry| entry.item.obj) {
            Some(Obj::Poison(fault) | Obj::Imported(fault)) => return Err(fault),
            flag => flag.is_some_and(|flag| merge::truthy(self.heap, &flag)),
        };
        let mut merged = if replaces { Fields::new() } else { self.heap.map(below).entries.clone() };
        for (key, mut entry) in entries {
            if let Obj::Map(own) = entry.item.obj {
                let fields = match merged.get(&key).map(|entry| &entry.item.obj) {
                    Some(&Obj::Map(old)) => self.merged(own, old, at, depth + 1)?,
                    _ => {
                        let mut fields = self.heap.map(own).entries.clone();
                        fields.shift_remove(merge::DELETE);
                        fields
                    }
                };
                let map = Map { entries: fields, poison: None, config: true };
                entry.item.obj = Obj::Map(self.heap.new_map(map));
            }
            merged.insert(key, entry);
        }
        Ok(merged)
    }

    /// Sets a key. MMEngine's dicts take copies of Python's.
    pub(super) fn put(&mut self, id: MapId, key: &str, mut entry: Entry) {
        if self.heap.map(id).config {
            entry.item = self.heap.hooked(&entry.item);
        }
        if id == self.base {
            self.opened.insert(key.to_owned());
        }
        self.heap.map_mut(id).entries.insert(key.to_owned(), entry);
    }

    /// Returns exactly so many arguments without a key, all of them understood.
    fn positional<const N: usize>(
        &mut self,
        arguments: &[Argument],
        at: Span,
        expected: &str,
    ) -> Outcome<[Item; N]> {
        let mut items = Vec::new();
        for argument in arguments {
            let Argument::Positional(expr) = argument else {
                return Err(self.expected(at, expected, "an argument with a key"));
            };
            let obj = self.eval(expr)?;
            items.push(Item { obj, at: self.at(expr.at) });
        }
        let count = items.len();
        items.try_into().map_err(|_| self.expected(at, expected, &format!("{count} arguments")))
    }
}

/// Returns the error about a call of something imported.
fn called(fault: Fault, trailers: &[Trailer]) -> Fault {
    let ConfigError::Imported { at, name, .. } = &*fault else { return fault };
    if !trailers.iter().any(|trailer| matches!(trailer.kind, TrailerKind::Call(_))) {
        return fault;
    }
    let mut name = name.clone();
    for trailer in trailers {
        match &trailer.kind {
            TrailerKind::Attribute(part) if !name.split('.').any(|known| known == part) => {
                name = format!("{name}.{part}");
            }
            TrailerKind::Attribute(_) => {}
            _ => break,
        }
    }
    Arc::new(ConfigError::NotUnderstood { at: at.clone(), what: format!("a call of `{name}`") })
}
