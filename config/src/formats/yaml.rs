//! YAML.

use super::{invalid, refuse_empty};
use crate::error::ConfigError;
use crate::limits::MAX_DEPTH;
use crate::places::Places;
use crate::value::{Dict, Node, Position, Value};
use crate::yaml_places::located;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use std::borrow::Cow;

/// The most values a YAML text may come to: its aliases repeat what they name.
const YAML_BUDGET: usize = 1 << 20;
/// The most opening brackets in one.
const YAML_BRACKETS: usize = 10_000;

/// Reads YAML 1.2, with the positions of its keys where they can be found in it.
pub(crate) fn yaml(text: &str, file: &Position) -> Result<Node, ConfigError> {
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
