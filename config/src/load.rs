//! Files with their bases.

use fallline_core::files;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use super::ast::{Expr, Import, Statement, StatementKind, Target};
use super::cursor::{at_of, position};
use super::error::ConfigError;
use super::formats;
use super::heap::{Fields, Heap, Item, Map, MapId, Obj};
use super::limits::{MAX_BYTES, MAX_FILES};
use super::merge;
use super::run::{Interpreter, Missing};
use super::statement;
use super::template::{self, Filled};
use super::value::{Node, Position, Value};

/// What reading a text gave.
pub(super) struct Loaded {
    pub fields: Fields,
    pub missing: Vec<Missing>,
    /// Whether all of it was understood.
    pub complete: bool,
    /// What a file holds that is nothing but a list.
    pub bare: Option<Item>,
}

#[derive(Default)]
pub(super) struct Loader {
    pub heap: Heap,
    /// The files being read, each a base of the one before it: as the system knows them, and as asked for.
    chain: Vec<(PathBuf, String)>,
    /// How many files were read.
    files: usize,
}

impl Loader {
    /// Reads a file that the caller (no `asked_by`) or another file names.
    pub(super) fn file(&mut self, path: &Path, asked_by: Option<&Position>) -> Result<Loaded, ConfigError> {
        let name = clean(path);
        let file = Position { file: Some(name.as_str().into()), line: 0, column: 0 };
        let file_format = file_format(path, &name)?;
        let io = |error: std::io::Error| ConfigError::Io {
            file: name.clone(),
            problem: error.to_string(),
            asked_by: asked_by.cloned(),
        };
        let place = path.canonicalize().map_err(io)?;
        let at = || asked_by.unwrap_or(&file).clone();
        if let Some(begin) = self.chain.iter().position(|(other, _)| *other == place) {
            let names = self.chain[begin..]
                .iter()
                .map(|(_, name)| name.as_str())
                .chain([self.chain[begin].1.as_str()]);
            let chain = names.collect::<Vec<_>>().join(" -> ");
            return Err(ConfigError::Cycle { at: at(), chain });
        }
        self.files += 1;
        if self.files > MAX_FILES || self.chain.len() >= MAX_FILES / 8 {
            return Err(ConfigError::TooLarge {
                at: at(),
                limit: format!("{MAX_FILES} files, or {} in a row", MAX_FILES / 8),
            });
        }
        let bytes = files::read(path, MAX_BYTES as u64).map_err(|error| match error.kind() {
            ErrorKind::FileTooLarge => too_large(&file),
            _ => io(error),
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            io(std::io::Error::other(format!("not UTF-8 after byte {}", error.utf8_error().valid_up_to())))
        })?;
        self.chain.push((place, name.clone()));
        let text = template::environment(&text);
        let folder = path.parent().unwrap_or(Path::new(""));
        let loaded = match file_format {
            None => self.module(&text, &file, folder),
            Some(parse) => self.data(&parse(&template::mask(&text), &file)?, folder),
        };
        self.chain.pop();
        loaded
    }

