//! Reading configurations: one tree, whatever the file format, in which each value knows its position.
//!
//! [`load`] reads a file with its bases: Python as MMEngine writes it, JSON, TOML or YAML. [`parse_inline`] and
//! [`Entries::inline`] read a text from a command line. What is read is a [`Value`]; what is wrong is a
//! [`ConfigError`], one line that names file, line and column. Nothing is ever executed. Of Python, literals,
//! arithmetic, `dict(...)`, names assigned earlier and changes of dicts and lists are evaluated. Everything else is
//! skipped until something that is asked for depends on it ([`Entries`]).
//!
//! # The Python that is understood
//! - `None`, booleans, integers of 64 bits (`1_000`, `0xff`), floats, and strings except for f-strings and bytes;
//! - lists, tuples (lists as well, once read), dicts with strings as keys, `dict(a, b=1, **c)`, `*` and `**` inside
//!   brackets;
//! - `+ - * / // % **` on numbers with Python's meaning, `+` and `*` on strings and lists;
//!   `float(…)`, also of `"inf"` and `"nan"`, and `int(…)`;
//! - assignments to names, keys, indices and attributes, several at once (`a = b = 1`, `a, b = 1, 2`), `+=`,
//!   `del`, and `.update`, `.append`, `.extend`, `.pop`, `.get`, `.copy`. Lists and dicts are shared between names
//!   as in Python;
//! - `_base_ = "file.py"` or a list of files; then `_base_.x`, `{{_base_.x}}` (also in quotes) for what is in them,
//!   and changes of `_base_.x` itself. A dict from there behaves as MMEngine's: `.update` merges dicts into dicts,
//!   and what is put into it is copied;
//! - `with read_base():` and the imports under it, which are files: relative to the one they are in, or in a
//!   package that this one is in. An imported class is the last part of its name, as the value of `type`,
//!   `constructor` or `dtype`. Nothing is imported;
//! - in strings, `{{fileDirname}}`, `{{fileBasename}}`, `{{fileBasenameNoExtension}}`, `{{fileExtname}}`; anywhere,
//!   `{{$VARIABLE:default}}` for an environment variable.
//!
//! # What is skipped
//! Whatever a statement that is not understood may bind or change counts as not understood from there on. That is
//! the names it assigns, and what it calls a method on or hands to a function, also under other names. A file that
//! is no Python at all (a string or bracket without its end, a line that is no statement) is refused.
//!
//! # Bounds
//! The limits are a nesting depth of 64, 4 MiB of text a file, 512 files, and a million values an entry. More is an
//! error, so that no text can exhaust the stack or the memory.
//!
//! An internal crate: depend on `fallline`, which re-exports it as `fallline::registry::config`.
//!
//! # Features
//! `toml` and `yaml` read these formats; both are on by default. Python and JSON are always read.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod ast;
mod calls;
mod change;
mod cursor;
mod effects;
mod entries;
mod error;
mod eval;
mod expr;
mod formats;
mod heap;
mod inline;
mod lex;
mod limits;
mod literal;
mod load;
mod merge;
mod number;
mod parser;
#[cfg(any(feature = "toml", feature = "yaml"))]
mod places;
mod run;
mod statement;
mod strings;
mod taint;
mod template;
mod value;
#[cfg(feature = "yaml")]
mod yaml_places;

pub use change::Change;
pub use entries::{Entries, load, parse_python};
pub use error::ConfigError;
pub use inline::parse_inline;
pub use value::{Dict, Node, Position, Value};
