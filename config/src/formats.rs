//! The file formats JSON, TOML and YAML.

use std::borrow::Cow;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use toml::de::{DeInteger, DeValue};

use super::cursor::{Cursor, Span};
use super::error::ConfigError;
use super::limits::MAX_DEPTH;
use super::places::Places;
use super::value::{Dict, Node, Position, Value};
use super::yaml_places::located;

/// The most values a YAML text may come to: its aliases repeat what they name.
const YAML_BUDGET: usize = 1 << 20;
/// The most opening brackets in one.
const YAML_BRACKETS: usize = 10_000;

fn invalid(
    file_format: &'static str,
    file: &Position,
    line: usize,
    column: usize,
    problem: &str,
) -> ConfigError {
    // Both parsers write the place at the end; it is at the front already.
    let problem = problem.split(" at line ").next().unwrap_or_default().replace('\n', " ");
    let at = Position { line: line as u32, column: column.max(line.min(1)) as u32, ..file.clone() };
    ConfigError::FileFormat { at, file_format, problem }
}

/// Refuses a text in which there is nothing but white space and comments of YAML.
fn refuse_empty(file_format: &'static str, text: &str, file: &Position) -> Result<(), ConfigError> {
    let blank = |line: &str| line.trim().is_empty() || file_format == "YAML" && line.trim().starts_with('#');
    match text.lines().all(blank) {
        true => Err(invalid(file_format, file, 1, 1, "the file is empty")),
        false => Ok(()),
    }
}

