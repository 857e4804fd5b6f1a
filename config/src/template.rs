//! MMEngine's templates: `{{_base_.x}}`, `{{fileBasename}}` and its like, `{{$VARIABLE:default}}`.
//!
//! MMEngine rewrites the source text before it is parsed. So does this reader for environment variables. The other
//! templates are found in the parsed text, so that every position stays that of the file.

use std::borrow::Cow;

use super::error::ConfigError;
use super::value::Position;

/// Replaces `{{` and `}}` in the text of file formats that would stumble over braces. A character for private use: no
/// configuration has it, every notation allows it.
const MARK: char = '\u{e000}';

/// Reads `{{_base_.a.b}}` at the beginning of a text: the keys, and its length in characters (and bytes
/// of what is not a key).
pub(super) fn base_reference(text: &str) -> Option<(Vec<String>, usize)> {
    let (inner, length) = braces(text)?;
    let path = base_path(inner.trim())?;
    Some((path, text[..length].chars().count()))
}

/// Returns what `{{` … `}}` at the beginning of a text hold, and their length in bytes.
fn braces(text: &str) -> Option<(&str, usize)> {
    let rest = text.strip_prefix("{{")?;
    let end = rest.find(['{', '}', '\n']).filter(|end| rest[*end..].starts_with("}}"))?;
    Some((&rest[..end], end + 4))
}

fn base_path(inner: &str) -> Option<Vec<String>> {
    let keys: Vec<String> = inner.strip_prefix("_base_.")?.split('.').map(str::to_owned).collect();
    let word = |key: &String| !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_');
    keys.iter().all(word).then_some(keys)
}

/// What a string with templates comes to.
#[derive(Debug, PartialEq)]
pub(super) enum Filled {
    /// Text.
    Text(String),
    /// The value of the base under these keys.
    Base(Vec<String>),
}

/// Fills the templates of a string in `file`. Braces with anything else in them are plain text.
pub(super) fn fill(text: &str, at: &Position) -> Result<Filled, ConfigError> {
    if let Some((inner, length)) = braces(text).or_else(|| marked(text))
        && length == text.len()
        && let Some(path) = base_path(inner.trim())
    {
        return Ok(Filled::Base(path));
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(['{', MARK]) {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let found = braces(rest).or_else(|| marked(rest));
        match found.map(|(inner, length)| (part(inner.trim(), at), length)) {
            Some((Some(value), length)) => {
                out.push_str(&value?);
                rest = &rest[length..];
            }
            _ => {
                let first = rest.chars().next().map_or(0, char::len_utf8);
                out.push_str(&rest[..first]);
                rest = &rest[first..];
            }
        }
    }
    out.push_str(rest);
    Ok(Filled::Text(out))
}

/// Returns the value of a template inside a longer string; none if it is no template.
fn part(inner: &str, at: &Position) -> Option<Result<String, ConfigError>> {
    let not_understood = |what: String| Some(Err(ConfigError::NotUnderstood { at: at.clone(), what }));
    if let Some(name) = inner.trim_start_matches(['\'', '"']).strip_prefix('$') {
        // The value would be there by now if it had one.
        let name = name.split(':').next().unwrap_or_default().to_owned();
        return Some(Err(ConfigError::Environment { at: at.clone(), name }));
    }
    if base_path(inner).is_some() {
        return not_understood(format!("`{{{{{inner}}}}}` inside a longer string"));
    }
    if !matches!(inner, "fileDirname" | "fileBasename" | "fileBasenameNoExtension" | "fileExtname") {
        return None;
    }
    let Some(file) = &at.file else {
        return not_understood(format!("`{{{{{inner}}}}}` in text without a file"));
    };
    let path = std::path::absolute(file.as_ref()).unwrap_or_else(|_| file.as_ref().into());
    let value = match inner {
        "fileDirname" => path.parent().map(|p| p.as_os_str()),
        "fileBasename" => path.file_name(),
        "fileBasenameNoExtension" => path.file_stem(),
        _ => path.extension(),
    };
    let value = value.map(|v| v.to_string_lossy().replace('\\', "/")).unwrap_or_default();
    Some(Ok(if inner == "fileExtname" && !value.is_empty() { format!(".{value}") } else { value }))
}

fn marked(text: &str) -> Option<(&str, usize)> {
    let rest = text.strip_prefix(MARK)?;
    let end = rest.find(MARK)?;
    Some((&rest[..end], end + 2 * MARK.len_utf8()))
}

/// Writes templates in JSON, TOML and YAML so that they parse as (parts of) strings of the same number of
/// characters. `{{_base_.x}}` may come without quotes, and gets them.
pub(super) fn mask(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let (before, found) = rest.split_at(start);
        out.push_str(before);
        let Some((inner, length)) = braces(found).filter(|(inner, _)| is_file_template(inner)) else {
            out.push('{');
            rest = &found[1..];
            continue;
        };
        let quote = before.chars().next_back().filter(|c| matches!(c, '"' | '\''));
        let bare = base_path(inner.trim()).is_some() && quote.is_none_or(|q| !found[length..].starts_with(q));
        let (open, close) = if bare { ('"', '"') } else { (' ', ' ') };
        // Outside in a string, the blank is inside the marks: nothing is added to the text around it.
        if bare {
            out.extend([open, MARK])
        } else {
            out.extend([MARK, open])
        }
        out.push_str(inner);
        if bare {
            out.extend([MARK, close])
        } else {
            out.extend([close, MARK])
        }
        rest = &found[length..];
    }
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn is_file_template(inner: &str) -> bool {
    base_path(inner.trim()).is_some() || inner.trim().starts_with("file")
}

/// Puts the values of environment variables, or the defaults, where `{{$NAME:default}}` is, quotes inside the braces
/// included. One that has neither stays, for the string that it is in to refuse.
pub(super) fn environment(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let (before, found) = rest.split_at(start);
        out.push_str(before);
        match braces(found).and_then(|(inner, length)| Some((variable(inner)?, length))) {
            Some((value, length)) => {
                out.push_str(&value);
                rest = &found[length..];
            }
            None => {
                out.push('{');
                rest = &found[1..];
            }
        }
    }
    if out.is_empty() {
        return Cow::Borrowed(text);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Returns the name in the first template of an environment variable, with the text before it.
pub(super) fn first_variable(text: &str) -> Option<(&str, &str)> {
    text.match_indices('{').find_map(|(start, _)| {
        let (inner, _) = braces(&text[start..])?;
        let name = inner.trim().trim_start_matches(['\'', '"']).strip_prefix('$')?;
        Some((&text[..start], name.split(':').next().unwrap_or_default().trim()))
    })
}

fn variable(inner: &str) -> Option<String> {
    let quote = |c: char| matches!(c, '"' | '\'');
    let inner = inner.strip_prefix(quote).unwrap_or(inner).trim();
    let inner = inner.strip_suffix(quote).unwrap_or(inner).trim_end();
    let (name, default) = inner.strip_prefix('$')?.split_once(':')?;
    let (name, default) = (name.trim_end(), default.trim());
    if name.is_empty()
        || !name.chars().all(|c| c.is_alphanumeric() || c == '_')
        || default.contains(char::is_whitespace)
    {
        return None;
    }
    let value = std::env::var(name).ok().filter(|v| !v.is_empty());
    value.or_else(|| (!default.is_empty()).then(|| default.to_owned()))
}
