//! The top-level entries of a configuration.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use indexmap::IndexMap;

use super::error::ConfigError;
use super::heap::{Heap, Item, Obj, class};
use super::load::{Loaded, Loader, check_size, no_dict};
use super::run::Missing;
use super::template;
use super::value::{Dict, Node, Position};

/// The top-level entries of a configuration, bases merged in, each of them a value or the reason why it
/// cannot be read.
///
/// A configuration for MMEngine is a Python file, and much in it is of no concern here: imports, hooks,
/// pipelines made by comprehensions. None of that is executed, and what depends on it is an error, but
/// only for whoever asks for it.
///
/// ```
/// use fallline_config::parse_python;
/// let entries = parse_python(
///     "import os\n\
///      work_dir = os.path.join('runs', 'a')\n\
///      base_lr = 1e-3\n\
///      optimizer = dict(type='AdamW', lr=base_lr / 10)\n",
///     "configs/a.py",
/// )?;
/// let optimizer = entries.get("optimizer")?.unwrap();
/// assert_eq!(optimizer.to_string(), r#"dict(type="AdamW", lr=0.0001)"#);
/// assert_eq!(optimizer.at.to_string(), "configs/a.py:4:13");
/// assert!(entries.get("param_scheduler")?.is_none());
/// assert_eq!(
///     entries.get("work_dir").unwrap_err().to_string(),
///     "configs/a.py:2:12: a call of `os.path.join` is not understood: a configuration holds literals, \
///      `dict(...)`, arithmetic and names assigned earlier, and nothing is executed (MMEngine's \
///      `cfg.dump(\"plain.py\")` writes it resolved)",
/// );
/// # Ok::<(), fallline_config::ConfigError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Entries {
    heap: Arc<Heap>,
    slots: IndexMap<String, Slot>,
    missing: Vec<Missing>,
    at: Position,
    list: Option<Box<Slot>>,
}

#[derive(Debug, Clone)]
struct Slot {
    key_at: Position,
    item: Item,
    node: OnceLock<Result<Node, Box<ConfigError>>>,
}

impl Entries {
    pub(super) fn new(heap: Heap, loaded: Loaded, at: Position) -> Self {
        let slot = |(key, entry): (String, super::heap::Entry)| {
            (key, Slot { key_at: entry.key_at, item: entry.item, node: OnceLock::new() })
        };
        let slots = loaded.fields.into_iter().map(slot).collect();
        let list =
            loaded.bare.map(|item| Box::new(Slot { key_at: item.at.clone(), item, node: OnceLock::new() }));
        Entries { heap: Arc::new(heap), slots, missing: loaded.missing, at, list }
    }

    /// Returns the value of a key; none if there is no such key. It is an error if the value is not understood. So
    /// it is if a missing key may come from something that is not read: a base in another package.
    pub fn get(&self, key: &str) -> Result<Option<&Node>, ConfigError> {
        match (self.get_present(key)?, self.missing.first()) {
            (None, Some(missing)) => Err(missing.error(key)),
            (found, _) => Ok(found),
        }
    }

    /// Returns the same, but a key that is not there is not, whatever may be in the files that are not read. For keys
    /// that no such file has.
    pub fn get_present(&self, key: &str) -> Result<Option<&Node>, ConfigError> {
        self.slots.get(key).map(|slot| self.node(key, slot)).transpose()
    }

    /// Returns what a file holds that is nothing but a list (of schedulers); it has no keys then.
    pub fn list(&self) -> Result<Option<&Node>, ConfigError> {
        self.list.as_deref().map(|slot| self.node("", slot)).transpose()
    }

    /// Returns the value. The tree is built when it is asked for: what is not needed costs nothing, however large.
    fn node<'e>(&'e self, key: &str, slot: &'e Slot) -> Result<&'e Node, ConfigError> {
        let node = slot.node.get_or_init(|| match class(key, &slot.item) {
            Some(node) => Ok(node),
            None => self.heap.export(&slot.item).map_err(Box::new),
        });
        node.as_ref().map_err(|error| ConfigError::clone(error))
    }

