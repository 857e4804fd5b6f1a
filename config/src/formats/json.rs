//! JSON.

use super::{invalid, refuse_empty};
use crate::cursor::{Cursor, Span};
use crate::error::ConfigError;
use crate::limits::MAX_DEPTH;
use crate::value::{Dict, Node, Position, Value};

/// Reads JSON, with the position of every value.
pub(crate) fn json(text: &str, file: &Position) -> Result<Node, ConfigError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    refuse_empty("JSON", text, file)?;
    // One parser says whether it is JSON, and bounds its depth; the other one then only looks for the
    // beginnings of values.
    serde_json::from_str::<serde::de::IgnoredAny>(text)
        .map_err(|e| invalid("JSON", file, e.line(), e.column(), &e.to_string()))?;
    Json { cursor: Cursor { rest: text, at: Span { line: 1, column: 1 }, file }, depth: 0 }.value()
}

struct Json<'a> {
    cursor: Cursor<'a>,
    depth: usize,
}

impl Json<'_> {
    fn value(&mut self) -> Result<Node, ConfigError> {
        let first = self.next();
        let at = self.cursor.position(self.cursor.at);
        if self.depth > MAX_DEPTH {
            return Err(ConfigError::TooDeep { at, limit: MAX_DEPTH });
        }
        self.depth += 1;
        let value = match first {
            Some('{') => self.object()?,
            Some('[') => {
                let mut list = Vec::new();
                self.cursor.bump();
                while self.next() != Some(']') && self.cursor.peek().is_some() {
                    list.push(self.value()?);
                    self.comma();
                }
                self.cursor.bump();
                Value::List(list)
            }
            Some('"') => Value::Str(self.string()?),
            _ => self.scalar(&at)?,
        };
        self.depth -= 1;
        Ok(Node { value, at })
    }

    fn object(&mut self) -> Result<Value, ConfigError> {
        let mut dict = Dict::new();
        self.cursor.bump();
        while self.next() == Some('"') {
            let at = self.cursor.position(self.cursor.at);
            let key = self.string()?;
            if let Some(first) = dict.key_at(&key).cloned() {
                return Err(ConfigError::DuplicateKey { at, key, first, bases: false });
            }
            self.next();
            self.cursor.bump();
            let node = self.value()?;
            dict.insert_at(key, at, node);
            self.comma();
        }
        self.cursor.bump();
        Ok(Value::Dict(dict))
    }

    fn string(&mut self) -> Result<String, ConfigError> {
        let (begin, at) = (self.cursor.rest, self.cursor.at);
        self.cursor.bump();
        while let Some(c) = self.cursor.bump() {
            match c {
                '\\' => self.cursor.skip(1),
                '"' => break,
                _ => {}
            }
        }
        let text = &begin[..begin.len() - self.cursor.rest.len()];
        let at = |e: serde_json::Error| {
            invalid("JSON", self.cursor.file, at.line as usize, at.column as usize, &e.to_string())
        };
        serde_json::from_str(text).map_err(at)
    }

    fn scalar(&mut self, at: &Position) -> Result<Value, ConfigError> {
        let text = self.cursor.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
        let large =
            || ConfigError::Arithmetic { at: at.clone(), problem: format!("{text} does not fit in 64 bits") };
        Ok(match text {
            "null" => Value::None,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            number if number.contains(['.', 'e', 'E']) => Value::Float(number.parse().map_err(|_| large())?),
            number => Value::Int(number.parse().map_err(|_| large())?),
        })
    }

    fn comma(&mut self) {
        if self.next() == Some(',') {
            self.cursor.bump();
        }
    }

    /// Returns the next character that is no white space, which is not taken.
    fn next(&mut self) -> Option<char> {
        while self.cursor.peek().is_some_and(char::is_whitespace) {
            self.cursor.bump();
        }
        self.cursor.peek()
    }
}
