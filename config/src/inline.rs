//! Configurations in a command line.

use std::path::Path;

use super::entries::Entries;
use super::error::ConfigError;
use super::formats;
use super::heap::{Heap, Map};
use super::load::{Loader, check_size};
use super::run::Interpreter;
use super::statement;
use super::template;
use super::value::{Dict, Node, Position, Value};

/// What an inline text turned out to be.
enum Inline {
    Value(Node),
    Module(Entries),
}

/// Reads a configuration given as text, as a whole: all of it must be understood.
///
/// It is a bare name, a Python literal, JSON, or the lines of a Python, TOML or YAML file.
///
/// ```
/// use fallline_config::parse_inline;
/// let expected = parse_inline("dict(type='AdamW', lr=1e-4, fused=True)")?;
/// for text in [
///     r#"{"type": "AdamW", "lr": 1e-4, "fused": true}"#,
///     "type = 'AdamW'\nlr = 1e-3 / 10\nfused = True",
///     "type = \"AdamW\"\nlr = 1e-4\nfused = true",
///     "type: AdamW\nlr: 1e-4\nfused: true",
/// ] {
///     assert_eq!(parse_inline(text)?, expected, "{text}");
/// }
/// assert_eq!(parse_inline("mmdet::AdamW")?, parse_inline("dict(type='mmdet::AdamW')")?);
/// assert_eq!(
///     parse_inline("dict(type='AdamW' lr=0.1)").unwrap_err().to_string(),
///     "line 1, column 19: expected `,` or `)`, got `lr`",
/// );
/// # Ok::<(), fallline_config::ConfigError>(())
/// ```
pub fn parse_inline(text: &str) -> Result<Node, ConfigError> {
    match read(text)? {
        Inline::Value(node) => Ok(node),
        Inline::Module(entries) => Ok(Node::new(entries.to_dict()?, Position::default())),
    }
}

impl Entries {
    /// Reads a configuration given as text, as [`parse_inline`] does. Lines of a Python file may hold what is not
    /// understood, as in a file. A value that is no dict is an error.
    pub fn inline(text: &str) -> Result<Entries, ConfigError> {
        match read(text)? {
            Inline::Module(entries) => Ok(entries),
            Inline::Value(Node { value: Value::Dict(dict), .. }) => Ok(dict.into()),
            Inline::Value(Node { value, at }) => {
                let (expected, got) = ("a dict or a name".to_owned(), value.type_name().to_owned());
                Err(ConfigError::Type { at, expected, got })
            }
        }
    }
}

impl Entries {
    /// Reads what a recipe was written as: one dict, a Python literal. It may come out of a file of others, so nothing in
    /// it is replaced by environment variables or by what other files hold.
    ///
    /// ```
    /// use fallline_config::Entries;
    /// assert!(Entries::saved("dict(optimizer=dict(type='SGD', lr=0.1))").is_ok());
    /// let error = Entries::saved("dict(work_dir='{{$HOME:x}}')").unwrap_err();
    /// assert!(error.to_string().starts_with("line 1, column 16: `{{$HOME}}` in a saved configuration"));
    /// ```
    pub fn saved(text: &str) -> Result<Entries, ConfigError> {
        let file = Position::default();
        check_size(text.len(), &file)?;
        if let Some((before, name)) = template::first_variable(text) {
            let line = before.matches('\n').count() as u32 + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() as u32 + 1;
            return Err(ConfigError::Saved {
                at: Position { line, column, file: None },
                name: name.to_owned(),
            });
        }
        let Node { value, at } = expression(text, &file)?;
        match value {
            Value::Dict(dict) => Ok(dict.into()),
            other => {
                let (expected, got) = ("a dict".to_owned(), other.type_name().to_owned());
                Err(ConfigError::Type { at, expected, got })
            }
        }
    }
}

