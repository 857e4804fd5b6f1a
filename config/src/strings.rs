//! Python string literals.

use super::cursor::{Cursor, Span, Tok};
use super::error::ConfigError;

/// Returns whether a word before a quote belongs to the string.
pub(super) fn is_prefix(word: &str) -> bool {
    matches!(
        word.to_ascii_lowercase().as_str(),
        "r" | "u" | "b" | "f" | "t" | "rb" | "br" | "rf" | "fr" | "rt" | "tr"
    )
}

/// Reads a string whose prefix has been taken. One that is skipped (an f-string, bytes) is read to its end all the
/// same.
pub(super) fn string(cursor: &mut Cursor<'_>, prefix: &str, at: Span) -> Result<Tok, ConfigError> {
    let prefix = prefix.to_ascii_lowercase();
    let raw = prefix.contains('r');
    let mut opaque = match prefix.trim_matches('r') {
        "f" => Some("an f-string"),
        "t" => Some("a t-string"),
        "b" => Some("a bytes literal"),
        _ => None,
    };
    let quote = if cursor.rest.starts_with('\'') { '\'' } else { '"' };
    let triple = cursor.rest.chars().take(3).filter(|c| *c == quote).count() == 3;
    let close = quote.to_string().repeat(if triple { 3 } else { 1 });
    cursor.skip(close.len());

    let mut text = String::new();
    let begin = cursor.rest;
    loop {
        if cursor.rest.starts_with(&close) {
            let template = begin[..begin.len() - cursor.rest.len()].contains("{{");
            cursor.skip(close.len());
            return Ok(opaque.map_or(Tok::Str { text, template }, Tok::Opaque));
        }
        let here = cursor.at;
        match cursor.bump() {
            Some('\\') if raw || opaque.is_some() => {
                text.push('\\');
                text.extend(cursor.bump());
            }
            Some('\\') => match escape(cursor, here)? {
                Escape::Text(c) => text.extend(c),
                Escape::Kept => text.push('\\'),
                Escape::Named => opaque = Some("a `\\N{…}` escape"),
            },
            Some('\n') if !triple => break,
            Some(c) => text.push(c),
            None => break,
        }
    }
    Err(ConfigError::Unclosed { at: cursor.position(at), what: format!("the string `{close}`") })
}

enum Escape {
    /// What it means; nothing for a line end.
    Text(Option<char>),
    /// Not an escape: Python keeps the backslash.
    Kept,
    /// A character by its Unicode name, of which there is no table here.
    Named,
}

/// Returns what follows a backslash.
fn escape(cursor: &mut Cursor<'_>, at: Span) -> Result<Escape, ConfigError> {
    let Some(c) = cursor.peek() else { return Ok(Escape::Kept) };
    let plain = match c {
        '\n' | '\r' => None,
        '\\' | '\'' | '"' => Some(c),
        'a' => Some('\x07'),
        'b' => Some('\x08'),
        'f' => Some('\x0c'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'v' => Some('\x0b'),
        'N' => return Ok(Escape::Named),
        '0'..='7' => return octal(cursor, at),
        'x' => return hexadecimal(cursor, at, 2),
        'u' => return hexadecimal(cursor, at, 4),
        'U' => return hexadecimal(cursor, at, 8),
        _ => return Ok(Escape::Kept),
    };
    cursor.bump();
    Ok(Escape::Text(plain))
}

fn octal(cursor: &mut Cursor<'_>, at: Span) -> Result<Escape, ConfigError> {
    let digits: String = cursor.rest.chars().take(3).take_while(|c| c.is_digit(8)).collect();
    code(cursor, at, &digits, 8)
}

fn hexadecimal(cursor: &mut Cursor<'_>, at: Span, length: usize) -> Result<Escape, ConfigError> {
    let letter = cursor.bump().unwrap_or_default();
    let digits: String = cursor.rest.chars().take(length).take_while(char::is_ascii_hexdigit).collect();
    if digits.len() < length {
        return Err(ConfigError::Syntax {
            at: cursor.position(at),
            expected: format!("{length} hexadecimal digits after `\\{letter}`"),
            got: digits.len().to_string(),
        });
    }
    code(cursor, at, &digits, 16)
}

fn code(cursor: &mut Cursor<'_>, at: Span, digits: &str, radix: u32) -> Result<Escape, ConfigError> {
    cursor.skip(digits.len());
    match u32::from_str_radix(digits, radix).ok().and_then(char::from_u32) {
        Some(c) => Ok(Escape::Text(Some(c))),
        None => Err(ConfigError::Syntax {
            at: cursor.position(at),
            expected: "the code of a character".to_owned(),
            got: digits.to_owned(),
        }),
    }
}