    /// Reads a module of Python.
    pub(super) fn module(
        &mut self,
        source: &str,
        file: &Position,
        folder: &Path,
    ) -> Result<Loaded, ConfigError> {
        let statements = statement::module(source, file)?;
        let names = match base_expression(&statements)? {
            Some(expr) => {
                let base = self.heap.new_map(Map::default());
                let item = Interpreter::new(&mut self.heap, file, base, &[]).item(expr);
                self.heap.export(&item)?
            }
            None => Node::from(Value::List(Vec::new())),
        };
        let (base, base_missing) = self.bases(&names, folder)?;
        // As in MMEngine, before the first statement, wherever the block stands.
        let mut taken = Vec::new();
        for statement in &statements {
            if let StatementKind::ReadBase(imports) = &statement.kind {
                for (at, import) in imports {
                    taken.push((*at, import, self.imported(import, &position(file, *at), folder)?));
                }
            }
        }
        let mut interpreter = Interpreter::new(&mut self.heap, file, base, &base_missing);
        for (at, import, fields) in taken {
            match fields {
                Some(Loaded { fields, missing, .. }) => {
                    interpreter.take_base(import, at, &fields);
                    interpreter.missing.extend(missing);
                }
                None => interpreter.miss_base(import, at),
            }
        }
        let mut bare = None;
        for statement in &statements {
            match &statement.kind {
                StatementKind::Assign(targets, _) if is_base(&targets[0]) => {}
                // A file may be nothing but an expression: a bare dict.
                StatementKind::Evaluate(expr) if statements.len() == 1 => bare = Some(interpreter.item(expr)),
                _ => interpreter.run(statement)?,
            }
        }
        let mut child = std::mem::take(&mut interpreter.names);
        let (missing, complete) = (std::mem::take(&mut interpreter.missing), interpreter.complete);
        if let Some(Item { obj: Obj::Map(id), .. }) = bare {
            child.clone_from(&self.heap.map(id).entries);
        }
        let bare = bare.filter(|item| matches!(item.obj, Obj::Seq(_)));
        Ok(Loaded { complete, bare, ..self.merged(child, base, base_missing, missing) })
    }

    /// Reads the file that an import under `with read_base():` names; none if it is in a package that is not here.
    fn imported(
        &mut self,
        import: &Import,
        at: &Position,
        folder: &Path,
    ) -> Result<Option<Loaded>, ConfigError> {
        let module = import.module.trim_start_matches('.');
        let above = import.module.len() - module.len();
        let mut path = match above {
            0 => match package(module, folder) {
                Some(path) => path,
                None => return Ok(None),
            },
            above => (1..above).fold(folder.to_owned(), |path, _| path.join("..")),
        };
        path.extend(module.split('.').skip(usize::from(above == 0)));
        path.as_mut_os_string().push(".py");
        if above == 0 && !path.is_file() {
            return Ok(None);
        }
        let mut loaded = self.file(&path, Some(at))?;
        // What names share in that file, they share no longer in this one.
        for entry in loaded.fields.values_mut() {
            entry.item = self.heap.unshared(&entry.item);
        }
        Ok(Some(loaded))
    }

    /// Reads a tree from another notation.
    fn data(&mut self, root: &Node, folder: &Path) -> Result<Loaded, ConfigError> {
        let none = Node::from(Value::List(Vec::new()));
        let names = match &root.value {
            Value::Dict(dict) => dict.get("_base_").unwrap_or(&none),
            Value::List(_) => &none,
            _ => return Err(no_dict(root.at.clone(), root.value.type_name())),
        };
        let (base, missing) = self.bases(names, folder)?;
        let item = self.heap.import(root, &mut |heap: &mut Heap, text: &str, at: &Position| {
            let outcome = match template::fill(text, at) {
                Ok(Filled::Text(text)) => Ok(Obj::Str(text.into())),
                Ok(Filled::Base(path)) => {
                    Interpreter::new(heap, at, base, &missing).in_base(&path, at_of(at))
                }
                Err(error) => Err(error.into()),
            };
            outcome.unwrap_or_else(Obj::Poison)
        });
        let Obj::Map(id) = item.obj else {
            let empty = self.merged(Fields::new(), base, missing, Vec::new());
            return Ok(Loaded { bare: Some(item), ..empty });
        };
        let child = self.heap.map(id).entries.clone();
        Ok(self.merged(child, base, missing, Vec::new()))
    }

    /// Merges a file's fields over its bases.
    fn merged(
        &mut self,
        mut child: Fields,
        base: MapId,
        mut base_missing: Vec<Missing>,
        more: Vec<Missing>,
    ) -> Loaded {
        child.retain(|key, _| !key.starts_with("__") && key != "_base_" && key != "_deprecation_");
        let Map { entries: mut below, poison, .. } = self.heap.map(base).clone();
        if let Some(fault) = poison {
            below.values_mut().for_each(|entry| entry.item.obj = Obj::Poison(fault.clone()));
            base_missing.push(Missing::Change(fault));
        }
        let fields = merge::over(&mut self.heap, &child, &below, &base_missing, 0);
        Loaded { fields, missing: [base_missing, more].concat(), complete: true, bare: None }
    }

