//! What can be wrong with a configuration.

use super::value::Position;

/// Why a configuration, or one value of it, cannot be read. Each renders as one line that names the
/// place, what was expected and what was found there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Text that does not have the form it must have.
    #[error("{at}: expected {expected}, got {got}")]
    Syntax {
        /// Where.
        at: Position,
        /// What could be there.
        expected: String,
        /// What is there.
        got: String,
    },
    /// A bracket or a string without an end.
    #[error("{at}: {what} opened here is never closed")]
    Unclosed {
        /// Where it begins.
        at: Position,
        /// The bracket or quotes.
        what: String,
    },
    /// Python that this reader does not evaluate.
    #[error(
        "{at}: {what} is not understood: a configuration holds literals, `dict(...)`, arithmetic and names \
         assigned earlier, and nothing is executed (MMEngine's `cfg.dump(\"plain.py\")` writes it resolved)"
    )]
    NotUnderstood {
        /// Where.
        at: Position,
        /// What it is.
        what: String,
    },
    /// A name that nothing before it assigns.
    #[error("{at}: `{name}` is not defined{}", did_you_mean(nearest))]
    Undefined {
        /// Where it is used.
        at: Position,
        /// The name.
        name: String,
        /// A defined name like it.
        nearest: Option<String>,
    },
    /// A key that a dict lacks.
    #[error("{at}: there is no key `{key}`{}", did_you_mean(nearest))]
    MissingKey {
        /// Where it is asked for.
        at: Position,
        /// The key.
        key: String,
        /// A key there like it.
        nearest: Option<String>,
    },
    /// A value of a type that does not fit.
    #[error("{at}: expected {expected}, got {got}")]
    Type {
        /// Where.
        at: Position,
        /// What would fit.
        expected: String,
        /// What is there.
        got: String,
    },
    /// Arithmetic without a result, or an index outside its list.
    #[error("{at}: {problem}")]
    Arithmetic {
        /// Where.
        at: Position,
        /// What went wrong.
        problem: String,
    },
    /// A class or function from a module.
    #[error(
        "{at}: `{name}` is imported from `{module}`, and nothing is imported here: only a `type` may be named by \
         a class (MMEngine's `cfg.dump(\"plain.py\")` writes it resolved)"
    )]
    Imported {
        /// Where it is used.
        at: Position,
        /// The imported name.
        name: String,
        /// The module it is from.
        module: String,
    },
    /// Something that a configuration gets from another by importing it.
    #[error(
        "{at}: `{key}` may come from `{module}` through an import, and nothing is imported here: put it under \
         `with read_base():`, or use `_base_ = \"file.py\"`"
    )]
    ReadBase {
        /// The import.
        at: Position,
        /// What would come from there.
        key: String,
        /// The module.
        module: String,
    },
    /// Something that may come from, or merge with, a base in an installed package.
    #[error(
        "{at}: `{key}` may come from `{base}`, a base in another package, which is not read: copy that file \
         beside this one, or set `_delete_=True` in the dict if it needs nothing from there (MMEngine's \
         `cfg.dump(\"plain.py\")` writes it resolved)"
    )]
    ForeignBase {
        /// The entry of `_base_`.
        at: Position,
        /// What would come from there.
        key: String,
        /// The base.
        base: String,
    },
    /// A template whose environment variable is missing.
    #[error("{at}: environment variable `{name}` is not set, and `{{{{${name}:}}}}` names no default")]
    Environment {
        /// The string it is in.
        at: Position,
        /// The variable.
        name: String,
    },
    /// A template of an environment variable in what was saved, where all of them had been replaced.
    #[error(
        "{at}: `{{{{${name}}}}}` in a saved configuration: environment variables are replaced in files and arguments alone"
    )]
    Saved {
        /// The template.
        at: Position,
        /// The variable.
        name: String,
    },
    /// A file that cannot be read.
    #[error("{file}: cannot be read: {problem}{}", asked_by.as_ref().map(|at| format!(" (a base of {at})")).unwrap_or_default())]
    Io {
        /// The file.
        file: String,
        /// What the system said.
        problem: String,
        /// The `_base_` that names it.
        asked_by: Option<Position>,
    },
    /// A file of a kind that is not read.
    #[error("{file}: expected a .py, .json, .toml, .yaml or .yml file, got {got}")]
    Extension {
        /// The file.
        file: String,
        /// Its extension.
        got: String,
    },
    /// Files that are each other's base.
    #[error("{at}: `_base_` goes round in a circle: {chain}")]
    Cycle {
        /// The `_base_` that closes it.
        at: Position,
        /// The files, from the first to itself.
        chain: String,
    },
    /// A key twice, where it may be there only once.
    #[error("{at}: `{key}` is here and at {first}{}", if *bases { ": bases merged together must not share a key" } else { "" })]
    DuplicateKey {
        /// The second one.
        at: Position,
        /// The key.
        key: String,
        /// The first one.
        first: Position,
        /// Whether it is in two bases of one file.
        bases: bool,
    },
    /// A dict over something in the base that is none.
    #[error(
        "{at}: `{key}` is a dict here but {base_type} in the base ({base}): set `_delete_=True` in it to \
         replace the base's value"
    )]
    Inherit {
        /// The dict.
        at: Position,
        /// Its key.
        key: String,
        /// The base's value.
        base: Position,
        /// The type of that.
        base_type: &'static str,
    },
    /// Brackets, dicts or bases nested too deep, or a value that holds itself.
    #[error("{at}: nested deeper than {limit} levels")]
    TooDeep {
        /// Where.
        at: Position,
        /// The bound.
        limit: usize,
    },
    /// More text, values or files than a configuration can need.
    #[error("{at}: more than {limit}")]
    TooLarge {
        /// Where.
        at: Position,
        /// The bound, with its unit.
        limit: String,
    },
    /// Text that is not JSON, TOML or YAML.
    #[error("{at}: not valid {file_format}: {problem}")]
    FileFormat {
        /// Where.
        at: Position,
        /// `"JSON"`, `"TOML"` or `"YAML"`.
        file_format: &'static str,
        /// What its parser said.
        problem: String,
    },
}

