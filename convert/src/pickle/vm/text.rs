//! Values that protocol 0 writes as lines of text.

use super::Node;
use std::sync::Arc;

/// Reads `INT`: an integer, or a bool.
pub(super) fn int<'a>(line: &str) -> Option<Node<'a>> {
    match line {
        "00" => Some(Node::Bool(false)),
        "01" => Some(Node::Bool(true)),
        _ => long(line),
    }
}

/// Reads `LONG`: an integer, with an `L` after it.
pub(super) fn long<'a>(line: &str) -> Option<Node<'a>> {
    let line = line.strip_suffix('L').unwrap_or(line);
    let digits = line.strip_prefix(['-', '+']).unwrap_or(line);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(line.parse().map_or_else(|_| Node::opaque("a number of more than 64 bits"), Node::Int))
}

/// Reads `FLOAT`: a number as Python writes it.
pub(super) fn float<'a>(line: &str) -> Option<Node<'a>> {
    line.trim().parse().ok().map(Node::Float)
}

/// Reads `STRING`: text in quotes, as Python 2 writes it.
pub(super) fn quoted<'a>(line: &[u8]) -> Option<Node<'a>> {
    let (&quote, rest) = line.split_first().filter(|(quote, _)| matches!(**quote, b'\'' | b'"'))?;
    let inner = rest.strip_suffix(&[quote])?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.iter();
    while let Some(&byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next()? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'v' => 11,
            b'0' => 0,
            b'x' => {
                let digits = [*rest.next()?, *rest.next()?];
                u8::from_str_radix(core::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other @ (b'\\' | b'\'' | b'"') => *other,
            _ => return None,
        });
    }
    Some(text_or_bytes(bytes))
}

/// Reads Python 2's text, which may be bytes.
pub(super) fn text_or_bytes<'a>(bytes: Vec<u8>) -> Node<'a> {
    match String::from_utf8(bytes) {
        Ok(text) => Node::Str(text.into()),
        Err(error) => Node::Bytes(error.into_bytes().into()),
    }
}

/// Reads `UNICODE`: characters below 256 as bytes, others as `\u` and `\U`.
pub(super) fn unicode<'a>(line: &[u8]) -> Option<Node<'a>> {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = match (byte, after.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                text.push(char::from(byte));
                rest = after;
                continue;
            }
        };
        let code = core::str::from_utf8(after.get(1..=digits)?).ok()?;
        let code = u32::from_str_radix(code, 16).ok()?;
        let Some(char) = char::from_u32(code) else { return Some(Node::opaque("text that is not UTF-8")) };
        text.push(char);
        rest = &after[1 + digits..];
    }
    Some(Node::Str(text.into()))
}

/// Returns what protocol 0 makes of a storage's five or six parts: the class, the key, and how many elements.
pub(super) fn storage(line: &str) -> Option<(&str, Arc<str>, i64)> {
    let rest = line.strip_prefix("('storage', <class '")?.strip_suffix(')')?;
    let rest = rest.strip_suffix(", None").unwrap_or(rest);
    let (class, rest) = rest.split_once("'>, '")?;
    let (key, rest) = rest.split_once("', '")?;
    let (_, elements) = rest.split_once("', ")?;
    Some((class, key.into(), elements.parse().ok()?))
}