    /// Reads the bases that a `_base_` names, into one dict.
    fn bases(&mut self, names: &Node, folder: &Path) -> Result<(MapId, Vec<Missing>), ConfigError> {
        let list = match &names.value {
            Value::List(list) => list.as_slice(),
            _ => std::slice::from_ref(names),
        };
        let mut map = Map { config: true, ..Map::default() };
        let mut missing = Vec::new();
        for Node { value, at } in list {
            let Value::Str(name) = value else {
                let (expected, got) = ("a file name, or a list of them, for `_base_`", value.type_name());
                return Err(ConfigError::Type {
                    at: at.clone(),
                    expected: expected.to_owned(),
                    got: got.to_owned(),
                });
            };
            if name.contains("::") {
                missing.push(Missing::Base(at.clone(), name.clone()));
                continue;
            }
            let loaded = self.file(&folder.join(name), Some(at))?;
            if let Some(list) = loaded.bare {
                return Err(no_dict(list.at, list.obj.type_name()));
            }
            missing.extend(loaded.missing);
            for (key, entry) in loaded.fields {
                if matches!(entry.item.obj, Obj::Imported(_)) {
                    continue;
                }
                if let Some(first) = map.entries.get(&key) {
                    let (at, first) = (entry.key_at, first.key_at.clone());
                    return Err(ConfigError::DuplicateKey { at, key, first, bases: true });
                }
                map.entries.insert(key, entry);
            }
        }
        Ok((self.heap.new_map(map), missing))
    }
}

/// Returns the error of a file that is no dict, where one is needed.
pub(super) fn no_dict(at: Position, got: &str) -> ConfigError {
    ConfigError::Type { at, expected: "a dict at the top".to_owned(), got: got.to_owned() }
}

pub(super) fn check_size(bytes: usize, file: &Position) -> Result<(), ConfigError> {
    if bytes <= MAX_BYTES { Ok(()) } else { Err(too_large(file)) }
}

fn too_large(file: &Position) -> ConfigError {
    ConfigError::TooLarge { at: file.clone(), limit: format!("{} MiB of text", MAX_BYTES >> 20) }
}

type FileFormat = fn(&str, &Position) -> Result<Node, ConfigError>;

/// Returns the parser for a file's extension; none for Python.
fn file_format(path: &Path, name: &str) -> Result<Option<FileFormat>, ConfigError> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("py") => Ok(None),
        Some("json") => Ok(Some(formats::json)),
        Some("toml") => Ok(Some(formats::toml)),
        Some("yaml" | "yml") => Ok(Some(formats::yaml)),
        other => Err(ConfigError::Extension {
            file: name.to_owned(),
            got: other.map_or("none".to_owned(), |e| format!(".{e}")),
        }),
    }
}

/// Returns the folder of the package that an absolute module begins with, if the file is in it.
fn package(module: &str, folder: &Path) -> Option<PathBuf> {
    let name = module.split('.').next().unwrap_or_default();
    let folder = std::path::absolute(folder).ok()?;
    let found = folder.ancestors().find(|folder| folder.file_name().is_some_and(|own| own == name));
    found.map(Path::to_owned)
}

fn is_base(target: &Target) -> bool {
    matches!(target, Target::Name(name, _) if name == "_base_")
}

/// Returns what the first assignment of `_base_` assigns.
fn base_expression(statements: &[Statement]) -> Result<Option<&Expr>, ConfigError> {
    for statement in statements {
        match &statement.kind {
            StatementKind::Assign(targets, expr) if is_base(&targets[0]) => return Ok(Some(expr)),
            StatementKind::Skipped(skipped) if skipped.bound.iter().any(|name| name == "_base_") => {
                return Err(skipped.error.clone());
            }
            _ => {}
        }
    }
    Ok(None)
}

/// Returns a path as a message shows it: without `.` and, where that is plain, without `..`.
fn clean(path: &Path) -> String {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out.display().to_string()
}