/// Reads JSON, with the position of every value.
pub(super) fn json(text: &str, file: &Position) -> Result<Node, ConfigError> {
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

/// Reads TOML, with the position of every value.
pub(super) fn toml(text: &str, file: &Position) -> Result<Node, ConfigError> {
    let places = Places::new(text, file);
    let table = toml::de::DeTable::parse(text).map_err(|e| {
        let at = places.at(e.span().map_or(0, |span| span.start));
        invalid("TOML", file, at.line as usize, at.column as usize, e.message())
    })?;
    let span = table.span();
    toml_value(&DeValue::Table(table.into_inner()), places.at(span.start), &places)
}

fn toml_value(value: &DeValue<'_>, at: Position, places: &Places<'_>) -> Result<Node, ConfigError> {
    let value = match value {
        DeValue::String(v) => Value::Str(v.clone().into_owned()),
        DeValue::Integer(v) => match integer(v) {
            Some(v) => Value::Int(v),
            None => {
                return Err(ConfigError::Arithmetic { at, problem: format!("{v} does not fit in 64 bits") });
            }
        },
        DeValue::Float(v) => match v.as_str().parse() {
            Ok(v) => Value::Float(v),
            Err(_) => return Err(invalid("TOML", &at, at.line as usize, at.column as usize, "not a number")),
        },
        DeValue::Boolean(v) => Value::Bool(*v),
        DeValue::Datetime(_) => {
            return Err(ConfigError::Type {
                at,
                expected: "a value".to_owned(),
                got: "a date or time".to_owned(),
            });
        }
        DeValue::Array(items) => {
            let node = |item: &toml::Spanned<DeValue<'_>>| {
                toml_value(item.get_ref(), places.at(item.span().start), places)
            };
            Value::List(items.iter().map(node).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => {
            let mut dict = Dict::new();
            for (key, item) in table {
                let node = toml_value(item.get_ref(), places.at(item.span().start), places)?;
                dict.insert_at(key.get_ref().as_ref(), places.at(key.span().start), node);
            }
            Value::Dict(dict)
        }
    };
    Ok(Node { value, at })
}

fn integer(value: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(value.as_str(), value.radix()).ok()
}

/// Reads YAML 1.2, with the positions of its keys where they can be found in it.
pub(super) fn yaml(text: &str, file: &Position) -> Result<Node, ConfigError> {
    refuse_empty("YAML", text, file)?;
    check_brackets(text, file)?;
    let mut left = YAML_BUDGET;
    let read = Yaml { file, left: &mut left, depth: 0 };
    let node = read.deserialize(serde_norway::Deserializer::from_str(text)).map_err(|e| {
        let (line, column) = e.location().map_or((0, 0), |at| (at.line(), at.column()));
        invalid("YAML", file, line, column, &e.to_string())
    })?;
    Ok(located(node, text, file))
}

/// Checks the depth of brackets. The scanner's time grows with its square, and the parser checks the depth only
/// after it. Brackets in strings count here as well: that errs for no text that anybody writes.
fn check_brackets(text: &str, file: &Position) -> Result<(), ConfigError> {
    let (mut depth, mut count) = (0usize, 0);
    for (i, c) in text.char_indices() {
        match c {
            '[' | '{' => (depth, count) = (depth + 1, count + 1),
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth > MAX_DEPTH {
            return Err(ConfigError::TooDeep { at: Places::new(text, file).at(i), limit: MAX_DEPTH });
        }
        if count > YAML_BRACKETS {
            return Err(ConfigError::TooLarge {
                at: file.clone(),
                limit: format!("{YAML_BRACKETS} brackets in YAML"),
            });
        }
    }
    Ok(())
}

struct Yaml<'a, 'b> {
    file: &'a Position,
    left: &'b mut usize,
    depth: usize,
}

impl Yaml<'_, '_> {
    fn node<E>(&self, value: impl Into<Value>) -> Result<Node, E> {
        Ok(Node::new(value, self.file.clone()))
    }

    fn inner(&mut self) -> Yaml<'_, '_> {
        Yaml { file: self.file, left: self.left, depth: self.depth + 1 }
    }
}

impl<'de> DeserializeSeed<'de> for Yaml<'_, '_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        let left = self.left.checked_sub(1);
        *self.left = left.ok_or_else(|| D::Error::custom(format!("more than {YAML_BUDGET} values")))?;
        if self.depth > MAX_DEPTH {
            return Err(D::Error::custom(format!("nested deeper than {MAX_DEPTH} levels")));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Yaml<'_, '_> {
    type Value = Node;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        self.node(Value::None)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Node, E> {
        self.node(v)
    }

    fn visit_i64<E>(self, v: i64) -> Result<Node, E> {
        self.node(v)
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Node, E> {
        self.node(i64::try_from(v).map_err(|_| E::custom(format!("{v} does not fit in 64 bits")))?)
    }

    fn visit_f64<E>(self, v: f64) -> Result<Node, E> {
        self.node(v)
    }

    fn visit_str<E>(self, v: &str) -> Result<Node, E> {
        self.node(v)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = items.next_element_seed(self.inner())? {
            list.push(node);
        }
        self.node(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut pairs: A) -> Result<Node, A::Error> {
        let mut dict = Dict::new();
        let mut merged = Vec::new();
        while let Some(key) = pairs.next_key_seed(self.inner())? {
            // `0: cat` has a number as key, `on: 1` in YAML 1.1 a bool: they are keys by what they are written as.
            let key = match key.value {
                Value::Str(key) => key,
                other => other.to_string(),
            };
            let node = pairs.next_value_seed(self.inner())?;
            match (key.as_str(), node.value) {
                ("<<", Value::Dict(other)) => merged.push(other),
                ("<<", Value::List(list)) => {
                    merged.extend(list.into_iter().filter_map(|node| match node.value {
                        Value::Dict(other) => Some(other),
                        _ => None,
                    }))
                }
                (_, value) => {
                    if dict.insert(key.as_str(), Node { value, at: node.at }).is_some() {
                        return Err(A::Error::custom(format!("the key `{key}` is there twice")));
                    }
                }
            }
        }
        // `<<`: keys that are not there in the mapping itself, from the first that has them.
        for (key, node) in merged.into_iter().flatten() {
            if !dict.contains_key(&key) {
                dict.insert(key, node);
            }
        }
        self.node(Value::Dict(dict))
    }

    fn visit_enum<A: EnumAccess<'de>>(mut self, tagged: A) -> Result<Node, A::Error> {
        let (tag, content) = tagged.variant_seed(self.inner())?;
        let tag = tag.value.as_str().map_or(Cow::Borrowed("?"), |tag| Cow::Owned(tag.to_owned()));
        // As PyYAML writes a tuple.
        if tag.ends_with("python/tuple") {
            return content.newtype_variant_seed(self.inner());
        }
        Err(A::Error::custom(format!("the tag `!{tag}` is not understood")))
    }
}
