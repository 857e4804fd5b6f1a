//! PTX as text: comments taken out, cut into statements, labels and blocks.

use super::PtxError;

/// A piece of a PTX file, with the line on which it starts.
#[derive(Debug, PartialEq)]
pub struct Piece {
    pub line: usize,
    pub kind: Kind,
}

#[derive(Debug, PartialEq)]
pub enum Kind {
    /// `{`, and the header in front of it: `.visible .entry …`, or nothing.
    Open(String),
    /// `}`
    Close,
    /// What is before a `;`, or a directive that ends with its line; white space made single.
    Statement(String),
    /// `name:`
    Label(String),
}

/// Comments become white space, so that lines keep their numbers.
fn without_comments(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('/') {
        out.push_str(&rest[..at]);
        let tail = &rest[at..];
        let (skipped, after) = if tail.starts_with("//") {
            tail.split_at(tail.find('\n').unwrap_or(tail.len()))
        } else if tail.starts_with("/*") {
            tail.split_at(tail.find("*/").map_or(tail.len(), |end| end + 2))
        } else {
            out.push('/');
            rest = &tail[1..];
            continue;
        };
        out.push(' ');
        out.extend(skipped.chars().filter(|c| *c == '\n'));
        rest = after;
    }
    out.push_str(rest);
    out
}

fn tidy(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "_$%".contains(c))
}

/// Returns the directives that end with their line instead of a semicolon.
fn ends_with_line(text: &str) -> bool {
    // The space keeps `.loc` apart from `.local`.
    [".version ", ".target ", ".address_size ", ".file ", ".loc "].iter().any(|d| text.starts_with(d))
}

/// Cuts `source` into pieces.
pub fn pieces(source: &str) -> Result<Vec<Piece>, PtxError> {
    let source = without_comments(source.trim_end_matches('\0'));
    let mut out = vec![];
    let (mut text, mut start, mut line, mut depth) = (String::new(), 1, 1, 0usize);
    let mut chars = source.chars().peekable();
    while let Some(c) = chars.next() {
        if text.trim().is_empty() {
            start = line;
        }
        let kind = match c {
            '\n' => {
                line += 1;
                if ends_with_line(text.trim()) { Some(Kind::Statement(tidy(&text))) } else { None }
            }
            ';' if depth == 0 => Some(Kind::Statement(tidy(&text))),
            '{' if depth == 0
                && (text.trim().is_empty() || text.contains(".entry") || text.contains(".func")) =>
            {
                Some(Kind::Open(tidy(&text)))
            }
            '{' => {
                depth += 1;
                None
            }
            '}' if depth > 0 => {
                depth -= 1;
                None
            }
            '}' if text.trim().is_empty() => Some(Kind::Close),
            '}' => return Err(PtxError::new(start, tidy(&text), "a `;` is missing before `}`")),
            ':' if is_name(text.trim()) && chars.peek() != Some(&':') => Some(Kind::Label(tidy(&text))),
            _ => None,
        };
        match kind {
            Some(Kind::Statement(s)) if s.is_empty() => text.clear(),
            Some(kind) => {
                out.push(Piece { line: start, kind });
                text.clear();
            }
            None => text.push(c),
        }
    }
    if !text.trim().is_empty() {
        return Err(PtxError::new(start, tidy(&text), "the file ends inside a statement"));
    }
    Ok(out)
}

/// Splits at the commas that are not inside brackets or braces.
pub fn operands(text: &str) -> Vec<&str> {
    let (mut out, mut depth, mut from) = (vec![], 0i32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '[' | '{' | '(' => depth += 1,
            ']' | '}' | ')' => depth -= 1,
            ',' if depth == 0 => {
                out.push(text[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    if !text[from..].trim().is_empty() {
        out.push(text[from..].trim());
    }
    out
}

/// Reads an integer literal: decimal, `0x`, `0b` or octal, with an optional sign and `U`.
pub fn integer(text: &str) -> Option<u64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |d| (true, d));
    let digits = digits.strip_suffix('U').unwrap_or(digits);
    let value = if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        u64::from_str_radix(hex, 16)
    } else if let Some(binary) = digits.strip_prefix("0b") {
        u64::from_str_radix(binary, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(&digits[1..], 8)
    } else if digits.starts_with(|c: char| c.is_ascii_digit()) {
        digits.parse()
    } else {
        return None;
    }
    .ok()?;
    Some(if negative { value.wrapping_neg() } else { value })
}

/// A floating literal as the bits of `f32` (`0f`), of `f64` (`0d`), or a decimal number.
pub enum Float {
    Single(u32),
    Double(u64),
    Decimal(f64),
}

/// Reads a floating literal.
pub fn float(text: &str) -> Option<Float> {
    let hex = |digits: &str, n| (digits.len() == n).then(|| u64::from_str_radix(digits, 16).ok()).flatten();
    if let Some(digits) = text.strip_prefix("0f").or(text.strip_prefix("0F")) {
        return hex(digits, 8).map(|bits| Float::Single(bits as u32));
    }
    if let Some(digits) = text.strip_prefix("0d").or(text.strip_prefix("0D")) {
        return hex(digits, 16).map(Float::Double);
    }
    let number = text.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit());
    (number && text.contains('.')).then(|| text.parse().ok()).flatten().map(Float::Decimal)
}