    /// Returns the keys in order, whether their values can be read or not. Imported classes are none.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let own = |key: &str, slot: &Slot| {
            !matches!(slot.item.obj, Obj::Imported(_)) || class(key, &slot.item).is_some()
        };
        self.slots.iter().filter(move |(key, slot)| own(key, slot)).map(|(key, _)| key.as_str())
    }

    /// Returns where a key is.
    pub fn key_at(&self, key: &str) -> Option<&Position> {
        self.slots.get(key).map(|slot| &slot.key_at)
    }

    /// Sets the value of a key.
    pub(super) fn insert(&mut self, key: &str, key_at: Position, node: Node) {
        self.slots.insert(key.to_owned(), made(key_at, node));
    }

    /// Returns the configuration as a whole, for a message about what it lacks: its file, if it has one.
    pub fn at(&self) -> &Position {
        &self.at
    }

    /// Returns all of it as one dict; an error if any of it is not understood or not read.
    pub fn to_dict(&self) -> Result<Dict, ConfigError> {
        if let Some(missing) = self.missing.first() {
            return Err(missing.error("*"));
        }
        if let Some(list) = &self.list {
            return Err(no_dict(list.item.at.clone(), list.item.obj.type_name()));
        }
        let mut dict = Dict::new();
        for key in self.keys() {
            if let (Some(node), Some(key_at)) = (self.get_present(key)?, self.key_at(key)) {
                dict.insert_at(key, key_at.clone(), node.clone());
            }
        }
        Ok(dict)
    }
}

/// Returns a slot whose tree exists already: its item is never read.
fn made(key_at: Position, node: Node) -> Slot {
    let item = Item { obj: Obj::None, at: node.at.clone() };
    Slot { key_at, item, node: OnceLock::from(Ok(node)) }
}

/// A dict made by a program, or read from text that holds nothing else.
impl From<Dict> for Entries {
    fn from(dict: Dict) -> Self {
        let mut slots = IndexMap::new();
        for key in dict.keys().map(str::to_owned).collect::<Vec<_>>() {
            let (key_at, node) = (dict.key_at(&key).cloned(), dict.get(&key).cloned());
            if let (Some(key_at), Some(node)) = (key_at, node) {
                slots.insert(key, made(key_at, node));
            }
        }
        Entries { heap: Arc::default(), slots, missing: Vec::new(), at: Position::default(), list: None }
    }
}

/// Reads a configuration file by its extension (`.py`, `.json`, `.toml`, `.yaml`, `.yml`), with its bases.
///
/// `_base_` names a file or a list of files, relative to the file it is in. They are merged as MMEngine 0.10.7 merges
/// them. Two bases must not share a key. A dict merges into a dict, and with `_delete_=True` in it replaces it. All
/// else replaces. A `_delete_` with nothing below it to delete stays in the dict, as it does there.
///
/// ```
/// # use fallline_config::load;
/// # let folder = tempfile::tempdir()?;
/// # let (base, child) = (folder.path().join("base.py"), folder.path().join("child.yaml"));
/// std::fs::write(&base, "optimizer = dict(type='SGD', lr=0.1, momentum=0.9)")?;
/// std::fs::write(&child, "{_base_: base.py, optimizer: {lr: 0.02}}")?;
/// let entries = load(&child)?;
/// let optimizer = entries.get("optimizer")?.unwrap();
/// assert_eq!(optimizer.to_string(), r#"dict(type="SGD", lr=0.02, momentum=0.9)"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn load(path: impl AsRef<Path>) -> Result<Entries, ConfigError> {
    let path = path.as_ref();
    let mut loader = Loader::default();
    let loaded = loader.file(path, None)?;
    let at = Position { file: Some(path.display().to_string().into()), line: 0, column: 0 };
    Ok(Entries::new(loader.heap, loaded, at))
}

/// Reads the text of a Python configuration as if it were in the file `name`: positions name it, and a
/// `_base_` is relative to it.
pub fn parse_python(source: &str, name: impl AsRef<Path>) -> Result<Entries, ConfigError> {
    let name = name.as_ref();
    let at = Position { file: Some(name.display().to_string().into()), line: 0, column: 0 };
    check_size(source.len(), &at)?;
    let mut loader = Loader::default();
    let folder = name.parent().unwrap_or(Path::new(""));
    let loaded = loader.module(&template::environment(source), &at, folder)?;
    Ok(Entries::new(loader.heap, loaded, at))
}
