//! The values of all the files of one configuration while it is read.
//!
//! Python's lists and dicts are shared, not copied: after `a = dict(lr=1); b = dict(optimizer=a)` a change
//! of `a` shows in `b`. So they live here and are referred to by index, which also means that nothing
//! deeply nested is ever dropped or compared by recursion.

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;

use super::error::ConfigError;
use super::limits::MAX_DEPTH;
use super::value::{Dict, Node, Position, Value};

/// Why a value cannot be had.
pub(super) type Fault = Arc<ConfigError>;

/// A value, or why it cannot be had: an error for whoever needs it, and for nobody else.
pub(super) type Outcome<T> = Result<T, Fault>;

#[derive(Debug, Clone)]
pub(super) enum Obj {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Arc<str>),
    Seq(SeqId),
    Map(MapId),
    /// A value that is not understood: an error for whoever needs it.
    Poison(Fault),
    /// A class, function or module from elsewhere, and the error about it.
    Imported(Fault),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SeqId(usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MapId(usize);

#[derive(Debug, Clone)]
pub(super) struct Item {
    pub obj: Obj,
    pub at: Position,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key_at: Position,
    pub item: Item,
}

pub(super) type Fields = IndexMap<String, Entry>;

#[derive(Debug, Clone)]
pub(super) struct Seq {
    pub items: Vec<Item>,
    pub tuple: bool,
    /// Set if something may have changed it that was skipped.
    pub poison: Option<Fault>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Map {
    pub entries: Fields,
    pub poison: Option<Fault>,
    /// Whether it is one of MMEngine's dicts, which are those that come from a base.
    pub config: bool,
}

/// How many elements (and sixteenths of a byte of text) one configuration may make: `a = a + a` doubles.
const BUDGET: usize = 1 << 22;
/// How many one value may come to when written out: `a = [a, a]` doubles as well.
const VALUE_BUDGET: usize = 1 << 20;

#[derive(Debug, Clone, Default)]
pub(super) struct Heap {
    seqs: Vec<Seq>,
    maps: Vec<Map>,
    spent: usize,
    /// What a value that is not known may be or hold, by the address of its fault (kept, so that it is no
    /// other's).
    shared: HashMap<usize, (Fault, Vec<Obj>)>,
}

/// The keys whose value may be something imported: a class, or a type of torch. It is read as its name, which is
/// its last part; of anything else imported the value would be needed.
const NAMED: [&str; 3] = ["type", "constructor", "dtype"];

/// Returns the name of a class under a key that takes one.
pub(super) fn class(key: &str, item: &Item) -> Option<Node> {
    let Obj::Imported(fault) = &item.obj else { return None };
    let ConfigError::Imported { name, .. } = &**fault else { return None };
    let last = name.rsplit('.').next().unwrap_or(name);
    NAMED.contains(&key).then(|| Node::new(last, item.at.clone()))
}

fn address(fault: &Fault) -> usize {
    Arc::as_ptr(fault).addr()
}

impl Obj {
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Obj::None => "None",
            Obj::Bool(_) => "bool",
            Obj::Int(_) => "int",
            Obj::Float(_) => "float",
            Obj::Str(_) => "str",
            Obj::Seq(_) => "list",
            Obj::Map(_) => "dict",
            Obj::Poison(_) => "something not understood",
            Obj::Imported(_) => "something imported",
        }
    }
}

impl Heap {
    pub(super) fn seq(&self, id: SeqId) -> &Seq {
        &self.seqs[id.0]
    }

    pub(super) fn seq_mut(&mut self, id: SeqId) -> &mut Seq {
        &mut self.seqs[id.0]
    }

    pub(super) fn map(&self, id: MapId) -> &Map {
        &self.maps[id.0]
    }

    pub(super) fn map_mut(&mut self, id: MapId) -> &mut Map {
        &mut self.maps[id.0]
    }

    pub(super) fn new_seq(&mut self, items: Vec<Item>, tuple: bool) -> Obj {
        self.spent += 1 + items.len();
        self.seqs.push(Seq { items, tuple, poison: None });
        Obj::Seq(SeqId(self.seqs.len() - 1))
    }

    pub(super) fn new_map(&mut self, map: Map) -> MapId {
        self.spent += 1 + map.entries.len();
        self.maps.push(map);
        MapId(self.maps.len() - 1)
    }

    /// Accounts for something about to be made; an error if it is too much.
    pub(super) fn charge(&mut self, elements: usize, at: &Position) -> Result<(), Fault> {
        self.spent = self.spent.saturating_add(elements);
        self.check(at)
    }

    pub(super) fn check(&self, at: &Position) -> Result<(), Fault> {
        if self.spent <= BUDGET {
            return Ok(());
        }
        Err(Arc::new(ConfigError::TooLarge {
            at: at.clone(),
            limit: format!("{BUDGET} values in a configuration"),
        }))
    }

    /// Returns what a value cannot be had for, if it is poison itself.
    pub(super) fn fault(&self, obj: &Obj) -> Option<Fault> {
        match obj {
            Obj::Poison(fault) | Obj::Imported(fault) => Some(fault.clone()),
            Obj::Seq(id) => self.seq(*id).poison.clone(),
            Obj::Map(id) => self.map(*id).poison.clone(),
            _ => None,
        }
    }

    /// Notes that a value that is not known may be, or hold, one of these.
    pub(super) fn share(&mut self, fault: &Fault, objs: Vec<Obj>) {
        let mutable = |obj: &Obj| matches!(obj, Obj::Seq(_) | Obj::Map(_) | Obj::Poison(_));
        let objs: Vec<Obj> = objs.into_iter().filter(mutable).collect();
        if !objs.is_empty() {
            self.shared.entry(address(fault)).or_insert_with(|| (fault.clone(), Vec::new())).1.extend(objs);
        }
    }

