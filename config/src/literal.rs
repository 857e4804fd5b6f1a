//! Values written as Python literals, which read back to equal values.

use std::fmt::{self, Display, Write};

use super::value::{Dict, Value};

/// Python's keywords: none can be the name in `dict(name=…)`.
const KEYWORDS: [&str; 35] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def",
    "del", "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is",
    "lambda", "nonlocal", "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
];

pub(super) fn is_keyword(word: &str) -> bool {
    KEYWORDS.binary_search(&word).is_ok()
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("None"),
            Value::Bool(v) => f.write_str(if *v { "True" } else { "False" }),
            Value::Int(v) => write!(f, "{v}"),
            Value::Float(v) if v.is_nan() => f.write_str("float(\"nan\")"),
            Value::Float(v) if v.is_infinite() => {
                write!(f, "float(\"{}inf\")", if *v < 0.0 { "-" } else { "" })
            }
            // Debug, not Display: the shortest digits that read back, with an exponent where it is shorter.
            Value::Float(v) => write!(f, "{v:?}"),
            Value::Str(v) => quote(v, f),
            Value::List(v) => separated(f, "[", v, "]"),
            Value::Dict(v) => v.fmt(f),
        }
    }
}

impl Display for Dict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.keys().all(is_identifier) {
            return separated(f, "dict(", self.iter().map(|(key, node)| format!("{key}={node}")), ")");
        }
        let quoted = |key: &str| Value::from(key).to_string();
        separated(f, "{", self.iter().map(|(key, node)| format!("{}: {node}", quoted(key))), "}")
    }
}

fn separated<T: Display>(
    f: &mut fmt::Formatter<'_>,
    open: &str,
    items: impl IntoIterator<Item = T>,
    close: &str,
) -> fmt::Result {
    f.write_str(open)?;
    for (i, item) in items.into_iter().enumerate() {
        write!(f, "{}{item}", if i > 0 { ", " } else { "" })?;
    }
    f.write_str(close)
}

/// Returns whether a key can be written before `=` in `dict(...)`. ASCII only, so that nothing depends on how Python
/// normalises letters.
fn is_identifier(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !is_keyword(key)
}

fn quote(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_char('"')?;
    let mut before = ' ';
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            // `{{` in a string's source is where MMEngine puts a template's value in.
            '{' if before == '{' => f.write_str("\\x7b")?,
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                write!(f, "\\u{:04x}", u32::from(c))?;
            }
            c => f.write_char(c)?,
        }
        before = c;
    }
    f.write_char('"')
}