fn read(text: &str) -> Result<Inline, ConfigError> {
    let file = Position::default();
    check_size(text.len(), &file)?;
    let text = &template::environment(text);
    let body = text.trim();
    if let Some(node) = bare_name(text, body) {
        return Ok(Inline::Value(node));
    }
    if body.is_empty() {
        let (expected, got) = ("a name or a configuration".to_owned(), "nothing".to_owned());
        return Err(ConfigError::Syntax { at: Position { line: 1, column: 1, file: None }, expected, got });
    }
    let mut error = match expression(text, &file) {
        Ok(node) => return Ok(Inline::Value(node)),
        // No other notation has more room.
        Err(error @ (ConfigError::TooDeep { .. } | ConfigError::TooLarge { .. })) => return Err(error),
        Err(error) => error,
    };
    if body.starts_with(['{', '[']) {
        match formats::json(text, &file) {
            Ok(node) => return Ok(Inline::Value(node)),
            Err(e) => error = further(error, e),
        }
        // `[optimizer]` and lines below it are TOML.
        if !(body.starts_with('[') && body.contains('\n')) {
            return Err(error);
        }
    }
    let (assigns, maps) = (looks_like(body, '='), looks_like(body, ':'));
    let lines = body.contains('\n') || assigns;
    let mut module = None;
    if lines {
        match module_of(text) {
            Ok((entries, true)) => return Ok(Inline::Module(entries)),
            Ok((entries, false)) => module = Some(entries),
            Err(e) => error = further(error, e),
        }
    }
    if lines {
        match formats::toml(text, &file) {
            Ok(node) => return Ok(Inline::Value(node)),
            Err(e) if module.is_none() => error = further(error, e),
            Err(_) => {}
        }
    }
    if maps {
        match formats::yaml(text, &file) {
            Ok(node) if node.value.as_dict().is_some() => return Ok(Inline::Value(node)),
            Err(e) if module.is_none() => error = further(error, e),
            _ => {}
        }
    }
    // Python of which only some is understood, if it is nothing else.
    module.filter(|entries| entries.keys().next().is_some()).map(Inline::Module).ok_or(error)
}

/// Returns the error of the notation that the text followed longest: most likely the one that was meant.
fn further(a: ConfigError, b: ConfigError) -> ConfigError {
    let place = |error: &ConfigError| error.at().map(|at| (at.line, at.column));
    if place(&b) > place(&a) { b } else { a }
}

/// Reads `AdamW`, `torch.optim.AdamW`, `mmdet::AdamW`: a dict with that type.
fn bare_name(text: &str, body: &str) -> Option<Node> {
    let word = |part: &str| {
        part.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    if matches!(body, "None" | "True" | "False")
        || !body.split("::").flat_map(|part| part.split('.')).all(word)
    {
        return None;
    }
    let before = &text[..text.len() - text.trim_start().len()];
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let at = Position { file: None, line: line as u32, column: column as u32 };
    let dict = Dict::from_iter([("type", Node::new(body, at.clone()))]);
    Some(Node::new(dict, at))
}

/// Reads a Python expression.
fn expression(text: &str, file: &Position) -> Result<Node, ConfigError> {
    let expr = statement::expression(text, file)?;
    let mut heap = Heap::default();
    let base = heap.new_map(Map::default());
    let item = Interpreter::new(&mut heap, file, base, &[]).item(&expr);
    heap.check(file).map_err(|fault| ConfigError::clone(&fault))?;
    heap.export(&item)
}

/// Reads a Python literal, or a word without quotes as a string. Positions are as if the text were the file `name`.
pub(super) fn literal(text: &str, name: &str) -> Result<Node, ConfigError> {
    let file = Position { file: Some(name.into()), line: 0, column: 0 };
    check_size(text.len(), &file)?;
    let body = text.trim();
    let column = text.chars().take_while(|c| c.is_whitespace()).count() as u32 + 1;
    let at = Position { file: Some(name.into()), line: 1, column };
    if body.is_empty() {
        return Err(ConfigError::Syntax { at, expected: "a value".into(), got: "nothing".into() });
    }
    match bare_name(text, body) {
        Some(_) => Ok(Node::new(body, at)),
        None => expression(text, &file),
    }
}

/// Reads a Python module, and returns whether all of it was understood.
fn module_of(text: &str) -> Result<(Entries, bool), ConfigError> {
    let mut loader = Loader::default();
    let loaded = loader.module(text, &Position::default(), Path::new(""))?;
    let complete = loaded.complete && loaded.missing.is_empty();
    Ok((Entries::new(loader.heap, loaded, Position::default()), complete))
}

/// Returns whether a line begins with a key and then the sign between it and its value.
fn looks_like(body: &str, sign: char) -> bool {
    body.lines().any(|line| {
        let key = line.trim_start().trim_start_matches(|c: char| c.is_alphanumeric() || "_-.\"'".contains(c));
        let rest = key.trim_start().strip_prefix(sign);
        key.len() < line.trim_start().len() && rest.is_some_and(|rest| !rest.starts_with(sign))
    })
}