    /// Marks all lists and dicts that can be reached from a value as changed in ways unknown.
    pub(super) fn poison(&mut self, obj: &Obj, fault: &Fault) {
        let mut todo = vec![obj.clone()];
        while let Some(obj) = todo.pop() {
            match obj {
                Obj::Seq(id) if self.seq(id).poison.is_none() => {
                    let seq = self.seq_mut(id);
                    seq.poison = Some(fault.clone());
                    todo.extend(seq.items.iter().map(|item| item.obj.clone()));
                }
                Obj::Map(id) if self.map(id).poison.is_none() => {
                    let map = self.map_mut(id);
                    map.poison = Some(fault.clone());
                    todo.extend(map.entries.values().map(|entry| entry.item.obj.clone()));
                }
                // Taken out: what they are is marked once.
                Obj::Poison(old) => {
                    todo.extend(self.shared.remove(&address(&old)).into_iter().flat_map(|s| s.1))
                }
                _ => {}
            }
        }
    }

    /// Returns a copy that shares no list or dict with anything, not within itself either, and whose dicts are
    /// MMEngine's; poison stays poison.
    pub(super) fn unshared(&mut self, item: &Item) -> Item {
        self.copied(item, true, 0)
    }

    /// Returns what a dict of MMEngine makes of a value put into it: a copy, but for what is one already.
    pub(super) fn hooked(&mut self, item: &Item) -> Item {
        self.copied(item, false, 0)
    }

    fn copied(&mut self, item: &Item, all: bool, depth: usize) -> Item {
        let at = item.at.clone();
        let checked = if depth > MAX_DEPTH {
            Err(Arc::new(ConfigError::TooDeep { at: at.clone(), limit: MAX_DEPTH }))
        } else {
            self.charge(1, &at)
        };
        let obj = match (&item.obj, checked) {
            (Obj::Seq(_) | Obj::Map(_), Err(fault)) => Obj::Poison(fault),
            (Obj::Seq(id), _) => {
                let mut seq = self.seq(*id).clone();
                seq.items = seq.items.iter().map(|item| self.copied(item, all, depth + 1)).collect();
                self.seqs.push(seq);
                Obj::Seq(SeqId(self.seqs.len() - 1))
            }
            (Obj::Map(id), _) if all || !self.map(*id).config => {
                let mut map = self.map(*id).clone();
                map.entries
                    .values_mut()
                    .for_each(|entry| entry.item = self.copied(&entry.item, all, depth + 1));
                map.config = true;
                Obj::Map(self.new_map(map))
            }
            (other, _) => other.clone(),
        };
        Item { obj, at }
    }

    /// Imports a tree as values of this heap, with a say in what a string becomes.
    pub(super) fn import<F>(&mut self, node: &Node, string: &mut F) -> Item
    where
        F: FnMut(&mut Heap, &str, &Position) -> Obj,
    {
        let obj = match &node.value {
            Value::None => Obj::None,
            Value::Bool(v) => Obj::Bool(*v),
            Value::Int(v) => Obj::Int(*v),
            Value::Float(v) => Obj::Float(*v),
            Value::Str(v) => string(self, v, &node.at),
            Value::List(v) => {
                let items = v.iter().map(|node| self.import(node, string)).collect();
                self.new_seq(items, false)
            }
            Value::Dict(dict) => {
                let mut map = Map::default();
                for (key, node) in dict.iter() {
                    let key_at = dict.key_at(key).cloned().unwrap_or_default();
                    let item = self.import(node, string);
                    map.entries.insert(key.to_owned(), Entry { key_at, item });
                }
                Obj::Map(self.new_map(map))
            }
        };
        Item { obj, at: node.at.clone() }
    }

    /// Returns a value as a separate tree; an error if any of it is poison, or if it is too deep or too large.
    pub(super) fn export(&self, item: &Item) -> Result<Node, ConfigError> {
        self.tree(item, 0, &mut 0)
    }

    fn tree(&self, item: &Item, depth: usize, spent: &mut usize) -> Result<Node, ConfigError> {
        if let Some(fault) = self.fault(&item.obj) {
            return Err(ConfigError::clone(&fault));
        }
        let at = || item.at.clone();
        *spent += 1;
        if *spent > VALUE_BUDGET {
            return Err(ConfigError::TooLarge {
                at: at(),
                limit: format!("{VALUE_BUDGET} values in one entry"),
            });
        }
        if depth > MAX_DEPTH {
            return Err(ConfigError::TooDeep { at: at(), limit: MAX_DEPTH });
        }
        let value = match &item.obj {
            Obj::None | Obj::Poison(_) | Obj::Imported(_) => Value::None,
            Obj::Bool(v) => Value::Bool(*v),
            Obj::Int(v) => Value::Int(*v),
            Obj::Float(v) => Value::Float(*v),
            Obj::Str(v) => {
                *spent += v.len() / 16;
                Value::Str(v.as_ref().to_owned())
            }
            Obj::Seq(id) => {
                let nodes = self.seq(*id).items.iter().map(|item| self.tree(item, depth + 1, spent));
                Value::List(nodes.collect::<Result<_, _>>()?)
            }
            Obj::Map(id) => {
                let mut dict = Dict::new();
                for (key, entry) in &self.map(*id).entries {
                    let node = match class(key, &entry.item) {
                        Some(node) => node,
                        None => self.tree(&entry.item, depth + 1, spent)?,
                    };
                    dict.insert_at(key.as_str(), entry.key_at.clone(), node);
                }
                Value::Dict(dict)
            }
        };
        Ok(Node { value, at: at() })
    }
}
