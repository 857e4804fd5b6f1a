//! TOML.

use super::invalid;
use crate::error::ConfigError;
use crate::places::Places;
use crate::value::{Dict, Node, Position, Value};
use toml::de::{DeInteger, DeValue};

/// Reads TOML, with the position of every value.
pub(crate) fn toml(text: &str, file: &Position) -> Result<Node, ConfigError> {
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