impl ConfigError {
    /// Returns the place it is about; none for a file that is missing or of the wrong kind.
    pub fn at(&self) -> Option<&Position> {
        use ConfigError::*;
        match self {
            Syntax { at, .. } | Unclosed { at, .. } | NotUnderstood { at, .. } | Undefined { at, .. } => {
                Some(at)
            }
            MissingKey { at, .. } | Type { at, .. } | Arithmetic { at, .. } | Imported { at, .. } => Some(at),
            ReadBase { at, .. } | ForeignBase { at, .. } | Environment { at, .. } | Saved { at, .. } => {
                Some(at)
            }
            DuplicateKey { at, .. } | Inherit { at, .. } | TooDeep { at, .. } | TooLarge { at, .. } => {
                Some(at)
            }
            Cycle { at, .. } | FileFormat { at, .. } => Some(at),
            Io { .. } | Extension { .. } => None,
        }
    }
}

fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// Returns the candidate nearest to a name, if it is near enough to be what was meant.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let length = name.chars().count();
    if length > 64 {
        return None; // not a name that somebody mistyped, and the table of distances is quadratic
    }
    let reach = (length / 3).max(1);
    let distance = |candidate: &str| strsim::osa_distance(name, candidate);
    // A name of another length by more than the reach cannot be within it: not worth the table.
    let near = |c: &&str| c.chars().count().abs_diff(length) <= reach && distance(c) <= reach;
    candidates.into_iter().filter(near).min_by_key(|c| distance(c)).map(str::to_owned)
}

/// Returns text from a file, quoted for a message: one line, and short.
pub(super) fn quoted(text: &str) -> String {
    let mut short = String::new();
    for c in text.chars().take(40) {
        if c.is_control() { short.extend(c.escape_default()) } else { short.push(c) }
    }
    let more = if text.chars().nth(40).is_some() { "…" } else { "" };
    format!("`{short}{more}`")
}
